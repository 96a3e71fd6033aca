"""The bi-encoder student: queries and documents to vectors, relevance by their product."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyterrier as pt
import pyterrier_dr
from pyterrier_dr import SimFn

from .. import checkpoints, randomness, scoring
from ..backends.tokens import disarmed
from ..frames import DOC_VEC, QUERY_VEC
from ..locks import loading, using
from .artifact import Weights
from .bi_encoder_artifact import BiEncoderArtifact
from .bi_encoder_model import DOC_PROMPTS, build, check_prompts, dimension, prompts_for
from .bi_encoder_states import BiEncoderStates
from .bi_encoder_training import BiEncoderTraining
from .bi_encoder_views import DocEncoder, QueryEncoder, Scorer, mode_of
from .similarity import BiEncoderSimilarity

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer
    from torch import Tensor, nn


class BiEncoder(
    BiEncoderArtifact, BiEncoderTraining, BiEncoderStates, BiEncoderSimilarity, pyterrier_dr.BiEncoder, pt.Artifact
):
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
        if pooling not in (None, "mean", "cls"):
            raise ValueError(f"pooling must be 'mean' or 'cls', not {pooling!r}.")
        for name, value in (("batch_size", batch_size), ("max_length", max_length), ("projection", projection)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}.")
        if doc_index is not None and not hasattr(doc_index, "payload"):
            raise ValueError(f"doc_index must be a FlexIndex, such as FlexIndex('docs.flex'), not {doc_index!r}.")
        scoring.check_precision(precision)
        self.name_or_path = (
            name_or_path if isinstance(name_or_path, BiEncoder) else checkpoints.check_name(os.fspath(name_or_path))
        )
        source = self.name_or_path
        checkpoints.check_layers(source._told_layers() if isinstance(source, BiEncoder) else source, layers)
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
        self.prompts = check_prompts(prompts)
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
        from ..labels.identity import identity

        sources = {name: getattr(self, name) for name in self._copied()}
        self._weights.hold(self._build(), files=self._files())
        self._weights.sources = {name: (repr(one), identity(one)) for name, one in sources.items()}

    def _copied(self) -> list[str]:
        """Settings that name students of which this one has a copy."""
        shared = self._doc_encoder is None or self.freeze_docs
        copied = ["name_or_path"] if isinstance(self.name_or_path, BiEncoder) else []
        return copied if shared else [*copied, "_doc_encoder"]

    def _build(self) -> SentenceTransformer:
        import torch
        from sentence_transformers.base.modules import Router

        # Whoever asks first, these weights shall be trainable; what the checkpoint lacks is drawn, always the same.
        with torch.inference_mode(False), randomness.seeded(0):
            if isinstance(self.name_or_path, BiEncoder):
                source = copy.deepcopy(self.name_or_path.model).float()
            else:
                source = checkpoints.load_sentence_transformer(
                    self.name_or_path, device="cpu", trust_remote_code=self.trust_remote_code
                )
            model = build(
                source,
                name=self._checkpoint_name(),
                layers=self.layers,
                pooling=self.pooling,
                projection=self.projection,
                max_length=self.max_length,
                teacher=None if self._doc_encoder is None else self._doc_encoder.model,
                share_teacher=self.freeze_docs,
            )
            if self.freeze_docs and not isinstance(model[0], Router):
                raise ValueError(
                    "freeze_docs=True needs doc_encoder=: one encoder for both would leave nothing to train."
                )
            if self.prompts is not None:
                model.prompts = prompts_for(model.prompts, self.prompts)
            return model.to(scoring.infer_device(self.device)).eval()

    def _checkpoint_name(self) -> str:
        """The checkpoint that the model is made of, through however many BiEncoders."""
        name = self.name_or_path
        return name._checkpoint_name() if isinstance(name, BiEncoder) else name

    def _told_layers(self) -> int | None:
        """Layers that encode queries, if that is known without loading."""
        if self._weights.model is not None:
            config = getattr(next(iter(self.query_modules())), "config", None)
            return getattr(config, "num_hidden_layers", None)
        if self.layers is not None:
            return self.layers if isinstance(self.layers, int) else len(self.layers)
        name = self.name_or_path
        return name._told_layers() if isinstance(name, BiEncoder) else checkpoints.told_layers(name)

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
        return dimension(list(self.query_modules()), self.model.truncate_dim)

    def query_modules(self) -> nn.Module:
        """The modules that encode a query."""
        return self.model[0].sub_modules["query"] if self.asymmetric else self.model

    def doc_modules(self) -> nn.Module:
        """The modules that encode a document."""
        return self.model[0].sub_modules["document"] if self.asymmetric else self.model

    def num_parameters(self, side: str = "query") -> int:
        """Number of weights that encode a ``"query"`` or a ``"document"``."""
        modules = {"query": self.query_modules, "document": self.doc_modules}[side]()
        return sum(parameter.numel() for parameter in modules.parameters())

    # -- encoding -----------------------------------------------------------------------------------------------------

    def encode_queries(self, texts: Iterable[str], batch_size: int | None = None) -> np.ndarray:
        """Encode query texts.

        Args:
            texts: n queries.
            batch_size: as in the constructor.

        Returns:
            float32 ``[n, dimension]``; ``[0, 0]`` for none, without loading the model.
        """
        return self._encode(texts, "query", batch_size)

    def encode_docs(self, texts: Iterable[str], batch_size: int | None = None) -> np.ndarray:
        """Encode document texts; as :meth:`encode_queries`."""
        return self._encode(texts, "document", batch_size)

    def _encode(self, texts: Iterable[str], task: str, batch_size: int | None) -> np.ndarray:
        if isinstance(texts, str):
            raise ValueError(f"texts must be a list of texts, not the text {texts!r}.")
        # pyterrier_dr passes its own progress bar round the texts where verbose; ours counts distinct ones.
        texts = list(getattr(texts, "iterable", texts))
        if not texts:
            return np.empty((0, 0), dtype=np.float32)
        return scoring.run(
            texts,
            prepare=lambda chunk: self.tokenise(chunk, task),
            forward=lambda features: self.pooled(self.model(dict(features), task=task), task),
            device=scoring.infer_device(self.device),
            precision=self.precision,
            batch_size=batch_size or self.batch_size,
            verbose=self.verbose,
            desc="Encoding queries" if task == "query" else "Encoding documents",
            unit="q" if task == "query" else "d",
        )

    def encode_queries_torch(self, texts: list[str], batch_size: int | None = None) -> torch.Tensor:
        """Encode query texts with gradients; ``[n, dimension]`` on the model's device."""
        if not texts:
            import torch

            return torch.empty((0, self.dimension), device=self.model.device)
        return self.embed(self.tokenise(list(texts), "query"), "query", batch_size)

    def tokenise(self, texts: list[str], task: str) -> dict[str, Any]:
        """Tokenised ``texts`` ``[n, L]`` for the ``"query"`` or ``"document"`` side, its prompt in front."""
        names = ("query",) if task == "query" else DOC_PROMPTS
        prompt = next((self.model.prompts[name] for name in names if self.model.prompts.get(name)), None)
        modules = self.query_modules() if task == "query" else self.doc_modules()
        tokenizer = getattr(next(iter(modules)), "tokenizer", None)
        with using(tokenizer):
            return self.model.preprocess(disarmed(tokenizer, texts), prompt=prompt, task=task)

    def embed(self, features: dict[str, Any], task: str, batch_size: int | None = None) -> Tensor:
        """Vectors ``[n, dimension]`` of tokenised texts, with gradients; short texts are not padded to long ones."""
        from ..training import micro_batches

        def forward(part: dict[str, Any]) -> Tensor:
            return self.pooled(self.model(dict(part), task=task), task)

        return micro_batches.run(features, forward, self.model.device, rows=batch_size)

    # -- as transformers ----------------------------------------------------------------------------------------------

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

    def doc_encoder(self, verbose: bool | None = None, batch_size: int | None = None) -> DocEncoder:
        """D → D with ``doc_vec`` (float32[dimension]); also R → R. Looks up what ``doc_index`` holds."""
        return DocEncoder(self, verbose=verbose, batch_size=batch_size)

    def text_scorer(
        self, verbose: bool | None = None, batch_size: int | None = None, sim_fn: SimFn | None = None
    ) -> Scorer:
        """R → R: re-ranks by the product of vectors, reading ``query_vec`` and ``doc_vec`` where they are."""
        return Scorer(self, verbose=verbose, batch_size=batch_size, sim_fn=sim_fn)

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Encode queries (Q), encode documents (D), or re-rank (R), by the columns of ``inp``.

        Re-ranking reads texts where there are any: ``query_vec`` and ``doc_vec`` beside them are a teacher's labels.
        Only documents' vectors beside a frozen document encoder are its own. Without texts, vectors are read.
        """
        mode = mode_of(self, inp)
        if mode != "scorer":
            return getattr(self, mode)()(inp)
        labels = [QUERY_VEC] if "query" in inp.columns else []
        if self.text_field in inp.columns and not self.freeze_docs:
            labels.append(DOC_VEC)
        scored = self.text_scorer()(inp.drop(columns=labels, errors="ignore"))
        out = inp.drop(columns=["score", "rank"], errors="ignore")
        return out.assign(score=scored["score"].to_numpy(), rank=scored["rank"].to_numpy())
