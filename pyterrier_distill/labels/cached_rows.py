"""What a teacher wrote into rows, kept: of each document, or of each whole list."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyterrier as pt

from .. import frames
from ..backends.usage import Usage
from ..frames import ranking, validate
from ..frames.ranking import incoming_order, rerank
from ..identity.comparison import class_name
from ..identity.identity import digest, identity
from ..teachers.base import LabellingError, Teacher, hands_on
from . import checks, tables
from .cells import hash_cells

if TYPE_CHECKING:
    from .cache import Commits


class CachedRows:
    """The labels of a teacher, from a store where it wrote them before.

    The key of a row's labels is the teacher's identity, the query, and what the teacher reads of the row; of a teacher
    of whole lists, that of all the list's rows in their incoming order. A teacher is given nothing but what is in the
    key: of this package's, and of those that declare what they read (``transform_inputs``, ``required_columns``), that,
    and what they then turn out to look for; of others, who may use a column where it is there, all but labels, and
    of who judges documents one by one but their scores and ranks.

    Args:
        teacher: who labels.
        commits: how labels reach the store.
    """

    def __init__(self, teacher: Teacher, commits: Commits):
        self.teacher = teacher
        self.commits = commits
        self._looked_for: list[str] = []

    @property
    def by_document(self) -> bool:
        """Whether the teacher is known to judge each document by itself."""
        return judges_documents(self.teacher)

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """As the teacher.

        Raises:
            LabellingError: if the teacher fails, or its labels cannot be kept; it carries the finished queries.
            OSError: if nothing can be written; nothing was asked then.
        """
        if not len(inp) or "docno" not in inp.columns:  # nothing to re-rank: a teacher may retrieve
            return self.teacher(inp)
        self._check(inp)
        while True:
            reads = self._reads(inp)
            keys = self._keys(inp, reads)
            try:
                self._label(inp, keys, reads)
            except (KeyError, AttributeError, pt.validate.InputValidationError) as error:
                if not self._learns(error, [c for c in inp.columns if c not in reads]):
                    raise
                continue
            return self._answered(inp, keys)

    def estimate(self, inp: pd.DataFrame) -> Usage:
        """The cost of what is not known yet."""
        if not len(inp):
            return Usage()
        known = self._known(self._keys(inp, self._reads(inp)))
        return Usage() if known.all() else self.teacher.estimate(inp[~known])

    # -- what the teacher reads ---------------------------------------------------------------------------------------

    def _check(self, inp: pd.DataFrame) -> None:
        validate.frame(inp)
        if self.teacher.unique:
            frames.check_unique(inp)

    def _reads(self, inp: pd.DataFrame) -> list[str]:
        """The columns that the teacher reads, ids first."""
        speaker = self._speaker
        modes = pt.inspect.transformer_inputs(speaker, strict=False) or []
        modes = [mode for mode in modes if {"qid", "docno"} <= set(mode) and set(mode) <= set(inp.columns)]
        told = [column for mode in modes for column in mode] or ["query", self.teacher.text_field]
        reads = dict.fromkeys(["qid", "docno", *told, *self._looked_for])
        if not _declares(speaker):
            labels = {"label", frames.FIRST_STAGE_RANK, *tables.label_columns(inp)}
            if self.by_document:  # where a document stood says nothing of it, unless it is looked for
                labels |= {"score", "rank"}
            reads |= dict.fromkeys(sorted(c for c in inp.columns if isinstance(c, str) and c not in labels))
        return [column for column in reads if column in inp.columns]

    @property
    def _speaker(self) -> pt.Transformer:
        """Who reads columns: the teacher, or the re-ranker that it wraps."""
        model = getattr(self.teacher, "model", None)
        return model if isinstance(model, pt.Transformer) else self.teacher

    def _learns(self, error: Exception, withheld: Sequence[str]) -> bool:
        """Whether ``error`` is about columns that were withheld; the teacher gets them next time."""
        if isinstance(error, pt.validate.InputValidationError):
            about = {column for mode in error.modes for column in mode.missing_columns}
        elif isinstance(error, AttributeError):
            about = {error.name} if isinstance(error.obj, (pd.DataFrame, pd.Series, tuple)) else set()
        else:
            said = error.args[0] if error.args else None
            about = {said} if isinstance(said, Hashable) else set()
            if isinstance(said, str) and _SEVERAL.search(said):
                about = {column for column in withheld if repr(column) in said}
        named = [column for column in withheld if column in about]
        self._looked_for += named
        return bool(named)

    def _given(self, rows: pd.DataFrame, reads: list[str]) -> pd.DataFrame:
        """What the teacher is given of ``rows``."""
        given = rows[reads]
        if self.by_document or "rank" in reads or "score" in reads:
            return given
        return given.assign(rank=incoming_order(rows))  # the order is all that a list has besides

    def _keys(self, inp: pd.DataFrame, reads: Sequence[str]) -> np.ndarray:
        """The key of each row's labels."""
        teacher = identity(self.teacher)
        cells = [hash_cells(inp[column]) for column in reads]
        rows = [list(row) for row in zip(*cells, strict=True)]
        if self.by_document:
            return np.array([digest([teacher, list(reads), row]) for row in rows], dtype=object)
        keys = np.empty(len(inp), dtype=object)
        order = incoming_order(inp)
        for _, places in inp.groupby(inp["qid"].to_numpy(), sort=False).indices.items():
            ordered = places[np.argsort(order[places], kind="stable")]
            keys[places] = digest([teacher, list(reads), [rows[place] for place in ordered]])
        return keys

    # -- asking -------------------------------------------------------------------------------------------------------

    def _label(self, inp: pd.DataFrame, keys: np.ndarray, reads: list[str]) -> None:
        """Ask about what is not known, and keep it, a batch of queries at a time."""
        unknown = np.flatnonzero(~self._known(keys)).tolist()
        qids = inp["qid"].tolist()
        for batch in self.commits.batches(sorted(unknown, key=_first_places(qids)), lambda row: qids[row]):
            with self.commits.asking(digest([keys[batch[0]], len(batch)])):
                rows = np.array(batch)[~self._known(keys[batch])]  # another process may have been here
                if len(rows):
                    self._ask(inp, np.sort(rows), keys, reads)

    def _ask(self, inp: pd.DataFrame, rows: np.ndarray, keys: np.ndarray, reads: list[str]) -> None:
        """Ask about ``rows``, and keep what is labelled, whatever stops it."""
        before = Usage() + self.teacher.usage
        given = self._given(inp.iloc[rows], reads)
        stopped: LabellingError | None = None
        try:
            with ranking.tied():  # ties are broken by the list that is answered, not by the one that was asked about
                labelled = self.teacher(given)
        except LabellingError as error:
            own = hands_on(self.teacher)  # else what it carries is what another teacher wrote, not this one
            stopped, labelled = error, error.labelled if own else given.iloc[:0]
            done = given["qid"].isin(labelled["qid"].unique() if len(labelled) else []).to_numpy()
            rows, given = rows[done], given[done]
        try:
            if len(rows):
                self._keep(labelled, keys[rows], inp["query"].iloc[rows] if "query" in inp else None, given, before)
        except (OSError, ValueError) as error:
            if isinstance(error, NotItsRows):
                raise
            raise LabellingError(
                f"labels were given but could not be kept: {error} They are in this error's .labelled.", labelled
            ) from error
        if stopped is not None:
            known = self._known(keys)
            complete = ~inp["qid"].isin(set(inp["qid"][~known])).to_numpy()
            raise LabellingError(str(stopped), self._answered(inp[complete], keys[complete])) from stopped

    def _known(self, keys: np.ndarray) -> np.ndarray:
        """Which labels are stored."""
        index = self.commits.store._index()
        return np.array([key in index for key in keys], dtype=bool)

    def _keep(
        self, labelled: pd.DataFrame, keys: np.ndarray, queries: pd.Series | None, given: pd.DataFrame, before: Usage
    ) -> None:
        """Commit what the teacher wrote, and nothing that stood there before.

        Raises:
            NotItsRows: if the teacher gave other rows than it was given.
        """
        asked = _pairs(given)
        places: dict[tuple[str, str], list[int]] = {}
        for place, pair in enumerate(asked):
            places.setdefault(pair, []).append(place)
        try:  # rows in whatever order; equal ids in the order in which they were asked
            found = [places[pair].pop(0) for pair in _pairs(labelled)]
        except (KeyError, IndexError):
            found = []
        if len(found) != len(keys):
            raise NotItsRows(
                f"{self.teacher!r} was asked about {len(keys)} documents and answered with others, or not with all of"
                " them: a cached teacher must return the rows that it is given."
            )
        old = given.iloc[found]
        written = [
            column for column in tables.label_columns(labelled)
            if column not in old.columns or hash_cells(labelled[column]) != hash_cells(old[column])
        ]  # fmt: skip
        texts = [""] * len(found) if queries is None else queries.iloc[found].to_numpy()
        rows = labelled[["docno", *written, "score"]].assign(qid=keys[found], query=texts)
        rows = rows.drop_duplicates(["qid", "docno"])
        with self.commits.committing() as store:
            index = store._index()
            new = rows[[key not in index for key in rows["qid"]]]
            if len(new):
                names = new[["qid", "query"]].drop_duplicates("qid", ignore_index=True)
                checks.check_frame(new, f"{self.teacher!r} leaves", False)
                store._commit(new, names, len(index), self.teacher.usage - before)

    def _answered(self, inp: pd.DataFrame, keys: np.ndarray) -> pd.DataFrame:
        """``inp`` with the labels that are stored under ``keys``."""
        if not len(inp):
            return inp.assign(score=pd.Series(dtype=float), rank=pd.Series(dtype=int))
        stored = self.commits.store.frame(dict.fromkeys(keys)).set_index(["qid", "docno"])
        found = stored.reindex(pd.MultiIndex.from_arrays([keys, inp["docno"].astype(str)]))
        absent = {"query", "score", "rank", *(c for c in found.columns if found[c].isna().all())}
        labels = {c: found[c].to_numpy() for c in found.columns if c not in absent}
        scores = found["score"].to_numpy(dtype=float)
        return rerank(inp, scores, **labels)


