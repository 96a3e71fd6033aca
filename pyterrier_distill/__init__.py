"""Distil neural rankers in PyTerrier.

Any teacher re-ranks a result frame and leaves its labels in it; a Distiller turns labelled frames into a student; the
student is a transformer that ``pt.Experiment`` compares with everything else.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from ._version import __version__
from .frames import LABEL_COLUMNS, MissingLabelError
from .losses import *
from .losses import __all__ as _losses

if TYPE_CHECKING:
    from . import published
    from .backends.hf import HF
    from .backends.openai import OpenAI
    from .backends.vllm import VLLM
    from .corpora.first_stage import bm25
    from .distiller import Distiller
    from .engine.unpacking import unpack_gguf
    from .frames.document_text import JoinedText
    from .generation.examples import FewShot
    from .generation.filters import ConsistencyFilter, LanguageFilter, LengthFilter, TopQueries
    from .generation.keyphrases import KeyphraseQueries
    from .generation.perturbation import QueryPerturbation
    from .generation.queries import explode_queries, positives
    from .generation.spans import SpanQueries
    from .generation.store import QueryStore
    from .generation.synthetic import GenerationError, SyntheticQueryGen
    from .generation.titles import TitleQueries
    from .iteration.adaptation import adapt
    from .iteration.iterative import IterativeDistiller
    from .labels.store import LabelStore
    from .measures.answers import answer_qrels, has_answer
    from .measures.capped import CappedRecall
    from .measures.relaxed import RelaxedRecall
    from .mining.false_negatives import FalseNegativeFilter
    from .mining.negatives import NegativeMiner, mine_negatives
    from .mining.positives import AddPositives
    from .multi_vector.index import MultiVectorIndex
    from .prompts import Template
    from .sampling.disagreement import disagreement, pair_disagreement
    from .sampling.first_stage import first_stage_rank
    from .sampling.samplers import ListSampler, PairSampler
    from .students.bi_encoder import BiEncoder
    from .students.causal_reranker import CausalReranker
    from .students.cross_encoder import CrossEncoder
    from .students.late_interaction import LateInteraction
    from .students.mono_t5 import MonoT5
    from .students.ustad import USTAD
    from .teachers.base import LabellingError
    from .teachers.fusion import fuse_teachers
    from .teachers.listwise import ListwiseLLMTeacher
    from .teachers.orders import OrdersTeacher
    from .teachers.pair_training import PairTraining
    from .teachers.pairwise import PairwiseTeacher
    from .teachers.pointwise import PointwiseTeacher
    from .teachers.retriever import RetrieverTeacher
    from .teachers.run import RunTeacher
    from .teachers.setwise import SetwiseTeacher

#: The public names of modules that take seconds to import (torch, transformers): each is loaded when first used.
_LAZY = {
    ".backends.hf": ("HF",),
    ".backends.openai": ("OpenAI",),
    ".backends.vllm": ("VLLM",),
    ".corpora.first_stage": ("bm25",),
    ".distiller": ("Distiller",),
    ".engine.unpacking": ("unpack_gguf",),
    ".frames.document_text": ("JoinedText",),
    ".generation.examples": ("FewShot",),
    ".generation.filters": ("ConsistencyFilter", "LanguageFilter", "LengthFilter", "TopQueries"),
    ".generation.keyphrases": ("KeyphraseQueries",),
    ".generation.perturbation": ("QueryPerturbation",),
    ".generation.queries": ("explode_queries", "positives"),
    ".generation.spans": ("SpanQueries",),
    ".generation.store": ("QueryStore",),
    ".generation.synthetic": ("GenerationError", "SyntheticQueryGen"),
    ".generation.titles": ("TitleQueries",),
    ".iteration.adaptation": ("adapt",),
    ".iteration.iterative": ("IterativeDistiller",),
    ".labels.store": ("LabelStore",),
    ".measures.answers": ("answer_qrels", "has_answer"),
    ".measures.capped": ("CappedRecall",),
    ".measures.relaxed": ("RelaxedRecall",),
    ".mining.false_negatives": ("FalseNegativeFilter",),
    ".mining.negatives": ("NegativeMiner", "mine_negatives"),
    ".mining.positives": ("AddPositives",),
    ".multi_vector.index": ("MultiVectorIndex",),
    ".prompts": ("Template",),
    ".sampling.disagreement": ("disagreement", "pair_disagreement"),
    ".sampling.first_stage": ("first_stage_rank",),
    ".sampling.samplers": ("ListSampler", "PairSampler"),
    ".students.bi_encoder": ("BiEncoder",),
    ".students.causal_reranker": ("CausalReranker",),
    ".students.cross_encoder": ("CrossEncoder",),
    ".students.late_interaction": ("LateInteraction",),
    ".students.mono_t5": ("MonoT5",),
    ".students.ustad": ("USTAD",),
    ".teachers.base": ("LabellingError",),
    ".teachers.fusion": ("fuse_teachers",),
    ".teachers.listwise": ("ListwiseLLMTeacher",),
    ".teachers.orders": ("OrdersTeacher",),
    ".teachers.pair_training": ("PairTraining",),
    ".teachers.pairwise": ("PairwiseTeacher",),
    ".teachers.pointwise": ("PointwiseTeacher",),
    ".teachers.retriever": ("RetrieverTeacher",),
    ".teachers.run": ("RunTeacher",),
    ".teachers.setwise": ("SetwiseTeacher",),
}
_MODULE_OF = {name: module for module, names in _LAZY.items() for name in names}
#: Rooms that are public themselves, each with functions of its own.
_ROOMS = ("published", "suites")

__all__ = [
    "__version__", "LABEL_COLUMNS", "MissingLabelError", *(name for name in _losses if name != "Outputs"), *_MODULE_OF,
    *_ROOMS,
]  # fmt: skip


def __getattr__(name: str) -> object:
    if name in _ROOMS:
        return import_module(f".{name}", __name__)
    if name in _MODULE_OF:
        value = getattr(import_module(_MODULE_OF[name], __name__), name)
        globals()[name] = value
        return value
    from .frames.arguments import meant

    near = None if name.startswith("_") else meant(name, __all__)
    advice = f": did you mean {near}?" if near else ""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{advice}")


def __dir__() -> list[str]:
    return sorted(__all__)  # what Tab offers
