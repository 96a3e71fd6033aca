"""Prompts as data: named templates, checked placeholders, one builder for labelling and training.

A prompt is a string (``plain`` templates) or a list of chat messages ``{"role", "content"}``. Texts are filled in once
and never read again, so a document that contains ``{query}`` or looks like a template stays a text.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..frames.words import first
from .control import disarm, neutralise

__all__ = [
    "Prompt", "Sizer", "Template", "disarm", "fill", "first_words", "fit", "flatten", "from_json", "level", "named",
    "neutralise", "to_json",
]  # fmt: skip

Prompt = str | list[dict[str, str]]

_FIELD = re.compile(r"\{(\w*)\}")

@dataclass(frozen=True)
class Template:
    """What a model is asked.

    Attributes:
        messages: ``(role, text)`` in order; roles are ``system``, ``user``, ``assistant``. Texts hold placeholders:
            ``{query}``; ``{document}`` (pointwise) or ``{document_a}``, ``{document_b}`` (pairwise) or ``{passages}``
            (lists: one line a passage); ``{num}`` (how many). Consecutive messages that hold ``{id}`` are repeated for
            each passage, with its ``{id}`` and ``{text}``.
        answers: the two words the model chooses from; the second one speaks for the document, or for the first of two.
        line: how ``{passages}`` shows one of them.
        plain: whether the text goes to the model as it is, never inside a chat template.

    Example::

        asked = ptd.Template((("user", "Is this about {query}?\\n{document}"),), answers=("no", "yes"))
        ptd.PointwiseTeacher("Qwen/Qwen3-0.6B", prompt=asked)
    """

    messages: tuple[tuple[str, str], ...]
    answers: tuple[str, ...] = ()
    line: str = "[{id}] {text}"
    plain: bool = False

    @property
    def fields(self) -> set[str]:
        """The placeholders it holds."""
        return {name for _, text in self.messages for name in _FIELD.findall(text)}

    @property
    def going_on(self) -> dict[str, bool]:
        """``{"spaced": False}`` for ``Backend.choose`` where the text ends in white space, so that no space follows."""
        return {"spaced": False} if self.messages[-1][1][-1:].isspace() else {}

    def check(self, required: Sequence[str], allowed: Sequence[str] = ()) -> Template:
        """This template, if its placeholders are those of its use.

        Raises:
            ValueError: naming the placeholder that is missing or unknown.
        """
        for name in required:
            if name not in self.fields:
                raise ValueError(f"the prompt lacks the placeholder {{{name}}}: {self.messages!r}.")
        for name in sorted(self.fields - set(required) - set(allowed)):
            known = ", ".join(f"{{{field}}}" for field in (*required, *allowed))
            raise ValueError(f"the prompt has the unknown placeholder {{{name}}}; it may hold {known}.")
        return self

    def render(self, values: Mapping[str, str], passages: Sequence[str] = (), ids: Sequence[str] = ()) -> Prompt:
        """The prompt.

        Args:
            values: placeholder → text.
            passages: for lists; ``{num}``, ``{passages}`` and repeated messages are filled from them.
            ids: what the passages are called; none given = "1", "2", ...
        """
        ids = ids or [str(i) for i in range(1, len(passages) + 1)]
        named_passages = list(zip(ids, passages, strict=True))
        lines = [fill(self.line, {"id": name, "text": text}) for name, text in named_passages]
        values = {**values, "num": str(len(passages)), "passages": "\n".join(lines)}
        filled: list[dict[str, str]] = []
        block: list[tuple[str, str]] = []
        for role, text in (*self.messages, ("end", "")):
            if "{id}" in text:
                block.append((role, text))
                continue
            for name, passage in named_passages if block else ():
                each = {**values, "id": name, "text": passage}
                filled += [{"role": r, "content": fill(t, each)} for r, t in block]
            block = []
            if role != "end":
                filled.append({"role": role, "content": fill(text, values)})
        return "".join(message["content"] for message in filled) if self.plain else filled


def fill(text: str, values: Mapping[str, str]) -> str:
    """``text`` with its placeholders replaced, each once; what is filled in is not read again."""
    return _FIELD.sub(lambda match: values.get(match.group(1), match.group(0)), text)


def flatten(prompt: Prompt) -> str:
    """A prompt as one string, for models and backends that know no chat messages."""
    return prompt if isinstance(prompt, str) else "\n\n".join(message["content"] for message in prompt)


def first_words(text: str, words: int) -> str:
    """The first ``words`` words of ``text``, the spaces between them kept; see ``frames.words``."""
    return first(text, words)


class Sizer(Protocol):
    """What :func:`fit` asks about sizes in tokens; every backend answers."""

    def prompt_sizes(self, prompts: Sequence[Prompt]) -> list[int]:
        """Tokens of each prompt."""

    def sizes(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text."""

    def cut(self, text: str, tokens: int) -> str:
        """The beginning of ``text``, at most ``tokens`` long."""


