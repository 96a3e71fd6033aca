"""What decides a teacher's answers, in words: the manifest shows it, caches are keyed by it.

Whoever knows better than its constructor what decides its answers says so as ``decided_by``: the names of attributes,
or a method that gives names and values. A class whose constructor got further arguments since says so as
``added_later``: their names and the values that change nothing, which are left out, so that what was keyed before is
found.
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
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt

from ..stores import redaction
from . import arrays, functions
from .comparison import IDLE, STAND_INS, Retold, Told, as_stored, class_name, difference
from .content import checkpoint

__all__ = [
    "as_stored", "check_told", "checkpoint", "difference", "digest", "hash_frame", "identity", "settings", "silent",
    "stable_repr",
]  # fmt: skip

#: Settings whose value is a checkpoint or a file of labels.
_CHECKPOINTS = frozenset({"model", "name_or_path", "labels", "name"})
#: Settings whose value, a single word, may be a file or directory here; what holds a separator may under any name.
_FILES = re.compile(r"path|dir|file|model|name|check_?point|weights|index|folder")
#: Settings whose files are written by who has them, and decide nothing.
_WRITTEN = re.compile(r"(^|_)(caches?|tmp|temp|logs?|logging|out|output|saved?|work|working|download)(_|$|dir)")
#: Fields of a dataclass that count.
COUNTERS = re.compile(r"(n_|num_)?(calls?|count(er)?s?|usage|requests?|asked|spent|cost|seconds|history|log)")


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
    later = getattr(kind, "added_later", {})
    told = {n: value for n, value in settings(transformer).items() if n not in later or value != later[n]}
    template = getattr(transformer, "template", None)
    if template is not None:
        told["prompt_text"] = digest(repr(template))
    if reworded := getattr(transformer, "reworded", None):
        told["prompt_text"] = reworded
    told |= _changes(transformer)
    if _declared(transformer) is None:
        told |= _besides(transformer)
    told = told or {"repr": redaction.text(stable_repr(transformer))}
    return Told({"class": class_name(kind), **told}, assumed=_defaults(kind))


#: Where those who say nothing of what decides their answers are noted.
_noted: ContextVar[dict[str, str] | None] = ContextVar("_noted", default=None)


def silent(transformer: Any) -> dict[str, str]:
    """The classes of objects in a transformer that do not say what decides their answers, and what they keep back."""
    token = _noted.set({})
    try:
        identity(transformer)
        return _noted.get() or {}
    finally:
        _noted.reset(token)


def check_told(transformer: Any) -> None:
    """Check that a transformer says what decides its answers, so that another's are never given for its own.

    Raises:
        ValueError: naming the class that does not, and what to do.
    """
    for name, kept_back in silent(transformer).items():
        raise ValueError(
            f"{name} does not say what decides its answers, so that two of them could not be told apart: it does not"
            f" keep {kept_back} of its constructor under the same name. Keep it, or give the class a __repr__, or"
            " decided_by: the names of the attributes that decide, or a method that gives names and values."
        )


def _besides(value: Any) -> dict[str, Any]:
    """What an object of somebody else's has besides the settings that it keeps under their names: repr, models."""
    kind = type(value)
    if class_name(kind).startswith("pyterrier_distill."):
        return {}
    hidden = _kept_back(value)
    said: dict[str, Any] = {}
    held = {name: part for name, part in getattr(value, "__dict__", {}).items() if arrays.is_module(part)}
    parameters = _parameters(kind)
    for name, part in held.items():
        if name in parameters or name.removeprefix("_") in parameters:
            continue
        if hidden:
            said[name] = arrays.module(part)
        elif (weights := arrays.trained(part)) is not None:  # one that was made from the settings, and changed since
            said[name] = weights
    if hidden and kind.__repr__ is not object.__repr__:
        said["repr"] = redaction.text(stable_repr(value))
    elif hidden and not held and (noted := _noted.get()) is not None:
        noted[class_name(kind)] = ", ".join(hidden)
    return said


def _constructor(kind: Any) -> Any:
    return kind.__init__


def _parameters(kind: type) -> list[str]:
    """The arguments of a constructor, those that change no answer left out."""
    constructor = _constructor(kind)
    if constructor is object.__init__:
        return []
    try:
        parameters = list(inspect.signature(constructor).parameters.values())[1:]
    except (TypeError, ValueError):  # not written in Python
        return []
    various = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.kind not in various and p.name not in IDLE and p.name[:1] != "_"]


def _defaults(kind: type) -> dict[str, Any]:
    """The plain defaults of a constructor's arguments."""
    names = _parameters(kind)
    given = {name: inspect.signature(_constructor(kind)).parameters[name].default for name in names}
    return {n: _value(v, n) for n, v in given.items() if v is None or isinstance(v, (bool, int, float, str, tuple))}


