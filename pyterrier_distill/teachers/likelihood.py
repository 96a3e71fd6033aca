"""How likely a passage makes the query: a language model reads the passage and is asked for nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .. import prompts
from ..backends.base import Backend, answers_as
from ..backends.usage import Usage
from ..prompts import Prompt, control, library
from .questions import Asker, Question

#: Tokens that a query may have more than are counted: a space before it, a special token behind it.
_MARGIN = 2


def checked_prompt(prompt: str | prompts.Template) -> prompts.Template:
    """``prompt`` as a template with the placeholder ``document``; the query is what follows it.

    Raises:
        ValueError: if it lacks it, or holds another one.
    """
    template = prompts.named(prompt, library.LIKELIHOOD, ("document",))
    if "query" in template.fields:
        raise ValueError("a prompt for query likelihood holds {document} alone: the query is what follows the prompt.")
    return template.check(("document",))


class LikelihoodAsker(Asker):
    """Mean log-probability of the query's tokens behind a prompt that shows the passage.

    Args:
        backend: a local model that tells likelihoods.
        prompt: the name of a template, its text, or a template.

    Raises:
        ValueError: if the backend tells none.
    """

    gives = "likelihood"

    def __init__(self, backend: Backend, prompt: str | prompts.Template):
        if not backend.gives_likelihoods:
            raise ValueError(
                f"{backend!r} does not tell how likely a text is: query likelihood needs a model in this process,"
                " ptd.HF(...)."
            )
        self.backend = backend
        self.template = checked_prompt(prompt)
        self.documents = ("document",)

    def prompts(self, questions: Sequence[Question]) -> list[Prompt]:
        """One prompt a question: its passage cut so that the query fits behind it."""
        return self._asked(questions)[0]

    def score(self, pairs: Sequence[Question]) -> np.ndarray:
        """Mean log-probabilities ``[n, 1]``, at most 0.

        Raises:
            ValueError: for a query of no words.
        """
        for query, *_ in pairs:
            if not query.strip():
                raise ValueError("a query of no words has no likelihood: leave queries without text out.")
        with self.backend.tokenised_once(), answers_as(lambda answer: np.reshape(answer, 1)):
            asked, said = self._asked(pairs)
            return self.backend.likelihoods(asked, said, **self.template.going_on)[:, None]

    def estimate(self, questions: Sequence[Question]) -> Usage:
        """Calls and prompt tokens, the query's among them; nothing is written."""
        asked, said = self._asked(questions)
        return Usage(len(asked), sum(self.backend.prompt_sizes(asked)) + sum(self.backend.sizes(said)), 0)

    def _asked(self, questions: Sequence[Question]) -> tuple[list[Prompt], list[str]]:
        """Prompts and the queries behind them. How a passage is cut depends on its query alone, not on other ones."""
        backend = self.backend
        clean = lambda text: control.disarm(text, backend.specials)  # noqa: E731
        render = lambda _, texts: self.template.render({"document": texts[0]})  # noqa: E731
        room = backend.room(_MARGIN)
        (bare,) = backend.prompt_sizes([render("", [""])])
        half = None if room is None else max(1, (room - bare) // 2)
        queries = {query: clean(query).strip() for query, _ in questions}
        sizes = dict(zip(queries, backend.sizes(list(queries.values())), strict=True))
        for query, size in sizes.items():
            if half is not None and size > half:
                queries[query], sizes[query] = backend.cut(queries[query], half), half
        asked: list[Prompt] = [""] * len(questions)
        for size in sorted(set(sizes.values())):
            rows = [n for n, (query, _) in enumerate(questions) if sizes[query] == size]
            found = prompts.fit(
                render, [("", [clean(questions[n][1])]) for n in rows], backend.room(size + _MARGIN), backend
            )
            for n, prompt in zip(rows, found, strict=True):
                asked[n] = prompt
        return asked, [queries[query] for query, _ in questions]
