"""A document's title, or its first sentence, as a query."""

from __future__ import annotations

import re

import pandas as pd
import pyterrier_alpha as pta

from ..frames import arguments, check_text, validate
from ..frames.words import has_words
from ..prompts import first_words
from .queries import ReadsDocuments, check_text_field, document_texts, with_queries

#: Where a sentence ends: a full stop, question or exclamation mark before a space, an ideographic one or that of
#: another script, a new paragraph.
_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[^a-z\s])|(?<=[。！？｡．।॥؟۔։។။።])|\n\s*\n")


class TitleQueries(ReadsDocuments):
    """D → D with ``querygen``: the title of each document, or the first sentence of its text, as its one query.

    The simplest baseline of generated queries; what weakly supervised retrievers are trained on (title, body).

    Args:
        title_field: the column of titles; None = first sentences. Documents whose title has no words give their first
            sentence.
        max_words: a longer one is cut.
        text_field: the column of text, or several, joined by a space.

    Raises:
        ValueError: for max_words < 1.

    Example::

        queries = (ptd.TitleQueries() >> ptd.explode_queries())(documents)
    """

    schematic = {"label": "TitleQueries"}

    def __init__(self, title_field: str | None = "title", *, max_words: int = 20, text_field: str | list[str] = "text"):
        arguments.whole(max_words, "max_words")
        self.title_field = title_field
        self.max_words = max_words
        self.text_field = check_text_field(text_field)

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add ``querygen``; ``""`` for a document without words."""
        if self.title_field is not None:
            fields = [self.text_field] if isinstance(self.text_field, str) else self.text_field
            validate.document_frame(inp, [self.title_field, *fields], context=self)
            check_text(inp, [self.title_field])
        texts = document_texts(inp, self.text_field, self)
        titles = [""] * len(texts) if self.title_field is None else inp[self.title_field].tolist()
        chosen = [
            title if has_words(title) else first_sentence(text) for title, text in zip(titles, texts, strict=True)
        ]
        queries = [first_words(" ".join(text.split()), self.max_words).rstrip(" .") for text in chosen]
        queries = [query if has_words(query) else "" for query in queries]
        return with_queries(inp, [[query] if query else [] for query in queries])

    __repr__ = pta.transformer_repr

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and repr(other) == repr(self)

    def __hash__(self) -> int:
        return hash(repr(self))


def first_sentence(text: str) -> str:
    """The beginning of ``text``, up to where a sentence ends."""
    text = text.strip()
    match = _END.search(text)
    return text[: match.start()] if match else text
