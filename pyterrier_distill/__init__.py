"""Distil neural rankers in PyTerrier.

Any teacher re-ranks a result frame and leaves its labels in it; a Distiller turns labelled frames into a student; the
student is a transformer that ``pt.Experiment`` compares with everything else.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from ._version import __version__
from .frames import LABEL_COLUMNS, MissingLabelError
from .losses import (
    ADRMSE,
    MSE,
    ApproxNDCG,
    BinaryCrossEntropy,
    EmbeddingMatch,
    HiddenStateMatch,
    InfoNCE,
    KLDivergence,
    LambdaLoss,
    ListMLE,
    ListNet,
    LocalizedContrastive,
    LogitMSE,
    Loss,
    MarginMSE,
    PairwiseKL,
    RankNet,
    ScoreMatch,
)

if TYPE_CHECKING:
    from .backends.hf import HF
    from .backends.openai import OpenAI
    from .backends.vllm import VLLM
    from .corpora.first_stage import bm25
    from .distiller import Distiller
    from .generation.examples import FewShot
    from .generation.filters import ConsistencyFilter, LanguageFilter, LengthFilter, TopQueries
    from .generation.keyphrases import KeyphraseQueries
    from .generation.perturbation import QueryPerturbation
    from .generation.queries import explode_queries, positives
    from .generation.spans import SpanQueries
    from .generation.store import QueryStore
    from .generation.synthetic import GenerationError, SyntheticQueryGen
    from .generation.titles import TitleQueries
    from .iteration.adapting import adapt
    from .iteration.iterative import IterativeDistiller
    from .labels.store import LabelStore
    from .mining.false_negatives import FalseNegativeFilter
    from .mining.negatives import NegativeMiner, mine_negatives
    from .multi_vector.index import MultiVectorIndex
    from .prompts import Template
    from .sampling.disagreement import disagreement, pair_disagreement
    from .sampling.samplers import ListSampler, PairSampler
    from .students.bi_encoder import BiEncoder
    from .students.cross_encoder import CrossEncoder
    from .students.late_interaction import LateInteraction
    from .students.mono_t5 import MonoT5
    from .students.ustad import USTAD
    from .teachers.base import LabellingError
    from .teachers.fusion import fuse_teachers
    from .teachers.listwise import ListwiseLLMTeacher
    from .teachers.pair_training import PairTraining
    from .teachers.pairwise import PairwiseTeacher
    from .teachers.pointwise import PointwiseTeacher
    from .teachers.run import RunTeacher
    from .teachers.setwise import SetwiseTeacher

#: Names whose modules take seconds to import (torch, transformers); loaded when first used.
_LAZY = {
    "BiEncoder": ".students.bi_encoder",
    "CrossEncoder": ".students.cross_encoder",
    "Distiller": ".distiller",
    "ListSampler": ".samplers",
    "FalseNegativeFilter": ".mining.false_negatives",
    "HF": ".backends.hf",
    "IterativeDistiller": ".iteration.iterative",
    "LabelStore": ".labels.store",
    "adapt": ".iteration.adapting",
    "LabellingError": ".teachers.base",
    "LateInteraction": ".students.late_interaction",
    "MonoT5": ".students.mono_t5",
    "MultiVectorIndex": ".students.multi_vector_index",
    "ListwiseLLMTeacher": ".teachers.listwise",
    "NegativeMiner": ".mining.negatives",
    "OpenAI": ".backends.openai",
    "PairSampler": ".samplers",
    "PairTraining": ".teachers.pair_training",
    "PairwiseTeacher": ".teachers.pairwise",
    "PointwiseTeacher": ".teachers.pointwise",
    "RunTeacher": ".teachers.run",
    "SetwiseTeacher": ".teachers.setwise",
    "ConsistencyFilter": ".generation.filters",
    "FewShot": ".generation.examples",
    "GenerationError": ".generation.synthetic",
    "KeyphraseQueries": ".generation.keyphrases",
    "LanguageFilter": ".generation.filters",
    "LengthFilter": ".generation.filters",
    "QueryPerturbation": ".generation.perturbation",
    "QueryStore": ".generation.store",
    "SpanQueries": ".generation.spans",
    "SyntheticQueryGen": ".generation.synthetic",
    "TitleQueries": ".generation.titles",
    "TopQueries": ".generation.filters",
    "positives": ".generation.queries",
    "Template": ".prompts",
    "USTAD": ".students.ustad",
    "VLLM": ".backends.vllm",
    "bm25": ".corpora.first_stage",
    "disagreement": ".teachers.disagreement",
    "explode_queries": ".generation.queries",
    "fuse_teachers": ".teachers.fusion",
    "mine_negatives": ".mining.negatives",
    "pair_disagreement": ".teachers.disagreement",
}

__all__ = [
    "ADRMSE",
    "LABEL_COLUMNS",
    "MSE",
    "ApproxNDCG",
    "BiEncoder",
    "BinaryCrossEntropy",
    "CrossEncoder",
    "LateInteraction",
    "MonoT5",
    "MultiVectorIndex",
    "LambdaLoss",
    "ListMLE",
    "ListSampler",
    "LogitMSE",
    "PairwiseKL",
    "RankNet",
    "Distiller",
    "EmbeddingMatch",
    "HiddenStateMatch",
    "InfoNCE",
    "KLDivergence",
    "ListNet",
    "LocalizedContrastive",
    "Loss",
    "MarginMSE",
    "MissingLabelError",
    "ScoreMatch",
    "SpanQueries",
    "ConsistencyFilter",
    "FewShot",
    "GenerationError",
    "KeyphraseQueries",
    "LanguageFilter",
    "LengthFilter",
    "QueryPerturbation",
    "QueryStore",
    "SyntheticQueryGen",
    "TitleQueries",
    "TopQueries",
    "positives",
    "__version__",
    "bm25",
    "explode_queries",
    "HF",
    "OpenAI",
    "USTAD",
    "VLLM",
    "Template",
    "IterativeDistiller",
    "LabelStore",
    "adapt",
    "LabellingError",
    "fuse_teachers",
    "ListwiseLLMTeacher",
    "PairTraining",
    "PairwiseTeacher",
    "PointwiseTeacher",
    "RunTeacher",
    "SetwiseTeacher",
    "FalseNegativeFilter",
    "NegativeMiner",
    "PairSampler",
    "disagreement",
    "mine_negatives",
    "pair_disagreement",
]


def __getattr__(name: str) -> object:
    if name in _LAZY:
        value = getattr(import_module(_LAZY[name], __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
