"""How far the ranking of a training list is from its teacher's, for samplers that look there."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..frames import LABEL, TEACHER_RANK
from ..losses import Loss
from ..samplers import ranks_apart
from .lists import QueryList


def ordering_column(loss: Loss) -> str | None:
    """The first label column that orders documents as a teacher does: by scores, ranks, logits or preferences."""
    aside = {*loss.query_columns(), *loss.vector_columns(), LABEL}
    return next((column for column in loss.columns() if column not in aside), None)


def weights(one: QueryList, loss: Loss) -> np.ndarray:
    """How many ranks apart the list's ranking and its teacher place each document, ``[N]`` by position.

    A teacher's score is its label's: the score, minus the rank, the margin of two logits, or the mean preference, 0.5
    for a document that it did not compare.
    """
    column = ordering_column(loss)
    if column is None:
        raise ValueError(f"{loss!r} reads no order of a teacher's: there is nothing to disagree with.")
    cells = one.labels[column]
    if column in loss.pair_columns():
        i, j = cells[:, 0].astype(int), cells[:, 1].astype(int)
        size = len(one.docnos)
        total = np.bincount(i, cells[:, 2], size) + np.bincount(j, 1 - cells[:, 2], size)
        asked = np.bincount(i, minlength=size) + np.bincount(j, minlength=size)
        teacher = np.divide(total, asked, out=np.full(size, 0.5), where=asked > 0)
    elif column in loss.logit_columns():
        teacher = cells[:, 1] - cells[:, 0]
    else:
        teacher = -cells if column.startswith(TEACHER_RANK) else cells
    student = np.zeros(len(one.docnos))
    student[np.arange(len(student)) if one.ranking is None else one.ranking] = -np.arange(len(student))
    return ranks_apart(student, teacher)


def check_disagreement(lists: Iterable[QueryList], loss: Loss) -> None:
    """Check that some list's ranking is not its teacher's.

    Raises:
        ValueError: if all are.
    """
    if not any(weights(one, loss).any() for one in lists):
        raise ValueError(
            f'every list stands in the order of {ordering_column(loss)!r}: strategy="disagreement" has nowhere to look.'
            " Put what shall be compared with the teacher behind it: candidates >> teacher >> student."
        )
