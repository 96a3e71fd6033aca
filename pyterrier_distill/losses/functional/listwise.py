"""Losses over whole lists."""

from __future__ import annotations

import torch
from torch import Tensor

from .gains import scaled_gains
from .masking import EXCLUDED, masked_log_softmax, masked_mean, mean_over_queries, prepared

__all__ = ["kl_divergence", "list_net", "list_mle", "adr_mse", "approx_ndcg"]


def kl_divergence(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    temperature: float = 1.0,
    student_temperature: float | None = None,
) -> Tensor:
    """KL(softmax(t / T) ‖ softmax(s / T')), mean over queries.

    There is no T² factor, unlike sentence-transformers' ``DistillKLDivLoss``: multiply the loss by T² to get it.

    Args:
        student: scores ``[B, N]``.
        teacher: scores ``[B, N]``, any scale (the softmax is over one list).
        mask: ``[B, N]``.
        temperature: T > 0, for both sides.
        student_temperature: T' > 0, for the student's side where it is another; None = T.

    Returns:
        Scalar ≥ 0. A list of one document gives 0; a teacher that ties all documents asks for equal student scores.

    Raises:
        ValueError: for a temperature that is not positive.
    """
    if student_temperature is None:
        student_temperature = temperature
    if not (temperature > 0 and student_temperature > 0):
        raise ValueError(f"temperatures must be positive, not {temperature!r} and {student_temperature!r}.")
    student, teacher, mask = prepared(student, teacher, mask)
    log_s = masked_log_softmax(student / student_temperature, mask)
    log_t = masked_log_softmax(teacher / temperature, mask)
    return mean_over_queries((log_t.exp() * (log_t - log_s)).masked_fill(~mask, 0.0).sum(dim=-1), mask)


def list_net(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """ListNet's top-one cross-entropy −Σ softmax(t) log softmax(s), mean over queries (Cao et al. 2007).

    It is :func:`kl_divergence` at T = 1 plus the teacher's entropy: the same gradient, another value.

    Args:
        student: scores ``[B, N]``.
        teacher: scores ``[B, N]``.
        mask: ``[B, N]``.

    Returns:
        Scalar ≥ 0. A list of one document gives 0.
    """
    student, teacher, mask = prepared(student, teacher, mask)
    log_s = masked_log_softmax(student, mask)
    target = masked_log_softmax(teacher, mask).exp()
    return mean_over_queries(-(target * log_s).masked_fill(~mask, 0.0).sum(dim=-1), mask)


def list_mle(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """−log likelihood of the teacher's order under Plackett–Luce, summed over documents, mean over queries.

    −Σ_i log(exp(s_i) / (exp(s_i) + Σ_{j: t_j < t_i} exp(s_j))) (Xia et al. 2008). Documents that the teacher ties do
    not compete with each other, so their order in the list does not matter.

    Args:
        student: scores ``[B, N]``.
        teacher: scores ``[B, N]``; negate ranks. Only their order counts.
        mask: ``[B, N]``.

    Returns:
        Scalar ≥ 0; an all-tied list gives 0.
    """
    student, teacher, mask = prepared(student, teacher, mask)
    beaten = (teacher[:, :, None] > teacher[:, None, :]) & mask[:, None, :]
    itself = torch.eye(student.shape[-1], dtype=torch.bool, device=student.device)
    rivals = student[:, None, :].masked_fill(~(beaten | itself), EXCLUDED)
    per_document = torch.logsumexp(rivals, dim=-1) - student
    return mean_over_queries(per_document.masked_fill(~mask, 0.0).sum(dim=-1), mask)


def adr_mse(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    alpha: float = 1.0,
    discount: str | None = "log2",
) -> Tensor:
    """Discounted squared difference of the student's smooth rank and the teacher's, mean over documents of the batch.

    The smooth rank is 1 + Σ_{j≠i} σ(α (s_j − s_i)); the weight 1 / log2(1 + r) at the teacher's rank r (Rank-DistiLLM
    §3.2, ADR-MSE, as a mean; Appendix B prints the smooth rank with exp(−α s_i) / (1 + exp(−α s_j)), where the
    difference of the two scores is meant).

    Args:
        student: scores ``[B, N]``.
        teacher: scores ``[B, N]``; negate ranks. Only their order counts; tied documents share their mean rank.
        mask: ``[B, N]``.
        alpha: steepness: the greater, the nearer the smooth ranks are to ranks.
        discount: ``"log2"``, or None for equal weights.

    Returns:
        Scalar ≥ 0; 0 where student and teacher tie all.

    Raises:
        ValueError: for another discount, or an alpha that is not positive.
    """
    if discount not in ("log2", None):
        raise ValueError(f"discount must be 'log2' or None, not {discount!r}.")
    student, teacher, mask = prepared(student, teacher, mask)
    real = mask[:, None, :]
    better = ((teacher[:, None, :] > teacher[:, :, None]) & real).sum(dim=-1)
    equal = ((teacher[:, None, :] == teacher[:, :, None]) & real).sum(dim=-1)
    ranks = better + (equal + 1) / 2
    errors = (ranks - smooth_ranks(student, mask, alpha)).square()
    return masked_mean(errors / torch.log2(1 + ranks) if discount else errors, mask)


def approx_ndcg(student: Tensor, labels: Tensor, mask: Tensor | None = None, alpha: float = 1.0) -> Tensor:
    """1 − nDCG at the student's smooth ranks, mean over queries whose labels differ (Qin et al. 2010).

    Gains are 2^label − 1, discounts log2(1 + rank). Only their ratios count, so no label is too high.

    Args:
        student: scores ``[B, N]``.
        labels: judgements ``[B, N]``, ≥ 0 (negative ones count as 0).
        mask: ``[B, N]``.
        alpha: steepness of the smooth ranks 1 + Σ_{j≠i} σ(α (s_j − s_i)).

    Returns:
        Scalar < 1; 0 where no list has two different labels.

    Raises:
        ValueError: for an alpha that is not positive.
    """
    student, labels, mask = prepared(student, labels.clamp_min(0), mask)
    gains = scaled_gains(labels) * mask
    places = torch.arange(2, student.shape[-1] + 2, device=student.device)
    ideal = (gains.sort(dim=-1, descending=True).values / torch.log2(places)).sum(dim=-1)
    found = (gains / torch.log2(1 + smooth_ranks(student, mask, alpha))).sum(dim=-1)
    least = labels.masked_fill(~mask, float("inf")).amin(dim=-1)
    return masked_mean(1 - found / ideal.clamp_min(1e-10), (labels.amax(dim=-1) > least) & mask.any(dim=-1))


def smooth_ranks(scores: Tensor, mask: Tensor, alpha: float) -> Tensor:
    """1 + Σ_{j≠i} σ(α (s_j − s_i)) over real documents ``[B, N]`` (Qin et al. 2010).

    Raises:
        ValueError: for an alpha that is not positive.
    """
    if not alpha > 0:
        raise ValueError(f"alpha must be positive, not {alpha!r}.")
    ahead = torch.sigmoid(alpha * (scores[:, None, :] - scores[:, :, None])) * mask[:, None, :]
    return 1 + ahead.sum(dim=-1) - ahead.diagonal(dim1=1, dim2=2)
