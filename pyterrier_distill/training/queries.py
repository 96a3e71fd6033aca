"""Queries without documents, for the terms of a sum that read queries alone; its other terms pass them over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..losses import Loss
from ..losses import base as losses
from .lists import QueryList
from .reading import Reader


def of_queries(loss: Loss) -> Loss:
    """The terms of a loss that read queries alone.

    Raises:
        ValueError: if there is none.
    """
    terms = [(weight, term) for weight, term in loss.terms() if term.needs and term.needs <= losses.QUERY_SIDE]
    if not terms:
        raise ValueError(
            f"queries= holds queries without documents, and no term of {loss!r} reads queries alone: add one that does,"
            " such as EmbeddingMatch() or HiddenStateMatch()."
        )
    return losses.WeightedSum(terms)


def read_queries(queries: Any, student: Any, loss: Loss, context: Any) -> tuple[pd.DataFrame, list[QueryList]]:
    """What is read of a frame of queries, and its queries as lists of no document, with the labels that they have.

    Args:
        queries: a Q frame, one row a query.
        student: what will be trained.
        loss: the whole loss.
        context: the transformer that reads, for messages.

    Raises:
        TypeError: if it is no frame.
        ValueError: if no term reads queries alone, or its labels are none.
        MissingLabelError: if a label column is missing.
    """
    if not isinstance(queries, pd.DataFrame):
        raise TypeError(f"queries must be a frame of qid, query and labels such as query_vec, not {queries!r}.")
    part = of_queries(loss)
    reader = Reader(student, part, None, None, context)
    lists = reader.read(queries.drop(columns="docno", errors="ignore"), by_content=True)
    return queries[["qid", "query", *part.columns()]], lists


def among(queries: Sequence[QueryList], lists: Sequence[QueryList], loss: Loss) -> list[QueryList]:
    """Queries as lists that can share a batch with others: they have the labels of no document.

    Args:
        queries: of :func:`read_queries`.
        lists: what else is trained on.
        loss: the whole loss.

    Raises:
        ValueError: if vectors of the two differ in dimension.
    """
    kinds = loss.reads()
    like = lists[0].part((), loss)
    for column, label in queries[0].labels.items():
        known = like.labels[column]
        if kinds[column].is_vector and label.shape != known.shape:
            raise ValueError(
                f"{column!r} has {label.shape[-1]} dimensions in queries= and {known.shape[-1]} in the training frame:"
                " both must come from one teacher."
            )
    blank = {c: np.zeros_like(label) if kinds[c].per_query else label for c, label in like.labels.items()}
    texts = None if like.texts is None else ()
    return [QueryList(one.query, (), texts, {**blank, **one.labels}, qid=one.qid) for one in queries]


def mixed(queries: Any, lists: Any, student: Any, loss: Loss, context: Any) -> tuple[Any, pd.DataFrame]:
    """Lists with queries that have no documents among them, and what is read of these.

    Args:
        queries, student, loss, context: as of :func:`read_queries`.
        lists: of one collection.

    Raises:
        TypeError, ValueError: as :func:`read_queries` and :func:`among`; ValueError for several collections, and for
            accumulated passes, of which one may hold queries alone.
    """
    if not isinstance(lists, list) and not hasattr(lists, "add"):
        raise ValueError("queries= go with one collection; of several, put the labels into one store or frame.")
    passes = (context.args or {}).get("gradient_accumulation_steps", context.accumulation)
    if passes > 1 and any(not term.needs <= losses.QUERY_SIDE for _, term in loss.terms()):
        raise ValueError(
            f"queries= with {passes} accumulated passes: of passes without documents, the terms that read some would"
            " count a loss of 0. Take accumulation=1 and a larger queries_per_batch; gradient_cache=True bounds its"
            " memory."
        )
    read, alone = read_queries(queries, student, loss, context)
    alone = among(alone, lists, loss)
    if isinstance(lists, list):
        return lists + alone, read
    lists.add(alone)
    return lists, read
