"""What encodes queries and documents apart, as PyTerrier's transformers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyterrier_dr
from pyterrier_dr import SimFn

from ...frames import DOC_VEC, QUERY_VEC, validate
from .views import DocEncoder, QueryEncoder, Scorer

if TYPE_CHECKING:
    import torch


class Encoder(pyterrier_dr.BiEncoder):
    """A ``pyterrier_dr.BiEncoder``: Q → Q, D → D, and R → R by the product of vectors.

    A class of encoders says :attr:`dimension`, :attr:`sim_fn`, :meth:`encode_side` and :meth:`encode_queries_torch`.
    """

    text_field: str
    batch_size: int
    verbose: bool | None
    #: An index of documents' vectors that are looked up instead of computed.
    doc_index: pyterrier_dr.FlexIndex | None = None

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        raise TypeError(f"{type(self).__name__} does not say its dimension.")

    @property
    def sim_fn(self) -> SimFn:
        """How vectors are compared."""
        return SimFn.dot

    @property
    def freeze_docs(self) -> bool:
        """Whether documents' vectors stay what they are."""
        return False

    @property
    def model_name(self) -> str:
        """What pyterrier_dr's encoders compare two models by."""
        return repr(self)

    # -- encoding -----------------------------------------------------------------------------------------------------

    def encode_side(self, texts: list[str], side: str, batch_size: int) -> np.ndarray:
        """Vectors float32 ``[n, dimension]`` of n ≥ 1 texts of the ``"query"`` or ``"document"`` side."""
        raise TypeError(f"{type(self).__name__} does not say how it encodes.")

    def encode_queries_torch(self, texts: list[str], batch_size: int | None = None) -> torch.Tensor:
        """Encode query texts with gradients; ``[n, dimension]`` on the model's device."""
        raise TypeError(f"{type(self).__name__} does not say how it encodes.")

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

    def _encode(self, texts: Iterable[str], side: str, batch_size: int | None) -> np.ndarray:
        if isinstance(texts, str):
            raise ValueError(f"texts must be a list of texts, not the text {texts!r}.")
        # pyterrier_dr passes its own progress bar round the texts where verbose; ours counts distinct ones.
        texts = list(getattr(texts, "iterable", texts))
        if not texts:
            return np.empty((0, 0), dtype=np.float32)
        return self.encode_side(texts, side, batch_size or self.batch_size)

    # -- as transformers ----------------------------------------------------------------------------------------------

    def query_encoder(self, verbose: bool | None = None, batch_size: int | None = None) -> QueryEncoder:
        """Q → Q with ``query_vec`` (float32[dimension]); also R → R.

        Args:
            verbose: whether to show progress; None = as this model.
            batch_size: as in the constructor.
        """
        return QueryEncoder(self, verbose=verbose, batch_size=batch_size)

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
        mode = self._mode_for(inp)
        if mode != "scorer":
            return getattr(self, mode)().encoded(inp)
        labels = [QUERY_VEC] if "query" in inp.columns else []
        if self.text_field in inp.columns and not self.freeze_docs:
            labels.append(DOC_VEC)
        scored = self.text_scorer().scored(inp.drop(columns=labels, errors="ignore"))
        out = inp.drop(columns=["score", "rank"], errors="ignore")
        return out.assign(score=scored["score"].to_numpy(), rank=scored["rank"].to_numpy())

    def _mode_for(self, inp: pd.DataFrame) -> str:
        """What to do with a frame: ``"scorer"``, ``"query_encoder"`` or ``"doc_encoder"``.

        Re-ranking takes each side as text or as a vector, and documents from ``doc_index``; a column ``query`` or a
        text alone is encoded.

        Raises:
            pt.validate.InputValidationError: for a frame that is none of these.
        """
        with validate.any(inp, context=self) as v:
            v.result_frame(["query", self.text_field], mode="scorer")
            v.query_frame(["query"], mode="query_encoder")
            v.document_frame([self.text_field], mode="doc_encoder")
            for query in ("query", QUERY_VEC):
                for document in (self.text_field, DOC_VEC):
                    v.result_frame([query, document], mode="scorer")
            if self.doc_index is not None:
                v.result_frame(["query"], mode="scorer")
                v.result_frame([QUERY_VEC], mode="scorer")
            v.columns(includes=["query"], excludes=[self.text_field, DOC_VEC, "docno"], mode="query_encoder")
            v.columns(includes=[self.text_field], excludes=["query", QUERY_VEC, "qid"], mode="doc_encoder")
        return v.mode
