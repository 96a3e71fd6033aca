"""Texts that cannot speak for a prompt: no control tokens, no identifiers of passages.

A tokenizer finds its control tokens anywhere in a text: a document that says ``[SEP]`` or ``</s>`` would end where it
says so. Normalisers find more of them: fullwidth letters, accents and invisible characters are taken away before some
tokenizers look. :class:`Guard` therefore looks for control tokens in what is left of a text when these are gone, and
puts a space behind the first character of each. Any other text stays as it is, character by character.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import regex

#: What common language models take for control tokens, whatever the tokenizer at hand: turns, tools, thoughts, images.
COMMON = re.compile(
    r"<\|[^<>|\n]{1,60}\|>|<\|[\w/]{1,40}>|<[\w/]{1,40}\|>"
    r"|<</?SYS>>"
    r"|</?(?:[a-z]{1,12}_)?(?:s|bos|eos|pad|unk|mask|cls|sep|eop|sop|eod|eot|sot|eom|think|thought|image|img|video|audio)"
    r"(?:_token|_soft_token)?>"
    r"|</?(?:tool|tools|function)(?:_\w{1,30})?>"
    r"|<(?:start|begin|end)_?of_?\w{1,30}>|</?fim_\w{1,20}>"
    r"|<(?:unused|reserved|extra_id|special|control)_?(?:[a-z]{0,12}_)*\d{1,5}>"
    r"|\[/?(?:INST|THINK|ARGS|CALL_ID|SYSTEM_PROMPT|MODEL_SETTINGS|(?:AVAILABLE_)?TOOLS?(?:_\w{1,20})?|"
    r"IMG(?:_\w{1,10})?|(?:BEGIN_)?AUDIO|TRANSCRIBE|PREFIX|MIDDLE|SUFFIX|"
    r"CLS|SEP|PAD|MASK|[gs]MASK|UNK|BOS|EOS|unused\d{1,4}|control_\d{1,4})\]",
    re.IGNORECASE,
)

#: Text that every normaliser leaves alone, but for its case.
_UNPLAIN = re.compile(r"[^\t\n\r -~]")
#: What normalisers drop, by its category: marks, control characters, what cannot be seen, is private or not assigned.
_DROPS = r"(?:[\p{M}\p{C}\ufffd](?<![\t\n\r]))"
_DROPPED = regex.compile(f"{_DROPS}+")
#: Control characters that some normalisers drop and others take for a space.
_SPACES = re.compile("[\x0b\x0c\x1c-\x1f\x85]")

#: Brackets that stand for square ones, the opening ones and, in the same order, the closing ones.
SQUARE = ("[⁅⟦⦋⦍⦏⹕⹗【〔〖〘〚「『︗︹︻﹁﹃﹇﹝［｢❲⟬⦗", "]⁆⟧⦌⦎⦐⹖⹘】〕〗〙〛」』︘︺︼﹂﹄﹈﹞］｣❳⟭⦘")
#: Digits besides those of positional systems: raised, lowered, in circles or brackets, with a full stop.
NUMBER_SIGNS = "²³¹⁰⁴-⁹₀-₉①-⒛⓪-⓿❶-➓㉈-㉏㉑-㉟㊱-㊿🄀-🄌"
_INVISIBLE = rf"(?:\s|{_DROPS})*+"
_IDENTIFIER = regex.compile(
    f"[{re.escape(SQUARE[0])}]{_INVISIBLE}((?:[\\d{NUMBER_SIGNS}]{_DROPS}*+)++){_INVISIBLE}[{re.escape(SQUARE[1])}]"
)


class AnyCase(str):
    """A control token that its tokenizer finds in any case, for it lowers texts before it looks."""


def fold(text: str) -> str:
    """``text`` without what normalisers take away: compatibility forms, accents, invisible characters."""
    if not _UNPLAIN.search(text):
        return text
    text = _DROPPED.sub("", text)  # before, too: to normalise sorts runs of marks, one by one
    return _DROPPED.sub("", unicodedata.normalize("NFKD", text))


def _fold_spaces(text: str) -> str:
    """:func:`fold`, for normalisers that take control characters for spaces."""
    return fold(_SPACES.sub(" ", text))


class Guard:
    """text → text without control tokens.

    Args:
        tokens: what counts as one, as written; those of type :class:`AnyCase` in any case.
        common: whether :data:`COMMON` ones count, too.
    """

    def __init__(self, tokens: Sequence[str], *, common: bool):
        self.exact = {core for token in tokens if len(core := fold(token).strip()) > 1}
        self.lowered = {fold(token).strip().lower() for token in tokens if isinstance(token, AnyCase)}
        #: Control tokens of one character, such as CANINE's from the private use area; ASCII ones stay readable.
        self.single = str.maketrans({token: " " for token in tokens if len(token) == 1 and not token.isascii()})
        #: Those that are written with what is dropped elsewhere; they are looked for in the text as it is.
        self.written = [core for token in tokens if len(core := token.strip()) > 1 and _DROPPED.search(core)]
        self.patterns: list[tuple[re.Pattern[str], Callable[[str], bool]]] = []
        self._add(self.exact, self.exact.__contains__, 0)
        self._add(self.lowered, lambda found: found.lower() in self.lowered, re.IGNORECASE)
        if common:
            self.patterns.append((COMMON, lambda _: True))

    def _add(self, cores: set[str], known: Callable[[str], bool], flags: int) -> None:
        """Patterns that find ``cores``: thousands in brackets are looked up, the others tried one after the other."""
        others = []
        wide = {("<", ">"): 0, ("[", "]"): 0}
        for core in cores:
            ends = (core[0], core[-1])
            if ends in wide and not set(core[1:-1]) & {*ends} and " " not in core:
                wide[ends] = max(wide[ends], len(core))
            else:
                others.append(core)
        for (first, last), longest in wide.items():
            if longest:
                inside = f"[^{re.escape(first)}{re.escape(last)}]{{0,{longest - 2}}}"
                self.patterns.append((re.compile(re.escape(first) + inside + re.escape(last), flags), known))
        if others:
            spelt = (r"\s+".join(map(re.escape, core.split())) for core in sorted(others, key=len, reverse=True))
            self.patterns.append((re.compile("|".join(spelt), flags), lambda _: True))

    def _starts(self, folded: str) -> Iterator[int]:
        """Where control tokens begin."""
        for pattern, known in self.patterns:
            match = pattern.search(folded)
            while match is not None:  # the next one may begin within this one
                if known(match.group(0)):
                    yield match.start()
                match = pattern.search(folded, match.start() + 1)

    def __call__(self, text: str) -> str:
        """``text`` with a space behind the first character of each control token."""
        if self.single and not text.isascii():
            text = text.translate(self.single)
        for core in self.written:
            text = text.replace(core, f"{core[0]} {core[1:]}")
        text = self._split(text, fold)
        return self._split(text, _fold_spaces) if _SPACES.search(text) else text

    def _split(self, text: str, fold: Callable[[str], str]) -> str:
        """``text`` with a space behind the first character of each control token that is in what ``fold`` leaves."""
        starts = sorted(set(self._starts(fold(text))))
        if not starts:
            return text
        pieces, origin = [], []  # of the folded text: its characters, and where in ``text`` each comes from
        for place, character in enumerate(text):
            for piece in fold(character):
                pieces.append(piece)
                origin.append(place)
        starts = sorted(set(self._starts("".join(pieces))))
        out, done = [], 0
        for start in starts:
            place = origin[start]
            if place < done:
                continue
            end = start + 1
            while end < len(origin) and origin[end] == place:  # one character that stands for several
                end += 1
            whole = pieces[start:end] if end > start + 1 else text[place]
            out += [text[done:place], whole[0], " ", *whole[1:]]
            done = place + 1
        return "".join([*out, text[done:]])


@lru_cache(maxsize=64)
def _guard(tokens: tuple[str, ...], lowered: tuple[str, ...], common: bool) -> Guard:
    return Guard([*tokens, *map(AnyCase, lowered)], common=common)


def guard(tokens: Sequence[str], *, common: bool) -> Guard:
    """The :class:`Guard` of these tokens, made once."""
    lowered = tuple(str(token) for token in tokens if isinstance(token, AnyCase))
    return _guard(tuple(token for token in tokens if not isinstance(token, AnyCase)), lowered, common)


def disarm(text: str, specials: Sequence[str] = ()) -> str:
    """``text`` without control tokens, for the prompt of a language model: ``< |im_end|>``, ``< /s>``, ``[ INST]``.

    Args:
        text: a query or a document.
        specials: the tokenizer's control tokens, besides those that language models commonly have.
    """
    return guard(specials, common=True)(text)


def neutralise(text: str, specials: Sequence[str] = ()) -> str:
    """:func:`disarm`, and no identifiers either, for prompts whose answer consists of them.

    ``[12]`` becomes ``(12)``, whatever the script of its digits and the shape of its square brackets.
    """
    return disarm(_IDENTIFIER.sub(lambda match: f"({digits(_DROPPED.sub('', match.group(1)))})", text), specials)


def digits(text: str) -> str:
    """``text`` with digits of any kind as ASCII ones; number signs that touch each other are numbers of their own."""
    if text.isascii():
        return text
    return _SIGNS.sub(lambda match: " ".join(_number(sign) for sign in match.group(0)), _RAISED.sub(_digit, text))


_RAISED = re.compile(r"[²³¹⁰⁴-⁹₀-₉]|(?![0-9])\d")
_SIGNS = re.compile("[①-⒛⓪-⓿❶-➓㉈-㉏㉑-㉟㊱-㊿🄀-🄌]+")


def _digit(match: re.Match[str]) -> str:
    return str(unicodedata.digit(match.group(0)))


def _number(sign: str) -> str:
    value = unicodedata.numeric(sign, None)
    return sign if value is None else str(int(value))
