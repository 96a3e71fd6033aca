"""Documents of a collection of any size: read once, kept on disk, looked up by docno."""

from __future__ import annotations

import hashlib
import itertools
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt

from ..engine.checkpoints import write_json, written_whole
from ..frames import validate
from ..frames.document_text import joined_texts
from ..identity.identity import hash_rows
from ..stores.files import read_object
from .loading import called, dataset_named

#: Documents that are in memory at once.
BLOCK = 8192
_FILE, _META = "documents.sqlite", "documents.json"


class DocumentsOnDisk:
    """The documents of a collection in a directory: docno, text (title and text joined), title.

    Args:
        path: the directory, as :meth:`write` made it.

    Attributes:
        content: a digest of the documents, in their order; that of a frame of them is the same.
        columns: ``docno``, ``text``, and ``title`` where a document has one.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        meta = read_object(self.path / _META, " Delete the directory: it is written again.")
        self.content = str(meta["content"])
        self.columns = list(meta["columns"])
        self.count = int(meta["count"])

    @classmethod
    def write(cls, path: str | os.PathLike, source: Any) -> DocumentsOnDisk:
        """Read a collection, once, and keep it in a directory; what was kept there before is replaced.

        Args:
            path: the directory.
            source: a PyTerrier dataset, its name, or dicts with ``docno`` and ``text``, and ``title`` or not.

        Raises:
            ValueError: if there are no documents, one has no docno or no text, or a docno stands twice.
            TypeError: if it is no collection.
        """
        digest, count, titled = hashlib.sha256(), 0, False
        with written_whole(path, _META, overwrite=True) as draft:
            with closing(sqlite3.connect(draft / _FILE)) as table:
                table.execute("PRAGMA journal_mode = OFF")
                table.execute("PRAGMA synchronous = OFF")
                table.execute("CREATE TABLE documents (place INTEGER PRIMARY KEY, docno TEXT, text TEXT, title TEXT)")
                documents = _documents(source)
                while block := list(itertools.islice(documents, BLOCK)):
                    digest.update(hash_rows(pd.DataFrame([row[:2] for row in block], columns=["docno", "text"])))
                    titled = titled or any(title for _, _, title in block)
                    table.executemany("INSERT INTO documents (docno, text, title) VALUES (?, ?, ?)", block)
                    count += len(block)
                table.execute("CREATE INDEX docnos ON documents (docno)")
                query = "SELECT docno FROM documents GROUP BY docno HAVING COUNT(*) > 1 ORDER BY MIN(place) LIMIT 1"
                twice = table.execute(query).fetchone()
                table.commit()
            if count == 0:
                raise ValueError(f"{called(source)} has no documents.")
            if twice:
                raise ValueError(
                    f"{called(source)} holds document {twice[0]!r} more than once: every document needs its own id."
                )
            digest.update(repr(["docno", "text"]).encode())
            columns = ["docno", "text", "title"] if titled else ["docno", "text"]
            told = {"content": digest.hexdigest()[:16], "count": count, "columns": columns}
            write_json(draft / _META, told)
        return cls(path)

    def _open(self) -> sqlite3.Connection:
        """To read; BM25 engines go on reading in another thread than they began in."""
        where = f"{(self.path / _FILE).resolve().as_uri()}?mode=ro"
        return sqlite3.connect(where, uri=True, check_same_thread=False)

    def blocks(self) -> Iterator[pd.DataFrame]:
        """The documents as D frames of 8,192, in their order."""
        with closing(self._open()) as table:
            rows = table.execute(f"SELECT {', '.join(self.columns)} FROM documents ORDER BY place")
            while block := rows.fetchmany(BLOCK):
                yield pd.DataFrame(block, columns=self.columns)

    def records(self) -> Iterator[dict[str, str]]:
        """The documents as dicts with ``docno`` and ``text``, in their order."""
        with closing(self._open()) as table:
            for docno, text in table.execute("SELECT docno, text FROM documents ORDER BY place"):
                yield {"docno": docno, "text": text}

    def texts(self, docnos: Iterable[str]) -> dict[str, str]:
        """docno → text, of those that are in."""
        asked = list(dict.fromkeys(docnos))
        found: dict[str, str] = {}
        with closing(self._open()) as table:
            for start in range(0, len(asked), 500):  # SQLite takes 999 values at least
                part = asked[start : start + 500]
                marks = ", ".join("?" * len(part))
                found.update(table.execute(f"SELECT docno, text FROM documents WHERE docno IN ({marks})", part))
        return found

    def text_loader(self) -> TextsOnDisk:
        """R → R with ``text``."""
        return TextsOnDisk(self)

    def __repr__(self) -> str:
        return f"DocumentsOnDisk({self.content!r})"


class TextsOnDisk(pt.Transformer):
    """Adds ``text`` by docno from documents on disk: R → R, or any frame with ``docno``.

    Args:
        documents: those.

    Raises:
        ValueError: for a docno that they do not hold.
    """

    schematic = {"label": "Text"}
    decided_by = ("content",)

    def __init__(self, documents: DocumentsOnDisk):
        self.documents = documents

    @property
    def content(self) -> str:
        """A digest of the documents."""
        return self.documents.content

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add or replace ``text``; everything else stays."""
        validate.columns(inp, includes=["docno"], context=self)
        docnos = inp["docno"].astype(str)
        texts = self.documents.texts(docnos)
        missing = docnos[~docnos.isin(texts.keys())]
        if len(missing):
            raise ValueError(f"the collection holds no document {missing.iloc[0]!r} ({len(missing)} such rows).")
        return inp.assign(text=docnos.map(texts).to_numpy(dtype=object))

    def __repr__(self) -> str:
        return f"TextsOnDisk({self.documents!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TextsOnDisk) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))


def _documents(source: Any) -> Iterator[tuple[str, str, str]]:
    """docno, title and text joined, title, of each document, one by one."""
    if isinstance(source, str):
        source = dataset_named(source)
    if hasattr(source, "irds_ref") or hasattr(source, "get_corpus_iter"):
        rows = joined_texts(source)
    elif isinstance(source, Iterable) and not isinstance(source, bytes | dict):
        rows = joined_texts(_Given(source))
    else:
        raise TypeError(
            "a collection is a dataset, its name, a frame, or dicts with docno and text, not of type"
            f" {type(source).__name__}."
        )
    for docno, text, title in rows:
        if isinstance(docno, bool) or not isinstance(docno, str | int) or docno == "":
            raise ValueError(f"a document's docno must be a text of at least one character, not {docno!r}.")
        docno, text, title = (str(cell).encode("utf-8", "replace").decode() for cell in (docno, text, title))
        yield docno, text, title  # halves of characters, which JSON may hold, have become question marks


class _Given:
    """Dicts as a dataset gives them.

    Args:
        records: with ``docno`` and ``text``.
    """

    def __init__(self, records: Iterable[Any]):
        self.records = records

    def __repr__(self) -> str:
        return called(self.records)

    def get_corpus_iter(self, verbose: bool = False) -> Iterator[dict[str, Any]]:
        """The same, checked."""
        for record in self.records:
            if not isinstance(record, dict) or "docno" not in record or not isinstance(record.get("text"), str):
                raise ValueError(f"documents must be dicts with docno and text, not {str(record)[:80]}.")
            yield record
