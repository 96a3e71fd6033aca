"""Cells of label columns: what they must hold, and lists of them as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    import torch


def pad_lists(lists: Sequence[Sequence[float]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad ragged lists to one tensor.

    Args:
        lists: B lists of at most N numbers each.

    Returns:
        ``(values, mask)``, both ``[B, N]``: float32 values with 0 in the padding, and True at each real entry.
    """
    import torch

    width = max((len(entries) for entries in lists), default=0)
    values = torch.zeros(len(lists), width)
    mask = torch.zeros(len(lists), width, dtype=torch.bool)
    for row, entries in enumerate(lists):
        values[row, : len(entries)] = torch.as_tensor(np.asarray(entries, dtype=np.float32))
        mask[row, : len(entries)] = True
    return values, mask


def pad_rows(lists: Sequence[np.ndarray]) -> torch.Tensor:
    """Lists ``[N, ...]`` as one tensor ``[B, N, ...]``, 0 in the padding."""
    import torch

    padded = torch.zeros(len(lists), max(map(len, lists)), *lists[0].shape[1:])
    for row, entries in enumerate(lists):
        padded[row, : len(entries)] = torch.from_numpy(entries)
    return padded


def check_numbers(frame: pd.DataFrame, column: str, *, text: bool = True) -> None:
    """Check that no cell of ``column`` is missing or not finite. Vectors are checked by element.

    Args:
        frame: any frame.
        column: one of its columns.
        text: whether text that spells a number is one.

    Raises:
        ValueError: naming the column and the first row at fault.
    """
    cells = frame[column]
    if pd.api.types.is_numeric_dtype(cells.dtype):
        bad = ~np.isfinite(cells.to_numpy(dtype=float, na_value=np.nan))
    elif (alike := stacked(cells)) is not None and alike.size:
        bad = ~np.isfinite(alike).reshape(len(alike), -1).all(axis=1)
    else:
        no = () if text else str
        bad = np.fromiter((isinstance(cell, no) or not _finite(cell) for cell in cells), dtype=bool, count=len(cells))
    if bad.any():
        row = int(bad.argmax())
        found = f"holds the text {cells.iloc[row]!r}" if isinstance(cells.iloc[row], str) else "does not"
        raise ValueError(
            f"the column {column!r} must hold finite numbers, but {found} at {where(frame, row)} ({int(bad.sum())}"
            " such rows): drop those rows, turn text into numbers (pd.to_numeric), or label them again."
        )


def check_vectors(frame: pd.DataFrame, column: str) -> int:
    """Check that ``column`` holds finite vectors of one dimension.

    Returns:
        The dimension.

    Raises:
        ValueError: naming the column and what it holds instead.
    """
    shapes = {np.shape(cell) for cell in frame[column]}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        raise ValueError(
            f"the column {column!r} must hold vectors of one dimension, but holds cells of the shapes"
            f" {sorted(shapes, key=repr)[:4]}: label the frame with one encoder."
        )
    check_numbers(frame, column)
    return next(iter(shapes))[0]


def stacked(cells: pd.Series) -> np.ndarray | None:
    """Cells that are arrays of floats of one shape, as one array ``[N, ...]``; None if they are anything else."""
    arrays = cells.tolist()
    first = arrays[0] if arrays else None
    if not isinstance(first, np.ndarray) or first.dtype.kind != "f":
        return None
    if any(type(cell) is not np.ndarray or cell.shape != first.shape or cell.dtype.kind != "f" for cell in arrays):
        return None
    return np.stack(arrays)


def where(frame: pd.DataFrame, row: int) -> str:
    """A row by its ids."""
    return ", ".join(f"{key} {frame[key].iloc[row]!r}" for key in ("qid", "docno") if key in frame.columns)


def _finite(cell: Any) -> bool:
    if isinstance(cell, dict):
        return all(np.isfinite(value) for value in cell.values())
    try:
        return bool(np.all(np.isfinite(np.asarray(cell, dtype=float)))) and np.size(cell) > 0
    except (TypeError, ValueError):
        return False
