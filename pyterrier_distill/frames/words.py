"""What a word is, in every script: one rule for all that counts, cuts, compares or indexes words.

A word is a run of letters, marks and digits, as Unicode has them, joiners inside it included. In scripts that write
without spaces between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese, …) each letter with its marks is a word, as
Unicode's default word boundaries (UAX #29) have it for ideographs.

Where text is cut rather than searched, punctuation stays with the word that it stands at (:func:`pieces`): in scripts
with spaces these are what white space separates, or what stands for it (Tibetan's tsheg, Ethiopic's word space, the
zero-width space).
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import regex

#: Letters of scripts without spaces. Their digits are read as numbers, in one run.
_SCRIPTS = (
    "Han", "Hiragana", "Katakana", "Bopomofo", "Thai", "Lao", "Khmer", "Myanmar", "Javanese", "Balinese", "Tai_Le",
    "New_Tai_Lue", "Tai_Tham", "Tai_Viet", "Yi", "Tangut", "Nushu",
)  # fmt: skip
_LETTER = r"[\p{L}&&[" + "".join(r"\p{Script=" + name + "}" for name in _SCRIPTS) + "ー]]"
#: Thai and Lao vowels that are written before their consonant, and those that are letters behind it.
_BEFORE, _BEHIND = r"[\u0e40-\u0e44\u0ec0-\u0ec4]", r"[\p{M}\u200c\u200d\u0e32\u0e33\u0eb2\u0eb3\uff9e\uff9f]"
#: Signs that put the next consonant below this one, in Khmer, Burmese and Tai Tham.
_STACKED = r"(?<=[\u17d2\u1039\u1a60])"
_UNIT = rf"(?:{_BEFORE}*{_LETTER}(?:{_BEHIND}|{_STACKED}{_LETTER})*)"
_RUN = rf"(?:(?!{_LETTER})[\p{{L}}\p{{M}}\p{{N}}_\u200c\u200d])+"
#: One word. Its group ``unit`` is a letter of a script without spaces.
WORD = regex.compile(rf"(?V1)(?P<unit>{_UNIT})|{_RUN}")
#: What stands between words instead of a space: of Tibetan, of Ethiopic scripts, and what is not seen.
_BETWEEN = r"[\u0f0b\u0f0c\u1361\u200b]"
_UNSPACED = regex.compile(rf"(?V1){_LETTER}|{_BETWEEN}")
_OPENING, _CLOSING = r"[\p{Ps}\p{Pi}]", r"[^\p{L}\p{N}\p{Ps}\p{Pi}]"
_OTHERS = rf".+?(?:{_BETWEEN}+|(?={_OPENING}*{_LETTER}|$))"
_PIECE = regex.compile(rf"(?V1){_OPENING}*{_UNIT}{_CLOSING}*|{_OTHERS}", regex.DOTALL)
#: What shows nothing and says nothing of the word it stands in (soft hyphen, joiners, marks of direction); of these
#: the zero-width space alone stands between words.
_IGNORABLE = regex.compile(r"(?V1)[\p{Default_Ignorable_Code_Point}--\u200b]")
_SYMBOL = regex.compile(r"\p{So}")
_LETTERED = regex.compile(r"[\p{L}\p{N}]")


class Piece(NamedTuple):
    """A word with the punctuation at it.

    Attributes:
        text: both.
        spaced: whether white space stands before it.
    """

    text: str
    spaced: bool


def has_words(text: str) -> bool:
    """Whether there is a letter or a digit in it."""
    return _LETTERED.search(text) is not None


def pieces(text: str) -> list[Piece]:
    """The words of ``text``, each with the punctuation at it; in other scripts what white space separates."""
    if text.isascii() or not _UNSPACED.search(text):
        return [Piece(part, True) for part in text.split()]
    return [Piece(match.group(0), match.start() == 0) for part in text.split() for match in _PIECE.finditer(part)]


def joined(parts: Sequence[Piece]) -> str:
    """One line: a space where there was white space."""
    return "".join(f" {part.text}" if part.spaced else part.text for part in parts).lstrip()


def count(text: str) -> int:
    """How many words, as they are cut: those of scripts with spaces with their punctuation."""
    return len(pieces(text))


def first(text: str, words: int) -> str:
    """The first ``words`` words of ``text``, the white space between them kept."""
    end = 0
    for place, part in enumerate(_spans(text), 1):
        if place > words:
            return text[:end]
        end = part
    return text


def _spans(text: str) -> Iterator[int]:
    """Where each word of :func:`pieces` ends."""
    unspaced = not text.isascii() and _UNSPACED.search(text)
    for part in re.finditer(r"\S+", text):
        if not unspaced:
            yield part.end()
        else:
            yield from (part.start() + match.end() for match in _PIECE.finditer(part.group(0)))


def normalised(text: str) -> str:
    """``text`` as words are compared: compatibility forms (full width, ligatures) unified, case folded."""
    return unicodedata.normalize("NFKC", text).casefold()


def unified(text: str) -> str:
    """``text`` in the one form of all in which Unicode can write the same words; ASCII stays as it is.

    That is NFKC (composed, full width and ligatures resolved), without what is not seen. Symbols stay words of their
    own: ``Java™`` does not become ``JavaTM``.
    """
    if text.isascii():
        return text
    return unicodedata.normalize("NFKC", _SYMBOL.sub(r" \g<0> ", _IGNORABLE.sub("", text)))


class Found(NamedTuple):
    """A word, where it stands.

    Attributes:
        text: the word as it stands.
        start: first character.
        end: behind its last character.
        unit: whether it is one letter of a script without spaces.
    """

    text: str
    start: int
    end: int
    unit: bool


def find(text: str) -> Iterator[Found]:
    """The words of ``text``, without punctuation."""
    for match in WORD.finditer(text):
        yield Found(match.group(0), match.start(), match.end(), match.group("unit") is not None)


def terms(text: str) -> Iterator[tuple[Found, str]]:
    """What an index holds of ``text``: its words, and each two neighbours of a script without spaces as one more.

    A letter alone means little in such scripts; two are nearly a word (Lucene's ``CJKBigramFilter``).

    Returns:
        (where it stands, term) pairs, terms as they are compared; a pair of neighbours stands where its second does.
    """
    before = None
    for word in find(text):
        yield word, normalised(word.text)
        if before is not None and before.unit and word.unit and before.end == word.start:
            yield word, normalised(before.text + word.text)
        before = word


def together(words: Sequence[Found]) -> str:
    """Words of one text as a phrase: those that adjoin there adjoin, others have a space between them."""
    out = words[0].text
    for one, other in itertools.pairwise(words):
        out += other.text if one.end == other.start else f" {other.text}"
    return out
