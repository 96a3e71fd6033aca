"""What people give for documents, topics and judgements: frames, dataset objects, dicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from .document_text import documents_of


def documents(given: Any, what: str = "documents") -> Iterable[dict[str, Any]]:
    """Documents as dicts.

    Args:
        given: a dataset, in whose ``text`` the title comes first; a frame with ``docno`` and text, or any iterable of
            dicts, which are taken as they are.
        what: it is, for the message.

    Raises:
        TypeError: if it is none of these.
    """
    if isinstance(given, pd.DataFrame):
        return given.to_dict("records")
    if hasattr(given, "get_corpus_iter"):
        return documents_of(given)
    if isinstance(given, (str, bytes, Mapping)) or not hasattr(given, "__iter__"):
        raise TypeError(
            f"{what} must be a dataset, a frame with docno and text, or dicts with docno and text, not {given!r:.80}."
        )
    return given


def document_frame(given: Any) -> pd.DataFrame:
    """Documents as a frame; errors as of :func:`documents`."""
    return given if isinstance(given, pd.DataFrame) else pd.DataFrame(list(documents(given)))


def topics(given: Any, what: str = "topics") -> pd.DataFrame:
    """Topics as a frame.

    Args:
        given: a frame with ``qid`` and ``query``, a dataset, or dicts.
        what: they are, for the message.

    Raises:
        TypeError: if it is none of these.
        ValueError: for a dataset whose topics have several texts, naming them.
    """
    if isinstance(given, pd.DataFrame):
        return given
    if not hasattr(given, "get_topics"):
        if isinstance(given, list) and given and all(isinstance(row, Mapping) for row in given):
            return pd.DataFrame(given)
        raise TypeError(f"{what} must be a frame of qid and query, or a dataset that has topics, not {given!r:.80}.")
    found = given.get_topics()
    if "query" not in found.columns:
        fields = [column for column in found.columns if column != "qid"]
        example = fields[0] if fields else "title"
        raise ValueError(
            f"the topics of {given!r:.80} have no single text, but {', '.join(fields)}: choose one:"
            f" dataset.get_topics({example!r})."
        )
    return found


def qrels(given: Any) -> Any:
    """Judgements of a dataset; whatever else is given comes back as it is."""
    return given.get_qrels() if hasattr(given, "get_qrels") else given
