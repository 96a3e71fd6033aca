"""Reading the query out of what a model wrote, and deciding whether it is one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection

from ..backends.completions import Completion
from ..frames.words import count, find, normalised
from ..teachers.responses import REASONING

#: What becomes of an answer; each counts as one of these.
OUTCOMES = ("ok", "copied", "duplicate", "overlong", "empty", "no_text")

#: What models put before a query: a bullet or number, and a label.
_LEAD = re.compile(
    r"\s*(?:(?:[-*•]|\d{1,2}[.)])\s+)?"
    r"(?:[*_]*(?:(?:relevant|good|generated|search|example)\s+)?(?:query|question|q)\s*\d{0,2}\s*[*_]*:[*_]*\s*)?",
    re.IGNORECASE,
)
_EMPHASIS = re.compile(r"(\*{1,3}).*\1")
_QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "‘": "’", "«": "»", "„": "“", "「": "」"}
#: Quotes and emphasis round each other that are taken off: nobody puts more round a query.
_LAYERS = 16
#: Characters of a word at the most, on average: more is not written by people.
_WORD = 40


def find_query(text: str) -> tuple[int, int]:
    """Where the query stands in an answer: the first line that has one, without label, number, quotes and emphasis.

    Reasoning blocks are passed over, and lines that end with a colon announce something else. Lines without words, such
    as the fence of a code block, count where no other has any.

    Returns:
        ``(start, end)`` with ``start == end`` where there is none.
    """
    wordless = (0, 0)
    text = REASONING.sub(lambda match: re.sub(r"[^\n]", " ", match.group(0)), text)
    for line in re.finditer(r"[^\r\n]+", text):
        lead = _LEAD.match(text, line.start(), line.end())
        start, end = lead.end() if lead else line.start(), line.end()
        for _ in range(_LAYERS):
            while start < end and text[start].isspace():
                start += 1
            while start < end and text[end - 1].isspace():
                end -= 1
            marks = _wrapped(text[start:end])
            if not marks:
                break
            start, end = start + marks, end - marks
        if start < end and text[end - 1] != ":":
            if any(map(str.isalnum, text[start:end])):
                return start, end
            wordless = wordless if wordless[1] else (start, end)
    return wordless


def _wrapped(line: str) -> int:
    """How many characters at both ends are quotes or emphasis round all of it; 0 in ``"this" or "that"``."""
    inner = line[1:-1]
    closing = _QUOTES.get(line[:1])
    if len(line) > 1 and closing == line[-1]:
        # Quotes that pair up inside are others than the two at the ends; a single one is an apostrophe.
        others = inner.count(closing) % 2 == 0 if closing == line[0] else closing in inner.split(line[0])[0]
        return 0 if others and closing in inner else 1
    emphasis = _EMPHASIS.fullmatch(line)
    if emphasis is None:
        return 0
    marks = len(emphasis.group(1))
    return marks if marks and emphasis.group(1) not in line[marks:-marks] else 0


def has_ended(text: str) -> bool:
    """Whether the line with the query is complete."""
    end = max(text.rfind("\n"), text.rfind("\r"))
    start, stop = find_query(text[:end]) if end > 0 else (0, 0)
    return any(map(str.isalnum, text[start:stop]))


def clean(text: str) -> str:
    """One line without control characters, words separated by single spaces."""
    return " ".join("".join(" " if unicodedata.category(c) in ("Cc", "Cs", "Co", "Cn") else c for c in text).split())


def key_of(query: str) -> str:
    """What two queries have in common that differ in case, punctuation or spacing only."""
    return " ".join(word.text for word in find(normalised(query)))


class Reader:
    """Reads the queries of one document from its answers.

    Args:
        document: its text.
        max_words: more make a query overlong; None = any number.
        drop_copied: whether a query whose words stand so in the document is dropped.
        known: queries that it must not repeat, as :func:`key_of` gives them.
    """

    def __init__(self, document: str, max_words: int | None, drop_copied: bool, known: Collection[str] = ()):
        self.words = f" {key_of(document)} "
        self.max_words = max_words
        self.drop_copied = drop_copied
        self.seen = set(known)

    def read(self, answer: Completion) -> tuple[str, float, str]:
        """One answer.

        Returns:
            ``(query, score, outcome)``; the query is ``""`` where it is dropped, the score the mean log-probability of
            the tokens that spell it.
        """
        if not isinstance(answer.text, str):
            return "", float("nan"), "no_text"
        start, end = find_query(answer.text)
        query = clean(answer.text[start:end])
        outcome = self._outcome(query)
        if outcome == "ok" or (outcome == "copied" and not self.drop_copied):
            self.seen.add(key_of(query))
            return query, answer.mean_logprob(start, end), outcome
        return "", float("nan"), outcome

    def _outcome(self, query: str) -> str:
        if not query:
            return "empty"
        key = key_of(query)
        if not any(character.isalnum() for character in key) or "\ufffd" in query:
            return "no_text"
        words = count(query)
        if self.max_words is not None and (words > self.max_words or len(query) > _WORD * self.max_words):
            return "overlong"
        if key in self.seen:
            return "duplicate"
        return "copied" if f" {key} " in self.words else "ok"
