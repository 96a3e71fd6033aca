"""Decoding that can spell nothing but a permutation ``[2] > [1] > [3]``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_SEPARATOR = " > "
_ALPHABET = frozenset(" []>0123456789")


@dataclass(frozen=True)
class Spelling:
    """How far a permutation of 1..n is spelt: the identifiers that are complete, and what stands after the last."""

    n: int
    used: frozenset[int] = frozenset()
    partial: str = ""

    @property
    def complete(self) -> bool:
        """Whether every identifier is there."""
        return len(self.used) == self.n

    def append(self, text: str) -> Spelling | None:
        """The spelling after ``text``; None if no permutation goes on like that."""
        used, partial = self.used, self.partial
        for character in text:
            partial += character
            # A tokenizer may put a space before the first word.
            starts = (_SEPARATOR,) if used else ("", " ")
            goals = [(i, s + f"[{i}]") for s in starts for i in range(1, self.n + 1) if i not in used]
            goals = [(i, goal) for i, goal in goals if goal.startswith(partial)]
            if not goals:
                return None
            for i, goal in goals:
                if goal == partial:
                    used, partial = used | {i}, ""
                    break
        return Spelling(self.n, used, partial)


class Speller:
    """Which tokens of a tokenizer may come next in a permutation.

    Args:
        tokenizer: a transformers tokenizer.

    Raises:
        ValueError: if its tokens cannot spell identifiers.
    """

    def __init__(self, tokenizer: Any):
        self.texts: dict[int, str] = {}
        special = set(tokenizer.all_special_ids)
        vocabulary = tokenizer.get_vocab()
        # How this tokenizer writes a space before a word.
        space = max("▁Ġ", key=lambda mark: sum(piece.startswith(mark) for piece in vocabulary))
        for piece, token in vocabulary.items():
            text = piece.replace(space, " ")
            if text and token not in special and _ALPHABET.issuperset(text):
                self.texts[token] = text
        self.by_first: dict[str, list[int]] = defaultdict(list)
        for token, text in self.texts.items():
            self.by_first[text[0]].append(token)
        single = set(self.texts.values())
        lacking = sorted(_ALPHABET - single)
        if lacking:
            raise ValueError(
                f"this tokenizer has no token for {lacking[0]!r} alone, so decoding cannot be held to identifiers:"
                " leave constrained=True out."
            )

    def allowed(self, spelling: Spelling) -> list[int]:
        """The tokens that keep ``spelling`` on the way to a permutation."""
        firsts = [c for c in _ALPHABET if spelling.append(c) is not None]
        tokens = (token for c in firsts for token in self.by_first[c])
        return [token for token in tokens if spelling.append(self.texts[token]) is not None]


class PermutationProcessor:
    """For ``model.generate(logits_processor=[...])``: masks all tokens but the allowed ones, row by row.

    Args:
        speller: of the model's tokenizer.
        numbers: how many identifiers each row has.
        start: where the answers begin in ``input_ids``.
        end: the token that ends an answer, allowed when all identifiers are there.
    """

    def __init__(self, speller: Speller, numbers: Sequence[int], start: int, end: int):
        self.speller = speller
        self.start = start
        self.end = end
        self.spellings = [Spelling(n) for n in numbers]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores ``[rows, vocabulary]`` with −inf wherever a token is not allowed."""
        import torch

        masked = torch.full_like(scores, float("-inf"))
        for row, spelling in enumerate(self.spellings):
            if input_ids.shape[1] > self.start and not spelling.complete:
                longer = spelling.append(self.speller.texts[int(input_ids[row, -1])])
                assert longer is not None  # only allowed tokens were to be had
                self.spellings[row] = spelling = longer
            tokens = [self.end] if spelling.complete else self.speller.allowed(spelling)
            masked[row, tokens] = scores[row, tokens]
            if not torch.isfinite(masked[row]).any():  # a model that rules all of them out
                masked[row, tokens] = 0.0
        return masked


def longest(n: int) -> int:
    """Characters, so at most tokens, of a permutation of n identifiers, with one to end it."""
    return sum(len(f"[{i}]{_SEPARATOR}") for i in range(1, n + 1)) + 2
