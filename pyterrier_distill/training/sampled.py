"""Lists of which each epoch sees other documents."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from ..frames import LABEL
from ..frames.kinds import Preferences
from ..losses import Loss
from ..sampling.samplers import ListSampler
from . import teacher_order
from .lists import QueryList

logger = logging.getLogger(__name__)


class SampledLists(Dataset):
    """Lists by (epoch, number): what an epoch sees of a list depends on nothing but that epoch and the list.

    Args:
        lists: a list of lists, or a dataset of them with an order of its own.
        sampler: draws their documents.
        loss: knows what each label is about.
    """

    def __init__(self, lists: Any, sampler: ListSampler, loss: Loss):
        self.lists = lists
        self.draws = sampler
        self.loss = loss

    def __len__(self) -> int:
        return len(self.lists)

    def __getitem__(self, place: tuple[int, int]) -> QueryList:
        epoch, n = place
        one = self.lists[n]
        if not len(one.docnos):  # a query alone
            return one
        return one.part(self._drawn(one, epoch), self.loss)

    def _drawn(self, one: QueryList, epoch: int) -> list[int]:
        """Positions of the documents that an epoch sees of a list."""
        draws, judged = self.draws, one.relevant
        if draws.reads_pairs and LABEL in one.labels:
            judged = one.labels[LABEL] > 0
        relevant = None if judged is None else np.flatnonzero(judged).tolist()
        weights = teacher_order.weights(one, self.loss) if draws.reads_weights else None
        pairs = teacher_order.pairs(one, self.loss) if draws.reads_pairs else None
        told = f"{one.collection}{one.qid}\0{one.query}"
        return draws.draw(told, self._ranking(one), relevant, epoch, weights, pairs)

    def _ranking(self, one: QueryList) -> Sequence[int]:
        """Positions of a list's documents in the order that the sampler reads."""
        if self.draws.order == "teacher":
            return np.argsort(-teacher_order.scores(one, self.loss), kind="stable").tolist()
        if one.ranking is not None and (self.draws.reads_ranking or self.draws.reads_first_stage):
            return one.ranking.tolist()
        return range(len(one.docnos))

    def pairs_left_out(self, most: int = 1000) -> dict[str, Any] | None:
        """How many of the teacher's preferences the first epoch does not see, in all of its first lists.

        Args:
            most: lists looked at.

        Returns:
            ``queries``, their ``pairs``, and how many of those are ``left_out``; where the sampler has a depth, also
            how many of these have a document behind it, ``too_deep``. None where the loss reads none.
        """
        if not any(isinstance(kind, Preferences) for kind in self.loss.reads().values()):
            return None
        total = left_out = too_deep = 0
        for n in range(queries := min(len(self.lists), most)):
            if not len(self.lists[n].docnos):
                continue
            pairs = teacher_order.pairs(self.lists[n], self.loss)
            seen = set(self._drawn(self.lists[n], 0))
            total += len(pairs)
            left = [pair for pair in pairs if not seen.issuperset(pair)]
            left_out += len(left)
            if self.draws.depth is not None:
                first = set(self._ranking(self.lists[n])[: self.draws.depth])
                too_deep += sum(not first.issuperset(pair) for pair in left)
        told = {"queries": queries, "pairs": total, "left_out": left_out}
        return told if self.draws.depth is None else {**told, "too_deep": too_deep}

    def sampler(self, seed: int) -> EpochSampler:
        """The training order: that of the dataset, or a new shuffle each epoch."""
        return EpochSampler(order_of(self.lists, seed))


def order_of(lists: Any, seed: int) -> Any:
    """The order in which lists are trained on, a sampler with ``set_epoch``: the dataset's own, or a shuffle."""
    own: Callable[..., Any] | None = getattr(lists, "sampler", None)
    return Shuffle(len(lists), seed) if own is None else own(seed)


class Shuffle(Sampler[int]):
    """0 to n − 1, each epoch in another order: the one that accelerate would give a plain list."""

    def __init__(self, n: int, seed: int):
        self.n = n
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch is next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return iter(torch.randperm(self.n, generator=generator).tolist())


def tell_of_pairs(told: dict[str, Any] | None, sampler: ListSampler) -> None:
    """Warn of preferences that a training never sees, as :meth:`SampledLists.pairs_left_out` counted them."""
    if told is None or not told["left_out"]:
        return
    each, gone = (told[name] / told["queries"] for name in ("pairs", "left_out"))
    advice = []
    if too_deep := told.get("too_deep", 0):
        advice.append(f"a larger depth= lets the documents of {100 * too_deep / told['left_out']:.1f}% of these in")
    if not sampler.reads_pairs:
        advice.append('strategy="with_pairs" draws their documents first')
    elif too_deep < told["left_out"]:
        advice.append("a larger n= holds more of them")
    logger.warning(
        "%r leaves out %.1f of the %.1f preferences that a query has (%.1f%%; the first epoch of %d queries): %s.",
        sampler, gone, each, 100 * gone / each, told["queries"], ", ".join(advice),
    )  # fmt: skip


class SharedBatches(Sampler[list]):
    """One process's part of each batch of all processes.

    The batches are those of one process with ``world`` times the size, the last one included: its lists are dealt out
    as evenly as they go. A process for which none is left gets the batch's first list as a guest (:data:`GUEST`): it is
    computed, so that all processes take the same steps, and counts for nothing.

    Args:
        order: the lists of an epoch.
        size: lists of one process.
        rank: this process.
        world: how many there are.
    """

    def __init__(self, order: Any, size: int, rank: int, world: int):
        self.order = order
        self.size = size
        self.rank = rank
        self.world = world

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch is next."""
        self.order.set_epoch(epoch)

    def __len__(self) -> int:
        return -(-len(self.order) // (self.size * self.world))

    def __iter__(self) -> Iterator[list]:
        batch: list = []
        for place in self.order:
            batch.append(place)
            if len(batch) == self.size * self.world:
                yield self._own(batch)
                batch = []
        if batch:
            yield self._own(batch)

    def _own(self, batch: list) -> list:
        bounds = [len(batch) * n // self.world for n in (self.rank, self.rank + 1)]
        return batch[bounds[0] : bounds[1]] or [(GUEST, batch[0])]


#: Marks a list that a process computes for company.
GUEST = "guest"


class EpochSampler(Sampler[tuple[int, int]]):
    """(epoch, number) in the order of another sampler."""

    def __init__(self, order: Any):
        self.order = order

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch is next."""
        self.order.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        passes = getattr(self.order, "passes", None)  # collections may be gone through more than once an epoch
        return ((self.order.epoch, n) for n in self.order) if passes is None else passes()


class SharedLists(Dataset):
    """Lists by the places that :class:`SharedBatches` gives, guests marked as such."""

    def __init__(self, lists: Any):
        self.lists = lists

    def __len__(self) -> int:
        return len(self.lists)

    def __getitem__(self, place: Any) -> QueryList:
        if isinstance(place, tuple) and place[0] == GUEST:
            return dataclasses.replace(self.lists[place[1]], guest=True)
        return self.lists[place]
