"""What a model wrote, token by token, and how it is to choose its words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        temperature: divides the logits; above 0.
        top_p: only the likeliest tokens whose probabilities reach this sum; 1 = all.
        top_k: only the k likeliest tokens; 0 = all.

    Raises:
        ValueError: if one is impossible.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise ValueError(f"temperature must be above 0 to sample, not {self.temperature!r}.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, not {self.top_p!r}.")
        if isinstance(self.top_k, bool) or not isinstance(self.top_k, int) or self.top_k < 0:
            raise ValueError(f"top_k must be a whole number, 0 for all tokens, not {self.top_k!r}.")


@dataclass(frozen=True)
class Completion:
    """An answer and the log-probabilities of its tokens.

    Attributes:
        text: the answer; None where what came was no text.
        ends: for each token, the position in ``text`` behind it; empty where the backend returns no tokens.
        logprobs: the log-probability of each token.
    """

    text: str | None
    ends: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()

    def mean_logprob(self, start: int, end: int) -> float:
        """Mean log-probability of the tokens that have a part in ``text[start:end]``; NaN where they are not known."""
        values, before = [], 0
        for stop, logprob in zip(self.ends, self.logprobs, strict=True):
            first = min(before, stop - 1)  # pieces of one character: all but the first add no length
            if first < end and stop > start:
                values.append(logprob)
            before = stop
        return float(np.mean(values)) if values else math.nan


#: Tokens decoded together at the most to tell where one of them ends, and those before it that it may depend on.
_REDECODED, _OVERLAP = 256, 32


def token_ends(tokenizer: Any, ids: Sequence[int]) -> tuple[str, list[int]]:
    """The text of tokens, and the position behind each of them."""
    ids = list(ids)
    length = lambda part: len(tokenizer.decode(part, skip_special_tokens=True))  # noqa: E731
    lengths: list[int] = []
    start = before = 0  # of long answers, what is decoded again and again begins some tokens before the one asked about
    for n in range(len(ids)):
        if n - start >= _REDECODED:
            start = n - _OVERLAP
            before = lengths[n - 1] - length(ids[start:n])
        lengths.append(before + length(ids[start : n + 1]))
    text = tokenizer.decode(ids, skip_special_tokens=True) if ids else ""
    ends = np.minimum(np.maximum.accumulate(lengths or [0]), len(text))
    return text, [int(end) for end in ends[: len(ids)]]


def completion(tokenizer: Any, ids: Sequence[int], logprobs: Sequence[float], ends: Sequence[int]) -> Completion:
    """A completion from token ids.

    Args:
        tokenizer: that of the model.
        ids: what it said; counts up to the first of ``ends``.
        logprobs: of each.
        ends: tokens that end an answer.
    """
    length = next((n for n, token in enumerate(ids) if token in ends), len(ids))
    special = set(tokenizer.all_special_ids)
    told = [(int(t), float(p)) for t, p in zip(ids[:length], logprobs[:length], strict=True) if t not in special]
    text, positions = token_ends(tokenizer, [token for token, _ in told])
    return Completion(text, tuple(positions), tuple(p for _, p in told))
