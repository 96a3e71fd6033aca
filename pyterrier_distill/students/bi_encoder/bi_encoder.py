"""The bi-encoder student: queries and documents to vectors, relevance by their product."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyterrier as pt
import pyterrier_dr

from ...engine import batching, checkpoints
from ...engine.locks import loading
from ...frames import DOC_VEC, arguments
from ...losses import base as losses
from ..artifact import Weights
from ..base import Student
from ..serving import Servable
from . import adapter, apart, model, modules, training
from .sentence_encoder import SentenceEncoder
from .similarity import asked, known_scale
from .similarity import check as check_similarity

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import Tensor, nn

    from ...training.lists import QueryList
    from ..ustad import USTAD


class BiEncoder(Servable, Student, SentenceEncoder, pt.Artifact):
    """A dense bi-encoder over a sentence-transformers model, as re-ranker (R → R) and as encoder (Q → Q, D → D).

    It is a ``pyterrier_dr.BiEncoder``: ``student.query_encoder() >> FlexIndex(...).retriever()`` retrieves,
    ``student.doc_encoder() >> FlexIndex(...)`` indexes. The model is loaded when it is first needed.

    Args:
        name_or_path: a directory or hub name of a sentence-transformers or transformers checkpoint, or another
            BiEncoder, whose model is copied when this one is first used. With ``doc_encoder`` it encodes the queries
            only.
        layers: keep these layers (from 0), or this many spread evenly; None = all.
        pooling: ``"mean"``, ``"cls"`` or ``"lasttoken"`` (decoders); None = the checkpoint's own (mean for a plain
            transformers checkpoint).
        projection: dimension of a linear layer put behind the pooling; None = none. Its weights start at random.
        similarity: ``"dot"``: inner products of vectors as they are, a normalisation at the checkpoint's end left out;
            or ``"cos"``. Saved with the student. None = the checkpoint's own, which is ``"cos"`` where it says nothing,
            as a plain BERT; or that of ``doc_encoder``.
        lora: train a low-rank adapter, and a projection, instead of all weights; as for
            :class:`~pyterrier_distill.CrossEncoder`.
        append_eos: whether texts end with the end-of-text token, also where the tokenizer puts none. They are then read
            as they are, behind their prompt, as those of any transformers checkpoint with ``pooling="lasttoken"``;
            sentence-transformers else makes chat messages of them where a decoder has a template.
        doc_encoder: what encodes the documents of an asymmetric student (USTAD §5.2). A BiEncoder (or its name) becomes
            a part of the model. A USTAD, in its dual mode (or the directory of one), and any other
            ``pyterrier_dr.BiEncoder`` stay what they are, frozen; the saved student refers to a saved USTAD, holds a
            copy of another one, and is given any other encoder again.
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
        verbose: True = encoding shows progress, False = never; None = once it takes more than three seconds.
        trust_remote_code: whether a hub model may bring its own code.

    Scores are dot products, of normalised vectors (so cosines, in [-1, 1]) with ``similarity="cos"``. Losses want
    inner products, or a temperature of about 0.05 (USTAD §6: inner products; DPR). The checkpoint's other settings are
    kept: prompts, and ``truncate_dim``, which cuts vectors.

    Raises:
        FileNotFoundError: if the path is no directory.
        TypeError: for a ``doc_encoder`` that is none.
        ValueError: if query and document encoder differ in dimension; if a layer does not exist, or would be another
            one after saving; if the checkpoint has fewer positions than ``max_length``, no vocabulary, or compares by
            distances; for ``lora`` with ``layers`` or with a BiEncoder as ``doc_encoder``.
        ModuleNotFoundError: for ``lora`` without peft.

    References:
        Kim et al. 2024, USTAD / EmbedDistill, §5.2. For decoders: Ma et al. 2023, RepLlama; Distillation versus
        Contrastive Learning (Xu et al. 2025) §4.1 and App. B.

    Example::

        teacher = ptd.BiEncoder("sentence-transformers/all-MiniLM-L6-v2")
        index = pyterrier_dr.FlexIndex("docs.flex")
        (teacher >> index).index(dataset.get_corpus_iter())
        student = ptd.BiEncoder(ptd.BiEncoder.truncated(teacher, 2), doc_encoder=teacher, freeze_docs=True)
        pipeline = student.query_encoder() >> index.retriever()

        prompts = {"query": "query: ", "document": "passage: "}
        ptd.BiEncoder("Qwen/Qwen2.5-7B", pooling="lasttoken", append_eos=True, prompts=prompts,
                      lora=dict(r=16, alpha=32))
        ptd.BiEncoder("prajjwal1/bert-mini", projection=768, similarity="dot", doc_encoder=ptd.USTAD("ustad"))
    """

    ARTIFACT_TYPE = "bi_encoder"
    DESCRIBED = "a bi-encoder: its score of a query and a document is the product of their vectors"
    ARTIFACT_FORMAT = "sentence_transformers"
    PIPELINE_TAG = "sentence-similarity"
    LOADED_BY = ADAPTER_LOADED_BY = "sentence_transformers.SentenceTransformer({name})"
    added_later = {"similarity": None, "append_eos": False, "lora": None}

    gives = losses.QUERY_SIDE | {losses.SCORES, losses.DOC_VECTORS, losses.BATCH_SCORES}

    _RUNTIME = ("doc_index", "precision", "batch_size", "text_field", "verbose")

    def __init__(
        self,
        name_or_path: str | os.PathLike | BiEncoder,
        *,
        layers: int | Sequence[int] | None = None,
        pooling: str | None = None,
        projection: int | None = None,
        similarity: str | None = None,
        lora: Mapping[str, Any] | None = None,
        append_eos: bool = False,
        doc_encoder: pyterrier_dr.BiEncoder | USTAD | str | os.PathLike | None = None,
        freeze_docs: bool | None = None,
        doc_index: pyterrier_dr.FlexIndex | None = None,
        max_length: int | None = None,
        prompts: Mapping[str, str] | None = None,
        precision: str = "auto",
        batch_size: int = 1024,
        text_field: str = "text",
        device: str | None = None,
        verbose: bool | None = None,
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
        if isinstance(source, BiEncoder) and source.served is not None:
            raise ValueError(f"{source!r} was exported for serving: make a student of the one that it was made of.")
        checkpoints.check_layers(model.told_layers(source) if isinstance(source, BiEncoder) else source, layers)
        self.layers = list(layers) if isinstance(layers, tuple) else layers
        self.pooling = pooling
        self.projection = projection
        runs = {"precision": precision, "device": device, "trust_remote_code": trust_remote_code}
        self._doc_encoder = apart.chosen(doc_encoder, BiEncoder, **runs)
        self._referred: Any = None
        self._freeze_docs = arguments.choice(freeze_docs, "freeze_docs", (None, False, True))
        if freeze_docs is False and apart.is_given(self):
            raise ValueError(f"freeze_docs=False: training cannot change {self._doc_encoder!r}, only a BiEncoder.")
        told = self._metadata().get("similarity") if self._is_directory() and doc_encoder is None else None
        self.similarity = check_similarity(similarity) or told
        inside = None if apart.is_given(self) else self._doc_encoder
        self.lora = adapter.checked(lora, self.name_or_path, layers, inside)
        self.append_eos = arguments.choice(append_eos, "append_eos", (False, True))
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
        built = model.build_for(self)
        self._serve(built)
        self._weights.adapter = adapter.put(self, built)
        self._weights.hold(built.eval(), files=self._files())
        self._weights.sources = {name: (repr(one), identity(one)) for name, one in sources.items()}

    def _reader(self, model: Any) -> Any:
        first = modules.side(model, "query")[0]
        return first if hasattr(first, "auto_model") else None

    def _read(self, texts: Sequence[Any]) -> dict[str, Any]:
        return self.tokenise(list(texts), "query")

    def _copied(self) -> list[str]:
        """Settings that name students of which this one has a copy."""
        shared = self._doc_encoder is None or self.freeze_docs
        copied = ["name_or_path"] if isinstance(self.name_or_path, BiEncoder) else []
        return copied if shared else [*copied, "_doc_encoder"]

    @property
    def freeze_docs(self) -> bool:
        """Whether training leaves the document encoder alone."""
        told = self._freeze_docs
        return self.apart or bool(self._metadata().get("freeze_docs", False) if told is None else told)

    @property
    def base(self) -> Any:
        """The checkpoint that is loaded: ``name_or_path``, or what that is an adapter of."""
        return adapter.base_of(self.name_or_path) or self.name_or_path

    def _files(self) -> list[Any]:
        return [self.name_or_path, self.base]

    def _write(self, draft: Path) -> None:
        self.model.save_pretrained(str(draft), create_model_card=False)
        if self.apart:
            apart.write(self, draft)

    def _write_adapter(self, draft: Path) -> None:
        adapter.write(self, draft)
        if self.apart:
            apart.write(self, draft)

    def _base_kept(self) -> None:
        """How the weights of an adapter's base are kept: in float32."""

    def standing_alone(self) -> AbstractContextManager[None]:
        """Within, what is written needs no directory of this machine: it holds the USTAD that encodes its documents."""
        return apart.within()

    def writes_over_base(self, path: str | os.PathLike) -> bool:
        """Whether ``path`` is the base of this student's adapter, or what encodes its documents."""
        return adapter.is_base(self, path) or apart.is_at(self, path)

    def _told(self) -> dict[str, Any]:
        told: dict[str, Any] = {"freeze_docs": self.freeze_docs, "similarity": asked(self)}
        told |= {"doc_encoder": apart.reference(self)} if self.apart else {}
        return {name: value for name, value in told.items() if value is not None}

    @property
    def score_scale(self) -> str:  # type: ignore[override]
        """On what scale its scores are; losses ask for it."""
        return losses.COSINE if self.scores_cosines else losses.DOT

    def known_scale(self) -> str | None:
        """:attr:`score_scale`, if that takes no loading: of a model that is loaded, or as a directory's files say."""
        return self.score_scale if self._weights.model is not None else known_scale(self)

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
        if self._weights.adapter is not None:
            return adapter.trainable(self)
        self.model.requires_grad_(False)
        whole = self.documents_move(needs) or not self.asymmetric
        return (self.model if whole else self.query_modules()).requires_grad_(True)

    def settle(self) -> None:
        """What a Distiller calls at the end: rank again; what an adapter leaves alone stays frozen."""
        if self._weights.adapter is None:
            super().settle()
        else:
            adapter.settle(self)

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
        if side == "document" and self.apart:
            return apart.num_parameters(self)
        return sum(parameter.numel() for parameter in self._side(side).parameters())
