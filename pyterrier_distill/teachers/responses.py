"""Reading a language model's ranking: whatever it says, the result is a permutation, and what was wrong is known."""

from __future__ import annotations

import re
import unicodedata

from ..control import SQUARE, digits

OUTCOMES = ("ok", "wrong_format", "repetition", "missing")
#: A fifth one, which is counted where it occurs.
OTHER_NOTATION = "other_notation"

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
_NUMBER = re.compile(r"(?<!\d)\d{1,6}(?!\d)")

#: Brackets that are not square, as ASCII ones; square ones of any shape; signs that say "better than".
_SIGNS = str.maketrans({
    **dict.fromkeys(SQUARE[0], "["), **dict.fromkeys(SQUARE[1], "]"),
    **dict.fromkeys("❨❪⦅⸨﴿⟮❴⦃⟨⟪❬❮❰〈《⌈⌊", "("), **dict.fromkeys("❩❫⦆⸩﴾⟯❵⦄⟩⟫❭❯❱〉》⌉⌋", ")"),
    **dict.fromkeys("≻≫⊳▷►▶➤", ">"),
})  # fmt: skip
_WORD = (
    r"(?:passages?|documents?|docs?|docids?|docnos?|no|number|texts?|candidates?|items?|results?|identifiers?|ids?|[pd])"
    r"[ .:#_-]{0,2}"
)
#: One identifier of a list, named or not, in brackets, quotes or emphasis.
_ITEM = rf"[\[({{<\"'*_`#]{{0,4}} ?(?:{_WORD}[\[({{<#\"'*]{{0,2}} ?)?\d{{1,6}}(?!\d) ?[\])}}\"'*_`]{{0,4}}"
_CHAIN = re.compile(rf"(?<!\w){_ITEM}(?:(?: ?>){{1,3}} ?{_ITEM})+(?!\w)", re.IGNORECASE)
#: Nothing but named identifiers, as a list of lines or with commas.
_NAMED = re.compile(
    rf"(?:(?:rank ?)?\d{{1,6}}[.):] ?)?[*-]? ?[\[({{\"'*_`]{{0,4}} ?{_WORD}[\[({{#\"'*]{{0,2}} ?(\d{{1,6}})(?!\d)"
    r" ?[\])}\"'*_`]{0,4} ?(?:[,;.>]|and|then)?(?: and| then)? ?",
    re.IGNORECASE,
)
#: An array of numbers, as JSON writes it, and the key that it stands at.
_ARRAY = re.compile(r"([\"'] ?: ?)?\[ ?[\"']?\d{1,6}[\"']?(?: ?, ?[\"']?\d{1,6}[\"']?)+ ?,? ?\]")
#: A ranking announced as one, and nothing behind it.
_ANNOUNCED = re.compile(
    r".{0,200}?\b(?:rank\w{0,5}|order\w{0,3}|answer|result|permutation|output)\b[^\d:]{0,40}: ?([\d\s,;.*-]+)",
    re.IGNORECASE,
)


def parse_permutation(text: str, n: int) -> tuple[list[int], str]:
    """The order of n passages that a response gives.

    Reasoning blocks are left out; digits of any script count. Identifiers in square brackets are read where there are
    any, else a list of bare numbers. Where neither names a passage, what else can mean nothing but a ranking is read:
    other brackets (``【3】``, ``〔3〕``, ``⟦3⟧``), numbers in circles (``❸ > ❶``), named passages (``Passage 3 >
    Passage 1``), one array of numbers (``{"ranking": [3, 1, 2]}``). Numbers in sentences are not. The first
    occurrence of an identifier counts, those out of range are dropped, and passages that are missing follow in their
    incoming order.

    Args:
        text: the response.
        n: passages asked about, at least 1.

    Returns:
        ``(order, outcome)``: positions from 0, best first, always a permutation of ``range(n)``; and ``"ok"``,
        ``"other_notation"`` (read, but in another notation than that of brackets or bare numbers with arrows),
        ``"wrong_format"`` (not ``[2] > [1] > ...`` and nothing else, or an identifier that there is not),
        ``"repetition"`` or ``"missing"``: the first of these that holds.
    """
    said = REASONING.sub("", text)
    answer = " ".join(unicodedata.normalize("NFKC", said).split())
    numbers = _plain(answer, n)
    other = _other(said, n) if len(numbers) < n or not _AS_ASKED.fullmatch(answer) else []
    noted = len({number for number in other if 1 <= number <= n}) > len({k for k in numbers if 1 <= k <= n})
    numbers = other if noted else numbers
    named = [number - 1 for number in numbers if 1 <= number <= n]
    order = list(dict.fromkeys(named))
    seen = set(order)
    if noted:
        outcome = OTHER_NOTATION
    elif not _AS_ASKED.fullmatch(answer) or len(named) < len(numbers):
        outcome = "wrong_format"
    elif len(named) > len(order):
        outcome = "repetition"
    elif len(order) < n:
        outcome = "missing"
    else:
        outcome = "ok"
    return order + [i for i in range(n) if i not in seen], outcome


def _plain(answer: str, n: int) -> list[int]:
    """Identifiers in square brackets, else the longest list of bare numbers."""
    numbers = [int(number) for number in _BRACKETED.findall(answer)]
    if any(1 <= number <= n for number in numbers):
        return numbers
    lists = [answer] if _BARE.fullmatch(answer) else [match.group(0) for match in _ARROWS.finditer(answer)]
    return [int(number) for number in _NUMBER.findall(max(lists, key=len, default=""))]


def _other(said: str, n: int) -> list[int]:
    """Identifiers in another notation, where the answer can mean nothing else; else none."""
    text = unicodedata.normalize("NFKC", digits(said).translate(_SIGNS)).translate(_SIGNS).replace("&gt;", ">")
    text = " ".join(text.split())
    if any(1 <= int(number) <= n for number in _BRACKETED.findall(text)):
        return [int(number) for number in _BRACKETED.findall(text)]
    if _BARE.fullmatch(text):
        return [int(number) for number in _NUMBER.findall(text)]
    chains = [[int(number) for number in _NUMBER.findall(match.group(0))] for match in _CHAIN.finditer(text)]
    if chains:
        return max(chains, key=len)
    if names := _whole(text):
        return names
    if array := _array(text, n):
        return array
    if announced := _ANNOUNCED.fullmatch(text):
        listed = [int(number) for number in _NUMBER.findall(announced.group(1))]
        return listed if sorted(listed) == list(range(1, n + 1)) and n > 1 else []
    return []


def _array(text: str, n: int) -> list[int]:
    """The one array of an answer that holds no other numbers, or its one array with a key, if all are identifiers."""
    found = [
        (bool(match.group(1)), [int(k) for k in _NUMBER.findall(match.group(0))]) for match in _ARRAY.finditer(text)
    ]
    keyed = [array for key, array in found if key]
    if len(keyed) != 1:
        alone = len(found) == 1 and len(found[0][1]) == len(_NUMBER.findall(text))
        keyed = [array for _, array in found] if alone else []
    return keyed[0] if keyed and all(1 <= number <= n for number in keyed[0]) else []


def _whole(text: str) -> list[int]:
    """The numbers of an answer that consists of named passages alone."""
    numbers, at = [], 0
    while at < len(text):
        match = _NAMED.match(text, at)
        if match is None:
            return []
        numbers.append(int(match.group(1)))
        at = match.end()
    return numbers
