"""Which documents of a list are worth training on, and which pairs of a ranking worth asking about."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..frames import arguments
from ..frames.arguments import Named


@dataclass(frozen=True)
class ListSampler(Named):
    """Documents drawn from each list anew every epoch, kept in the list's order.

    What is drawn depends on seed, epoch, query and what the list says, never on where its rows stand.

    Attributes:
        n: documents drawn; a list that has no more stays whole.
        depth: only from the first so many of the ranking that ``order`` names; None = all of it.
        strategy: ``"top"`` the first; ``"random"`` uniformly; ``"log_random"`` with weights 1 / log2(1 + rank), rank
            from 1, so early ranks come more often; ``"with_positive"`` one relevant document (label > 0, at any
            depth) and others that are not relevant, uniformly; without a relevant one, as ``"random"``;
            ``"disagreement"`` by how many ranks apart the ranking and the teacher place a document, so that of
            ``candidates >> teacher >> student`` the student's errors come most often; ``"with_pairs"`` the documents of
            preference pairs, pair by pair in a random order as long as both fit, then others, uniformly; beside them
            one relevant document, where the loss reads judgements and there is one.
        seed: with the epoch and the query, it decides the draw.
        order: the ranking that ``depth``, ``"top"`` and ``"log_random"`` count by. ``"frame"``: the ``rank`` column, or
            ``score`` where that says nothing, so behind a teacher that teacher's; ``"disagreement"`` compares that one,
            and no other, with the teacher. ``"first_stage"``: the column ``first_stage_rank``, which
            :func:`~pyterrier_distill.first_stage_rank` writes before the teacher. ``"teacher"``: the labels that
            the loss learns, the first of them that orders documents; ties stand by docno.

    References:
        Rank-DistiLLM (Schlatt et al. 2025) App. C: 7 of the first 200 passages beside the relevant one, which comes
        from the labels: ``ListSampler(8, depth=200, strategy="with_positive")``. Figure 1 cuts what a teacher has
        ranked by the first stage's rank: ``ListSampler(50, depth=50, order="first_stage")``. PairDistill (Huang & Chen
        2024) App. B: 50 pairs among 100 documents, 64 documents of a query at a time: ``ListSampler(64,
        strategy="with_pairs")``. Fifty pairs have 63.6 of the 100 documents on average, so nearly all of them are kept.

    Example:
        >>> ListSampler(8, depth=200, strategy="with_positive")
        ListSampler(n=8, depth=200, strategy='with_positive', seed=42)
    """

    n: int
    depth: int | None = None
    strategy: str = "random"
    seed: int = 42
    order: str = "frame"

    def __post_init__(self) -> None:
        for name in ("n", "depth"):
            value = getattr(self, name)
            if (value is None and name == "n") or (
                value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1)
            ):
                raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}.")
        if self.strategy not in _STRATEGIES:
            raise ValueError(f"strategy must be one of {', '.join(_STRATEGIES)}, not {self.strategy!r}.")
        arguments.choice(self.order, "order", _ORDERS)
        if self.order != "frame" and self.strategy == "disagreement":
            raise ValueError(
                'strategy="disagreement" compares the frame\'s own ranking with the teacher: leave order= out.'
            )
        if self.order != "frame" and not self._counts_ranks:
            raise ValueError(
                f'order={self.order!r} says by what depth=, "top" and "log_random" count: give one of them.'
            )

    def __repr__(self) -> str:
        fields = ("n", "depth", "strategy", "seed", *(["order"] if self.order != "frame" else []))
        return f"ListSampler({', '.join(f'{name}={getattr(self, name)!r}' for name in fields)})"

    @property
    def _counts_ranks(self) -> bool:
        return self.depth is not None or self.strategy in ("top", "log_random")

    @property
    def reads_judgements(self) -> bool:
        """Whether relevance decides the draw."""
        return self.strategy == "with_positive"

    @property
    def reads_ranking(self) -> bool:
        """Whether the frame's ranking decides the draw."""
        return self.strategy == "disagreement" or (self.order == "frame" and self._counts_ranks)

    @property
    def reads_first_stage(self) -> bool:
        """Whether the first stage's ranks decide the draw."""
        return self.order == "first_stage"

    @property
    def reads_pairs(self) -> bool:
        """Whether :meth:`draw` needs pairs."""
        return self.strategy == "with_pairs"

    @property
    def reads_weights(self) -> bool:
        """Whether :meth:`draw` needs weights."""
        return self.strategy == "disagreement"

    def draw(
        self,
        query: str,
        ranking: Sequence[int],
        relevant: Sequence[int] | None = None,
        epoch: int = 0,
        weights: Sequence[float] | None = None,
        pairs: Iterable[tuple[int, int]] | None = None,
    ) -> list[int]:
        """Which documents of a list an epoch sees.

        Args:
            query: its text; lists of other queries are drawn independently.
            ranking: positions of the list's documents, best first.
            relevant: positions of relevant documents.
            epoch: from 0.
            weights: by position, for ``"disagreement"``, such as those of :func:`~pyterrier_distill.disagreement`; the
                Distiller computes them of each list. At least 0. Documents of weight 0 are drawn when no others
                are left, uniformly.
            pairs: positions of two documents each, for ``"with_pairs"``: those that a teacher compared. The Distiller
                reads them of each list.

        Returns:
            Positions, ascending.

        Raises:
            ValueError: if the strategy needs to know the relevant documents, weights or pairs; if a weight is negative
                or NaN.
        """
        if self.reads_judgements and relevant is None:
            raise ValueError('strategy="with_positive" needs judgements: pass qrels, or a frame with "label".')
        if self.reads_weights and weights is None:
            raise ValueError('strategy="disagreement" draws by weights: pass those of ptd.disagreement(frame, ...).')
        if self.reads_pairs and pairs is None:
            raise ValueError('strategy="with_pairs" draws the documents of pairs: pass pairs=, positions of two each.')
        rng = random.Random(hashlib.sha256(f"{self.seed}\0{epoch}\0{query}".encode()).digest())
        first = list(ranking[: self.depth])
        chosen: list[int] = []
        if self.reads_judgements and relevant:
            known = set(relevant)
            chosen = [rng.choice(sorted(known))]
            first = [n for n in first if n not in known]
        elif self.reads_pairs and pairs is not None:
            chosen = [rng.choice(sorted(relevant))] if relevant else []
            chosen = _members(pairs, {*first, *chosen}, chosen, self.n, rng)
            taken = set(chosen)
            first = [n for n in first if n not in taken]
        most = self.n - len(chosen)
        if self.strategy == "top" or len(first) <= most:
            chosen += first[:most]
        elif self.strategy == "log_random":
            chosen += [first[n] for n in weighted_order(log_weights(len(first)), rng)[:most]]
        elif self.reads_weights and weights is not None:
            chosen += [first[n] for n in weighted_order([weights[n] for n in first], rng)[:most]]
        else:
            chosen += rng.sample(first, most)
        return sorted(chosen)


