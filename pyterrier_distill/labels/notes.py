"""What is known of queries besides their texts and labels: which collection they are of, answers to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from . import shards
from .directory import NOTES, Directory

if TYPE_CHECKING:
    import pyarrow as pa


def write(directory: Directory, notes: pd.DataFrame, start: int) -> None:
    """Commit notes of queries; written again, they are the same file.

    Args:
        directory: of the store.
        notes: ``qid``, and columns of texts or of lists of texts.
        start: position of the first query among all.
    """
    pa = shards.arrow()
    columns: dict[str, Any] = {"qid": pa.array(notes["qid"].tolist(), pa.string())}
    for name in notes.columns.drop("qid"):
        cells = [list(cell) if isinstance(cell, np.ndarray) else cell for cell in notes[name]]
        cells = [cell if isinstance(cell, (str, list)) else None for cell in cells]
        lists = any(isinstance(cell, list) for cell in cells)
        columns[name] = pa.array(cells, pa.list_(pa.string()) if lists else pa.string())
    directory.write(pa.table(columns), start, NOTES)


def added(directory: Directory, topics: pd.DataFrame) -> pd.DataFrame:
    """Topics with what is noted of them, None where nothing is; of a query with several notes the first count."""
    names = directory.names(NOTES)
    if not names:
        return topics
    parts = [_frame(directory.open(name, NOTES).read()) for name in names]
    notes = pd.concat(parts, ignore_index=True).drop_duplicates("qid").set_index("qid")
    found = notes.reindex(topics["qid"]).astype(object)
    found = found.where(found.notna(), None)
    return topics.assign(**{name: found[name].to_numpy() for name in found.columns if name not in topics.columns})


def _frame(table: pa.Table) -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series(table.column(name).to_pylist(), dtype=object) for name in table.schema.names})
