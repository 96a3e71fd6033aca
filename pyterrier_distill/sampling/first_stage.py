"""The first stage's ranking, kept in a column that teachers leave alone."""

from __future__ import annotations

import pandas as pd
import pyterrier as pt

from ..frames import FIRST_STAGE_RANK, validate
from ..frames.ranking import incoming_order


class FirstStageRank(pt.Transformer):
    """R → R: adds ``first_stage_rank``; made by :func:`first_stage_rank`."""

    schematic = {"label": "FirstStageRank"}

    def __init__(self) -> None:
        super().__init__()

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add or replace the column."""
        validate.result_frame(inp, context=self)
        return inp.assign(**{FIRST_STAGE_RANK: incoming_order(inp)})

    def __repr__(self) -> str:
        return "first_stage_rank()"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FirstStageRank)

    def __hash__(self) -> int:
        return hash(repr(self))


def first_stage_rank() -> FirstStageRank:
    """A transformer that keeps each document's place in the ranking at hand, from 0, as ``first_stage_rank``.

    Teachers write ``score`` and ``rank`` anew; this column stays, in stores, too, for ``ListSampler(order=
    "first_stage")``.

    References:
        Rank-DistiLLM (Schlatt et al. 2025) §3.2 and Figure 1: of lists that an LLM has re-ranked, the passages among
        the first 10, 25 or 50 of the first stage.

    Example::

        labelled = (bm25 % 100 >> ptd.first_stage_rank() >> text >> zephyr)(topics)
        sampler = ptd.ListSampler(25, depth=25, order="first_stage")
        ptd.Distiller(student, ptd.RankNet(), sampler=sampler).fit(labelled)
    """
    return FirstStageRank()
