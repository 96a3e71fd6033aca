"""Lists of which each epoch sees other documents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Sampler

from ..losses import Loss
from ..samplers import ListSampler
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
        relevant = None if one.relevant is None else np.flatnonzero(one.relevant).tolist()
        ranking = range(len(one.docnos)) if one.ranking is None else one.ranking.tolist()
        return one.part(self.draws.draw(one.query, ranking, relevant, epoch), self.loss)

    def sampler(self, seed: int, world: int = 1) -> EpochSampler:
        """The training order: that of the dataset, or a new shuffle each epoch."""
        own: Callable[..., Any] | None = getattr(self.lists, "sampler", None)
        return EpochSampler(Shuffle(len(self), seed) if own is None else own(seed, world))


class Shuffle(Sampler[int]):
    """0 to n − 1, each epoch in another order."""

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
        return iter(np.random.default_rng([self.seed, self.epoch]).permutation(self.n).tolist())


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
