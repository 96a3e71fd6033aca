"""Micro-batches side by side: while a CPU trains in half precision, each core reads some of them forth and back.

Threads that share one product of matrices wait for each other behind every operation. Here each has micro-batches of
its own, in the forward pass and in the backward pass; the gradients of all are summed in a fixed order, so that a
training stays the same however the threads run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import batching, inference, training_kernels

#: Fewest tokens that are worth a lane of their own.
_LEAST = 384

Forward = Callable[[dict[str, Any]], Tensor]


def lanes(model: nn.Module, features: batching.Features, device: torch.device) -> int:
    """How many threads shall each read some of the micro-batches; 1 where that is not faster, or not the same.

    Args:
        model: what reads them.
        features: tokenised inputs ``[n, L]``.
        device: where the model is.
    """
    if training_kernels.active() is None or device.type != "cpu" or not torch.is_grad_enabled():
        return 1
    if "attention_mask" not in features or any(getattr(m, "gradient_checkpointing", False) for m in model.modules()):
        return 1
    tokens = int(features["attention_mask"].sum())
    return min(inference.side_by_side_lanes(model), max(1, tokens // _LEAST))


def budget(features: batching.Features, lanes: int) -> int:
    """Tokens of a micro-batch: as many as a core's cache holds, or so many that every lane has one."""
    return min(batching.LANE_BUDGET, math.ceil(int(features["attention_mask"].sum()) / lanes))


def run(model: nn.Module, batches: Sequence[dict[str, Any]], forward: Forward, lanes: int) -> Tensor:
    """``forward`` of all micro-batches, one behind the other.

    Args:
        model: whose weights learn.
        batches: features of micro-batches.
        forward: micro-batch of m inputs → ``[m, ...]``.
        lanes: threads.

    Returns:
        float32 ``[n, ...]``, with gradients.
    """
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    return _Lanes.apply(batches, forward, lanes, learning, *learning)  # type: ignore[no-any-return]


class _Lanes(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, batches: Sequence[dict[str, Any]], forward: Forward, lanes: int, learning: list[Tensor], *_: Tensor
    ) -> Tensor:
        dtype = training_kernels.active() or torch.bfloat16
        tasks = [(n, training_kernels.generator()) for n in range(lanes)]

        def work(task: tuple[int, Any]) -> list[Tensor]:
            lane, generator = task
            # torch's cache of weights in half precision is one for all threads: who fills it would decide the rounding
            half = torch.autocast("cpu", dtype, cache_enabled=False)
            with torch.enable_grad(), half, training_kernels.Kernels(dtype, generator):
                return [forward(dict(batch)).float() for batch in batches[lane::lanes]]

        made = [results for _, results in inference.side_by_side(work, tasks, lanes)]
        ctx.lanes, ctx.made, ctx.learning = lanes, made, learning
        ctx.sizes = [len(made[n % lanes][n // lanes]) for n in range(len(batches))]
        return torch.cat([made[n % lanes][n // lanes].detach() for n in range(len(batches))])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        pieces = gradients[0].split(ctx.sizes)
        made, ctx.made = ctx.made, None

        def work(lane: int) -> tuple[Any, ...]:
            return torch.autograd.grad(made[lane], ctx.learning, pieces[lane :: ctx.lanes], allow_unused=True)

        total: list[Any] = [None] * len(ctx.learning)
        for _, found in inference.side_by_side(work, range(ctx.lanes), ctx.lanes):
            both = [n for n, part in enumerate(found) if part is not None and total[n] is not None]
            if both:
                torch._foreach_add_([total[n] for n in both], [found[n] for n in both])
            total = [part if mine is None else mine for mine, part in zip(total, found, strict=True)]
        return None, None, None, None, *total
