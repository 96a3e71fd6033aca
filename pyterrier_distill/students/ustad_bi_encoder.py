"""The dual mode of a USTAD as a bi-encoder."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyterrier_dr
from pyterrier_dr import SimFn

from ..frames import DOC_VEC, QUERY_VEC
from .bi_encoder_views import DocEncoder, QueryEncoder, Scorer, mode_of

if TYPE_CHECKING:
    import torch

    from .ustad import USTAD


class USTADBiEncoder(pyterrier_dr.BiEncoder):
    """The vectors of a USTAD's dual mode: Q → Q, D → D, and R → R by their inner product.

    A ``pyterrier_dr.BiEncoder`` that shares its student's weights, so that a FlexIndex and all that searches one take
    it: ``encoder >> index``, ``encoder.query_encoder() >> index.retriever()``. It encodes queries and documents at
    different positions, so it is saved as the student: ``USTAD(path).as_bi_encoder()``.

    Args:
        ustad: the student. Vectors are multiplied by the root of its dual ``scale``, so inner products are the dual
            mode's scores.
        batch_size: most texts of one forward pass; PyTerrier also hands over this many documents at once when indexing.
    """

    schematic = {"label": "USTAD bi-encoder"}
    #: Documents are always encoded.
    doc_index = None

    def __init__(self, ustad: USTAD, *, batch_size: int = 1024):
        super().__init__(batch_size=batch_size, text_field=ustad.text_field, verbose=ustad.verbose)
        self.ustad = ustad

    @property
    def model_name(self) -> str:
        """What pyterrier_dr's encoders compare two models by."""
        return repr(self)

    @property
    def sim_fn(self) -> SimFn:
        """Inner products."""
        return SimFn.dot

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self.ustad.dimension

    def encode_queries(self, texts: Iterable[str], batch_size: int | None = None) -> np.ndarray:
        """Encode n queries: float32 ``[n, dimension]``; ``[0, 0]`` for none."""
        return self._encode(texts, "query", batch_size)

    def encode_docs(self, texts: Iterable[str], batch_size: int | None = None) -> np.ndarray:
        """Encode n documents: float32 ``[n, dimension]``; ``[0, 0]`` for none."""
        return self._encode(texts, "document", batch_size)

    def _encode(self, texts: Iterable[str], side: str, batch_size: int | None) -> np.ndarray:
        if isinstance(texts, str):
            raise ValueError(f"texts must be a list of texts, not the text {texts!r}.")
        # pyterrier_dr passes its own progress bar round the texts where verbose; ours counts distinct ones.
        texts = list(getattr(texts, "iterable", texts))
        root = np.float32(math.sqrt(self.ustad.scale_of("dual")))
        return root * self.ustad.vectors(texts, side, batch_size or self.batch_size)

    def encode_queries_torch(self, texts: list[str], batch_size: int | None = None) -> torch.Tensor:
        """Encode queries with gradients: ``[n, dimension]`` on the model's device."""
        import torch

        from .ustad_scores import pool

        if not texts:
            return torch.empty((0, self.dimension), device=self.ustad.model.device)
        states, query, _ = self.ustad.encode(self.ustad.reader.queries(list(texts)))
        return math.sqrt(self.ustad.scale_of("dual")) * pool(states, query, self.ustad.pooling)

    def query_encoder(self, verbose: bool | None = None, batch_size: int | None = None) -> QueryEncoder:
        """Q → Q with ``query_vec`` (float32[dimension]); also R → R."""
        return QueryEncoder(self, verbose=verbose, batch_size=batch_size)

    def doc_encoder(self, verbose: bool | None = None, batch_size: int | None = None) -> DocEncoder:
        """D → D with ``doc_vec`` (float32[dimension]); also R → R."""
        return DocEncoder(self, verbose=verbose, batch_size=batch_size)

    def text_scorer(
        self, verbose: bool | None = None, batch_size: int | None = None, sim_fn: SimFn | None = None
    ) -> Scorer:
        """R → R: re-ranks by the product of vectors, reading ``query_vec`` and ``doc_vec`` where they are."""
        return Scorer(self, verbose=verbose, batch_size=batch_size, sim_fn=sim_fn)

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Encode queries (Q), encode documents (D), or re-rank (R), by the columns of ``inp``.

        Re-ranking reads texts where there are any: vectors beside them are a teacher's labels.
        """
        mode = mode_of(self, inp)
        if mode != "scorer":
            return getattr(self, mode)()(inp)
        texts = {QUERY_VEC: "query", DOC_VEC: self.text_field}
        labels = [column for column, text in texts.items() if text in inp.columns]
        scored = self.text_scorer()(inp.drop(columns=labels, errors="ignore"))
        return inp.assign(score=scored["score"].to_numpy(), rank=scored["rank"].to_numpy())

    def subtransformers(self) -> dict:
        """None: the student is what this is made of, not a stage of a pipeline."""
        return {}

    def __repr__(self) -> str:
        size = "" if self.batch_size == 1024 else f", batch_size={self.batch_size}"
        return f"USTADBiEncoder({self.ustad!r}{size})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, USTADBiEncoder) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))
