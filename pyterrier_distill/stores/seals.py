"""Saved models that are what was written: digests of their files, kept beside them, and compared when read."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from pathlib import Path

from .files import read_object

#: Files up to this size are read whole, larger ones in this many blocks spread evenly: a training changes all of them.
_WHOLE, _BLOCKS, _BLOCK = 1 << 24, 4096, 1 << 16
#: What says that a directory is a saved model, and holds the digests under this name.
META, DIGESTS = "pt_meta.json", "digests"
#: A line at the top of each student's card.
_TAG = "\n- pyterrier-distill\n"


def is_saved(directory: str | os.PathLike) -> bool:
    """Whether a saved student is, or was, in a directory: its metadata are there, or its card."""
    card = Path(directory) / "README.md"
    if (card.parent / META).is_file():
        return True
    return card.is_file() and _TAG in card.read_text(encoding="utf-8", errors="replace").partition("\n---")[0]


def digests(directory: Path) -> list[str]:
    """``"<digest> <file>"`` of all that a model is read from; not of its card, nor of hidden files."""
    paths = (path.relative_to(directory) for path in sorted(directory.rglob("*")) if path.is_file())
    read = [path for path in paths if path.name not in (META, "README.md") and not path.name.startswith(".")]
    return [f"{_digest(directory / path)} {path.as_posix()}" for path in read]


def check(directory: str | os.PathLike) -> None:
    """Check that a saved model is what was saved; one without digests, of an earlier version or another program, is.

    Raises:
        ValueError: naming the file that is missing or another.
    """
    meta = Path(directory) / META
    if not meta.is_file():
        return
    for line in read_object(meta).get(DIGESTS) or ():
        expected, _, name = line.partition(" ")
        path = meta.parent / name
        if not path.is_file():
            wrong = "is missing"
        elif _digest(path) != expected:
            wrong = "is not what was saved"
        else:
            continue
        raise ValueError(
            f"{path} {wrong}: restore it from a copy of {meta.parent}, or save the model again. If it was changed on"
            f" purpose, take {DIGESTS!r} out of {meta}; the model is then read as it is."
        )


def _digest(path: Path) -> str:
    state = path.stat()
    return _read(str(path), state.st_size, state.st_mtime_ns, state.st_ctime_ns)


@functools.lru_cache(maxsize=4096)
def _read(path: str, size: int, *changed: int) -> str:
    """The digest of a file, read again only when it has changed; an adapter may be given where its base lies now."""
    if os.path.basename(path) == "adapter_config.json":
        told = {name: value for name, value in read_object(path).items() if name != "base_model_name_or_path"}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]
    found = hashlib.sha256(str(size).encode())
    step = _BLOCK if size <= _WHOLE else max(_BLOCK, size // _BLOCKS)
    with open(path, "rb") as file:
        for start in range(0, size, step):
            file.seek(start)
            found.update(file.read(_BLOCK))
    return found.hexdigest()[:32]