_STRATEGIES = ("top", "random", "log_random", "with_positive", "disagreement", "with_pairs")
_ORDERS = ("frame", "first_stage", "teacher")


def _members(
    pairs: Iterable[tuple[int, int]], allowed: set[int], chosen: Sequence[int], most: int, rng: random.Random
) -> list[int]:
    """``chosen`` and the documents of as many pairs as fit, pairs taken in a random order."""
    known = sorted({(min(pair), max(pair)) for pair in pairs if allowed.issuperset(pair)})
    taken = dict.fromkeys(chosen)
    for pair in rng.sample(known, len(known)):
        new = [n for n in pair if n not in taken]
        if len(taken) + len(new) <= most:
            taken.update(dict.fromkeys(new))
    return list(taken)


def log_weights(depth: int) -> list[float]:
    """1 / log2(1 + rank) for the ranks from 1 to ``depth``."""
    return [1 / math.log2(2 + rank) for rank in range(depth)]


def ranks_apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How many ranks apart two scorings of one list place each document, ``[n]``; tied ranks are averaged."""
    one, other = (pd.Series(scores).rank(ascending=False, method="average").to_numpy() for scores in (one, other))
    return np.abs(one - other)


def weighted_order(weights: Sequence[float], rng: random.Random) -> list[int]:
    """Positions in an order drawn without repetition, each next one with probability proportional to its weight.

    Its first k are a weighted sample of k (Efraimidis and Spirakis 2006: the largest of u^(1/w)). Positions of weight 0
    come last, in a uniform order.

    Raises:
        ValueError: if a weight is negative, infinite or NaN.
    """
    keys = []
    for position, weight in enumerate(weights):
        if not 0 <= weight < math.inf:
            raise ValueError(f"weights must be finite and at least 0, not {weight!r}.")
        log = math.log(rng.random() or 1e-300)
        keys.append((weight > 0, log / weight if weight > 0 else log, -position))
    return sorted(range(len(keys)), key=keys.__getitem__, reverse=True)


class _Pairs:
    """The pairs (i, j), i < j < i + reach, of a list, row by row; then, if ``turned``, the same as (j, i). None is made
    before it is asked for.
    """

    def __init__(self, depth: int, reach: int, turned: bool):
        lengths = (max(0, min(depth - 1 - i, reach - 1)) for i in range(depth))
        self._starts = list(itertools.accumulate(lengths, initial=0))  # of each row, and where the last one ends
        self._turned = turned

    def __len__(self) -> int:
        return self._starts[-1] * (2 if self._turned else 1)

    def __getitem__(self, n: int) -> tuple[int, int]:
        if not 0 <= n < len(self):
            raise IndexError(n)
        turned, place = divmod(n, self._starts[-1])
        i = bisect.bisect_right(self._starts, place) - 1
        j = i + 1 + place - self._starts[i]
        return (j, i) if turned else (i, j)


ListSampler.__init__ = arguments.renamed(size="n")(ListSampler.__init__)  # type: ignore[method-assign]


@dataclass(frozen=True)
class PairSampler(Named):
    """Pairs drawn without repetition from ``{(i, j): i ≠ j, |i − j| < delta}`` (PairDistill §4.2, D_pair).

    Attributes:
        n: pairs of a list; None = all. Where there are fewer, all of them.
        delta: ranks apart, exclusive; None = any.
        both_orders: draw unordered pairs, and give each in both orders.
        seed: with the query id, it decides the draw.
        strategy: ``"random"`` uniformly; ``"disagreement"`` with weights that :meth:`draw` is given, such as those of
            :func:`~pyterrier_distill.pair_disagreement`: pairs that student and teacher order differently come more
            often.

    Example::

        ptd.PairwiseTeacher("castorini/duot5-3b-msmarco", n_pairs=50, delta=10)  # draws by PairSampler(50, delta=10)
    """

    n: int | None = None
    delta: int | None = None
    both_orders: bool = False
    seed: int = 42
    strategy: str = "random"

    def __post_init__(self) -> None:
        for name, least in (("n", 1), ("delta", 2)):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                given = {"n": "n_pairs"}.get(name, name)
                raise ValueError(f"{given} must be None or a whole number of at least {least}, not {value!r}.")
        if self.strategy not in ("random", "disagreement"):
            raise ValueError(f"strategy must be 'random' or 'disagreement', not {self.strategy!r}.")

    def draw(self, qid: str, depth: int, weights: Sequence[Sequence[float]] | None = None) -> list[tuple[int, int]]:
        """The pairs of a list of ``depth`` documents: (i, j), ranks from 0, in a random order of their own.

        Args:
            qid: lists of other queries are drawn independently.
            depth: documents of the list.
            weights: ``[depth, depth]`` by the ranks of i and j, for ``"disagreement"``: at least 0; with
                ``both_orders`` the one above the diagonal counts. Pairs of weight 0 are drawn when no others are left,
                uniformly.

        Raises:
            ValueError: if the strategy needs weights and has none, or of another shape; if one is negative or NaN.
        """
        pairs = _Pairs(depth, depth if self.delta is None else self.delta, not self.both_orders)
        rng = random.Random(hashlib.sha256(f"{self.seed}\0{qid}".encode()).digest())
        most = len(pairs) if self.n is None else min(self.n, len(pairs))
        if self.strategy == "random":
            drawn = [pairs[n] for n in rng.sample(range(len(pairs)), most)]
        else:
            if weights is None or len(weights) != depth or any(len(row) != depth for row in weights):
                raise ValueError(
                    f'strategy="disagreement" needs weights, {depth} x {depth} for query {qid!r}: pass those of'
                    " ptd.pair_disagreement(frame, ...)."
                )
            every = [pairs[n] for n in range(len(pairs))]
            order = weighted_order([float(weights[i][j]) for i, j in every], rng)
            drawn = [every[n] for n in order[:most]]
        return drawn if not self.both_orders else [pair for i, j in drawn for pair in ((i, j), (j, i))]
