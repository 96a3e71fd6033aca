"""TREC runs, written: six fields a line, apart by white space."""

from __future__ import annotations

import unicodedata
from typing import IO

import pandas as pd

#: Why a run, whose fields are apart by white space, cannot hold some ids.
NO_FIELD = "it must have characters, and no white space"


def holds(value: object) -> bool:
    """Whether a run can hold a field."""
    text = str(value)
    return text.split() == [text] and not any(unicodedata.category(sign) in ("Cc", "Cs") for sign in text)


def check_field(value: object, what: str, advice: str = "give other ids.") -> None:
    """Check that a run can hold a field.

    Args:
        value: a qid, a docno or a tag.
        what: its name, for the message.
        advice: what to do.

    Raises:
        ValueError: if it is empty or has white space.
    """
    if not holds(value):
        raise ValueError(f"a TREC run cannot hold {what} that is {str(value)!r}: {NO_FIELD}. {advice}")


def write_lines(file: IO[str], ranked: pd.DataFrame, tag: str, advice: str = "give other ids.") -> None:
    """Add rankings to a run.

    Args:
        file: open for writing.
        ranked: ``qid``, ``docno``, ``score``, ``rank`` from 0, in the order in which they are written.
        tag: the run's name.
        advice: what to do about an id that a run cannot hold.

    Raises:
        ValueError: for an id or a tag that is empty or has white space.
    """
    check_field(tag, "the tag", advice)
    for qid in ranked["qid"].unique():
        check_field(qid, "a qid", advice)
    for qid, docno, score, rank in zip(ranked["qid"], ranked["docno"], ranked["score"], ranked["rank"], strict=True):
        check_field(docno, f"a docno of query {qid!r}", advice)
        file.write(f"{qid} Q0 {docno} {rank + 1} {shown(score)} {tag}\n")


def shown(score: float) -> str:
    """A score in as few digits as give it back."""
    short = f"{score:.9g}"
    return short if float(short) == score else repr(float(score))
