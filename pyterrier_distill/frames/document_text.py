"""What the text of a collection's document is: title and text joined, wherever a dataset is given for documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import pandas as pd
import pyterrier as pt

from . import validate


def joined_texts(dataset: Any) -> Iterator[tuple[str, str, str]]:
    """docno, title and text joined, title or ``""`` of each document, one by one.

    Raises:
        ValueError: if there are none.
    """
    if hasattr(dataset, "irds_ref"):
        for document in documents_of(dataset):
            yield document["docno"], document["text"], document.get("title") or ""
    else:
        for document in dataset.get_corpus_iter(verbose=False):
            yield document["docno"], _joined(document), document.get("title") or ""


def _joined(document: Mapping[str, str]) -> str:
    return " ".join(document[field] for field in ("title", "text") if document.get(field)).strip()


class JoinedText(pt.Transformer):
    """R → R with ``text``: title and text of each document joined, looked up by docno.

    ``dataset.text_loader()`` is PyTerrier's and reads the field ``text`` alone, which in BEIR's collections lacks the
    title.

    Args:
        dataset: of ir_datasets, whose document store is asked; or one that holds its documents in memory.

    Raises:
        ValueError: for a docno that the collection does not hold.

    Example::

        dataset = pt.get_dataset("irds:beir/nfcorpus/test")
        candidates = ptd.bm25("nfcorpus.bm25", dataset) % 100 >> ptd.JoinedText(dataset)
    """

    schematic = {"label": "Text"}

    def __init__(self, dataset: Any):
        self.dataset = dataset

    @cached_property
    def _store(self) -> Any:
        return self.dataset.irds_ref().docs_store()

    def __getstate__(self) -> dict[str, Any]:
        return {"dataset": self.dataset}  # open files stay here

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add or replace ``text``; everything else stays."""
        validate.columns(inp, includes=["docno"], context=self)
        docnos = inp["docno"].astype(str)
        if hasattr(self.dataset, "irds_ref"):
            found = self._store.get_many(set(docnos))
            texts = {docno: document.default_text().strip() for docno, document in found.items()}
        else:
            documents = self.dataset.documents()
            texts = {docno: _joined(documents[docno]) for docno in set(docnos) if docno in documents}
        missing = docnos[~docnos.isin(texts.keys())]
        if len(missing):
            raise ValueError(f"{self.dataset!r} holds no document {missing.iloc[0]!r} ({len(missing)} such rows).")
        return inp.assign(text=docnos.map(texts).to_numpy(dtype=object))

    def __repr__(self) -> str:
        return f"JoinedText({self.dataset!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JoinedText) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))


def documents_of(dataset: Any) -> Iterator[dict[str, Any]]:
    """Documents of a dataset with all their fields, in whose ``text`` the title comes first.

    Raises:
        ValueError: if there are none.
    """
    if hasattr(dataset, "irds_ref"):
        reference = dataset.irds_ref()
        if not reference.has_docs():
            raise ValueError(f"{dataset!r} has no documents.")
        for document in reference.docs_iter():
            fields = document._asdict()
            yield {"docno": fields.pop("doc_id"), **fields, "text": document.default_text().strip()}
    else:
        for document in dataset.get_corpus_iter(verbose=False):
            yield {**document, "text": _joined(document)} if document.get("title") else document


def is_dataset(given: Any) -> bool:
    """Whether :class:`JoinedText` can look documents up in it."""
    return hasattr(given, "get_corpus_iter") and (
        hasattr(given, "irds_ref") or callable(getattr(given, "documents", None))
    )
