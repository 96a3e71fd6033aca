"""Reading the query out of what a model wrote, and deciding whether it is one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection

from ..backends.completions import Completion
from ..teachers.responses import REASONING

#: What becomes of an answer; each counts as one of these.
OUTCOMES = ("ok", "copied", "duplicate", "overlong", "empty", "no_text")

#: What models put before a query: a bullet or number, and a label.
_LEAD = re.compile(
    r"\s*(?:(?:[-*•]|\d{1,2}[.)])\s+)?"
    r"(?:[*_]*(?:(?:relevant|good|generated|search|example)\s+)?(?:query|question)\s*\d{0,2}\s*[*_]*:[*_]*\s*)?",
    re.IGNORECASE,
)
_QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "‘": "’", "«": "»", "„": "“", "「": "」"}
#: Characters of a word at the most, on average: more is not written by people.
_WORD = 40


def find_query(text: str) -> tuple[int, int]:
    """Where the query stands in an answer: the first line that has one, without label, number and quotes.

    Reasoning blocks are passed over, and lines that end with a colon announce something else.

    Returns:
        ``(start, end)`` with ``start == end`` where there is none.
    """
    text = REASONING.sub(lambda match: re.sub(r"[^\n]", " ", match.group(0)), text)
    for line in re.finditer(r"[^\r\n]+", text):
        lead = _LEAD.match(text, line.start(), line.end())
        start, end = lead.end() if lead else line.start(), line.end()
        while True:
            while start < end and text[start].isspace():
                start += 1
            while start < end and text[end - 1].isspace():
                end -= 1
            if end - start > 1 and _QUOTES.get(text[start]) == text[end - 1]:
                start, end = start + 1, end - 1
            else:
                break
        if start < end and text[end - 1] != ":":
            return start, end
    return 0, 0


def has_ended(text: str) -> bool:
    """Whether the line with the query is complete."""
    end = max(text.rfind("\n"), text.rfind("\r"))
    return end > 0 and find_query(text[:end]) != (0, 0)


def clean(text: str) -> str:
    """One line without control characters, words separated by single spaces."""
    return " ".join("".join(" " if unicodedata.category(c) in ("Cc", "Cs", "Co", "Cn") else c for c in text).split())


def key_of(query: str) -> str:
    """What two queries have in common that differ in case, punctuation or spacing only."""
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", query).casefold())
    return " ".join(words)


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
        words = len(query.split())
        if self.max_words is not None and (words > self.max_words or len(query) > _WORD * self.max_words):
            return "overlong"
        if key in self.seen:
            return "duplicate"
        return "copied" if f" {key} " in self.words else "ok"
