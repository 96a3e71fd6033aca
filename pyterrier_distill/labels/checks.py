"""Whether labels can be kept as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from .. import frames
from ..frames import FIRST_STAGE_RANK, LABEL_COLUMNS, check_numbers, kind_of, kinds, validate
from ..frames.cells import stacked
from .tables import label_columns
from .texts import check_one_text

#: Kinds whose cells are checked by their shape; others check their columns themselves.
_TOLD_BY_SHAPE = (kinds.Number, kinds.Judgement, kinds.Rank, kinds.Vector, kinds.QueryVector, kinds.States)


def text_labels(frame: pd.DataFrame) -> list[str]:
    """Columns that are named as labels and hold text."""
    named = [c for c in frame.columns if isinstance(c, str) and c in LABEL_COLUMNS]
    return [c for c in named if len(frame) and isinstance(frame[c].iloc[0], str)]


def check_labels(frame: pd.DataFrame) -> None:
    """Check that every cell of every label column can be kept: none missing, none without a finite value.

    Raises:
        ValueError: naming the column and the first row at fault.
    """
    for name in ("score", "rank", FIRST_STAGE_RANK):
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
        one = kind_of(name).per_query and shape
        if not one and _is_plain(stacked(cells)):
            if type(kind_of(name)) not in _TOLD_BY_SHAPE:
                kind_of(name).check(frame, name)
            continue
        qids = frame["qid"].tolist()
        seen: dict[Any, Any] = {}
        for row, cell in enumerate(cells):
            wrong = _wrong_cell(cell, isinstance(first, dict), shape)
            if wrong is None and one and not _same(seen.setdefault(qids[row], cell), cell):
                wrong = "it is another one than in the query's first row, and a query has one"
            if wrong:
                where = ", ".join(f"{key} {frame[key].iloc[row]!r}" for key in ("qid", "docno") if key in frame.columns)
                raise ValueError(
                    f"the column {name!r} cannot be stored ({where}: {wrong}): every cell must be a finite number, a"
                    " vector of them of one size, or a dict of preferences, other docno -> P(this > other) in [0, 1],"
                    " and none may be missing."
                )
        if type(kind_of(name)) not in _TOLD_BY_SHAPE:
            kind_of(name).check(frame, name)


def _is_plain(vectors: np.ndarray | None) -> bool:
    """Whether there is nothing wrong with vectors, all of one size."""
    if vectors is None or vectors.ndim != 2 or not vectors.size:
        return False
    return bool(np.isfinite(vectors).all() and np.abs(vectors).max() <= np.finfo(np.float32).max)


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
        return f"{str(cell)[:60]!r} is not a number"
    try:
        values = np.asarray(cell, dtype=float)
    except (TypeError, ValueError):
        return f"{str(cell)[:60]} is not a number"
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


def check_frame(labelled: pd.DataFrame, what: str, with_text: bool) -> None:
    """Check that a labelled frame can go into a store.

    Args:
        labelled: the frame.
        what: how the message begins, such as ``"the frame holds"``.
        with_text: whether its texts shall be stored, too.

    Raises:
        ValueError: naming what is wrong with it.
    """
    columns = label_columns(labelled)
    of_queries = bool(columns) and all(frames.kind_of(column).per_query for column in columns)
    wanted = ["qid", "query", *([] if of_queries else ["docno"]), *(["text"] if with_text else [])]
    frames.require_columns(labelled, wanted, reader=f"LabelStore(with_text={with_text})")
    if not columns and (texts := text_labels(labelled)):
        raise ValueError(
            f"{what} no label: its column {texts[0]!r} holds text, such as {labelled[texts[0]].iloc[0]!r}, and must"
            " hold numbers."
        )
    if not columns:
        raise ValueError(
            f"{what} no label ({', '.join(map(str, labelled.columns))}): put a teacher at the end of the pipeline."
        )
    if not len(labelled):
        return
    ids = ["qid", *(["docno"] if "docno" in labelled.columns else [])]
    validate.frame(labelled, "the labelled frame")
    for name in ids:
        if (labelled[name].astype(str) == "").any():
            raise ValueError(f"the labelled frame has rows with an empty {name!r}: every row needs an id.")
    frames.check_unique(labelled[ids].astype(str))
    frames.check_text(labelled, ["query"])
    check_labels(labelled)
    if with_text:
        frames.check_text(labelled, ["text"])
        check_one_text(labelled)
