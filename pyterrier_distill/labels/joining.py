"""Rows of one part of a spool, joined by query and document, as labelled frames."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..frames import LABEL, TEACHER_LOGITS, TEACHER_RANK, TEACHER_SCORE
from ..stores import rows
from . import notes
from .spool import Spool

if TYPE_CHECKING:
    from .store import LabelStore

logger = logging.getLogger(__name__)

#: Names the place of a row, by its file's number and its line.
Place = Callable[[int, int], str]


@dataclass(frozen=True)
class Block:
    """Queries that are committed together.

    Attributes:
        documents: their documents, each query's together: ``qid``, ``query``, ``docno``, columns of numbers.
        pairs: what compares them; None = the files compare none.
        notes: ``qid`` and what is noted.
    """

    documents: pd.DataFrame
    pairs: pd.DataFrame | None
    notes: pd.DataFrame

    @property
    def queries(self) -> int:
        """How many there are."""
        return int(self.documents["qid"].nunique())

    def frames(self) -> Iterator[pd.DataFrame]:
        """Labelled frames, one for the queries that have the same labels."""
        told = [name for name in self.documents.columns if name not in ("qid", "query", "docno", "file", "line")]
        codes, qids = pd.factorize(self.documents["qid"])
        kinds = np.zeros(len(qids), dtype=int)  # a bit for each label that some document of the query has
        for n, name in enumerate(told):
            kinds |= (np.bincount(codes, self.documents[name].notna(), len(qids)) > 0).astype(int) << n
        of_row = kinds[codes]
        for kind in dict.fromkeys(kinds.tolist()):
            lacking = [name for n, name in enumerate(told) if not kind >> n & 1]
            frame = self.documents[of_row == kind].drop(columns=[*lacking, "file", "line"], errors="ignore")
            if self.pairs is not None:
                frame = rows.with_preferences(frame, self.pairs[self.pairs["qid"].isin(frame["qid"].unique())])
            frame = rows.with_logits(frame.astype({c: "int64" for c in (TEACHER_RANK, LABEL) if c in frame.columns}))
            if TEACHER_LOGITS in frame.columns and TEACHER_SCORE not in frame.columns:
                logits = np.stack(list(frame[TEACHER_LOGITS])).astype(float)
                frame = frame.assign(**{TEACHER_SCORE: -np.logaddexp(0, logits[:, 0] - logits[:, 1])})
            yield frame.reset_index(drop=True)

    def commit(self, store: LabelStore, frame: pd.DataFrame) -> None:
        """Put a frame of :meth:`frames` into the store, but for queries that are in."""
        index = store._index()
        frame = frame[[qid not in index for qid in frame["qid"]]].reset_index(drop=True)
        if not len(frame):
            return
        noted = self.notes[self.notes["qid"].isin(frame["qid"].unique())]
        if len(noted) and len(noted.columns) > 1:
            notes.write(store.directory, noted, len(index))
        store.add(frame)


class Joined:
    """The rows of one part.

    Args:
        spool: where they are.
        part: which.
        files: that they come from.
        place: names a row's place.
        missing: what becomes of documents that lack one of the labels that their query has: ``"error"``, ``"drop"``.

    Raises:
        ValueError: naming the place, if files disagree, or labels are missing.
    """

    def __init__(self, spool: Spool, part: int, files: Sequence[Path], place: Place, missing: str):
        self._place = place
        self._files = files
        single = {int(file): told for file, told in spool.told["single"].items()}
        self._pairs = self._once(list(spool.read("pairs", part)), ["qid", "docno", "other"])
        compared = self._pairs is not None
        documents = self._once(
            [table for one in spool.read("documents", part) for table in self._decided(one, single)], ["qid", "docno"]
        )
        if documents is None and spool.has("documents"):
            documents = pd.DataFrame(columns=["qid", "docno", "file", "line"], dtype=object)
        if documents is not None:
            documents = self._complete(documents, missing)
        elif compared:
            documents = rows.with_preferences(None, self._pairs)[["qid", "docno"]]
        if not compared and spool.has("pairs"):
            self._pairs = pd.DataFrame(columns=["qid", "docno", "other", "p"], dtype=object)
        self._documents = documents
        self._topics, self._notes = self._queries(spool, part)
        #: How many queries have no text among the topics, where some were given.
        self.without_topic = self._without_topic(spool, part)

    def _where(self, row: pd.Series) -> str:
        return self._place(int(row["file"]), int(row["line"]))

    def _once(self, tables: Sequence[pd.DataFrame], key: list[str]) -> pd.DataFrame | None:
        """Rows of several tables, in the order of files and lines, each document or pair once."""
        if not tables:
            return None
        together = pd.concat(tables, ignore_index=True).sort_values(["file", "line"], kind="stable", ignore_index=True)
        found = rows.once(together, key, self._where).reset_index(drop=True)
        rows.check_orders(together, key, self._where)
        return found

    def _decided(self, table: pd.DataFrame, single: dict[int, bool]) -> Iterator[pd.DataFrame]:
        if "first" not in table.columns:
            yield table
            return
        for file, of_file in table.groupby("file", sort=True):
            yield rows.decided(of_file.reset_index(drop=True), single[int(file)], self._files[int(file)])

    def _complete(self, documents: pd.DataFrame, missing: str) -> pd.DataFrame:
        """Documents that have every label that others of their query have.

        Raises:
            ValueError: if ``missing`` says so and some have not.
        """
        told = [name for name in documents.columns if name not in ("qid", "docno", "file", "line", LABEL)]
        known = documents[told].notna()
        lacks = (known.groupby(documents["qid"].to_numpy()).transform("any") & ~known).any(axis=1).to_numpy()
        lost, count = documents[lacks].head(1), int(lacks.sum())
        if self._pairs is not None:
            both = [self._pairs[["qid", name, "file", "line"]].set_axis(["qid", "docno", "file", "line"], axis=1)
                    for name in ("docno", "other")]  # fmt: skip
            pairs = pd.concat(both, ignore_index=True).drop_duplicates(["qid", "docno"])
            index = pd.MultiIndex.from_frame(documents[["qid", "docno"]])
            strange = pairs[index.get_indexer(pd.MultiIndex.from_frame(pairs[["qid", "docno"]])) < 0]
            lost, count = (lost if len(lost) else strange.head(1)), count + len(strange)
        if count and missing == "error":
            row = lost.iloc[0]
            raise ValueError(
                f"{self._where(row)}: document {row['docno']!r} of query {row['qid']!r} lacks a label that others of"
                f" the query have ({count} such documents so far): pass missing='drop' to leave them out."
            )
        if count:
            logger.warning("%d documents that lack a label are left out, such as %s.", count, lost["docno"].iloc[0])
        documents = documents[~lacks].reset_index(drop=True)
        if LABEL in documents.columns:  # what is not judged in a query that has judgements is not relevant
            judged = documents[LABEL].notna().groupby(documents["qid"].to_numpy()).transform("any")
            documents[LABEL] = documents[LABEL].mask(documents[LABEL].isna() & judged, 0.0)
        return documents

    def _queries(self, spool: Spool, part: int) -> tuple[pd.Series, pd.DataFrame]:
        """Texts of queries by qid, and what is noted of them.

        Raises:
            ValueError: if a query has two texts, and the topics none; if it is of two subsets.
        """
        topics = pd.concat([_no_queries(), *spool.read("topics", part)])
        again = topics[topics.duplicated("qid") & ~topics.duplicated(["qid", "query"])]
        if len(again):
            raise ValueError(f"the topics hold query {again['qid'].iloc[0]!r} twice, with two texts.")
        told = [_no_queries(), *spool.read("queries", part)]
        own = pd.concat(told, ignore_index=True)
        if len(own):
            own = own.sort_values(["file", "line"], kind="stable", ignore_index=True)
        self._of_one_subset(own)
        texts = own.drop_duplicates(["qid", "query"])
        twice = texts[texts.duplicated("qid") & ~texts["qid"].isin(topics["qid"])]
        if len(twice):
            row = twice.iloc[0]
            first = texts[texts["qid"] == row["qid"]].iloc[0]
            raise ValueError(
                f"{self._where(row)}: query {row['qid']!r} has another text than in {self._where(first)}: pass topics=."
            )
        return pd.concat([topics, texts]).drop_duplicates("qid").set_index("qid")["query"], _united(own)

    def _of_one_subset(self, own: pd.DataFrame) -> None:
        """Check that no query is of two collections.

        Raises:
            ValueError: naming the places.
        """
        if "subset" not in own.columns:
            return
        told = own[own["subset"].notna()].drop_duplicates(["qid", "subset"])
        twice = told[told.duplicated("qid")]
        if len(twice):
            row = twice.iloc[0]
            first = told[told["qid"] == row["qid"]].iloc[0]
            raise ValueError(
                f"{self._where(row)}: query {row['qid']!r} is of subset {row['subset']!r}, and in"
                f" {self._where(first)} of {first['subset']!r}: one list cannot be of both. Give queries of two subsets"
                " ids of their own, or read each subset into a store of its own."
            )

    def _without_topic(self, spool: Spool, part: int) -> int:
        if self._documents is None or not spool.has("topics"):
            return 0
        known = {qid for table in spool.read("topics", part) for qid in table["qid"]}
        return sum(qid not in known for qid in self._documents["qid"].unique())

    def blocks(self, size: int) -> Iterator[Block]:
        """The queries, ``size`` at a time, in the order in which the files name them first.

        Raises:
            ValueError: naming a query without a text.
        """
        if self._documents is None or not len(self._documents):
            return
        codes, qids = pd.factorize(self._documents["qid"])
        order = np.argsort(codes, kind="stable")
        documents, ends = self._documents.iloc[order], np.searchsorted(codes[order], np.arange(0, len(qids), size))
        texts = self._topics.reindex(qids)
        if texts.isna().any():
            row = documents[documents["qid"] == qids[int(texts.isna().to_numpy().argmax())]].iloc[0]
            where = self._where(row) if "line" in documents.columns else str(self._files[0])
            raise ValueError(
                f"{where}: the text of query {row['qid']!r} is in none of the files nor in the topics"
                f" ({int(texts.isna().sum())} such queries so far)."
            )
        documents = documents.assign(query=texts.to_numpy(dtype=object)[codes[order]])
        pairs, cuts = self._pairs, np.zeros(len(ends) + 1, dtype=int)
        if pairs is not None:
            of_pair = pd.Index(qids).get_indexer(pairs["qid"])
            by_query = np.argsort(of_pair, kind="stable")
            pairs = pairs.iloc[by_query]
            cuts = np.searchsorted(of_pair[by_query], np.arange(0, len(qids) + size, size))
        for n, (start, end) in enumerate(zip(ends, [*ends[1:], len(documents)], strict=True)):
            part = documents.iloc[start:end].reset_index(drop=True)
            noted = self._notes[self._notes["qid"].isin(part["qid"].unique())]
            yield Block(part, None if pairs is None else pairs.iloc[cuts[n] : cuts[n + 1]], noted)


def _united(own: pd.DataFrame) -> pd.DataFrame:
    """What is noted of each query, in all of its entries: its subset, and answers, each once."""
    names = [name for name in rows.NOTES if name in own.columns]
    noted = own[["qid", *names]]
    again = noted.duplicated("qid", keep=False).to_numpy()
    once = noted[~again | ~noted.duplicated("qid").to_numpy()].astype(object)
    for name in names:
        found: dict[str, list] = {}
        for qid, cell in noted.loc[again & noted[name].notna().to_numpy(), ["qid", name]].itertuples(index=False):
            found.setdefault(qid, []).extend([cell] if isinstance(cell, str) else cell)
        united = {qid: cells[0] if name == "subset" else list(dict.fromkeys(cells)) for qid, cells in found.items()}
        once[name] = [united.get(qid, cell) for qid, cell in zip(once["qid"], once[name], strict=True)]
    return once


def _no_queries() -> pd.DataFrame:
    return pd.DataFrame(columns=["qid", "query"], dtype=object)
