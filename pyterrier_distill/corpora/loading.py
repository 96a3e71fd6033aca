"""A whole collection by its name, ready for retrieval: documents with one text each, queries, judgements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyterrier as pt

from .. import frames
from ..frames import validate
from ..frames.document_text import joined_texts
from ..frames.ids import check_ids
from ..frames.words import has_words
from .text_loader import check_documents_once

_ALIASES = {"pydocs": "pydocs:test"}
_TOPIC_FIELDS = ("query", "text", "title", "question")


@dataclass
class Collection:
    """A collection in memory.

    Attributes:
        name: as PyTerrier knows it.
        documents: D frame: ``docno``, ``text`` (title and text joined).
        topics: Q frame: ``qid``, ``query``.
        qrels: ``qid``, ``docno``, ``label``.
    """

    name: str
    documents: pd.DataFrame
    topics: pd.DataFrame
    qrels: pd.DataFrame


def load_collection(name: str) -> Collection:
    """Load a dataset whole.

    Args:
        name: ``pydocs``, ``pydocs:train``, ``folder:PATH``, ``irds:ID``, or any other name PyTerrier knows.

    Raises:
        ValueError: in one line, if there is no such dataset, if it lacks documents, queries or judgements, or has
            fewer than two documents with text, a query without words, or an id twice.
        FileNotFoundError: if the folder does not exist.
    """
    name = _ALIASES.get(name, name)
    dataset = dataset_named(name)
    try:
        rows = [row[:2] for row in _texts(dataset)]
        topics = _topics(dataset)
        qrels = dataset.get_qrels()
    except (NotImplementedError, AttributeError) as error:  # how PyTerrier's datasets say that a part is missing
        raise ValueError(
            f"{name!r} cannot be distilled on: it needs documents, queries and qrels ({error})."
        ) from error
    documents = pd.DataFrame(rows, columns=["docno", "text"])
    for part, frame in (("documents", documents), ("queries", topics), ("qrels", qrels)):
        if len(frame) == 0:
            raise ValueError(f"{name!r} has no {part}.")
    check_ids(topics, ["qid"], f"the queries of {name}")
    check_ids(qrels, ["qid", "docno"], f"the qrels of {name}")
    frames.check_text(topics, ["query"])
    frames.check_unique(topics[["qid"]])
    if (documents["text"].str.strip() != "").sum() < 2:
        raise ValueError(f"{name!r} has fewer than two documents with text: there is nothing to rank.")
    wordless = topics["qid"][~topics["query"].map(has_words).astype(bool)]
    if len(wordless):
        raise ValueError(f"{name!r} has {len(wordless)} queries without words, such as {wordless.iloc[0]!r}.")
    return Collection(name, documents, topics, qrels[["qid", "docno", "label"]])


def dataset_named(name: str) -> Any:
    """A PyTerrier dataset; ``ValueError`` if there is none of the name."""
    try:
        return pt.get_dataset(_ALIASES.get(name, name))
    except KeyError as error:
        cause = error.__cause__ or error
        raise ValueError(
            f"no dataset {name!r} ({cause.args[0] if cause.args else cause}): give pydocs, folder:PATH of a"
            " directory in BEIR or TIRA layout, or irds:ID of ir_datasets."
        ) from error


def called(source: Any) -> str:
    """What messages call a collection: a dataset by what it says of itself, anything else, of any size, by its type."""
    if isinstance(source, str) or hasattr(source, "irds_ref") or hasattr(source, "get_corpus_iter"):
        return repr(source)
    return f"the {type(source).__name__} of documents"


def read_documents(dataset: Any) -> pd.DataFrame:
    """The documents of a collection; no judgements needed.

    Args:
        dataset: a PyTerrier dataset, its name, or a D frame.

    Returns:
        D frame: ``docno``, ``text``, in which the title comes first, and ``title`` where the collection has titles.

    Raises:
        ValueError: if there are none, a frame lacks a column or an id, or a document has two texts.
    """
    if isinstance(dataset, pd.DataFrame):
        validate.document_frame(dataset, ["text"])
        documents = dataset.astype({"docno": str}).drop_duplicates(["docno", "text"])
        twice = documents["docno"].duplicated().to_numpy()
        if twice.any():
            raise ValueError(f"document {documents['docno'][twice].iloc[0]!r} has two texts ({int(twice.sum())} such).")
    else:
        dataset = dataset_named(dataset) if isinstance(dataset, str) else dataset
        documents = pd.DataFrame(_texts(dataset), columns=["docno", "text", "title"])
        if not documents["title"].any():
            documents = documents.drop(columns="title")
    if len(documents) == 0:
        raise ValueError(f"{called(dataset)} has no documents.")
    return documents.reset_index(drop=True)


def _texts(dataset: Any) -> list[tuple[str, str, str]]:
    """docno, title and text joined, title or ``""`` of each document.

    Raises:
        ValueError: if there are none, or a docno stands twice.
    """
    rows = list(joined_texts(dataset))
    check_documents_once((row[0] for row in rows), dataset)
    return rows


def read_topics(dataset: Any, variant: str | None = None) -> pd.DataFrame:
    """The queries of a collection, Q.

    Args:
        dataset: a PyTerrier dataset.
        variant: which field of a topic is the query; None = ir_datasets' ``default_text()``, or what the dataset has.

    Raises:
        ValueError: if there are none, or they have no such field.
    """
    if not hasattr(dataset, "irds_ref"):
        topics = dataset.get_topics() if variant is None else dataset.get_topics(variant)
        return topics.assign(query=topics["query"].str.strip())[["qid", "query"]]
    reference = dataset.irds_ref()
    if not reference.has_queries():
        raise ValueError(f"{dataset!r} has no queries.")
    available = reference.queries_cls()._fields[1:]
    if variant is not None and variant not in available:
        raise ValueError(f"{dataset!r} has no topics {variant!r}, only: {', '.join(available)}.")
    rows = [
        (query.query_id, (query.default_text() if variant is None else getattr(query, variant)).strip())
        for query in reference.queries_iter()
    ]
    return pd.DataFrame(rows, columns=["qid", "query"])


def _topics(dataset: Any) -> pd.DataFrame:
    variant = None
    if hasattr(dataset, "irds_ref") and dataset.irds_ref().has_queries():
        available = dataset.irds_ref().queries_cls()._fields[1:]
        variant = next((field for field in _TOPIC_FIELDS if field in available), None)
    return read_topics(dataset, variant)