def _kept_back(value: Any) -> list[str]:
    """The constructor's arguments that an object does not keep under their names, with or without an underscore."""
    names = _parameters(type(value))
    if isinstance(value, pt.inspect.HasAttributes):
        return []
    return [n for n in names if not hasattr(value, n) and not hasattr(value, f"_{n}") and not redaction.is_secret(n)]


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
    told = {n: _value(v, n, depth) for n, v in redaction.without(values).items() if n not in IDLE}
    if told.get("trust_remote_code") is True and _without_code(values.get("model", values.get("name_or_path"))):
        told["trust_remote_code"] = False  # there is no code to trust
    return told


def _without_code(name: Any) -> bool:
    """Whether a model is a directory, or a file, here that brings no code of its own."""
    if not isinstance(name, (str, os.PathLike)):
        return False
    if not os.path.isdir(os.path.expanduser(name)):
        return os.path.isfile(os.path.expanduser(name))
    return not any(file.suffix == ".py" for file in Path(name).expanduser().rglob("*"))


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
    if isinstance(value, os.PathLike) or (isinstance(value, str) and _is_place(value, name)):
        return _place(value, name)
    if isinstance(value, str):
        return _plain_text(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (list, tuple)):
        return [deeper(part) for part in value if not redaction.is_couple(part)]
    if isinstance(value, (set, frozenset)):
        return sorted((deeper(part) for part in value), key=repr)
    if isinstance(value, Mapping):
        return {key: _value(part, "", depth + 1) for key, part in redaction.without(value).items()}
    if isinstance(value, (pd.DataFrame, pd.Series)):
        return {"rows": len(value), "content": hash_frame(value)}
    if isinstance(value, functools.partial):
        return {"partial": deeper(value.func), "args": deeper(value.args), "keywords": deeper(value.keywords)}
    if isinstance(value, types.FunctionType):
        return functions.told(value, functools.partial(_value, name="", depth=depth + 1), deep=depth < 8)
    told = arrays.told(value) or functions.called(value, deeper)
    return _object(value, depth) if told is None else Retold(told, said=[redaction.text(stable_repr(value))])


def _is_place(value: str, name: str) -> bool:
    """Whether a setting names a file or directory that is here."""
    if not value or _WRITTEN.search(name) or not (os.sep in value or _FILES.search(name)):
        return False
    return os.path.exists(os.path.expanduser(value))


def _place(value: str | os.PathLike, name: str) -> Any:
    """A file or directory by what is inside; by its name if nothing is there yet, or what is there decides nothing."""
    given = os.fspath(value)
    path = os.path.realpath(os.path.expanduser(given))
    if _WRITTEN.search(name) or not os.path.exists(path):
        return path
    inside = checkpoint(path)
    return Retold(inside, said=[path, *getattr(inside, "said", []), _plain_text(given)])


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
        return {**told, "repr": said} if getattr(value, "told_with_class", False) else said
    if depth < 8:
        told.update(_named(_made_with(value), depth + 1))
    if not generated and not functions.is_installed(kind):
        told |= _besides(value)
    if generated:
        return Told(told, said=[redaction.text(stable_repr(value))], assumed=_defaults(kind))
    return told


def _made_with(value: Any) -> dict[str, Any]:
    """What an object keeps of its constructor's arguments, under their names, with or without an underscore."""
    if dataclasses.is_dataclass(value):
        fields = [f.name for f in dataclasses.fields(value) if f.init and f.repr and not COUNTERS.fullmatch(f.name)]
        return {name: getattr(value, name) for name in fields}
    kept = {}
    for name in _parameters(type(value)):
        for attribute in (name, f"_{name}"):
            if attribute in getattr(value, "__dict__", {}):
                kept[name] = vars(value)[attribute]
                break
    return kept


def hash_frame(frame: pd.DataFrame | pd.Series) -> str:
    """A digest of a frame's cells and columns, row order included."""
    columns = list(map(str, frame.columns)) if isinstance(frame, pd.DataFrame) else str(frame.name)
    return hashlib.sha256(hash_rows(frame) + repr(columns).encode()).hexdigest()[:16]


def hash_rows(frame: pd.DataFrame | pd.Series) -> bytes:
    """Eight bytes a row: those of a frame are those of its parts, one behind the other."""
    return pd.util.hash_pandas_object(frame.astype(str), index=False).to_numpy().tobytes()


def stable_repr(value: Any) -> str:
    """The repr, without addresses in memory."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def digest(content: Any) -> str:
    """Sixteen hexadecimal digits of plain data."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=repr).encode()).hexdigest()[:16]
