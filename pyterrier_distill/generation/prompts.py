"""Prompts that ask for a query: a template, examples, a document."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from .. import prompts
from ..backends.base import Backend
from ..prompts import control, library
from .examples import Example, FewShot, checked_examples

#: How an example is shown by prompts that do not say so.
_LINE = "Document: {document}\nQuery: {query}"


def query_template(prompt: str | prompts.Template) -> prompts.Template:
    """``prompt`` as a template with ``{document}`` and, for examples, ``{examples}``.

    Raises:
        ValueError: if it is none, or the line that shows an example lacks a placeholder.
    """
    template = prompts.named(prompt, library.QUERIES, ("document",))
    if template.line == prompts.Template.line:
        template = dataclasses.replace(template, line=_LINE)
    template.check(("document",), ("examples", "next"))
    if "examples" in template.fields and not {"document", "query"} <= _fields(template) <= set(Example._fields) | {
        "id"
    }:
        raise ValueError(f"a line of examples holds {{document}} and {{query}}, unlike {template.line!r}.")
    return template


def _fields(template: prompts.Template) -> set[str]:
    return set(re.findall(r"\{(\w*)\}", template.line))


def check_examples(prompt: str | prompts.Template, examples: FewShot | Sequence[Sequence[str]] | None) -> None:
    """Check that prompt and examples go together, without drawing any.

    Raises:
        ValueError: if they do not.
        TypeError: if examples are no texts.
    """
    template = query_template(prompt)
    if "examples" not in template.fields:
        if examples is not None:
            raise ValueError("this prompt has no {examples}: leave examples out, or take a prompt that shows them.")
    elif prompt == "promptagator" and examples is None:
        raise ValueError(
            "promptagator shows examples of the task at hand: pass examples=[(document, query), ...], or"
            " examples=ptd.FewShot(topics, qrels, docs, n=8)."
        )
    elif not isinstance(examples, FewShot):
        checked_examples(examples, _fields(template))
    elif "bad" in _fields(template):
        raise ValueError("a labelled set has no bad questions: give this prompt (document, good, bad) triples.")


def shown_examples(
    template: prompts.Template, examples: FewShot | Sequence[Sequence[str]] | None, words: int | None, backend: Backend
) -> list[Example]:
    """The examples as the prompt shows them.

    Args:
        template: from :func:`query_template`.
        examples: as the user gave them.
        words: of a document.
        backend: who will read them.
    """
    if "examples" not in template.fields:
        return []
    return [
        Example(shown_document(one.document, words, backend), *(_line(text, backend) for text in one[1:]))
        for one in checked_examples(examples, _fields(template))
    ]


def shown_document(text: str, words: int | None, backend: Backend) -> str:
    """A document as the prompt shows it: its first words, in one line."""
    text = _line(text, backend)
    return text if words is None else prompts.first_words(text, words)


def _line(text: str, backend: Backend) -> str:
    """In one line, so that no text can begin an example of its own, and without control tokens."""
    return control.disarm(" ".join(text.split()), backend.specials)


def query_prompts(
    template: prompts.Template, examples: Sequence[Example], documents: Sequence[str], backend: Backend, answer: int
) -> list[prompts.Prompt]:
    """The prompt for each document: only documents are cut, longest first, those of examples too, until it fits.

    Args:
        template: from :func:`query_template`.
        examples: from :func:`shown_examples`.
        documents: from :func:`shown_document`.
        backend: who will answer.
        answer: tokens of the answer, which must fit, too.

    Raises:
        ValueError: if the instructions alone are too long.
    """

    def render(_: str, texts: list[str]) -> prompts.Prompt:
        lines = [
            prompts.fill(template.line, {"id": str(i), "document": text, "query": example.query, "bad": example.bad})
            for i, (text, example) in enumerate(zip(texts[1:], examples, strict=True), 1)
        ]
        values = {"document": texts[0], "examples": "\n\n".join(lines), "next": str(len(lines) + 1)}
        return template.render(values)

    items = [("", [document, *(example.document for example in examples)]) for document in documents]
    return prompts.fit(render, items, backend.room(answer), backend)
