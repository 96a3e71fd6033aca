"""Losses over single scores."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .masking import masked_mean, prepared

__all__ = ["mse", "score_match", "logit_mse", "logit_kl", "logit_cross_entropy", "binary_cross_entropy"]


def mse(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference of scores over real documents, pooled over the batch (USTAD Eq. 18, as a mean).

    Args:
        student: scores ``[B, N]``.
        teacher: scores ``[B, N]`` on the scale the student shall learn.
        mask: ``[B, N]``.

    Returns:
        Scalar ≥ 0.
    """
    student, teacher, mask = prepared(student, teacher, mask)
    return masked_mean((student - teacher).square(), mask)


def score_match(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean absolute difference of two modes' scores over real documents. Both sides get gradients.

    USTAD Eq. 8, whose norm is not named.

    Args:
        a: scores ``[B, N]`` of one mode.
        b: scores ``[B, N]`` of another; detach it to let only ``a`` move.
        mask: ``[B, N]``.

    Returns:
        Scalar ≥ 0.
    """
    if a.shape != b.shape:
        raise ValueError(f"the two modes' scores differ in shape: {tuple(a.shape)} and {tuple(b.shape)}.")
    mask = torch.ones_like(a, dtype=torch.bool) if mask is None else mask.bool()
    return masked_mean((a.float() - b.float()).masked_fill(~mask, 0.0).abs(), mask)


def logit_mse(student_logits: Tensor, teacher_logits: Tensor, only: str | None = None) -> Tensor:
    """Squared difference of the logits of [false, true], summed over the two, mean over rows (InRanker Eq. 2).

    The teacher's two logits are centred on their own mean first (InRanker Eq. 1); the student's are not, so it learns
    centred ones.

    Args:
        student_logits: ``[R, 2]``, raw.
        teacher_logits: ``[R, 2]``, raw.
        only: ``"true"`` compares the second logit alone (the teacher's still centred on the mean of both); None = both.

    Returns:
        Scalar ≥ 0; 0 for no rows.

    Raises:
        ValueError: if the shapes are others, or for another word in ``only``.
    """
    if only not in ("true", None):
        raise ValueError(f"only must be 'true' or None, not {only!r}.")
    student, teacher = _pairs_of_logits(student_logits, teacher_logits)
    errors = (student - (teacher - teacher.mean(dim=-1, keepdim=True))).square()
    return _mean(errors[:, 1] if only == "true" else errors.sum(dim=-1))


def logit_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(softmax(t / T) ‖ softmax(s / T)) over the logits of [false, true], mean over rows (InRanker App. C).

    Only the differences of the two logits count: centring the teacher's, or not, is the same.

    Args:
        student_logits: ``[R, 2]``, raw.
        teacher_logits: ``[R, 2]``, raw.
        temperature: T > 0, for both sides. No T² factor.

    Returns:
        Scalar ≥ 0; 0 for no rows.

    Raises:
        ValueError: if the shapes are others, or for a temperature that is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature!r}.")
    student, teacher = _pairs_of_logits(student_logits, teacher_logits)
    log_s, log_t = ((logits / temperature).log_softmax(dim=-1) for logits in (student, teacher))
    return _mean((log_t.exp() * (log_t - log_s)).sum(dim=-1))


def logit_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """−log p(true) of relevant rows, −log p(false) of the others, by the softmax of [false, true]; mean over rows.

    InRanker Eq. 3, a term of which each (query, document) is.

    Args:
        logits: ``[R, 2]``, raw.
        labels: ``[R]``; relevant where ≥ 1, not relevant where ≤ 0, a probability in between.

    Returns:
        Scalar ≥ 0; 0 for no rows.

    Raises:
        ValueError: if the shapes are others.
    """
    if logits.shape != (*labels.shape, 2) or labels.dim() != 1:
        raise ValueError(
            f"logits must be [rows, 2] and labels [rows], not {tuple(logits.shape)} and {tuple(labels.shape)}."
        )
    false, true = logits.float().log_softmax(dim=-1).unbind(dim=-1)
    told = labels.detach().float().clamp(0.0, 1.0)
    return _mean(-(told * true + (1 - told) * false))


def _pairs_of_logits(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float32, the teacher's without gradient."""
    if student.shape != teacher.shape or student.shape[1:] != (2,):
        raise ValueError(
            f"logits must be [rows, 2] on both sides, not {tuple(student.shape)} and {tuple(teacher.shape)}."
        )
    return student.float(), teacher.detach().float()


def _mean(rows: Tensor) -> Tensor:
    return rows.sum() / max(1, rows.numel())


def binary_cross_entropy(student: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """Cross-entropy of σ(score) for each document, mean over real documents of the batch.

    Args:
        student: logits ``[B, N]``.
        labels: ``[B, N]``; relevant where ≥ 1, not relevant where ≤ 0, a probability in between.
        mask: ``[B, N]``.

    Returns:
        Scalar ≥ 0.
    """
    student, labels, mask = prepared(student, labels, mask)
    losses = F.binary_cross_entropy_with_logits(student, labels.clamp(0.0, 1.0), reduction="none")
    return masked_mean(losses, mask)
