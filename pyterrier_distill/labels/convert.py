"""Labels in and out of a store in the formats of others."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .. import frames
from ..frames import TEACHER_RANK, TEACHER_SCORE
from ..frames.ranking import carried, incoming_order
from ..frames.texts import text_source
from ..stores.files import identifier, json_lines, lines, written
from ..stores.runs import check_field, write_lines
from . import tables

if TYPE_CHECKING:
    from .stored_labels import StoredLabels


_ADVICE = "Write to_jsonl(file) instead, or give other ids."


def to_run(store: StoredLabels, file: str | os.PathLike, by: str | None, tag: str) -> None:
    """A TREC run; arguments and errors as of ``StoredLabels.to_run``."""
    check_field(tag, "the tag", _ADVICE)
    with written(file) as out:
        for frame in store.lists(seed=None):
            frames.require_columns(frame, ["docno", *([by] if by else [])], reader="to_run")
            for _, rows in frame.groupby("qid", sort=True):
                scores, ranks = carried(rows["qid"].to_numpy(), _ordering(rows, by), incoming_order(rows))
                ordered = rows.assign(score=scores, rank=ranks).sort_values("rank", kind="stable")
                write_lines(out, ordered, tag, _ADVICE)


def to_jsonl(store: StoredLabels, file: str | os.PathLike) -> None:
    """JSON Lines; arguments and errors as of ``StoredLabels.to_jsonl``."""
    with written(file) as out:
        for frame in store.lists(seed=None):
            frames.require_columns(frame, ["docno"], reader="to_jsonl")
            for qid, rows in frame.groupby("qid", sort=False):
                entry = {"qid": qid, "query": rows["query"].iloc[0], "docno": rows["docno"].tolist()}
                for column in tables.label_columns(frame):
                    known = rows[column].notna().to_numpy()
                    if known.all():
                        entry[column] = [_plain(cell) for cell in rows[column]]
                    elif known.any():
                        raise ValueError(f"query {qid!r} has {column!r} for some of its documents only.")
                out.write(json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n")


def to_hf_dataset(store: StoredLabels, text: Any, label: str) -> Any:
    """A ``datasets.Dataset``; arguments and errors as of ``StoredLabels.to_hf_dataset``."""
    try:
        from datasets import Dataset
    except ModuleNotFoundError:
        raise ModuleNotFoundError("this needs datasets: pip install datasets.") from None
    rows: list[dict[str, Any]] = []
    load = store.text_loader() if text is None else text_source(text)
    for frame in store.lists(seed=None):
        frames.require_columns(frame, ["docno", label], reader="to_hf_dataset")
        frames.check_numbers(frame, label)
        frame = load(frame)
        for _, group in frame.groupby("qid", sort=False):
            labels = frames.ascending(label, group[label].to_numpy(dtype=float)).tolist()
            rows.append({"query": group["query"].iloc[0], "docs": group["text"].tolist(), "labels": labels})
    return Dataset.from_list(rows)


def read_own(file: str | os.PathLike) -> list[pd.DataFrame] | None:
    """What :func:`to_jsonl` wrote, as R frames of the same columns each; None if somebody else wrote it.

    Raises:
        ValueError: naming the line that is not as the first ones are.
    """
    parts: list[list[pd.DataFrame]] = []
    if not next(lines(file), (0, ""))[1].lstrip().startswith("{"):
        return None
    for number, entry in json_lines(file):
        lists = {name: cells for name, cells in entry.items() if name not in ("qid", "query")}
        if not ({"qid", "query"} <= entry.keys() and isinstance(entry.get("docno"), list)):
            if not parts:
                return None
            raise ValueError(f"{file}, line {number}: expected qid, query and a list of docno, as in the lines before.")
        sizes = {name: len(cells) if isinstance(cells, list) else None for name, cells in lists.items()}
        odd = [name for name, size in sizes.items() if size != sizes["docno"]]
        if odd:
            raise ValueError(f"{file}, line {number}: {odd[0]!r} must be a list of {sizes['docno']}, as docno is.")
        cells = {k: [np.asarray(c) if isinstance(c, list) else c for c in v] for k, v in lists.items()}
        rows = pd.DataFrame({name: pd.Series(values) for name, values in cells.items()})
        rows = rows.assign(qid=identifier(entry["qid"], file, number, "qid"), query=entry["query"])
        if not parts or set(parts[-1][0].columns) != set(rows.columns):
            parts.append([])
        parts[-1].append(rows)
    return [pd.concat(part, ignore_index=True) for part in parts] or None


def _ordering(rows: pd.DataFrame, by: str | None) -> np.ndarray:
    """What orders one query's documents, higher = better.

    Raises:
        ValueError: if there is no number for each of them.
    """
    wanted = (TEACHER_RANK, TEACHER_SCORE, "score") if by is None else (by,)
    for column in wanted:
        if column in rows.columns:
            values = pd.to_numeric(rows[column], errors="coerce").to_numpy(dtype=float)
            if np.isfinite(values).all():
                return frames.ascending(column, values)
    raise ValueError(
        f"query {rows['qid'].iloc[0]!r} has no number for each of its documents in {' or '.join(wanted)}: name the"
        " column that orders (label=...), or label it."
    )


def _plain(cell: Any) -> Any:
    """A cell as JSON knows it."""
    if isinstance(cell, np.ndarray):
        return cell.tolist()
    return cell.item() if isinstance(cell, np.generic) else cell
