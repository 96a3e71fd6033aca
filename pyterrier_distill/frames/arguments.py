"""Checks of arguments: one wording for each kind of mistake."""

from __future__ import annotations

import functools
import math
import numbers
import warnings
from collections.abc import Callable, Sequence
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

        return cast(F, call)

    return decorate
