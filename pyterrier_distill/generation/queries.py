"""Queries written into the ``querygen`` column of documents, and the frames made of them."""

from __future__ import annotations

import pandas as pd
import pyterrier as pt
import pyterrier_alpha as pta

from ..frames import check_text

QUERYGEN = "querygen"


class ExplodeQueries(pt.Transformer):
    """D with ``querygen`` → R: a row for every query of a document, with that document as its positive.

    The qid is ``<docno>-<n>``, n counting the document's queries from 0, so it does not depend on other documents.
    Empty lines are no queries. Every other column of the document stays. The order is that of the input.
    """

    schematic = {"label": "ExplodeQueries"}

    def __init__(self) -> None:
        super().__init__()

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Explode ``querygen``, queries separated by newlines."""
        pt.validate.document_frame(inp, [QUERYGEN], context=self)
        check_text(inp, [QUERYGEN])
        queries = [[line for line in cell.splitlines() if line.strip()] for cell in inp[QUERYGEN]]
        out = inp.drop(columns=[QUERYGEN]).assign(query=pd.Series(queries, index=inp.index, dtype=object))
        out = out.explode("query", ignore_index=True).dropna(subset=["query"]).reset_index(drop=True)
        number = out.groupby("docno").cumcount()
        return out.assign(qid=[f"{docno}-{n}" for docno, n in zip(out["docno"], number, strict=True)])

    __repr__ = pta.transformer_repr

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExplodeQueries)

    def __hash__(self) -> int:
        return hash(repr(self))


def explode_queries() -> ExplodeQueries:
    """D with ``querygen`` → R with ``qid``, ``query`` and the document as positive; see :class:`ExplodeQueries`."""
    return ExplodeQueries()
