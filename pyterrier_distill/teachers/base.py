"""What all teachers share: checking frames, asking a model, ranking by the answers, losing none."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt
import pyterrier_alpha as pta

from .. import frames
from ..backends.base import BackendError
from ..backends.usage import Usage
from ..engine import batching
from ..engine.locks import made_once
from ..engine.model_state import shown
from ..frames import validate
from ..frames.arguments import Named
from ..frames.ranking import incoming_order, rerank  # noqa: F401 - part of what teachers share
from ..identity.identity import digest
from ..prompts import Template, library
from ..stores import redaction
from ..stores.pipelines import inner


class LabellingError(RuntimeError):
    """A teacher could not go on; what it had finished is not lost.

    Attributes:
        labelled: an R frame: the queries that were labelled completely, as the teacher would have returned them. Label
            the others later: ``frame[~frame["qid"].isin(error.labelled["qid"])]``.
    """

    def __init__(self, message: str, labelled: pd.DataFrame):
        super().__init__(message)
        self.labelled = labelled

    def __reduce__(self) -> tuple:
        return type(self), (str(self), self.labelled)


class Teacher(Named, pt.Transformer):
    """The base of all teachers: R with ``query`` and text → R with new ``score`` and ``rank`` and label columns.

    Subclasses store each constructor argument under its own name and define :meth:`transform` and :meth:`estimate`.

    Attributes:
        usage: what its calls have cost since it was made.
    """

    query_field = "query"
    text_field = "text"
    verbose: bool | None = None
    #: The label column that it writes, or whose name its ``label`` extends; None = any.
    writes: str | None = None
    #: Whether a document may stand once in a list only.
    unique = True
    #: Whether what it raises when a teacher inside of it stops carries its own rows; one that holds none always does.
    hands_on = False

    @property
    def usage(self) -> Usage:
        """Model calls, tokens and seconds so far."""
        return Usage()

    def estimate(self, inp: pd.DataFrame) -> Usage:
        """What labelling ``inp`` would cost, without asking the model: calls, prompt tokens, output tokens."""
        raise TypeError(f"{type(self).__name__} cannot estimate.")

    def _kept(self, make: Callable[[], Any]) -> Any:
        """What ``make`` gives, made again only when a setting of this teacher has changed."""
        kind: type = type(self)
        key = [(n, _kept_as(getattr(self, f"_{n}", getattr(self, n, None)))) for n in _settings(kind)]
        kept = self.__dict__.get("_made")
        if kept is None or kept[0] != key:
            with made_once():
                kept = self.__dict__.get("_made")
                if kept is None or kept[0] != key:
                    self._made = kept = (key, make())
        return kept[1]

    def model_changes(self) -> dict[str, str]:
        """How the model that this teacher loaded by its name is not that checkpoint's any more; empty where it is."""
        made = self.__dict__.get("_made")
        if made is None or not isinstance(getattr(self, "model", None), str):  # others report their own
            return {}
        changes = getattr(made[1], "model_changes", None)
        return changes() if callable(changes) else {}

    def __getstate__(self) -> dict[str, Any]:
        """Without what can be made again, such as a loaded model that is as its checkpoint."""
        left = () if self.model_changes() else ("_made",)
        return {name: value for name, value in self.__dict__.items() if name not in left}

    def _store_model_settings(
        self,
        *,
        label: str,
        max_length: int | None,
        precision: str,
        batch_size: int | None,
        query_field: str = "query",
        text_field: str,
        device: str | None,
        revision: str | None,
        verbose: bool | None,
        trust_remote_code: bool,
    ) -> None:
        """Store the constructor arguments that every teacher with a model has, checked.

        Raises:
            ValueError: if one is impossible.
        """
        self.label = check_label(label, self.writes)
        self.max_length = check_length(max_length)
        self.precision = batching.check_precision(precision)
        self.batch_size = batch_size
        self.query_field = query_field
        self.text_field = text_field
        self.device = device
        self.revision = revision
        self.verbose = verbose
        self.trust_remote_code = trust_remote_code

    def _model_settings(self) -> dict[str, Any]:
        """What a model or backend made by this teacher is given."""
        names = ("max_length", "precision", "batch_size", "device", "revision", "trust_remote_code")
        return {name: getattr(self, name) for name in names}

    def _check(self, inp: pd.DataFrame) -> None:
        """Check the frame.

        Raises:
            pt.validate.InputValidationError: if a column is missing.
            ValueError: if a cell is no text, or a document stands twice in a query's list.
        """
        reads = list(dict.fromkeys([self.query_field, self.text_field]))
        validate.result_frame(inp, reads, context=self)
        frames.check_text(inp, reads)
        if self.unique:
            frames.check_unique(inp)

    def __repr__(self) -> str:
        return shown(redaction.text(pta.transformer_repr(self)), self.model_changes())

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and repr(other) == repr(self)

    def __hash__(self) -> int:
        return hash(repr(self))


