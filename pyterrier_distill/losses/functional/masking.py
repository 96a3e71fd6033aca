"""Padding: it never contributes, whatever stands in it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EXCLUDED = float("-inf")


def prepared(student: Tensor, labels: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """float32 student, float32 labels without gradient, bool mask; padding overwritten by 0."""
    if student.shape != labels.shape:
        raise ValueError(f"scores and labels differ in shape: {tuple(student.shape)} and {tuple(labels.shape)}.")
    mask = torch.ones_like(student, dtype=torch.bool) if mask is None else mask.bool()
    return student.float().masked_fill(~mask, 0.0), labels.detach().float().masked_fill(~mask, 0.0), mask


def masked_log_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """log softmax over real documents; 0 in the padding, so that products with it stay finite."""
    empty = ~mask.any(dim=-1, keepdim=True)
    return F.log_softmax(scores.masked_fill(~(mask | empty), EXCLUDED), dim=-1).masked_fill(~mask, 0.0)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over real entries; 0 where there is none."""
    return values.masked_fill(~mask, 0.0).sum() / mask.sum().clamp_min(1)


def mean_over_queries(per_query: Tensor, mask: Tensor) -> Tensor:
    """Mean over queries that have a document."""
    return masked_mean(per_query, mask.any(dim=-1))
