"""Checkpoints and files by what is inside, wherever they lie and whatever they are called."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from ..stores import redaction
from ..stores.files import DOCUMENTS
from .comparison import Told

#: Files up to this size are read whole, larger ones in this many blocks spread evenly: a training changes all of them.
_WHOLE, _BLOCKS, _BLOCK = 1 << 31, 4096, 1 << 16


def checkpoint(name: str) -> Any:
    """A model by its name on the hub, or a directory or file of it by what is inside.

    What a directory holds for people (``.md``) or for tools (hidden files and folders) decides no answer.
    """
    path = Path(name).expanduser()
    try:
        path = path.resolve()
        if path.is_file():
            return {"content": _content(path)}
        if not path.is_dir():
            return redaction.text(name) if "://" in name else name
    except OSError:  # no name of a file, such as one that is too long
        return name
    if (path / DOCUMENTS).is_file():  # built again from the same, an index differs in nothing that decides
        return {"content": _digest([(DOCUMENTS, _content(path / DOCUMENTS))])}
    files = sorted(p for p in path.rglob("*") if p.is_file())
    named = [(p.relative_to(path), p) for p in files if not _made_in_use(path, p.relative_to(path))]
    deciding = [
        (short.as_posix(), _content(p))
        for short, p in named
        if not any(part.startswith(".") for part in short.parts) and p.suffix.lower() != ".md"
    ]
    earlier = [(short.as_posix(), _content(p)) for short, p in named if not p.name.startswith(".")]
    return Told({"content": _digest(deciding)}, said=[{"content": _digest(earlier)}])


def _made_in_use(path: Path, file: Path) -> bool:
    """Whether a file of an index is made of the others when they are searched."""
    first = file.parts[0]
    if (path / "vecs.f4").is_file():  # pyterrier_dr's FlexIndex: graphs and engines
        return first not in ("vecs.f4", "docnos.npids", "pt_meta.json")
    if (path / "inv.docs").is_file():  # PISA: scores of one k1 and b
        return not first.startswith(("fwd", "inv.", "pt_meta"))
    return first.startswith("plaid") and (path / "pt_meta.json").is_file()  # of a MultiVectorIndex


def _digest(files: list[tuple[str, str]]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:16]


def _content(path: Path) -> str:
    state = path.stat()
    return _hashed(str(path), state.st_size, state.st_mtime_ns, state.st_ctime_ns)


@functools.lru_cache(maxsize=4096)
def _hashed(path: str, size: int, *changed: int) -> str:
    """A digest of a file, read again only when it has changed."""
    hasher = hashlib.sha256(str(size).encode())
    step = _BLOCK if size <= _WHOLE else max(_BLOCK, size // _BLOCKS)
    with open(path, "rb") as file:
        for start in range(0, size, step):
            file.seek(start)
            hasher.update(file.read(_BLOCK))
    return hasher.hexdigest()
