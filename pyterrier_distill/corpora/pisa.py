"""PISA's retriever, with its queries in the order of the topics, and scores that say what its ranks do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyterrier_pisa

from ..frames.ranking import carried

#: A column by which results find back to their topic; dropped before anybody sees it.
_ROW = "__row__"


class InOrder(pyterrier_pisa.PisaRetrieve):
    """A ``PisaRetrieve`` whose threads' results are put in order: as the topics stand, each query's best first.

    PISA's threads write their queries' results as they finish, so the same call gives another order every time. Equal
    scores keep PISA's order, and carry it: see :mod:`pyterrier_distill.frames.ranking`.
    """

    @classmethod
    def of(cls, retriever: pyterrier_pisa.PisaRetrieve) -> InOrder:
        """``retriever``, ordered."""
        ordered = cls.__new__(cls)
        ordered.__dict__.update(retriever.__dict__)
        return ordered

    def transform(self, queries: pd.DataFrame) -> pd.DataFrame:
        """Retrieve for each query."""
        found = super().transform(queries.assign(**{_ROW: np.arange(len(queries))}))
        rows = found[_ROW].to_numpy(dtype=int)
        scores, ranks = carried(rows, found["score"].to_numpy(dtype=float), found["rank"].to_numpy())
        order = np.lexsort((ranks, rows))
        return found.drop(columns=_ROW).assign(score=scores, rank=ranks).iloc[order].reset_index(drop=True)

    def fuse_rank_cutoff(self, k: int) -> Any:
        """This retriever with fewer results, for ``retriever % k``."""
        cut = super().fuse_rank_cutoff(k)
        return None if cut is None else type(self).of(cut)
