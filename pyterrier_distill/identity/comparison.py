"""Whether two identities are one, and where they differ; also with those that earlier versions wrote."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..stores import redaction
from . import idle

#: Settings that change how fast an answer comes, or whether it comes, not which.
IDLE = frozenset(
    """verbose batch_size device threads num_threads n_jobs num_workers workers concurrency max_concurrency retries
    max_retries timeout usage show_progress progress""".split()
)
#: What only stands for something else, and the attribute that holds it.
STAND_INS = {
    "pyterrier_distill.CachedTeacher": "teacher",
    "pyterrier_distill.CachedQueryGen": "generator",
    "pyterrier_distill.Distiller": "student",
    "pyterrier_distill.IterativeDistiller": "distiller",
    "pyterrier_distill.Wrapped": "inner",
}
_OURS = re.compile(r"pyterrier_distill\.(?:[a-z0-9_]+\.)+(?=\w)")
#: Settings of a backend that are handed on as they are, and what in them is idle.
_WITHIN = {"extra": idle.REQUEST, "options": idle.ENGINE}
_HANDING_ON = frozenset({"pyterrier_distill.OpenAI", "pyterrier_distill.VLLM"})
_MISSING = object()


class Told(dict):
    """A description, with other words that were once used for the same thing.

    Attributes:
        said: these.
        assumed: what settings are where nobody gives them: a description that lacks one is older than the setting.
    """

    def __init__(self, told: Mapping[str, Any], said: Sequence[Any] = (), assumed: Mapping[str, Any] | None = None):
        super().__init__(told)
        self.said = list(said)
        self.assumed = dict(assumed or {})

    def __reduce__(self) -> tuple:
        return type(self), (dict(self), self.said, self.assumed)


class Retold(Told):
    """A description that the version before gave in other words: the first of ``said``."""


def as_before(value: Any) -> Any:
    """A description in the words of the version before."""
    if isinstance(value, Retold):
        return value.said[0]
    if isinstance(value, dict):
        return {name: as_before(part) for name, part in value.items()}
    return [as_before(part) for part in value] if isinstance(value, list) else value


def class_name(kind: type) -> str:
    """A class by its name; one of this package by that alone, wherever in it the class lives."""
    return _OURS.sub("pyterrier_distill.", f"{kind.__module__}.{kind.__qualname__}")


def as_stored(stored: Any, now: Any) -> Any:
    """The identity that a manifest holds if it is the same as ``now``, else ``now``.

    What was keyed by the words of an earlier version is found again by these words.
    """
    return now if stored is None or difference(stored, now) is not None else stored


def difference(before: Any, now: Any) -> str | None:
    """The first field in which two identities differ, with both values; None if they are one.

    Args:
        before: what a manifest holds.
        now: the identity of something at hand.
    """
    for where, one, other in _differences(before, now, ""):
        shown = _short(one, other)
        return f"{where or 'pipeline'} was {shown[0]} and is {shown[1]}"
    return None


def _differences(before: Any, now: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    before = _present(before)
    said, assumed = (now.said, now.assumed) if isinstance(now, Told) else ([], {})
    now = _present(now)
    if before == now or before in said or (isinstance(before, str) and redaction.text(before) in said):
        return
    if isinstance(before, dict) and isinstance(now, dict):
        if {"path", "content"} == set(before):  # a checkpoint, once described by its name, too
            before = {"content": before["content"]}
            if before == now or before in said:
                return
        yield from _of_mappings(before, now, where, assumed)
    elif isinstance(before, list) and isinstance(now, list):
        for n in range(max(len(before), len(now))):
            one, other = (part[n] if n < len(part) else _MISSING for part in (before, now))
            yield from _differences(one, other, f"{where}[{n}]")
    elif not _same_place(before, now):
        yield where, before, now


def _of_mappings(before: dict, now: dict, where: str, assumed: dict) -> Iterator[tuple[str, Any, Any]]:
    # An object that was once described by all its attributes, counters among them.
    attributes = "class" in before and not {"stages", "repr"} & set(before)
    known = "class" in now
    for key in dict.fromkeys([*before, *now]):
        if known and key in IDLE:
            continue
        one, other = before.get(key), now.get(key)
        if known and key not in before and key in assumed and other == assumed[key]:
            continue
        if key in _WITHIN and now.get("class") in _HANDING_ON:
            one, other = (_without(part, _WITHIN[key]) for part in (one, other))
        if key not in now and known and attributes and _is_counter(now):
            continue
        if attributes and one is None and (key == "repr" or (key, now.get("class")) == _BY_ENVIRONMENT):
            continue  # not told once
        yield from _differences(one, other, f"{where}.{key}" if where else str(key))


def _without(value: Any, names: frozenset[str]) -> Any:
    return {name: part for name, part in value.items() if name not in names} if isinstance(value, dict) else value


_BACKENDS = frozenset(f"pyterrier_distill.{name}" for name in ("OpenAI", "VLLM", "HF"))
_BY_ENVIRONMENT = ("base_url", "pyterrier_distill.OpenAI")


def _is_counter(now: dict) -> bool:
    """Whether a key that is no longer written says nothing: of objects that are no transformers of this package."""
    return not now["class"].startswith("pyterrier_distill.") or now["class"] in _BACKENDS


#: Settings that had other names: class → old name → new name.
_RENAMED = {
    "pyterrier_distill.FalseNegativeFilter": {"column": "label"},
    "pyterrier_distill.ConsistencyFilter": {"k": "depth"},
    "pyterrier_distill.TopQueries": {"k": "n"},
}


def _present(value: Any) -> Any:
    """In the words of this version: classes by name, what stands for others left out, nothing secret."""
    if isinstance(value, str):
        return _OURS.sub("pyterrier_distill.", value)
    if isinstance(value, (list, tuple)):
        return [part for part in value if not redaction.is_couple(part)]
    if not isinstance(value, dict):
        return value
    told = redaction.without(value)
    inner = STAND_INS.get(_OURS.sub("pyterrier_distill.", str(told.get("class"))))
    if inner in told:
        return _present(told[inner])
    names = _RENAMED.get(_OURS.sub("pyterrier_distill.", str(told.get("class"))), {})
    return {names.get(name, name): part for name, part in told.items()}


def _same_place(before: Any, now: Any) -> bool:
    """Whether two texts name one file or directory, or one address."""
    if not isinstance(before, str) or not isinstance(now, str):
        return False
    if redaction.text(before).rstrip("/") in (now.rstrip("/"), redaction.text(now).rstrip("/")):
        return True
    before, now = (re.sub(r"^(?:Posix|Windows)Path\('(.*)'\)$", r"\1", one) for one in (before, now))
    return os.path.exists(before) and os.path.exists(now) and os.path.samefile(before, now)


def _short(before: Any, now: Any, width: int = 80) -> tuple[str, str]:
    """Two values on a line, each with what stands round the first place at which they differ."""
    texts = ["absent" if value is _MISSING else redaction.text(repr(value)) for value in (before, now)]
    first = next((n for n, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts)))
    start = max(0, first - width // 3)
    shown = []
    for one in texts:
        if len(one) <= width:
            shown.append(one)
            continue
        at = min(start, len(one) - width)
        shown.append(f"{'...' if at else ''}{one[at : at + width]}{'...' if at + width < len(one) else ''}")
    return shown[0], shown[1]
