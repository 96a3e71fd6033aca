"""The bi-encoder student: queries and documents to vectors, relevance by their product."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyterrier as pt
import pyterrier_dr
from pyterrier_dr import SimFn

from ...engine import batching, checkpoints
from ...engine.locks import loading, using
from ...engine.tokens import disarmed
from ...frames import DOC_VEC
from ...losses import base as losses
from ..artifact import Weights
from ..base import Student
from . import model, similarity, states, training
from .encoder import Encoder
from .views import QueryEncoder

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer
    from torch import Tensor, nn

    from ...training.lists import QueryList


class BiEncoder(Student, Encoder, pt.Artifact):
    """A dense bi-encoder over a sentence-transformers model, as re-ranker (R → R) and as encoder (Q → Q, D → D).

    It is a ``pyterrier_dr.BiEncoder``: ``student.query_encoder() >> FlexIndex(...).retriever()`` retrieves,
    ``student.doc_encoder() >> FlexIndex(...)`` indexes. The model is loaded when it is first needed.

    Args:
        name_or_path: a directory or hub name of a sentence-transformers or transformers checkpoint, or another
            BiEncoder, whose model is copied when this one is first used. With ``doc_encoder`` it encodes the queries
            only.
        layers: keep these layers (from 0), or this many spread evenly; None = all.
        pooling: ``"mean"`` or ``"cls"``; None = the checkpoint's own (mean for a plain transformers checkpoint).
        projection: dimension of a linear layer put behind the pooling; None = none. Its weights start at random.
        doc_encoder: a BiEncoder (or its name) that encodes the documents: an asymmetric student (USTAD §5.2).
        freeze_docs: whether training leaves the document encoder alone, and shares it with ``doc_encoder`` rather
            than copying it. None = what the checkpoint was saved with.
        doc_index: a ``FlexIndex`` of the document encoder's vectors. Documents it holds are looked up by docno instead
            of encoded, when ranking and when training with frozen documents.
        max_length: tokens of a text, the rest is cut; None = the checkpoint's own.
        prompts: what stands in front of each ``"query"`` and each ``"document"``, such as ``{"query": "query: ",
            "document": "passage: "}`` for E5; saved with the student. None, or a side that is not named: the
            checkpoint's own.
        precision: ``auto`` | ``fp32`` | ``bf16`` | ``fp16`` of encoding; ``auto`` = bf16 where the hardware multiplies
            it natively.
        batch_size: most texts of one forward pass (a token budget usually cuts earlier); PyTerrier also hands over
            this many documents at once when indexing.
        text_field: the column of document text.
        device: None = the GPU where there is one.
        verbose: whether encoding shows progress.
        trust_remote_code: whether a hub model may bring its own code.

    Scores are dot products, of normalised vectors (so cosines, in [-1, 1]) where the checkpoint normalises or asks for
    cosine similarity. Its other settings are kept, too: prompts, and ``truncate_dim``, which cuts vectors.

    Raises:
        FileNotFoundError: if the path is no directory.
        ValueError: if query and document encoder differ in dimension; if a layer does not exist, or would be another
            one after saving; if the checkpoint has fewer positions than ``max_length``, no vocabulary, or compares by
            distances.

    References:
        Kim et al. 2024, USTAD / EmbedDistill, §5.2.

    Example::

        teacher = ptd.BiEncoder("sentence-transformers/all-MiniLM-L6-v2")
        index = pyterrier_dr.FlexIndex("docs.flex")
        (teacher >> index).index(dataset.get_corpus_iter())
        student = ptd.BiEncoder(ptd.BiEncoder.truncated(teacher, 2), doc_encoder=teacher, freeze_docs=True)
        pipeline = student.query_encoder() >> index.retriever()
    """

    ARTIFACT_TYPE = "bi_encoder"
    DESCRIBED = "a bi-encoder: its score of a query and a document is the product of their vectors"
    ARTIFACT_FORMAT = "sentence_transformers"
    PIPELINE_TAG = "sentence-similarity"
    LOADED_BY = "sentence_transformers.SentenceTransformer({name})"

    gives = losses.QUERY_SIDE | {losses.SCORES, losses.DOC_VECTORS, losses.BATCH_SCORES}

    _RUNTIME = ("doc_index", "precision", "batch_size", "text_field", "verbose")

    def __init__(
        self,
        name_or_path: str | os.PathLike | BiEncoder,
        *,
        layers: int | Sequence[int] | None = None,
        pooling: str | None = None,
        projection: int | None = None,
        doc_encoder: BiEncoder | str | os.PathLike | None = None,
        freeze_docs: bool | None = None,
        doc_index: pyterrier_dr.FlexIndex | None = None,
        max_length: int | None = None,
        prompts: Mapping[str, str] | None = None,
        precision: str = "auto",
        batch_size: int = 1024,
        text_field: str = "text",
        device: str | None = None,
        verbose: bool = False,
        trust_remote_code: bool = False,
    ):
        model.check_settings(pooling, batch_size=batch_size, max_length=max_length, projection=projection)
        if doc_index is not None and not hasattr(doc_index, "payload"):
            raise ValueError(f"doc_index must be a FlexIndex, such as FlexIndex('docs.flex'), not {doc_index!r}.")
        batching.check_precision(precision)
        self.name_or_path = (
            name_or_path if isinstance(name_or_path, BiEncoder) else checkpoints.check_name(os.fspath(name_or_path))
        )
        source = self.name_or_path
        checkpoints.check_layers(model.told_layers(source) if isinstance(source, BiEncoder) else source, layers)
        self.layers = list(layers) if isinstance(layers, tuple) else layers
        self.pooling = pooling
        self.projection = projection
        self._doc_encoder = (
            doc_encoder
            if doc_encoder is None or isinstance(doc_encoder, BiEncoder)
            else BiEncoder(doc_encoder, precision=precision, device=device, trust_remote_code=trust_remote_code)
        )
        self._freeze_docs = freeze_docs
        self.doc_index = doc_index
        self.max_length = max_length
        self.prompts = model.check_prompts(prompts)
        self.precision = precision
        self.batch_size = batch_size
        self.text_field = text_field
        self.verbose = verbose
        self.device = device
        self.trust_remote_code = trust_remote_code
        pt.Artifact.__init__(self, self.name_or_path if self._is_directory() else pt.Artifact.NO_PATH)
        self._weights = Weights()

    @classmethod
    def truncated(
        cls, name_or_path: str | os.PathLike | BiEncoder, layers: int | Sequence[int], **kwargs: Any
    ) -> BiEncoder:
        """A student that starts from some layers of a checkpoint.

        Args:
            name_or_path: a checkpoint, or a BiEncoder.
            layers: which layers, from 0, such as ``[0, 5]``; or how many, spread evenly.
            **kwargs: as for the constructor.
        """
        return cls(name_or_path, layers=layers, **kwargs)

    # -- the model ----------------------------------------------------------------------------------------------------

    @property
    def model(self) -> SentenceTransformer:
        """The sentence-transformers model: queries by ``encode_query``, documents by ``encode_document``."""
        if self._weights.model is None:
            with loading():
                if self._weights.model is None:  # another thread may have been first
                    self._load()
        return self._weights.model

    def _load(self) -> None:
        from ...identity.identity import identity

        sources = {name: getattr(self, name) for name in self._copied()}
        self._weights.hold(model.build_for(self), files=self._files())
        self._weights.sources = {name: (repr(one), identity(one)) for name, one in sources.items()}

    def _copied(self) -> list[str]:
        """Settings that name students of which this one has a copy."""
        shared = self._doc_encoder is None or self.freeze_docs
        copied = ["name_or_path"] if isinstance(self.name_or_path, BiEncoder) else []
        return copied if shared else [*copied, "_doc_encoder"]

    @property
    def asymmetric(self) -> bool:
        """Whether queries and documents have encoders of their own."""
        from sentence_transformers.base.modules import Router

        return isinstance(self.model[0], Router)

    @property
    def freeze_docs(self) -> bool:
        """Whether training leaves the document encoder alone."""
        if self._freeze_docs is None:
            return bool(self._metadata().get("freeze_docs", False))
        return bool(self._freeze_docs)

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return model.dimension(list(self.query_modules()), self.model.truncate_dim)

    def query_modules(self) -> nn.Module:
        """The modules that encode a query."""
        return self.model[0].sub_modules["query"] if self.asymmetric else self.model

    def doc_modules(self) -> nn.Module:
        """The modules that encode a document."""
        return self.model[0].sub_modules["document"] if self.asymmetric else self.model

    def _write(self, draft: Path) -> None:
        self.model.save_pretrained(str(draft), create_model_card=False)

    def _told(self) -> dict[str, Any]:
        return {"freeze_docs": self.freeze_docs}

    # -- how vectors are compared -------------------------------------------------------------------------------------

    @property
    def sim_fn(self) -> SimFn:
        """``dot``, or ``cos`` where the checkpoint asks for cosine similarity without normalising its vectors.

        Then :meth:`encode_queries`, :meth:`encode_docs` and all that is built on them normalise, so that a FlexIndex
        of either similarity ranks as the student does.
        """
        sides = (self.query_modules(), self.doc_modules())
        return SimFn.cos if any(similarity.normalised_behind(self.model, side) for side in sides) else SimFn.dot

    @property
    def scores_cosines(self) -> bool:
        """Whether its scores are cosines, in [-1, 1], which losses over differences of scores divide by about 0.05."""
        sides = (self.query_modules(), self.doc_modules())
        return self.model.similarity_fn_name == "cosine" or all(similarity.unit_inside(self.model, m) for m in sides)

    @property
    def score_scale(self) -> str:  # type: ignore[override]
        """On what scale its scores are; losses ask for it."""
        return losses.COSINE if self.scores_cosines else losses.DOT

    def known_scale(self) -> str | None:
        """:attr:`score_scale`, if that takes no loading: of a model that is loaded, or as a directory's files say."""
        if self._weights.model is not None:
            return self.score_scale
        source = self._doc_encoder or self.name_or_path
        if isinstance(source, BiEncoder):
            return source.known_scale()
        return losses.COSINE if self._is_directory() and similarity.told_cosine(source) else None

    # -- encoding -----------------------------------------------------------------------------------------------------

    def encode_side(self, texts: list[str], side: str, batch_size: int) -> np.ndarray:
        """Vectors float32 ``[n, dimension]`` of n ≥ 1 texts of the ``"query"`` or ``"document"`` side."""
        return batching.run(
            texts,
            prepare=lambda chunk: self.tokenise(chunk, side),
            forward=lambda features: self.pooled(self.model(dict(features), task=side), side),
            device=batching.infer_device(self.device),
            precision=self.precision,
            batch_size=batch_size,
            verbose=self.verbose,
            desc="Encoding queries" if side == "query" else "Encoding documents",
            unit="q" if side == "query" else "d",
        )

    def encode_queries_torch(self, texts: list[str], batch_size: int | None = None) -> torch.Tensor:
        """Encode query texts with gradients; ``[n, dimension]`` on the model's device."""
        if not texts:
            import torch

            return torch.empty((0, self.dimension), device=self.model.device)
        return training.embed(self, self.tokenise(list(texts), "query"), "query", batch_size)

    def encode_query_states(self, texts: Sequence[str], layers: Sequence[int]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Vectors of queries, and what some layers say of their tokens.

        Args, returned values and errors as of ``states.encode``.
        """
        return states.encode(self, list(texts), layers)

    def tokenise(self, texts: list[str], task: str) -> dict[str, Any]:
        """Tokenised ``texts`` ``[n, L]`` for the ``"query"`` or ``"document"`` side, its prompt in front."""
        names = ("query",) if task == "query" else model.DOC_PROMPTS
        prompt = next((self.model.prompts[name] for name in names if self.model.prompts.get(name)), None)
        modules = self.query_modules() if task == "query" else self.doc_modules()
        tokenizer = getattr(next(iter(modules)), "tokenizer", None)
        with using(tokenizer):
            return self.model.preprocess(disarmed(tokenizer, texts), prompt=prompt, task=task)

    def pooled(self, out: dict[str, Any], task: str) -> Tensor:
        """Vectors ``[n, dimension]`` of what the model gives for n texts: cut and normalised as the checkpoint asks."""
        modules = self.query_modules() if task == "query" else self.doc_modules()
        return similarity.pooled(self.model, modules, out)

    def query_encoder(
        self, verbose: bool | None = None, batch_size: int | None = None, *, states: Sequence[int] | None = None
    ) -> QueryEncoder:
        """Q → Q with ``query_vec`` (float32[dimension]); also R → R.

        Args:
            verbose: whether to show progress; None = as this model.
            batch_size: as in the constructor.
            states: layers (1 = the first, −1 = the last) whose states of the query's tokens are written, too:
                ``query_states``, float16[tokens, layers, D]. About 20 kB a query.
        """
        return QueryEncoder(self, verbose=verbose, batch_size=batch_size, states=states)

    # -- training -----------------------------------------------------------------------------------------------------

    def training_columns(self, needs: frozenset[str]) -> tuple[str, ...]:
        """The columns besides labels that a frame must have: without documents where the loss needs none."""
        if not needs - losses.QUERY_SIDE:
            return ("qid", "query")
        looked_up = self.doc_index is not None and self.freeze_docs
        return ("qid", "query", "docno") if looked_up else ("qid", "query", "docno", self.text_field)

    def documents_move(self, needs: frozenset[str]) -> bool:
        """Whether a training with a loss that ``needs`` these outputs changes documents' vectors."""
        return bool(needs - losses.QUERY_SIDE) and not (self.asymmetric and self.freeze_docs)

    def check_training(self, needs: frozenset[str], vectors: dict[str, int]) -> None:
        """Check that the teacher's vectors are of this dimension, and that no index goes stale."""
        training.check(self, needs, vectors)

    def trainable(self, needs: frozenset[str]) -> nn.Module:
        """Freeze what training shall leave alone, and give what it shall change."""
        self.model.requires_grad_(False)
        whole = self.documents_move(needs) or not self.asymmetric
        return (self.model if whole else self.query_modules()).requires_grad_(True)

    def prepare_lists(self, lists: list[QueryList], needs: frozenset[str]) -> None:
        """Give each list the vectors of its documents, once, where documents are frozen."""
        if needs - losses.QUERY_SIDE and not self.documents_move(needs):
            training.look_up(self, lists)

    def prepare_frame(self, frame: pd.DataFrame) -> pd.DataFrame:
        """A validation frame with the vectors of its documents, computed once, where documents are frozen."""
        frozen = self.asymmetric and self.freeze_docs
        return self.doc_encoder()(frame) if frozen and DOC_VEC not in frame.columns else frame

    def collate(self, lists: list[QueryList], needs: frozenset[str]) -> dict[str, Any]:
        """A batch: tokenised queries, the distinct documents of all lists (tokens or vectors), and who is where."""
        return training.collate(self, lists, needs)

    def forward(self, batch: dict[str, Any], mask: Tensor, needs: frozenset[str]) -> losses.Outputs:
        """One forward pass over a collated batch; only what ``needs`` names is computed."""
        return training.forward(self, batch, mask, needs)

    def num_parameters(self, side: str = "query") -> int:
        """Number of weights that encode a ``"query"`` or a ``"document"``."""
        modules = {"query": self.query_modules, "document": self.doc_modules}[side]()
        return sum(parameter.numel() for parameter in modules.parameters())
