"""Ids of queries and documents: text, or whole numbers that stand for it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
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
        bad = cells.isna().to_numpy()
        if pd.api.types.is_object_dtype(cells.dtype) or pd.api.types.is_float_dtype(cells.dtype):
            bad = bad | np.fromiter((isinstance(cell, float) for cell in cells), dtype=bool, count=len(cells))
        if bad.any():
            row = int(bad.argmax())
            raise ValueError(
                f"the column {column!r} of {what} must hold ids, text or whole numbers, but holds"
                f" {cells.iloc[row]!r} in row {row} ({int(bad.sum())} such rows): drop rows without an id, and turn"
                f" fractions back into what they were, such as with .astype(int).astype(str)."
            )
