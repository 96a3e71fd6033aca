"""Rankings: one order, which ``rank`` and ``score`` both say, read and written in one way.

``pt.Experiment`` measures by ``score`` alone: trec_eval holds it as a 32-bit float and puts equal ones into descending
order of docno, ir_measures' own ``RR@k`` into ascending order. Neither is the order that ``rank`` says. So a ranking
that is written here has no ties in its ``score``: equal scores keep their incoming order, and each is lowered to the
next 32-bit float below the one before it. Labels (``teacher_score``, ...) keep their ties: losses know them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import pandas as pd

_TIED: ContextVar[bool] = ContextVar("tied", default=False)

#: −∞ and the lowest finite number, as :func:`_steps` counts.
_LEAST, _LEAST_FINITE = -0x7F800000, -0x7F7FFFFF


@contextmanager
def tied() -> Iterator[None]:
    """Within, rankings are written with scores as they are, ties and all: for who takes them for labels."""
    token = _TIED.set(True)
    try:
        yield
    finally:
        _TIED.reset(token)


# -- reading ----------------------------------------------------------------------------------------------------------


def incoming_order(inp: pd.DataFrame) -> np.ndarray:
    """Position ``[n]`` of each row in its query's incoming ranking, from 0.

    By ``rank``, then by ``score``, then by docno, so that the order of rows does not matter where there is a ranking.
    In a query where neither of the two says anything, because it is not there or the same for all of several documents,
    as the rows stand.

    Args:
        inp: an R frame.

    Raises:
        ValueError: if ``rank`` or ``score`` holds something else than numbers.
    """
    if not len(inp):
        return np.empty(0, dtype=int)
    queries, keys = _said(inp)
    silent = _silent(queries, keys)
    rows = np.arange(len(inp))
    order = np.lexsort((*keys[::-1], queries))
    same = np.ones(len(inp) - 1, dtype=bool)
    for key in (queries, *keys):
        ordered = key[order]
        same &= (ordered[1:] == ordered[:-1]) | (np.isnan(ordered[1:]) & np.isnan(ordered[:-1]))
    if same.any():  # reading ids as text takes long: only where it decides
        names = np.zeros(len(inp), dtype=int)
        among = np.zeros(len(inp), dtype=bool)
        among[order[1:]] |= same
        among[order[:-1]] |= same
        among &= ~silent
        names[among] = pd.factorize(inp["docno"].to_numpy()[among].astype(str), sort=True)[0]
        order = np.lexsort((rows, names, *keys[::-1], queries))
    return _places(queries, order)


def tells(inp: pd.DataFrame) -> np.ndarray:
    """Which rows ``[n]`` belong to queries about whose order ``rank`` or ``score`` says anything.

    Args:
        inp: an R frame.

    Raises:
        ValueError: if ``rank`` or ``score`` holds something else than numbers.
    """
    return ~_silent(*_said(inp))


def _said(inp: pd.DataFrame) -> tuple[np.ndarray, list[np.ndarray]]:
    """Numbers of the queries ``[n]``, and keys ``[n]`` of their documents' order: the first decides, lower = better."""
    keys = [sign * _numbers(inp, column) for column, sign in (("rank", 1), ("score", -1)) if column in inp.columns]
    return pd.factorize(inp["qid"].to_numpy())[0], keys


def _silent(queries: np.ndarray, keys: Sequence[np.ndarray]) -> np.ndarray:
    """Which rows ``[n]`` belong to queries in which no key tells two documents apart."""
    silent = np.ones(len(queries), dtype=bool)
    for key in keys:
        silent &= constant(queries, key)
    return silent


