"""What cells of a frame say, as plain data to make keys of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd


def hash_cells(column: pd.Series) -> list[str]:
    """A short text for each cell: equal where the cells are, whatever type carries them.

    Args:
        column: text, numbers, vectors, or dicts of numbers. Ids that are whole numbers equal their text.
    """
    return [_hashed(cell) for cell in column]


def _hashed(cell: Any) -> str:
    if isinstance(cell, str):
        return cell if len(cell) <= 32 else hashlib.sha256(cell.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    if isinstance(cell, np.ndarray):
        content = np.ascontiguousarray(cell)
        return f"{cell.shape} {hashlib.sha256(content.tobytes() + str(content.dtype).encode()).hexdigest()[:32]}"
    if isinstance(cell, Mapping):
        return _hashed(repr(sorted((str(key), _hashed(value)) for key, value in cell.items())))
    if isinstance(cell, (list, tuple)):
        return _hashed(repr([_hashed(part) for part in cell]))
    if isinstance(cell, (bool, np.bool_)):
        return str(int(cell))
    if isinstance(cell, (int, np.integer)):
        return str(int(cell))
    if isinstance(cell, (float, np.floating)):
        return repr(float(cell))
    return _hashed(repr(cell))
