"""The late-interaction student: a vector for every token, relevance by the best match of each query token."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyterrier as pt

from ...engine import batching, checkpoints, randomness
from ...engine.locks import loading, using
from ...engine.tokens import disarmed
from ...frames import arguments
from ...losses import base as losses
from ..artifact import Weights
from ..base import Student
from . import training
from .encoder import TokenEncoder
from .model import build

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder
    from torch import Tensor

    from ...training.lists import QueryList

_PROMPTS = {"query": ("query",), "document": ("document", "passage", "corpus")}


class LateInteraction(Student, TokenEncoder, pt.Artifact):
    """A ColBERT over a sentence-transformers model, as re-ranker (R → R) and as encoder (Q → Q, D → D).

    ``student >> MultiVectorIndex(...)`` indexes, ``student.query_encoder() >> index.retriever()`` retrieves. The model
    is loaded when it is first needed.

    Args:
        name_or_path: a directory or hub name of a ColBERT (sentence-transformers', PyLate's or Stanford's colbert-ai),
            or of an encoder, which then becomes one: a marker before each text, a linear projection of each token, its
            weights random, and vectors of length 1, those of documents' punctuation left out.
        layers: keep these layers (from 0), or this many spread evenly; None = all.
        dimension: of a token's vector. None = the checkpoint's own (128 for an encoder); any other than that starts a
            new projection, whose weights are random.
        query_length: tokens of a query, the rest is cut; None = the checkpoint's own (32 for an encoder).
        document_length: tokens of a document, the rest is cut; None = the checkpoint's own (180 for an encoder, or
            what it reads at most).
        query_expansion: whether shorter queries are filled up to ``query_length`` with [MASK] tokens, whose vectors
            count too; None = the checkpoint's own (True for an encoder).
        precision: ``auto`` | ``fp32`` | ``bf16`` | ``fp16`` of encoding; ``auto`` = bf16 where the hardware multiplies
            it natively. Similarities are always computed in fp32.
        batch_size: most texts of one forward pass (a token budget usually cuts earlier); PyTerrier also hands over
            this many documents at once when indexing, if they are more than 100.
        text_field: the column of document text.
        device: None = the GPU where there is one.
        verbose: True = encoding shows progress, False = never; None = once it takes more than three seconds.
        trust_remote_code: whether a hub model may bring its own code.

    A score is Σ_i max_j ⟨q_i, d_j⟩ over query tokens i and document tokens j: at most the number of query tokens, where
    the checkpoint normalises. A checkpoint that asks for the mean over query tokens (``meanmaxsim``) gets it: its
    ``query_embs`` are divided by their number.

    Raises:
        FileNotFoundError: if the path is no directory; on first use, if there is no such model.
        ValueError: on first use, if a setting does not fit the checkpoint.

    References:
        Khattab & Zaharia 2020 (ColBERT), Eq. 1-3; Santhanam et al. 2022 (ColBERTv2); Huang & Chen 2024 (PairDistill).

    Example::

        student = ptd.LateInteraction("google-bert/bert-base-uncased")
        ptd.Distiller(student, ptd.InfoNCE() + ptd.KLDivergence()).fit((candidates >> teacher)(topics), qrels)
        index = ptd.MultiVectorIndex("docs.mvi")
        (student >> index).index(dataset.get_corpus_iter())
        pipeline = student.query_encoder() >> index.retriever()
    """

    ARTIFACT_TYPE = "late_interaction"
    DESCRIBED = "a late-interaction model: each query token's best product with a document token, summed"
    LOADED_BY = "sentence_transformers.MultiVectorEncoder({name})"
    ARTIFACT_FORMAT = "sentence_transformers"
    schematic = {"label": "LateInteraction"}

    gives = frozenset({losses.SCORES, losses.BATCH_SCORES})
    score_scale = losses.MAX_SIM

    def __init__(
        self,
        name_or_path: str | os.PathLike,
        *,
        layers: int | Sequence[int] | None = None,
        dimension: int | None = None,
        query_length: int | None = None,
        document_length: int | None = None,
        query_expansion: bool | None = None,
        precision: str = "auto",
        batch_size: int | None = None,
        text_field: str = "text",
        device: str | None = None,
        verbose: bool | None = None,
        trust_remote_code: bool = False,
    ):
        numbers = {"dimension": dimension, "query_length": query_length, "document_length": document_length}
        for name, value in {**numbers, "batch_size": batch_size}.items():
            arguments.whole(value, name, absent=True)
        if query_expansion not in (None, True, False):
            raise ValueError(f"query_expansion must be True, False or None, not {query_expansion!r}.")
        self.name_or_path = checkpoints.check_name(os.fspath(name_or_path))
        checkpoints.check_layers(self.name_or_path, layers)
        self.layers = list(layers) if isinstance(layers, tuple) else layers
        self.dimension = dimension
        self.query_length = query_length
        self.document_length = document_length
        self.query_expansion = query_expansion
        self.precision = batching.check_precision(precision)
        self.batch_size = batch_size
        self.text_field = text_field
        self.device = device
        self.verbose = verbose
        self.trust_remote_code = trust_remote_code
        pt.Artifact.__init__(self, self.name_or_path if self._is_directory() else pt.Artifact.NO_PATH)
        self._weights = Weights()

    # -- the model ----------------------------------------------------------------------------------------------------

    @property
    def model(self) -> MultiVectorEncoder:
        """The sentence-transformers model; loaded when first needed."""
        if self._weights.model is None:
            self._load()
        return self._weights.model

    def _load(self) -> None:
        import torch

        # These weights shall be trainable, and the same every time the student is built.
        with loading(), torch.inference_mode(False), randomness.seeded(0):
            if self._weights.model is None:  # another thread may have been first
                model = build(
                    self.name_or_path,
                    layers=self.layers,
                    dimension=self.dimension,
                    query_length=self.query_length,
                    document_length=self.document_length,
                    query_expansion=self.query_expansion,
                    trust_remote_code=self.trust_remote_code,
                )
                self._weights.hold(model.to(batching.infer_device(self.device)).eval(), files=self._files())

    def _write(self, draft: Path) -> None:
        self.model.save_pretrained(str(draft), create_model_card=False)

    # -- encoding -----------------------------------------------------------------------------------------------------

    def encode(
        self, texts: Sequence[str], task: str, *, batch_size: int | None = None, verbose: bool | None = None
    ) -> list[np.ndarray]:
        """Token vectors of texts; equal texts are encoded once.

        Args:
            texts: n texts.
            task: ``"query"`` or ``"document"``.
            batch_size: as in the constructor.
            verbose: whether to show progress; None = as this model.

        Returns:
            n arrays float32 ``[tokens, dim]``; none for no texts, without loading the model.

        Raises:
            ValueError: for any other task.
        """
        import torch

        if task not in _PROMPTS:
            raise ValueError(f"task must be 'query' or 'document', not {task!r}.")

        def forward(features: Mapping[str, Any]) -> Tensor:
            vectors, counts = self.token_vectors(dict(features), task)
            return torch.cat([vectors.float(), counts.unsqueeze(-1).float()], dim=-1)  # which of them count, last

        return batching.run(
            texts,
            prepare=lambda chunk: self.tokenise(chunk, task),
            forward=forward,
            device=batching.infer_device(self.device),
            precision=self.precision,
            batch_size=batch_size or self.batch_size,
            verbose=self.verbose if verbose is None else verbose,
            desc="Encoding queries" if task == "query" else "Encoding documents",
            unit="q" if task == "query" else "d",
            each=lambda rows: np.ascontiguousarray(rows[rows[:, -1] > 0, :-1]),
            model=self.model,
        )

    def tokenise(self, texts: list[str], task: str) -> dict[str, Any]:
        """Tokenised ``texts`` ``[n, L]``, the prompt of their side in front.

        ``attention_mask`` marks the tokens that must be kept, ``attended`` those among them that others attend to:
        [MASK] tokens that fill up a query are read by nobody, but their own vectors count.
        """
        prompt = next((self.model.prompts[name] for name in _PROMPTS[task] if self.model.prompts.get(name)), None)
        tokenizer = self.model[0].tokenizer
        with using(tokenizer):
            features = dict(self.model.preprocess(disarmed(tokenizer, texts), prompt=prompt, task=task))
        features["attended"] = features["attention_mask"]
        if (filled := features.get("query_expansion_positions")) is not None:
            features["attention_mask"] = features["attended"].masked_fill(filled, 1)
        return features

    def token_vectors(self, features: dict[str, Any], task: str) -> tuple[Tensor, Tensor]:
        """Vectors ``[n, L, D]`` of tokenised texts, with gradients, and which of them count, bool ``[n, L]``."""
        features = dict(features)
        features["attention_mask"] = features.pop("attended")
        out = self.model(features, task=task)
        vectors, counts = out["token_embeddings"], out["attention_mask"].bool()
        if task == "query" and self.model.similarity_fn_name == "meanmaxsim":
            vectors = vectors / counts.sum(dim=1)[:, None, None]
        return vectors, counts

    # -- training -----------------------------------------------------------------------------------------------------

    def collate(self, lists: list[QueryList], needs: frozenset[str]) -> dict[str, Any]:
        """A batch: tokenised queries, the distinct documents of all lists, and who is where (int ``[B, N]``)."""
        return training.collate(self, lists)

    def forward(self, batch: dict[str, Any], mask: Tensor, needs: frozenset[str]) -> losses.Outputs:
        """One forward pass over a collated batch; other lists' documents are scored only for losses that read them."""
        return training.forward(self, batch, mask, needs)
