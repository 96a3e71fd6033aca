"""How far the ranking of a training list is from its teacher's, for samplers that look there."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..losses import Loss
from ..sampling.samplers import ranks_apart
from .lists import QueryList


def ordering_column(loss: Loss) -> str | None:
    """The first label column that orders documents as a teacher does: by scores, ranks, logits or preferences."""
    return next((column for column, kind in loss.reads().items() if kind.orders), None)


def weights(one: QueryList, loss: Loss) -> np.ndarray:
    """How many ranks apart the list's ranking and its teacher place each document, ``[N]`` by position.

    A teacher's score is its label's: the score, minus the rank, the margin of two logits, or the mean preference, 0.5
    for a document that it did not compare.
    """
    column = ordering_column(loss)
    if column is None:
        raise ValueError(f"{loss!r} reads no order of a teacher's: there is nothing to disagree with.")
    teacher = loss.reads()[column].scores(one.labels[column], len(one.docnos))
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
