"""Losses on two documents at a time: margins, orders, preferences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..frames import LABEL, TEACHER_PREFS, TEACHER_SCORE, arguments
from ..frames.kinds import PREFERENCES, Kind
from . import base
from .order import OrderLoss

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MarginMSE", "RankNet", "PairwiseKL", "LambdaLoss"]


class MarginMSE(base.Loss):
    """Squared difference of the student's and the teacher's score margins.

    Args:
        pairs: ``"first"`` = the list's first document against each other one, by ``rank``, else by ``score``: give the
            positive rank 0. ``"all"`` = every pair the teacher orders.
        label: the teacher's scores, raw: probabilities flatten the margins.

    References:
        Hofstätter et al. 2020, Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge
        Distillation.

    Labels:
        ``teacher_score``: float a document, ``[B, N]``. With ``"all"``, all-tied lists give 0. Lists of one give 0.

    Relations:
        ``"first"`` equals sentence-transformers' ``MarginMSELoss``; ``"all"`` lightning-ir's ``SupervisedMarginMSE``.

    Example:
        >>> MarginMSE(pairs="all")
        MarginMSE(pairs='all')
    """

    def __init__(self, pairs: str = "first", label: str = TEACHER_SCORE):
        if pairs not in ("first", "all"):
            raise ValueError(f"pairs must be 'first' or 'all', not {pairs!r}.")
        self.pairs = pairs
        self.label = arguments.column(label)

    @property
    def reads_order(self) -> bool:  # type: ignore[override]
        return self.pairs == "first"

    def __call__(self, outputs: base.Outputs, labels: Mapping[str, Tensor]) -> Tensor:
        from . import functional

        return functional.margin_mse(outputs.scores, labels[self.label], outputs.mask, pairs=self.pairs)


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
        self.temperature = arguments.positive(temperature, "temperature")

    def __call__(self, outputs: base.Outputs, labels: Mapping[str, Tensor]) -> Tensor:
        from . import functional

        return functional.ranknet(outputs.scores / self.temperature, self.order(labels), outputs.mask)


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
        self.label = arguments.column(label)
        self.temperature = arguments.positive(temperature, "temperature")

    def reads(self) -> dict[str, Kind]:
        return {self.label: PREFERENCES}

    def __call__(self, outputs: base.Outputs, labels: Mapping[str, Tensor]) -> Tensor:
        from . import functional

        pairs = labels[self.label]
        return functional.pairwise_kl(outputs.scores / self.temperature, pairs[:, :3].long(), pairs[:, 3])


class LambdaLoss(base.Loss):
    """−log2 σ(s_i − s_j) for pairs of different label, weighted by what they change in nDCG (NDCG-Loss2++).

    Args:
        k: only pairs with a document among the student's first k; None = all.
        sigma: steepness of the sigmoid: 1 for logits, about 20 for cosines.
        mu: weight of the discount by distance in rank beside the discount by rank.
        label: the judgements, graded; negative ones count as 0.

    References:
        Wang et al. 2018, The LambdaLoss Framework for Ranking Metric Optimization, which sums over pairs.

    Labels:
        ``label``: int a document, ``[B, N]``. Lists whose labels are all equal give 0.

    Relations:
        Equals sentence-transformers' ``LambdaLoss``, but for documents that the student ties: here the worse is ranked
        first, there their order in the list decides. With ``k`` a pair counts if either document is among the first k
        (sentence-transformers' rule; allRank wants both). Without weights it is :class:`RankNet` on judgements.

    Example:
        >>> LambdaLoss(k=10)
        LambdaLoss(k=10)
    """

    def __init__(self, k: int | None = None, sigma: float = 1.0, mu: float = 10.0, label: str = LABEL):
        _check_k(k)
        self.k = k
        self.sigma = arguments.positive(sigma, "sigma")
        self.mu = arguments.positive(mu, "mu", zero=True)
        self.label = arguments.column(label)

    def __call__(self, outputs: base.Outputs, labels: Mapping[str, Tensor]) -> Tensor:
        from . import functional

        return functional.lambda_loss(
            outputs.scores, labels[self.label], outputs.mask, k=self.k, sigma=self.sigma, mu=self.mu
        )


def _check_k(k: int | None) -> None:
    arguments.whole(k, "k", absent=True)
