"""What a training list's labels say of its documents, for samplers that draw by it: orders, errors, pairs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from ..frames.kinds import Preferences
from ..losses import Loss
from ..sampling.samplers import ranks_apart
from .lists import QueryList

if TYPE_CHECKING:
    from ..sampling.samplers import ListSampler


def check_sampler(sampler: ListSampler, loss: Loss) -> None:
    """Check that a loss reads the labels by which a sampler draws.

    Raises:
        ValueError: saying what to add to the loss.
    """
    if (sampler.reads_weights or sampler.order == "teacher") and ordering_column(loss) is None:
        raise ValueError(
            f"{loss!r} reads no order of a teacher's: for {sampler!r} add a term that reads scores, ranks or"
            " preferences, such as RankNet()."
        )
    if sampler.reads_pairs and not any(isinstance(kind, Preferences) for kind in loss.reads().values()):
        raise ValueError(f"{loss!r} reads no preferences: for {sampler!r} add a term that does, such as PairwiseKL().")


def ordering_column(loss: Loss) -> str | None:
    """The first label column that orders documents as a teacher does: by scores, ranks, logits or preferences."""
    return next((column for column, kind in loss.reads().items() if kind.orders), None)


def weights(one: QueryList, loss: Loss) -> np.ndarray:
    """How many ranks apart the list's ranking and its teacher place each document, ``[N]`` by position.

    Raises:
        ValueError: if the loss reads no order of a teacher's.
    """
    teacher = scores(one, loss)
    student = np.zeros(len(one.docnos))
    student[np.arange(len(student)) if one.ranking is None else one.ranking] = -np.arange(len(student))
    return ranks_apart(student, teacher)


def scores(one: QueryList, loss: Loss) -> np.ndarray:
    """What the teacher thinks of each document of a list, ``[N]``, higher = better.

    That is its label's: the score, minus the rank, the margin of two logits, or the mean preference, 0.5 for a document
    that it did not compare.

    Raises:
        ValueError: if the loss reads no order of a teacher's.
    """
    column = ordering_column(loss)
    if column is None:
        raise ValueError(f"{loss!r} reads no order of a teacher's: there is none to go by.")
    return np.asarray(loss.reads()[column].scores(one.labels[column], len(one.docnos)))


def pairs(one: QueryList, loss: Loss) -> set[tuple[int, int]]:
    """The pairs (i, j), i < j, of a list's positions about which the loss reads preferences."""
    told = [one.labels[column] for column, kind in loss.reads().items() if isinstance(kind, Preferences)]
    return {(min(i, j), max(i, j)) for label in told for i, j in label[:, :2].astype(int).tolist()}


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
