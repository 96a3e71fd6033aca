"""The listwise teacher: an LLM that orders windows of a ranking."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from .. import prompts
from ..backends.base import Backend, BackendError
from ..backends.chosen import check_engine
from ..backends.usage import Usage
from ..frames import TEACHER_RANK
from ..prompts import library
from .lists import ListTeacher
from .programs import Program
from .responses import OUTCOMES, parse_permutation


def windows(depth: int, window_size: int, stride: int) -> Iterator[tuple[int, int]]:
    """The (start, end) of windows over a list, from the bottom up; the topmost one may be shorter.

    A list of one document has none. 100 documents in windows of 20 with a stride of 10 have 9.
    """
    end = depth
    while depth > 1:
        start = max(0, end - window_size)
        yield start, end
        if start == 0:
            return
        end -= stride


class ListwiseLLMTeacher(ListTeacher):
    """R → R: an LLM orders the documents window by window, from the bottom up; ``teacher_rank`` is the order, best = 0.

    The new score is −``teacher_rank``. Whatever the model answers, the result is a permutation of the list: identifiers
    count once, those out of range are dropped, and passages left out keep their order behind the others.
    :attr:`responses` counts what was answered. Identifiers such as ``[12]`` inside documents and queries are changed to
    ``(12)`` before the model sees them.

    Args:
        model: the directory or hub name of a causal or seq2seq checkpoint, or a GGUF file; or a backend (``HF``,
            ``VLLM``, ``OpenAI``); or anything with ``generate(prompts) -> outputs with .text``, as pyterrier_rag's
            backends have.
        prompt: ``"rankgpt"``, ``"rankzephyr"``, a text with ``{query}`` and ``{passages}`` (and ``{num}``), or a
            ``Template``. Other than in rank_llm's present template, there is a blank line above and below
            ``rankzephyr``'s passages, and passages keep their own white space.
        window_size: passages of a prompt.
        stride: passages from one window to the next.
        passes: how often the windows go over the list.
        n_permutations: how often each window is asked about, once as it stands and otherwise shuffled, and order it by
            the mean rank: takes out a liking for positions, at n times the calls.
        constrained: hold decoding to permutations of the window's identifiers, so that no answer is malformed. Backends
            ``HF`` and ``VLLM`` can.
        backend: what runs ``model`` when it is a name: ``"hf"`` or ``"vllm"``; or a backend, with ``model`` None.
        max_words: words of a passage and of the query; cut further, passages first, where the prompt would not fit.
        reasoning_tokens: tokens of an answer beyond those that the ranking takes, for models that think aloud.
        seed: of the shuffles.
        label: the column of the label.
        max_length: tokens of prompt and answer; None = the checkpoint's own.
        precision: ``auto`` | ``fp32`` | ``bf16`` | ``fp16``.
        batch_size: most prompts of one forward pass.
        query_field: the column of the query that the teacher reads, such as ``"query_en"`` beside a student's
            translation.
        text_field: the column of document text.
        device: None = the GPU where there is one.
        revision: of a hub model.
        verbose: True = progress is shown, False = never; None = once it takes more than three seconds.
        trust_remote_code: whether a hub model may bring its own code.

    Attributes:
        responses: how many answers were ``ok``, of ``wrong_format``, with a ``repetition``, with passages ``missing``;
            and, where there was any, in ``other_notation``: named passages, other brackets, JSON, read all the same.

    Raises:
        ValueError: for impossible settings, or a prompt without its placeholders.

    References:
        Sun et al. 2023 (RankGPT); Pradeep et al. 2023 (RankZephyr); Rank-DistiLLM §3.2; Tang et al. 2023 (permutation
        self-consistency).

    Example::

        teacher = ptd.ListwiseLLMTeacher("castorini/rank_zephyr_7b_v1_full", prompt="rankzephyr")
        labelled = (bm25 % 100 >> dataset.text_loader() >> teacher)(topics)
    """

    schematic = {"label": "ListwiseLLMTeacher"}

    def __init__(
        self,
        model: str | os.PathLike | Backend | Any = None,
        prompt: str | prompts.Template = "rankgpt",
        window_size: int = 20,
        stride: int = 10,
        passes: int = 1,
        *,
        n_permutations: int = 1,
        constrained: bool = False,
        backend: str | Backend | Any = "hf",
        max_words: int | None = 300,
        reasoning_tokens: int = 0,
        seed: int = 42,
        label: str = TEACHER_RANK,
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
        for name, value, least in (
            ("window_size", window_size, 2), ("stride", stride, 1), ("passes", passes, 1),
            ("n_permutations", n_permutations, 1), ("max_words", max_words, 1),
            ("reasoning_tokens", reasoning_tokens, 0),
        ):  # fmt: skip
            absent = value is None and name == "max_words"
            if not absent and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}.")
        if stride > window_size:
            raise ValueError(f"stride={stride} would skip passages between windows of {window_size}.")
        check_engine(model, backend)
        self.model = os.fspath(model) if isinstance(model, os.PathLike) else model
        self.prompt = prompt
        self.window_size = window_size
        self.stride = stride
        self.passes = passes
        self.n_permutations = n_permutations
        self.constrained = constrained
        self.backend = backend
        self.max_words = max_words
        self.reasoning_tokens = reasoning_tokens
        self.seed = seed
        self._store_model_settings(
            label=label, max_length=max_length, precision=precision, batch_size=batch_size, query_field=query_field,
            text_field=text_field, device=device, revision=revision, verbose=verbose,
            trust_remote_code=trust_remote_code,
        )  # fmt: skip
        self.responses: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))
        self._disagreed = [0, 0]
        self.template  # noqa: B018 (a wrong prompt fails now)
        if constrained and not self.llm.constrains:
            raise ValueError(f"{self.llm!r} cannot be held to permutations: leave constrained=True out.")

    @property
    def template(self) -> prompts.Template:
        """The prompt as data."""
        template = prompts.named(self.prompt, library.LISTWISE, ("query", "passages"))
        if "id" in template.fields:
            return template.check(("query", "id", "text"), ("num", "passages"))
        return template.check(("query", "passages"), ("num",))

    @property
    def inconsistency(self) -> float | None:
        """Share of pairs of passages that an answer to a shuffled window orders otherwise than that to the window.

        A model that keeps whatever order it is shown has about 0.5; None before any window was shuffled
        (``n_permutations`` of at least 2).
        """
        disagreed, asked = self._disagreed
        return disagreed / asked if asked else None

    # -- a query's windows --------------------------------------------------------------------------------------------

    def _program(self, query: str, texts: Sequence[str]) -> Program:
        order = list(range(len(texts)))
        for _ in range(self.passes):
            for start, end in windows(len(texts), self.window_size, self.stride):
                window = order[start:end]
                ranked = yield query, [texts[i] for i in window]
                order[start:end] = [window[i] for i in ranked]
        return order

    def _shuffles(self, query: str, size: int) -> list[list[int]]:
        """The orders in which a window is shown: as it stands, then shuffled by seed and query."""
        rng = random.Random(f"{self.seed}\0{query}\0{size}")
        return [list(range(size)), *(rng.sample(range(size), size) for _ in range(self.n_permutations - 1))]

    def _ask(self, questions: Sequence[tuple[str, list[str]]]) -> list[list[int]]:
        shown = [(query, texts, order) for query, texts in questions for order in self._shuffles(query, len(texts))]
        asked = [self._shown(query, [texts[i] for i in order]) for query, texts, order in shown]
        sizes = [len(order) for _, _, order in shown]
        extra = {"permutations": sizes} if self.constrained else {}
        tokens = self._answer_tokens(max(sizes)) + self.reasoning_tokens
        try:
            texts = self.llm.generate(asked, max_new_tokens=tokens, **extra)
        except BackendError as error:
            got: list[Any] = error.answers if len(error.answers) == len(asked) else [None] * len(asked)
            n = self.n_permutations
            groups = [got[i : i + n] for i in range(0, len(got), n)]
            orders = [
                None if None in group else self._vote(shown[i * n : (i + 1) * n], group)
                for i, group in enumerate(groups)
            ]
            raise BackendError(str(error), orders, error.failed // n) from error
        n = self.n_permutations
        return [self._vote(shown[i : i + n], texts[i : i + n]) for i in range(0, len(texts), n)]

    def _vote(self, shown: Sequence[tuple[str, list[str], list[int]]], answers: Sequence[str]) -> list[int]:
        """One order of a window from the answers to its shuffles: by mean rank, ties by the incoming order."""
        ranks = np.zeros((len(answers), len(shown[0][2])))
        for of_answer, (_, _, order), answer in zip(ranks, shown, answers, strict=True):
            ranked, outcome = parse_permutation(answer, len(order))
            self.responses[outcome] += 1
            self._note(list(ranked) == list(range(len(order))), len(order) - 1)
            of_answer[[order[position] for position in ranked]] = range(len(order))
        first, *others = np.sign(ranks[:, :, None] - ranks[:, None])
        for other in others:
            self._disagreed[0] += int((first != other).sum()) // 2
            self._disagreed[1] += len(first) * (len(first) - 1) // 2
        ranks = ranks.sum(axis=0)
        return np.argsort(ranks, kind="stable").tolist()

    # -- prompts ------------------------------------------------------------------------------------------------------

    def _shown(self, query: str, texts: list[str]) -> prompts.Prompt:
        """The prompt of one window, passages cut until it fits."""
        room = self.llm.room(self._answer_tokens(len(texts)) + self.reasoning_tokens)
        template = self.template
        (prompt,) = prompts.fit(
            lambda query, passages: template.render({"query": query}, passages), [(query, texts)], room, self.llm
        )
        return prompt

    def _answer_tokens(self, n: int) -> int:
        """Tokens that a whole permutation takes, and one to end it."""
        return self.llm.sizes([" > ".join(f"[{i}]" for i in range(1, n + 1))])[0] + 2

    def estimate(self, inp: pd.DataFrame) -> Usage:
        """Calls, prompt tokens and output tokens of labelling ``inp``.

        Calls are exact. Tokens are those of windows over the incoming order: a passage that moves is read in other
        windows than counted here, or more often.
        """
        self._check(inp)
        total = Usage()
        if len(inp) == 0:
            return total
        for query, _, texts in self._lists(inp).values():
            for start, end in list(windows(len(texts), self.window_size, self.stride)) * self.passes:
                size = self.llm.prompt_sizes([self._shown(query, texts[start:end])])[0]
                answer = self._answer_tokens(end - start) + self.reasoning_tokens
                total += Usage(self.n_permutations, self.n_permutations * size, self.n_permutations * answer)
        return total
