"""Which pairs of a ranking are worth asking about."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class PairSampler:
    """Pairs drawn uniformly, without repetition, from {(i, j): i ≠ j, |i − j| < delta} (PairDistill §4.2, D_pair).

    Attributes:
        n: pairs of a list; None = all. Where there are fewer, all of them.
        delta: ranks apart, exclusive; None = any.
        both_orders: draw unordered pairs, and give each in both orders.
        seed: with the query id, it decides the draw.
    """

    n: int | None = None
    delta: int | None = None
    both_orders: bool = False
    seed: int = 42

    def __post_init__(self) -> None:
        for name, least in (("n", 1), ("delta", 2)):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                given = {"n": "n_pairs"}.get(name, name)
                raise ValueError(f"{given} must be None or a whole number of at least {least}, not {value!r}.")

    def draw(self, qid: str, depth: int) -> list[tuple[int, int]]:
        """The pairs of a list of ``depth`` documents: (i, j), ranks from 0, in a random order of their own."""
        reach = depth if self.delta is None else self.delta
        pairs = [(i, j) for i in range(depth) for j in range(i + 1, min(depth, i + reach))]
        if not self.both_orders:
            pairs += [(j, i) for i, j in pairs]
        rng = random.Random(hashlib.sha256(f"{self.seed}\0{qid}".encode()).digest())
        drawn = rng.sample(pairs, len(pairs) if self.n is None else min(self.n, len(pairs)))
        return drawn if not self.both_orders else [pair for i, j in drawn for pair in ((i, j), (j, i))]
