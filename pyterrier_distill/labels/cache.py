"""A teacher that remembers: known questions are answered from the store, the rest asked and kept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd
import pyterrier as pt

from ..backends.usage import Usage
from ..frames import arguments
from ..identity.identity import check_told, identity
from ..stores.pipelines import stages_of
from ..teachers.base import PromptTeacher, Teacher
from .cached_questions import CachedQuestions
from .cached_rows import CachedRows

if TYPE_CHECKING:
    from .store import LabelStore

T = TypeVar("T")


class CachedTeacher(Teacher):
    """R → R: what ``teacher`` says, from the store where it said it before. Made by :meth:`LabelStore.cache`.

    What a teacher wrote is kept, nothing else; what it reads is in the key of its answer, besides its identity (model
    content, prompt, window, precision, ...). What an answer depends on decides what is asked again:

    * a teacher that asks about documents or pairs one by one is answered question by question, so that a shorter
      list, or one with some new documents, costs nothing for what is known;
    * a re-ranker that is known to judge each document by itself (a student, a bi-encoder, ``pt.apply.doc_score``,
      monoT5; others say ``unique = False``, as teachers do), and a teacher
      whose lists may hold a document twice, document by document;
    * any other teacher or re-ranker, and one made of others (``0.5 * a + b``), list by list.

    What is not of this package may use any column that is there, so that its answers are kept by all columns but
    labels; one that declares ``transform_inputs`` (or ``required_columns`` of ``pt.apply``) is given these alone.

    Args:
        store: a store of its own, not one that was built from topics.
        teacher: the teacher.
        batch_size: queries of one commit: what is lost when a process is killed.
    """

    schematic = {"label": "CachedTeacher"}
    hands_on = True

    def __init__(self, store: LabelStore, teacher: Teacher, batch_size: int = 64):
        arguments.whole(batch_size, "batch_size")
        self.store = store
        self.teacher = teacher
        self.batch_size = batch_size
        self.text_field = teacher.text_field
        self.unique = teacher.unique
        self._commits = Commits(store, teacher, batch_size)
        asks = isinstance(teacher, PromptTeacher) and not isinstance(getattr(teacher, "model", None), pt.Transformer)
        self._cached: Any = (CachedQuestions if asks else CachedRows)(teacher, self._commits)

    @property
    def usage(self) -> Usage:
        """What was really asked."""
        return self.teacher.usage

    def estimate(self, inp: pd.DataFrame) -> Usage:
        """The cost of what is not known yet."""
        return self._cached.estimate(inp)

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Label and re-rank; every other column, the rows' order and the index stay."""
        return self._cached.transform(inp)

    def __repr__(self) -> str:
        return f"{self.store!r}.cache({self.teacher!r})"


class Commits:
    """How the answers of one teacher reach a store: the place is made sure of before anything is asked.

    Args:
        store: the store.
        teacher: who answers.
        batch_size: queries of one commit.
    """

    def __init__(self, store: LabelStore, teacher: Teacher, batch_size: int):
        self.store = store
        self.teacher = teacher
        self.batch_size = batch_size
        self._lock = threading.Lock()

    def batches(self, items: Sequence[T], query_of: Callable[[T], Hashable]) -> Iterator[list[T]]:
        """``items`` in parts of :attr:`batch_size` queries; those of a query stand together already.

        Raises:
            OSError: before the first part, if the store cannot be written.
            FileNotFoundError: after the last part, if somebody deleted or moved the store meanwhile.
        """
        if items:
            self.store._create({"cache of": identity(self.teacher)})
            self.store.directory.check_writable()
        batch: list[T] = []
        queries: set[Hashable] = set()
        for item in items:
            query = query_of(item)
            if query not in queries and len(queries) == self.batch_size:
                yield batch
                batch, queries = [], set()
            batch.append(item)
            queries.add(query)
        if batch:
            yield batch
        if items:
            self.store._check_there()

    @contextmanager
    def asking(self, key: str) -> Iterator[None]:
        """No other process asks the same within the block: it waits, and finds the answers."""
        with self.store.directory.claimed(key, wait=True):
            yield

    @contextmanager
    def committing(self) -> Iterator[LabelStore]:
        """The store, for one thread of one process.

        Raises:
            FileNotFoundError: if somebody deleted or moved it since it was made sure of.
        """
        with self._lock, self.store.directory.claimed("commit", wait=True):
            self.store._check_there()
            yield self.store

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())


def cached(store: LabelStore, teacher: pt.Transformer, batch_size: int) -> pt.Transformer:
    """A teacher that is answered from a store; see :meth:`~pyterrier_distill.LabelStore.cache`."""
    if "pipeline" in store.manifest:
        raise ValueError(
            f"{store.directory} holds labels that were built from topics: give the cache a path of its own."
        )
    from ..teachers.pointwise import PointwiseTeacher

    stages = stages_of(teacher)
    if not any(isinstance(stage, Teacher) for stage in stages):
        stages[-1] = PointwiseTeacher(stages[-1])
    for n, stage in enumerate(stages):
        if isinstance(stage, Teacher) and not isinstance(stage, CachedTeacher):
            check_told(stage)
            stages[n] = CachedTeacher(store, stage, batch_size)
    return stages[0] if len(stages) == 1 else pt.Compose(*stages)
