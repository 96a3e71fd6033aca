"""What decides a teacher's answers, in words: the manifest shows it, caches are keyed by it."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import math
import os
import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt

#: Files up to this size are read whole, larger ones in this many blocks spread evenly: a training changes all of them.
_WHOLE, _BLOCKS, _BLOCK = 1 << 31, 4096, 1 << 16
#: Settings that change how fast an answer comes, not which.
_IDLE = frozenset({"verbose", "batch_size", "device"})
_CHECKPOINTS = frozenset({"model", "name_or_path", "labels", "name"})


def identity(transformer: Any) -> Any:
    """A transformer as plain data: its class, every setting that matters, its models and prompts by their content.

    Two transformers of one identity give one answer. Transformers inside are described in their order.
    """
    if not isinstance(transformer, pt.Transformer):
        return _value(transformer, "")
    described: dict[str, Any] = {"class": f"{type(transformer).__module__}.{type(transformer).__qualname__}"}
    parts = getattr(transformer, "_transformers", None)
    if parts is not None:  # a pipeline
        return {**described, "stages": [identity(part) for part in parts]}
    settings = {
        setting.name: _value(setting.value, setting.name)
        for setting in pt.inspect.transformer_attributes(transformer, strict=False)
        if setting.name not in _IDLE and setting.value is not pt.inspect.TransformerAttribute.MISSING
    }
    template = getattr(transformer, "template", None)
    if template is not None:
        settings["prompt_text"] = digest(repr(template))
    trained = getattr(getattr(transformer, "_weights", None), "trained", None)
    if trained is not None:  # a student whose weights are no longer its checkpoint's
        settings["trained"] = trained
    return {**described, **settings} if settings else {**described, "repr": stable_repr(transformer)}


def _value(value: Any, name: str, depth: int = 0) -> Any:
    """A setting as plain data."""
    deeper = functools.partial(_value, name="", depth=depth + 1)
    if isinstance(value, pt.Transformer):
        return identity(value)
    if isinstance(value, (str, os.PathLike)) and name in _CHECKPOINTS:
        return checkpoint(os.fspath(value))
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (list, tuple)):
        return [deeper(part) for part in value]
    if isinstance(value, (set, frozenset)):
        return sorted((deeper(part) for part in value), key=repr)
    if isinstance(value, Mapping):
        return {str(key): deeper(part) for key, part in value.items()}
    if isinstance(value, (pd.DataFrame, pd.Series)):
        return {"rows": len(value), "content": hash_frame(value)}
    if isinstance(value, functools.partial):
        return {"partial": deeper(value.func), "args": deeper(value.args), "keywords": deeper(value.keywords)}
    if isinstance(value, types.FunctionType):
        return {"function": f"{value.__module__}.{value.__qualname__}", "code": _code(value, depth)}
    if type(value).__repr__ is object.__repr__ or _is_backend(value):  # says nothing of itself, or not all
        described = {"class": f"{type(value).__module__}.{type(value).__qualname__}"}
        if depth < 4:
            # What was loaded or counted since it was made says nothing new.
            idle = _IDLE | {"usage"} | {k for k in dir(type(value)) if _is_cached(type(value), k)}
            kept = {k: v for k, v in getattr(value, "__dict__", {}).items() if k[:1] != "_" and k not in idle}
            described.update({k: _value(v, k, depth + 1) for k, v in kept.items()})
        return described
    return stable_repr(value)


def _is_cached(kind: type, name: str) -> bool:
    return isinstance(inspect.getattr_static(kind, name, None), functools.cached_property)


def _is_backend(value: Any) -> bool:
    from ..backends.base import Backend

    return isinstance(value, Backend)


def _code(function: types.FunctionType, depth: int) -> str:
    """A digest of what a function does: its code, defaults, and the values that it has closed over."""

    def told(code: types.CodeType) -> list[Any]:
        constants = [told(c) if isinstance(c, types.CodeType) else repr(c) for c in code.co_consts]
        return [code.co_code.hex(), constants, list(code.co_names), list(code.co_varnames)]

    closed = [cell.cell_contents for cell in function.__closure__ or ()]
    values = [_value(v, "", depth + 1) for v in [*closed, *(function.__defaults__ or ())]] if depth < 4 else []
    return digest([told(function.__code__), values])


def hash_frame(frame: pd.DataFrame | pd.Series) -> str:
    """A digest of a frame's cells and columns, row order included."""
    cells = pd.util.hash_pandas_object(frame.astype(str), index=False)
    columns = list(map(str, frame.columns)) if isinstance(frame, pd.DataFrame) else str(frame.name)
    return hashlib.sha256(cells.to_numpy().tobytes() + repr(columns).encode()).hexdigest()[:16]


def stable_repr(value: Any) -> str:
    """The repr, without addresses in memory."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def checkpoint(name: str) -> Any:
    """A model by its name on the hub, or a directory or file of it by what is inside."""
    path = Path(name).expanduser()
    if path.is_file():
        return {"path": name, "content": _content(path)}
    if not path.is_dir():
        return name
    files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
    return {"path": name, "content": digest([(p.relative_to(path).as_posix(), _content(p)) for p in files])}


def _content(path: Path) -> str:
    state = path.stat()
    return _hashed(str(path), state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _hashed(path: str, size: int, changed: int) -> str:
    """A digest of a file, read again only when it has changed."""
    hasher = hashlib.sha256(str(size).encode())
    step = _BLOCK if size <= _WHOLE else max(_BLOCK, size // _BLOCKS)
    with open(path, "rb") as file:
        for start in range(0, size, step):
            file.seek(start)
            hasher.update(file.read(_BLOCK))
    return hasher.hexdigest()


def digest(content: Any) -> str:
    """Sixteen hexadecimal digits of plain data."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=repr).encode()).hexdigest()[:16]


def difference(before: Any, now: Any, where: str = "") -> str | None:
    """The first field in which two identities differ, with both values; None if they are one."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            told = difference(before.get(key), now.get(key), f"{where}.{key}" if where else str(key))
            if told is not None:
                return told
        return None
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for n, (a, b) in enumerate(zip(before, now, strict=True)):
            told = difference(a, b, f"{where}[{n}]")
            if told is not None:
                return told
        return None
    return None if before == now else f"{where or 'pipeline'} was {_short(before)} and is {_short(now)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
