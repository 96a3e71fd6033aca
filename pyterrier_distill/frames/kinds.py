"""The kinds of labels: what their cells hold, and the way of a cell from a frame to a batch.

A label column is of one kind; :mod:`.columns` says which by its name, and a loss may say so of the columns it reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .cells import check_numbers, check_vectors, pad_lists, pad_rows, where

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Kind:
    """Labels of one kind; this one: a finite number a document, float32 ``[N]`` a list, ``[B, N]`` a batch.

    On its way a label is checked in the frame (:meth:`check`), read from its column (:meth:`read`), becomes the label
    of a list (:meth:`of_list`), of a part of that list (:meth:`part`), and with others that of a batch (:meth:`batch`).

    Attributes:
        per_query: whether all rows of a query carry the same cell, and a list has one label.
        is_vector: whether its cells are vectors.
        counts_lists: whether the first column of a batch's label says which list each row belongs to.
        orders: whether its numbers tell one document of a query from another, as a teacher's do.
        lower_is_better: whether they are ranks.
    """

    per_query = False
    is_vector = False
    counts_lists = False
    orders = True
    lower_is_better = False

    def check(self, frame: pd.DataFrame, column: str) -> None:
        """Check that ``column`` holds labels of this kind.

        Args:
            frame: rows of documents, or one of each query where :attr:`per_query`.
            column: one of its columns.

        Raises:
            ValueError: naming the column, the first row at fault, and what it should hold.
        """
        check_numbers(frame, column)

    def read(self, column: pd.Series) -> Any:
        """The cells of a column, to be indexed by arrays of rows (by one row where :attr:`per_query`)."""
        if pd.api.types.is_numeric_dtype(column.dtype):
            return column.to_numpy(dtype=np.float32)
        return np.stack(list(column)).astype(np.float32, copy=False)

    def of_list(self, cells: np.ndarray, docnos: np.ndarray) -> np.ndarray:
        """The label of a list.

        Args:
            cells: as :meth:`read` gave them, those of the list.
            docnos: ``[N]`` its documents.
        """
        return cells

    def part(self, label: np.ndarray, kept: np.ndarray, size: int) -> np.ndarray:
        """The label of a list that keeps some documents.

        Args:
            label: of the whole list.
            kept: the positions of the documents, in the order that they shall have.
            size: documents of the whole list.
        """
        return label[kept]

    def batch(self, labels: Sequence[np.ndarray]) -> torch.Tensor:
        """The labels of several lists as one tensor, padded with 0."""
        return pad_lists(labels)[0]

    def scores(self, label: np.ndarray, size: int) -> np.ndarray | None:
        """The order of a list's documents as a teacher sees it, float ``[N]``, higher = better; None if it has none."""
        return -label if self.lower_is_better else label

    def nothing_to_learn(self, labels: Sequence[np.ndarray], sizes: Sequence[int]) -> str | None:
        """Why a loss that compares documents learns nothing from these labels; None if it does.

        Args:
            labels: of all lists.
            sizes: documents of each.
        """
        if all(np.ptp(label) == 0 for label, size in zip(labels, sizes, strict=True) if size > 1):
            return "is the same for all documents of each query"
        return None


class Number(Kind):
    """A finite number a document, higher = better: scores."""


class Judgement(Kind):
    """A number a document, > 0 = relevant: what people, not teachers, say. They are compared as they are: no text."""

    orders = False

    def check(self, frame: pd.DataFrame, column: str) -> None:
        check_numbers(frame, column, text=False)

    def scores(self, label: np.ndarray, size: int) -> None:
        return None


class Rank(Kind):
    """The place of each document in a ranking, best = 0."""

    lower_is_better = True


class Logits(Kind):
    """Two numbers a document, raw logits of [false, true]: float32 ``[N, 2]`` a list, ``[B, N, 2]`` a batch."""

    def check(self, frame: pd.DataFrame, column: str) -> None:
        if (width := check_vectors(frame, column)) != 2:
            raise ValueError(f"the column {column!r} must hold two logits, [false, true], not {width}.")

    def batch(self, labels: Sequence[np.ndarray]) -> torch.Tensor:
        return pad_rows(labels)

    def scores(self, label: np.ndarray, size: int) -> np.ndarray:
        return label[:, 1] - label[:, 0]

    def nothing_to_learn(self, labels: Sequence[np.ndarray], sizes: Sequence[int]) -> None:
        return None


