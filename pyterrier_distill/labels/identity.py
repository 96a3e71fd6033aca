"""What decides a teacher's answers, in words: the manifest shows it, caches are keyed by it.

Whoever knows better than its constructor what decides its answers says so as ``decided_by``: the names of attributes,
or a method that gives names and values.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
import math
import os
import re
import types
from collections.abc import Mapping
from typing import Any

import pandas as pd
import pyterrier as pt

from .. import redaction
from ..backends.base import Backend
from .comparing import IDLE, STAND_INS, Told, as_stored, class_name, difference
from .content import checkpoint

__all__ = ["as_stored", "checkpoint", "difference", "digest", "hash_frame", "identity", "settings", "stable_repr"]

#: Settings whose value is a checkpoint or a file of labels.
_CHECKPOINTS = frozenset({"model", "name_or_path", "labels", "name"})
#: Settings whose value is a place: one place has many names.
_PLACES = frozenset({"path", "index", "index_path", "directory"})
#: Fields of a dataclass that count.
_COUNTERS = re.compile(r"(n_|num_)?(calls?|count(er)?s?|usage|requests?|asked|spent|cost|seconds|history|log)")


def identity(transformer: Any) -> Any:
    """A transformer as plain data: its class, every setting that matters, its models and prompts by their content.

    Two transformers of one identity give one answer. Transformers inside are described in their order; what only
    stands for another one, as a cache does, or a Distiller for its student, is described as that one. Secrets are left
    out.
    """
    if not isinstance(transformer, pt.Transformer):
        return _value(transformer, "")
    kind = type(transformer)
    inner = _stands_for(kind)
    if inner is not None:
        return identity(getattr(transformer, inner))
    parts = getattr(transformer, "_transformers", None)
    if parts is not None:  # a pipeline
        return {"class": class_name(kind), "stages": [identity(part) for part in parts]}
    told = settings(transformer)
    template = getattr(transformer, "template", None)
    if template is not None:
        told["prompt_text"] = digest(repr(template))
    told |= _changes(transformer)
    return {"class": class_name(kind), **(told or {"repr": redaction.text(stable_repr(transformer))})}


def settings(transformer: Any) -> dict[str, Any]:
    """The settings of a transformer that decide what it answers, by name, as plain data."""
    declared = _declared(transformer)
    if declared is not None:
        return declared
    attributes = pt.inspect.transformer_attributes(transformer, strict=False)
    missing = pt.inspect.TransformerAttribute.MISSING
    return _named({a.name: a.value for a in attributes if a.value is not missing})


def _stands_for(kind: type) -> str | None:
    """The attribute that holds what an object of this class only stands for, if it does."""
    said = getattr(kind, "stands_for", None)
    return said or next((STAND_INS[name] for base in kind.__mro__ if (name := class_name(base)) in STAND_INS), None)


def _changes(value: Any) -> dict[str, str]:
    """How an object's loaded model is no longer its checkpoint's."""
    changes = getattr(value, "model_changes", None)
    return changes() if callable(changes) else {}


def _named(values: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
    """Settings as plain data, without those that are idle or secret."""
    return {n: _value(v, n, depth) for n, v in redaction.without(values).items() if n not in IDLE}


def _declared(value: Any, depth: int = 0) -> dict[str, Any] | None:
    """What an object says that decides its answers; None if it says nothing."""
    said = getattr(value, "decided_by", None)
    if said is None:
        return None
    if callable(said):
        said = said()
    if not isinstance(said, Mapping):
        said = {name: getattr(value, name) for name in ([said] if isinstance(said, str) else said)}
    return _named(said, depth)


def _value(value: Any, name: str, depth: int = 0) -> Any:
    """A setting as plain data."""
    deeper = functools.partial(_value, name="", depth=depth + 1)
    if isinstance(value, Told):
        return value
    if isinstance(value, pt.Transformer):
        return identity(value)
    if isinstance(value, (str, os.PathLike)) and name in _CHECKPOINTS:
        return checkpoint(os.fspath(value))
    if isinstance(value, os.PathLike) or (isinstance(value, str) and name in _PLACES and os.path.exists(value)):
        return os.path.realpath(os.path.expanduser(value))
    if isinstance(value, str):
        return _plain_text(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (list, tuple)):
        return [deeper(part) for part in value]
    if isinstance(value, (set, frozenset)):
        return sorted((deeper(part) for part in value), key=repr)
    if isinstance(value, Mapping):
        return {key: _value(part, "", depth + 1) for key, part in redaction.without(value).items()}
    if isinstance(value, (pd.DataFrame, pd.Series)):
        return {"rows": len(value), "content": hash_frame(value)}
    if isinstance(value, functools.partial):
        return {"partial": deeper(value.func), "args": deeper(value.args), "keywords": deeper(value.keywords)}
    if isinstance(value, types.FunctionType):
        return {"function": f"{value.__module__}.{value.__qualname__}", "code": _code(value, depth)}
    return _object(value, depth)


def _plain_text(value: str) -> str:
    """A text as it is, but an address without those who may read it."""
    return redaction.text(value) if not re.search(r"\s", value) else value


def _object(value: Any, depth: int) -> Any:
    """An object that is no transformer: what it declares, else its repr, else what it was made with.

    Never all of its attributes: they hold connections, keys, and counters that every answer moves.
    """
    kind = type(value)
    inner = _stands_for(kind)
    if inner is not None:
        return _value(getattr(value, inner), "", depth)
    declared = _declared(value, depth + 1)
    generated = dataclasses.is_dataclass(value) and "__repr__" in vars(kind) and kind.__dataclass_params__.repr
    told = {"class": class_name(kind)}
    if declared is not None:
        return Told({**told, **declared, **_changes(value)}, said=[redaction.text(stable_repr(value))])
    if kind.__repr__ is not object.__repr__ and not generated:
        said = redaction.text(stable_repr(value))
        return {**told, "repr": said} if isinstance(value, Backend) else said
    if depth < 4:
        told.update(_named(_made_with(value), depth + 1))
    if generated:
        return Told(told, said=[redaction.text(stable_repr(value))])
    return told


def _made_with(value: Any) -> dict[str, Any]:
    """What an object keeps of its constructor's arguments, under their names, with or without an underscore."""
    if dataclasses.is_dataclass(value):
        fields = [f.name for f in dataclasses.fields(value) if f.init and f.repr and not _COUNTERS.fullmatch(f.name)]
        return {name: getattr(value, name) for name in fields}
    if type(value).__init__ is object.__init__:
        return {}
    try:
        parameters = inspect.signature(type(value).__init__).parameters
    except (TypeError, ValueError):  # not written in Python
        return {}
    kept = {}
    for name in list(parameters)[1:]:
        for attribute in (name, f"_{name}"):
            if attribute in getattr(value, "__dict__", {}):
                kept[name] = vars(value)[attribute]
                break
    return kept


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


def digest(content: Any) -> str:
    """Sixteen hexadecimal digits of plain data."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=repr).encode()).hexdigest()[:16]