@functools.cache
def _settings(teacher: type) -> list[str]:
    """The names of a class's constructor arguments; reading a signature takes longer than a short question."""
    return list(inspect.signature(teacher.__init__).parameters)[1:]  # type: ignore[misc]


def _kept_as(value: Any) -> Any:
    """A setting, to be compared with what it is later: a model is the same one whatever it has learnt since."""
    is_model = isinstance(value, pt.Transformer) or callable(getattr(value, "generate", None))
    return id(value) if is_model else repr(value)


def hands_on(stage: Any) -> bool:
    """Whether a :class:`LabellingError` that comes out of ``stage`` carries what the stage would have returned.

    Not where it may come from a teacher inside of an operator or of somebody's transformer: it carries that teacher's
    rows then, and the rest of the stage has not seen them.
    """
    if not isinstance(stage, Teacher):
        return False
    return stage.hands_on or not any(isinstance(part, Teacher) for part in inner(stage))


class PromptTeacher(Teacher):
    """A teacher that asks one independent question a document or a pair of documents.

    Subclasses say which questions a frame asks (:meth:`_plan`), put them to the model (:meth:`_ask`), say what that
    costs (:meth:`_cost`), and write the answers into the frame (:meth:`_write`). An answer depends on its
    question alone, so that it can be kept: a question is a tuple, the query's text first.
    """

    #: Settings that decide which questions are asked and what becomes of the answers, but no answer.
    asks_by: frozenset[str] = frozenset({"label", "query_field", "text_field"})
    #: The kind of label column in which a store keeps the answer to one question.
    answers_as: str
    #: Prompts by name, and the names among which ``prompt=None`` chooses when the model is known.
    known_prompts: Mapping[str, Template] = {}
    default_prompts: tuple[str, ...] = ()

    @property
    def reworded(self) -> dict[str, str]:
        """Name → digest of the text, of the prompts that may be used and that stores do not know by name alone."""
        prompt = getattr(self, "prompt", None)
        names = self.default_prompts if prompt is None else (prompt,)
        known = {n: digest(repr(self.known_prompts[n])) for n in names if n in self.known_prompts}
        return {name: text for name, text in known.items() if library.TOLD_BY_NAME.get(name) != text}

    def _plan(self, inp: pd.DataFrame) -> tuple[dict[Any, list[Hashable]], Any]:
        """qid → what is asked about it, equal questions once; and whatever :meth:`_write` wants to know of it again."""
        raise TypeError(f"{type(self).__name__} does not say what it asks.")

    def _ask(self, questions: Sequence[Hashable]) -> Sequence[Any]:
        """The answers."""
        raise TypeError(f"{type(self).__name__} does not ask.")

    def _cost(self, questions: Sequence[Hashable]) -> Usage:
        """What asking would cost."""
        raise TypeError(f"{type(self).__name__} cannot estimate.")

    def _write(self, inp: pd.DataFrame, answers: Mapping[Hashable, Any], plan: Any) -> pd.DataFrame:
        """The frame, or the rows of some of its queries, with scores, ranks and labels."""
        raise TypeError(f"{type(self).__name__} does not write.")

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Label and re-rank; every other column, the rows' order and the index stay."""
        return self.answered(inp, self._ask)

    def estimate(self, inp: pd.DataFrame) -> Usage:
        """Calls and tokens of labelling ``inp``, without asking the model: equal questions count once."""
        return self._cost(self.questions(inp))

    def questions(self, inp: pd.DataFrame) -> list[Hashable]:
        """What labelling ``inp`` asks, each question once, those of a query together."""
        self._check(inp)
        return list(dict.fromkeys(q for asked in self._plan(inp)[0].values() for q in asked))

    def answered(self, inp: pd.DataFrame, ask: Callable[[Sequence[Hashable]], Sequence[Any]]) -> pd.DataFrame:
        """:meth:`transform`, with somebody else to answer.

        Args:
            inp: as for :meth:`transform`.
            ask: gives the answers to n distinct questions; a :class:`BackendError` carries those that it had.

        Raises:
            LabellingError: if ``ask`` fails; it carries the queries that were finished.
        """
        self._check(inp)
        by_query, plan = self._plan(inp)
        questions = list(dict.fromkeys(q for asked in by_query.values() for q in asked))
        try:
            answers = dict(zip(questions, ask(questions) if questions else (), strict=True))
        except BackendError as error:
            got = [None] * len(questions) if len(error.answers) != len(questions) else error.answers
            answers = {q: a for q, a in zip(questions, got, strict=True) if a is not None}
            done = [qid for qid, asked in by_query.items() if all(q in answers for q in asked)]
            failed = questions[error.failed] if error.failed < len(questions) else None
            at = next((qid for qid, asked in by_query.items() if failed in asked), next(iter(by_query)))
            write = lambda rows: self._write(rows, answers, plan)  # noqa: E731
            raise labelling_error(error, inp, at, done, write, self.query_field) from error
        self._notice(answers)
        return self._write(inp, answers, plan)

    def _notice(self, answers: Mapping[Hashable, Any]) -> None:
        """Say what is wrong with all answers of a frame together, if anything is."""


