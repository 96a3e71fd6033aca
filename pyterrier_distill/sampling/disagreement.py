"""Where student and teacher disagree: the documents and pairs from which there is most to learn."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .. import frames
from ..frames import TEACHER_SCORE, arguments
from ..frames.kinds import Preferences
from ..frames.ranking import incoming_order, rejoined

HOW = ("preference", "inversion")


def disagreement(frame: pd.DataFrame, student: str = "score", teacher: str = TEACHER_SCORE) -> np.ndarray:
    """How many ranks apart student and teacher place each document, ``[n]`` by row of the frame.

    Ranks count among the documents of the query that the frame holds, tied ones averaged, so weights are between 0 and
    the length of the list less 1, in steps of 0.5, and do not depend on either scale. A list on which both agree, or of
    one document, has 0 throughout. Rankings take ties in ``score`` apart by the least that a 32-bit float can tell: in
    columns whose name begins so, scores as near as that are ties.

    Args:
        frame: an R frame.
        student: the column of the student's scores, higher = better.
        teacher: the column of the teacher's; ``rank``, and one whose name begins with ``teacher_rank``, holds ranks,
            lower = better, and so may ``student``.

    Raises:
        MissingLabelError: if a column is missing.
        ValueError: if a cell is not finite, or a document stands twice in a list.

    Example::

        labelled = (candidates >> teacher >> student)(topics)  # the student's score last
        weights = ptd.disagreement(labelled)
    """
    frames.require_columns(frame, ["qid", "docno", student, teacher], reader="disagreement()")
    frames.check_unique(frame)
    apart = _ranks(frame, student) - _ranks(frame, teacher)
    return np.abs(apart)


@arguments.renamed(how="strategy")
def pair_disagreement(
    frame: pd.DataFrame,
    student: str = "score",
    teacher: str = TEACHER_SCORE,
    *,
    strategy: str = "preference",
    temperature: float = 1.0,
) -> dict[str, np.ndarray]:
    """How much student and teacher disagree about each pair of a list: qid → ``[N, N]``, for a ``PairSampler``.

    * ``"preference"``: ``|σ((s_i − s_j) / T) − p_ij|``, between 0 and 1. p_ij is the teacher's preference where
      ``teacher`` begins with ``teacher_prefs``, the mean of both orders where both were asked; else
      σ((t_i − t_j) / T), so that scores of both must be of one scale: logits.
    * ``"inversion"``: 1 where one ranks i above j and the other j above i, 0 where they agree, 0.5 where one alone sees
      a tie; no scale matters.

    Rows and columns are the documents in the incoming order of the frame (``rank``, else ``score``, else rows), as a
    PairwiseTeacher counts them. The matrices are symmetric; the diagonal is 0, and so is a pair that the teacher did
    not compare.

    Args:
        frame: an R frame.
        student: the column of the student's scores s, logits for ``"preference"``.
        teacher: the column of the teacher's scores, ranks or preferences.
        strategy: ``"preference"`` or ``"inversion"``.
        temperature: T.

    Raises:
        MissingLabelError: if a column is missing.
        ValueError: for an unknown ``strategy``, ranks with ``"preference"``, or cells that are not finite.

    References:
        PairDistill §4.2: P(i ≻ j) of a student is σ(s_i − s_j).

    Example::

        weights = ptd.pair_disagreement(labelled, teacher="teacher_score")  # qid → [N, N]
    """
    if strategy not in HOW:
        raise ValueError(f"strategy must be 'preference' or 'inversion', not {strategy!r}.")
    arguments.positive(temperature, "temperature")
    if strategy == "preference" and any(frames.kind_of(column).lower_is_better for column in (student, teacher)):
        raise ValueError("ranks tell no preferences: use strategy='inversion', or a column of scores.")
    frames.require_columns(frame, ["qid", "docno", student, teacher], reader="pair_disagreement()")
    frames.check_unique(frame)
    kind = frames.kind_of(teacher)
    by_preference = isinstance(kind, Preferences)
    frames.check_numbers(frame, student)
    kind.check(frame, teacher)
    ordered = frame.iloc[np.argsort(incoming_order(frame), kind="stable")] if len(frame) else frame
    weights = {}
    for qid, rows in ordered.groupby(ordered["qid"].to_numpy(), sort=False):
        ours = _preferences(_scores(rows, student), strategy, temperature)
        if by_preference:
            theirs = _asked(rows, teacher)
            theirs = (
                theirs
                if strategy == "preference"
                else np.where(np.isnan(theirs), np.nan, (np.sign(theirs - 0.5) + 1) / 2)
            )
        else:
            theirs = _preferences(_scores(rows, teacher), strategy, temperature)
        apart = np.nan_to_num(np.abs(ours - theirs), nan=0.0)
        np.fill_diagonal(apart, 0.0)
        weights[str(qid)] = apart
    return weights


def disagreement_columns(student: str = "score", teacher: str = TEACHER_SCORE, **_: object) -> list[str]:
    """The columns that :func:`pair_disagreement` reads with these settings."""
    return list(dict.fromkeys([student, teacher]))


def _scores(frame: pd.DataFrame, column: str) -> np.ndarray:
    """Higher = better. Scores of a ranking that carry its order are tied again where they were."""
    if column.startswith("score"):
        return rejoined(frame, column)
    return frames.ascending(column, frame[column].to_numpy(dtype=float))


def _ranks(frame: pd.DataFrame, column: str) -> np.ndarray:
    """Ranks ``[n]`` in each query, tied ones averaged."""
    frames.check_numbers(frame, column)
    scores = pd.Series(_scores(frame, column))
    return scores.groupby(frame["qid"].to_numpy(), sort=False).rank(ascending=False, method="average").to_numpy()


def _preferences(scores: np.ndarray, strategy: str, temperature: float) -> np.ndarray:
    """P(i ≻ j) ``[N, N]``; of an order 1, 0, or 0.5 for a tie."""
    margins = scores[:, None] - scores[None, :]
    if strategy == "inversion":
        return (np.sign(margins) + 1) / 2
    return np.exp(-np.logaddexp(0, -margins / temperature))


def _asked(rows: pd.DataFrame, column: str) -> np.ndarray:
    """P(i ≻ j) ``[N, N]`` as the teacher said, the mean over both orders; NaN where it did not compare."""
    place = {str(docno): n for n, docno in enumerate(rows["docno"])}
    told = np.full((2, len(rows), len(rows)), np.nan)
    for i, cell in enumerate(rows[column]):
        for docno, p in cell.items():
            j = place.get(str(docno))
            if j is not None:
                told[0, i, j], told[1, j, i] = p, 1 - p
    known = ~np.isnan(told)
    total = np.where(known, told, 0.0).sum(axis=0)
    return np.divide(total, known.sum(axis=0), out=np.full(total.shape, np.nan), where=known.any(axis=0))
