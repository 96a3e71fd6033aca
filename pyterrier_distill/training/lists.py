"""From a labelled frame to lists, and from lists to batches."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .. import frames
from ..losses import base as losses

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class QueryList:
    """One query with its documents, as the training frame had them.

    Attributes:
        query: its text.
        docnos: its documents in the frame's order; empty for losses on queries alone.
        texts: their texts, or None where vectors stand in for them.
        labels: column → ``[N]`` or ``[N, D]`` for documents, ``[D]`` for queries.
        doc_vectors: ``[N, D]`` of documents that training leaves frozen.
    """

    query: str
    docnos: Sequence[str]
    texts: Sequence[str] | None
    labels: dict[str, np.ndarray]
    doc_vectors: np.ndarray | None = None


def read_lists(frame: pd.DataFrame, loss: losses.Loss, text_field: str) -> list[QueryList]:
    """Group a checked frame into lists, in the order in which its queries first appear.

    Args:
        frame: an R frame; for losses on queries alone a Q frame will do, and documents are left aside.
        loss: which columns become labels.
        text_field: the column of document text; may be absent.
    """
    columns, per_query = loss.columns(), loss.query_columns()
    if not loss.needs - {losses.QUERY_VECTORS}:
        frame = frame.drop_duplicates("qid")
        cells = {column: np.stack(list(frame[column])).astype(np.float32) for column in columns}
        return [
            QueryList(query, (), None, {column: cells[column][row] for column in columns})
            for row, query in enumerate(frame["query"])
        ]
    lists = []
    for _, rows in frame.groupby("qid", sort=False):
        labels = {
            column: np.asarray(rows[column].iloc[0], dtype=np.float32)
            if column in per_query
            else np.stack(list(rows[column])).astype(np.float32)
            for column in columns
        }
        texts = rows[text_field].tolist() if text_field in rows.columns else None
        lists.append(QueryList(rows["query"].iloc[0], rows["docno"].tolist(), texts, labels))
    return lists


def check_lists(lists: list[QueryList], loss: losses.Loss) -> None:
    """Check that there is something to learn.

    Raises:
        ValueError: for a single query, or where a loss that compares documents finds no list with two of them.
    """
    if len(lists) < 2:
        raise ValueError("the training frame holds 1 query; one teaches nothing general: pass at least 2.")
    longest = max(len(one.docnos) for one in lists)
    if loss.needs - {losses.QUERY_VECTORS} and longest < loss.min_documents:
        raise ValueError(
            f"{loss!r} compares the documents of a query, but no query of the training frame has more than {longest}:"
            " take more candidates (retriever % 100)."
        )


def fingerprint(frame: pd.DataFrame, columns: Sequence[str]) -> str:
    """Twelve hexadecimal digits of what ``columns`` hold, row order included."""
    digest = hashlib.sha256()
    for column in columns:
        digest.update(column.encode())
        cells = frame[column]
        if len(cells) and isinstance(cells.iloc[0], (np.ndarray, list)):
            digest.update(np.ascontiguousarray(np.stack(list(cells))).tobytes())
        else:
            digest.update(pd.util.hash_pandas_object(cells.astype(str), index=False).to_numpy().tobytes())
    return digest.hexdigest()[:12]


class Collator:
    """Lists → one batch: what the student reads, the mask, and the labels as padded tensors."""

    def __init__(self, student: Any, loss: losses.Loss):
        self.student = student
        self.loss = loss
        self.columns = loss.columns()
        self.per_query = loss.query_columns()

    def __call__(self, lists: list[QueryList]) -> dict[str, Any]:
        import torch

        _, mask = frames.pad_lists([np.ones(max(1, len(one.docnos))) for one in lists])
        labels = {column: self._tensor([one.labels[column] for one in lists], column) for column in self.columns}
        return {"batch": self.student.collate(lists, self.loss.needs), "mask": mask.to(torch.bool), "labels": labels}

    def _tensor(self, cells: list[np.ndarray], column: str) -> Tensor:
        import torch

        if column in self.per_query:
            return torch.from_numpy(np.stack(cells))
        if cells[0].ndim == 1:
            return frames.pad_lists(cells)[0]
        padded = torch.zeros(len(cells), max(map(len, cells)), *cells[0].shape[1:])
        for row, cell in enumerate(cells):
            padded[row, : len(cell)] = torch.from_numpy(cell)
        return padded