def labelling_error(
    error: Exception, inp: pd.DataFrame, at: str, done: Iterable[str], write: Any, query_field: str
) -> LabellingError:
    """The error that carries what was finished.

    Args:
        error: what went wrong.
        inp: the frame that was to be labelled.
        at: qid of the query it happened at.
        done: qids that are complete.
        write: rows of complete queries → labelled rows.
        query_field: the column of the query.
    """
    labelled = write(inp[inp["qid"].isin(list(done))])
    query = inp.loc[(inp["qid"] == at).to_numpy(), query_field].iloc[0]
    return LabellingError(
        f"labelling stopped at query {at!r} ({query[:80]!r}): {error} {labelled['qid'].nunique()} of"
        f" {inp['qid'].nunique()} queries are labelled; they are in this error's .labelled.",
        labelled,
    )


def check_label(label: str, kind: str | None = None) -> str:
    """``label``, if it can be a label column.

    Args:
        label: a column.
        kind: the label column that it must be, or extend; None = any.

    Raises:
        ValueError: for a column that frames need for something else, or that would be read as another kind of label.
    """
    kinds = frames.LABEL_COLUMNS if kind is None else (kind,)
    known = isinstance(label, str) and any(label == n or label.startswith(f"{n}_") for n in kinds)
    if not known:  # losses and stores know labels by the beginning of their names
        what = "or extend one" if kind is None else f"{kind!r}, or extend it"
        example = f"{kind or frames.TEACHER_SCORE}_minilm"
        raise ValueError(f"label must be the name of a label column, {what}, such as {example!r}, not {label!r}.")
    return label


def check_length(max_length: int | None) -> int | None:
    """``max_length``, if it is a number of tokens.

    Raises:
        ValueError: if it is not, or too small for a query and a document.
    """
    if max_length is not None and (isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 8):
        raise ValueError(f"max_length must be None or a whole number of at least 8 tokens, not {max_length!r}.")
    return max_length


def mean_preferences(inp: pd.DataFrame, prefs: Sequence[Mapping[str, float]]) -> np.ndarray:
    """Mean ``[n]`` of P(this ≻ other) over all comparisons of a document, in either place; 0.5 where there is none.

    Args:
        inp: an R frame.
        prefs: ``[n]`` cells: docno of another document of the query → P(this ≻ other).
    """
    sums: dict[tuple[Any, str], list[float]] = {}
    for qid, docno, cell in zip(inp["qid"], inp["docno"], prefs, strict=True):
        for other, p in cell.items():
            sums.setdefault((qid, docno), []).append(p)
            sums.setdefault((qid, other), []).append(1 - p)
    means = [float(np.mean(sums.get(key, 0.5))) for key in zip(inp["qid"], inp["docno"], strict=True)]
    return np.round(means, 12)  # rounding errors must not decide between equal ones
