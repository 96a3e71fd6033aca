"""Reading a language model's ranking: whatever it says, the result is a permutation, and what was wrong is known."""

from __future__ import annotations

import re
import unicodedata

from ..prompts.control import SQUARE, digits

OUTCOMES = ("ok", "wrong_format", "repetition", "missing")
#: A fifth one, which is counted where it occurs.
OTHER_NOTATION = "other_notation"

#: Blocks in which models reason before they answer; an unclosed one swallows the rest.
REASONING = re.compile(
    r"<(think|thinking|thought|reasoning|reflection)>.*?(?:</\1>|\Z)|\A.*?</(?:think|thinking|thought|reasoning)>",
    re.DOTALL | re.IGNORECASE,
)
_BRACKETED = re.compile(r"\[\s*(\d{1,6})\s*\]")
#: Numbers and what may stand between them, and nothing else.
_BARE = re.compile(r"[\s\d,;=>.\-\[\](){}<]+")
_AS_ASKED = re.compile(r"\s*\[\d{1,6}\](?:\s*>\s*\[\d{1,6}\])*\s*\.?\s*")
_NUMBER = re.compile(r"(?<!\d)\d{1,6}(?!\d)")
#: A numbered list of bare numbers.
_NUMBERED = re.compile(r"(?:\d{1,6}[.)] \(?\d{1,6}\)?[.,;]? ?)+")
_ENTRY = re.compile(r"(\d{1,6})[.)] \(?(\d{1,6})")
#: Two numbers of which the first does not end before a sign that belongs to both: ``0.9``, ``3 - 9``.
_COMPOUND = re.compile(r"\d[^\d>,;=]*[-.][^\d>,;=]*\d")

#: Brackets that are not square, as ASCII ones; square ones of any shape; signs that say "better than".
_SIGNS = str.maketrans({
    **dict.fromkeys(SQUARE[0], "["), **dict.fromkeys(SQUARE[1], "]"),
    **dict.fromkeys("❨❪⦅⸨﴿⟮❴⦃⟨⟪❬❮❰〈《⌈⌊", "("), **dict.fromkeys("❩❫⦆⸩﴾⟯❵⦄⟩⟫❭❯❱〉》⌉⌋", ")"),
    **dict.fromkeys("≻≫⊳▷►▶➤≥≧⩾≽≿→⟶⇒⟹➔➜➝➞", ">"),
})  # fmt: skip
_WORD = (
    r"(?:passages?|documents?|docs?|docids?|docnos?|no|number|texts?|candidates?|items?|results?|identifiers?|ids?|[pd])"
    r"[ .:#_-]{0,2}"
)
#: One identifier of a list, named or not, in brackets, quotes or emphasis.
_ITEM = rf"([\[({{<\"'*_`#]{{0,4}}) ?({_WORD}[\[({{<#\"'*]{{0,2}} ?)?(\d{{1,6}})(?!\d) ?[\])}}\"'*_`]{{0,4}}"
_ALONE = re.compile(_ITEM, re.IGNORECASE)
_AT_START = re.compile(rf"{_ITEM}(?!\w)(?![.,/]\d)(?! ?[:=/-] ?\d)", re.IGNORECASE)
_AT_END = re.compile(rf"(?<!\w)(?<![.,/]){_ITEM}\Z", re.IGNORECASE)
_ARROW = re.compile(r"(?: ?[-=]{0,2}>)+ ?")
_SENTENCE = re.compile(r"[.!?;] ")
#: What stands behind an identifier and is about it: a score, a year, a reason.
_NAME = rf"{_WORD}[\[({{<#\"'*]{{0,2}} ?\d{{1,6}}(?!\d) ?[\])}}\"'*_`]{{0,4}}"
_NOTE = re.compile(rf"({_NAME}|(?<![\w.,/(])\d{{1,6}}) ?\([^()]{{0,200}}\)", re.IGNORECASE)
_VALUE = re.compile(rf"({_NAME}) ?[:=] ?-?\d[\d.,/]{{0,20}}%?(?= ?[-=]{{0,2}}>|\W*\Z)", re.IGNORECASE)
#: Nothing but named identifiers, as a list of lines or with commas.
_NAMED = re.compile(
    rf"(?:(?:rank ?)?\d{{1,6}}[.):] ?)?[*-]? ?[\[({{\"'*_`]{{0,4}} ?{_WORD}[\[({{#\"'*]{{0,2}} ?(\d{{1,6}})(?!\d)"
    r" ?[\])}\"'*_`]{0,4} ?(?:[,;.>]|and|then)?(?: and| then)? ?",
    re.IGNORECASE,
)
#: An array of numbers, as JSON writes it, and the end of the key that it stands at.
_ARRAY = re.compile(r"([\"'] ?: ?)?\[ ?[\"']?\d{1,6}[\"']?(?: ?, ?[\"']?\d{1,6}[\"']?)+ ?,? ?\]")
_KEY = re.compile(r"[\"']([^\"']{0,40})\Z")
_RANKINGS = re.compile(r"(?:final[ _])?(?:ranking|ordering|order|permutation)(?:[ _](?:ids?|list))?", re.IGNORECASE)
_SCORES = re.compile(r"(?:.*[ _])?(?:scores?|ratings?|relevance)", re.IGNORECASE)
#: A ranking announced as one, and nothing behind it; and one whose last is the best.
_ANNOUNCED = re.compile(
    r"(.{0,200}?\b(?:rank\w{0,5}|order\w{0,3}|answer|result|permutation|output|sorted|most to least)\b[^\d:]{0,40}):"
    r" ?([\d\s,;.*-]+)",
    re.IGNORECASE,
)
_REVERSED = re.compile(
    r"\b(?:least|worst|lowest)\b[^:]{0,20}\b(?:to (?:the )?(?:most|best|highest)|first)\b|\b(?:ascending|increasing)\b",
    re.IGNORECASE,
)


