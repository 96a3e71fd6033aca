"""A teacher that remembers: known questions are answered from the store, the rest asked and kept."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyterrier as pt

from .. import validate
from ..backends.base import Usage
from ..teachers.base import LabellingError, Teacher, incoming_order, rerank
from .identity import digest, identity

if TYPE_CHECKING:
    from .store import LabelStore


class CachedTeacher(Teacher):
    """R → R: what ``teacher`` says, from the store where it said it before. Made by :meth:`LabelStore.cache`.

    The key of an answer covers the teacher's identity (model, revision or content, prompt, window, precision, ...), the
    query's text, and: for a teacher that judges each document by itself the document's id and text, for others the
    whole list of them in their incoming order.

    Args:
        store: a store of its own, not one that was built from topics.
        teacher: the teacher.
    """

    schematic = {"label": "CachedTeacher"}

    def __init__(self, store: LabelStore, teacher: Teacher):
        self.store = store
        self.teacher = teacher
        self.text_field = getattr(teacher, "text_field", "text")
        self._lock = threading.Lock()

    @property
    def pointwise(self) -> bool:
        """Whether the teacher judges each document by itself."""
        return not getattr(self.teacher, "unique", True)

    @property
    def usage(self) -> Usage:
        """What was really asked."""
        return self.teacher.usage

    def estimate(self, inp: pd.DataFrame) -> Usage:
        """The cost of what is not known yet."""
        keys = self._keys(inp)
        known = self._known(keys)
        return self.teacher.estimate(inp[~known]) if len(inp) else Usage()

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Label and re-rank; every other column, the rows' order and the index stay."""
        if len(inp) == 0:
            return self.teacher(inp)
        self._check(inp)
        keys = self._keys(inp)
        known = self._known(keys)
        if not known.all():
            before = Usage() + self.teacher.usage
            try:
                labelled = self.teacher(inp[~known])
            except LabellingError as error:
                done = inp["qid"].isin(error.labelled["qid"].unique()).to_numpy()
                if (done & ~known).any():
                    spent = self.teacher.usage - before
                    self._keep(error.labelled, keys[done & ~known], inp[done & ~known], spent)
                complete = inp["qid"].isin(set(inp["qid"]) - set(inp["qid"][~self._known(keys)])).to_numpy()
                answered = self._answered(inp[complete], keys[complete])
                raise LabellingError(str(error), answered) from error
            self._keep(labelled, keys[~known], inp[~known], self.teacher.usage - before)
        return self._answered(inp, keys)

    def _check(self, inp: pd.DataFrame) -> None:
        """A wrapped re-ranker says itself what it reads."""
        if isinstance(getattr(self.teacher, "model", None), pt.Transformer):
            validate.result_frame(inp, ["query"], context=self)
        else:
            super()._check(inp)

    def _known(self, keys: np.ndarray) -> np.ndarray:
        """Which answers are stored."""
        index = self.store._index()
        return np.array([key in index for key in keys], dtype=bool)

    def _keys(self, inp: pd.DataFrame) -> np.ndarray:
        """The key of each row's answer."""
        teacher = identity(self.teacher)
        texts = inp[self.text_field] if self.text_field in inp.columns else pd.Series([""] * len(inp))
        hashed = pd.util.hash_pandas_object(texts.astype(str), index=False).tolist()
        rows = list(zip(inp["query"], inp["docno"].astype(str), hashed, strict=True))
        if self.pointwise:
            return np.array([digest([teacher, *row]) for row in rows], dtype=object)
        keys = np.empty(len(inp), dtype=object)
        order = incoming_order(inp)
        for _, places in inp.groupby("qid", sort=False).indices.items():
            ordered = places[np.argsort(order[places], kind="stable")]
            keys[places] = digest([teacher, rows[places[0]][0], [rows[place][1:] for place in ordered]])
        return keys

    def _keep(self, labelled: pd.DataFrame, keys: np.ndarray, asked: pd.DataFrame, usage: Usage) -> None:
        """Commit answers under their keys.

        Raises:
            ValueError: if the teacher gave other rows than it was asked about.
        """
        ids = [asked["qid"].astype(str).to_numpy(), asked["docno"].astype(str).to_numpy()]
        given = [labelled["qid"].astype(str).to_numpy(), labelled["docno"].astype(str).to_numpy()]
        key_of: dict[tuple[str, str], list[str]] = {}
        for qid, docno, key in zip(*ids, keys, strict=True):
            key_of.setdefault((qid, docno), []).append(key)
        try:  # rows in whatever order; equal ids in the order in which they were asked
            found = [key_of[qid, docno].pop(0) for qid, docno in zip(*given, strict=True)]
        except (KeyError, IndexError):
            found = []
        if len(found) != len(keys):
            raise ValueError(
                f"{self.teacher!r} was asked about {len(keys)} documents and answered with others, or not with all of"
                " them: a cached teacher must return the rows that it is given."
            )
        rows = labelled.assign(qid=found).drop_duplicates(["qid", "docno"])
        self.store._create({"cache of": identity(self.teacher), "reads": repr(self.teacher)})
        with self._lock, self._claim():
            index = self.store._index()
            new = rows[[key not in index for key in rows["qid"]]]
            queries = new[["qid", "query"]].drop_duplicates("qid", ignore_index=True)
            if len(new):
                self.store._check_labelled(new, f"{self.teacher!r} leaves", False)
                self.store._commit(new, queries, len(index), usage)

    def _claim(self) -> Any:
        return self.store.directory.claimed("commit", wait=True)

    def _answered(self, inp: pd.DataFrame, keys: np.ndarray) -> pd.DataFrame:
        stored = self.store.frame(dict.fromkeys(keys)).set_index(["qid", "docno"])
        index = pd.MultiIndex.from_arrays([keys, inp["docno"].astype(str)])
        found = stored.reindex(index)
        absent = {"query", "score", "rank", *(c for c in found.columns if found[c].isna().all())}
        labels = {c: found[c].to_numpy() for c in found.columns if c not in absent}
        return rerank(inp, found["score"].to_numpy(dtype=float), **labels)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def __repr__(self) -> str:
        return f"{self.store!r}.cache({self.teacher!r})"


class Caching:
    """The part of :class:`~pyterrier_distill.LabelStore` that remembers."""

    def cache(self, teacher: pt.Transformer) -> CachedTeacher:
        """``teacher``, answered from this store where it was asked before.

        Args:
            teacher: a teacher, or any re-ranker, whose score of a document then is its label.

        Raises:
            ValueError: if this store was built from topics: labels of queries and answers of a teacher do not mix.
        """
        if "pipeline" in self.manifest:
            raise ValueError(
                f"{self.directory} holds labels that were built from topics: give the cache a path of its own."
            )
        if not isinstance(teacher, Teacher):
            from ..teachers.pointwise import PointwiseTeacher

            teacher = PointwiseTeacher(teacher)
        return CachedTeacher(self, teacher)
