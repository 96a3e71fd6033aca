"""Stand-ins for language models that write queries."""

import re
from types import SimpleNamespace

import pandas as pd

from pyterrier_distill.backends.base import Backend
from pyterrier_distill.backends.completions import Completion


class Scripted:
    """Answers each prompt by a function; counts."""

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    def generate(self, asked):
        self.asked += asked
        return [SimpleNamespace(text=self.answer(prompt)) for prompt in asked]

    def __repr__(self):
        return "Scripted()"


class Telling(Backend):
    """A backend with log-probabilities: repeats the document's first word, as sure as the document is short."""

    context = 4000

    def complete(self, prompts, *, max_new_tokens, sampling=None, seeds=None, until=None):
        self.usage.add(len(prompts))
        words = [re.findall(r"Document: (\S+)", prompt)[-1] for prompt in prompts]
        return [Completion(f"about {w}", (5, 6 + len(w)), (-1.0, -float(len(w)))) for w in words]

    def __repr__(self):
        return "Telling()"


def document_of(prompt):
    return prompt.rsplit("Document: ", 1)[1].split("\n")[0]


def docs(*texts):
    return pd.DataFrame({"docno": [f"d{i}" for i in range(len(texts))], "text": list(texts)})
