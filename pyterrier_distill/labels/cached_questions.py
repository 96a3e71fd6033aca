"""Answers to single questions, kept: about a query and a document, or a query and two."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..backends.base import BackendError, unfinished
from ..backends.usage import Usage
from ..frames import TEACHER_PREFS
from ..identity.identity import digest, identity
from ..teachers.base import PromptTeacher

if TYPE_CHECKING:
    from .cache import Commits

#: What stands for minus infinity (a certain no) in a store, which keeps finite numbers only.
_LEAST = float(np.finfo(np.float32).min)


class CachedQuestions:
    """The answers of a teacher that asks independent questions, from a store where it gave them before.

    The key of an answer is what asks (model, prompt, precision, ...), the query's text and the documents' texts.
    Settings that only choose questions, such as which pairs are drawn, are no part of it: other lists, other pairs and
    other columns are answered from the same questions. In the store a query of one asker is ``<digest>.<n>``, n
    counting its commits, and a document the digest of its text.

    Args:
        teacher: who asks.
        commits: how answers reach the store.
    """

    def __init__(self, teacher: PromptTeacher, commits: Commits):
        self.teacher = teacher
        self.commits = commits
        self._grouped: tuple[Any, int, dict[str, dict[str, None]]] = (None, 0, {})  # commits by query, of an index

    def asker(self) -> Any:
        """The identity of what answers."""
        told = identity(self.teacher)
        return {name: value for name, value in told.items() if name not in self.teacher.asks_by}

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """As the teacher."""
        return self.teacher.answered(inp, self.answers)

    def estimate(self, inp: pd.DataFrame) -> Usage:
        """The cost of the questions that are not known."""
        questions = self.teacher.questions(inp)
        known = self._known(questions, self._keys(questions, digest(self.asker())))
        unknown = [question for question in questions if question not in known]
        return self.teacher._cost(unknown) if unknown else Usage()

    def answers(self, questions: Sequence[Any]) -> list[Any]:
        """One answer a question; those that are not known are asked for, and committed a batch of queries at a time.

        Raises:
            BackendError: if the model fails; it carries what is known.
            OSError: if nothing can be written; nothing was asked then.
        """
        keys = self._keys(questions, digest(self.asker()))
        known = self._known(questions, keys)
        unknown = [question for question in questions if question not in known]
        try:
            for batch in self.commits.batches(unknown, lambda question: question[0]):
                claim = digest([sorted({keys[question[0]] for question in batch}), len(batch)])
                with self.commits.asking(claim):
                    known.update(self._known(batch, keys))  # another process may have been here
                    todo = [question for question in batch if question not in known]
                    if todo:
                        self._ask(todo, keys, known)
        except BackendError as error:
            answers = [known.get(question) for question in questions]
            failed = next((n for n, answer in enumerate(answers) if answer is None), 0)
            raise BackendError(str(error), answers, failed) from error
        return [known[question] for question in questions]

    def _ask(self, todo: list[Any], keys: dict[str, str], known: dict[Any, Any]) -> None:
        """Ask about one batch, and keep what is answered, whatever stops it."""
        before = Usage() + self.teacher.usage
        failure: BackendError | None = None
        try:
            given = list(self.teacher._ask(todo))
        except BackendError as error:
            given, failure = error.answers, error
            if len(given) != len(todo):
                raise
        except Exception as error:  # somebody's own backend may raise anything; what is known is handed on
            if not known:
                raise
            raise unfinished(type(self.teacher).__name__, error, [None] * len(todo)) from error
        new = {q: _as_stored(a) for q, a in zip(todo, given, strict=True) if a is not None}
        known.update(new)
        try:
            self._keep(new, keys, self.teacher.usage - before)
        except (OSError, ValueError) as error:
            failed = todo.index(next((q for q in todo if q not in new), todo[0]))
            raise BackendError(f"answers were given but could not be kept: {error}", given, failed) from error
        if failure is not None:
            raise failure

    # -- in the store -------------------------------------------------------------------------------------------------

    def _keys(self, questions: Sequence[Any], asker: str) -> dict[str, str]:
        """Query text → its name in the store."""
        return {query: digest([asker, query]) for query in dict.fromkeys(question[0] for question in questions)}

    def _known(self, questions: Sequence[Any], keys: dict[str, str]) -> dict[Any, Any]:
        """Those of the questions whose answers are stored, with them."""
        parts = {key: self._parts(key) for key in {keys[question[0]] for question in questions}}
        names = [name for found in parts.values() for name in found]
        if not names:
            return {}
        column = self.teacher.answers_as
        stored = self.commits.store.frame(names, [column])
        cells: dict[tuple[str, str], Any] = {}
        of_pairs = column == TEACHER_PREFS
        for name, document, cell in zip(stored["qid"], stored["docno"], stored[column], strict=True):
            key = name.partition(".")[0]
            if of_pairs:
                cells.setdefault((key, document), {}).update(cell)
            else:
                cells[key, document] = cell
        known = {}
        for question in questions:
            cell = cells.get((keys[question[0]], _document(question[1])))
            answer = cell.get(_document(question[2])) if of_pairs and cell is not None else cell
            if answer is not None:
                known[question] = answer
        return known

    def _parts(self, key: str) -> list[str]:
        """The commits of one query that are in; one of them may be lost."""
        index = self.commits.store._index()
        of, read, parts = self._grouped
        if of is not index or read > len(index):
            read, parts = 0, {}
        names = list(itertools.islice(index, read, None))
        for name in names:
            parts.setdefault(name.partition(".")[0], {})[name] = None
        self._grouped = (index, read + len(names), parts)
        return list(parts.get(key, ()))

    def _next(self, key: str) -> str:
        """The name of the next commit of one query."""
        return f"{key}.{1 + max((int(name.partition('.')[2]) for name in self._parts(key)), default=-1)}"

    def _keep(self, new: dict[Any, Any], keys: dict[str, str], usage: Usage) -> None:
        """Commit answers."""
        finite = {question: answer for question, answer in new.items() if np.isfinite(answer).all()}
        if not finite:
            return
        with self.commits.committing() as store:
            stored = self._known(list(finite), keys)
            rows: dict[str, dict[str, Any]] = {}
            for question, answer in finite.items():
                if question in stored:
                    continue
                query, document, *other = question
                cells = rows.setdefault(query, {})
                if other:
                    cells.setdefault(_document(document), {})[_document(other[0])] = answer
                    cells.setdefault(_document(other[0]), {})
                else:
                    cells[_document(document)] = answer
            if not rows:
                return
            names = {query: self._next(keys[query]) for query in rows}
            frame = pd.DataFrame(
                [(names[query], query, doc, cell) for query, cells in rows.items() for doc, cell in cells.items()],
                columns=["qid", "query", "docno", self.teacher.answers_as],
            )
            queries = frame[["qid", "query"]].drop_duplicates(ignore_index=True)
            store._commit(frame, queries, len(store._index()), usage)


@functools.lru_cache(maxsize=4096)
def _document(text: str) -> str:
    """A text by its digest."""
    return digest(text)


def _as_stored(answer: Any) -> Any:
    """An answer as a store gives it back: float32, finite where it is a number."""
    values = np.maximum(np.asarray(answer, dtype=np.float32), np.float32(_LEAST))  # NaN stays NaN
    return float(values) if values.ndim == 0 else values
