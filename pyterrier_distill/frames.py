"""The label columns: their names, their meaning, and how a frame of them becomes lists.

This is the one place that names the columns teachers write and losses read. Everything else asks here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyterrier as pt

from . import validate
from .ids import check_ids

if TYPE_CHECKING:
    import torch

TEACHER_SCORE = "teacher_score"
TEACHER_LOGITS = "teacher_logits"
TEACHER_RANK = "teacher_rank"
TEACHER_PREFS = "teacher_prefs"
QUERY_VEC = "query_vec"
QUERY_STATES = "query_states"
DOC_VEC = "doc_vec"
#: Not labels: the token vectors, float32[tokens, dim], by which late-interaction models rank.
QUERY_EMBS = "query_embs"
DOC_EMBS = "doc_embs"
LABEL = "label"


@dataclass(frozen=True)
class LabelColumn:
    """What a label column holds.

    Attributes:
        name: the column.
        cell: what one cell holds, with unit and shape.
        source: who writes it, phrased as advice.
        per_query: True where all rows of a query carry the same value.
    """

    name: str
    cell: str
    source: str
    per_query: bool = False


LABEL_COLUMNS: dict[str, LabelColumn] = {
    column.name: column
    for column in (
        LabelColumn(
            TEACHER_SCORE, "float; its scale is stated by the teacher", "put a PointwiseTeacher before the Distiller"
        ),
        LabelColumn(
            TEACHER_LOGITS,
            "float32[2], raw logits of [false, true]",
            "put a true/false PointwiseTeacher before the Distiller",
        ),
        LabelColumn(TEACHER_RANK, "int, best = 0", "put a ListwiseLLMTeacher or a RunTeacher before the Distiller"),
        LabelColumn(
            TEACHER_PREFS,
            "dict: other docno -> P(this > other) in [0, 1]",
            "put a PairwiseTeacher before the Distiller",
        ),
        LabelColumn(QUERY_VEC, "float32[dim]", "put teacher.query_encoder() before the Distiller", per_query=True),
        LabelColumn(
            QUERY_STATES,
            "float16[tokens, layers, dim]",
            "put teacher.query_encoder(states=[...]) before the Distiller",
            per_query=True,
        ),
        LabelColumn(DOC_VEC, "float32[dim]", "put teacher.doc_encoder() or index.vec_loader() before the Distiller"),
        LabelColumn(LABEL, "int, 0 = not relevant", "pass qrels to fit(res, qrels), or a frame with that column"),
    )
}


class MissingLabelError(pt.validate.InputValidationError):
    """A frame lacks a column that a loss or a student reads. Says which, and who writes it."""

    def __str__(self) -> str:
        return str(self.args[0])


def holds_ranks(column: str) -> bool:
    """Whether numbers of this column are ranks, lower = better."""
    return column == "rank" or column.startswith(TEACHER_RANK)


def label_source(column: str) -> str:
    """Who writes ``column``: known names exactly, ``teacher_score_x`` like ``teacher_score``."""
    for name, known in LABEL_COLUMNS.items():
        if column == name or column.startswith(f"{name}_"):
            return known.source
    return "put the transformer that writes it before the Distiller"


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


def check_numbers(frame: pd.DataFrame, column: str) -> None:
    """Check that no cell of ``column`` is missing or not finite; of ``label``, none text. Vectors by element.

    Raises:
        ValueError: naming the column and the first row at fault.
    """
    cells = frame[column]
    if pd.api.types.is_numeric_dtype(cells.dtype):
        bad = ~np.isfinite(cells.to_numpy(dtype=float, na_value=np.nan))
    else:
        text = str if column == LABEL else ()  # labels are compared as they are
        bad = np.fromiter((isinstance(cell, text) or not _finite(cell) for cell in cells), dtype=bool, count=len(cells))
    if bad.any():
        row = frame.iloc[int(bad.argmax())]
        where = ", ".join(f"{key} {row[key]!r}" for key in ("qid", "docno") if key in frame.columns)
        found = f"holds the text {row[column]!r}" if isinstance(row[column], str) else "does not"
        raise ValueError(
            f"the column {column!r} must hold finite numbers, but {found} at {where} ({int(bad.sum())} such rows):"
            " drop those rows, turn text into numbers (pd.to_numeric), or label them again."
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


def check_states(frame: pd.DataFrame, column: str, layers: int) -> int:
    """Check that ``column`` holds finite states of tokens, of ``layers`` layers and one width.

    Returns:
        The width.

    Raises:
        ValueError: naming the column and what it holds instead.
    """
    shapes = {np.shape(cell)[1:] for cell in frame[column]}
    if len(shapes) != 1 or len(shape := next(iter(shapes))) != 2 or shape[0] != layers:
        raise ValueError(
            f"the column {column!r} must hold states of {layers} layers, [tokens, {layers}, dim], but holds cells"
            f" [tokens, ...] of {sorted(shapes, key=repr)[:4]}: ask teacher.query_encoder(states=[...]) for {layers}."
        )
    check_numbers(frame, column)
    return shape[1]


def check_preferences(frame: pd.DataFrame, column: str) -> None:
    """Check that ``column`` holds preferences: dicts of probabilities.

    Raises:
        ValueError: naming the column and the first row at fault.
    """
    for n, cell in enumerate(frame[column]):
        if not isinstance(cell, dict) or not all(0 <= p <= 1 for p in cell.values()):
            where = ", ".join(f"{key} {frame[key].iloc[n]!r}" for key in ("qid", "docno") if key in frame.columns)
            raise ValueError(
                f"the column {column!r} must hold a dict, other docno -> P(this > other) in [0, 1], but holds"
                f" {str(cell)[:80]} at {where}: put a PairwiseTeacher before the Distiller."
            )


def check_qrels(qrels: pd.DataFrame, what: str = "the qrels") -> pd.DataFrame:
    """Judgements as ``qid`` (str), ``docno`` (str), ``label`` (int).

    Args:
        qrels: has these columns.
        what: they are, for the message.

    Raises:
        ValueError: if a column or an id is missing, a pair is judged twice, or a label is no whole number.
    """
    missing = [c for c in ("qid", "docno", "label") if c not in qrels.columns]
    if missing:
        raise ValueError(f"qrels need the columns qid, docno and label; {missing[0]!r} is missing.")
    check_ids(qrels, ["qid", "docno"], what)
    labels = pd.to_numeric(qrels["label"], errors="coerce")
    if not (labels % 1 == 0).all():
        bad = qrels.loc[~(labels % 1 == 0), "label"].iloc[0]
        raise ValueError(f"the qrels' column 'label' must hold whole numbers, but holds {bad}.")
    twice = qrels.duplicated(["qid", "docno"])
    if twice.any():
        pair = tuple(qrels.loc[twice, ["qid", "docno"]].iloc[0])
        raise ValueError(
            f"the qrels judge (qid, docno) {pair} more than once: drop_duplicates(['qid', 'docno']) first."
        )
    columns = {"qid": qrels["qid"].astype(str), "docno": qrels["docno"].astype(str), "label": labels.astype(int)}
    return pd.DataFrame(columns)


def _finite(cell: Any) -> bool:
    if isinstance(cell, dict):
        return all(np.isfinite(value) for value in cell.values())
    try:
        return bool(np.all(np.isfinite(np.asarray(cell, dtype=float)))) and np.size(cell) > 0
    except (TypeError, ValueError):
        return False


def judgements(qrels: pd.DataFrame) -> pd.Series:
    """Judgements as labels (int) by (qid, docno).

    Raises:
        ValueError: if a column is missing, a pair is judged twice, or there is none.
    """
    if not len(qrels):
        raise ValueError("the qrels are empty.")
    return check_qrels(qrels).set_index(["qid", "docno"])["label"]


def join_qrels(frame: pd.DataFrame, qrels: pd.DataFrame) -> pd.DataFrame:
    """Add relevance judgements as the column ``label``.

    Args:
        frame: an R frame with ``qid`` and ``docno``, any index.
        qrels: a frame with ``qid``, ``docno`` and ``label``.

    Returns:
        A copy of ``frame`` in its row order and with its index; unjudged documents get label 0.

    Raises:
        ValueError: if the qrels lack a column, judge a pair twice, or judge no document of the frame.
    """
    return join_judgements(frame, judgements(qrels))


def join_judgements(frame: pd.DataFrame, judged: pd.Series, *, any_judged: bool = True) -> pd.DataFrame:
    """Add what :func:`judgements` gives as the column ``label``, as :func:`join_qrels` does.

    Args:
        frame: an R frame.
        judged: labels by (qid, docno).
        any_judged: whether at least one document must be judged.
    """
    keys = pd.MultiIndex.from_arrays([frame["qid"].astype(str), frame["docno"].astype(str)])
    labels = judged.reindex(keys)
    if any_judged and len(frame) and labels.isna().all():
        raise ValueError(
            "the qrels judge none of the frame's documents: check that qid and docno are spelt alike in both"
            f" (frame: {tuple(frame[['qid', 'docno']].iloc[0])}, qrels: {judged.index[0]})."
        )
    return frame.assign(**{LABEL: labels.fillna(0).to_numpy().astype(int)})


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
