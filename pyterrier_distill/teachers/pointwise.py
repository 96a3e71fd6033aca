"""The pointwise teacher: how relevant is this document?"""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt

from .. import prompts
from ..backends.base import Backend, as_backend, log_softmax
from ..backends.chosen import checked_backend, one_model
from ..backends.usage import Usage
from ..engine import checkpoints
from ..frames import TEACHER_LOGITS, TEACHER_SCORE, validate
from ..frames.ranking import rerank, tied
from ..identity.identity import digest
from ..prompts import library
from ..stores import seals
from .base import PromptTeacher
from .likelihood import LikelihoodAsker, checked_prompt
from .questions import Asker, Question, checked_answers, checked_template, saved_question
from .sameness import warn_if_same

#: Not what a model is, but what it is asked; and its prompt.
LIKELIHOOD, UPR = "query_likelihood", "upr"
KINDS = ("cross-encoder", "seq2seq", "causal", LIKELIHOOD)
#: What scorers give that is the score itself.
_ONE = ("logit", "likelihood")


class PointwiseTeacher(PromptTeacher):
    """R → R: re-ranks by one model's judgement of each document, and leaves it as ``teacher_score``.

    The score's scale depends on the model:

    * a cross-encoder (a sequence classifier with one output): its raw logit, no activation, any real number;
    * a cross-encoder with two outputs, a monoT5-style or a yes/no model: log p(true) between the two answers, ≤ 0;
    * query likelihood: mean log p(query token | prompt with the passage, tokens before it), ≤ 0;
    * a PyTerrier re-ranker: whatever its ``score`` is.

    Models with two answers that run in this process also leave ``teacher_logits``: float32[2], the raw logits of
    [false, true]. Servers and vLLM give probabilities only.

    Args:
        model: the directory or hub name of a checkpoint, or of a LoRA adapter, which is put into its base; or a GGUF
            file; or a backend (``HF``, ``VLLM``, ``OpenAI``); or any PyTerrier re-ranker.
        kind: ``"cross-encoder"``, ``"seq2seq"`` (monoT5), ``"causal"`` (an LLM asked yes or no) or
            ``"query_likelihood"`` (any causal or seq2seq LM in this process); None = read from the checkpoint's
            configuration, which never says the last.
        prompt: ``"monot5"``, ``"yes_no"``, ``"qwen3"``, a text with ``{query}`` and ``{document}``, or a ``Template``;
            None = what a student was saved with, else ``"monot5"`` for seq2seq models, ``"yes_no"`` for others. The
            document alone is cut when the prompt is too long; the query only where it would take more than half of the
            room. For query likelihood ``"upr"``, the default, or a text or ``Template`` with ``{document}``, which the
            query follows: examples may stand before it.
        answers: the two words, (no, yes), each one token; None = the prompt's own.
        backend: what runs ``model`` when it is a name: ``"hf"`` or ``"vllm"``; or a backend, with ``model`` None.
        label: the column of the label. A second teacher's, such as ``"teacher_score_minilm"``, keeps its logits in
            ``"teacher_logits_minilm"``.
        max_length: tokens of prompt and answer; None = what a student was saved with, else the checkpoint's own.
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
        ValueError: on first use, if the checkpoint has no head that scores, or an answer is not one token.

    References:
        Nogueira et al. 2020 (monoT5); PairDistill §3.2 and App. C.1 (yes/no); InRanker §3 (logits), §4.2 (a teacher
        that reads another language); Sachan et al. 2022, UPR, Eq. 2 (query likelihood).

    Example::

        teacher = ptd.PointwiseTeacher("castorini/monot5-3b-msmarco")
        labelled = (bm25 % 100 >> dataset.text_loader() >> teacher)(topics)
    """

    unique = False
    answers_as = TEACHER_LOGITS
    schematic = {"label": "PointwiseTeacher", "inner_pipelines_mode": "unlinked"}
    added_later = {"backend": "hf", "query_field": "query"}
    known_prompts = library.POINTWISE
    default_prompts = ("monot5", "yes_no")
    writes = TEACHER_SCORE

    def __init__(
        self,
        model: str | os.PathLike | Backend | pt.Transformer | None = None,
        *,
        kind: str | None = None,
        prompt: str | prompts.Template | None = None,
        answers: tuple[str, str] | None = None,
        backend: str | Backend = "hf",
        label: str = TEACHER_SCORE,
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
        if kind == LIKELIHOOD and answers is not None:
            raise ValueError("query likelihood has no answers to choose from: leave answers out.")
        if kind == LIKELIHOOD and (backend == "vllm" or isinstance(model, pt.Transformer)):
            raise ValueError("query likelihood needs a language model in this process: a name or directory, or ptd.HF.")
        if query_field != "query" and isinstance(model, pt.Transformer):
            raise ValueError("a re-ranker reads columns of its own: rename them before it, and leave query_field out.")
        model = one_model(model, backend, "PointwiseTeacher")
        self.model = model
        self.backend = backend if isinstance(backend, str) else "hf"
        self.kind = kind
        self.prompt = prompt
        self.answers = checked_answers(answers)
        self._store_model_settings(
            label=label, max_length=max_length, precision=precision, batch_size=batch_size, query_field=query_field,
            text_field=text_field, device=device, revision=revision, verbose=verbose,
            trust_remote_code=trust_remote_code,
        )  # fmt: skip
        if kind == LIKELIHOOD:
            checked_prompt(prompt or UPR)
        elif prompt is not None:
            checked_template(prompt, library.POINTWISE, ("document",))
        if isinstance(model, str):
            self.model = checkpoints.check_name(model, packed=True)
        elif not isinstance(model, pt.Transformer) and as_backend(model) is None:
            checked_backend(model, {}, "PointwiseTeacher")

    # -- which model --------------------------------------------------------------------------------------------------

    @property
    def _scorer(self) -> Any:
        """What scores: a cross-encoder, or an asker of prompts. No weights are loaded before they are needed."""
        return self._kept(self._make_scorer)

    def _make_scorer(self) -> Any:
        shared = {**self._model_settings(), "verbose": self.verbose}
        if self.kind == LIKELIHOOD:
            return LikelihoodAsker(checked_backend(self.model, shared, "PointwiseTeacher"), self.prompt or UPR)
        if isinstance(self.model, str):
            if self.backend != "hf":
                backend = checked_backend(self.model, shared, "PointwiseTeacher", self.backend)
                return PointAsker(backend, self.prompt or "yes_no", self.answers)
            from ..engine.pretrained import kind_of

            hub = {"trust_remote_code": self.trust_remote_code, "revision": self.revision}
            told = checkpoints.told(self.model, seals.META)  # of a student
            if self.max_length is None:
                shared["max_length"] = told.get("max_length")
            kind = self.kind or kind_of(self.model, hub)
            if kind == "cross-encoder":
                from .cross_encoder import CrossEncoderScorer

                return CrossEncoderScorer(self.model, **shared)
            backend = checked_backend(self.model, {**shared, "kind": kind}, "PointwiseTeacher")
            default = "monot5" if kind == "seq2seq" else "yes_no"
            return PointAsker(backend, *saved_question(told, self.prompt, self.answers, default))
        backend = checked_backend(self.model, shared, "PointwiseTeacher")
        return PointAsker(backend, self.prompt or "yes_no", self.answers)

    @property
    def reworded(self) -> dict[str, str]:
        """As every teacher's; and the question that a student was saved with, if it is not one of the usual ones.

        Query likelihood has prompts of its own.
        """
        if self.kind == LIKELIHOOD:
            prompt = self.prompt or UPR
            return {prompt: digest(repr(library.LIKELIHOOD[prompt]))} if prompt in library.LIKELIHOOD else {}
        known = super().reworded
        if self.prompt is None and isinstance(self.model, str) and self.backend == "hf" and os.path.isdir(self.model):
            told = checkpoints.told(self.model, seals.META)
            if told.get("prompt", "monot5") not in self.default_prompts or told.get("answers"):
                known["saved with the model"] = digest(repr((told["prompt"], told.get("answers"))))
        return known

    @property
    def logits_label(self) -> str:
        """The column of the two raw logits."""
        if self.label.startswith(TEACHER_SCORE):
            return TEACHER_LOGITS + self.label.removeprefix(TEACHER_SCORE)
        return f"{self.label}_logits"

    @property
    def usage(self) -> Usage:
        """Model calls, tokens and seconds so far; a wrapped re-ranker's own are not known."""
        return Usage() if isinstance(self.model, pt.Transformer) else self._scorer.usage

    # -- labelling ----------------------------------------------------------------------------------------------------

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Label and re-rank; every other column, the rows' order and the index stay."""
        if not isinstance(self.model, pt.Transformer):
            return super().transform(inp)
        with validate.any(inp, context=self) as v:
            for columns in self._re_ranker_inputs():
                v.result_frame(columns)
        with tied():  # its scores become labels
            ranked = self.model(inp)
        if "score" not in ranked.columns:
            raise ValueError(f"{self.model!r} wraps no re-ranker: it gives no score.")
        unknown = pd.to_numeric(ranked["score"], errors="coerce").isna().to_numpy()
        if unknown.any():
            qid, docno = ranked.loc[unknown, ["qid", "docno"]].iloc[0]
            raise ValueError(
                f"{self.model!r} gives no number as the score of {int(unknown.sum())} of {len(ranked)} documents, such"
                f" as {docno!r} of query {qid!r}: a re-ranker must score every document that it returns."
            )
        return rerank(ranked, ranked["score"].to_numpy(), **{self.label: ranked["score"].to_numpy(dtype=float)})

    def _re_ranker_inputs(self) -> list[list[str]]:
        """What a wrapped re-ranker needs besides ids, one list a way of calling it; nothing where it does not say."""
        modes = pt.inspect.transformer_inputs(self.model, strict=False) or [[]]
        modes = [mode for mode in modes if {"qid", "docno"} <= set(mode)] or [[]]
        return [[column for column in mode if column not in ("qid", "docno")] for mode in modes]

    def estimate(self, inp: pd.DataFrame) -> Usage:
        """Calls and tokens of labelling ``inp``: equal (query, document) pairs count once.

        A wrapped re-ranker's tokens are not known and stay 0.
        """
        if not isinstance(self.model, pt.Transformer):
            return super().estimate(inp)
        self._check(inp)
        return Usage(calls=len(inp))

    def _plan(self, inp: pd.DataFrame) -> tuple[dict[Any, list[Hashable]], None]:
        asked: dict[Any, list[Hashable]] = {}
        for qid, query, text in zip(inp["qid"], inp[self.query_field], inp[self.text_field], strict=True):
            asked.setdefault(qid, []).append((query, text))
        return asked, None

    def _ask(self, questions: Sequence[Hashable]) -> Sequence[np.ndarray]:
        return list(self._scorer.score(questions))

    def _cost(self, questions: Sequence[Hashable]) -> Usage:
        return self._scorer.estimate(questions)

    def _notice(self, answers: Mapping[Hashable, np.ndarray]) -> None:
        distinct = {tuple(np.asarray(answer).ravel().tolist()) for answer in answers.values()}
        same = len(answers) if len(distinct) == 1 else 0
        warn_if_same(self, same, len(answers), "give the same score", "the model tells no document from another.")

    def _write(self, inp: pd.DataFrame, answers: Mapping[Hashable, np.ndarray], plan: None) -> pd.DataFrame:
        cells = [answers[pair] for pair in zip(inp[self.query_field], inp[self.text_field], strict=True)]
        gives = self._scorer.gives
        table = np.stack(cells) if cells else np.empty((0, 1 if gives in _ONE else 2), dtype=np.float32)
        if gives in _ONE:
            scores, labels = table[:, 0], {}
        else:
            scores = log_softmax(table)[:, 1]
            labels = {} if gives == "log-probabilities" else {self.logits_label: list(table)}
        scores = np.maximum(scores.astype(float), np.finfo(np.float32).min)  # a certain no, of words alone
        return rerank(inp, scores, **{self.label: scores}, **labels)


class PointAsker(Asker):
    """Asks whether a document is relevant."""

    def __init__(self, backend: Backend, prompt: str | prompts.Template, answers: tuple[str, str] | None):
        super().__init__(backend, prompt, library.POINTWISE, ("document",), answers, ("no", "yes"))

    @property
    def gives(self) -> str:
        """``"logits"`` of the two answers, or their ``"log-probabilities"``."""
        return "logits" if self.backend.gives_logits else "log-probabilities"

    def score(self, pairs: Sequence[Question]) -> np.ndarray:
        """``[n, 2]``: raw logits or log-probabilities of (no, yes)."""
        return self.logits(pairs) if self.backend.gives_logits else self.choose(pairs)
