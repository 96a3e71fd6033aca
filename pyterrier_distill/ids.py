"""Ids of queries and documents: text, or whole numbers that stand for it."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd


def check_ids(frame: pd.DataFrame, columns: Iterable[str], what: str = "the frame") -> None:
    """Check that no id is missing, nor a fraction: 10.0 would be another id than 10 or "10", and match nothing.

    Args:
        frame: any frame.
        columns: its ids.
        what: the frame, for the message.

    Raises:
        ValueError: naming the column and the first id at fault.
    """
    for column in columns:
        cells = frame[column]
        missing = cells.isna().to_numpy()
        mixed = pd.api.types.is_object_dtype(cells.dtype) or pd.api.types.is_float_dtype(cells.dtype)
        bad = [row for row, cell in enumerate(cells) if missing[row] or (mixed and isinstance(cell, float))]
        if bad:
            raise ValueError(
                f"the column {column!r} of {what} must hold ids, text or whole numbers, but holds"
                f" {cells.iloc[bad[0]]!r} in row {bad[0]} ({len(bad)} such rows): drop rows without an id, and turn"
                f" fractions back into what they were, such as with .astype(int).astype(str)."
            )
