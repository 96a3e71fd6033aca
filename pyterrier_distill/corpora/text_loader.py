"""Adding document text to results, for collections that fit in memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd
import pyterrier as pt

from ..frames import validate


class TextLoader(pt.Transformer):
    """Adds the text fields of a collection by docno: R → R, or any frame with ``docno``.

    Args:
        dataset: a dataset whose ``get_corpus_iter`` gives the documents; read when first needed.
        fields: which fields; None = all.

    Raises:
        ValueError: for a docno that the collection does not hold, or a field that none of the documents has.
    """

    schematic = {"label": "TextLoader"}

    def __init__(self, dataset: Any, fields: list[str] | str | None = None):
        self.dataset = dataset
        self.fields = [fields] if isinstance(fields, str) else fields

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add or replace the text columns; everything else stays."""
        validate.columns(inp, includes=["docno"], context=self)
        fields = self.fields or self.dataset.text_fields()
        if len(inp) == 0:
            return inp.assign(**{field: pd.Series(dtype=object) for field in fields})
        documents = self.dataset.documents()
        missing = [docno for docno in inp["docno"] if docno not in documents]
        if missing:
            raise ValueError(f"{self.dataset} holds no document {missing[0]!r} ({len(missing)} such rows).")
        known = self.dataset.text_fields()
        for field in fields:
            if field not in known and not any(field in documents[docno] for docno in inp["docno"]):
                raise ValueError(f"{self.dataset} has no field {field!r}, only: {', '.join(known)}.")
        columns = {field: [documents[docno].get(field, "") for docno in inp["docno"]] for field in fields}
        return inp.assign(**columns)

    def fuse_rank_cutoff(self, k: int) -> pt.Transformer:
        """Cutting first loads fewer texts."""
        return pt.RankCutoff(k) >> self

    def __repr__(self) -> str:
        return f"TextLoader({self.dataset!r}, {self.fields!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TextLoader) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))


class InMemoryDataset(pt.datasets.Dataset):
    """A dataset that can keep its documents in memory. Subclasses give ``get_corpus_iter`` and ``text_fields``."""

    _documents: dict[str, dict[str, str]] | None = None

    def text_fields(self) -> list[str]:
        """The text fields of a document."""
        raise TypeError(f"{type(self).__name__} does not say its text fields.")

    def documents(self) -> dict[str, dict[str, str]]:
        """docno → document, read once.

        Raises:
            ValueError: if a docno stands twice.
        """
        if self._documents is None:
            documents = list(self.get_corpus_iter(verbose=False))
            check_documents_once((document["docno"] for document in documents), self)
            self._documents = {document["docno"]: document for document in documents}
        return self._documents

    def text_loader(self, fields: list[str] | str | None = None) -> TextLoader:
        """R → R with the documents' text; see :class:`TextLoader`."""
        return TextLoader(self, fields)


def check_documents_once(docnos: Iterable[str], dataset: Any) -> None:
    """Check that no document stands twice in a collection.

    Raises:
        ValueError: naming the first one that does.
    """
    seen: set[str] = set()
    for docno in docnos:
        if docno in seen:
            raise ValueError(f"{dataset!r} holds document {docno!r} more than once: every document needs its own id.")
        seen.add(docno)
