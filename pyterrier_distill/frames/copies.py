"""Copies: documents whose text is that of a positive are no negatives."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from .columns import LABEL


def same_text(text: object) -> str | None:
    """What two documents have in common that are copies: the text without white space at its ends; None = no text."""
    return text.strip() if isinstance(text, str) else None


def texts_of(qids: Iterable[object], texts: Iterable[object]) -> dict[str, set[str]]:
    """qid → the texts that its rows have."""
    found: dict[str, set[str]] = {}
    for qid, text in zip(qids, texts, strict=True):
        told = same_text(text)
        if told is not None:
            found.setdefault(str(qid), set()).add(told)
    return found


def labelled_alike(frame: pd.DataFrame, text_field: str) -> pd.DataFrame:
    """Copies of a query's relevant documents count as relevant: all with one text get the highest of their labels.

    Args:
        frame: an R frame with text and ``label``, numbers; labels of texts without a relevant document stay.
        text_field: the column of text.
    """
    texts = pd.factorize(np.array([same_text(text) for text in frame[text_field]], dtype=object))[0]
    labels = frame[LABEL]
    best = labels.groupby([pd.factorize(frame["qid"])[0], texts]).transform("max")
    lower = (best > 0) & (labels < best)
    return frame.assign(**{LABEL: labels.where(~lower, best)}) if lower.any() else frame


def is_query(qid: str, query: object, docno: str, text: object, drop: bool | None) -> bool:
    """Whether a document is the query itself.

    Args:
        qid: the query's id.
        query: its text.
        docno: the document's id.
        text: its text, or None.
        drop: True = it has the query's id or its text; None = it has both, which is no accident; False = never.
    """
    if drop is False:
        return False
    same_id, said = docno == qid, same_text(text)
    spoken = said is not None and said == same_text(query)
    return same_id and spoken if drop is None else same_id or spoken
