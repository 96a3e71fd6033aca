"""What decides a pipeline's answers, in sixteen digits: runs and costs are kept under it."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any

import pyterrier as pt

from ..identity import arrays, functions
from ..identity.identity import COUNTERS, check_told, digest, identity

_DEEPEST = 8


def key_of(pipeline: pt.Transformer) -> str:
    """What decides a pipeline's answers: two of one key give the same.

    Of classes of one's own (in a notebook, in a file) the code counts, too, with all that it calls, and their
    attributes, but for those that begin with an underscore (models among them count), which are working state.

    Raises:
        ValueError: if it does not say what decides its answers.
    """
    check_told(pipeline)
    return digest([identity(pipeline), list(_own(pipeline, set(), 0))])


def _own(value: Any, seen: set[int], depth: int) -> Iterator[dict[str, Any]]:
    """What objects of one's own classes are, within a pipeline, in its order."""
    if id(value) in seen or depth > _DEEPEST:
        return
    seen.add(id(value))
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _own(part, seen, depth + 1)
        return
    held = getattr(value, "__dict__", None)
    own = not functions.is_installed(type(value))
    plain = isinstance(value, (type, types.ModuleType, types.FunctionType)) or arrays.is_module(value)
    if held is None or plain or not (own or isinstance(value, pt.Transformer)):
        return
    if own:
        yield {"code": list(_code(type(value))), "state": dict(_state(held))}
    for part in held.values():
        yield from _own(part, seen, depth + 1)


def _code(kind: type) -> Iterator[Any]:
    """The functions of a class, and of those of one's own that it is derived from."""
    for base in kind.__mro__:
        if functions.is_installed(base):
            continue
        for name, part in vars(base).items():
            function = getattr(part, "__func__", None) or getattr(part, "fget", None) or part
            if isinstance(function, types.FunctionType):
                yield [name, functions.told(function, identity)]
            elif not name.startswith("__") and isinstance(part, (str, int, float, tuple, list, dict)):
                yield [name, identity(part)]


def _state(held: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, part in held.items():
        if arrays.is_module(part):
            yield name, arrays.module(part)
        elif not name.startswith("_") and not COUNTERS.fullmatch(name) and not isinstance(part, pt.Transformer):
            yield name, identity(part)
