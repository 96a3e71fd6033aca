"""Questions in words with two possible answers, about a query and one document or two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from .. import prompts
from ..backends.base import Backend, answers_as
from ..backends.usage import Usage
from ..prompts import control

#: A query and its documents.
Question = tuple[str, ...]


class Asker:
    """Puts questions to a backend as prompts, documents cut to fit.

    Args:
        backend: what answers.
        prompt: the name of a template, its text, or a template.
        named: name → template.
        documents: the placeholders of the documents, beside ``query``.
        answers: two words, (no, yes); None = the template's own, or else ``default``.
        default: two words.
    """

    def __init__(
        self,
        backend: Backend,
        prompt: str | prompts.Template,
        named: Mapping[str, prompts.Template],
        documents: tuple[str, ...],
        answers: tuple[str, str] | None,
        default: tuple[str, str],
    ):
        self.backend = backend
        self.template = checked_template(prompt, named, documents)
        self.documents = documents
        self.answers = answers or self.template.answers or default

    @property
    def usage(self) -> Usage:
        """The backend's."""
        return self.backend.usage

    def model_changes(self) -> dict[str, str]:
        """How the backend's model is not its checkpoint's any more, where it knows."""
        changes = getattr(self.backend, "model_changes", None)
        return changes() if callable(changes) else {}

    def prompts(self, questions: Sequence[Question]) -> list[prompts.Prompt]:
        """One prompt a question."""
        clean = lambda text: control.disarm(text, self.backend.specials)  # noqa: E731

        def render(query: str, texts: list[str]) -> prompts.Prompt:
            return self.template.render({"query": query, **dict(zip(self.documents, texts, strict=True))})

        items = [(clean(query), [clean(text) for text in texts]) for query, *texts in questions]
        return prompts.fit(render, items, self.backend.room(1), self.backend)

    def choose(self, questions: Sequence[Question]) -> np.ndarray:
        """Log-probabilities ``[n, 2]`` of (no, yes)."""
        with self.backend.tokenised_once(), answers_as(_pair):
            return self.backend.choose(self.prompts(questions), self.answers, **self.template.going_on)

    def logits(self, questions: Sequence[Question]) -> np.ndarray:
        """Raw logits ``[n, 2]`` of (no, yes), where the backend gives them."""
        with self.backend.tokenised_once(), answers_as(_pair):
            return self.backend.option_logits(self.prompts(questions), self.answers, **self.template.going_on)

    def estimate(self, questions: Sequence[Question]) -> Usage:
        """Calls, prompt tokens and output tokens."""
        return Usage(len(questions), sum(self.backend.prompt_sizes(self.prompts(questions))), len(questions))


def _pair(answer: Any) -> Any:
    """An answer that an error carries, if it is two numbers; whatever else a backend returned is none."""
    return answer if np.shape(answer) == (2,) and np.issubdtype(np.asarray(answer).dtype, np.number) else None


def checked_template(
    prompt: str | prompts.Template, named: Mapping[str, prompts.Template], documents: tuple[str, ...]
) -> prompts.Template:
    """``prompt`` as a template with the placeholders ``query`` and ``documents``.

    Raises:
        ValueError: if it lacks one.
    """
    fields = ("query", *documents)
    return prompts.named(prompt, named, fields).check(fields)


def checked_answers(answers: tuple[str, str] | None) -> tuple[str, str] | None:
    """``answers`` as a tuple, if they are two words, or None.

    Raises:
        ValueError: if they are not.
    """
    if answers is None:
        return None
    words = tuple(answers) if isinstance(answers, (list, tuple)) else ()
    if len(words) != 2 or words[0] == words[1] or not all(isinstance(word, str) and word.strip() for word in words):
        raise ValueError(f"answers must be two different words, (no, yes), not {answers!r}.")
    return cast(tuple[str, str], words)


def saved_question(
    told: Mapping[str, Any],
    prompt: str | prompts.Template | None,
    answers: tuple[str, str] | None,
    default: str | prompts.Template,
) -> tuple[str | prompts.Template, tuple[str, str] | None]:
    """Prompt and answers: as asked for, else as a student was saved with, else the default.

    Args:
        told: what a saved student remembers (``pt_meta.json``); empty for other checkpoints.
        prompt: what was asked for.
        answers: two words, (no, yes), likewise.
        default: the prompt of models that say nothing.
    """
    if prompt is not None:
        return prompt, answers
    known = answers or told.get("answers")
    return prompts.from_json(told.get("prompt", default)), None if known is None else cast(Any, tuple(known))