def fit(
    render: Callable[[str, list[str]], Prompt],
    items: Sequence[tuple[str, Sequence[str]]],
    limit: int | None,
    sizer: Sizer,
) -> list[Prompt]:
    """The prompts of ``items``, each with its passages cut, longest first, until it fits.

    Only passages are cut, never what stands round them; the query only where it alone would take more than half of what
    the instructions leave.

    Args:
        render: query and passages → prompt.
        items: (query, passages) of each prompt.
        limit: tokens that a prompt may have; None = any number.
        sizer: counts and cuts.

    Raises:
        ValueError: if the instructions alone are too long.
    """
    prompts = [render(query, list(passages)) for query, passages in items]
    if limit is None:
        return prompts
    for i, size in enumerate(sizer.prompt_sizes(prompts)):
        if size > limit:
            prompts[i] = _cut_to_fit(render, *items[i], limit, sizer)
    return prompts


def _cut_to_fit(
    render: Callable[[str, list[str]], Prompt], query: str, passages: Sequence[str], limit: int, sizer: Sizer
) -> Prompt:
    (bare,) = sizer.prompt_sizes([render("", [""] * len(passages))])
    room = limit - bare
    if room < 1 + len(passages):
        raise ValueError(
            f"the instructions alone take {bare} of {limit} tokens: raise max_length, or ask about fewer passages."
        )
    lengths = sizer.sizes([query, *passages])
    if lengths[0] > room // 2:
        query = sizer.cut(query, room // 2)
    budget = max(0, room - min(lengths.pop(0), room // 2))
    for _ in range(100):  # what is cut can be tokenised differently, by a token or two
        allowed = level(lengths, budget)
        shortened = [
            sizer.cut(text, allowed) if n > allowed else text for text, n in zip(passages, lengths, strict=True)
        ]
        prompt = render(query, shortened)
        excess = sizer.prompt_sizes([prompt])[0] - limit
        if excess <= 0:
            return prompt
        if budget == 0:
            query = sizer.cut(query, max(0, sizer.sizes([query])[0] - excess))
        budget = max(0, budget - excess)
    raise ValueError(f"a prompt could not be cut to {limit} tokens; its query begins {query[:50]!r}.")


def level(lengths: Sequence[int], budget: int) -> int:
    """The length to which the longest texts must be cut for all to take at most ``budget``."""
    left, spent = len(lengths), 0
    for length in sorted(lengths):
        if spent + length * left > budget:
            return max(0, (budget - spent) // left)
        spent += length
        left -= 1
    return max(lengths, default=0)


def to_json(prompt: str | Template) -> Any:
    """A prompt as JSON holds it: names and texts as they are."""
    return prompt if isinstance(prompt, str) else dataclasses.asdict(prompt)


def from_json(prompt: Any) -> str | Template:
    """What :func:`to_json` gave, as it was."""
    if isinstance(prompt, str):
        return prompt
    messages = tuple((role, text) for role, text in prompt["messages"])
    return Template(**{**prompt, "messages": messages, "answers": tuple(prompt["answers"])})


def named(prompt: str | Template, known: Mapping[str, Template], required: Sequence[str]) -> Template:
    """A template by its name, from a string with placeholders, or as it is.

    Args:
        prompt: a name in ``known``; a string with placeholders, which becomes one user message; or a Template.
        known: name → template.
        required: the placeholders it must have.

    Raises:
        ValueError: if it is none of these, or lacks a placeholder.
    """
    if isinstance(prompt, Template):
        template = prompt
    elif isinstance(prompt, str) and prompt in known:
        template = known[prompt]
    elif isinstance(prompt, str) and "{" in prompt:
        template = Template((("user", prompt),))
    else:
        raise ValueError(
            f"no prompt {prompt!r}: give one of {', '.join(map(repr, known))}, a text with the placeholders"
            f" {', '.join(f'{{{name}}}' for name in required)}, or a Template."
        )
    return template
