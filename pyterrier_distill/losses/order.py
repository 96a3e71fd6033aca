"""What losses share that read nothing of a teacher but its order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from ..frames import TEACHER_RANK, TEACHER_SCORE, arguments, ascending, kind_of
from ..frames.kinds import Kind
from . import base

if TYPE_CHECKING:
    from torch import Tensor


class OrderLoss(base.Loss):
    """A loss over a teacher's order: its ranks, best = 0, or its scores, higher = better.

    Args:
        label: the column; one whose name begins with ``teacher_rank`` holds ranks, any other scores. None =
            ``teacher_rank`` where the training frame has it, else ``teacher_score``.
    """

    def __init__(self, label: str | None = None):
        self.label = arguments.column(label, absent=True)

    def reads(self) -> dict[str, Kind]:
        column = TEACHER_RANK if self.label is None else self.label
        return {column: kind_of(column)}

    def reading(self, columns: Iterable[str]) -> base.Loss:
        columns = set(columns)
        if self.label is not None or TEACHER_RANK in columns or TEACHER_SCORE not in columns:
            return self
        chosen = type(self).__new__(type(self))
        chosen.__dict__.update(self.__dict__, label=TEACHER_SCORE)
        return chosen

    def order(self, labels: Mapping[str, Tensor]) -> Tensor:
        """The teacher's order as scores ``[B, N]``, higher = better."""
        (column,) = self.columns()
        return ascending(column, labels[column])
