"""A collection with what recipes look documents up in: BM25, an index of the teacher's vectors."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt

from ..corpora.first_stage import bm25
from ..corpora.loading import load_collection
from ..demo.distil import default_teacher
from ..generation.queries import explode_queries
from ..generation.spans import Mixture, Phrasings, SpanQueries
from ..generation.titles import TitleQueries
from ..identity.identity import digest, hash_frame
from ..students.bi_encoder import BiEncoder
from ..suites.encoded import encoded


class Site:
    """A collection.

    Args:
        name: ``irds:ID``, ``folder:PATH`` or ``pydocs``.
        work: a directory for its indexes.

    Attributes:
        documents: D frame.
        topics: the queries that systems are measured on.
        qrels: their judgements; no recipe trains on these.
    """

    def __init__(self, name: str, work: Path):
        self.name, self.path = name, Path(work)
        collection = load_collection(name)
        self.documents, self.topics, self.qrels = collection.documents, collection.topics, collection.qrels

    @property
    def content(self) -> str:
        """A digest of its documents, queries and judgements."""
        return digest([hash_frame(part) for part in (self.documents, self.topics, self.qrels)])

    @cached_property
    def bm25(self) -> pt.Transformer:
        """Q → R, a thousand documents deep."""
        return bm25(self.path / "bm25", self.documents.to_dict("records"), num_results=1000)

    def index(self, encoder: Any) -> Any:
        """A FlexIndex of the documents' vectors by an encoder; interrupted, it goes on."""
        import pyterrier_dr

        place = self.path / f"{encoder.fingerprint()[:12]}.flex"
        opened = pyterrier_dr.FlexIndex(str(place), verbose=False)
        if not opened.built():
            parts = place.with_suffix(".parts")
            records = self.documents[["docno", "text"]].to_dict("records")
            opened.indexer(mode="overwrite").index(encoded(encoder, records, "doc_vec", parts))
        return opened

    def dense(self, encoder: Any, documents: Any = None) -> pt.Transformer:
        """Q → R: what an encoder finds, a hundred documents deep, among vectors of its own or of another encoder."""
        index = self.index(encoder if documents is None else documents)
        return encoder.query_encoder() >> index.np_retriever(num_results=100) >> pt.apply.generic(_ranking)

    def queries(self, count: int, seed: int, titles: float = 0.0) -> pd.DataFrame:
        """Queries made of the documents alone: spans as people ask them, and titles or first sentences.

        Args:
            count: at most so many, all different.
            seed: of the draw.
            titles: their share.

        Returns:
            Q with ``docno``, the document that each was made of.
        """
        spans = SpanQueries(-(-count // len(self.documents)) + 1, lengths=Mixture(), phrasings=Phrasings(), seed=seed)
        made = (spans >> explode_queries())(self.documents)
        wanted = round(titles * count)
        if wanted:
            named = (TitleQueries(title_field=None) >> explode_queries())(self.documents)
            named = named.assign(qid="title-" + named["qid"]).sample(n=min(wanted, len(named)), random_state=seed)
            made = made.sample(n=min(count - len(named), len(made)), random_state=seed)
            made = pd.concat([named, made], ignore_index=True)
        distinct = made.drop_duplicates("query", ignore_index=True)[["qid", "query", "docno"]]
        return distinct.sample(n=min(count, len(distinct)), random_state=seed).reset_index(drop=True)


def _ranking(found: pd.DataFrame) -> pd.DataFrame:
    """Without what only this retriever's rows have, so that rankings can be joined."""
    return found.drop(columns=["docid", "query_vec"], errors="ignore")


def teacher_of(name: str | None, max_length: int | None = None) -> BiEncoder:
    """A bi-encoder: a checkpoint, or the built-in sentence encoder."""
    return BiEncoder(name or default_teacher(), max_length=max_length)
