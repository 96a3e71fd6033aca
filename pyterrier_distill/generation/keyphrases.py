"""Phrases that tell a document from others, by TF-IDF, as queries."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pandas as pd
import pyterrier_alpha as pta

from ..frames import arguments
from ..frames.words import Found, find, together
from .queries import ReadsDocuments, check_text_field, document_texts, with_queries

#: What joins words to one: don't, well-known.
_JOINS = ("'", "’", "-")


class DocumentFrequencies:
    """In how many documents of a collection each word occurs.

    Args:
        counts: word (lower case) → documents.
        documents: how many there are.
    """

    def __init__(self, counts: Mapping[str, int], documents: int):
        self.counts = dict(counts)
        self.documents = documents

    @classmethod
    def of(cls, documents: Iterable[Mapping[str, Any]], text_field: str = "text") -> DocumentFrequencies:
        """Count the words of a collection, such as ``dataset.get_corpus_iter()``."""
        counts: Counter[str] = Counter()
        total = 0
        for document in documents:
            counts.update({word.text.lower() for word in _words(document[text_field])})
            total += 1
        return cls(counts, total)

    def idf(self, word: str) -> float:
        """log((N + 1) / (df + 1)) + 1."""
        return math.log((self.documents + 1) / (self.counts.get(word, 0) + 1)) + 1

    def __repr__(self) -> str:
        return f"DocumentFrequencies({self.documents} documents, {len(self.counts)} words, {sum(self.counts.values())})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DocumentFrequencies):
            return False
        return (self.documents, self.counts) == (other.documents, other.counts)

    def __hash__(self) -> int:
        return hash(repr(self))


class KeyphraseQueries(ReadsDocuments):
    """D → D with ``querygen``: the n phrases of each document that weigh most.

    A phrase is a run of words without stop words, punctuation or bare numbers between them; in scripts without spaces
    (Chinese, Japanese, Thai, …) each letter with its marks is a word, and spaces end a run. It weighs how often it
    occurs times the sum of its words' idf, log((N + 1) / (df + 1)) + 1. One that adds no word to those chosen already
    is passed over; ties go to the one that comes first.

    Args:
        n: phrases of a document; fewer where it has no more.
        max_words: of a phrase.
        frequencies: of the collection (:meth:`DocumentFrequencies.of`); None = those of the frame at hand, so that a
            document's phrases depend on what else is in it.
        stop_words: None = scikit-learn's English ones.
        text_field: the column of text, or several, joined by a space.

    Raises:
        ValueError: for n or max_words < 1.

    Example::

        frequencies = KeyphraseQueries.frequencies_of(dataset.get_corpus_iter())
        queries = (ptd.KeyphraseQueries(frequencies=frequencies) >> ptd.explode_queries())(documents)
    """

    schematic = {"label": "KeyphraseQueries"}

    def __init__(
        self,
        n: int = 3,
        *,
        max_words: int = 4,
        frequencies: DocumentFrequencies | None = None,
        stop_words: Iterable[str] | None = None,
        text_field: str | list[str] = "text",
    ):
        for name, value in (("n", n), ("max_words", max_words)):
            arguments.whole(value, name)
        self.n = n
        self.max_words = max_words
        self.frequencies = frequencies
        self.stop_words = None if stop_words is None else sorted(stop_words)
        self.text_field = check_text_field(text_field)

    #: Counts the words of a collection: :meth:`DocumentFrequencies.of`.
    frequencies_of = staticmethod(DocumentFrequencies.of)

    @property
    def reads_whole_frame(self) -> bool:
        """Whether a document's phrases depend on the others."""
        return self.frequencies is None

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add ``querygen``; ``""`` for a document without phrases."""
        texts = document_texts(inp, self.text_field, self)
        if not texts:
            return with_queries(inp, [])
        frequencies = self.frequencies or DocumentFrequencies.of({"text": text} for text in texts)
        stops = self._stops()
        return with_queries(inp, [self._phrases(text, frequencies, stops) for text in texts])

    def _stops(self) -> frozenset[str]:
        if self.stop_words is not None:
            return frozenset(self.stop_words)
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

        return ENGLISH_STOP_WORDS

    def _phrases(self, text: str, frequencies: DocumentFrequencies, stops: frozenset[str]) -> list[str]:
        counts: Counter[tuple[str, ...]] = Counter()
        shown: dict[tuple[str, ...], str] = {}
        for run in _runs(text, stops):
            for size in range(1, self.max_words + 1):
                for at in range(len(run) - size + 1):
                    words = run[at : at + size]
                    phrase = tuple(word.text.lower() for word in words)
                    counts[phrase] += 1
                    shown.setdefault(phrase, together(words).lower())
        # A Counter keeps the order of first occurrence, and sorting is stable.
        weights = {phrase: count * sum(map(frequencies.idf, phrase)) for phrase, count in counts.items()}
        chosen: list[str] = []
        covered: set[str] = set()
        for phrase in sorted(weights, key=lambda phrase: -weights[phrase]):
            if len(chosen) == self.n:
                break
            if not covered.issuperset(phrase):
                chosen.append(shown[phrase])
                covered.update(phrase)
        return chosen

    __repr__ = pta.transformer_repr

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and repr(other) == repr(self)

    def __hash__(self) -> int:
        return hash(repr(self))


def _words(text: str) -> Iterator[Found]:
    """The words of a text; those that an apostrophe or a hyphen joins are one."""
    whole: Found | None = None
    for word in find(text):
        joins = whole is not None and not (whole.unit or word.unit) and text[whole.end : word.start] in _JOINS
        if whole is not None and joins:
            whole = Found(text[whole.start : word.end], whole.start, word.end, False)
            continue
        if whole is not None:
            yield whole
        whole = word
    if whole is not None:
        yield whole


def _runs(text: str, stops: frozenset[str]) -> Iterator[list[Found]]:
    """Runs of words with nothing but spaces between them; between letters of scripts without spaces with nothing."""
    run: list[Found] = []
    end = 0
    for found in _words(text):
        word, between = found.text.lower(), text[end : found.start]
        if run and (between.strip() or (between and run[-1].unit and found.unit)):
            yield run
            run = []
        end = found.end
        if word in stops or word.isdigit() or (len(word) == 1 and not found.unit):
            if run:
                yield run
            run = []
            continue
        run.append(found)
    if run:
        yield run
