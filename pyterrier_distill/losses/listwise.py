"""Losses on whole lists: distributions, orders, and what stands in for nDCG."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..frames import LABEL, TEACHER_SCORE
from . import base
from .order import OrderLoss

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["KLDivergence", "ListNet", "ListMLE", "ADRMSE", "ApproxNDCG"]


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

    #: What divides scores in the softmax: nothing.
    temperature = 1.0

    def __init__(self, label: str = TEACHER_SCORE):
        self.label = label

    def __call__(self, outputs: base.Outputs, labels: Mapping[str, Tensor]) -> Tensor:
        from . import functional

        return functional.list_net(outputs.scores, labels[self.label], outputs.mask)


class ListMLE(OrderLoss):
    """−log likelihood of the teacher's order, summed over a list's documents, mean over queries.

    Args:
        label: the teacher's order; None = ``teacher_rank``, or ``teacher_score`` where there are no ranks.

    References:
        Xia et al. 2008, Listwise Approach to Learning to Rank: Theory and Algorithm.

    Labels:
        ``teacher_rank`` or ``teacher_score``, ``[B, N]``. Tied documents do not compete with each other; all-tied lists
        give 0.

    Relations:
        With one document before all others, which are tied: :class:`LocalizedContrastive`. sentence-transformers'
        ``ListMLELoss`` is the same without ties; tied documents it takes in some order.

    Example:
        >>> ListMLE()
        ListMLE()
    """

    #: What divides scores in the softmax: nothing.
    temperature = 1.0

    def __call__(self, outputs: base.Outputs, labels: Mapping[str, Tensor]) -> Tensor:
        from . import functional

        return functional.list_mle(outputs.scores, self.order(labels), outputs.mask)


class ADRMSE(OrderLoss):
    """Squared difference of the student's smooth rank and the teacher's, discounted by the latter, mean over documents.

    Args:
        alpha: steepness of the smooth rank 1 + Σ σ(α (s_j − s_i)).
        discount: ``"log2"``: 1 / log2(1 + rank); None = equal weights.
        label: the teacher's order; None = ``teacher_rank``, or ``teacher_score`` where there are no ranks.

    References:
        Rank-DistiLLM (Schlatt et al. 2025) §3.2 (ADR-MSE), which sums over documents; its Appendix B prints the smooth
        rank wrongly. Qin et al. 2010 for smooth ranks.

    Labels:
        ``teacher_rank`` or ``teacher_score``, ``[B, N]``. Tied documents share their mean rank.

    Relations:
        Equals sentence-transformers' ``ADRMSELoss``. :class:`RankNet` reads the same labels pair by pair.

    Example:
        >>> ADRMSE(alpha=2.0)
        ADRMSE(alpha=2.0)
    """

    def __init__(self, alpha: float = 1.0, discount: str | None = "log2", label: str | None = None):
        if not alpha > 0:
            raise ValueError(f"alpha must be positive, not {alpha!r}.")
        if discount not in ("log2", None):
            raise ValueError(f"discount must be 'log2' or None, not {discount!r}.")
        super().__init__(label)
        self.alpha = alpha
        self.discount = discount

    def __call__(self, outputs: base.Outputs, labels: Mapping[str, Tensor]) -> Tensor:
        from . import functional

        return functional.adr_mse(outputs.scores, self.order(labels), outputs.mask, self.alpha, self.discount)


class ApproxNDCG(base.Loss):
    """1 − nDCG at the student's smooth ranks, mean over queries whose labels differ.

    Args:
        alpha: steepness of the smooth ranks 1 + Σ σ(α (s_j − s_i)).
        label: the judgements, graded; negative ones count as 0.

    References:
        Qin et al. 2010; Bruch et al. 2019 on alpha.

    Labels:
        ``label``: int a document, ``[B, N]``. Lists whose labels are all equal give 0.

    Relations:
        One plus TF-Ranking's and allRank's, which are −nDCG.

    Example:
        >>> ApproxNDCG(alpha=10.0)
        ApproxNDCG(alpha=10.0)
    """

    def __init__(self, alpha: float = 1.0, label: str = LABEL):
        if not alpha > 0:
            raise ValueError(f"alpha must be positive, not {alpha!r}.")
        self.alpha = alpha
        self.label = label

    def __call__(self, outputs: base.Outputs, labels: Mapping[str, Tensor]) -> Tensor:
        from . import functional

        return functional.approx_ndcg(outputs.scores, labels[self.label], outputs.mask, self.alpha)
