"""Rows of stored labels, block by block, and how rows of one document, or of a pair of them, become labels.

A block is a frame of ``line`` (from 1; the entry's number where a file has entries) and of ``qid``, ``docno``, or,
where a format names neither, ``query`` and ``text``; of what is said of the query (``query``, ``subset``, ``answers``);
and of

* a document: ``teacher_score``, ``teacher_rank``, ``label``; or ``true`` and ``false``, logits; or ``first`` and
  ``second``, logits or a score (:func:`decided`);
* a pair: ``other``, a document, and ``p``, the probability that ``docno`` is the better one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..frames import LABEL, TEACHER_LOGITS, TEACHER_PREFS, TEACHER_RANK, TEACHER_SCORE

#: Rows of one block.
BLOCK = 20_000
#: What is said of a query besides its text.
NOTES = ("subset", "answers")
#: Scores of one document that differ by less of their size are the same score, computed twice.
_NOISE = 1e-3

#: Names where a row stands: file and line.
Where = Callable[[pd.Series], str]


def in_blocks(rows: Iterable[Sequence[Any]], columns: Sequence[str]) -> Iterator[pd.DataFrame]:
    """Rows as frames of at most :data:`BLOCK` of them."""
    held: list[Sequence[Any]] = []
    for row in rows:
        held.append(row)
        if len(held) == BLOCK:
            yield pd.DataFrame(held, columns=list(columns))
            held = []
    if held:
        yield pd.DataFrame(held, columns=list(columns))


def is_single(block: pd.DataFrame) -> bool:
    """Whether every row of a block of ``first`` and ``second`` may be the one output of a cross-encoder."""
    return bool((block["second"] == 0.0).all())


def decided(rows: pd.DataFrame, single: bool, path: object) -> pd.DataFrame:
    """What ``first`` and ``second`` of PairDistill's file are: two logits, or a score and 0.0.

    Args:
        rows: of whole queries of one file.
        single: whether all rows of the file may be scores.
        path: of the file, for the message.

    Raises:
        ValueError: if some queries have the one kind of rows and some the other.
    """
    if single:
        return rows.drop(columns="second").rename(columns={"first": TEACHER_SCORE})
    of_query = (rows["second"] == 0.0).groupby(rows["qid"], sort=False).agg(["all", "size"])
    strange = of_query[of_query["all"] & (of_query["size"] > 1)]
    if len(strange):
        raise ValueError(
            f"{path} holds two kinds of labels: of query {strange.index[0]!r} the output of a cross-encoder and 0.0"
            f" ({len(strange)} such queries), of others two logits. Their scales differ: split the file."
        )
    return rows.rename(columns={"first": "true", "second": "false"})


def once(rows: pd.DataFrame, key: Sequence[str], where: Where) -> pd.DataFrame:
    """Each document, or pair, once, with all that is said of it; what is said twice counts once.

    A document that one row judges relevant and another one not is relevant.

    Args:
        rows: with columns of numbers, NaN where a row does not tell.
        key: the columns by which rows are the same.
        where: names a row's place, for the message.

    Raises:
        ValueError: naming the places of two rows that say different things.
    """
    again = rows.duplicated(list(key))
    if not again.any():
        return rows
    numbers = [name for name in rows.columns if name not in (*key, "file", "line") and _is_number(rows[name])]
    twice = rows[rows.duplicated(list(key), keep=False)]
    groups = twice.groupby(list(key), sort=False)
    least, most = groups[numbers].transform("min"), groups[numbers].transform("max")
    unlike = (most - least > _NOISE * np.maximum(least.abs(), most.abs())).drop(columns=LABEL, errors="ignore")
    if unlike.to_numpy().any():
        name = unlike.columns[int(unlike.any().to_numpy().argmax())]
        wrong = twice[unlike[name].to_numpy()]
        same = (wrong[list(key)] == wrong[list(key)].iloc[0]).all(axis=1).to_numpy()
        one, other = wrong[same].iloc[0], wrong[same].iloc[1]
        named = tuple(str(cell)[:40] for cell in one[list(key)])
        raise ValueError(
            f"{where(other)}: it labels {named} more than once: {name} was {one[name]:g} ({where(one)}) and is"
            f" {other[name]:g}."
        )
    rows = rows.copy()
    if LABEL in numbers:
        rows.loc[twice.index, LABEL] = most[LABEL]
    firsts = groups[numbers].transform("first")
    for name in numbers:
        if name != LABEL:
            rows.loc[twice.index, name] = firsts[name]
    return rows[~again]


def check_orders(rows: pd.DataFrame, key: Sequence[str], where: Where) -> None:
    """Check that the ranks of a query are of one order: those of two, put together, would be of none.

    Args:
        rows: with ``line``, and ``file`` where they come from several, by which entries are told apart.
        key: the columns of queries and of documents; others are not read.
        where: names a row's place, for the message.

    Raises:
        ValueError: naming the places of two entries that order a query differently.
    """
    if TEACHER_RANK not in rows.columns:
        return
    query, document = key[:2]
    ranked = rows[rows[TEACHER_RANK].notna()]
    place = [name for name in ("file", "line") if name in ranked.columns]
    entries = ranked.drop_duplicates([query, *place])
    again = entries.loc[entries.duplicated(query).to_numpy(), query]
    for name, of_query in ranked[ranked[query].isin(again)].groupby(query, sort=False):
        first: tuple[set, pd.Series] | None = None
        for _, entry in of_query.groupby(place):
            told = set(zip(entry[document], entry[TEACHER_RANK], strict=True))
            first = first or (told, entry.iloc[0])
            if told != first[0]:
                raise ValueError(
                    f"{where(entry.iloc[0])}: it orders documents of query {str(name)[:60]!r}, which {where(first[1])}"
                    " orders already, and two orders do not make one list: remove one of them, read them apart, or,"
                    " where they are of two queries, give these ids of their own."
                )


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column.dtype)


def with_preferences(documents: pd.DataFrame | None, pairs: pd.DataFrame) -> pd.DataFrame:
    """Documents with ``teacher_prefs``, empty for those that were compared to none.

    Args:
        documents: unique ``qid``, ``docno``; None = those that were compared, in the order of the pairs.
        pairs: unique ``qid``, ``docno``, ``other``, and ``p``. Of a document that is not among ``documents``, what is
            said of it as ``docno`` is left out.
    """
    if documents is None:
        both = pairs[["docno", "other"]].to_numpy(dtype=object).ravel()
        qids = np.repeat(pairs["qid"].to_numpy(dtype=object), 2)
        documents = pd.DataFrame({"qid": qids, "docno": both}).drop_duplicates(ignore_index=True)
    places = pd.MultiIndex.from_frame(documents[["qid", "docno"]])
    cells: list[dict[str, float]] = [{} for _ in range(len(documents))]
    found = places.get_indexer(pd.MultiIndex.from_frame(pairs[["qid", "docno"]]))
    for place, other, p in zip(found.tolist(), pairs["other"].tolist(), pairs["p"].tolist(), strict=True):
        if place >= 0:
            cells[place][other] = p
    return documents.assign(**{TEACHER_PREFS: pd.Series(cells, index=documents.index, dtype=object)})


def with_logits(rows: pd.DataFrame) -> pd.DataFrame:
    """``teacher_logits`` [false, true] from the columns ``true`` and ``false``."""
    if "true" not in rows.columns:
        return rows
    pairs = rows[["false", "true"]].to_numpy(dtype=np.float32)
    return rows.drop(columns=["false", "true"]).assign(**{TEACHER_LOGITS: list(pairs)})
