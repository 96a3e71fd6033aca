"""Checks of arguments: one wording for each kind of mistake."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


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


def choice(value: T, name: str, choices: Sequence[T]) -> T:
    """``value``, if it is one of ``choices``.

    Raises:
        ValueError: naming the argument, the choices, and what it is.
    """
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, not {value!r}.")
    return value
