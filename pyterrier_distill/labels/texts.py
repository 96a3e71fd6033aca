"""Texts of documents, each once a store."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyterrier as pt

from ..engine.locks import using
from ..frames import validate
from . import shards
from .directory import TEXTS, Directory

if TYPE_CHECKING:
    from .stored_labels import StoredLabels

#: Characters of texts that stay in memory.
_KEPT = 1 << 26
#: Documents of whose texts a digest stays in memory.
_SEEN = 1 << 20


class Texts:
    """docno → text of one store, for several threads. The index holds 16 bytes a document, not its id.

    Args:
        directory: of the store.
    """

    def __init__(self, directory: Directory):
        self.directory = directory
        self._forget()

    def _forget(self) -> None:
        self._names: list[str] = []
        # places of documents by their hash: most in sorted arrays, those that came lately in a dict
        self._hashes = np.empty(0, dtype=np.uint64)
        self._places = np.empty(0, dtype=np.int64)
        self._late: dict[int, int] = {}
        self._seen: dict[int, int] = {}  # digests of texts by those of their documents
        self._groups: OrderedDict[int, tuple[list[str], list[str]]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        with using(self.directory):
            self._refresh()
            return len(self._hashes) + len(self._late)

    def _refresh(self) -> None:
        """Index the shards that have come since; where a document stands twice, one of its places counts."""
        names = self.directory.names(TEXTS)
        if len(names) == len(self._names) and set(names) == set(self._names):
            return
        if not set(self._names) <= set(names):
            self._forget()
        known = set(self._names)
        for name in names:
            if name in known:
                continue
            docnos = self.directory.open(name, TEXTS).read(columns=["docno"]).column("docno").to_pylist()
            hashes = _hash(docnos)
            new = self._find(hashes) < 0
            first = (len(self._names) << 32) + np.arange(len(docnos))
            self._late.update(zip(hashes[new].tolist(), first[new].tolist(), strict=True))
            self._names.append(name)
            if len(self._late) > max(100_000, len(self._hashes) // 4):
                self._settle()

    def _settle(self) -> None:
        """Move late documents into the arrays."""
        hashes = np.concatenate([self._hashes, np.fromiter(self._late, dtype=np.uint64, count=len(self._late))])
        places = np.concatenate([self._places, np.fromiter(self._late.values(), dtype=np.int64, count=len(self._late))])
        order = np.argsort(hashes)
        self._hashes, self._places, self._late = hashes[order], places[order], {}

    def _find(self, hashes: np.ndarray) -> np.ndarray:
        """Place ``[n]`` of each document, -1 where it has none."""
        places = _placed(self._hashes, self._places, hashes)
        if self._late:
            unknown = np.flatnonzero(places < 0)
            places[unknown] = [self._late.get(one, -1) for one in hashes[unknown].tolist()]
        return places

    def parts(self) -> Iterator[pd.DataFrame]:
        """All documents, each once, in some order: frames of ``docno`` and ``text``."""
        with using(self.directory):
            self._refresh()
            self._settle()
            names, hashes, places = list(self._names), self._hashes, self._places  # these arrays stay as they are
        for n, name in enumerate(names):
            frame = self.directory.open(name, TEXTS).read(columns=["docno", "text"]).to_pandas()
            found = _placed(hashes, places, _hash(frame["docno"].tolist()))
            yield frame[found == (n << 32) + np.arange(len(frame))]

    def missing(self, docnos: Sequence[str]) -> np.ndarray:
        """Whether ``[n]`` each document has no text here."""
        with using(self.directory):
            self._refresh()
            return self._find(_hash(docnos)) < 0

    def get(self, docnos: Sequence[str]) -> list[str]:
        """Texts of documents.

        Raises:
            KeyError: naming one that is not here.
        """
        with using(self.directory):
            return self._got(docnos)

    def _got(self, docnos: Sequence[str]) -> list[str]:
        self._refresh()
        places = self._find(_hash(docnos))
        if (places < 0).any():
            n = int((places < 0).argmax())
            raise KeyError(
                f"{self.directory} holds no text of document {docnos[n]!r} ({int((places < 0).sum())} such): build"
                " with_text=True, call add_texts(documents), or load texts from the collection."
            )
        out: list[str] = [""] * len(docnos)
        rows = places & 0xFFFFFFFF
        keys = (places >> 32 << 32) + rows // shards.ROW_GROUP
        for key in np.unique(keys):
            ids, texts = self._group(int(key))
            for n in np.flatnonzero(keys == key):
                row = int(rows[n]) % shards.ROW_GROUP
                if ids[row] != docnos[n]:
                    raise KeyError(f"documents {ids[row]!r} and {docnos[n]!r} have one digest: texts need another id.")
                out[n] = texts[row]
        return out

    def _group(self, key: int) -> tuple[list[str], list[str]]:
        if key not in self._groups:
            file = self.directory.open(self._names[key >> 32], TEXTS)
            table = file.read(groups=[key & 0xFFFFFFFF])
            self._groups[key] = table.column("docno").to_pylist(), table.column("text").to_pylist()
            self._size += sum(map(len, self._groups[key][1]))
            while self._size > _KEPT and len(self._groups) > 1:
                _, (_, dropped) = self._groups.popitem(last=False)
                self._size -= sum(map(len, dropped))
        self._groups.move_to_end(key)
        return self._groups[key]

    def add(self, documents: pd.DataFrame) -> int:
        """Commit the texts of documents that have none here.

        Args:
            documents: ``docno``, ``text``.

        Returns:
            How many were new.

        Raises:
            ValueError: if a document has another text here.
        """
        documents = documents[["docno", "text"]].assign(docno=documents["docno"].astype(str)).drop_duplicates("docno")
        new = self.missing(documents["docno"].tolist())
        if (other := self._other_text(documents[~new])) is not None:
            raise two_texts(other, " (one is stored)")
        documents = documents[new]
        if len(documents):
            pa = shards.arrow()
            columns = {name: pa.array(documents[name].tolist(), pa.string()) for name in ("docno", "text")}
            self.directory.write(pa.table(columns), len(self), TEXTS)
            self._note(_hash(documents["docno"].tolist()), _hash(documents["text"].tolist()))
        return len(documents)

    def check_labelled(self, documents: pd.DataFrame) -> None:
        """Check that documents that were labelled have the texts that are here, where there are any.

        Args:
            documents: ``docno``, ``text``, what a teacher has read.

        Raises:
            ValueError: naming one that has another.
        """
        if not len(documents) or not len(self):
            return
        told = documents[["docno", "text"]].assign(docno=documents["docno"].astype(str)).drop_duplicates()
        told = told[[isinstance(text, str) for text in told["text"]]]
        told = told[~self.missing(told["docno"].tolist())]
        if (other := self._other_text(told)) is not None:
            raise ValueError(
                f"document {other!r} has another text in this frame than in the store, which is what a training reads:"
                " give documents that have changed ids of their own, or leave the column 'text' out."
            )

    def _other_text(self, documents: pd.DataFrame) -> str | None:
        """The first of some documents, all of which have a text here, that has another one there; None = none."""
        if not len(documents):
            return None
        docnos, texts = documents["docno"].tolist(), documents["text"].tolist()
        hashes, told = _hash(docnos), _hash(texts)
        with using(self.directory):
            known = self._digests(docnos, hashes)
        for docno, one, text in zip(docnos, hashes.tolist(), told.tolist(), strict=True):
            if known[one] != text:
                return docno
        return None

    def _digests(self, docnos: list[str], hashes: np.ndarray) -> dict[int, int | None]:
        """Digests of the texts of documents that have one here, by those of the documents."""
        unread = [n for n, one in enumerate(hashes.tolist()) if one not in self._seen]
        known = {one: self._seen.get(one) for one in hashes.tolist()}
        if unread:
            stored = _hash(self.get([docnos[n] for n in unread]))
            known |= dict(zip(hashes[unread].tolist(), stored.tolist(), strict=True))
            self._note(hashes[unread], stored)
        return known

    def _note(self, hashes: np.ndarray, texts: np.ndarray) -> None:
        """Remember digests of texts, so that those that come again and again are read once."""
        with using(self.directory):
            self._seen.update(zip(hashes.tolist(), texts.tolist(), strict=True))
            while len(self._seen) > _SEEN:
                del self._seen[next(iter(self._seen))]


def check_one_text(documents: pd.DataFrame) -> None:
    """Check that no document of a frame has two texts.

    Raises:
        ValueError: naming one that has.
    """
    texts = documents[["docno", "text"]].assign(docno=documents["docno"].astype(str)).drop_duplicates()
    twice = texts["docno"].duplicated().to_numpy()
    if twice.any():
        raise two_texts(texts.loc[twice, "docno"].iloc[0])


def two_texts(docno: str, where: str = "") -> ValueError:
    """What is said of a document with two texts."""
    return ValueError(
        f"document {docno!r} has two texts{where}: a store keeps one a document, so texts that depend on the query"
        " (passages, snippets) need ids of their own, or with_text=False."
    )


def _placed(hashes: np.ndarray, places: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Place ``[n]`` of each wanted hash among sorted ones, -1 where it is not among them."""
    if not len(hashes):
        return np.full(len(wanted), -1)
    at = np.minimum(np.searchsorted(hashes, wanted), len(hashes) - 1)
    return np.where(hashes[at] == wanted, places[at], -1)


def _hash(docnos: Sequence[str]) -> np.ndarray:
    return pd.util.hash_array(np.asarray(docnos, dtype=object), categorize=False)


class StoredText(pt.Transformer):
    """R → R: adds ``text`` from a label store. Made by :meth:`LabelStore.text_loader`."""

    schematic = {"label": "StoredText"}

    def __init__(self, store: StoredLabels, field: str = "text"):
        self.store = store
        self.field = field

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add or replace ``text``.

        Raises:
            KeyError: naming a document whose text is not stored.
        """
        validate.columns(inp, includes=["docno"], context=self)
        docnos, places = np.unique(inp["docno"].astype(str).to_numpy(dtype=object), return_inverse=True)
        texts = np.array(self.store.texts.get(docnos.tolist()), dtype=object)
        return inp.assign(**{self.field: texts[places] if len(inp) else pd.Series(dtype=object)})

    def __repr__(self) -> str:
        return f"{self.store!r}.text_loader({'' if self.field == 'text' else repr(self.field)})"

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, StoredText) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))
