"""Reading labels that are stored: an index of queries, frames of some of them, a stream of all, other formats."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from .. import frames
from ..backends.usage import Usage
from ..engine.locks import using
from ..frames import TEACHER_SCORE, arguments
from ..identity.identity import digest
from . import convert, description, notes, shards, state, streams, tables
from .description import Description
from .directory import MANIFEST, SHARDS, TEXTS, Directory
from .texts import StoredText, Texts


@dataclass(frozen=True)
class Block:
    """Queries of one shard that are read together.

    Attributes:
        shard: its name.
        rows: ``[n]`` their rows in it.
    """

    shard: str
    rows: np.ndarray


@dataclass(frozen=True)
class _Shard:
    """What is known of a shard without its labels: rows that count, ends of row groups, rows without documents, ..."""

    rows: np.ndarray
    ends: np.ndarray
    empty: np.ndarray
    documents: int
    columns: tuple[str, ...]


class StoredLabels:
    """Labels of whole queries in a directory, to be read.

    Args:
        directory: where they are.
    """

    def __init__(self, directory: Directory):
        self.directory = directory
        self._forget()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.directory)!r})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))

    __str__ = state.line
    _repr_html_ = state.shown

    @property
    def manifest(self) -> dict[str, Any]:
        """What made the labels: pipeline, models, prompts, versions; empty before anything was built."""
        return self.directory.json(MANIFEST)

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits of all labels and texts: shards are named by their content."""
        return digest([self.directory.names(folder) for folder in (SHARDS, TEXTS)])

    # -- which queries ------------------------------------------------------------------------------------------------

    def _forget(self) -> None:
        """Read the index anew next time."""
        with using(self.directory):
            self._shards: dict[str, _Shard] = {}
            self._places: dict[str, tuple[str, int]] = {}
            self._replaced: set[str] = set()

    def _index(self) -> dict[str, tuple[str, int]]:
        """qid → (shard, row), of all shards that count. Where a query stands twice, its first place does.

        A shard that another one replaces (a compaction was killed before it could delete it) does not count. It grows
        with what other threads commit: who goes through all of it, or reads the shards' table, holds :meth:`_known`.
        """
        with using(self.directory):
            return self._read_indices()

    @contextmanager
    def _known(self) -> Iterator[dict[str, tuple[str, int]]]:
        """The index, which no other thread changes within."""
        with using(self.directory):
            yield self._read_indices()

    def _read_indices(self) -> dict[str, tuple[str, int]]:
        names = self.directory.names()
        known = self._shards.keys() | self._replaced
        if len(names) == len(known) and all(name in known for name in names):
            return self._places
        if not known <= set(names):
            self._forget()
        again = bool(self._shards)
        new = [name for name in names if name not in self._shards and name not in self._replaced]
        alone = all([self._read_index(name, names) for name in new])
        if self._replaced & self._shards.keys() or not alone and again:
            replaced = self._replaced  # or the same query in two shards, read in some other order than theirs
            self._forget()
            self._replaced = replaced
            for name in names:
                if name not in replaced:
                    self._read_index(name, names)
        return self._places

    def _read_index(self, name: str, names: Sequence[str]) -> bool:
        """Add a shard to the index; False if some of its queries were in."""
        file = self.directory.open(name)
        told = shards.meta_of(file.schema_arrow)
        qids = file.read(columns=["qid"]).column("qid").to_pylist()
        self._replaced |= set(names) & set(told.get("replaces", ()))
        before = len(self._places)
        for row, qid in enumerate(qids):
            self._places.setdefault(qid, (name, row))
        whole = len(self._places) == before + len(qids)
        rows = range(len(qids)) if whole else [r for r, qid in enumerate(qids) if self._places[qid] == (name, r)]
        self._shards[name] = _Shard(
            np.asarray(rows, dtype=int), file.ends, np.asarray(told.get("empty", []), dtype=int),
            int(told.get("documents", 0)), tuple(tables.stored_columns(file.schema_arrow)),
        )  # fmt: skip
        return whole

    def __len__(self) -> int:
        """How many queries are labelled."""
        return len(self._index())

    def __getitem__(self, qid: str) -> pd.DataFrame:
        """The labels of one query, by its id; errors as of :meth:`frame`."""
        return self.frame([qid])

    def head(self, n: int = 5) -> pd.DataFrame:
        """The first ``n`` labelled rows, in the store's order."""
        first = self.blocks()[:1]
        return self.read(Block(first[0].shard, first[0].rows[:n])).head(n) if first else self.frame([])

    def __contains__(self, qid: object) -> bool:
        return str(qid) in self._index()

    @property
    def documents(self) -> int:
        """How many labelled documents there are, over all queries."""
        with self._known():
            return sum(shard.documents for shard in self._shards.values())

    def qids(self) -> list[str]:
        """The labelled queries, in the order in which they were built."""
        with self._known() as index:
            return sorted(index, key=index.__getitem__)

    def topics(self) -> pd.DataFrame:
        """Q frame: ``qid``, ``query`` of the labelled queries, and what their files say of them, such as ``subset``."""
        parts = []
        for name, shard in self._sorted_shards():
            table = self.directory.open(name).read(columns=["qid", "query"])
            parts.append(table.take(shard.rows).to_pandas())
        topics = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["qid", "query"])
        return notes.added(self.directory, topics)

    def columns(self) -> list[str]:
        """The label and ranking columns that are stored."""
        return list(dict.fromkeys(column for _, shard in self._sorted_shards() for column in shard.columns))

    def _sorted_shards(self) -> list[tuple[str, _Shard]]:
        with self._known():
            return sorted(self._shards.items(), key=lambda item: item[0])

    def frame(
        self, qids: Iterable[str] | None = None, columns: Sequence[str] | None = None, *, with_text: bool = False
    ) -> pd.DataFrame:
        """Labels as an R frame: ``qid``, ``query``, ``docno`` and what is stored.

        Args:
            qids: only these queries, in the store's order; None = all. One that is not in is an error.
            columns: only these label and ranking columns; None = all.
            with_text: whether to add the documents' texts that are stored.

        Raises:
            KeyError: naming a query that is not in the store, or a document whose text is not.
            MissingLabelError: naming a column that is not stored.
        """
        qids = [qids] if isinstance(qids, str) else qids
        columns = [columns] if isinstance(columns, str) else columns
        with self._known() as index:
            wanted = list(index) if qids is None else sorted({str(qid) for qid in qids})
            places = {qid: index[qid] for qid in wanted if qid in index}
        absent = [qid for qid in wanted if qid not in places]
        if absent:
            raise KeyError(f"{len(absent)} queries are not in {self.directory}, such as {absent[0]!r}: build them.")
        rows_of: dict[str, list[int]] = {}
        for name, row in places.values():
            rows_of.setdefault(name, []).append(row)
        parts = [self.read(Block(name, np.sort(rows)), columns) for name, rows in sorted(rows_of.items())]
        parts = [part for part in parts if len(part)] or parts[:1]
        frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["qid", "query", "docno"])
        if columns is not None and parts:
            frames.require_columns(frame, columns, reader=f"frame(columns={list(columns)})", context=None)
        return self.text_loader()(frame) if with_text else frame

    @cached_property
    def texts(self) -> Texts:
        """The documents' texts that are stored."""
        return Texts(self.directory)

    def text_loader(self, field: str = "text") -> StoredText:
        """R → R: adds the documents' texts that are stored.

        Args:
            field: the column to write.
        """
        return StoredText(self, field)

    # -- block by block -----------------------------------------------------------------------------------------------

    def blocks(self) -> list[Block]:
        """All queries that have documents, in parts of at most a few hundred, in the store's order."""
        found = []
        for name, shard in self._sorted_shards():
            rows = np.setdiff1d(shard.rows, shard.empty, assume_unique=True)
            parts = np.split(rows, np.searchsorted(rows, shard.ends[:-1])) if len(shard.ends) else []
            found += [Block(name, part) for part in parts if len(part)]
        return found

    def parts(self, located: pd.DataFrame) -> list[Block]:
        """Where some queries are, a part for each shard that has any.

        Args:
            located: rows of :meth:`located`.
        """
        return [Block(name, np.sort(rows.to_numpy())) for name, rows in located.groupby("shard", sort=True)["row"]]

    def located(self) -> pd.DataFrame:
        """Where the queries that have documents are: ``qid``, ``shard``, ``row`` in it."""
        with self._known() as index:
            without = {name: set(shard.empty.tolist()) for name, shard in self._shards.items()}
            rows = [(qid, name, row) for qid, (name, row) in index.items() if row not in without[name]]
        return pd.DataFrame(rows, columns=["qid", "shard", "row"])

    def read(self, block: Block, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """The R frame of one block.

        Args:
            block: one of :meth:`blocks`.
            columns: only these label and ranking columns; None = all.
        """
        return tables.to_frame(self._table(block, columns), columns)

    def _table(self, block: Block, columns: Sequence[str] | None = None) -> Any:
        file = self.directory.open(block.shard)
        ends = file.ends
        groups = np.unique(np.searchsorted(ends, block.rows, side="right"))
        table = file.read(tables.parquet_columns(file.schema_arrow, columns), groups.tolist())
        starts = np.concatenate([[0], ends])[groups]
        shifts = starts - np.concatenate([[0], np.cumsum(ends[groups] - starts)[:-1]])
        rows = block.rows - shifts[np.searchsorted(groups, np.searchsorted(ends, block.rows, side="right"))]
        return table if len(rows) == table.num_rows else table.take(rows)

    def lists(self, *, seed: int | None = 0, rank: int = 0, world: int = 1, buffer: int = 16) -> Iterator[pd.DataFrame]:
        """Queries that have documents, as R frames of at most 1,024 of them; memory does not grow with the store.

        Args:
            seed: of the order: blocks of 256 queries are shuffled, and queries among ``buffer`` blocks; None = as they
                were built.
            rank: which of ``world`` readers this is; each reads other blocks.
            world: how many readers there are.
            buffer: blocks mixed with each other.
        """
        return streams.lists(self, seed, rank, world, buffer)

    def __iter__(self) -> Iterator[pd.DataFrame]:
        """All queries that have documents, as R frames, in the store's order."""
        return self.lists(seed=None)

    # -- for people and other programs --------------------------------------------------------------------------------

    @property
    def usage(self) -> Usage:
        """What all labels together have cost: calls, tokens, and the seconds that labelling them took."""
        metas = (shards.meta_of(self.directory.open(name).schema_arrow) for name, _ in self._sorted_shards())
        return sum(map(shards.usage_of, metas), Usage())

    def describe(self) -> Description:
        """Sizes, costs and the distribution of each label; a table with histograms in Jupyter."""
        return description.describe(self)

    @arguments.renamed(by="label")
    def to_run(self, file: str | os.PathLike, label: str | None = None, tag: str = "teacher") -> None:
        """Write a TREC run, whole or not at all.

        A run holds an order, so tied labels are written as numbers that fall by the least that trec_eval tells apart,
        in the order of the stored ranking.

        Args:
            file: gzipped if it ends in ``.gz``.
            label: the column that orders: None = ``teacher_rank``, ``teacher_score`` or ``score``, the first that a
                query has for all of its documents.
            tag: the run's name.

        Raises:
            ValueError: for an id or a tag that a run cannot hold (white space in it, or empty), or a query without
                numbers to order by.
            MissingLabelError: if the store lacks ``label``, or documents.
            OSError: if it cannot be written.
        """
        convert.to_run(self, file, label, tag)

    def to_jsonl(self, file: str | os.PathLike) -> None:
        """Write JSON Lines: one object a query, ``{"qid", "query", "docno": [...], label: [...], ...}``.

        A label that a query does not have is left out of its line.

        Args:
            file: gzipped if it ends in ``.gz``; written whole or not at all.

        Raises:
            ValueError: if a query has a label for some of its documents only.
            MissingLabelError: if the store has no documents.
            OSError: if it cannot be written.
        """
        convert.to_jsonl(self, file)

    def to_hf_dataset(self, text: Any = None, *, label: str = TEACHER_SCORE) -> Any:
        """A ``datasets.Dataset`` that sentence-transformers trains on: ``query``, ``docs`` and ``labels``, lists of one
        query in a row.

        Args:
            text: a dataset, a D frame with ``docno`` and ``text``, or a transformer that adds ``text``; None = the
                store's own.
            label: the column of labels; ranks are turned so that higher is better.

        Raises:
            ModuleNotFoundError: without the package datasets.
        """
        return convert.to_hf_dataset(self, text, label)
