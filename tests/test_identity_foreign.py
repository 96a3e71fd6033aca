"""What decides the answers of functions and of other people's re-rankers: weights, arrays, files, code and globals."""

import functools
import logging
import os
import subprocess
import sys
import types

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from generating import Telling
from labelling import Candidates, topics

import pyterrier_distill as ptd
from pyterrier_distill.identity.identity import difference, digest, identity

torch = pytest.importorskip("torch")
pytest.importorskip("pyarrow")


class Ranker(pt.Transformer):
    """A re-ranker as people write them: an argument kept under its name."""

    def __init__(self, model, text_field="text"):
        self.model, self.text_field = model, text_field

    def transform(self, inp):
        pt.validate.result_frame(inp, ["query", "text"])
        return pt.model.add_ranks(inp.assign(score=[value_of(self.model) * len(text) for text in inp["text"]]))


def value_of(model):
    """Some number that depends on all of something."""
    if isinstance(model, torch.nn.Module):
        return float(next(model.parameters()).detach().double().sum())
    if isinstance(model, (str, os.PathLike)):
        return float(sum(open(model, "rb").read()) if os.path.isfile(model) else len(str(model)))
    return float(np.asarray(model, dtype=float).sum())


def linear(seed):
    torch.manual_seed(seed)
    return torch.nn.Linear(4, 1)


def changed_at(place, make):
    numbers = np.zeros(5000)
    numbers[place] = 7
    return make(numbers)


def one(a, b):
    return difference(identity(a), identity(b)) is None and digest(identity(a)) == digest(identity(b))


@pytest.mark.parametrize(
    "make",
    [
        lambda n: Ranker(linear(n)),
        lambda n: Ranker(changed_at(1000 + n, np.asarray)),
        lambda n: Ranker(changed_at(1000 + n, torch.as_tensor)),
        lambda n: Ranker([changed_at(1000 + n, np.asarray)]),
        lambda n: pt.apply.doc_score((lambda model: lambda row: value_of(model))(linear(n))),
        lambda n: pt.apply.doc_score(Weighing(n + 1.0).score),
        lambda n: pt.apply.doc_score(keyword(n)),
        lambda n: pt.apply.doc_score(functools.lru_cache([lambda row: 1.0, lambda row: 2.0][n])),
        lambda n: pt.apply.doc_score(functools.partial(len if n else abs)),
        lambda n: Named("text" if n else "title", 0),
        lambda n: Named("text", n),
    ],
)  # fmt: skip
def test_what_answers_otherwise_is_another(make):
    assert one(make(0), make(0)) and not one(make(0), make(1))


class Weighing:
    def __init__(self, weight):
        self.weight = weight

    def score(self, row):
        return self.weight * len(row["text"])


def keyword(n):
    def score(row, *, weight=n):
        return weight

    return score


class Named(Ranker):
    """One whose settings are called as secrets are."""

    def __init__(self, key, token):
        self.key, self.token = key, token


def test_a_cache_of_one_set_of_weights_does_not_answer_for_another(path):
    frame, store = Candidates()(topics(2)), ptd.LabelStore(path)
    for seed in (0, 1):
        expected = ptd.PointwiseTeacher(Ranker(linear(seed)))(frame)
        pd.testing.assert_frame_equal(store.cache(Ranker(linear(seed)))(frame), expected, check_dtype=False)


def test_weights_trained_in_place_are_others(tmp_path):
    class Loading(Ranker):
        def __init__(self, name):
            self.name, self.net = name, linear(len(name))

    ranker = Loading("some")
    before = identity(ranker)
    assert identity(Loading("some")) == before == identity(ranker)
    with torch.no_grad():
        ranker.net.weight.add_(1)
    assert identity(ranker) != before


@pytest.mark.parametrize("name", ["model_name", "weights_file", "where"])
def test_files_under_any_name_are_known_by_their_content(name, tmp_path, monkeypatch):
    kind = type("Filed", (Ranker,), {})
    exec(f"def __init__(self, {name}): self.{name} = {name}", namespace := {})
    kind.__init__ = namespace["__init__"]
    (tmp_path / "a").write_text("one")
    (tmp_path / "b").write_text("one")
    before = identity(kind(str(tmp_path / "a")))
    assert identity(kind(tmp_path / "b")) == before
    assert difference({**before, name: str(tmp_path / "a")}, before) is None  # as it was written once
    (tmp_path / "a").write_text("two")
    assert identity(kind(str(tmp_path / "a"))) != before


def module(name, code, **values):
    made = types.ModuleType(name)
    made.__dict__.update(values)
    exec(code, made.__dict__)
    return made


