"""Several teachers' labels fused into one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from .. import frames
from ..frames import TEACHER_SCORE, arguments, validate
from ..frames.ranking import rerank
from .base import Teacher, check_label

HOW = ("zscore", "minmax", "reciprocal_rank")


def _weighs(weight: Any) -> bool:
    number = isinstance(weight, (int, float, np.number)) and not isinstance(weight, bool)
    return number and bool(np.isfinite(weight)) and weight > 0


class FusedTeacher(Teacher):
    """R → R: averages label columns into one, query by query, and re-ranks by it. See :func:`fuse_teachers`."""

    schematic = {"label": "FusedTeacher"}

    def __init__(
        self,
        columns: Sequence[str],
        how: str = "zscore",
        weights: Sequence[float] | None = None,
        label: str = TEACHER_SCORE,
        k: float = 60.0,
    ):
        if how not in HOW:
            raise ValueError(f"strategy must be one of {', '.join(HOW)}, not {how!r}.")
        if len(columns) < 2 or len(set(columns)) < len(columns):
            raise ValueError(f"name at least two different label columns to fuse, not {list(columns)}.")
        if weights is not None and (len(weights) != len(columns) or not all(map(_weighs, weights))):
            raise ValueError(f"weights must be {len(columns)} positive numbers, not {weights!r}.")
        arguments.positive(k, "k")
        self.columns = list(columns)
        self.how = how
        self.weights = None if weights is None else list(weights)
        self.label = check_label(label, TEACHER_SCORE)
        self.k = k

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add the fused label; replace ``score`` and ``rank``."""
        validate.result_frame(inp, self.columns, context=self)
        for column in self.columns:
            frames.check_numbers(inp, column)
        weights = np.array(self.weights or [1.0] * len(self.columns))
        total = np.zeros(len(inp))
        for weight, column in zip(weights / weights.sum(), self.columns, strict=True):
            values = pd.Series(frames.ascending(column, inp[column].to_numpy(dtype=float)))
            by_query = values.groupby(inp["qid"].to_numpy(), sort=False)
            if len(inp):
                total += weight * self._normalised(values, by_query).to_numpy(dtype=float)
        total = total.round(12)  # what cancels out but for rounding is tied
        return rerank(inp, total, **{self.label: total})

    def _normalised(self, values: pd.Series, by_query: Any) -> pd.Series:
        """Values of one teacher on a scale that all share; a query's tied ones become 0 (ranks: their mean rank)."""
        if self.how == "reciprocal_rank":
            return 1.0 / (self.k + by_query.rank(ascending=False, method="average"))
        if self.how == "minmax":
            low, span = by_query.transform("min"), by_query.transform("max") - by_query.transform("min")
        else:
            low, span = by_query.transform("mean"), by_query.transform(lambda v: v.std(ddof=0))
        tied = span <= 1e-12 * values.abs().clip(lower=1.0)
        return ((values - low) / span.mask(tied, 1.0)).mask(tied, 0.0)


@arguments.renamed(how="strategy")
def fuse_teachers(
    *columns: str,
    strategy: str = "zscore",
    weights: Sequence[float] | None = None,
    label: str = TEACHER_SCORE,
    k: float = 60.0,
) -> FusedTeacher:
    """A transformer that averages several teachers' labels into one, query by query, and re-ranks by it.

    Args:
        *columns: the label columns: scores, or ranks (``rank``, and those that begin with ``teacher_rank``; 0 is best).
        strategy: ``"zscore"`` (mean 0, standard deviation 1 in each query), ``"minmax"`` (0 to 1), or
            ``"reciprocal_rank"`` (1 / (k + rank), ranks from 1, tied ones averaged).
        weights: of the columns; None = equal.
        label: the column of the result: ``teacher_score``, or one that extends it.
        k: of the reciprocal rank; 60 in Cormack et al. 2009.

    Raises:
        ValueError: for fewer than two columns, or impossible settings.

    Example::

        fused = ptd.fuse_teachers("teacher_score", "teacher_score_minilm", label="teacher_score_fused")
        labelled = (candidates >> monot5 >> minilm >> fused)(topics)
    """
    return FusedTeacher(columns, strategy, weights, label, k)
