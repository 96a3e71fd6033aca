"""Several processes, one batch: what each of them computed is gathered, so that every loss sees all of it.

Each process computes the loss of the global batch; gathering gives every row the sum of the gradients that all
processes have for it, and DistributedDataParallel the mean over processes. The result is the gradient of one process
that had the whole batch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from ..losses import base as losses

_ALONE: ContextVar[bool] = ContextVar("alone", default=False)
_GUEST: ContextVar[bool] = ContextVar("guest", default=False)


def world() -> int:
    """How many processes train together; 1 outside torchrun."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if world() > 1 else 0


def sharing() -> bool:
    """Whether a forward pass belongs to a batch that other processes hold parts of."""
    return world() > 1 and not _ALONE.get()


@contextmanager
def alone() -> Iterator[None]:
    """Within, forward passes are this process's own: evaluation, say."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


def planned() -> int:
    """How many processes torchrun or accelerate started, whether they have met or not."""
    return max(world(), int(os.environ.get("WORLD_SIZE", 1)))


def start(device: torch.device) -> None:
    """Join the other processes, if there are any."""
    if planned() > 1 and not (dist.is_available() and dist.is_initialized()):
        from accelerate import PartialState

        PartialState(cpu=device.type == "cpu")


def wait() -> None:
    """Until all processes are here."""
    if world() > 1:
        dist.barrier()


@contextmanager
def guest(really: bool) -> Iterator[None]:
    """Within, what this process computes goes with the others' batch but is no part of it."""
    token = _GUEST.set(really)
    try:
        yield
    finally:
        _GUEST.reset(token)


def from_main(compute: Callable[[], Any]) -> Any:
    """What ``compute`` returns in the first process, in all of them; its error, too.

    Args:
        compute: called in the first process only; its result must be picklable.
    """
    if world() == 1:
        return compute()
    told: list[Any] = [None, None]
    if rank() == 0:
        try:
            told[0] = compute()
        except Exception as error:  # the others wait for an answer, and shall not wait for ever
            told[1] = error
    dist.broadcast_object_list(told, src=0)
    if told[1] is not None:
        raise told[1]
    return told[0]


class _Gather(torch.autograd.Function):
    """Rows of all processes; the gradient of a row is the sum of what all processes have for it."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        shape = torch.tensor(tensor.shape, device=tensor.device)
        shapes = [torch.empty_like(shape) for _ in range(world())]
        dist.all_gather(shapes, shape)
        largest = torch.stack(shapes).max(dim=0).values.tolist()
        pad = [
            n for size, most in zip(reversed(tensor.shape), reversed(largest), strict=True) for n in (0, most - size)
        ]
        padded = F.pad(tensor.to(torch.uint8) if tensor.dtype == torch.bool else tensor, pad).contiguous()
        parts = [torch.empty_like(padded) for _ in range(world())]
        dist.all_gather(parts, padded)
        rows = [int(one[0]) for one in shapes]
        ctx.shape, ctx.start = tensor.shape, sum(rows[: rank()])
        out = torch.cat([part[:n] for part, n in zip(parts, rows, strict=True)])
        return out.bool() if tensor.dtype == torch.bool else out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        own = gradient[ctx.start : ctx.start + ctx.shape[0]]
        return own[tuple(slice(0, size) for size in ctx.shape)]


def gather(tensor: Tensor) -> Tensor:
    """Rows of all processes, in their order, with gradients.

    Args:
        tensor: ``[n, ...]``; n and the other sizes may differ between processes.

    Returns:
        ``[n_0 + n_1 + …, ...]``, padded with 0 behind where other sizes differ.
    """
    return _Gather.apply(tensor)


def key(document: object) -> int:
    """A number by which processes recognise a document: its docno, or docno and text."""
    return int.from_bytes(hashlib.blake2b(repr(document).encode(), digest_size=8).digest(), "big", signed=True)


def gather_documents(index: Tensor, keys: Tensor, *documents: Tensor) -> tuple[Tensor, ...]:
    """The distinct documents of all processes' batches.

    Args:
        index: int ``[B, N]``: which of this process's documents stands where in its lists.
        keys: int64 ``[m]``: :func:`key` of each of this process's documents; none where its lists have no documents,
            and one that counts for nothing stands in for them.
        *documents: ``[m, ...]`` each: vectors, say, or states and masks of tokens.

    Returns:
        ``index`` into all documents, then each of ``documents`` as ``[M, ...]``, every document once.
    """
    none = _GUEST.get() or not len(keys)
    own = keys[:0] if none else keys
    everyone = gather(own)
    start = int(gather(torch.tensor([len(own)], device=keys.device))[: rank()].sum())
    if not len(everyone):
        return index, *documents
    if none:
        index, start, documents = torch.zeros_like(index), 0, tuple(part[:0] for part in documents)
    place: dict[int, int] = {}
    columns: list[int] = []
    first: list[int] = []
    for n, one in enumerate(everyone.tolist()):
        if one not in place:
            place[one] = len(first)
            first.append(n)
        columns.append(place[one])
    positions = torch.tensor(first, device=keys.device)
    return torch.tensor(columns, device=keys.device)[index + start], *(gather(part)[positions] for part in documents)


def gather_batch(
    outputs: losses.Outputs, labels: Mapping[str, Tensor], pair_columns: Sequence[str]
) -> tuple[losses.Outputs, dict[str, Tensor]]:
    """The outputs and labels of all processes' lists, as one process would have them.

    Args:
        outputs: of this process's lists; ``batch_scores`` against the documents of all.
        labels: of its lists.
        pair_columns: those whose first entry counts the lists.
    """
    count = 0 if _GUEST.get() else len(outputs.mask)
    start = int(gather(torch.tensor([count], device=outputs.mask.device))[: rank()].sum())
    gathered = {}
    for name, tensor in sorted(labels.items()):
        if name in pair_columns:
            tensor = torch.cat([tensor[:, :1] + start, tensor[:, 1:]], dim=1)
        gathered[name] = gather(tensor[:0] if _GUEST.get() else tensor)
    return _gathered(outputs), gathered


def _gathered(outputs: losses.Outputs) -> losses.Outputs:
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(outputs):
        value = getattr(outputs, field.name)
        if isinstance(value, Tensor):
            changes[field.name] = gather(value[:0] if _GUEST.get() else value)
        elif isinstance(value, dict):  # the modes of a student that has several
            changes[field.name] = {mode: _gathered(one) for mode, one in value.items()}
    return dataclasses.replace(outputs, **changes)
