"""Rows on disk, parted by query: whatever order they come in, all rows of a query lie in one part."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..stores.files import naming
from .shards import arrow
from .texts import _hash

#: Bytes of input that one part is made of, and how many parts there are at most (each is an open file).
PART, MOST = 1 << 24, 128
_DONE, _OURS = "done.json", "rows"
_TEXTS = ("qid", "docno", "other", "query", "subset")


class Spool:
    """Tables of rows that have a ``qid``, in files of a directory of their own.

    One pass writes all rows, each into its query's part; then part after part is read. Memory holds one part.

    Args:
        folder: the directory; what is in it is of this spool or of an earlier one.
        key: says what is spooled. Rows of another key, or those of a pass that was stopped, are thrown away.
        size: bytes of the input.
    """

    def __init__(self, folder: Path, key: str, size: int):
        self.folder = folder
        self.told: dict[str, Any] = {}
        if (folder / _DONE).is_file():
            told = json.loads((folder / _DONE).read_text())
            if told.get("key") == key:
                self.told = told
        if not self.told:
            self._clear()
        self.parts: int = self.told.get("parts", min(MOST, size // PART + 1))
        self._key = key
        self._open: dict[tuple[str, int], Any] = {}
        self._stack = ExitStack()

    @property
    def done(self) -> bool:
        """Whether all rows are in."""
        return bool(self.told)

    def __enter__(self) -> Spool:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / _OURS).touch()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _clear(self) -> None:
        """Throw away what is there.

        Raises:
            ValueError: if it is no spool.
        """
        if self.folder.is_dir() and any(self.folder.iterdir()) and not (self.folder / _OURS).is_file():
            raise ValueError(f"{self.folder} is needed for rows that are read, and holds something else: move it.")
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """Close its files. Tables that are begun are complete with that: write other ones, or none, afterwards."""
        self._stack.close()
        self._open.clear()

    def write(self, kind: str, rows: pd.DataFrame) -> None:
        """Put rows into their parts.

        Args:
            kind: of rows; those of one kind with the same columns make a table.
            rows: with ``qid``; other columns are numbers, texts (by name), and ``answers``, lists of texts.
        """
        pa = arrow()
        name = "~".join([kind, *sorted(c for c in rows.columns if c not in ("qid", "file", "line"))])
        table = pa.table({column: _array(column, rows[column]) for column in sorted(rows.columns)})
        parts = (_hash(rows["qid"].tolist()) % np.uint64(self.parts)).astype(int)
        order = np.argsort(parts, kind="stable")
        ends = np.concatenate([[0], np.cumsum(np.bincount(parts, minlength=self.parts))])
        table = table.take(pa.array(order))
        with naming(self.folder):
            for part in np.flatnonzero(np.diff(ends)).tolist():
                self._writer(name, part, table.schema).write_table(
                    table.slice(ends[part], ends[part + 1] - ends[part]).combine_chunks()
                )

    def _writer(self, name: str, part: int, schema: Any) -> Any:
        if (name, part) not in self._open:
            pa = arrow()
            options = pa.ipc.IpcWriteOptions(compression="zstd")
            path = self.folder / f"{name}.{part}.arrow"
            file = self._stack.enter_context(pa.OSFile(str(path), "wb"))
            self._open[name, part] = self._stack.enter_context(pa.ipc.new_stream(file, schema, options=options))
        return self._open[name, part]

    def finish(self, **told: Any) -> None:
        """All rows are in.

        Args:
            **told: what else is known then; it is in :attr:`told` from now on.
        """
        self.close()
        self.told = {**told, "key": self._key, "parts": self.parts}
        draft = self.folder / f".{_DONE}"
        draft.write_text(json.dumps(self.told))
        draft.rename(self.folder / _DONE)

    def read(self, kind: str, part: int) -> Iterator[pd.DataFrame]:
        """The tables of a kind in a part, each in the order in which its rows came."""
        pa = arrow()
        for path in sorted(self.folder.glob(f"{kind}~*.{part}.arrow")):
            with pa.memory_map(str(path)) as file:
                yield pa.ipc.open_stream(file).read_all().to_pandas()

    def has(self, kind: str) -> bool:
        """Whether there are rows of a kind in any part."""
        return any(self.folder.glob(f"{kind}~*.arrow"))

    def remove(self) -> None:
        """Delete it."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _array(name: str, cells: pd.Series) -> Any:
    pa = arrow()
    if name in _TEXTS:
        return pa.array(cells.tolist(), pa.string(), from_pandas=True)
    if name == "answers":
        return pa.array([cell if isinstance(cell, list) else None for cell in cells], pa.list_(pa.string()))
    if name in ("file", "line"):
        return pa.array(cells.to_numpy(), pa.int64())
    return pa.array(cells.to_numpy(dtype=float), pa.float64())
