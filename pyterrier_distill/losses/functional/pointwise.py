"""Losses over single scores."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .masking import masked_mean, prepared

__all__ = ["mse", "score_match", "logit_mse", "binary_cross_entropy"]


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


def logit_mse(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Squared difference of the logits of [false, true], summed over the two, mean over rows (InRanker Eq. 2).

    The teacher's two logits are centred on their own mean first (InRanker Eq. 1); the student's are not, so it learns
    centred ones.

    Args:
        student_logits: ``[R, 2]``, raw.
        teacher_logits: ``[R, 2]``, raw.

    Returns:
        Scalar ≥ 0; 0 for no rows.

    Raises:
        ValueError: if the shapes are others.
    """
    if student_logits.shape != teacher_logits.shape or student_logits.shape[1:] != (2,):
        raise ValueError(
            f"logits must be [rows, 2] on both sides, not {tuple(student_logits.shape)} and"
            f" {tuple(teacher_logits.shape)}."
        )
    teacher = teacher_logits.detach().float()
    rows = (student_logits.float() - (teacher - teacher.mean(dim=-1, keepdim=True))).square().sum(dim=-1)
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
