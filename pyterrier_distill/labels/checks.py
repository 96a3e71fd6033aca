"""Whether labels can be kept as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..frames import LABEL_COLUMNS, check_numbers, kind_of
from .tables import label_columns


def text_labels(frame: pd.DataFrame) -> list[str]:
    """Columns that are named as labels and hold text."""
    named = [c for c in frame.columns if isinstance(c, str) and c in LABEL_COLUMNS]
    return [c for c in named if len(frame) and isinstance(frame[c].iloc[0], str)]


def check_labels(frame: pd.DataFrame) -> None:
    """Check that every cell of every label column can be kept: none missing, none without a finite value.

    Raises:
        ValueError: naming the column and the first row at fault.
    """
    for name in ("score", "rank"):
        if name in frame.columns and pd.to_numeric(frame[name], errors="coerce").isna().any():
            raise ValueError(
                f"the column {name!r} cannot be stored: every cell must be a number, and none may be missing."
            )
    for name in label_columns(frame):
        cells = frame[name]
        if not len(frame) or pd.api.types.is_bool_dtype(cells.dtype):
            continue
        if pd.api.types.is_numeric_dtype(cells.dtype):
            check_numbers(frame, name)
            continue
        first = cells.iloc[0]
        shape = np.shape(first)
        qids, seen = frame["qid"].tolist(), {}
        for row, cell in enumerate(cells):
            wrong = _wrong_cell(cell, isinstance(first, dict), shape)
            one = kind_of(name).per_query and shape
            if wrong is None and one and not _same(seen.setdefault(qids[row], cell), cell):
                wrong = "it is another one than in the query's first row, and a query has one"
            if wrong:
                where = ", ".join(f"{key} {frame[key].iloc[row]!r}" for key in ("qid", "docno") if key in frame.columns)
                raise ValueError(
                    f"the column {name!r} cannot be stored ({where}: {wrong}): every cell must be a finite number, a"
                    " vector of them of one size, or a dict of preferences, other docno -> P(this > other) in [0, 1],"
                    " and none may be missing."
                )


def _wrong_cell(cell: Any, preferences: bool, shape: tuple[int, ...]) -> str | None:
    """What is wrong with a cell of a column whose first cell has such a kind and shape; None = nothing."""
    if preferences:
        if not isinstance(cell, dict):
            return f"{str(cell)[:60]} is no dict"
        for other, p in cell.items():
            if not isinstance(other, (str, int, np.integer)) or isinstance(other, bool) or other == "":
                return f"{other!r} is no docno"
            if isinstance(p, (str, bytes, bool)) or not isinstance(p, (int, float, np.number)) or not 0 <= p <= 1:
                return f"{p!r} is no probability"
        return None
    if isinstance(cell, (str, bytes, dict)):
        return f"{str(cell)[:60]!r} is no number"
    try:
        values = np.asarray(cell, dtype=float)
    except (TypeError, ValueError):
        return f"{str(cell)[:60]} is no number"
    if len(shape) == 3:  # states: queries differ in their tokens
        if values.ndim != 3 or values.shape[1:] != shape[1:]:
            return f"its shape is {values.shape}, that of the first [tokens, {shape[1]}, {shape[2]}]"
    elif values.shape != shape:
        return f"its shape is {list(values.shape)}, that of the first {list(shape)}"
    if not values.size or not np.isfinite(values).all():
        return f"{str(cell)[:60]} is missing or not finite"
    most = np.finfo(np.float16 if len(shape) == 3 else np.float32).max
    if shape and np.abs(values).max() > most:
        return f"{np.abs(values).max():g} is more than the {most:g} that can be kept"
    return None


def _same(one: Any, other: Any) -> bool:
    return one is other or np.array_equal(np.asarray(one), np.asarray(other))