def parse_permutation(text: str, n: int) -> tuple[list[int], str]:
    """The order of n passages that a response gives.

    Reasoning blocks are left out; digits of any script count. Identifiers in square brackets are read where there are
    any, else a list of bare numbers. Where neither names a passage, what else can mean nothing but a ranking is read:
    other brackets (``【3】``, ``〔3〕``, ``⟦3⟧``), numbers in circles (``❸ > ❶``), named passages (``Passage 3 >
    Passage 1``), one array of numbers (``{"ranking": [3, 1, 2]}``). Numbers in sentences are not, nor those that stand
    behind an identifier (``Passage 3 (0.9) > Passage 1 (0.5)``). The first occurrence of an identifier counts, those
    out of range are dropped, and passages that are missing follow in their incoming order.

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
    """Identifiers in square brackets, else the longest list of bare numbers, if none of names is as long."""
    numbers = [int(number) for number in _BRACKETED.findall(answer)]
    if any(1 <= number <= n for number in numbers):
        return numbers
    if _BARE.fullmatch(answer):
        return _bare(answer)
    named, chain = _chain(answer)
    return [] if named else chain


def _bare(answer: str) -> list[int]:
    """The identifiers of an answer without words; none where arrows stand between something else than numbers."""
    if _NUMBERED.fullmatch(answer):
        entries = [(int(place), int(number)) for place, number in _ENTRY.findall(answer)]
        if len(entries) > 1 and [place for place, _ in entries] == list(range(1, len(entries) + 1)):
            return [number for _, number in entries]
    if ">" in answer:
        answer = _NOTE.sub(r"\1", answer)
        numbers = _NUMBER.findall(answer)
        several = any(len(_NUMBER.findall(part)) > 1 for part in _ARROW.split(answer))
        if _COMPOUND.search(answer) or (several and len(set(numbers)) < len(numbers)):  # 0.9 > 0.5; 1 > 3, 2 > 1
            return []
    return [int(number) for number in _NUMBER.findall(answer)]


def _chain(text: str) -> tuple[bool, list[int]]:
    """Whether identifiers are named or marked, and those of the longest list with arrows; of two, the named one.

    A list counts only as a whole: where between two of its arrows stands something else than one identifier, and
    numbers among it, none of it does. Its identifiers are all of one kind, or the first has a name for all of them.
    """
    parts = _ARROW.split(_VALUE.sub(r"\1", _NOTE.sub(r"\1", text)))
    found: list[tuple[bool, list[int]]] = [(False, [])]
    items: list[re.Match[str]] = []
    for place, part in enumerate(parts):
        alone = _ALONE.fullmatch(part)
        if alone is not None:
            items.append(alone)
            continue
        first = _AT_START.match(part) if items else None
        last = _AT_END.search(part, max(0, len(part) - 60)) if place < len(parts) - 1 else None
        if first is not None:
            items.append(first)
        apart = _SENTENCE.search(part, first.end() - 1 if first else 0, last.start() if last else len(part))
        if place and any(map(str.isdigit, part)) and not (apart or (first is not None and place == len(parts) - 1)):
            items, last = [], None
        found.append(_kept(items))
        items = [last] if last is not None else []
    found.append(_kept(items))
    return max(found, key=lambda one: (len(set(one[1])), one[0]))


def _kept(items: list[re.Match[str]]) -> tuple[bool, list[int]]:
    """Whether identifiers are named or marked, and those of a list; none where they are not of one kind."""
    kinds = ["name" if item.group(2) else "(" if "(" in item.group(1) else "" for item in items]
    alike = len(set(kinds)) == 1 or (kinds[:1] == ["name"] and len(set(kinds[1:])) == 1)
    if not alike or len(items) < 2:
        return False, []
    marked = any(item.group(2) or set(item.group(1)) - set("[({<") for item in items)
    return marked, [int(item.group(3)) for item in items]


def _other(said: str, n: int) -> list[int]:
    """Identifiers in another notation, where the answer can mean nothing else; else none."""
    text = unicodedata.normalize("NFKC", digits(said).translate(_SIGNS)).translate(_SIGNS).replace("&gt;", ">")
    text = " ".join(text.split())
    if any(1 <= int(number) <= n for number in _BRACKETED.findall(text)):
        return [int(number) for number in _BRACKETED.findall(text)]
    if _BARE.fullmatch(text):
        return _bare(text)
    if chain := _chain(text)[1]:
        return chain
    if names := _whole(text):
        return names
    if array := _array(text, n):
        return array
    if announced := _ANNOUNCED.fullmatch(text):
        listed = [int(number) for number in _NUMBER.findall(announced.group(2))]
        whole = n > 1 and sorted(listed) == list(range(1, n + 1))
        return listed if whole and not _REVERSED.search(announced.group(1)) else []
    return []


def _array(text: str, n: int) -> list[int]:
    """The one array of an answer that holds no other numbers, or its one array with a key, if all are identifiers.

    Of several keys one that means a ranking counts; one that means scores never does.
    """
    found = []
    for match in _ARRAY.finditer(text):
        key = _KEY.search(text, max(0, match.start() - 60), match.start()) if match.group(1) else None
        found.append((key.group(1) if key else None, [int(k) for k in _NUMBER.findall(match.group(0))]))
    keyed = [array for key, array in found if key is not None and not _SCORES.fullmatch(key)]
    if len(keyed) > 1:
        keyed = [array for key, array in found if key is not None and _RANKINGS.fullmatch(key)]
    if len(keyed) != 1:
        alone = len(found) == 1 and found[0][0] is None and len(found[0][1]) == len(_NUMBER.findall(text))
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
