"""Lists that stay on disk: a LabelStore as a dataset whose memory does not grow with the store."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from torch.utils.data import Dataset, Sampler

from ..frames.texts import TextFrame
from . import order
from .lists import QueryList, check_lists
from .reading import Reader, with_queries

if TYPE_CHECKING:
    from ..labels.store import LabelStore

#: Blocks whose queries are mixed with each other, and that stay in memory.
BUFFER = 16
#: Queries of a block.
BLOCK = 256


class StoredLists(Dataset):
    """List n = the n-th query that has documents, by qid. A block is read when one of its lists is asked for.

    A block holds :data:`BLOCK` queries in the order of their ids, wherever in the store they are: what is trained on
    does not depend on the order in which queries were labelled, nor on how the store was compacted.

    Args:
        store: the labels.
        reader: what is read of them.
        buffer: blocks whose queries are mixed with each other, and that stay in memory; None = :data:`BUFFER`.
    """

    def __init__(self, store: LabelStore, reader: Reader, buffer: int | None = None):
        self.store = store
        self.reader = reader
        self.buffer = BUFFER if buffer is None else buffer
        located = store.located()
        located = located.iloc[np.argsort(order.codes(located["qid"]), kind="stable")]
        self.blocks = [store.parts(located.iloc[n : n + BLOCK]) for n in range(0, len(located), BLOCK)]
        self.ends = np.minimum(np.arange(1, len(self.blocks) + 1) * BLOCK, len(located))
        self.alone: list[QueryList] = []
        self._prepare: Callable[[list[QueryList]], None] | None = None
        self._kept: OrderedDict[int, list[QueryList]] = OrderedDict()

    def add(self, queries: list[QueryList]) -> None:
        """Add lists without documents; they stay in memory, and are mixed among the blocks as blocks of their own."""
        self.alone += queries
        ends = int(self.ends[-1]) + np.minimum(np.arange(BLOCK, len(self.alone) + BLOCK, BLOCK), len(self.alone))
        self.ends = np.concatenate([self.ends, ends])

    @property
    def documents(self) -> int:
        """How many there are, over all lists."""
        return self.store.documents

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, n: int) -> QueryList:
        if not 0 <= n < len(self):
            raise IndexError(n)
        number = int(np.searchsorted(self.ends, n, side="right"))
        return self.block(number)[n - (int(self.ends[number - 1]) if number else 0)]

    def block(self, number: int) -> list[QueryList]:
        """The lists of one block."""
        if number >= len(self.blocks):
            start = (number - len(self.blocks)) * BLOCK
            return self.alone[start : start + BLOCK]
        if number not in self._kept:
            labels = self.reader.label_columns()
            ranking = self.reader.ranking_columns(self.store.columns())
            frame = self.frame(number, list(dict.fromkeys([*labels, *ranking])))
            lists = self.reader.read(frame, whole=False, by_content=True)
            if self._prepare is not None:
                self._prepare(lists)
            self._kept[number] = lists
            if len(self._kept) > self.buffer:
                self._kept.popitem(last=False)
        self._kept.move_to_end(number)
        return self._kept[number]

    def frame(self, number: int, columns: list[str]) -> pd.DataFrame:
        """The rows of one block, in any order."""
        parts = [self.store.read(part, columns) for part in self.blocks[number]]
        return parts[0] if len(parts) == 1 else pd.concat(parts, ignore_index=True)

    @property
    def made_by(self) -> dict[str, Any]:
        """What made the labels."""
        return self.store.manifest

    def check(self, total: int | None = None) -> None:
        """Check that there is something to learn, with as few blocks as it takes, and that no text is missing.

        Args:
            total: lists of the training, if these are not all.

        Raises:
            ValueError: if there is not, or one is.
        """
        self._check_texts()
        total = len(self) if total is None else total
        for number in range(len(self.blocks)):
            try:
                check_lists(self.block(number), self.reader.loss, total)
                break
            except ValueError:
                if number == len(self.blocks) - 1 or total < 2:
                    raise
        if self.reader.judged is not None:
            if not any(self.reader.knows(self.store.read(block, [])) for block in self.store.blocks()):
                raise ValueError(
                    "the qrels judge no document of the store relevant: check that qid and docno are spelt alike."
                )

    def _check_texts(self) -> None:
        """Check that what is in memory of queries' and documents' texts has all of them, before hours have gone by."""
        if self.reader.topics is not None:
            with_queries(self.store.located()[["qid"]], self.reader.topics)
        if isinstance(self.reader.add_text, TextFrame):
            for block in self.store.blocks():
                self.reader.add_text(self.store.read(block, []))

    def prepare_with(self, prepare: Callable[[list[QueryList]], None]) -> None:
        """Call ``prepare`` with the lists of each block that is read from now on."""
        self._prepare = prepare
        self._kept.clear()

    def sampler(self, seed: int) -> BlockSampler:
        """The training order."""
        return BlockSampler(self.ends, seed, self.buffer)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": OrderedDict()}


class BlockSampler(Sampler[int]):
    """Each epoch another order: blocks are shuffled, and lists among a few blocks.

    Args:
        ends: ``[n]`` where each block ends among all lists.
        seed: with the epoch, it decides the order.
        buffer: how many blocks are a few; None = :data:`BUFFER`.
    """

    def __init__(self, ends: np.ndarray, seed: int, buffer: int | None = None):
        self.ends = ends
        self.seed = seed
        self.buffer = BUFFER if buffer is None else buffer
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch is next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        starts = np.concatenate([[0], self.ends[:-1]])
        blocks = rng.permutation(len(self.ends))
        for n in range(0, len(blocks), self.buffer):
            near = [np.arange(starts[b], self.ends[b]) for b in blocks[n : n + self.buffer]]
            yield from rng.permutation(np.concatenate(near)).tolist()
