"""What decides a teacher's answers, in words: the manifest shows it, caches are keyed by it."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyterrier as pt

#: Bytes of a weight file that are read at its beginning and its end; a training changes both.
_SAMPLE = 1 << 16
#: Settings that change how fast an answer comes, not which.
_IDLE = frozenset({"verbose", "batch_size", "device", "text_field", "label"})


def identity(transformer: Any) -> Any:
    """A transformer as plain data: its class, every setting that matters, its models and prompts by their content.

    Two transformers of one identity give one answer. Transformers inside are described in their order.
    """
    if isinstance(transformer, pt.Transformer):
        described: dict[str, Any] = {"class": f"{type(transformer).__module__}.{type(transformer).__qualname__}"}
        parts = getattr(transformer, "_transformers", None)
        if parts is not None:  # a pipeline
            return {**described, "stages": [identity(part) for part in parts]}
        settings = {
            setting.name: _value(setting.value, setting.name, transformer)
            for setting in pt.inspect.transformer_attributes(transformer, strict=False)
            if setting.name not in _IDLE and setting.value is not pt.inspect.TransformerAttribute.MISSING
        }
        template = getattr(transformer, "template", None)
        if template is not None:
            settings["prompt_text"] = digest(repr(template))
        return {**described, **settings} if settings else {**described, "repr": stable_repr(transformer)}
    return _value(transformer, "", None)


def _value(value: Any, name: str, owner: Any) -> Any:
    if isinstance(value, pt.Transformer):
        return identity(value)
    if isinstance(value, (str, os.PathLike)) and name in ("model", "name_or_path", "labels"):
        return checkpoint(os.fspath(value))
    if isinstance(value, (list, tuple)):
        return [_value(part, "", owner) for part in value]
    if isinstance(value, Mapping):
        return {str(key): _value(part, "", owner) for key, part in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return stable_repr(value)


def stable_repr(value: Any) -> str:
    """The repr, without addresses in memory."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def checkpoint(name: str) -> Any:
    """A model by its name on the hub, or a directory or file of it by what is inside."""
    path = Path(name).expanduser()
    if path.is_file():
        return {"path": name, "content": _sampled(path)}
    if not path.is_dir():
        return name
    files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
    return {"path": name, "content": digest([(p.relative_to(path).as_posix(), _sampled(p)) for p in files])}


def _sampled(path: Path) -> str:
    size = path.stat().st_size
    with open(path, "rb") as file:
        sample = file.read(_SAMPLE)
        if size > 2 * _SAMPLE:
            file.seek(-_SAMPLE, os.SEEK_END)
        sample += file.read(_SAMPLE)
    return hashlib.sha256(str(size).encode() + sample).hexdigest()


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
