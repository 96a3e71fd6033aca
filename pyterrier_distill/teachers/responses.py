"""Reading a language model's ranking: whatever it says, the result is a permutation, and what was wrong is known."""

from __future__ import annotations

import re
import unicodedata

OUTCOMES = ("ok", "wrong_format", "repetition", "missing")

#: Blocks in which models reason before they answer; an unclosed one swallows the rest.
_REASONING = re.compile(
    r"<(think|thinking|thought|reasoning|reflection)>.*?(?:</\1>|\Z)|\A.*?</(?:think|thinking|thought|reasoning)>",
    re.DOTALL | re.IGNORECASE,
)
_BRACKETED = re.compile(r"\[\s*(\d{1,6})\s*\]")
#: Numbers in other brackets or bare, but one after the other: a list that was not put as asked.
_CHAIN = re.compile(r"[\[({<]?\s*\d{1,6}\s*[\])}>.]?(?:\s*(?:>|,|;|=|-|\n)+\s*[\[({<]?\s*\d{1,6}\s*[\])}>.]?)+")
_AS_ASKED = re.compile(r"\s*\[\d{1,6}\](?:\s*>\s*\[\d{1,6}\])*\s*\.?\s*")


def parse_permutation(text: str, n: int) -> tuple[list[int], str]:
    """The order of n passages that a response gives.

    Reasoning blocks are left out; digits and brackets of any script count. Identifiers in square brackets are read
    where there are any, else the longest chain of numbers. The first occurrence of an identifier counts, those out of
    range are dropped, and passages that are missing follow in their incoming order.

    Args:
        text: the response.
        n: passages asked about, at least 1.

    Returns:
        ``(order, outcome)``: positions from 0, best first, always a permutation of ``range(n)``; and ``"ok"``,
        ``"wrong_format"`` (not ``[2] > [1] > ...`` and nothing else, or no identifier at all), ``"repetition"`` or
        ``"missing"``: the first of these that holds.
    """
    answer = unicodedata.normalize("NFKC", _REASONING.sub("", text)).strip()
    numbers = [int(number) for number in _BRACKETED.findall(answer)]
    if not any(1 <= number <= n for number in numbers):
        chains = [re.findall(r"\d+", match.group(0)) for match in _CHAIN.finditer(answer)]
        numbers = [int(number) for number in max(chains, key=len, default=[])]
    named = [number - 1 for number in numbers if 1 <= number <= n]
    order = list(dict.fromkeys(named))
    seen = set(order)
    if not _AS_ASKED.fullmatch(answer) or not order:
        outcome = "wrong_format"
    elif len(named) > len(order):
        outcome = "repetition"
    elif len(order) < n:
        outcome = "missing"
    else:
        outcome = "ok"
    return order + [i for i in range(n) if i not in seen], outcome