def constant(queries: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Which rows ``[n]`` belong to queries that have the same value in all their rows.

    Args:
        queries: ``[n]`` numbers of the queries, from 0.
        values: ``[n]`` numbers; NaN is one of them.
    """
    if not len(queries):
        return np.empty(0, dtype=bool)
    grouped = pd.Series(values).fillna(np.nan).groupby(queries, sort=False)
    first, last = grouped.transform("min"), grouped.transform("max")
    known = grouped.transform("count")
    size = pd.Series(queries).groupby(queries, sort=False).transform("size")
    return (((first == last) & (known == size)) | (known == 0)).to_numpy()


def shared_ranks(queries: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Ranks ``[n]`` in each query, from 0; equal scores share the first of their places.

    Args:
        queries: ``[n]`` ids or numbers of the queries.
        scores: ``[n]``, higher = better.
    """
    if not len(scores):
        return np.empty(0, dtype=int)
    ranks = pd.Series(np.asarray(scores, dtype=float)).groupby(np.asarray(queries), sort=False)
    return (ranks.rank(method="min", ascending=False) - 1).to_numpy().astype(int)


def _numbers(frame: pd.DataFrame, column: str) -> np.ndarray:
    """A column of the ranking as float ``[n]``; what is missing is NaN and comes last."""
    try:
        return pd.to_numeric(frame[column]).to_numpy(dtype=float, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the column {column!r} must hold numbers ({error}): drop it, or turn it into some.") from None


def _places(queries: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Where each row stands within its query, given all rows in order, query by query."""
    ordered = queries[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=ordered[0] - 1))
    sizes = np.diff(starts, append=len(order))
    places = np.empty(len(order), dtype=int)
    places[order] = np.arange(len(order)) - np.repeat(starts, sizes)
    return places


# -- writing ----------------------------------------------------------------------------------------------------------


def rerank(inp: pd.DataFrame, scores: Sequence[float] | np.ndarray, **labels: Any) -> pd.DataFrame:
    """``inp`` with new scores, ranks and label columns.

    Args:
        inp: an R frame.
        scores: ``[n]``, higher = better; equal ones keep their incoming order, see :func:`carried`.
        **labels: column → ``[n]`` cells, as they are.

    Raises:
        ValueError: if a score is no number.
    """
    out = inp.drop(columns=["score", "rank", *labels], errors="ignore")
    scores = np.asarray(scores, dtype=float)
    if np.isnan(scores).any():
        missing = np.isnan(scores)
        row = inp.iloc[int(missing.argmax())]
        raise ValueError(
            f"the model gave no number for query {row['qid']!r}, document {row['docno']!r} ({int(missing.sum())} such):"
            " where precision is fp16 or bf16, try precision='fp32'; otherwise the checkpoint is broken."
        )
    scores, ranks = carried(inp["qid"].to_numpy(), scores, incoming_order(inp))
    columns = {name: pd.Series(list(cells), index=out.index, dtype=_dtype(cells)) for name, cells in labels.items()}
    return out.assign(**columns, score=scores, rank=ranks)


def carried(qids: np.ndarray, scores: np.ndarray, before: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores that carry their order, and the ranks of that order.

    Args:
        qids: ``[n]`` the queries of the rows.
        scores: ``[n]`` no NaN; higher = better.
        before: ``[n]`` what decides between equal ones: lower = better.

    Returns:
        Scores float64 ``[n]``, from rank to rank strictly falling as 32-bit floats, as near to those given as that
        allows: those that are not tied, nor in the way of tied ones, are as given; finite lists stay finite. And ranks
        int ``[n]``, from 0.
    """
    scores = np.array(scores, dtype=float)
    if not len(scores):
        return scores, np.empty(0, dtype=int)
    queries = pd.factorize(qids)[0]
    order = np.lexsort((before, -scores, queries))
    ranks = _places(queries, order)
    if not _TIED.get():
        scores[order] = _falling(scores[order], queries[order], ranks[order])
    return scores, ranks


def rejoined(frame: pd.DataFrame, column: str = "score") -> np.ndarray:
    """Scores ``[n]`` with the ties that :func:`carried` took apart: neighbours one step apart have the first's again.

    Args:
        frame: an R frame.
        column: of the scores; finite.

    Raises:
        ValueError: if ``rank`` or ``score`` holds something else than numbers.
    """
    scores = frame[column].to_numpy(dtype=float)
    if not len(scores):
        return scores
    queries = pd.factorize(frame["qid"].to_numpy())[0]
    order = np.lexsort((incoming_order(frame), queries))
    joins = (np.diff(_steps(scores[order])) == -1) & (np.diff(queries[order]) == 0)
    first = np.maximum.accumulate(np.where(np.append(False, joins), 0, np.arange(len(order))))
    out = np.empty(len(scores))
    out[order] = scores[order][first]
    return out


def agreed(frame: pd.DataFrame) -> pd.DataFrame:
    """An R frame of others' making, such as a stored run, with ``rank`` from 0 and ``score`` that say the same.

    What :func:`incoming_order` reads is the order. Scores carry it as :func:`carried` says; in queries in which they
    contradict it (an LLM's order beside the scores of the retriever), or are the same for all, they become −rank.

    Raises:
        ValueError: if ``rank`` or ``score`` holds something else than numbers.
    """
    before = incoming_order(frame)
    wanted = 0.0 - before
    if "score" in frame.columns and len(frame):
        given = _numbers(frame, "score")
        queries = pd.factorize(frame["qid"].to_numpy())[0]
        scores, ranks = carried(queries, np.where(np.isnan(given), -np.inf, given), before)
        several = np.bincount(queries)[queries] > 1
        useless = np.isnan(given) | (ranks != before) | (constant(queries, given) & several)
        wanted = np.where(np.isin(queries, queries[useless]), wanted, scores)
    return frame.assign(score=wanted, rank=before)


def _falling(scores: np.ndarray, queries: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Scores that fall by at least one step from place to place, given ones that do not rise."""
    given = _steps(scores)
    if (np.diff(given)[np.diff(places) > 0] < 0).all():
        return scores
    number = np.cumsum(places == 0) - 1  # of the query, in this order
    apart = number << 34  # of two queries, no step of the one can reach the other
    steps = np.minimum.accumulate(given + places - apart) + apart - places
    # There is a lowest number: lists that would fall below it are lifted.
    ends = np.flatnonzero(np.append(places[1:] == 0, True))
    least = np.where(given[ends] == _LEAST, _LEAST, _LEAST_FINITE)
    steps = np.maximum(steps, (least + places[ends])[number] - places)
    return np.where(steps == given, scores, _floats(steps))


def _steps(scores: np.ndarray) -> np.ndarray:
    """32-bit floats counted through, so that neighbours differ by 1: int64, 0 for both zeros."""
    with np.errstate(over="ignore"):
        bits = scores.astype(np.float32).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def _floats(steps: np.ndarray) -> np.ndarray:
    """What :func:`_steps` counted."""
    bits = np.where(steps < 0, -steps | 0x80000000, steps).astype(np.uint32)
    return bits.view(np.float32).astype(float)


def _dtype(cells: Any) -> Any:
    flat = isinstance(cells, np.ndarray) and cells.ndim == 1 and cells.dtype != object
    return cells.dtype if flat else object
