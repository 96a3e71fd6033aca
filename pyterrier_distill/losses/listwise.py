"""Losses that compare a list's score distribution with the teacher's, or two scorings of one list."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..frames import TEACHER_SCORE
from ..frames.kinds import Kind
from . import base

if TYPE_CHECKING:
    from torch import Tensor


class KLDivergence(base.Loss):
    """KL divergence from the teacher's to the student's softmax over a list, mean over queries.

    Args:
        temperature: T > 0 divides both scores; larger spreads the teacher's mass down the list. No T² factor.
        label: the teacher's scores.

    References:
        PairDistill (Huang & Chen 2024) §3.3, which prints its temperature in the teacher's softmax alone (and takes 1,
        App. C.2, where that is the same); Distillation versus Contrastive Learning (Xu et al. 2025) §3.3.

    Labels:
        ``teacher_score``: float a document, ``[B, N]``; logits or log-probabilities.

    Relations:
        Same gradient as :class:`ListNet` at T = 1. sentence-transformers' ``DistillKLDivLoss`` is T² times this.

    Example:
        >>> 2.0 * KLDivergence(temperature=0.5)
        2.0 * KLDivergence(temperature=0.5)
    """

    def __init__(self, temperature: float = 1.0, label: str = TEACHER_SCORE):
        self.temperature = base.positive(temperature)
        self.label = label

    def __call__(self, outputs: base.Outputs, labels: Mapping[str, Tensor]) -> Tensor:
        from . import functional

        return functional.kl_divergence(outputs.scores, labels[self.label], outputs.mask, self.temperature)


class ListNet(base.Loss):
    """Cross-entropy of the student's softmax over a list under the teacher's, mean over queries.

    Args:
        label: the teacher's scores.

    References:
        Cao et al. 2007, Learning to Rank: From Pairwise Approach to Listwise Approach. USTAD Eq. 16.

    Labels:
        ``teacher_score``: float a document, ``[B, N]``.

    Relations:
        :class:`KLDivergence` plus the teacher's entropy; equals sentence-transformers' ``ListNetLoss``.

    Example:
        >>> ListNet()
        ListNet()
    """

    def __init__(self, label: str = TEACHER_SCORE):
        self.label = label

    def __call__(self, outputs: base.Outputs, labels: Mapping[str, Tensor]) -> Tensor:
        from . import functional

        return functional.list_net(outputs.scores, labels[self.label], outputs.mask)


class ScoreMatch(base.Loss):
    """Mean absolute difference between two scorings of the same documents.

    Without ``label``, between the modes of a student that trains several (:class:`~pyterrier_distill.USTAD`): summed
    over the pairs of modes, so its weight is Eq. 8's λ for each pair (that norm is not named;
    here it is the mean absolute difference). Both modes of a pair move. With ``label``,
    between the student's scores, in each mode, and that column.

    Args:
        label: the other scores, on the student's scale, such as ``"teacher_score"``; None = the student's other modes.

    References:
        USTAD (Kim et al. 2024) Eq. 8, the λ term.

    Labels:
        none; with ``label``, float a document, ``[B, N]``.

    Relations:
        :class:`MSE` with absolute instead of squared differences.

    Example:
        >>> ScoreMatch(label="teacher_score")
        ScoreMatch(label='teacher_score')
    """

    min_documents = 1

    def __init__(self, label: str | None = None):
        self.label = label
        self.needs = frozenset({base.MODES if label is None else base.SCORES})

    def reads(self) -> dict[str, Kind]:
        return {} if self.label is None else super().reads()

    def __call__(self, outputs: base.Outputs, labels: Mapping[str, Tensor]) -> Tensor:
        from . import functional

        if self.label is not None:
            return functional.score_match(outputs.scores, labels[self.label], outputs.mask)
        pairs = itertools.combinations((mode.scores for mode in (outputs.modes or {}).values()), 2)
        first, *others = (functional.score_match(a, b, outputs.mask) for a, b in pairs)
        return sum(others, start=first)

    def total(self, outputs: base.Outputs, labels: Mapping[str, Tensor]) -> Tensor:
        return self(outputs, labels) if self.label is None else super().total(outputs, labels)
