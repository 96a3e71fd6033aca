"""Half precision while scoring: what takes the time is computed in it, what writes a score is not.

Under autocast alone, weights are cast anew for every batch, an activation once for each product that reads it, and the
last layer rounds its score to eight bits, so that documents tie. Here weights are held in half precision, one copy
each, made again when they have changed; products that read no more than a row an input, or write logits, are computed
in float32; and on CPUs batches are computed side by side, each by threads of its own, while the next are tokenised.
"""

from __future__ import annotations

import contextvars
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

Task = TypeVar("Task")
Result = TypeVar("Result")

#: Outputs of a layer that writes scores, of one class or two; and from how many on they are a vocabulary's.
_FEW, _VOCABULARY = 2, 30_000
#: Numbers of a weight that are looked at to see whether it has changed.
_SAMPLE = 64
#: Most batches side by side: Python, which runs one thread at a time, takes about a tenth of a small batch's time.
_LANES = 8
#: Characters of a token, to guess from texts how many batches they make.
_CHARACTERS = 4
#: Architectures of transformers that keep nothing of a forward pass in the model: threads may run one at once.
APART = frozenset(
    """albert bert camembert deberta deberta-v2 distilbert electra ernie modernbert mpnet roberta t5 umt5 mt5
    xlm-roberta qwen2 qwen3 llama""".split()
)


class Held(NamedTuple):
    """A weight in half precision.

    Attributes:
        of: the weight ``[out, in]``.
        seen: what it was like, and some of its numbers.
        half: the copy.
        packed: whether the copy lies as oneDNN reads it.
    """

    of: weakref.ref[Any]
    seen: tuple[Any, torch.Tensor]
    half: torch.Tensor
    packed: bool


_held: dict[tuple[int, torch.dtype], Held] = {}


def hold(weight: torch.nn.Parameter, dtype: torch.dtype) -> Held:
    """``weight`` in half precision: the copy that there is, unless the weight has changed, else a new one."""
    key = (id(weight), dtype)
    found, seen = _held.get(key), _seen(weight)
    if found is not None and found.of() is weight and found.seen[0] == seen[0]:
        if torch.equal(found.seen[1], seen[1]):
            return found
    half, packed = weight.detach().to(dtype), False
    if dtype == torch.bfloat16 and weight.device.type == "cpu" and packs():
        half, packed = torch.ops.mkldnn._reorder_linear_weight(half, None), True
    made = Held(weakref.ref(weight, lambda _: _held.pop(key, None)), seen, half, packed)
    _held[key] = made
    return made


