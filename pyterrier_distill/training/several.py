"""Lists of several collections as one dataset, mixed in fixed proportions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Sampler

from ..frames import MissingLabelError
from .lists import QueryList
from .sampled import order_of

logger = logging.getLogger(__name__)


class Named:
    """Within, errors about what was given say in which of several collections it is.

    Args:
        number: of the collection, from 1.
        total: how many there are.
    """

    def __init__(self, number: int, total: int):
        self.number, self.total = number, total

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, _: object) -> None:
        if error is None or self.total == 1 or kind not in (ValueError, KeyError, MissingLabelError):
            return
        told = f"collection {self.number} of {self.total}: {error.args[0] if error.args else error}"
        if isinstance(error, MissingLabelError):
            raise MissingLabelError(told, error.modes) from error
        raise kind(told) from error


class SeveralLists(Dataset):
    """The lists of several collections, one collection behind the other.

    Args:
        parts: of each collection a list of lists, or a dataset of them with an order of its own.
        proportions: how often lists of each come, of any unit; None = as many as there are.
    """

    def __init__(self, parts: Sequence[Any], proportions: Sequence[float] | None = None):
        self.parts = list(parts)
        self.sizes = [len(part) for part in parts]
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)])
        self.proportions = None if proportions is None else list(proportions)
        if rare := [n for n, count in enumerate(self.dealt(1), start=1) if not count]:
            logger.warning(
                "An epoch of %d lists has less than one of each collection by proportions=%s: of collection %s none"
                " comes in the first.", len(self), self.proportions, ", ".join(map(str, rare)),
            )  # fmt: skip

    def dealt(self, epochs: int) -> list[int]:
        """How many lists of each collection come in the first ``epochs``."""
        if self.proportions is None:
            return [epochs * size for size in self.sizes]
        return shares(epochs * len(self), self.proportions)

    @property
    def documents(self) -> int:
        """How many there are, over all lists."""
        return sum(_documents(part) for part in self.parts)

    @property
    def made_by(self) -> list[dict[str, Any]]:
        """What made the labels of each collection, as far as it says so."""
        return [getattr(part, "made_by", {}) for part in self.parts]

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, n: int) -> QueryList:
        if not 0 <= n < len(self):
            raise IndexError(n)
        number = int(np.searchsorted(self.starts, n, side="right")) - 1
        with Named(number + 1, len(self.parts)):
            return self.parts[number][n - int(self.starts[number])]
        raise AssertionError  # for type checkers: nothing is swallowed

    def prepare_with(self, prepare: Callable[[list[QueryList]], None]) -> None:
        """Call ``prepare`` with all lists, those on disk when they are read."""
        for number, part in enumerate(self.parts, start=1):
            with Named(number, len(self.parts)):
                if isinstance(part, list):
                    prepare(part)
                else:
                    part.prepare_with(prepare)

    def sampler(self, seed: int) -> MixedOrder:
        """The training order."""
        return MixedOrder(self, seed)


def shares(total: int, proportions: Sequence[float]) -> list[int]:
    """``total`` dealt out in proportion; nobody has less of a larger total.

    The k-th, from 0, of a share p is due at (k + 1/2) / p; those that are due first are dealt out (Webster's method).
    """
    p = np.asarray(proportions, dtype=float) / sum(proportions)
    dealt = np.floor(p * max(0, total - len(p)) + 0.5).astype(int)  # at most half a one too many of each
    while dealt.sum() < total:
        dealt[np.argmin((dealt + 0.5) / p)] += 1
    return dealt.tolist()


def _documents(part: Any) -> int:
    return sum(len(one.docnos) for one in part) if isinstance(part, list) else part.documents


class MixedOrder(Sampler[int]):
    """Each epoch has as many lists as there are, so many of each collection as its proportion says, all mixed.

    What a proportion leaves of a list in one epoch counts in the next: over all of them each collection comes as often
    as it says.

    Each collection keeps an order of its own, in which it goes on from epoch to epoch and begins anew, shuffled, when
    all of its lists have come: none comes again before all others of its collection have. What an epoch holds depends
    on nothing but the seed and the epoch, so that a stopped training goes on as it would have.

    Args:
        lists: of all collections.
        seed: of all orders.
    """

    def __init__(self, lists: SeveralLists, seed: int):
        self.lists = lists
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch is next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lists)

    def __iter__(self) -> Iterator[int]:
        return (n for _, n in self.passes())

    def passes(self) -> Iterator[tuple[int, int]]:
        """(how many times its collection was gone through before, the number of a list)."""
        before = self.lists.dealt(self.epoch)
        quotas = np.subtract(self.lists.dealt(self.epoch + 1), before)
        rng = np.random.default_rng([self.seed, self.epoch, len(quotas)])
        turns = rng.permutation(np.repeat(np.arange(len(quotas), dtype=np.int16), quotas))
        streams = [self._stream(number, count) for number, count in enumerate(before)]
        for number in turns:
            yield next(streams[number])

    def _stream(self, number: int, count: int) -> Iterator[tuple[int, int]]:
        """The lists of one collection from where the epochs before, ``count`` lists of it, have left it."""
        start, size = int(self.lists.starts[number]), self.lists.sizes[number]
        times, skipped = divmod(count, size)
        order = order_of(self.lists.parts[number], self.seed + (number << 32))
        while True:
            order.set_epoch(times)
            yield from ((times, start + n) for n in islice(iter(order), skipped, None))
            times, skipped = times + 1, 0
