"""One training at a time in a process, which finds everything afterwards as it was before.

transformers.Trainer seeds the generators of the whole process, accelerate keeps its settings in classes that all of
its users share, and both speak through environment variables. So a training has the process for itself while it lasts,
and puts everything back. Models that other threads load meanwhile, which draw and put back what they drew, come between
two of its steps.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from ..engine import locks, randomness

_LOCK = threading.RLock()


def _new_lock() -> None:
    """A forked child has none of its parent's trainings."""
    global _LOCK
    _LOCK = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)


@contextmanager
def training() -> Iterator[None]:
    """Within, this thread is the only one that trains; another one that wants to waits.

    Afterwards, also after an error or an interruption, these are as they were found: the generators of Python, NumPy
    and torch on every device; torch's switches for determinism and precision; environment variables; accelerate's
    state; levels of loggers, and what transformers shows.
    """
    with _LOCK, locks.drawing(), ExitStack() as stack:
        for keep in (_environment, _loggers, _torch_switches, _accelerate, randomness.left_alone):
            stack.enter_context(keep())
        yield


@contextmanager
def _environment() -> Iterator[None]:
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        for name, value in before.items():
            if os.environ.get(name) != value:
                os.environ[name] = value


@contextmanager
def _loggers() -> Iterator[None]:
    from transformers.utils import logging as hf

    def levels() -> dict[str, int]:
        known = {name: one for name, one in logging.root.manager.loggerDict.items() if isinstance(one, logging.Logger)}
        return {"": logging.root.level, **{name: one.level for name, one in known.items()}}

    before, disabled, bars = levels(), logging.root.manager.disable, hf.is_progress_bar_enabled()
    try:
        yield
    finally:
        for name, level in levels().items():
            if name in before and before[name] != level:
                logging.getLogger(name or None).setLevel(before[name])
        logging.disable(disabled)
        (hf.enable_progress_bar if bars else hf.disable_progress_bar)()


@contextmanager
def _torch_switches() -> Iterator[None]:
    import torch

    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    flags: list[tuple[Any, str]] = [(cudnn, "deterministic"), (cudnn, "benchmark")]
    # torch refuses to be asked in the old way about precisions that were set in the new one.
    new = [torch.backends, matmul, getattr(cudnn, "conv", None), getattr(cudnn, "rnn", None)]
    new = [where for where in new if hasattr(where, "fp32_precision")]
    flags += [(where, "fp32_precision") for where in new] or [(where, "allow_tf32") for where in (cudnn, matmul)]
    before = [(where, name, getattr(where, name)) for where, name in flags]
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    default = torch.get_default_dtype()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.set_default_dtype(default)
        for where, name, value in before:
            if getattr(where, name) != value:
                setattr(where, name, value)


@contextmanager
def _accelerate() -> Iterator[None]:
    """accelerate's shared dictionaries, which objects of the caller's may hold: they are filled again, not replaced.

    Where several processes train together, they have met through PartialState; that they have stays.
    """
    from accelerate.state import AcceleratorState, GradientState, PartialState

    from ..engine import processes

    kinds = (AcceleratorState, GradientState, PartialState)
    before: list[dict[str, Any]] = [dict(kind._shared_state) for kind in kinds]
    AcceleratorState._shared_state.clear()  # the caller's precision is not this training's
    GradientState._shared_state.clear()
    try:
        yield
    finally:
        for kind, found in zip(kinds, before, strict=True):
            if kind is PartialState and not found and processes.world() > 1:
                continue
            kind._shared_state.clear()
            kind._shared_state.update(found)
