"""Checks of frames: the columns that somebody reads, texts, lists."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt

from . import validate
from .columns import label_source


class MissingLabelError(pt.validate.InputValidationError):
    """A frame lacks a column that a loss or a student reads. Says which, and who writes it."""

    def __str__(self) -> str:
        return str(self.args[0])


def require_columns(frame: pd.DataFrame, columns: Iterable[str], *, reader: str, context: Any = None) -> None:
    """Check that ``frame`` has the columns that ``reader`` needs.

    Args:
        frame: any frame.
        columns: the names it must have.
        reader: who reads them, for the message, e.g. ``"KLDivergence()"``.
        context: the transformer that checks; PyTerrier names it in its own messages.

    Raises:
        MissingLabelError: naming the first missing column and the teacher that writes it.
    """
    columns = list(columns)
    try:
        pt.validate.columns(frame, includes=columns, context=context)
    except pt.validate.InputValidationError as error:
        missing = next(c for c in columns if c not in frame.columns)
        raise MissingLabelError(
            f"{reader} needs the column {missing!r}, which this frame lacks: {label_source(missing)}"
            f" (the frame has {', '.join(map(str, frame.columns)) or 'no columns'}).",
            error.modes,
        ) from None


def check_text(frame: pd.DataFrame, columns: Iterable[str]) -> None:
    """Check that every cell of the text ``columns`` is a string.

    Raises:
        ValueError: naming the column, the row's docno or qid, and what stands there instead of text.
    """
    for column in columns:
        cells = frame[column]
        strings = isinstance(cells.dtype, pd.StringDtype)
        told = (not isinstance(cell, str) for cell in cells)
        bad = cells.isna().to_numpy() if strings else np.fromiter(told, dtype=bool, count=len(cells))
        if bad.any():
            row = frame.iloc[int(bad.argmax())]
            where = next((f"{key} {row[key]!r}" for key in ("docno", "qid") if key in frame.columns), "the first row")
            raise ValueError(
                f"the column {column!r} must hold text, but holds {row[column]!r} at {where}"
                f" ({int(bad.sum())} such rows): drop them or fill them with '' before this transformer."
            )


def check_unique(frame: pd.DataFrame) -> None:
    """Check that no document stands twice in a query's list.

    Raises:
        ValueError: with the first (qid, docno) that does.
    """
    key = ["qid", "docno"] if "docno" in frame.columns else ["qid"]
    twice = frame.duplicated(key)
    if twice.any():
        first = frame.loc[twice.to_numpy(), key].iloc[0].tolist()
        raise ValueError(
            f"({', '.join(key)}) must be unique, but {tuple(first)} occurs more than once"
            f" ({int(twice.sum())} such rows): drop_duplicates({key}) first."
        )


def check_results(frame: pd.DataFrame, what: str = "the training frame") -> None:
    """Check that ``frame`` has rows, ids, one query a qid, and no (qid, docno) twice; without ``docno`` no qid twice.

    Args:
        frame: has ``qid``.
        what: it is, for the message.

    Raises:
        ValueError: with the first pair that is there twice, or that the frame is empty.
    """
    if len(frame) == 0:
        raise ValueError(f"{what} is empty: check that the topics match and that the first stage found any.")
    validate.frame(frame, what)
    check_unique(frame)
