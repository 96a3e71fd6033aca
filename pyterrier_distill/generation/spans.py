"""Queries without any model: random spans of the documents themselves, bare or put the way people ask."""

from __future__ import annotations

import hashlib
import math
import random
import string
from dataclasses import dataclass

import pandas as pd
import pyterrier_alpha as pta

from ..frames import arguments
from ..frames.words import Piece, joined, pieces
from .phrasings import ENGLISH
from .queries import ReadsDocuments, check_text_field, document_texts, with_queries

_PARSE = string.Formatter().parse


def _check_lengths(low: int, high: int) -> None:
    if not 1 <= low <= high:
        raise ValueError(f"lengths must satisfy 1 <= low <= high, not {low} and {high}.")


@dataclass(frozen=True)
class LogUniform:
    """Lengths whose logarithm is uniform: as many queries of 1-2 words as of 2-4 or of 8-16.

    Attributes:
        low: fewest words, at least 1.
        high: most words.
    """

    low: int = 1
    high: int = 24

    def __post_init__(self) -> None:
        _check_lengths(self.low, self.high)

    def draw(self, rng: random.Random) -> int:
        """One length in words."""
        return min(self.high, int(math.exp(rng.uniform(math.log(self.low), math.log(self.high + 1)))))


@dataclass(frozen=True)
class Uniform:
    """Every length from ``low`` to ``high`` words equally often."""

    low: int = 3
    high: int = 20

    def __post_init__(self) -> None:
        _check_lengths(self.low, self.high)

    def draw(self, rng: random.Random) -> int:
        """One length in words."""
        return rng.randint(self.low, self.high)


@dataclass(frozen=True)
class Mixture:
    """Lengths from one of several distributions, each chosen equally often."""

    parts: tuple[LogUniform | Uniform, ...] = (LogUniform(), Uniform())

    def draw(self, rng: random.Random) -> int:
        """One length in words."""
        return rng.choice(self.parts).draw(rng)


@dataclass(frozen=True, repr=False)
class Phrasings:
    """Frames that spans are put into, such as "what is known about {}".

    Attributes:
        share: of the queries that get a frame.
        lengths: words of a framed span.
        question_mark: share of the framed queries that end with one.
        frames: strings with one or two ``{}``.
    """

    share: float = 1 / 3
    lengths: LogUniform | Uniform | Mixture = LogUniform(1, 10)
    question_mark: float = 0.2
    frames: tuple[str, ...] = ENGLISH

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or not 0 <= self.question_mark <= 1:
            raise ValueError("share and question_mark must be between 0 and 1.")
        bad = [frame for frame in self.frames if _places(frame) not in ([""], ["", ""])]
        if bad or not self.frames:
            raise ValueError(f"every frame needs one or two {{}}, unlike {bad[0]!r}." if bad else "give some frames.")

    def __repr__(self) -> str:
        shown = [f"{name}={getattr(self, name)!r}" for name in ("share", "lengths", "question_mark")]
        return f"Phrasings({', '.join(shown if self.frames == ENGLISH else [*shown, f'frames={self.frames!r}'])})"


class SpanQueries(ReadsDocuments):
    """D → D with ``querygen``: n random spans of consecutive words of each document, one a line.

    What a query encoder is trained on when there are no queries. A document's spans depend on the seed, its docno and
    its text alone, not on what else is in the frame. A document of fewer words than drawn gives all it has. Words are
    what spaces separate; in scripts without spaces (Chinese, Japanese, Thai, …) each letter with its marks is one.

    Args:
        n: spans of a document.
        lengths: how many words a span has: :class:`LogUniform`, :class:`Uniform` or a :class:`Mixture` (anything with
            ``draw(rng)``).
        phrasings: puts some of the spans into frames that people ask in; None = bare spans only. The frames are
            English.
        seed: another seed, other spans.
        text_field: the column of text, or several, joined by a space.

    Raises:
        ValueError: unless n is a whole number of at least 1.

    Example::

        training = (ptd.SpanQueries(n=10) >> ptd.explode_queries() >> teacher.query_encoder())(documents)
    """

    schematic = {"label": "SpanQueries"}

    def __init__(
        self,
        n: int = 10,
        *,
        lengths: LogUniform | Uniform | Mixture = LogUniform(),  # noqa: B008 (a value, never changed)
        phrasings: Phrasings | None = None,
        seed: int = 42,
        text_field: str | list[str] = "text",
    ):
        arguments.whole(n, "n")
        self.n = n
        self.lengths = lengths
        self.phrasings = phrasings
        self.seed = seed
        self.text_field = check_text_field(text_field)

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add ``querygen``: ``n`` queries joined by newlines; ``""`` for a document without words."""
        texts = document_texts(inp, self.text_field, self)
        return with_queries(inp, [self._queries(str(d), text) for d, text in zip(inp["docno"], texts, strict=True)])

    def _queries(self, docno: str, text: str) -> list[str]:
        words = pieces(text)
        if not words:
            return []
        rng = random.Random(hashlib.sha256(f"{self.seed}\0{docno}".encode()).digest())
        return [self._query(words, rng) for _ in range(self.n)]

    def _query(self, words: list[Piece], rng: random.Random) -> str:
        phrasings = self.phrasings
        if phrasings is None or rng.random() >= phrasings.share:
            return _span(words, self.lengths.draw(rng), rng)
        frame = rng.choice(phrasings.frames)
        spans = [_span(words, phrasings.lengths.draw(rng), rng) for _ in range(frame.count("{}"))]
        mark = "?" if rng.random() < phrasings.question_mark else ""
        return frame.format(*spans) + mark

    __repr__ = pta.transformer_repr

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SpanQueries) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(repr(self))


def _places(frame: str) -> list[str]:
    """What stands between the braces of a frame; two lone braces give ``""``."""
    try:
        return [f"{name}{spec}{conversion or ''}" for _, name, spec, conversion in _PARSE(frame) if name is not None]
    except ValueError:
        return ["unbalanced"]


def _span(words: list[Piece], length: int, rng: random.Random) -> str:
    length = min(length, len(words))
    start = rng.randrange(len(words) - length + 1)
    return joined(words[start : start + length])