CODE = """
import math
def helper(row): return WEIGHT * FACTOR
def score(row): return helper(row) + math.pi + tools.more(row)
def counting(row):
    global calls
    calls += 1
    seen.append(row)
    memory[row] = memory["n" + str(row)] = 1
    counts["n"] += 1
    return WEIGHT
def itself(row): return itself(row - 1) if row else WEIGHT
"""


def library(weight=1.0, factor=2.0, more="1"):
    tools = module("tools_of_mine", f"def more(row): return {more}")
    return module(
        "mine", CODE, WEIGHT=weight, FACTOR=np.float32(factor), tools=tools, calls=0, seen=[], memory={"n1": 0},
        counts={"n": 0},
    )  # fmt: skip


def test_functions_are_known_by_all_that_they_read():
    def told(made, name="score"):
        return identity(pt.apply.doc_score(getattr(made, name)))

    assert told(library()) == told(library())
    for other in (library(weight=3.0), library(factor=3.0), library(more="2")):
        assert digest(told(other)) != digest(told(library()))
    assert told(library(), "itself") != told(library(weight=2.0), "itself")
    made = library()
    before = told(made, "counting")
    made.counting(1)
    assert told(made, "counting") == before != told(library(weight=2.0), "counting")  # what it changes does not decide


def test_a_function_that_counts_its_calls_is_cached(path):
    calls = []
    ranker = pt.apply.doc_score(lambda row: calls.append(row["docno"]) or 2.0)
    cached, frame = ptd.LabelStore(path).cache(ranker), Candidates()(topics(2))
    cached(frame)
    cached(frame)
    assert len(calls) == len(frame)


def test_a_function_is_the_same_in_every_process(tmp_path):
    code = (
        "from pyterrier_distill.identity.identity import digest, identity\n"
        "print(digest(identity(lambda row: row['docno'] in {'x', 'y', 'd5', 'zz'} and (1, frozenset('abc')))))"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True
        ).stdout
        for seed in ("1", "2", "3")
    ]
    assert len(set(said)) == 1 and said[0].strip()


def test_functions_that_were_described_before_are_the_same():
    """The digest as it was written when functions were known by code, closed values and defaults only."""

    def old(function):
        def told(code):
            constants = [told(c) if isinstance(c, types.CodeType) else repr(c) for c in code.co_consts]
            return [code.co_code.hex(), constants, list(code.co_names), list(code.co_varnames)]

        closed = [cell.cell_contents for cell in function.__closure__ or ()]
        return digest([told(function.__code__), [*closed, *(function.__defaults__ or ())]])

    limit = 3
    for function in (lambda row: limit + len(row["text"]), library().score):
        now = identity(function)
        name = f"{function.__module__}.{function.__qualname__}"
        assert difference({"function": name, "code": old(function)}, now) is None
        assert difference({"function": name, "code": "0123456789abcdef"}, now) is not None
    assert difference("Linear(in_features=4, out_features=1, bias=True)", identity(linear(0))) is None


# -- who says nothing -------------------------------------------------------------------------------------------------


class Silent(Ranker):
    def __init__(self, weight, verbose=False):
        self.verbose, self.w = verbose, weight

    model = property(lambda self: self.w)


class Saying(Silent):
    def __repr__(self):
        return f"Saying({self.w})"


class Deciding(Silent):
    decided_by = "w"


class Holding(Silent):
    def __init__(self, weight):
        self.w = linear(int(weight))


@pytest.mark.parametrize("kind", [Saying, Deciding, Holding])
def test_who_says_what_decides_is_cached(kind, path):
    frame, store = Candidates()(topics(2)), ptd.LabelStore(path)
    for weight in (1.0, 2.0):
        expected = ptd.PointwiseTeacher(kind(weight))(frame)
        pd.testing.assert_frame_equal(store.cache(kind(weight))(frame), expected, check_dtype=False)


def test_who_does_not_say_is_not_cached(path, caplog):
    for silent in (Silent(1.0), pt.apply.doc_score(Silent(1.0).transform)):
        with pytest.raises(ValueError, match="Silent does not say.*keep weight.*decided_by"):
            ptd.LabelStore(path / "answers").cache(silent)
    generator = pt.apply.generic(Silent(1.0).transform, required_columns=["docno", "text"])
    with pytest.raises(ValueError, match="Silent does not say"):
        ptd.QueryStore(path / "queries").cache(generator)
    ptd.QueryStore(path / "queries").cache(ptd.SyntheticQueryGen(Telling()))
    with caplog.at_level(logging.WARNING):
        ptd.LabelStore(path / "labels").build(
            Candidates() >> ptd.PointwiseTeacher(Silent(1.0)), topics(2), verbose=False
        )
    assert "Silent does not keep weight" in caplog.text
