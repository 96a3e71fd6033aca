"""Rounds: retrieve with the present student, label what is new, train, measure."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
import pyterrier as pt

from .. import frames
from ..distiller import Distiller
from ..engine import checkpoints
from ..frames import arguments, given, validate
from ..frames.arguments import Named
from ..labels.store import LabelStore

logger = logging.getLogger(__name__)

#: What gives candidates: a pipeline Q → R with text, or what makes one from the student as it is.
Candidates: TypeAlias = pt.Transformer | Callable[[Any], pt.Transformer]


def labelling(candidates: pt.Transformer, teacher: pt.Transformer, distiller: Distiller) -> pt.Transformer:
    """What a training is labelled with; the student ranks last where the sampler looks for its errors."""
    looks = distiller.sampler is not None and distiller.sampler.reads_weights
    return candidates >> teacher >> distiller.student if looks else candidates >> teacher


class Found(pt.Transformer):
    """Q → R: a pipeline that a function made of a student.

    Its identity is that of the function and of the student's weights, not of the index that the function made on the
    way, so that a round which is run again goes on in its store.

    Args:
        made_by: the function.
        weights: fingerprint of the student.
    """

    schematic = {"label": "Candidates"}
    pipeline: pt.Transformer

    def __init__(self, made_by: Callable[[Any], pt.Transformer], weights: str):
        self.made_by = made_by
        self.weights = weights

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """As the pipeline."""
        return self.pipeline(inp)

    def __repr__(self) -> str:
        return f"Found({getattr(self.made_by, '__qualname__', self.made_by)}, {self.weights!r})"


class IterativeDistiller(Named, pt.Estimator):
    """Trains a student in rounds, each on the candidates that the student of the round before finds (PairDistill §4.3).

    A round builds the pipeline of candidates with the present student, labels what the teacher has not labelled before,
    and trains; validation measures that pipeline as it ranks. A round that does not help is undone and ends it. Run
    again after whatever stopped it, ``fit`` goes on in the step it was in: labels that are stored are not asked for
    again, trainings go on from their last checkpoint.

    A student that re-ranks fixed candidates learns on-policy by a Distiller with
    ``sampler=ListSampler(8, strategy="disagreement")``: each round ranks the candidates with the student as it is, and
    draws the documents that it and the teacher place furthest apart.

    Args:
        make_candidates: for a student that retrieves, a function of it: index the collection with it and return a
            pipeline Q → R with document text. For a re-ranking student, a pipeline that stays the same. Nothing else
            reads documents: from ``dataset.get_corpus_iter()``, which gives one by one, collections larger than memory
            are indexed.
        teacher: R → R with label columns.
        distiller: how a round trains; its student is the one. Its own ``checkpoints`` are not used.
        path: a directory for labels, checkpoints and the figures of the rounds.
        rounds: at most so many.
        ranker: what validation measures: a function of the student that gives a pipeline Q → R; None = the candidates'
            pipeline, which for a student that only re-ranks is followed by the student.
        verbose: whether to show progress.

    Attributes:
        rounds_: after ``fit``, one dict a round (0 = before training): ``round``, the measure, ``queries``, ``asked``
            (documents in what each teacher was newly asked about), ``kept`` (whether its student was).

    References:
        PairDistill (Huang and Chen 2024) §4.3.

    Example::

        def search(student):
            index = pyterrier_dr.FlexIndex(tempfile.mkdtemp())
            (student >> index).index(dataset.get_corpus_iter())
            return student.query_encoder() >> index.np_retriever() % 100 >> dataset.text_loader()

        rounds = ptd.IterativeDistiller(search, teacher, ptd.Distiller(student, loss), "rounds", rounds=2)
        rounds.fit(train_topics, train_qrels, dev_topics, dev_qrels)
    """

    schematic = {"label": "IterativeDistiller", "inner_pipelines_mode": "unlinked"}

    def __init__(
        self,
        make_candidates: Candidates,
        teacher: pt.Transformer,
        distiller: Distiller,
        path: str | os.PathLike,
        *,
        rounds: int = 2,
        ranker: Callable[[Any], pt.Transformer] | None = None,
        verbose: bool = True,
    ):
        if not isinstance(distiller, Distiller):
            raise TypeError(f"distiller must be a Distiller, not {distiller!r}.")
        if not isinstance(make_candidates, pt.Transformer) and not callable(make_candidates):
            raise TypeError(
                f"make_candidates must be a pipeline, or a function of the student that makes one, not"
                f" {make_candidates!r}."
            )
        arguments.whole(rounds, "rounds")
        self.make_candidates = make_candidates
        self.teacher = teacher
        self.distiller = distiller
        self.path = path
        self.rounds = rounds
        self.ranker = ranker
        self.verbose = verbose
        self.rounds_: list[dict[str, Any]] = []

    @property
    def student(self) -> Any:
        """The Distiller's."""
        return self.distiller.student

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Rank with the student."""
        return self.student.transform(inp)

    def fit(
        self,
        topics: pd.DataFrame,
        qrels: pd.DataFrame | None = None,
        topics_va: pd.DataFrame | None = None,
        qrels_va: pd.DataFrame | None = None,
    ) -> IterativeDistiller:
        """Train in rounds.

        Args:
            topics: Q frame.
            qrels: judgements, for losses that read them.
            topics_va: Q frame on which each round is measured; None = all rounds are trained, and nothing is measured.
            qrels_va: judgements of it.

        Returns:
            self. The student is that of the best round.

        Raises:
            ValueError: for queries or judgements that do not fit; for a directory of other rounds.
            LabellingError: if the teacher failed; what it had finished is stored.
        """
        if (topics_va is None) != (qrels_va is None):
            raise ValueError("validation needs both: topics_va and qrels_va.")
        topics, topics_va = given.topics(topics), None if topics_va is None else given.topics(topics_va, "topics_va")
        qrels = given.qrels(qrels)
        for each in (topics, topics_va):  # before anything is indexed or asked
            if each is not None:
                validate.query_frame(each, ["query"])
        if qrels_va is not None:
            qrels_va = frames.check_qrels(qrels_va)
            judged = qrels_va.loc[qrels_va["label"] > 0, "qid"].astype(str)
            if topics_va is not None and not judged.isin(topics_va["qid"].astype(str)).any():
                raise ValueError("qrels_va judge no document of any query of topics_va relevant: check their qids.")
        self.rounds_ = []
        candidates = self._candidates()
        best = self._measured(0, candidates, topics_va, qrels_va, queries=0, asked=0)
        for number in range(1, self.rounds + 1):
            before = self.student.snapshot()
            store, asked = self._labelled(number, candidates, topics)
            this = copy.copy(self.distiller)
            this.checkpoints = Path(self.path) / f"round-{number}" / "training"
            this.seed = self.distiller.seed + number - 1
            this.verbose = self.verbose and self.distiller.verbose
            this.fit(store, qrels)
            self.distiller.history = this.history
            last = number == self.rounds and topics_va is None
            candidates = candidates if last else self._candidates()
            found = self._measured(number, candidates, topics_va, qrels_va, queries=len(store), asked=asked)
            if found is not None and best is not None and found <= best:
                logger.warning(
                    "round %d did not help (%s %.4f, before %.4f): its student is left aside, and no further round is"
                    " trained.", number, self.distiller.metric, found, best,
                )  # fmt: skip
                self.rounds_[-1]["kept"] = False
                self.student.restore(before)
                self._record()
                break
            best = found
        return self

    # -- a round ------------------------------------------------------------------------------------------------------

    def _candidates(self) -> pt.Transformer:
        if isinstance(self.make_candidates, pt.Transformer):
            return self.make_candidates
        made = self.make_candidates(self.student)
        if not isinstance(made, pt.Transformer):
            raise TypeError(f"make_candidates must return a pipeline Q → R, and returned {made!r}.")
        found = Found(self.make_candidates, checkpoints.fingerprint(self.student.model))
        found.pipeline = made
        return found

    def _labelled(self, number: int, candidates: pt.Transformer, topics: pd.DataFrame) -> tuple[LabelStore, int]:
        """The store of a round, and how many documents the teacher was newly asked about."""
        answers = LabelStore(Path(self.path) / "answers")
        teacher = answers.cache(self.teacher)
        known = answers.documents
        store = LabelStore(Path(self.path) / f"round-{number}" / "labels")
        store.build(labelling(candidates, teacher, self.distiller), topics, with_text=True, verbose=self.verbose)
        if strange := set(store.qids()) - set(topics["qid"].astype(str)):
            raise ValueError(
                f"{store.path} holds labels of {len(strange)} queries that the topics do not: rounds of other queries"
                " need a path of their own."
            )
        return store, answers.documents - known

    def _measured(
        self,
        number: int,
        candidates: pt.Transformer,
        topics_va: pd.DataFrame | None,
        qrels_va: pd.DataFrame | None,
        **told: Any,
    ) -> float | None:
        """Measure the student as it ranks, and write it down."""
        entry: dict[str, Any] = {"round": number, **told, "kept": True}
        value = None
        if topics_va is not None:
            from ..training.evaluation import parse_measure

            measure = parse_measure(self.distiller.metric)
            if self.ranker is not None:
                pipeline = self.ranker(self.student)
            elif isinstance(self.make_candidates, pt.Transformer):
                pipeline = candidates >> self.student
            else:
                pipeline = candidates
            value = float(pt.Evaluate(pipeline(topics_va), qrels_va, [measure])[str(measure)])
            entry[str(measure)] = value
        self.rounds_.append(entry)
        self._record()
        return value

    def _record(self) -> None:
        Path(self.path).mkdir(parents=True, exist_ok=True)
        checkpoints.write_json(Path(self.path) / "rounds.json", self.rounds_)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IterativeDistiller) and (repr(self), self.path) == (repr(other), other.path)

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        return f"IterativeDistiller({self.teacher!r}, {self.distiller!r}, rounds={self.rounds})"
