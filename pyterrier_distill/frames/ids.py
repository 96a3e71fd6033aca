"""Ids of queries and documents: text, or whole numbers that stand for it."""

from __future__ import annotations

import numbers
from collections.abc import Iterable

import numpy as np
import pandas as pd


def check_ids(frame: pd.DataFrame, columns: Iterable[str], what: str = "the frame", *, spelt: bool = False) -> None:
    """Check that every id is text or a whole number.

    None is missing (a NaN would become a query of its own, or none), none a fraction (10.0 would be another id than 10
    or "10", and match nothing), and no number stands beside the text that spells it.

    Args:
        frame: any frame.
        columns: its ids.
        what: the frame, for the message.
        spelt: whether whoever reads the ids takes a number for the text that spells it.

    Raises:
        ValueError: naming the column and the first id at fault.
    """
    for column in columns:
        cells = frame[column]
        bad = _no_ids(cells)
        if bad.any():
            row = int(bad.argmax())
            absent = int(cells.isna().sum())
            told = f"{column!r} has {absent} missing values, such as" if absent else f"holds {cells.iloc[row]!r}"
            raise ValueError(
                f"the column {column!r} of {what} must hold ids, text or whole numbers, but {told}"
                f" in row {row} ({int(bad.sum())} such rows): drop rows without an id, and turn"
                f" fractions back into what they were, such as with .astype(int).astype(str)."
            )
        if not spelt and pd.api.types.infer_dtype(cells, skipna=False) == "mixed-integer":
            texts = cells.drop_duplicates().astype(str)
            if texts.duplicated().any():
                twice = texts[texts.duplicated().to_numpy()].iloc[0]
                raise ValueError(
                    f"the column {column!r} of {what} holds the id {twice!r} more than once, as text and as a"
                    " number: turn the whole column into text with .astype(str)."
                )


def check_queries(frame: pd.DataFrame, what: str = "the frame") -> None:
    """Check that each ``qid`` has one ``query``, where the frame has both columns; its readers report a missing one.

    Raises:
        ValueError: naming the first query that has several texts.
    """
    if not len(frame) or not {"qid", "query"} <= set(frame.columns):
        return
    if (absent := frame["query"].isna().to_numpy()).any():
        frame = frame[~absent]
        if not len(frame):
            return
    qids = pd.factorize(frame["qid"].to_numpy())[0]
    try:
        texts = pd.factorize(frame["query"].to_numpy())[0]
    except TypeError:  # cells that are no text at all, which those say who read it
        return
    first = np.unique(qids, return_index=True)[1]
    other = texts != texts[first[qids]]
    if other.any():
        row = int(other.argmax())
        qid, query = frame["qid"].iloc[row], frame["query"].iloc[row]
        before = frame["query"].iloc[int(first[qids[row]])]
        raise ValueError(
            f"the qid {qid!r} has several queries in {what}, {str(before)[:60]!r} and {str(query)[:60]!r}"
            f" ({len(np.unique(qids[other]))} such qids): give each query its own qid, or drop_duplicates(['qid'])"
            " first."
        )


def check_columns(frame: pd.DataFrame, what: str = "the frame") -> None:
    """Check that no two columns have one name.

    Raises:
        ValueError: naming the first that stands twice.
    """
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()]
        raise ValueError(
            f"{what} has several columns of the name {twice[0]!r}: keep one of them, such as with"
            " frame.loc[:, ~frame.columns.duplicated()]."
        )


def _no_ids(cells: pd.Series) -> np.ndarray:
    """Which cells are neither text nor whole numbers."""
    dtype = cells.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        bad = _no_ids(pd.Series(dtype.categories))
        codes = cells.cat.codes.to_numpy()
        return (codes < 0) | np.append(bad, True)[codes]
    if pd.api.types.is_integer_dtype(dtype):
        return cells.isna().to_numpy()
    if pd.api.types.infer_dtype(cells, skipna=False) in ("string", "integer", "empty"):
        return cells.isna().to_numpy()
    good = (isinstance(c, str) or (isinstance(c, numbers.Integral) and not isinstance(c, bool)) for c in cells)
    return ~np.fromiter(good, dtype=bool, count=len(cells))
