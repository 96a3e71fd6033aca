"""Reading a language model's ranking: whatever it says, the result is a permutation, and what was wrong is known."""

from __future__ import annotations

import re
import unicodedata

OUTCOMES = ("ok", "wrong_format", "repetition", "missing")

#: Blocks in which models reason before they answer; an unclosed one swallows the rest.
REASONING = re.compile(
    r"<(think|thinking|thought|reasoning|reflection)>.*?(?:</\1>|\Z)|\A.*?</(?:think|thinking|thought|reasoning)>",
    re.DOTALL | re.IGNORECASE,
)
_BRACKETED = re.compile(r"\[\s*(\d{1,6})\s*\]")
#: Numbers in other brackets or none, with arrows between them: a list that was not put as asked.
_ARROWS = re.compile(r"\d{1,6}[\])}]?(?:\s*>+\s*[\[({<]?\s*\d{1,6}[\])}]?)+")
#: Numbers and what may stand between them, and nothing else.
_BARE = re.compile(r"[\s\d,;=>.\-\[\](){}<]+")
_AS_ASKED = re.compile(r"\s*\[\d{1,6}\](?:\s*>\s*\[\d{1,6}\])*\s*\.?\s*")


def parse_permutation(text: str, n: int) -> tuple[list[int], str]:
    """The order of n passages that a response gives.

    Reasoning blocks are left out; digits and brackets of any script count. Identifiers in square brackets are read
    where there are any, else a list of bare numbers. The first occurrence of an identifier counts, those out of
    range are dropped, and passages that are missing follow in their incoming order.

    Args:
        text: the response.
        n: passages asked about, at least 1.

    Returns:
        ``(order, outcome)``: positions from 0, best first, always a permutation of ``range(n)``; and ``"ok"``,
        ``"wrong_format"`` (not ``[2] > [1] > ...`` and nothing else, or an identifier that there is not),
        ``"repetition"`` or ``"missing"``: the first of these that holds.
    """
    answer = " ".join(unicodedata.normalize("NFKC", REASONING.sub("", text)).split())
    numbers = [int(number) for number in _BRACKETED.findall(answer)]
    if not any(1 <= number <= n for number in numbers):
        lists = [answer] if _BARE.fullmatch(answer) else [match.group(0) for match in _ARROWS.finditer(answer)]
        numbers = [int(number) for number in re.findall(r"(?<!\d)\d{1,6}(?!\d)", max(lists, key=len, default=""))]
    named = [number - 1 for number in numbers if 1 <= number <= n]
    order = list(dict.fromkeys(named))
    seen = set(order)
    if not _AS_ASKED.fullmatch(answer) or len(named) < len(numbers):
        outcome = "wrong_format"
    elif len(named) > len(order):
        outcome = "repetition"
    elif len(order) < n:
        outcome = "missing"
    else:
        outcome = "ok"
    return order + [i for i in range(n) if i not in seen], outcome