def _seen(weight: torch.Tensor) -> tuple[Any, torch.Tensor]:
    """What changes when a weight is written to: torch's own counter; where ``.data`` was written to, its numbers."""
    flat = weight.detach().reshape(-1)
    version = -1 if weight.is_inference() else weight._version
    return (weight.data_ptr(), version, weight.shape), flat[:: max(1, len(flat) // _SAMPLE)].clone()


@lru_cache
def packs() -> bool:
    """Whether oneDNN's product of packed weights is there, and gives what torch's own does."""
    numbers = torch.linspace(-1, 1, 64 * 32)
    weight, bias, rows = numbers.reshape(64, 32).bfloat16(), numbers[:64], numbers.reshape(-1, 4, 32)[:5].bfloat16()
    try:
        made = _product(rows, torch.ops.mkldnn._reorder_linear_weight(weight, None), bias)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):  # another torch, another processor
        return False
    with torch.autocast("cpu", enabled=False):
        known = F.linear(rows.float(), weight.float(), bias)
    alike = made.dtype == torch.bfloat16 and made.shape == known.shape
    return alike and torch.allclose(made.float(), known, rtol=0.01, atol=0.01)


def _product(rows: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(rows, packed, bias, "none", [], "")


class Half(TorchFunctionMode):
    """A context in which linear layers compute in half precision with held weights, and those that score in float32.

    It is entered inside of autocast, which all other functions are left to. A thread's own.

    Args:
        dtype: ``bfloat16`` or ``float16``.
        holds: weights that were looked at already, by id: those that compute with the same model at once share it.
    """

    #: Between two of these, nothing has been written to an activation.
    _HARMLESS = frozenset(
        [F.linear, torch.Tensor.view, torch.Tensor.transpose, torch.Tensor.reshape, torch.Tensor.size,
         torch.Tensor.dim, torch.Tensor.contiguous, torch.Tensor.permute, torch.Tensor.unsqueeze]
    )  # fmt: skip

    def __init__(self, dtype: torch.dtype, holds: dict[int, Held] | None = None):
        super().__init__()
        self.dtype = dtype
        self._inputs = self._tokens = 0
        self._holds = {} if holds is None else holds
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None
        self._masks: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def reading(self, forward: Callable[[Mapping[str, Any]], Result]) -> Callable[[Mapping[str, Any]], Result]:
        """``forward``, which takes a batch's features; their ``attention_mask`` ``[n, L]`` says how much it reads."""

        def read(features: Mapping[str, Any]) -> Result:
            mask = features.get("attention_mask")
            self._inputs, self._tokens = (0, 0) if mask is None else (len(mask), mask.numel())
            self._last = None
            try:
                return forward(features)
            finally:
                self._last = None
                self._masks.clear()

        return read

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Linear layers by :meth:`linear`, attention with its mask made once, everything else as it is."""
        if func is F.linear:
            return self.linear(*args, **(kwargs or {}))
        if func is F.scaled_dot_product_attention and kwargs and kwargs.get("attn_mask") is not None:
            kwargs = {**kwargs, "attn_mask": self.added(kwargs["attn_mask"])}
        if func not in self._HARMLESS and getattr(func, "__name__", "") != "__get__":
            self._last = None
        return func(*args, **(kwargs or {}))

    def linear(self, input: Any, weight: Any, bias: Any = None) -> Any:
        """As ``torch.nn.functional.linear``."""
        if type(weight) is not torch.nn.Parameter or not weight.is_floating_point() or not input.is_floating_point():
            return F.linear(input, weight, bias)
        if self.exact(input, weight):
            with torch.autocast(weight.device.type, enabled=False):
                return F.linear(input.float(), weight.float(), None if bias is None else bias.float())
        if weight.dtype != torch.float32:
            return F.linear(input, weight, bias)
        held = self._holds.get(id(weight))
        if held is None:
            held = self._holds[id(weight)] = hold(weight, self.dtype)
        rows = self.half(input)
        if held.packed:
            return _product(rows, held.half, bias)
        return F.linear(rows, held.half, None if bias is None else bias.to(self.dtype))

    def exact(self, input: torch.Tensor, weight: torch.Tensor) -> bool:
        """Whether a product is a score, or of one vector an input: little work, which rounds nothing then.

        In a model that is kept in half precision only the last layer, whose output meets no other weights.
        """
        rows, outputs = input.numel() // max(1, input.shape[-1]), weight.shape[0]
        last = outputs <= _FEW or (outputs >= _VOCABULARY and rows < self._tokens)
        return last or (rows <= self._inputs and weight.dtype == torch.float32)

    def added(self, mask: torch.Tensor) -> torch.Tensor:
        """A mask of attention as numbers that are added, made once for all layers of a batch."""
        if mask.dtype != torch.bool or not self._tokens:
            return mask
        if id(mask) not in self._masks:
            numbers = torch.zeros(mask.shape, dtype=self.dtype, device=mask.device)
            self._masks[id(mask)] = (mask, numbers.masked_fill_(~mask, float("-inf")))
        return self._masks[id(mask)][1]

    def half(self, input: torch.Tensor) -> torch.Tensor:
        """An activation in half precision; cast once for all products that read it one after another."""
        if input.dtype == self.dtype:
            return input
        if self._last is None or self._last[0] is not input:
            self._last = (input, input.to(self.dtype))
        return self._last[1]


@contextmanager
def computing(dtype: torch.dtype | None, device: torch.device, holds: dict[int, Held] | None = None) -> Iterator[Any]:
    """Autocast for scoring: weights are held in half precision, and scores are not rounded to it.

    Args:
        dtype: half precision; None = float32, in which everything stays as it is.
        device: where models compute.
        holds: as for :class:`Half`.

    Yields:
        The :class:`Half` that wants to be told of each batch; None in float32.
    """
    if dtype is None:
        yield None
        return
    with torch.autocast(device.type, dtype), Half(dtype, holds) as half:
        yield half


def lanes(model: Any, device: torch.device, characters: int, budget: int) -> int:
    """How many batches shall be computed side by side on a CPU.

    Args:
        model: what computes them; None = nothing that threads may run at once.
        device: where.
        characters: of all texts.
        budget: tokens that are worth a lane.
    """
    if model is None or device.type != "cpu":
        return 1
    return max(1, min(side_by_side_lanes(model), characters // (_CHARACTERS * budget)))


def side_by_side_lanes(model: Any) -> int:
    """How many threads of a CPU may run a model at once."""
    apart = _apart(model) and "OpenMP" in torch.__config__.parallel_info()
    return min(torch.get_num_threads(), _LANES) if apart else 1


def _apart(model: Any) -> bool:
    """Whether threads may run a model at once: all of it is known code, transformers' of :data:`APART`."""
    if any("forward" in vars(module) for module in model.modules()):  # a runtime's, or compiled
        return False
    configs: list[Any] = [getattr(module, "config", None) for module in model.modules()]
    kinds = {config.model_type for config in configs if hasattr(config, "model_type")}
    known = ("transformers.", "sentence_transformers.", "peft.", "torch.")
    return bool(kinds) and kinds <= APART and all(type(m).__module__.startswith(known) for m in model.modules())


def side_by_side(work: Callable[[Task], Result], tasks: Iterable[Task], lanes: int) -> Iterator[tuple[Task, Result]]:
    """Tasks and their results, in order; ``lanes`` tasks are worked on at once, and few are drawn before they are due.

    Threads of one product wait for each other at its end, and all for whoever else uses the machine. Where each has a
    batch of its own, nobody waits.

    Args:
        work: run in other threads, each with its share of torch's threads, if there are two lanes or more.
        tasks: drawn in this thread.
        lanes: how many.
    """
    if lanes < 2:
        yield from ((task, work(task)) for task in tasks)
        return
    threads = torch.get_num_threads()
    waiting: deque[tuple[Task, Future[Result]]] = deque()
    pool = ThreadPoolExecutor(lanes, "scoring", torch.set_num_threads, (max(1, threads // lanes),))
    try:
        for task in tasks:
            waiting.append((task, pool.submit(contextvars.copy_context().run, work, task)))
            while len(waiting) > 8 * lanes or (waiting and waiting[0][1].done()):
                first, result = waiting.popleft()
                yield first, result.result()
        while waiting:
            first, result = waiting.popleft()
            yield first, result.result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # each thread's own, but also that of threads that are yet to come
