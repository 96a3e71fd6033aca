"""The batching engine: every model call of the project goes through :func:`run`.

Identical inputs are scored once; the rest is sorted by length and packed into batches by their number of tokens
(padding included), not by their number of rows; results come back in the caller's order. A batch that does not fit in
memory is halved and tried again. What a batch contains never changes what an input scores.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
#: Tokens of one batch, padding included. Small batches keep a CPU's caches warm; a GPU wants large ones.
TOKEN_BUDGET = {"cpu": 2048, "cuda": 65536}
#: The same for training on short texts, where padding costs a backward pass too (measured: benchmarks/README.md).
TRAINING_BUDGET = {"cpu": 768, "cuda": 65536}
#: Inputs tokenised at once. Sorted by characters before and by tokens within, so padding stays small at any size.
BUFFER = 2048
#: The same, and tokens of a batch, where a CPU computes batches side by side: each core keeps its own in its cache.
AHEAD, LANE_BUDGET = 256, 1024
#: How many times the tokens of its budget a batch with a shared beginning may put together for one layer's attention.
TOGETHER = 8

Features = Mapping[str, Any]


def infer_device(device: str | torch.device | None) -> torch.device:
    """``device`` as given, else the GPU where there is one, else the CPU."""
    import torch

    if device is not None:
        return torch.device(device)
    if torch.cuda.is_available():
        local = int(os.environ.get("LOCAL_RANK", 0))  # each process that torchrun starts has a GPU of its own
        return torch.device("cuda", local) if 0 < local < torch.cuda.device_count() else torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


@lru_cache
def _native_bf16(kind: str) -> bool:
    import torch

    if kind == "cuda":
        return torch.cuda.get_device_capability()[0] >= 8
    if kind == "cpu":
        return any(
            getattr(torch.cpu, probe, lambda: False)()
            for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        )
    return False


def check_precision(precision: str) -> str:
    """``precision``, if there is such a one.

    Raises:
        ValueError: naming those there are.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}.")
    return precision


def resolve_precision(precision: str, device: torch.device) -> str:
    """The precision that ``"auto"`` means on ``device``: bf16 where its multipliers take it natively, else fp32.

    Args:
        precision: one of ``auto``, ``fp32``, ``bf16``, ``fp16``.
        device: where the model runs. CPUs count as native with AVX512-BF16 or AMX, GPUs from compute capability 8.0.

    Raises:
        ValueError: for any other word.
    """
    if check_precision(precision) != "auto":
        return precision
    return "bf16" if _native_bf16(device.type) else "fp32"


def half(precision: str, device: torch.device) -> torch.dtype | None:
    """The type of half precision that ``precision`` means on ``device``; None for float32."""
    import torch

    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(resolve_precision(precision, device))


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """A context in which models on ``device`` compute in ``precision`` (as :func:`resolve_precision` reads it)."""
    import torch

    dtype = half(precision, device)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def take(features: Features, rows: torch.Tensor) -> dict[str, Any]:
    """The ``rows`` of tokenised ``features``, with the columns cut that hold only padding for them.

    ``shared`` first columns, if there are any, stay.
    """
    import torch

    mask = features["attention_mask"][rows]
    columns = mask.any(dim=0)
    columns[: features.get("shared", 0)] = True
    size, width = features["attention_mask"].shape
    cut: dict[str, Any] = {}
    for name, value in features.items():
        if isinstance(value, torch.Tensor) and value.shape[:1] == (size,):
            value = value[rows]
            if value.dim() >= 2 and value.shape[1] == width:
                value = value[:, columns]
        cut[name] = value
    return cut


