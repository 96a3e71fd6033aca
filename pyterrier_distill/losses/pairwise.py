"""The loss over preferences between two documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..frames import TEACHER_PREFS
from ..frames.kinds import PREFERENCES, Kind
from . import base

if TYPE_CHECKING:
    from torch import Tensor


class PairwiseKL(base.Loss):
    """KL divergence from σ((s_i − s_j) / T) to the teacher's P(i ≻ j), mean over the pairs that it compared.

    Args:
        label: the teacher's preferences.
        temperature: T divides the student's scores: 1 for logits, about 0.05 for cosines, whose differences say
            P(i ≻ j) near 0.5 otherwise.

    References:
        PairDistill (Huang & Chen 2024) §4.2, which prints a sum over a query's pairs; its code takes their mean, as
        here.

    Labels:
        ``teacher_prefs``: dict a document, other docno → P(this ≻ other). Pairs of which the list holds one document
        only are left out; lists without pairs give no gradient.

    Relations:
        :class:`RankNet` with soft targets, less the teacher's entropy.

    Example:
        >>> 3.0 * PairwiseKL()
        3.0 * PairwiseKL()
    """

    def __init__(self, label: str = TEACHER_PREFS, temperature: float = 1.0):
        self.label = label
        self.temperature = base.positive(temperature)

    def reads(self) -> dict[str, Kind]:
        return {self.label: PREFERENCES}

    def __call__(self, outputs: base.Outputs, labels: Mapping[str, Tensor]) -> Tensor:
        from . import functional

        pairs = labels[self.label]
        return functional.pairwise_kl(outputs.scores / self.temperature, pairs[:, :3].long(), pairs[:, 3])
