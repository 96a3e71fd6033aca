"""LabelStore: an artifact that keeps teacher labels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt

from .. import frames
from ..backends.base import Usage
from . import directory as files
from . import shards
from .building import Building
from .caching import Caching
from .converting import Converting
from .describing import Describing


class LabelStore(Building, Caching, Converting, Describing, pt.Artifact):
    """Labels of whole queries on disk: resumable to build, streaming to read, an artifact to publish.

    A directory with ``pt_meta.json``, ``manifest.json`` (what made the labels, for people) and ``shards/``: parquet
    files of whole queries. A shard is written beside, synced and renamed in; what is not renamed in does not exist.
    Queries come in the order in which they were built.

    Args:
        path: a directory; one that is not there is made by the first thing written.

    Raises:
        ValueError: if the directory is something else.
        ModuleNotFoundError: without pyarrow.

    Example::

        store = ptd.LabelStore("msmarco.labels").build(candidates >> teacher, topics)
        ptd.Distiller(student, ptd.KLDivergence()).fit(store.frame(), None)
    """

    ARTIFACT_TYPE = "label_store"
    ARTIFACT_FORMAT = "parquet"
    ARTIFACT_PACKAGE_HINT = "pyterrier-distill"

    def __init__(self, path: str | os.PathLike):
        shards.arrow()
        super().__init__(os.fspath(path))
        self.directory = files.Directory(path)
        root = self.directory.path
        if root.is_file() or (root.is_dir() and any(root.iterdir()) and not (root / files.META).is_file()):
            raise ValueError(f"{root} exists and is no label store: choose another path.")
        if (root / files.META).is_file():
            import json

            meta = json.loads((root / files.META).read_text(encoding="utf-8"))
            if (meta.get("type"), meta.get("format")) != (self.ARTIFACT_TYPE, self.ARTIFACT_FORMAT):
                raise ValueError(f"{root} is an artifact of type {meta.get('type')!r}, no label store.")
        self._places: dict[str, tuple[str, int]] | None = None
        self._seen: list[str] = []

    # -- what is in ---------------------------------------------------------------------------------------------------

    @property
    def manifest(self) -> dict[str, Any]:
        """What made the labels: pipeline, models, prompts, versions; empty before anything was built."""
        return self.directory.manifest()

    def _index(self) -> dict[str, tuple[str, int]]:
        """qid → (shard, row), of all shards that are in."""
        names = self.directory.names()
        if self._places is None or self._seen != names:
            places: dict[str, tuple[str, int]] = {}
            for name in names:
                qids = self.directory.open(name).read(columns=["qid"]).column("qid").to_pylist()
                for row, qid in enumerate(qids):
                    places.setdefault(qid, (name, row))
            self._places, self._seen = places, names
        return self._places

    def __len__(self) -> int:
        """How many queries are labelled."""
        return len(self._index())

    def __contains__(self, qid: object) -> bool:
        return str(qid) in self._index()

    def qids(self) -> list[str]:
        """The labelled queries, in the order in which they were built."""
        index = self._index()
        return sorted(index, key=index.__getitem__)

    def topics(self) -> pd.DataFrame:
        """Q frame: ``qid``, ``query`` of the labelled queries."""
        parts = [self.directory.open(n).read(columns=["qid", "query"]).to_pandas() for n in self.directory.names()]
        topics = pd.concat(parts) if parts else pd.DataFrame(columns=["qid", "query"])
        return topics.drop_duplicates("qid", ignore_index=True)

    def frame(self, qids: Iterable[str] | None = None, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Labels as an R frame: ``qid``, ``query``, ``docno`` and what is stored.

        Args:
            qids: only these queries, in the store's order; None = all. One that is not in is an error.
            columns: only these label and ranking columns; None = all.

        Raises:
            KeyError: naming a query that is not in the store.
            MissingLabelError: naming a column that is not stored.
        """
        index = self._index()
        wanted = None if qids is None else {str(qid) for qid in qids}
        absent = sorted(wanted - index.keys()) if wanted is not None else []
        if absent:
            raise KeyError(f"{len(absent)} queries are not in {self.path}, such as {absent[0]!r}: build them first.")
        rows_of: dict[str, list[int]] = {}
        for qid, (name, row) in index.items():
            if wanted is None or qid in wanted:
                rows_of.setdefault(name, []).append(row)
        parts = [shards.to_frame(self._rows(name, rows), columns) for name, rows in sorted(rows_of.items())]
        frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["qid", "query", "docno"])
        if columns is not None and parts:
            frames.require_columns(frame, columns, reader=f"frame(columns={list(columns)})", context=None)
        return frame

    def _rows(self, name: str, rows: Sequence[int]) -> Any:
        table = self.directory.open(name).read()
        return table if len(rows) == table.num_rows else table.take(np.asarray(rows))

    def lists(self, *, seed: int | None = 0, rank: int = 0, world: int = 1, buffer: int = 8) -> Iterator[pd.DataFrame]:
        """Queries as R frames, a block of about a thousand at a time; memory does not grow with the store.

        Args:
            seed: of the order: blocks are shuffled, and queries among ``buffer`` blocks; None = as they were built.
            rank: which of ``world`` readers this is; each reads other blocks.
            world: how many readers there are.
            buffer: blocks mixed with each other.
        """
        rng = np.random.default_rng(seed)
        index = self._index()
        groups = [(n, g) for n in self.directory.names() for g in range(self.directory.open(n).num_row_groups)]
        if seed is not None:
            groups = [groups[n] for n in rng.permutation(len(groups))]
        groups = groups[rank::world]
        for start in range(0, len(groups), buffer):
            parts = []
            for name, group in groups[start : start + buffer]:
                table = self.directory.open(name).read_row_group(group)
                first = sum(self.directory.open(name).metadata.row_group(g).num_rows for g in range(group))
                mine = [n for n, q in enumerate(table.column("qid").to_pylist()) if index.get(q) == (name, first + n)]
                parts.append(table.take(mine) if len(mine) < table.num_rows else table)
            table = shards.arrow().concat_tables(parts)
            order = np.arange(table.num_rows) if seed is None else rng.permutation(table.num_rows)
            for block in range(0, len(order), 1024):
                yield shards.to_frame(table.take(order[block : block + 1024]))

    # -- putting in ---------------------------------------------------------------------------------------------------

    def add(
        self, labelled: pd.DataFrame, topics: pd.DataFrame | None = None, *, start: int | None = None
    ) -> LabelStore:
        """Commit a labelled frame.

        Args:
            labelled: R frame with ``query`` and label columns, whole queries.
            topics: all queries that were labelled, those without documents, too; None = those of ``labelled``.
            start: position of the first one among all; None = behind what is in.

        Raises:
            ValueError: if a query is in already, a document stands twice in a list, or there is no label.
        """
        frames.require_columns(labelled, ["qid", "query", "docno"], reader="LabelStore")
        if len(labelled):
            frames.check_results(labelled)
        if not shards.label_columns(labelled):
            raise ValueError(
                f"the frame holds no label ({', '.join(labelled.columns)}): put a teacher at the end of the pipeline."
            )
        given = labelled if topics is None else topics
        queries = given[["qid", "query"]].astype({"qid": str}).drop_duplicates("qid", ignore_index=True)
        twice = [qid for qid in queries["qid"] if qid in self]
        if twice:
            raise ValueError(f"{len(twice)} queries are in {self.path} already, such as {twice[0]!r}.")
        self._create({})
        self._commit(labelled, queries, len(self) if start is None else start, Usage())
        return self

    def _create(self, manifest: dict[str, Any]) -> None:
        hint = {"package_hint": self.ARTIFACT_PACKAGE_HINT}
        self.directory.create({"type": self.ARTIFACT_TYPE, "format": self.ARTIFACT_FORMAT, **hint}, manifest)

    def _commit(self, labelled: pd.DataFrame, queries: pd.DataFrame, start: int, usage: Usage) -> None:
        table = shards.to_table(labelled.astype({"qid": str}), queries, {"usage": usage.as_dict()})
        name = self.directory.write(table, start)
        if self._places is not None:  # the index grows with what this process writes
            self._places.update({qid: (name, row) for row, qid in enumerate(queries["qid"]) if qid not in self._places})
            self._seen = sorted([*self._seen, name])

    def __repr__(self) -> str:
        return f"LabelStore({str(self.path)!r})"
