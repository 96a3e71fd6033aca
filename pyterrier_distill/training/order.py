"""What training reads is the same whatever order it comes in: rows are put in order by what they say.

A retriever's threads, a cache, a sort, or labels made again give the same rows in another order. Queries are taken by
qid and documents by docno, both as text; a ranking counts where a loss or a sampler reads one, and then it is a column
that says it, never where rows happen to stand.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..frames.ranking import incoming_order, tells


def codes(ids: pd.Series) -> np.ndarray:
    """int ``[n]``: the place of each id among all, sorted as text."""
    numbers, distinct = pd.factorize(ids)
    names = pd.Index(distinct).astype(str)
    return pd.factorize(names, sort=True)[0][numbers]


def rows_of(frame: pd.DataFrame) -> list[np.ndarray]:
    """The rows of each query, as they stand, in the order in which the queries first appear."""
    numbers = pd.factorize(frame["qid"])[0]
    ends = np.cumsum(np.bincount(numbers))
    return np.split(np.argsort(numbers, kind="stable"), ends[:-1]) if len(frame) else []


def ranking(frame: pd.DataFrame) -> np.ndarray | None:
    """Each document's place in the ranking of its query, from 0; None where nothing ranks those of any query.

    As everywhere, :func:`~pyterrier_distill.frames.ranking.incoming_order` is the ranking: query by query ``rank``,
    then ``score``, then docno. In queries of which neither column says anything all places are 0.

    Raises:
        ValueError: if ``rank`` or ``score`` holds something else than numbers.
    """
    told = tells(frame)
    return np.where(told, incoming_order(frame), 0) if told.any() else None


def canonical(frame: pd.DataFrame, *, reads: str | None = None, whole: bool = True) -> pd.DataFrame:
    """The same rows, in the order of what they say.

    Args:
        frame: with ``qid``, and ``docno`` where it is about documents; checked.
        reads: what reads each list's ranking, for the message: then documents stand by it, and by docno where nothing
            tells. None = by docno.
        whole: whether these are all rows; of some of them, ranks may say nothing.

    Raises:
        ValueError: if a ranking is read, and no column gives it.
    """
    keys = [codes(frame["qid"])]
    if "docno" in frame.columns:
        keys.insert(0, codes(frame["docno"]))
        if reads is not None:
            told = ranking(frame)
            none = whole or not {"rank", "score"} & set(frame.columns)
            if told is None and none and frame["qid"].duplicated().any():
                raise ValueError(
                    f"{reads} reads which document of a query comes first, and neither 'rank' nor 'score' tells: give"
                    " the frame one of them. If its rows stand in that order, that is"
                    " frame.assign(rank=frame.groupby('qid').cumcount())."
                )
            if told is not None:
                keys.insert(1, told)
    order = np.lexsort(keys)
    return frame if (order == np.arange(len(order))).all() else frame.iloc[order]


# -- fingerprints -----------------------------------------------------------------------------------------------------

_PRIMES = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def content(frame: pd.DataFrame, columns: Iterable[str], *, place: bool = False) -> int:
    """A number of what the rows say in ``columns``, which does not depend on where they stand.

    Sums of it, modulo 2^64, are the number of several frames together.

    Args:
        frame: any frame.
        columns: those that count.
        place: whether the place of each document in the ranking of its query counts, too.
    """
    if not len(frame):
        return 0
    with np.errstate(over="ignore"):
        rows = np.zeros(len(frame), dtype=np.uint64)
        parts = [(column, _cells(frame[column])) for column in columns]
        if place and (told := ranking(frame)) is not None:
            order = np.lexsort((codes(frame["docno"]), told, codes(frame["qid"])))
            places = frame.iloc[order].groupby(frame["qid"].to_numpy()[order], sort=False).cumcount().to_numpy()
            back = np.empty(len(order), dtype=np.int64)
            back[order] = places
            parts.append(("place", back.astype(np.uint64)))
        for name, cells in parts:
            told_by = pd.util.hash_array(np.array([name], dtype=object))[0]
            rows = _mixed((rows ^ told_by) * _PRIMES[0] + cells)
        return int(rows.sum(dtype=np.uint64))


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Splitmix64's last step: neighbouring numbers far apart."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * _PRIMES[1]
    numbers = (numbers ^ (numbers >> np.uint64(27))) * _PRIMES[2]
    return numbers ^ (numbers >> np.uint64(31))


def _cells(column: pd.Series) -> np.ndarray:
    """uint64 ``[n]``: numbers as training reads them (float32); ids, texts, vectors, preferences as what they hold."""
    if column.name not in ("qid", "docno") and pd.api.types.is_numeric_dtype(column.dtype):
        return pd.util.hash_array(column.to_numpy(dtype=np.float32).astype(np.float64) + 0.0)
    first = column.iloc[0]
    if isinstance(first, (np.ndarray, list, tuple)):
        texts: Sequence[Any] = [np.ascontiguousarray(cell, dtype=np.float32).tobytes().hex() for cell in column]
    elif isinstance(first, dict):
        texts = [repr(sorted((str(other), float(p)) for other, p in cell.items())) for cell in column]
    else:
        texts = column.astype(str).to_numpy(dtype=object)
    return pd.util.hash_array(np.asarray(texts, dtype=object), categorize=True)