class NotItsRows(ValueError):
    """A teacher returned other rows than it was given."""


#: What pandas says of several columns.
_SEVERAL = re.compile(r"not in index|are in the \[|not found in axis|not in the \[")
#: Re-rankers of other packages that judge each document by itself.
_POINTWISE = frozenset(
    """pyterrier.apply_base.ApplyDocumentScoringTransformer pyterrier_t5.MonoT5ReRanker pyterrier_dr.biencoder.BiScorer
    pyterrier_dr.electra.ElectraScorer pyterrier_dr.lightning_ir_mono.LightningIRMonoScorer""".split()
)


def judges_documents(ranker: pt.Transformer) -> bool:
    """Whether what a re-ranker says of a document is known not to depend on the rest of the list."""
    from pyterrier_dr import BiEncoder

    if isinstance(ranker, Teacher):
        model = getattr(ranker, "model", None)
        return not ranker.unique and (not isinstance(model, pt.Transformer) or judges_documents(model))
    if isinstance(ranker, BiEncoder) or getattr(ranker, "unique", True) is False:  # as teachers say it
        return True
    if getattr(ranker, "_transformers", None) or pt.inspect.subtransformers(ranker):
        return False  # of others, so that its score may depend on the whole list
    names = {class_name(kind) for kind in type(ranker).__mro__}
    return not names.isdisjoint(_POINTWISE) or class_name(type(ranker)).startswith("pyterrier_distill.")


def _declares(transformer: pt.Transformer) -> bool:
    """Whether a transformer says all that it reads; one of this package uses nothing but what it announces."""
    if class_name(type(transformer)).startswith("pyterrier_distill."):
        return True
    return any(getattr(transformer, name, None) is not None for name in ("transform_inputs", "required_columns"))


def _pairs(frame: pd.DataFrame) -> list[tuple[str, str]]:
    return list(zip(frame["qid"].astype(str), frame["docno"].astype(str), strict=True))


def _first_places(qids: Sequence[Any]) -> Any:
    """Sorts rows so that those of a query stand together, queries as they come."""
    first: dict[Any, int] = {}
    for qid in qids:
        first.setdefault(qid, len(first))
    return lambda row: first[qids[row]]
