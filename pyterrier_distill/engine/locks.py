"""What threads of one process must not do at once: load models, set a tokenizer up, ask a model for all its states.

transformers patches itself while it loads (``PreTrainedModel.tie_weights``, the default dtype), new weights are drawn
from the process's generators, a fast tokenizer keeps padding and truncation of a call as its own state, and a store
what it has read.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

from . import randomness


class Turns:
    """A re-entrant lock whose holder can let those in who wait for it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._way = threading.Condition(self._lock)
        self._counting = threading.Lock()
        self._waiting = 0

    def __enter__(self) -> Turns:
        if not self._lock.acquire(blocking=False):
            with self._counting:
                self._waiting += 1
            try:
                self._lock.acquire()
            finally:
                with self._counting:
                    self._waiting -= 1
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def make_way(self) -> None:
        """Called by the holder: if another thread waits, it gets the lock now, and this one has it back afterwards."""
        if self._waiting:
            self._way.wait(0.02)  # lets go, at whatever depth; has to have the lock again before it returns


_loading = Turns()
_depth = 0


@contextmanager
def drawing() -> Iterator[None]:
    """Within, no other thread loads: what it puts back at its end would rewind what is drawn meanwhile.

    Whoever draws for long calls :func:`make_way` where nothing is half drawn.
    """
    with _loading:
        yield


def make_way() -> None:
    """Let threads load that wait for the end of this one's :func:`drawing`; go on when one has."""
    _loading.make_way()


@contextmanager
def loading() -> Iterator[None]:
    """One thread of the process at a time; the generators of torch, numpy and random are afterwards as before.

    Inside of another :func:`loading`, the outer one decides.
    """
    global _depth
    with _loading:
        outermost = _depth == 0
        _depth += 1
        try:
            with randomness.left_alone() if outermost else nullcontext():
                yield
        finally:
            _depth -= 1


class once(cached_property):
    """A ``cached_property`` that several threads may ask for at once: all get the same value."""

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """The value; made by the first thread that asks, waited for by the others."""
        if instance is None:
            return self
        with _loading:
            return super().__get__(instance, owner)


def made_once() -> Turns:
    """The lock under which whatever is made when it is first needed is made."""
    return _loading


_of_objects: WeakKeyDictionary[Any, threading.RLock] = WeakKeyDictionary()
_others = threading.RLock()
_registry = threading.Lock()


def using(used: Any) -> threading.RLock:
    """The lock of something whose state changes while it is used, such as a tokenizer or what is known of a store.

    To be held while a tokenizer is called, or while something is decoded with it. Copies and pickles have their own.
    """
    with _registry:
        try:
            return _of_objects.setdefault(used, threading.RLock())
        except TypeError:  # nothing that can be remembered by reference
            return _others


_turn: ContextVar[threading.Lock | None] = ContextVar("_turn", default=None)


@contextmanager
def in_turn(lock: threading.Lock) -> Iterator[None]:
    """Within, this thread alone works of those that share ``lock``, but where it waits: see :func:`others_go_on`."""
    with lock:
        token = _turn.set(lock)
        try:
            yield
        finally:
            _turn.reset(token)


@contextmanager
def others_go_on() -> Iterator[None]:
    """Around waiting for an answer: the threads that share this one's :func:`in_turn` work meanwhile."""
    lock = _turn.get()
    if lock is None:
        yield
        return
    lock.release()
    try:
        yield
    finally:
        lock.acquire()


_with_states: dict[int, list[Any]] = {}


@contextmanager
def hidden_states(config: Any) -> Iterator[None]:
    """Within, a model of transformers gives the states of all its layers; nested and side by side.

    Args:
        config: the model's configuration. Who runs the model meanwhile gets them, too.
    """
    key = id(config)
    with _registry:
        users = _with_states.setdefault(key, [0, getattr(config, "output_hidden_states", False)])
        users[0] += 1
        config.output_hidden_states = True
    try:
        yield
    finally:
        with _registry:
            users[0] -= 1
            if users[0] == 0:
                config.output_hidden_states = users[1]
                del _with_states[key]


def _after_fork() -> None:
    """A child process has none of the threads that held locks."""
    global _loading, _others, _registry, _depth
    _loading, _others, _registry, _depth = Turns(), threading.RLock(), threading.Lock(), 0
    _of_objects.clear()


if sys.platform != "win32":
    import os

    os.register_at_fork(after_in_child=_after_fork)
