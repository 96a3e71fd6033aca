"""The setwise teacher: which of these few passages is the best?"""

from __future__ import annotations

import os
import string
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from .. import prompts
from ..backends.base import Backend, BackendError
from ..backends.chosen import check_engine
from ..backends.usage import Usage
from ..frames import TEACHER_RANK, arguments
from ..prompts import library
from .lists import ListTeacher
from .programs import Program

_LETTERS = string.ascii_uppercase


class SetwiseTeacher(ListTeacher):
    """R → R: finds the top k by asking which of a few passages is best, with a heap; leaves ``teacher_rank``, best = 0.

    The likelihoods of the passages' letters decide, so no answer can be malformed. Documents behind the top k keep
    their incoming order. The new score is −``teacher_rank``.

    Args:
        model: the directory or hub name of a causal or seq2seq checkpoint, or a GGUF file; or a backend that
            can ``choose``.
        k: documents to be ordered.
        set_size: passages of one question: a node of the heap and its children. 3 to 26.
        prompt: ``"setwise"``, a text with ``{query}`` and ``{passages}``, or a ``Template``.
        backend: what runs ``model`` when it is a name: ``"hf"`` or ``"vllm"``; or a backend, with ``model`` None.
        max_words: words of a passage and of the query; cut further, passages first, where the prompt would not fit.
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

    Raises:
        ValueError: for impossible settings, or a prompt without its placeholders.

    References:
        Zhuang et al. 2023, Setwise prompting (heap sort, likelihoods of labels).

    Example::

        teacher = ptd.SetwiseTeacher("google/flan-t5-large", k=10, set_size=4)
        labelled = (bm25 % 30 >> text >> teacher)(topics)
    """

    schematic = {"label": "SetwiseTeacher"}

    def __init__(
        self,
        model: str | os.PathLike | Backend | Any = None,
        k: int = 10,
        set_size: int = 4,
        *,
        prompt: str | prompts.Template = "setwise",
        backend: str | Backend | Any = "hf",
        max_words: int | None = 300,
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
        arguments.whole(k, "k")
        if isinstance(set_size, bool) or not isinstance(set_size, int) or not 3 <= set_size <= len(_LETTERS):
            raise ValueError(f"set_size must be a whole number from 3 to {len(_LETTERS)}, not {set_size!r}.")
        check_engine(model, backend)
        self.model = os.fspath(model) if isinstance(model, os.PathLike) else model
        self.k = k
        self.set_size = set_size
        self.prompt = prompt
        self.backend = backend
        self.max_words = max_words
        self._store_model_settings(
            label=label, max_length=max_length, precision=precision, batch_size=batch_size, query_field=query_field,
            text_field=text_field, device=device, revision=revision, verbose=verbose,
            trust_remote_code=trust_remote_code,
        )  # fmt: skip
        self.template  # noqa: B018 (a wrong prompt fails now)

    @property
    def template(self) -> prompts.Template:
        """The prompt as data."""
        template = prompts.named(self.prompt, library.SETWISE, ("query", "passages"))
        return template.check(("query", "passages"), ("num",))

    def _program(self, query: str, texts: Sequence[str]) -> Program:
        """Heap selection: build a heap of sets, then take the best off its top, k times."""
        width = self.set_size - 1
        heap = list(range(len(texts)))

        def sink(node: int) -> Program:
            while True:
                children = [c for c in range(width * node + 1, width * node + 1 + width) if c < len(heap)]
                if not children:
                    return
                best = yield query, [texts[heap[place]] for place in (node, *children)]
                if best == 0:
                    return
                child = children[best - 1]
                heap[node], heap[child] = heap[child], heap[node]
                node = child

        for node in reversed(range((len(heap) - 2) // width + 1) if len(heap) > 1 else range(0)):
            yield from sink(node)
        top: list[int] = []
        while heap and len(top) < self.k:
            top.append(heap[0])
            last = heap.pop()
            if heap:
                heap[0] = last
                if len(top) < self.k:
                    yield from sink(0)
        return top + sorted(set(range(len(texts))) - set(top))

    def _ask(self, questions: Sequence[tuple[str, list[str]]]) -> list[int]:
        best: list[Any] = [None] * len(questions)
        for size in sorted({len(texts) for _, texts in questions}):
            rows = [n for n, (_, texts) in enumerate(questions) if len(texts) == size]
            letters = list(_LETTERS[:size])
            asked = [self._shown(*questions[n]) for n in rows]
            try:
                answers = list(self.llm.choose(asked, letters, **self.template.going_on))
            except BackendError as error:
                got = error.answers if len(error.answers) == len(rows) else [None] * len(rows)
                for n, row in zip(rows, got, strict=True):
                    best[n] = None if row is None else int(np.argmax(row))
                raise BackendError(str(error), best, rows[min(error.failed, len(rows) - 1)]) from error
            for n, row in zip(rows, answers, strict=True):
                if np.isnan(row).any():
                    raise ValueError(f"the model gave no number for query {questions[n][0]!r}: try precision='fp32'.")
                best[n] = int(np.argmax(row))
                self._note(best[n] == 0, 1)
        return best

    def _shown(self, query: str, texts: list[str]) -> prompts.Prompt:
        template, letters = self.template, _LETTERS[: len(texts)]
        (prompt,) = prompts.fit(
            lambda query, passages: template.render({"query": query}, passages, letters),
            [(query, texts)],
            self.llm.room(1),
            self.llm,
        )
        return prompt

    def estimate(self, inp: pd.DataFrame) -> Usage:
        """Most calls and tokens that labelling ``inp`` can take: every question over the longest passages.

        How many a heap really takes depends on the answers.
        """
        self._check(inp)
        total = Usage()
        if len(inp) == 0:
            return total
        width = self.set_size - 1
        for query, _, texts in self._lists(inp).values():
            calls = sum(_height(node, len(texts), width) for node in range(len(texts)))
            calls += sum(_height(0, len(texts) - taken, width) for taken in range(1, min(self.k, len(texts))))
            longest = [texts[n] for n in np.argsort(self.llm.sizes(texts))[::-1][: self.set_size]]
            size = self.llm.prompt_sizes([self._shown(query, longest)])[0]
            total += Usage(calls, calls * size, calls)
        return total


def _height(node: int, size: int, width: int) -> int:
    """Questions that sinking ``node`` can take in a heap of ``size``."""
    steps = 0
    while width * node + 1 < size:
        node = width * node + 1
        steps += 1
    return steps
