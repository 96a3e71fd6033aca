"""Lists of which each epoch sees other documents."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from ..losses import Loss
from ..sampling.samplers import ListSampler
from . import teacher_order
from .lists import QueryList


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
        relevant = None if one.relevant is None else np.flatnonzero(one.relevant).tolist()
        ranked = one.ranking is not None and self.draws.reads_ranking
        ranking = one.ranking.tolist() if ranked else range(len(one.docnos))
        weights = teacher_order.weights(one, self.loss) if self.draws.reads_weights else None
        return one.part(self.draws.draw(f"{one.qid}\0{one.query}", ranking, relevant, epoch, weights), self.loss)

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
        return ((self.order.epoch, n) for n in self.order)


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
