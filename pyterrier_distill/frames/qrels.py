"""Relevance judgements: checked, and joined to frames."""

from __future__ import annotations

import pandas as pd

from . import given
from .columns import LABEL
from .ids import check_ids


def check_qrels(qrels: pd.DataFrame, what: str = "the qrels") -> pd.DataFrame:
    """Judgements as ``qid`` (str), ``docno`` (str), ``label`` (int).

    Args:
        qrels: has these columns; or a dataset.
        what: they are, for the message.

    Raises:
        TypeError: if they are no frame.
        ValueError: if a column or an id is missing, a pair is judged twice, or a label is no whole number.
    """
    qrels = given.qrels(qrels)
    if not isinstance(qrels, pd.DataFrame):
        raise TypeError(
            f"{what} must be a frame of qid, docno and label, or a dataset that has judgements, not {qrels!r:.80}."
        )
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


def judgements(qrels: pd.DataFrame) -> pd.Series:
    """Judgements as labels (int) by (qid, docno).

    Raises:
        TypeError: if they are no frame.
        ValueError: if a column is missing, a pair is judged twice, or there is none.
    """
    if isinstance(qrels, pd.DataFrame) and not len(qrels):
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
