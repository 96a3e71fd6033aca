"""Documents' vectors, kept block by block until their index is whole: an encoding that was interrupted goes on."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..engine import progress
from ..stores.files import naming

#: Documents of a block, what is encoded again after a kill; and of a call of the encoder: as many as a pipeline
#: ``encoder >> index`` gives it, so that vectors are the same to the last bit, in half precision, too.
BLOCK, CALL = 500, 100


def encoded(
    encoder: Any,
    documents: Iterable[dict[str, Any]],
    column: str,
    place: Path,
    block: int = BLOCK,
    verbose: bool | None = None,
) -> Iterator[dict[str, Any]]:
    """Documents with their vectors.

    Args:
        encoder: a student, or D → D with ``column``.
        documents: the same ones, in the same order, whenever this is called with ``place``.
        column: ``doc_vec`` (``[D]`` a document) or ``doc_embs`` (``[tokens, D]``).
        place: a directory for blocks; what is there is not encoded again.
        block: documents of a block.
        verbose: whether a bar is shown; None = once it takes more than three seconds.

    Yields:
        ``docno`` and ``column``.

    Raises:
        OSError: naming the file, if a block cannot be written.
    """
    place.mkdir(parents=True, exist_ok=True)
    quiet = encoder.doc_encoder(verbose=False) if hasattr(encoder, "doc_encoder") else encoder  # one bar for all
    rows = iter(progress.bar(documents, verbose=verbose, desc="Encoding documents", unit="d"))
    for number in itertools.count():
        part = list(itertools.islice(rows, block))
        if not part:
            return
        path = place / f"{number:08d}.npz"
        docnos = [document["docno"] for document in part]
        vectors = _read(path, docnos)
        if vectors is None:
            size = max(CALL, getattr(encoder, "batch_size", None) or 0)
            calls = (pd.DataFrame(part[n : n + size]) for n in range(0, len(part), size))
            vectors = [np.asarray(value) for call in calls for value in quiet(call)[column]]
            _write(path, docnos, vectors)
        yield from ({"docno": docno, column: value} for docno, value in zip(docnos, vectors, strict=True))


def _write(path: Path, docnos: list[str], vectors: list[np.ndarray]) -> None:
    """A block in its place, whole."""
    draft = path.with_suffix(f".{os.getpid()}.draft")
    tokens = vectors[0].ndim == 2
    lengths = np.array([len(value) for value in vectors] if tokens else [], dtype=np.int64)
    path.parent.mkdir(parents=True, exist_ok=True)  # another process may have been faster, and tidied up
    with naming(path), open(draft, "wb") as file:
        values = np.concatenate(vectors) if tokens else np.stack(vectors)
        np.savez(file, docnos=np.array(docnos), vectors=values, lengths=lengths)
    os.replace(draft, path)


def _read(path: Path, docnos: list[str]) -> list[np.ndarray] | None:
    """The vectors of a block; None where it is not there, or is one of other documents."""
    if not path.exists():
        return None
    with np.load(path) as held:
        if held["docnos"].tolist() != docnos:
            return None
        vectors, lengths = held["vectors"], held["lengths"]
    return list(np.split(vectors, np.cumsum(lengths)[:-1]) if len(lengths) else vectors)
