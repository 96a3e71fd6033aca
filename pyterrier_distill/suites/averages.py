"""Averages over datasets, each a value: its name, what it is over, and how it is taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


def arithmetic(values: Sequence[float]) -> float:
    """The sum of n values divided by n."""
    return math.fsum(values) / len(values)


def geometric(values: Sequence[float]) -> float:
    """exp of the mean logarithm; 0 where a value is 0."""
    return 0.0 if min(values) <= 0 else math.exp(math.fsum(map(math.log, values)) / len(values))


def root_mean_square(values: Sequence[float]) -> float:
    """The square root of the mean square; Rank-DistiLLM's Table 2 prints it as a geometric mean."""
    return math.sqrt(math.fsum(value * value for value in values) / len(values))


MEANS: dict[str, Callable[[Sequence[float]], float]] = {
    "arithmetic": arithmetic, "geometric": geometric, "root mean square": root_mean_square,
}  # fmt: skip


@dataclass(frozen=True)
class Average:
    """A mean over datasets.

    Attributes:
        name: as tables show it, such as ``"BEIR-13"``.
        over: the names of the datasets; members of one :attr:`Member.part_of`, or of one corpus, count as one.
        mean: ``"arithmetic"``, ``"geometric"`` or ``"root mean square"``.

    Raises:
        ValueError: for another mean, or no dataset.
    """

    name: str
    over: tuple[str, ...]
    mean: str = "arithmetic"

    def __post_init__(self) -> None:
        if self.mean not in MEANS:
            raise ValueError(f"mean must be one of {', '.join(MEANS)}, not {self.mean!r}.")
        if not self.over:
            raise ValueError(f"the average {self.name!r} is over no dataset.")

    def of(self, values: Mapping[str, float]) -> float:
        """The mean, or NaN where a dataset is missing: an average over fewer is another average.

        Args:
            values: dataset → value.
        """
        if not self.complete(values):
            return float("nan")
        return MEANS[self.mean]([values[name] for name in self.over])

    def complete(self, values: Mapping[str, float]) -> bool:
        """Whether all datasets are there."""
        return all(name in values and not math.isnan(values[name]) for name in self.over)
