"""Losses over pairs of documents."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .gains import scaled_gains
from .masking import masked_mean, prepared

__all__ = ["margin_mse", "ranknet", "pairwise_kl", "lambda_loss"]


def margin_mse(student: Tensor, teacher: Tensor, mask: Tensor | None = None, pairs: str = "first") -> Tensor:
    """Squared difference of the student's and the teacher's margins, mean over pairs (Hofstätter et al. 2020).

    Margins are signed. Adding a constant to all scores of a list changes nothing; scaling does.

    Args:
        student: scores ``[B, N]``.
        teacher: scores ``[B, N]``, raw scores rather than probabilities (a sigmoid flattens the margins).
        mask: ``[B, N]``.
        pairs: ``"first"``: document 0 against each other one of its list (put the positive first; as in
            sentence-transformers). ``"all"``: every pair with t_i > t_j, so that document order does not matter.

    Returns:
        Scalar ≥ 0; 0 where no list has a pair. With ``"all"`` an all-tied list has none.

    Raises:
        ValueError: for another word in ``pairs``.
    """
    student, teacher, mask = prepared(student, teacher, mask)
    if pairs == "first":
        difference = (student[:, :1] - student[:, 1:]) - (teacher[:, :1] - teacher[:, 1:])
        return masked_mean(difference.square(), mask[:, 1:] & mask[:, :1])
    if pairs != "all":
        raise ValueError(f"pairs must be 'first' or 'all', not {pairs!r}.")
    student_margin = student[:, :, None] - student[:, None, :]
    teacher_margin = teacher[:, :, None] - teacher[:, None, :]
    return masked_mean((student_margin - teacher_margin).square(), ordered_pairs(teacher, mask))


def ranknet(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of ln(1 + exp(s_j − s_i)) over all pairs with t_i > t_j, pooled over the batch (Burges et al. 2005).

    Rank-DistiLLM (§3.2) sums over pairs instead of taking their mean. Only the teacher's order counts.

    Args:
        student: scores ``[B, N]``.
        teacher: scores ``[B, N]``; negate ranks.
        mask: ``[B, N]``.

    Returns:
        Scalar ≥ 0; 0 where the teacher orders no pair.
    """
    student, teacher, mask = prepared(student, teacher, mask)
    return masked_mean(F.softplus(student[:, None, :] - student[:, :, None]), ordered_pairs(teacher, mask))


def pairwise_kl(student: Tensor, index: Tensor, probs: Tensor) -> Tensor:
    """KL(p ‖ σ(s_i − s_j)) of two outcomes, mean over pairs (PairDistill §4.2).

    The paper sums over a query's pairs and averages over queries; with n pairs a query it is n times this.

    Args:
        student: scores ``[B, N]``.
        index: int ``[P, 3]``: query row, document i, document j.
        probs: ``[P]``, the teacher's P(i ≻ j), in [0, 1].

    Returns:
        Scalar ≥ 0; 0 for no pairs.

    Raises:
        ValueError: if the shapes do not go together.
    """
    if index.ndim != 2 or index.shape[-1] != 3 or len(index) != len(probs):
        raise ValueError(
            f"index must be [pairs, 3] and probs [pairs], not {tuple(index.shape)} and {tuple(probs.shape)}."
        )
    row, i, j = index.long().unbind(dim=-1)
    p = probs.detach().float()
    margin = student[row, i].float() - student[row, j].float()
    cross_entropy = F.binary_cross_entropy_with_logits(margin, p, reduction="none")
    entropy = -(torch.special.xlogy(p, p) + torch.special.xlogy(1 - p, 1 - p))
    return (cross_entropy - entropy).sum() / max(1, len(p))


def lambda_loss(
    student: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    k: int | None = None,
    sigma: float = 1.0,
    mu: float = 10.0,
) -> Tensor:
    """LambdaLoss with the NDCG-Loss2++ weights: −log2 σ(σ·(s_i − s_j)), weighted, mean over pairs (Wang et al. 2018).

    A pair (i, j) with label_i > label_j weighs |G_i − G_j| · (|1/D_i − 1/D_j| + μ |1/D_|i−j| − 1/D_(|i−j|+1)|), with
    the gain G = (2^label − 1) / maxDCG@k and the discount D_r = log2(1 + r) at the student's rank r. The paper sums
    over pairs; the mean, pooled over the batch, is sentence-transformers' ``LambdaLoss``.

    Args:
        student: scores ``[B, N]``.
        labels: judgements ``[B, N]``, ≥ 0 (negative ones count as 0).
        mask: ``[B, N]``.
        k: only pairs with a document, either one, among the student's first k, as in sentence-transformers (allRank
            asks for both); None = all.
        sigma: steepness of the sigmoid.
        mu: weight of the second kind of discount.

    Returns:
        Scalar ≥ 0; 0 where all labels of each list are equal. Documents that the student ties are ranked worst label
        first, so that their order in the list does not matter.
    """
    student, labels, mask = prepared(student, labels.clamp_min(0), mask)
    worst_first = labels.argsort(dim=-1, stable=True)
    by_score = student.masked_fill(~mask, float("-inf")).gather(-1, worst_first)
    order = worst_first.gather(-1, by_score.argsort(dim=-1, descending=True, stable=True))
    scores, grades, real = student.gather(-1, order), labels.gather(-1, order), mask.gather(-1, order)
    n = student.shape[-1]
    ranks = torch.arange(1, n + 1, device=student.device)
    discount = torch.log2(1.0 + ranks)
    top = ranks <= (n if k is None else k)
    ideal = (scaled_gains(labels.sort(dim=-1, descending=True).values) / discount)[:, top].sum(dim=-1, keepdim=True)
    gains = scaled_gains(grades) / ideal.clamp_min(1e-10)
    apart = (ranks[:, None] - ranks[None, :]).abs()
    second = (1 / torch.log2(1.0 + apart.clamp_min(1)) - 1 / torch.log2(2.0 + apart.clamp_min(1))).abs()
    first = (1 / discount[:, None] - 1 / discount[None, :]).abs()
    weights = (first + mu * second) * (gains[:, :, None] - gains[:, None, :]).abs()
    losses = weights * F.softplus(-sigma * (scores[:, :, None] - scores[:, None, :])) / math.log(2)
    return masked_mean(losses, ordered_pairs(grades, real) & (top[:, None] | top[None, :]))


def ordered_pairs(teacher: Tensor, mask: Tensor) -> Tensor:
    """Bool ``[B, N, N]``: whether t_i > t_j, for two real documents."""
    return (teacher[:, :, None] > teacher[:, None, :]) & mask[:, :, None] & mask[:, None, :]
