"""Losses that stand in for nDCG, over graded judgements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..frames import LABEL, arguments
from . import base

if TYPE_CHECKING:
    from torch import Tensor


class LambdaLoss(base.Loss):
    """−log2 σ(s_i − s_j) for pairs of different label, weighted by what they change in nDCG (NDCG-Loss2++).

    Args:
        k: only pairs with a document among the student's first k; None = all.
        sigma: steepness of the sigmoid.
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
        if not sigma > 0:
            raise ValueError(f"sigma must be positive, not {sigma!r}.")
        self.k = k
        self.sigma = sigma
        self.mu = mu
        self.label = label

    def __call__(self, outputs: base.Outputs, labels: Mapping[str, Tensor]) -> Tensor:
        from . import functional

        return functional.lambda_loss(
            outputs.scores, labels[self.label], outputs.mask, k=self.k, sigma=self.sigma, mu=self.mu
        )


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


def _check_k(k: int | None) -> None:
    arguments.whole(k, "k", absent=True)