def size(longest: int, budget: int, shared: int = 0) -> int:
    """How many inputs a batch may hold.

    Args:
        longest: most tokens of one.
        budget: tokens of a batch.
        shared: how many first tokens all share. They are held once, and leave at least half of the budget to the
            others; only for the attention of one layer do they stand before each input, which :data:`TOGETHER` bounds.
    """
    if not shared:
        return max(1, budget // max(1, longest))
    own = max(budget - shared, budget // 2) // max(1, longest - shared)
    return max(1, min(own, TOGETHER * budget // longest))


def pack(
    features: Features, budget: int, rows: int | None = None, growing: int = 0
) -> Iterator[tuple[torch.Tensor, dict[str, Any]]]:
    """Cut tokenised features into batches of at most ``budget`` tokens, padding included; longest inputs first.

    Args:
        features: tokenised inputs; ``attention_mask`` ``[n, L]`` (1 = a token) gives the lengths, padding on either
            side. Features without one (bags of words) stay in one piece. ``shared`` first columns, if there are any,
            are read already, and stay as they are.
        budget: tokens of a batch. An input longer than it gets a batch of its own.
        rows: most inputs of a batch; None = as many as the budget allows.
        growing: tokens that each grows by, an answer's, which the budget has to hold, too.

    Yields:
        ``(positions, batch)``: which rows of the input the batch holds, and their features without surplus padding.
    """
    import torch

    mask = features.get("attention_mask")
    if mask is None:
        rows_by = features.get("offsets", features.get("input_ids"))  # bags of words are one long row and its offsets
        count = len(rows_by)
        yield torch.arange(count), dict(features)
        return
    shared = features.get("shared", 0)
    lengths = shared + mask[:, shared:].sum(dim=1)
    order = torch.argsort(lengths, descending=True, stable=True)
    start = 0
    while start < len(order):
        fitting = size(int(lengths[order[start]]) + growing, budget, shared)
        positions = order[start : start + (fitting if rows is None else min(fitting, rows))]
        yield positions, take(features, positions)
        start += len(positions)


def out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory did not suffice."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def _forward(features: Features, forward: Callable[[Features], torch.Tensor]) -> np.ndarray:
    """Run one batch; halve it as often as memory demands."""
    import torch

    try:
        return forward(features).float().cpu().numpy()
    except Exception as error:
        size = len(features["attention_mask"]) if "attention_mask" in features else 1
        if size < 2 or not out_of_memory(error):
            raise
        logger.warning("a batch of %d inputs did not fit in memory; trying it in halves.", size)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    parts = (torch.arange(size // 2), torch.arange(size // 2, size))
    return np.concatenate([_forward(take(features, rows), forward) for rows in parts])


def run(
    inputs: Sequence[Hashable],
    *,
    prepare: Callable[[list], Features],
    forward: Callable[[Features], torch.Tensor],
    device: str | torch.device | None = None,
    precision: str = "auto",
    token_budget: int | None = None,
    batch_size: int | None = None,
    verbose: bool | None = None,
    desc: str = "scoring",
    unit: str = "d",
    each: Callable[[np.ndarray], Any] | None = None,
    split: Callable[[Features], Iterable[tuple[torch.Tensor, Features, Callable]]] | None = None,
    model: Any = None,
) -> Any:
    """Apply a model to ``inputs``.

    Args:
        inputs: n texts, or tuples of texts.
        prepare: tokenises a list of m inputs to tensors ``[m, L]`` with an ``attention_mask``.
        forward: tokenised features ``[m, L]`` → tensor ``[m, ...]``. Runs without gradients.
        device: where features are moved before ``forward``; None = the GPU where there is one.
        precision: see :func:`resolve_precision`.
        token_budget: tokens of one batch, padding included; None = by device (:data:`TOKEN_BUDGET`).
        batch_size: most inputs of a batch; None = as many as the budget allows.
        verbose: of the bar over distinct inputs; see :func:`.progress.bar`.
        desc: what the progress bar says.
        unit: what it counts: ``d`` documents, ``q`` queries, ``pair``.
        each: for a ``forward`` that gives ``[m, L, ...]``, a row a token: called with the float32 ``[tokens, ...]`` of
            each input, padding cut; the result is then a list of the n things that it returns.
        split: tokenised features → parts that are batched apart: which rows ``[k]``, their features, and the
            ``forward`` of that part; every row stands in one. None = one part.
        model: the module that ``forward`` runs, if that may run it in several threads at once; see
            :func:`.inference.lanes`. None = one batch after the other.

    Raises:
        Exception: what the model raised; :func:`before` returns what was scored by then.

    Returns:
        float32 ``[n, ...]`` in the order of ``inputs``; ``[0]`` for none, without ``prepare`` or ``forward`` called.
    """
    if len(inputs) == 0:
        return [] if each is not None else np.empty((0,), dtype=np.float32)
    import torch

    from . import inference, progress

    place: dict[Hashable, int] = {}
    inverse = np.fromiter((place.setdefault(item, len(place)) for item in inputs), dtype=np.int64, count=len(inputs))
    distinct = sorted(place, key=characters, reverse=True)
    place_of = infer_device(device)
    budget = token_budget or TOKEN_BUDGET.get(place_of.type, TOKEN_BUDGET["cpu"])
    lanes = 1
    dtype = half(precision, place_of)
    if model is not None and dtype is not None:  # float32 stays what it is, bit by bit
        lanes = inference.lanes(model, place_of, sum(map(characters, distinct)), LANE_BUDGET)
        if place_of.type == "cpu" and (lanes > 1 or torch.get_num_threads() == 1):
            budget = token_budget or LANE_BUDGET

    def batches() -> Iterator[tuple[np.ndarray, dict[str, Any], Callable[[Features], torch.Tensor]]]:
        size = BUFFER if lanes == 1 else min(BUFFER, AHEAD)
        for start in range(0, len(distinct), size):
            chunk = distinct[start : start + size]
            slots = np.fromiter((place[item] for item in chunk), dtype=np.int64, count=len(chunk))
            for positions, batch, read in _batches(prepare(chunk), budget, batch_size, forward, split):
                moved = {k: v.to(place_of) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
                yield slots[positions.numpy()], moved, read

    holds: dict = {}

    def compute(task: tuple[np.ndarray, dict[str, Any], Callable[[Features], torch.Tensor]]) -> np.ndarray:
        _, batch, read = task
        if lanes == 1:
            return _forward(batch, read if here is None else here.reading(read))
        with torch.inference_mode(), inference.computing(dtype, place_of, holds) as its:
            return _forward(batch, read if its is None else its.reading(read))

    out: np.ndarray | None = None
    parts: list[Any] = [None] * len(distinct)
    done = np.zeros(len(distinct), dtype=bool)
    with (
        _telling(lambda: [None if out is None or not done[slot] else out[slot] for slot in inverse]),
        torch.inference_mode(),
        inference.computing(dtype, place_of, holds) as here,
        progress.bar(total=len(distinct), desc=desc, unit=unit, verbose=verbose) as bar,
    ):
        for (slots, batch, _), rows in inference.side_by_side(compute, batches(), lanes):
            if each is not None:
                real = batch["attention_mask"].bool().cpu().numpy()
                for slot, row, mask in zip(slots, rows, real, strict=True):
                    parts[slot] = each(row[mask])
            else:
                if out is None:
                    out = np.empty((len(distinct), *rows.shape[1:]), dtype=np.float32)
                out[slots] = rows
                done[slots] = True
            bar.update(len(rows))
    if each is not None:
        return [parts[slot] for slot in inverse]
    assert out is not None
    return out[inverse]


def _batches(
    features: Features, budget: int, rows: int | None, forward: Callable[[Features], Any], split: Any
) -> Iterator[tuple[torch.Tensor, dict[str, Any], Callable[[Features], Any]]]:
    """Batches of features, each with the rows that it holds and what reads it; see :func:`run`."""
    if split is None:
        yield from ((positions, batch, forward) for positions, batch in pack(features, budget, rows))
        return
    for of_part, part, read in split(features):
        yield from ((of_part[positions], batch, read) for positions, batch in pack(part, budget, rows))


@contextmanager
def _telling(scored: Callable[[], list[Any]]) -> Iterator[None]:
    """Whatever is raised within takes along what was scored."""
    try:
        yield
    except Exception as error:
        error._scored_before = scored()  # type: ignore[attr-defined]
        raise


def before(error: Exception) -> list[Any] | None:
    """What :func:`run` had scored before ``error``: ``[...]`` an input, None where nothing was; None if nothing was."""
    scored = getattr(error, "_scored_before", [])
    return scored if any(row is not None for row in scored) else None


def characters(item: Hashable) -> int:
    """The length of a text, or of all texts in a tuple, nested or not; whatever else it holds counts nothing."""
    return len(item) if isinstance(item, str) else sum(map(characters, item)) if isinstance(item, tuple) else 0
