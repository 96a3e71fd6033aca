"""Forward passes with gradients in pieces of like length: no padding to speak of, and the memory of one piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from . import batching, training_kernels, training_lanes


@dataclass(frozen=True)
class MicroBatches:
    """How batches are cut.

    Attributes:
        tokens: of a micro-batch, padding included; None = by device (``batching.TRAINING_BUDGET``).
        recompute: keep no activations: the backward pass computes each micro-batch again, with the same dropout. That
            is gradient caching (Gao et al. 2021): the memory of one micro-batch, for about a third more time.
    """

    tokens: int | None = None
    recompute: bool = False


_WHOLE = MicroBatches()
_SETTINGS: ContextVar[MicroBatches] = ContextVar("micro_batches", default=_WHOLE)


@contextmanager
def cut(settings: MicroBatches) -> Iterator[None]:
    """Within, forward passes are cut as ``settings`` say."""
    token = _SETTINGS.set(settings)
    try:
        yield
    finally:
        _SETTINGS.reset(token)


def pieces(
    features: batching.Features,
    forward: Callable[[dict[str, Any]], Any],
    device: torch.device,
    *,
    rows: int | None = None,
    tokens: int | None = None,
) -> Iterator[tuple[Tensor, dict[str, Any], Any]]:
    """Run ``forward`` on one micro-batch after the other.

    Args:
        features: tokenised inputs ``[n, L]``.
        forward: what runs on a micro-batch on ``device``; gives a tensor or a tuple of tensors.
        device: where the model is.
        rows: most inputs of a micro-batch; None = as many as the tokens allow.
        tokens: default of :attr:`MicroBatches.tokens`; None = by device.

    Yields:
        ``(positions, micro_batch, result)``: which rows of the input it holds.
    """
    settings = _SETTINGS.get()
    budget = settings.tokens or tokens or batching.TRAINING_BUDGET.get(device.type, batching.TRAINING_BUDGET["cpu"])
    for positions, part in batching.pack(features, budget, rows):
        part = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in part.items()}
        if settings.recompute and torch.is_grad_enabled():
            yield positions, part, checkpoint(training_kernels.carried(forward), part, use_reentrant=False)
        else:
            yield positions, part, forward(part)


def run(
    features: batching.Features,
    forward: Callable[[dict[str, Any]], Tensor],
    device: torch.device,
    *,
    rows: int | None = None,
    model: torch.nn.Module | None = None,
) -> Tensor:
    """All rows of ``forward``, in the order of the input.

    Args:
        features: tokenised inputs ``[n, L]``.
        forward: micro-batch of m inputs → ``[m, ...]``.
        device: where the model is.
        rows: most inputs of a micro-batch.
        model: the module that ``forward`` runs, if several threads may run it at once; see :mod:`.training_lanes`.

    Returns:
        float32 ``[n, ...]``, with gradients.
    """
    settings = _SETTINGS.get()
    lanes = 1 if model is None or settings.recompute else training_lanes.lanes(model, features, device)
    if model is not None and lanes > 1:
        budget = settings.tokens or training_lanes.budget(features, lanes)
        packed = list(batching.pack(features, budget, rows))
        joined = training_lanes.run(model, [batch for _, batch in packed], forward, lanes)
        return joined[torch.argsort(torch.cat([positions for positions, _ in packed]))]
    order, parts = [], []
    for positions, _, result in pieces(features, forward, device, rows=rows):
        order.append(positions)
        parts.append(result.float())
    return torch.cat(parts)[torch.argsort(torch.cat(order)).to(parts[0].device)]
