"""Words that a search engine does not see, put into letters that it does.

PISA reads ASCII letters and digits and takes everything else for a space: of Russian or Chinese documents nothing is
left, and a collection of them ends the process. bm25s breaks words at marks (Hindi) and takes a Chinese sentence for
one word. Such words are indexed and searched under names of ASCII letters. Before that all texts and queries are put
into one of the forms that Unicode has for the same words (:func:`~pyterrier_distill.frames.words.unified`).
"""

from __future__ import annotations

import functools
import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from ..frames import words

logger = logging.getLogger(__name__)

#: From this share of words with other than ASCII letters on, a document counts as one in another language than English.
#: English documents with some Greek letters or names with accents keep the terms and lengths that they always had.
SHARE = 0.25
#: Bytes of the longest word that is spelt out; of a longer one the name is a digest.
_LONGEST = 40
#: What bm25s takes for a word, or for a part of one.
_LETTERS = re.compile(r"\w+")


@functools.lru_cache(maxsize=1 << 16)
def name(term: str) -> str:
    """A term of ASCII letters and digits as itself, any other one under a name that no stemmer changes."""
    if term.isascii():
        return term
    spelt = term.encode("utf-8", "replace")
    shown = spelt.hex() if len(spelt) <= _LONGEST else "h" + hashlib.blake2b(spelt, digest_size=16).hexdigest()
    return f"x{shown}x9"


def _named(text: str, strange: Callable[[words.Found], bool]) -> tuple[str, list[str], float]:
    """Take strange words out of a text.

    Args:
        text: any.
        strange: tells which.

    Returns:
        What is left of it, the names of its strange words, and their share of its words.
    """
    kept, names, end = [], [], 0
    total = several = 0
    for word, term in words.terms(text):
        new = word.start >= end  # a pair of neighbours stands where a word stood already
        total += new
        if word.unit or strange(word):
            several += new
            names.append(name(term))
            kept.append(text[end : word.start])
        elif new:
            kept.append(text[end : word.end])
        end = max(end, word.end)
    kept.append(text[end:])
    return " ".join(kept), names, several / max(1, total)


def _not_ascii(word: words.Found) -> bool:
    return not word.text.isascii()


def _not_letters(word: words.Found) -> bool:
    return _LETTERS.fullmatch(word.text) is None


def for_pisa_index(text: str) -> str:
    """A document as PISA indexes it: as it stands, unless it is in another language than English."""
    text = words.unified(text)
    if text.isascii():
        return text
    kept, names, share = _named(text, _not_ascii)
    return " ".join([kept, *names]) if share >= SHARE else text


def for_pisa_search(query: str) -> str:
    """A query as PISA searches it: as it stands, and the words that English documents lack.

    A NUL, which ends a text for PISA, is a space, as it is in documents.
    """
    query = words.unified(query).replace("\0", " ")
    return query if query.isascii() else " ".join([query, *_named(query, _not_ascii)[1]])


def for_bm25s(text: str) -> str:
    """A text as bm25s takes it apart, which breaks words at their marks, and Chinese not at all."""
    if text.isascii():
        return text
    text = words.unified(words.unified(text).casefold())
    kept, names, _ = _named(text, _not_letters)
    return " ".join([kept, *names]) if names else text


class Documents:
    """Documents as they are indexed; what goes wrong while an engine reads them in a thread is kept.

    Args:
        documents: dicts with ``docno`` and text.
        text_field: the field of text.

    Attributes:
        error: what was raised, or None.
    """

    def __init__(self, documents: Iterable[dict[str, Any]], text_field: str):
        self.documents = documents
        self.text_field = text_field
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[dict[str, str]]:
        try:
            for document in self.documents:
                text = document_text(document, self.text_field)
                docno = str(document["docno"])
                if docno.split() != [docno]:  # PISA reads lines of docno and text
                    raise ValueError(
                        f"PISA cannot keep the docno {docno!r}, which has white space: take ptd.bm25(...,"
                        " engine='bm25s'), or give the document another id."
                    )
                whole = text.encode("utf-8", "replace").decode()  # a lone surrogate cannot be written
                yield {"docno": docno, self.text_field: for_pisa_index(whole)}
        except BaseException as error:
            self.error = error

    def check(self) -> None:
        """Raise what was raised."""
        if self.error is not None:
            raise self.error


def document_text(document: dict[str, Any], text_field: str) -> str:
    """The text of a document.

    Raises:
        ValueError: if it has none.
    """
    text = document.get(text_field)
    if not isinstance(text, str):
        raise ValueError(f"document {document.get('docno')!r} has no text in the field {text_field!r}.")
    return text


def warn_of_silence(queries: Sequence[tuple[Any, str]], found: Iterable[Any], where: object) -> None:
    """Say which queries find nothing because of their words.

    Args:
        queries: (qid, query) pairs.
        found: the qids that found something.
        where: the index, for the message.
    """
    answered = set(found)
    silent = [query for qid, query in queries if qid not in answered and not query.isascii() and words.has_words(query)]
    if silent:
        logger.warning(
            "%d queries find nothing in the index at %s, such as %r: none of its words is there. Documents in English"
            " are indexed by their ASCII words only; an index that an earlier version built holds no others at all:"
            " build it anew, in another directory.",
            len(silent), where, silent[0],
        )  # fmt: skip
