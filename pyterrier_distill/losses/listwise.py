"""Losses that compare a list's score distribution with the teacher's, or two scorings of one list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..frames import TEACHER_SCORE
from . import base

if TYPE_CHECKING:
    from torch import Tensor


class KLDivergence(base.Loss):
    """KL divergence from the teacher's to the student's softmax over a list, mean over queries.

    Args:
        temperature: T > 0 divides both scores; larger spreads the teacher's mass down the list. No T² factor.
        label: the teacher's scores.

    References:
        PairDistill (Huang & Chen 2024) §4.2; Distillation versus Contrastive Learning (Xu et al. 2025) §3.

    Labels:
        ``teacher_score``: float a document, ``[B, N]``; logits or log-probabilities.

    Relations:
        Same gradient as :class:`ListNet` at T = 1. sentence-transformers' ``DistillKLDivLoss`` is T² times this.

    Example:
        >>> 2.0 * KLDivergence(temperature=0.5)
        2.0 * KLDivergence(temperature=0.5)
    """

    def __init__(self, temperature: float = 1.0, label: str = TEACHER_SCORE):
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, not {temperature!r}.")
        self.temperature = temperature
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
    """Mean absolute difference between the student's scores and another scoring of the same documents.

    USTAD aligns the modes of one model with it; over a label column it aligns the student with any stored scores.

    Args:
        label: the other scores, on the student's scale.

    References:
        USTAD (Kim et al. 2024) Eq. 8, the λ term.

    Labels:
        ``teacher_score``: float a document, ``[B, N]``.

    Relations:
        :class:`MSE` with absolute instead of squared differences.

    Example:
        >>> ScoreMatch()
        ScoreMatch()
    """

    min_documents = 1

    def __init__(self, label: str = TEACHER_SCORE):
        self.label = label

    def __call__(self, outputs: base.Outputs, labels: Mapping[str, Tensor]) -> Tensor:
        from . import functional

        return functional.score_match(outputs.scores, labels[self.label], outputs.mask)
