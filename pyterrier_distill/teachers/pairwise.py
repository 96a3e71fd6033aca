"""The pairwise teacher: which of these two documents is more relevant?"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
import pyterrier as pt

from .. import prompts
from ..backends.base import Backend, answers_as, as_backend
from ..backends.chosen import checked_backend, one_model
from ..backends.usage import Usage
from ..frames import TEACHER_PREFS, validate
from ..frames.ranking import incoming_order, rerank
from ..prompts import library
from ..sampling.disagreement import disagreement_columns, pair_disagreement
from ..sampling.samplers import PairSampler
from .base import PromptTeacher, mean_preferences
from .pair_classifier import PairClassifier
from .pair_training import PairTraining
from .questions import Asker, Question, checked_template
from .sameness import warn_if_same

KINDS = ("classifier", "seq2seq", "causal")
#: Placeholders of the two documents.
DOCUMENTS = ("document_a", "document_b")


class _Compared(NamedTuple):
    """A query, its documents in incoming order, and the pairs of them that are compared."""

    query: str
    docnos: list[str]
    texts: list[str]
    pairs: list[tuple[int, int]]

    def question(self, i: int, j: int) -> tuple[str, str, str]:
        """What is asked of a pair."""
        return self.query, self.texts[i], self.texts[j]


class PairwiseTeacher(PromptTeacher, pt.Estimator):
    """R → R: compares documents two by two, leaves the preferences as ``teacher_prefs``, and re-ranks by their mean.

    ``teacher_prefs`` of document i is a dict: docno of j → P(i ≻ j), in [0, 1]. It holds the pairs that were asked with
    i first; with ``both_orders`` those asked with i second, too, so P(j ≻ i) = 1 − P(i ≻ j) stands with j. The new
    score is the mean preference over all comparisons of a document, in [0, 1]; 0.5 for a document that took part in
    none. Equal scores keep their incoming order.

    Args:
        model: the directory or hub name of a checkpoint, or a GGUF file; or a backend (``HF``, ``VLLM``, ``OpenAI``).
        n_pairs: comparisons a query, drawn without repetition; None = all. Where fewer are to be had, all are made.
        delta: only documents fewer than ``delta`` ranks apart in the incoming ranking are compared; None = any.
            PairDistill draws 50 pairs with a delta of 10.
        both_orders: ask about each pair in both orders (twice the calls) and average, p = (p_ij + 1 − p_ji) / 2, which
            takes out a model's liking for one position. :attr:`inconsistency` says how often the two disagreed.
        seed: of the pairs; they depend on it and on the query id alone.
        disagreement: draw pairs that a student and an earlier teacher order differently more often, instead of
            uniformly: what :func:`~pyterrier_distill.pair_disagreement` is given besides the frame, such as
            ``{"student": "score_student", "teacher": "teacher_score", "how": "inversion"}``. The frame must hold those
            columns.
        kind: ``"classifier"`` over (query, document, document) in one sequence, ``"seq2seq"`` (duoT5) or ``"causal"``;
            None = read from the checkpoint's configuration.
        prompt: ``"duot5"``, ``"ab"``, a text with ``{query}``, ``{document_a}`` and ``{document_b}``, or a
            ``Template``; None = ``"duot5"`` for seq2seq models, ``"ab"`` for others. Documents are cut to fit, the
            longer one first.
        answers: two words, one token each; the second one is for the first document. None = the prompt's own.
        backend: what runs ``model`` when it is a name: ``"hf"`` or ``"vllm"``; or a backend, with ``model`` None.
        training: how :meth:`fit` trains a classifier.
        label: the column of the label.
        max_length: tokens of prompt and answer; None = the checkpoint's own.
        precision: ``auto`` | ``fp32`` | ``bf16`` | ``fp16``; ``auto`` = bf16 where the hardware multiplies it natively.
        batch_size: most inputs of one forward pass (a token budget usually cuts earlier).
        query_field: the column of the query that the teacher reads, such as ``"query_en"`` beside a student's
            translation.
        text_field: the column of document text.
        device: None = the GPU where there is one.
        revision: of a hub model.
        verbose: True = progress is shown, False = never; None = once it takes more than three seconds.
        trust_remote_code: whether a hub model may bring its own code.

    Raises:
        FileNotFoundError: if the path is no directory; on first use, if there is no such model.
        ValueError: for impossible settings; on first use, if the checkpoint has no head that compares.

    References:
        Pradeep et al. 2021 (duoT5); PairDistill §4.1 (both kinds), §4.2 and §5.2 (sampling), App.
            C.1 (instruction).

    Example::

        teacher = ptd.PairwiseTeacher("castorini/duot5-3b-msmarco", n_pairs=50, delta=10)
        labelled = (bm25 % 100 >> dataset.text_loader() >> monot5 >> teacher)(topics)
    """

    schematic = {"label": "PairwiseTeacher"}
    answers_as = TEACHER_PREFS
    asks_by = PromptTeacher.asks_by | {"n_pairs", "delta", "both_orders", "seed", "disagreement", "training"}
    added_later = {"backend": "hf", "query_field": "query"}
    known_prompts = library.PAIRWISE
    default_prompts = ("duot5", "ab")
    writes = TEACHER_PREFS

    def __init__(
        self,
        model: str | os.PathLike | Backend | None = None,
        n_pairs: int | None = None,
        delta: int | None = None,
        both_orders: bool = False,
        seed: int = 42,
        *,
        disagreement: Mapping[str, Any] | None = None,
        kind: str | None = None,
        prompt: str | prompts.Template | None = None,
        answers: tuple[str, str] | None = None,
        backend: str | Backend = "hf",
        training: PairTraining | None = None,
        label: str = TEACHER_PREFS,
        max_length: int | None = None,
        precision: str = "auto",
        batch_size: int | None = None,
        query_field: str = "query",
        text_field: str = "text",
        device: str | None = None,
        revision: str | None = None,
        verbose: bool | None = None,
        trust_remote_code: bool = False,
    ):
        if kind not in (None, *KINDS):
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}.")
        if answers is not None and (isinstance(answers, str) or len(set(answers)) != 2):
            raise ValueError(f"answers must be two different words, not {answers!r}.")
        PairSampler(n_pairs, delta, both_orders, seed)  # checks its settings
        if disagreement is not None:  # checks its settings
            pair_disagreement(
                pd.DataFrame(columns=["qid", "docno", *disagreement_columns(**disagreement)]), **disagreement
            )
        if training is not None and not isinstance(training, PairTraining):
            raise TypeError(f"training must be a PairTraining, not {training!r}.")
        model = one_model(model, backend, "PairwiseTeacher")
        self.model = model
        self.backend = backend if isinstance(backend, str) else "hf"
        self.n_pairs = n_pairs
        self.delta = delta
        self.both_orders = both_orders
        self.seed = seed
        self.disagreement = None if disagreement is None else dict(disagreement)
        self.kind = kind
        self.prompt = prompt
        self.answers = None if answers is None else cast(tuple[str, str], tuple(answers))
        self.training = training
        self._store_model_settings(
            label=label, max_length=max_length, precision=precision, batch_size=batch_size, query_field=query_field,
            text_field=text_field, device=device, revision=revision, verbose=verbose,
            trust_remote_code=trust_remote_code,
        )  # fmt: skip
        if prompt is not None:
            checked_template(prompt, library.PAIRWISE, DOCUMENTS)
        if isinstance(self.model, str):
            from ..engine.checkpoints import check_name

            self.model = check_name(self.model, packed=True)
        elif not isinstance(model, PairClassifier) and as_backend(model) is None:
            checked_backend(model, {}, "PairwiseTeacher")
        self._disagreed = [0, 0]

    # -- which model --------------------------------------------------------------------------------------------------

    @property
    def _comparer(self) -> Any:
        """What compares: a classifier, or an asker of prompts. No weights are loaded before they are needed."""
        return self.model if isinstance(self.model, PairClassifier) else self._kept(self._make_comparer)

    def _make_comparer(self) -> Any:
        shared = {**self._model_settings(), "verbose": self.verbose}
        default = "ab"
        if isinstance(self.model, str):
            if self.backend != "hf":
                backend = checked_backend(self.model, shared, "PairwiseTeacher", self.backend)
                return PairAsker(backend, self.prompt or default, self.answers)
            from ..engine.pretrained import kind_of

            hub = {"trust_remote_code": self.trust_remote_code, "revision": self.revision}
            kind = self.kind or kind_of(self.model, hub)
            if kind in ("classifier", "cross-encoder"):
                return PairClassifier(self.model, **shared)
            backend = checked_backend(self.model, {**shared, "kind": kind}, "PairwiseTeacher")
            default = "duot5" if kind == "seq2seq" else default
        else:
            backend = checked_backend(self.model, shared, "PairwiseTeacher")
        return PairAsker(backend, self.prompt or default, self.answers)

    @property
    def usage(self) -> Usage:
        """Model calls, tokens and seconds so far."""
        return self._comparer.usage

    @property
    def inconsistency(self) -> float | None:
        """Share of pairs, asked in both orders so far, for which the two answers named different documents.

        A model that always prefers the first has 1.0; None before any pair was asked in both orders.
        """
        disagreed, asked = self._disagreed
        return disagreed / asked if asked else None

    # -- labelling ----------------------------------------------------------------------------------------------------

    def pairs(self, inp: pd.DataFrame) -> dict[str, list[tuple[int, int]]]:
        """qid → the pairs (i, j) of incoming ranks, from 0, that :meth:`transform` compares, i shown first."""
        strategy = "random" if self.disagreement is None else "disagreement"
        sampler = PairSampler(self.n_pairs, self.delta, self.both_orders, self.seed, strategy)
        weights = {} if self.disagreement is None else pair_disagreement(inp, **self.disagreement)
        return {
            str(qid): sampler.draw(str(qid), len(rows), weights.get(str(qid)))
            for qid, rows in inp.groupby(inp["qid"].to_numpy(), sort=False)
        }

    def _check(self, inp: pd.DataFrame) -> None:
        if self.disagreement is not None:
            read = [*disagreement_columns(**self.disagreement), self.query_field, self.text_field]
            validate.result_frame(inp, list(dict.fromkeys(read)), context=self)
        super()._check(inp)

    def _plan(self, inp: pd.DataFrame) -> tuple[dict[Any, list[Hashable]], dict[Any, _Compared]]:
        pairs = self.pairs(inp)
        ordered = inp.iloc[np.argsort(incoming_order(inp), kind="stable")] if len(inp) else inp
        asked: dict[Any, list[Hashable]] = {}
        compared: dict[Any, _Compared] = {}
        for qid, rows in ordered.groupby(ordered["qid"].to_numpy(), sort=False):
            one = _Compared(
                rows[self.query_field].iloc[0], rows["docno"].tolist(), rows[self.text_field].tolist(), pairs[str(qid)]
            )
            asked[qid] = [one.question(i, j) for i, j in one.pairs]
            compared[qid] = one
        return asked, compared

    def _ask(self, questions: Sequence[Hashable]) -> Sequence[float]:
        return [float(p) for p in self._comparer.compare(questions)]

    def _cost(self, questions: Sequence[Hashable]) -> Usage:
        return self._comparer.estimate(questions)

    def _notice(self, answers: Mapping[Hashable, float]) -> None:
        told = [p > 0.5 for question, p in answers.items() if len(set(cast(Question, question)[1:])) == 2]
        first = sum(told)
        both = "" if self.both_orders else " Ask in both orders (both_orders=True): .inconsistency then says how often"
        advice = "the model goes by their place, not by what they say." + (f"{both} this happens." if both else "")
        warn_if_same(self, first, len(told), "prefer the document that is shown first", advice)
        warn_if_same(self, len(told) - first, len(told), "prefer the document that is shown second", advice)

    def _write(
        self, inp: pd.DataFrame, answers: Mapping[Hashable, float], plan: dict[Any, _Compared]
    ) -> pd.DataFrame:
        prefs: dict[tuple[Any, str], dict[str, float]] = defaultdict(dict)
        for qid in dict.fromkeys(inp["qid"]):
            one = plan[qid]
            told = {(i, j): answers[one.question(i, j)] for i, j in one.pairs}
            for (i, j), p in told.items():
                if self.both_orders:
                    other = told[j, i]
                    if i < j and one.texts[i] != one.texts[j]:
                        self._disagreed[0] += (p > 0.5) != (other < 0.5)
                        self._disagreed[1] += 1
                    p = (p + 1 - other) / 2
                prefs[qid, one.docnos[i]][one.docnos[j]] = p
        cells = [dict(prefs.get(key, {})) for key in zip(inp["qid"], inp["docno"], strict=True)]
        return rerank(inp, mean_preferences(inp, cells), **{self.label: cells})

    # -- training -----------------------------------------------------------------------------------------------------

    def fit(
        self,
        res: pd.DataFrame,
        qrels: pd.DataFrame,
        res_va: pd.DataFrame | None = None,
        qrels_va: pd.DataFrame | None = None,
    ) -> PairwiseTeacher:
        """Train the classifier on pairs of documents of different relevance, with binary cross-entropy.

        Args:
            res: R frame with ``query`` and text: the candidates.
            qrels: judgements; a document without one counts as not relevant, unless its text is that of a relevant one
                of the same query.
            res_va: validation candidates; with them :attr:`history` also holds the loss on their pairs.
            qrels_va: their judgements.

        Returns:
            self, with :attr:`history`: a dict a log entry. :attr:`model` is then the trained classifier, so that copies
            of this teacher with other settings compare with it, too.

        Raises:
            ValueError: if the model is no classifier, or no query has two documents of different relevance.
        """
        from .pair_training import read_pairs, train

        if (res_va is None) != (qrels_va is None):
            raise ValueError("validation needs both: fit(res, qrels, res_va, qrels_va).")
        if not isinstance(self._comparer, PairClassifier):
            raise ValueError(
                f"only a classifier can be trained, and {self.model!r} is asked in words: give an encoder checkpoint"
                ' with kind="classifier".'
            )
        training = self.training or PairTraining()
        examples = read_pairs(res, qrels, self, training)
        validation = None if res_va is None or qrels_va is None else read_pairs(res_va, qrels_va, self, training)
        classifier = self._comparer
        self.history = train(classifier, examples, validation, training, self.seed, self.verbose is not False)
        self.model = classifier
        return self

    def save(self, path: str | os.PathLike, overwrite: bool = False) -> PairwiseTeacher:
        """Write a trained classifier as an ordinary checkpoint, which ``PairwiseTeacher(path)`` loads.

        Args:
            path: a directory that is not there, or one that this method wrote and ``overwrite`` allows to replace.
            overwrite: whether it may.

        Returns:
            A teacher of the same settings that reads from ``path``.
        """
        from ..engine.checkpoints import written_whole

        if not isinstance(self._comparer, PairClassifier) or not self._comparer.ready:
            raise ValueError("there is no trained classifier to save: fit one first.")
        with written_whole(path, "config.json", overwrite=overwrite) as draft:
            self._comparer.save(draft)
        return pt.inspect.transformer_apply_attributes(self, model=os.fspath(path), kind="classifier")


class PairAsker(Asker):
    """Asks which of two documents is the more relevant."""

    def __init__(self, backend: Backend, prompt: str | prompts.Template, answers: tuple[str, str] | None):
        super().__init__(backend, prompt, library.PAIRWISE, DOCUMENTS, answers, ("B", "A"))

    def compare(self, triples: Sequence[Question]) -> np.ndarray:
        """P(first ≻ second) ``[n]``."""
        with answers_as(lambda row: float(np.exp(row[1]))):
            return np.exp(self.choose(triples)[:, 1].astype(np.float64))
