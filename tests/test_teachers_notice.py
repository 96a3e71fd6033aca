"""Models that answer every question the same are told of, once a frame; those that judge are not."""

import re

import numpy as np
import pytest

import pyterrier_distill as ptd
from pyterrier_distill.backends.base import Backend


class Model(Backend):
    """Answers by a rule: ``choice`` of the options, or the ``order`` of identifiers that a prompt shows."""

    def __init__(self, choice=lambda prompt: 0.0, order=lambda passages: passages):
        super().__init__()
        self.choice, self.order = choice, order

    def choose(self, prompts, options, *, spaced=True):
        rows = [[-(p := self.choice(str(prompt))), p, *[-9.0] * (len(options) - 2)] for prompt in prompts]
        return np.log(np.exp(rows) / np.exp(rows).sum(axis=1, keepdims=True)).astype(np.float32)

    def generate(self, prompts, *, max_new_tokens, permutations=None):
        said = []
        for prompt in prompts:
            shown = re.findall(r"\[(\d+)\] ([^\[\]]+)", str(prompt).split("> [1]")[0])
            said.append(" > ".join(f"[{n}]" for n, _ in self.order(shown)))
        return said

    def __repr__(self):
        return "Model()"


@pytest.fixture
def told(caplog):
    """What was said of a frame."""

    def run(teacher, frame):
        caplog.clear()
        teacher(frame)
        return [record.getMessage() for record in caplog.records if "teachers" in record.name]

    return run


def test_pairs_of_which_the_first_always_wins(results, told):
    always = ptd.PairwiseTeacher(Model(lambda prompt: 1.0), both_orders=True)
    (message,) = told(always, results)
    assert "all 68 answers prefer the document that is shown first" in message and always.inconsistency == 1.0
    (message,) = told(ptd.PairwiseTeacher(Model(lambda prompt: -1.0)), results)
    assert "shown second" in message and "both_orders=True" in message
    # One that looks at the documents, and too few pairs to say anything.
    judges = ptd.PairwiseTeacher(Model(lambda p: 1.0 if "cat" in p.split("Document A:")[1][:60] else -1.0))
    assert told(judges, results) == []
    assert told(always, results[results["qid"] == "q0"]) == []


def test_the_same_score_for_every_document(results, told):
    (message,) = told(ptd.PointwiseTeacher(Model(lambda prompt: 0.3)), results)
    assert "all 18 answers give the same score" in message
    assert told(ptd.PointwiseTeacher(Model(lambda prompt: len(prompt) / 1000)), results) == []


def test_orders_that_are_kept(results, told):
    keeps = ptd.ListwiseLLMTeacher(Model(), prompt="rankzephyr", n_permutations=3, window_size=4, stride=2)
    (message,) = told(keeps, results)
    assert "keep the order in which passages are shown" in message
    assert 0.2 < keeps.inconsistency < 0.8  # by chance, of two shuffled orders
    turns = Model(order=lambda passages: passages[::-1])
    assert told(ptd.ListwiseLLMTeacher(turns, prompt="rankzephyr"), results) == []
    sorts = Model(order=lambda passages: sorted(passages, key=lambda one: one[1]))
    teacher = ptd.ListwiseLLMTeacher(sorts, prompt="rankzephyr", n_permutations=3)
    assert told(teacher, results) == [] and teacher.inconsistency == 0.0
    assert ptd.ListwiseLLMTeacher(sorts).inconsistency is None


def test_sets_of_which_the_first_is_always_the_best(results, told):
    (message,) = told(ptd.SetwiseTeacher(Model(lambda prompt: -1.0), set_size=3), results)
    assert "keep the order" in message


def test_each_frame_is_judged_by_itself(results, told):
    answers = {"all": lambda passages: passages}
    teacher = ptd.ListwiseLLMTeacher(Model(order=lambda passages: answers["all"](passages)), prompt="rankzephyr")
    assert len(told(teacher, results)) == 1
    answers["all"] = lambda passages: passages[::-1]
    assert told(teacher, results) == []
    answers["all"] = lambda passages: passages
    assert len(told(teacher, results)) == 1
