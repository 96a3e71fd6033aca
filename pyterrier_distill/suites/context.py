"""What a function that makes a pipeline is given: a collection, and a place for its index."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pyterrier as pt

from ..corpora.first_stage import bm25
from ..corpora.folder import FolderDataset
from ..frames.document_text import JoinedText, joined_texts


class Context:
    """A collection of a suite.

    Args:
        dataset: a PyTerrier dataset.
        path: a directory for the collection's indexes; it is kept.

    Attributes:
        name: the member's.
    """

    def __init__(self, dataset: Any, path: Path, name: str):
        self.dataset = dataset
        self.path = str(path)
        self.name = name

    def text_loader(self, fields: Any = None) -> pt.Transformer:
        """R → R with ``text``: title and text joined, as :meth:`get_corpus_iter` gives it; or with other fields."""
        return JoinedText(self.dataset) if fields is None else self.dataset.text_loader(fields)

    def get_corpus_iter(self, **_: Any) -> Iterator[dict[str, str]]:
        """Documents: ``docno``, ``text``, in which the title comes first."""
        for docno, text, _title in joined_texts(self.dataset):
            yield {"docno": docno, "text": text}

    @property
    def has_candidates(self) -> bool:
        """Whether the collection comes with what is to be re-ranked: ``rerank.jsonl`` of TIRA's layout."""
        return isinstance(self.dataset, FolderDataset) and self.dataset.has_candidates()

    @cached_property
    def first_stage(self) -> pt.Transformer:
        """Q → R: what a re-ranker re-ranks.

        Candidates in TIRA's layout, else the run ``bm25`` of a folder that has it, else BM25 over the documents.
        """
        stored = isinstance(self.dataset, FolderDataset) and "bm25" in self.dataset.runs()
        if stored or self.has_candidates:
            found = self.dataset.get_results("bm25" if "bm25" in self.dataset.runs() else None)
            return pt.Transformer.from_df(found[["qid", "docno", "score", "rank"]])
        index = Path(self.path) / "bm25"
        Path(self.path).mkdir(parents=True, exist_ok=True)
        return bm25(index, self.get_corpus_iter())
