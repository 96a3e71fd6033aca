"""What a function does, as plain data: its code, and the values that it reads besides its arguments."""

from __future__ import annotations

import dis
import hashlib
import inspect
import json
import os
import sys
import types
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from .comparison import Retold, as_before

#: Methods that change what they are called on: a list of calls, or a memory, decides no answer and moves with each.
_CHANGING = frozenset(
    """append appendleft add update extend insert setdefault pop popitem clear remove discard write""".split()
)
_LOADS = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_CLASSDEREF"})
_ATTRIBUTES = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
_STORES = frozenset({"STORE_GLOBAL", "DELETE_GLOBAL", "STORE_DEREF", "DELETE_DEREF"})
_MISSING = object()
#: Functions that are being described: one that calls itself is described once.
_being_told: ContextVar[tuple[int, ...]] = ContextVar("_being_told", default=())


def told(function: types.FunctionType, tell: Callable[[Any], Any], deep: bool = True) -> dict[str, Any]:
    """A function by its name, and a digest of its code and of what it reads.

    What it reads: values that it has closed over, defaults, the function that it wraps, and the globals that its code
    names, functions among them by the same rule. Globals of installed packages are known by their names. A value that
    the code itself changes (a counter, a memory) is left out.

    Args:
        function: written in Python.
        tell: gives a value as plain data.
        deep: whether the values are described; False gives the code alone.
    """
    named = {"function": f"{function.__module__}.{function.__qualname__}"}
    if id(function) in _being_told.get():
        return named
    before = [_code_before(function.__code__)]
    token = _being_told.set((*_being_told.get(), id(function)))
    try:
        read = {name: _place(value) or tell(value) for name, value in _read(function)} if deep else {}
        closed = [tell(cell.cell_contents) for cell in function.__closure__ or () if _filled(cell)] if deep else []
        before.append(as_before([*closed, *map(tell, function.__defaults__ or ())]) if deep else [])
    finally:
        _being_told.reset(token)
    # Another Python compiles to other code: saying so tells a refusal's reader why.
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    now = {**named, "python": python, "code": _digest([_code(function.__code__), read])}
    return Retold(now, said=[{**named, "code": _digest(before)}])


def _place(value: Any) -> str | None:
    """A path that a function knows is a place: it may be one that the function writes to."""
    return os.path.realpath(value) if isinstance(value, os.PathLike) else None


def installed(module: str | None, file: str | None) -> bool:
    """Whether something comes with Python or an installed package, and is known by its name."""
    top = (module or "").partition(".")[0]
    if top == "pyterrier_distill" or (top in sys.stdlib_module_names and top != "__main__"):
        return True
    if file is None:
        return top == "builtins"
    return file.startswith("<frozen") or not {"site-packages", "dist-packages"}.isdisjoint(file.split(os.sep))


def is_installed(kind: type) -> bool:
    """Whether a class comes with Python or an installed package."""
    return installed(kind.__module__, getattr(sys.modules.get(kind.__module__), "__file__", None))


def _read(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Names and values that a function reads besides its arguments."""
    loaded, changed = _names(function.__code__)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if name not in changed and _filled(cell):
            yield f"closed {name}", cell.cell_contents
    for number, value in enumerate(function.__defaults__ or ()):
        yield f"default {number}", value
    for name, value in (function.__kwdefaults__ or {}).items():
        yield f"default {name}", value
    if (wrapped := getattr(function, "__wrapped__", None)) is not None:
        yield "wraps", wrapped
    if installed(function.__module__, function.__code__.co_filename):
        return
    for path in sorted(loaded):
        if path[0] in changed or path[0] not in function.__globals__:
            continue
        value, steps = function.__globals__[path[0]], 1
        while isinstance(value, types.ModuleType) and steps < len(path) and not _known(value):
            value, steps = getattr(value, path[steps], _MISSING), steps + 1
        if value is not _MISSING and not isinstance(value, types.ModuleType):
            yield ".".join(path[:steps]), value


def _known(module: types.ModuleType) -> bool:
    return installed(module.__name__, getattr(module, "__file__", None))


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not _MISSING
    except ValueError:  # its name has no value yet
        return False


def _names(code: types.CodeType) -> tuple[set[tuple[str, ...]], set[str]]:
    """Names that code reads, with the attributes asked of them, and names whose values it changes itself."""
    steps = list(dis.get_instructions(code))
    loaded: set[tuple[str, ...]] = set()
    changed: set[str] = set()
    for n, step in enumerate(steps):
        if step.opname in _LOADS:
            path = [step.argval]
            for following in steps[n + 1 :]:
                if following.opname not in _ATTRIBUTES:
                    break
                path.append(following.argval)
            loaded.add(tuple(path))
            if len(path) == 2 and path[1] in _CHANGING:
                changed.add(path[0])
        elif step.opname in _STORES:
            changed.add(step.argval)
        elif step.opname in ("STORE_SUBSCR", "DELETE_SUBSCR") or _begins_augmenting(steps, n):
            changed.update(_container(steps, n))
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            more, also = _names(inner)
            loaded |= more
            changed |= also
    return loaded, changed


def _begins_augmenting(steps: list[dis.Instruction], n: int) -> bool:
    """Whether container and key are doubled here, for ``container[key] += ...``."""
    if steps[n].opname == "DUP_TOP_TWO":  # Python 3.10
        return True
    return n + 1 < len(steps) and all((s.opname, s.arg) == ("COPY", 2) for s in steps[n : n + 2])


def _container(steps: list[dis.Instruction], n: int) -> list[str]:
    """The name of what the key that was pushed before step ``n`` is looked up in, if it has one."""
    depth = 0
    for m in range(n - 1, 0, -1):
        arg = steps[m].arg if steps[m].opcode >= dis.HAVE_ARGUMENT else None
        depth += dis.stack_effect(steps[m].opcode, arg, jump=False)
        if depth == 1:
            return [steps[m - 1].argval] if steps[m - 1].opname in _LOADS else []
    return []


def _code(code: types.CodeType) -> list[Any]:
    """What code does, the same in every process."""
    return [code.co_code.hex(), [_constant(c) for c in code.co_consts], list(code.co_names), list(code.co_varnames)]


def _constant(value: Any) -> Any:
    if isinstance(value, types.CodeType):
        return _code(value)
    if isinstance(value, frozenset):  # in an order that differs from process to process
        return ["frozenset", *sorted((_constant(part) for part in value), key=repr)]
    return ["tuple", *map(_constant, value)] if isinstance(value, tuple) else repr(value)


def _code_before(code: types.CodeType) -> list[Any]:
    """As earlier versions described it."""
    constants = [_code_before(c) if isinstance(c, types.CodeType) else repr(c) for c in code.co_consts]
    return [code.co_code.hex(), constants, list(code.co_names), list(code.co_varnames)]


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=repr).encode()).hexdigest()[:16]


def called(value: Any, tell: Callable[[Any], Any]) -> dict[str, Any] | None:
    """A callable that stands for a function: a bound method, or a wrapper that is no function; None for others."""
    if isinstance(value, types.MethodType):
        return {"method": tell(value.__func__), "of": tell(value.__self__)}
    if isinstance(value, types.BuiltinMethodType):
        of = value.__self__
        return None if of is None or isinstance(of, (types.ModuleType, type)) else {
            "method": value.__qualname__, "of": tell(of)
        }  # fmt: skip
    if callable(value) and not isinstance(value, type) and inspect.isroutine(getattr(value, "__wrapped__", None)):
        return {"class": f"{type(value).__module__}.{type(value).__qualname__}", "wraps": tell(value.__wrapped__)}
    return None
