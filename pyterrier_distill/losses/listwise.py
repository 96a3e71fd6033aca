"""Losses on whole lists: distributions, orders, and what stands in for nDCG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..frames import LABEL, TEACHER_SCORE, arguments
from . import base
from .in_batch import BatchLoss
from .order import OrderLoss

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["KLDivergence", "ListNet", "ListMLE", "ADRMSE", "ApproxNDCG"]


class KLDivergence(BatchLoss):
    """KL divergence from the teacher's to the student's softmax over a list, mean over queries.

    With ``in_batch=True``, over all documents of the batch, those of other processes included, each once: the teacher's
    scores are inner products of its vectors, which may have another dimension than the student's. Lists of one document
    teach then, too.

    Args:
        temperature: T > 0 divides both scores; larger spreads the teacher's mass down the list. No T² factor.
        label: the teacher's scores; in batch the columns of its vectors, ``("query_vec", "doc_vec")`` if not said.
        student_temperature: divides the student's scores where that is another temperature: with 1, ``temperature`` is
            the teacher's alone. None = ``temperature``.
        in_batch: whether a query is compared with the documents of the others, too.

    References:
        PairDistill (Huang & Chen 2024) §3.3, which prints its temperature in the teacher's softmax alone:
        ``student_temperature=1`` (it takes 1 for both, App. C.2); Distillation versus Contrastive Learning (Xu et al.
        2025) §3.3; USTAD (Kim et al. 2024) App. A for ``in_batch``: Eq. 16 with in-batch negatives and temperatures.

    Labels:
        ``teacher_score``: float a document, ``[B, N]``; logits or log-probabilities. In batch ``query_vec``: float32[D]
        a query, and ``doc_vec``: float32[D] a document.

    Relations:
        Same gradient as :class:`ListNet` at T = 1. sentence-transformers' ``DistillKLDivLoss`` is T² times this.

    Example:
        >>> 2.0 * KLDivergence(temperature=0.5)
        2.0 * KLDivergence(temperature=0.5)
    """

    def __init__(
        self,
        temperature: float = 1.0,
        label: str | Sequence[str] = TEACHER_SCORE,
        student_temperature: float | None = None,
        in_batch: bool = False,
    ):
        super().__init__(label, in_batch)
        self.temperature = arguments.positive(temperature, "temperature")
        self.student_temperature = arguments.positive(student_temperature, "student_temperature", absent=True)

    def __call__(self, outputs: base.Outputs, labels: Mapping[str, Tensor]) -> Tensor:
        from . import functional

        scores = self.compared(outputs, labels)
        return functional.kl_divergence(*scores, self.temperature, self.student_temperature)


class ListNet(BatchLoss):
    """Cross-entropy of the student's softmax over a list under the teacher's, mean over queries.

    Args:
        label: the teacher's scores; in batch the columns of its vectors, ``("query_vec", "doc_vec")`` if not said.
        in_batch: whether a query is compared with the documents of the others, too; as for :class:`KLDivergence`.

    References:
        Cao et al. 2007, Learning to Rank: From Pairwise Approach to Listwise Approach. USTAD (Kim et al. 2024) App. A:
        Eq. 16, with in-batch negatives where ``in_batch``.

    Labels:
        ``teacher_score``: float a document, ``[B, N]``. In batch ``query_vec``: float32[D] a query, and ``doc_vec``:
        float32[D] a document.

    Relations:
        :class:`KLDivergence` plus the teacher's entropy; equals sentence-transformers' ``ListNetLoss``.

    Example:
        >>> ListNet()
        ListNet()
    """

    #: What divides scores in the softmax: nothing.
    temperature = 1.0

    def __init__(self, label: str | Sequence[str] = TEACHER_SCORE, in_batch: bool = False):
        super().__init__(label, in_batch)

    def __call__(self, outputs: base.Outputs, labels: Mapping[str, Tensor]) -> Tensor:
        from . import functional

        return functional.list_net(*self.compared(outputs, labels))


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
        alpha: steepness of the smooth rank 1 + Σ σ(α (s_j − s_i)): 1 for logits, about 20 for cosines.
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
        if discount not in ("log2", None):
            raise ValueError(f"discount must be 'log2' or None, not {discount!r}.")
        super().__init__(label)
        self.alpha = arguments.positive(alpha, "alpha")
        self.discount = discount

    def __call__(self, outputs: base.Outputs, labels: Mapping[str, Tensor]) -> Tensor:
        from . import functional

        return functional.adr_mse(outputs.scores, self.order(labels), outputs.mask, self.alpha, self.discount)


class ApproxNDCG(base.Loss):
    """1 − nDCG at the student's smooth ranks, mean over queries whose labels differ.

    Args:
        alpha: steepness of the smooth ranks 1 + Σ σ(α (s_j − s_i)): 1 for logits, about 20 for cosines.
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
        self.alpha = arguments.positive(alpha, "alpha")
        self.label = arguments.column(label)

    def __call__(self, outputs: base.Outputs, labels: Mapping[str, Tensor]) -> Tensor:
        from . import functional

        return functional.approx_ndcg(outputs.scores, labels[self.label], outputs.mask, self.alpha)