class Preferences(Kind):
    """A dict a document, other docno → P(this ≻ other).

    Of a list float32 ``[P, 3]``: document i, document j, P(i ≻ j), pairs with documents that it lacks left out; of a
    batch ``[P, 4]``, the list's row before these.
    """

    counts_lists = True

    def check(self, frame: pd.DataFrame, column: str) -> None:
        for n, cell in enumerate(frame[column]):
            if not isinstance(cell, dict) or not all(0 <= p <= 1 for p in cell.values()):
                raise ValueError(
                    f"the column {column!r} must hold a dict, other docno -> P(this > other) in [0, 1], but holds"
                    f" {str(cell)[:80]} at {where(frame, n)}: put a PairwiseTeacher before the Distiller."
                )
        for docno, cell in zip(frame["docno"], frame[column], strict=True):
            if docno in cell:
                raise ValueError(
                    f"the column {column!r} compares docno {docno!r} with itself, {cell[docno]}: leave that pair out."
                )

    def read(self, column: pd.Series) -> np.ndarray:
        return column.to_numpy(dtype=object)

    def of_list(self, cells: np.ndarray, docnos: np.ndarray) -> np.ndarray:
        place = {docno: n for n, docno in enumerate(docnos.tolist())}
        found = [(n, place[j], p) for n, cell in enumerate(cells) for j, p in cell.items() if j in place]
        return np.array(sorted(found), dtype=np.float32).reshape(-1, 3)  # whatever order the dicts were filled in

    def part(self, label: np.ndarray, kept: np.ndarray, size: int) -> np.ndarray:
        place = np.full(size, -1)
        place[kept] = np.arange(len(kept))
        both = place[label[:, :2].astype(int)]
        inside = (both >= 0).all(axis=1)
        return np.column_stack([both[inside], label[inside, 2]]).astype(np.float32)

    def batch(self, labels: Sequence[np.ndarray]) -> torch.Tensor:
        import torch

        rows = np.repeat(np.arange(len(labels), dtype=np.float32), [len(label) for label in labels])
        return torch.from_numpy(np.column_stack([rows, np.concatenate(labels)]))

    def scores(self, label: np.ndarray, size: int) -> np.ndarray:
        """The mean preference for each document; 0.5 for one that was not compared."""
        i, j = label[:, 0].astype(int), label[:, 1].astype(int)
        total = np.bincount(i, label[:, 2], size) + np.bincount(j, 1 - label[:, 2], size)
        asked = np.bincount(i, minlength=size) + np.bincount(j, minlength=size)
        return np.divide(total, asked, out=np.full(size, 0.5), where=asked > 0)

    def nothing_to_learn(self, labels: Sequence[np.ndarray], sizes: Sequence[int]) -> str | None:
        return None if any(map(len, labels)) else "holds no preference about two documents of one list"


class Vector(Kind):
    """A vector a document: float32 ``[N, D]`` a list, ``[B, N, D]`` a batch."""

    is_vector = True
    orders = False

    def check(self, frame: pd.DataFrame, column: str) -> None:
        check_vectors(frame, column)

    def batch(self, labels: Sequence[np.ndarray]) -> torch.Tensor:
        return pad_rows(labels)

    def scores(self, label: np.ndarray, size: int) -> None:
        return None

    def nothing_to_learn(self, labels: Sequence[np.ndarray], sizes: Sequence[int]) -> None:
        return None


class QueryVector(Vector):
    """A vector a query: float32 ``[D]`` a list, ``[B, D]`` a batch."""

    per_query = True

    def part(self, label: np.ndarray, kept: np.ndarray, size: int) -> np.ndarray:
        return label

    def batch(self, labels: Sequence[np.ndarray]) -> torch.Tensor:
        import torch

        return torch.from_numpy(np.stack(labels))


@dataclass(frozen=True)
class States(QueryVector):
    """What some layers say of each token of a query: ``[tokens, layers, D]`` a list, those of all lists joined a batch.

    Attributes:
        layers: how many; None = as many as there are.
    """

    layers: int | None = None

    is_vector = False

    def check(self, frame: pd.DataFrame, column: str) -> None:
        shapes = {np.shape(cell)[1:] for cell in frame[column]}
        layers = "layers" if self.layers is None else self.layers
        if len(shapes) != 1 or len(shape := next(iter(shapes))) != 2 or self.layers not in (None, shape[0]):
            raise ValueError(
                f"the column {column!r} must hold states of {layers} layers, [tokens, {layers}, dim], but holds cells"
                f" [tokens, ...] of {sorted(shapes, key=repr)[:4]}: ask teacher.query_encoder(states=[...]) for"
                f" {layers}."
            )
        check_numbers(frame, column)

    def read(self, column: pd.Series) -> list[np.ndarray]:
        return list(column)

    def batch(self, labels: Sequence[np.ndarray]) -> torch.Tensor:
        import torch

        return torch.from_numpy(np.concatenate(labels))


NUMBER, JUDGEMENT, RANK, LOGITS = Number(), Judgement(), Rank(), Logits()
PREFERENCES, VECTOR, QUERY_VECTOR = Preferences(), Vector(), QueryVector()
