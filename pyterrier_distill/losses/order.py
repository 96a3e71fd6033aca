"""Losses that read nothing of a teacher but its order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from ..frames import TEACHER_RANK, TEACHER_SCORE, ascending, kind_of
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
        self.label = label

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


class RankNet(OrderLoss):
    """ln(1 + exp((s_j − s_i) / T)) for each pair that the teacher orders i before j, mean over all pairs of the batch.

    Args:
        label: the teacher's order; None = ``teacher_rank``, or ``teacher_score`` where there are no ranks.
        temperature: T divides the student's scores: 1 for logits, about 0.05 for cosines.

    References:
        Burges et al. 2005; Rank-DistiLLM (Schlatt et al. 2025) §3.2, which sums over pairs, and prints the
        difference of scores with the opposite sign, which would teach the reverse order.

    Labels:
        ``teacher_rank``: int a document, best = 0, or ``teacher_score``: float; ``[B, N]``. Tied documents form no
        pair; all-tied lists and lists of one give 0.

    Relations:
        sentence-transformers' ``RankNetLoss`` is this divided by ln 2 (it takes log2). :class:`PairwiseKL` reads how
        sure the teacher is of each pair, :class:`LambdaLoss` weighs pairs by what they change in nDCG.

    Example:
        >>> RankNet()
        RankNet()
    """

    def __init__(self, label: str | None = None, temperature: float = 1.0):
        super().__init__(label)
        self.temperature = base.positive(temperature)

    def __call__(self, outputs: base.Outputs, labels: Mapping[str, Tensor]) -> Tensor:
        from . import functional

        return functional.ranknet(outputs.scores / self.temperature, self.order(labels), outputs.mask)


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
