"""Document text, from wherever it is."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pyterrier as pt

from . import validate
from .checks import check_text
from .document_text import JoinedText, is_dataset


class TextFrame:
    """Adds document text from a frame.

    Args:
        text: with ``docno`` and ``field``.
        field: the column of text.

    Raises:
        ValueError: if a document has two texts, or a cell is no text.
    """

    def __init__(self, text: pd.DataFrame, field: str):
        validate.columns(text, includes=["docno", field])
        check_text(text, [field])
        told = text[["docno", field]].assign(docno=text["docno"].astype(str)).drop_duplicates()
        twice = told["docno"].duplicated().to_numpy()
        if twice.any():
            raise ValueError(
                f"the frame of texts gives document {told['docno'][twice].iloc[0]!r} several texts ({int(twice.sum())}"
                " such): leave one of each."
            )
        self.field = field
        self.texts = told.set_index("docno")[field]

    def __call__(self, frame: pd.DataFrame) -> pd.DataFrame:
        """``frame`` with the texts of its documents.

        Raises:
            ValueError: naming a document that has none.
        """
        found = self.texts.reindex(frame["docno"].astype(str))
        if found.isna().any():
            missing = found.index[found.isna()]
            raise ValueError(f"the frame of texts holds no document {missing[0]!r} ({len(missing)} such rows).")
        return frame.assign(**{self.field: found.to_numpy()})


def text_source(text: Any, field: str = "text") -> Any:
    """What adds document text to a frame, from wherever the texts are.

    Args:
        text: a dataset, whose titles and texts are joined; a frame with ``docno`` and ``field``; a label store that
            holds texts; or a transformer that adds ``field``.
        field: the column of text.

    Returns:
        A transformer, or a function, frame → frame with ``field``.

    Raises:
        TypeError: if it is none of these.
        ValueError: if a frame gives a document two texts.
    """
    if isinstance(text, pd.DataFrame):
        return TextFrame(text, field)
    if isinstance(text, pt.Transformer):
        return text
    if field == "text" and is_dataset(text):
        return JoinedText(text)
    loader = getattr(text, "text_loader", None)
    if loader is None:
        raise TypeError(
            f"text must be a dataset, a frame with docno and {field}, or a transformer that adds {field}, not {text!r}."
        )
    return loader() if field == "text" else loader(field)
