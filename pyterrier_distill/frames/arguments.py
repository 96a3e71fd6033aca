"""Checks of arguments: one wording for each kind of mistake."""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import numbers
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, cast

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def whole(value: T, name: str, least: int = 1, *, absent: bool = False) -> T:
    """``value``, if it is a whole number of at least ``least``; with ``absent`` also None.

    Raises:
        ValueError: naming the argument, and what it is.
    """
    if absent and value is None:
        return value
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be {'None or ' * absent}a whole number of at least {least}, not {value!r}.")
    return value


def positive(value: T, name: str, *, zero: bool = False, absent: bool = False) -> T:
    """``value``, if it is a finite number above 0; with ``zero`` also 0, with ``absent`` also None.

    Raises:
        ValueError: naming the argument, and what it is.
    """
    if absent and value is None:
        return value
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0 or (value == 0 and not zero):  # type: ignore
        least = "at least 0" if zero else "positive"
        raise ValueError(f"{name} must be {'None or ' * absent}{least} and finite, not {value!r}.")
    return value


def column(value: T, name: str = "label", *, absent: bool = False) -> T:
    """``value``, if it can name a column; with ``absent`` also None.

    Raises:
        ValueError: naming the argument, and what it is.
    """
    if (absent and value is None) or (isinstance(value, str) and value):
        return value
    raise ValueError(f"{name} must be {'None or ' * absent}the name of a column, not {value!r}.")


def choice(value: T, name: str, choices: Sequence[T]) -> T:
    """``value``, if it is one of ``choices``.

    Raises:
        ValueError: naming the argument, the choices, and what it is.
    """
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, not {value!r}.")
    return value


def renamed(**names: str) -> Callable[[F], F]:
    """A decorator for functions whose keyword arguments have other names now: the old ones work, with a warning.

    Args:
        **names: old name → new name.
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def call(*args: Any, **keywords: Any) -> Any:
            for old, new in names.items():
                if old in keywords:
                    if new in keywords:
                        raise TypeError(f"{old}= is the old name of {new}=: give one of them.")
                    warnings.warn(f"{old}= is called {new}= now.", DeprecationWarning, stacklevel=2)
                    keywords[new] = keywords.pop(old)
            return function(*args, **keywords)

        call.renamed = frozenset(names)  # type: ignore[attr-defined]
        return cast(F, call)

    return decorate


#: What arguments are called elsewhere, and here: of those that no spelling leads to.
ELSEWHERE = {
    "lr": ("learning_rate", "rate"), "n_epochs": ("epochs",), "num_epochs": ("epochs",),
    "num_train_epochs": ("epochs",), "max_steps": ("steps",), "num_steps": ("steps",), "tau": ("temperature",),
    "batch_size": ("queries_per_batch",), "per_device_train_batch_size": ("queries_per_batch",),
    "gradient_accumulation_steps": ("accumulation",), "model": ("name_or_path", "student"),
    "model_name": ("name_or_path", "model"), "checkpoint": ("name_or_path", "model"),
    "output_dir": ("checkpoints",), "checkpoint_dir": ("checkpoints",), "patience": ("early_stopping",),
    "warmup_ratio": ("warmup",), "lr_scheduler_type": ("schedule",), "text_column": ("text_field",),
    "max_len": ("max_length",), "max_seq_length": ("max_length",), "num_negatives": ("n",), "k": ("depth", "n"),
}  # fmt: skip


def meant(name: str, known: Iterable[str]) -> str | None:
    """Which of the ``known`` names was meant by one that is not among them; None where none is near."""
    known = list(known)
    for other in ELSEWHERE.get(name, ()):
        if other in known:
            return other
    lower = {one.lower(): one for one in known}
    near = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.7)
    return lower[near[0]] if near else None


class _Signature:
    """The signature of a class's constructor, for ``help`` and Shift-Tab: ``__new__`` would hide it."""

    def __get__(self, instance: Any, cls: type) -> inspect.Signature:
        if instance is not None:
            raise AttributeError("__signature__")
        return inspect.Signature(list(_parameters(cls).values()))


class Named:
    """A class whose constructor says, of an argument that it does not have, which was meant."""

    __signature__ = _Signature()

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        known = _parameters(cast(Any, cls)) if kwargs else {}
        earlier: Iterable[str] = getattr(cls.__init__, "renamed", ())
        if unknown := [name for name in kwargs if name not in known and name not in earlier]:
            if not any(one.kind is one.VAR_KEYWORD for one in known.values()):
                near = meant(unknown[0], known)
                advice = f"did you mean {near}=?" if near else f"it has {', '.join(f'{name}=' for name in known)}."
                raise TypeError(f"{cls.__name__} has no argument {unknown[0]}=: {advice}")
        parent = super().__new__
        return parent(cls) if parent is object.__new__ else parent(cls, *args, **kwargs)


@functools.cache
def _parameters(cls: Any) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
    return {name: one for name, one in parameters.items() if name != "self"}
