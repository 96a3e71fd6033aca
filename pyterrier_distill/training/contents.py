"""Fingerprints of what a training reads, by which it knows its data again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..frames import FIRST_STAGE_RANK, LABEL
from . import order

if TYPE_CHECKING:
    from ..losses import Loss
    from ..sampling.samplers import ListSampler


def fingerprint(part: Any, loss: Loss, sampler: ListSampler | None, text_field: str) -> str:
    """Twelve hexadecimal digits of what a training reads of a part of its data; rows may stand in any order.

    Args:
        part: a frame (labels, judgements, texts), a LabelStore, or any other source of texts.
        loss: says, with the next two, which columns count.
        sampler: draws documents of lists, or None.
        text_field: the column of document text.
    """
    place = loss.reads_order or (sampler is not None and sampler.reads_ranking)
    cut_by = (FIRST_STAGE_RANK,) if sampler is not None and sampler.reads_first_stage else ()
    read = tuple(dict.fromkeys(("qid", "docno", "query", text_field, *loss.columns(), LABEL, *cut_by)))
    of_queries = [column for column, kind in loss.reads().items() if kind.per_query]
    if isinstance(part, pd.DataFrame):
        return _digest("frame", *_frame(part, read, of_queries, place))
    if hasattr(part, "located"):
        stored = part.columns()
        wanted = [column for column in ((*read, "rank", "score") if place else read) if column in stored]
        told = [_frame(part.read(block, wanted), read, of_queries, place) for block in part.blocks()]
        names = told[0][0] if told else ()
        return _digest("store", names, sum(number for _, number in told) + _texts(part))
    if hasattr(part, "store"):  # of texts
        return _digest("texts", ("docno", "text"), _texts(part.store))
    from ..identity import identity

    return getattr(part, "fingerprint", None) or identity.digest(identity.identity(part))


def _frame(
    frame: pd.DataFrame, read: Sequence[str], per_query: Sequence[str], place: bool
) -> tuple[tuple[str, ...], int]:
    """The columns that count, and a number of what they say; columns ``per_query`` once a query."""
    columns = tuple(column for column in read if column in frame.columns)
    of_rows = [column for column in columns if column not in per_query]
    number = order.content(frame, of_rows, place=place and {"qid", "docno"} <= set(columns))
    of_queries = [column for column in columns if column in per_query]
    if of_queries:
        number += order.content(frame.drop_duplicates("qid"), ["qid", *of_queries])
    return columns, number


def _texts(store: Any) -> int:
    return sum(order.content(frame, ["docno", "text"]) for frame in store.texts.parts())


def _digest(kind: str, columns: Sequence[str], number: int) -> str:
    return hashlib.sha256(f"{kind}\0{columns}\0{number % 2**64:016x}".encode()).hexdigest()[:12]
