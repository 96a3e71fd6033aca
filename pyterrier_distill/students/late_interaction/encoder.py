"""What encodes each token of queries and documents, as PyTerrier's transformers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyterrier as pt

from ...frames import DOC_EMBS, QUERY_EMBS, validate
from ...frames.ranking import rerank
from .views import MaxSimScorer, TokenDocEncoder, TokenQueryEncoder


class TokenEncoder(pt.Transformer):
    """Q → Q, D → D, and R → R by MaxSim of vectors of tokens.

    A class of them says how texts are encoded (:meth:`encode`).

    Attributes:
        text_field: the column of document text.
        batch_size: most texts of one forward pass.
        verbose: True = encoding shows progress, False = never; None = once it takes more than three seconds.
        device: None = the GPU where there is one.
    """

    text_field: str
    batch_size: int | None
    verbose: bool | None
    device: str | None

    def encode(
        self, texts: Sequence[str], task: str, *, batch_size: int | None = None, verbose: bool | None = None
    ) -> list[np.ndarray]:
        """Token vectors of n texts of the ``"query"`` or ``"document"`` side: n arrays float32 ``[tokens, dim]``."""
        raise TypeError(f"{type(self).__name__} does not say how it encodes.")

    def query_encoder(self, verbose: bool | None = None, batch_size: int | None = None) -> TokenQueryEncoder:
        """Q → Q with ``query_embs`` (float32[tokens, dim]); also R → R.

        Args:
            verbose: whether to show progress; None = as this model.
            batch_size: as in the constructor.
        """
        return TokenQueryEncoder(self, verbose=verbose, batch_size=batch_size)

    def doc_encoder(self, verbose: bool | None = None, batch_size: int | None = None) -> TokenDocEncoder:
        """D → D with ``doc_embs`` (float32[tokens, dim]); also R → R. Arguments as in :meth:`query_encoder`."""
        return TokenDocEncoder(self, verbose=verbose, batch_size=batch_size)

    def text_scorer(self, verbose: bool | None = None, batch_size: int | None = None) -> MaxSimScorer:
        """R → R: re-ranks by MaxSim, reading ``query_embs`` and ``doc_embs`` where they are."""
        return MaxSimScorer(self, verbose=verbose, batch_size=batch_size)

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Encode queries (Q), encode documents (D), or re-rank (R), by the columns of ``inp``.

        Re-ranking reads texts where there are any; ``query_embs`` and ``doc_embs`` where there are none.
        """
        with validate.any(inp, context=self) as v:
            v.result_frame(["query", self.text_field], mode="text_scorer")
            v.query_frame(["query"], mode="query_encoder")
            v.document_frame([self.text_field], mode="doc_encoder")
            for query in ("query", QUERY_EMBS):
                for document in (self.text_field, DOC_EMBS):
                    v.result_frame([query, document], mode="text_scorer")
        if v.mode != "text_scorer":
            return getattr(self, v.mode)()(inp)
        texts = {QUERY_EMBS: "query", DOC_EMBS: self.text_field}
        read = inp.drop(columns=[c for c, text in texts.items() if text in inp.columns], errors="ignore")
        return rerank(inp, self.text_scorer().scores(read))
