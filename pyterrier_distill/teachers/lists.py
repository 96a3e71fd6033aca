"""What teachers of whole lists share: a program a query, ranks as the label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from .. import prompts
from ..backends.base import Backend, as_backend
from ..backends.chosen import checked_backend
from ..backends.usage import Usage
from ..engine import progress
from ..frames import TEACHER_RANK
from ..frames.ranking import incoming_order, rerank
from ..prompts import control
from .base import Teacher, labelling_error
from .programs import Program, Stopped, run_together
from .sameness import warn_if_same


class ListTeacher(Teacher):
    """A teacher that orders each query's documents, and leaves their ranks.

    Subclasses define :meth:`_program`, which yields questions about one list and returns its order, and :meth:`_ask`,
    which answers the questions of many lists at once.
    """

    added_later = {"query_field": "query"}
    label = TEACHER_RANK
    writes = TEACHER_RANK
    max_words: int | None = None
    #: How often each list is shown, in another order each time.
    n_permutations = 1
    model: Any = None
    backend: Any = "hf"

    @property
    def llm(self) -> Backend:
        """What answers."""
        return self._kept(self._make_llm)

    def _make_llm(self) -> Backend:
        needs = type(self).__name__
        chosen = as_backend(self.model) or (None if isinstance(self.backend, str) else self.backend)
        if chosen is not None:
            return checked_backend(chosen, {}, needs)
        return checked_backend(self.model, self._model_settings(), needs, self.backend)

    def _program(self, query: str, texts: Sequence[str]) -> Program:
        """Order ``texts``: yields questions, returns positions, best first."""
        raise TypeError(f"{type(self).__name__} does not say how it orders.")

    def _asked(self, questions: Sequence[Any]) -> Sequence[Any]:
        with self.llm.tokenised_once():
            return self._ask(questions)

    def _ask(self, questions: Sequence[Any]) -> Sequence[Any]:
        """The answers to one question of each of several lists."""
        raise TypeError(f"{type(self).__name__} does not ask.")

    @property
    def usage(self) -> Usage:
        """Model calls, tokens and seconds so far."""
        return self.llm.usage

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Label and re-rank; every other column, the rows' order and the index stay.

        Raises:
            LabellingError: if the model fails; it carries the queries that were finished.
        """
        self._check(inp)
        if len(inp) == 0:
            return self._write(inp, {})
        lists = self._lists(inp)
        before = Counter(self._places)
        programs = {qid: self._program(query, texts) for qid, (query, _, texts) in lists.items()}
        with progress.bar(total=len(lists), desc=type(self).__name__, unit="q", verbose=self.verbose) as bar:
            try:
                orders = run_together(
                    programs, self._asked, max(1, self.llm.at_once // self.n_permutations), lambda: bar.update(1),
                    apart=self.llm.side_by_side,
                )  # fmt: skip
            except Stopped as stopped:
                done, cause = stopped.results, stopped.__cause__
                assert isinstance(cause, Exception)
                raise labelling_error(
                    cause, inp, stopped.at, done, lambda rows: self._write(rows, done), self.query_field
                ) from cause
        seen = self._places - before
        warn_if_same(
            self, seen["kept"], seen["answers"], "keep the order in which passages are shown",
            "the model goes by their place, or does not answer as it is asked.", seen["choices"],
        )  # fmt: skip
        return self._write(inp, orders)

    @property
    def _places(self) -> Counter[str]:
        """How many answers kept the order in which passages were shown, how many there were, of how many choices."""
        return self.__dict__.setdefault("_seen", Counter())

    def _note(self, kept: bool, choices: int) -> None:
        """Note an answer: whether it keeps the order in which passages were shown, and how often it could have not."""
        self._places.update(kept=int(kept), answers=1, choices=choices)

    def _lists(self, inp: pd.DataFrame) -> dict[Any, tuple[str, list[str], list[str]]]:
        """qid → (query, docnos, texts), neutralised, cut to words, in incoming order."""
        ordered = inp.iloc[np.argsort(incoming_order(inp), kind="stable")]
        lists = {}
        for qid, rows in ordered.groupby(ordered["qid"].to_numpy(), sort=False):
            clean = [self._clean(text) for text in rows[self.text_field]]
            lists[qid] = (self._clean(rows[self.query_field].iloc[0]), rows["docno"].tolist(), clean)
        return lists

    def _clean(self, text: str) -> str:
        if self.max_words is not None:
            text = prompts.first_words(text, self.max_words)
        return control.neutralise(text, self.llm.specials)

    def _write(self, inp: pd.DataFrame, orders: dict[Any, Sequence[int]]) -> pd.DataFrame:
        """Ranks and scores of rows whose queries are all in ``orders``."""
        places = incoming_order(inp) if len(inp) else np.empty(0, dtype=int)
        rank_of = {qid: np.argsort(np.asarray(order)) for qid, order in orders.items()}
        ranks = np.array([rank_of[qid][p] for qid, p in zip(inp["qid"], places, strict=True)], dtype=int)
        return rerank(inp, -ranks.astype(float), **{self.label: ranks})
