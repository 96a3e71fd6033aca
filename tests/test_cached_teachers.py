"""A cached teacher gives what the teacher gives: rows, columns, values, order; alone, and in pipelines of two."""

import os

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from labelling import Candidates, Lister, Scorer, topics

import pyterrier_distill as ptd
from pyterrier_distill.teachers.base import incoming_order

pytest.importorskip("pyarrow")


class First:
    """Generates for listwise teachers: the order as it is shown, reversed."""

    def generate(self, prompts):
        from types import SimpleNamespace

        return [SimpleNamespace(text=" > ".join(f"[{i}]" for i in range(6, 0, -1))) for _ in prompts]

    def __repr__(self):
        return "First()"


class Ordered(Lister):
    """A teacher of lists that goes by their ranking, not by where rows stand."""

    def transform(self, inp):
        places = np.lexsort((incoming_order(inp), inp["qid"].to_numpy(dtype=str)))
        return super().transform(inp.iloc[places]).iloc[np.argsort(places)]


FP32 = {"precision": "fp32", "device": "cpu"}
TEACHERS = {
    "cross-encoder": lambda m: ptd.PointwiseTeacher(m["tiny_cross"], **FP32),
    "monoT5": lambda m: ptd.PointwiseTeacher(m["tiny_t5"], label="teacher_score_t5", **FP32),
    "re-ranker": lambda m: ptd.PointwiseTeacher(ptd.BiEncoder(m["tiny"], **FP32)),
    "likelihood": lambda m: ptd.PointwiseTeacher(m["tiny_llm"], kind="query_likelihood", **FP32),
    "pairs": lambda m: ptd.PairwiseTeacher(m["tiny_t5"], n_pairs=4, delta=3, **FP32),
    "pairs in both orders": lambda m: ptd.PairwiseTeacher(m["tiny_cross"], both_orders=True, **FP32),
    "listwise": lambda m: ptd.ListwiseLLMTeacher(First()),
    "setwise": lambda m: ptd.SetwiseTeacher(m["tiny_llm"], k=2, set_size=3, **FP32),
    "run": lambda m: ptd.RunTeacher(m["results"][["qid", "docno", "teacher_score"]]),
    "orders": lambda m: ptd.OrdersTeacher(
        [m["results"][["qid", "docno", "rank"]], ptd.PointwiseTeacher(m["tiny_cross"], **FP32)], n_pairs=4, delta=3
    ),
    "fused": lambda m: ptd.fuse_teachers("score", "first_score", label="teacher_score_fused"),
    "own, of documents": lambda m: Scorer(),
    "own, of lists": lambda m: Ordered(),
}


@pytest.fixture
def models(tiny, tiny_cross, tiny_t5, tiny_llm, results):
    return {"tiny": tiny, "tiny_cross": tiny_cross, "tiny_t5": tiny_t5, "tiny_llm": tiny_llm, "results": results}


@pytest.fixture
def frame(results):
    rng = np.random.default_rng(3)
    return results.assign(first_score=rng.normal(size=len(results)), extra=range(len(results)), label=7)


def assert_as_uncached(pipeline, cached, frames):
    for frame in frames:
        expected = pipeline(frame)
        for _ in range(2):
            out = cached(frame)
            assert sorted(out.columns) == sorted(expected.columns)
            out = out[list(expected.columns)]
            pd.testing.assert_frame_equal(out, expected, check_dtype=False, rtol=1e-5, atol=1e-5)


def versions_of(frame):
    """The frame; a part of its documents; other ranking, other labels; its rows in another order."""
    part = frame[frame.groupby("qid").cumcount() % 3 != 1]
    other = frame.assign(score=-frame["score"], label=3, teacher_score=frame["teacher_score"] + 1)
    other["rank"] = other.groupby("qid")["score"].rank(ascending=False, method="first").astype(int) - 1
    return [part, frame, other, frame.sample(frac=1, random_state=1), frame.drop(columns="label")]


@pytest.mark.parametrize("name", TEACHERS)
def test_cached_is_uncached(name, models, frame, path):
    teacher = TEACHERS[name](models)
    assert_as_uncached(teacher, ptd.LabelStore(path).cache(TEACHERS[name](models)), versions_of(frame))


@pytest.mark.parametrize("second", ["cross-encoder", "pairs", "fused", "own, of lists"])
@pytest.mark.parametrize("first", ["monoT5", "re-ranker", "pairs in both orders", "listwise"])
def test_cached_pipelines_of_two_are_uncached(first, second, models, frame, path):
    pipeline = TEACHERS[first](models) >> TEACHERS[second](models)
    cached = ptd.LabelStore(path).cache(TEACHERS[first](models) >> TEACHERS[second](models))
    assert_as_uncached(pipeline, cached, versions_of(frame))


def test_a_first_stage_kept_later_asks_nothing_again(path):
    """That column changes no answer: pipelines that had none before find theirs."""
    frame, teacher = Candidates()(topics(4)), Scorer()
    expected = ptd.LabelStore(path).cache(teacher)(frame)
    asked = teacher.usage.calls
    out = ptd.LabelStore(path).cache(teacher)(ptd.first_stage_rank()(frame))
    assert teacher.usage.calls == asked
    pd.testing.assert_frame_equal(out[expected.columns], expected)


def test_stages_that_are_no_teachers_run_as_they_are(path):
    frame = Candidates()(topics(4))
    pipeline = pt.apply.query(lambda row: row["query"] + "!") >> Scorer() % 2 >> Lister()
    assert_as_uncached(pipeline, ptd.LabelStore(path).cache(pipeline), [frame])


def test_a_shorter_list_is_answered_where_questions_are_single(models, frame, path):
    for name in ("cross-encoder", "pairs in both orders"):
        teacher = TEACHERS[name](models)
        cached = ptd.LabelStore(path / name).cache(teacher)
        cached(frame)
        calls = teacher.usage.calls
        cached(frame[frame["rank"] < 2])
        again = TEACHERS[name](models)
        ptd.LabelStore(path / name).cache(again)(frame[frame["rank"] > 0])
        assert calls > 0 and teacher.usage.calls == calls and again.usage.calls == 0


def test_what_a_teacher_reads_is_in_the_key(models, frame, path):
    store = ptd.LabelStore(path)
    by_body = ptd.CrossEncoder(models["tiny"], text_field="body", **FP32)
    by_score = ptd.PointwiseTeacher(pt.apply.doc_score(lambda row: 2 * row["score"]))  # announces nothing
    other = frame.assign(body=frame["text"] + " tree", score=frame["score"] + 1)
    for teacher in (ptd.PointwiseTeacher(by_body), by_score):
        assert_as_uncached(teacher, store.cache(teacher), [frame.assign(body=frame["text"]), other])


def test_pairs_of_disagreement_follow_the_student(models, frame, path):
    rule = {"student": "score_student", "how": "inversion"}
    teacher = ptd.PairwiseTeacher(models["tiny_t5"], n_pairs=2, disagreement=rule, **FP32)
    frames = [frame.assign(score_student=sign * frame["first_score"]) for sign in (1, -1)]
    assert_as_uncached(teacher, ptd.LabelStore(path).cache(teacher), frames)


class Optional(pt.Transformer):
    """A re-ranker that uses a column where it is there."""

    def transform(self, inp):
        pt.validate.result_frame(inp, ["query", "text"])
        more = inp["title"].str.len() if "title" in inp.columns else 0
        return pt.model.add_ranks(inp.assign(score=inp["extra"] / 100 + more))


class OptionalLister(Lister):
    """A teacher of lists that uses the incoming scores where they are there."""

    def transform(self, inp):
        scores = inp["score"].to_numpy() * 2 if "score" in inp.columns else 0.0
        return super().transform(inp).assign(teacher_score=scores)


def boosted(row):
    return row["extra"] / 100 + (row["boost"] if "boost" in row else 0.0)


@pytest.mark.parametrize(
    "teacher", [ptd.PointwiseTeacher(Optional()), OptionalLister(), ptd.PointwiseTeacher(pt.apply.doc_score(boosted))]
)
def test_columns_that_are_used_where_they_are_there_are_given(teacher, frame, path):
    more = frame.assign(title=["t" * n for n in range(len(frame))], boost=np.arange(len(frame)) * 5.0)
    other = more.assign(title=more["title"] + "t", boost=-more["boost"], score=-more["score"])
    frames = [frame, more, other, other[list(other.columns)[::-1]]]
    assert_as_uncached(teacher, ptd.LabelStore(path).cache(teacher), frames)


def by_place(rows):
    return rows.assign(score=np.arange(len(rows))[::-1] * 1.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda m: pt.apply.by_query(by_place),
        lambda m: pt.apply.generic(by_place),
        lambda m: Foreign(),
        lambda m: ptd.RunTeacher(m["results"][["qid", "docno", "teacher_score"]]),
        lambda m: ptd.PairwiseTeacher(m["tiny_t5"], n_pairs=None, **FP32),
    ],
)  # fmt: skip
def test_what_is_not_known_to_judge_documents_is_kept_by_lists(make, models, frame, path):
    teacher, cached = ptd.PointwiseTeacher(make(models)), ptd.LabelStore(path).cache(ptd.PointwiseTeacher(make(models)))
    listed = frame[frame["qid"] == "q0"]
    assert_as_uncached(teacher, cached, [listed[listed["docno"].isin(listed["docno"].iloc[:2])], listed])


class Foreign(pt.Transformer):
    """A re-ranker that normalises its scores over the list."""

    def transform(self, inp):
        pt.validate.result_frame(inp, ["query", "text"])
        scores = inp["text"].str.len() + inp["docno"].str[-1].astype(int)
        return pt.model.add_ranks(inp.assign(score=scores / scores.groupby(inp["qid"]).transform("sum")))


class Stumbling(Scorer):
    """A teacher whose server answers amiss once: the error is about no column."""

    stumbles = ()

    def transform(self, inp):
        if len(inp) and self.stumbles:
            raise self.stumbles.pop()
        return super().transform(inp)


def test_an_error_about_no_column_asks_nothing_again(frame, path):
    teacher = Stumbling()
    store = ptd.LabelStore(path)
    cached = store.cache(teacher)
    first, rest = frame[frame["qid"] == "q0"], frame
    cached(first)
    teacher.stumbles = [AttributeError("'Answer' object has no attribute 'extra'"), KeyError("choices")]
    for error in (KeyError, AttributeError):
        with pytest.raises(error):
            cached(rest)
    cached(rest)
    assert teacher.usage.calls == len(frame)


def test_columns_that_a_declaring_teacher_looks_for_are_learnt(frame, path):
    def looking(row):
        return row["first_score"] + row.extra

    ranker = pt.apply.doc_score(looking, required_columns=["text"])
    several = pt.apply.doc_score(lambda row: row[["first_score", "extra"]].sum(), required_columns=["text"])
    for teacher in map(ptd.PointwiseTeacher, (ranker, several)):
        assert_as_uncached(teacher, ptd.LabelStore(path).cache(teacher), [frame, frame.assign(extra=1)])


class Dying(Scorer):
    """A teacher whose process ends at its third batch."""

    def transform(self, inp):
        if self.spent.calls > 20:
            raise KeyboardInterrupt
        return super().transform(inp)


def test_answers_are_committed_batch_by_batch(path):
    frame = Candidates()(topics(9))
    dying = Dying()
    with pytest.raises(KeyboardInterrupt):
        ptd.LabelStore(path).cache(dying, batch_size=2)(frame)
    assert ptd.LabelStore(path).documents == dying.usage.calls > 0


def test_nothing_is_asked_where_nothing_can_be_kept(path, monkeypatch):
    frame, teacher = Candidates()(topics(3)), Scorer()
    store = ptd.LabelStore(path)
    store.cache(Scorer(2.0))(frame)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device.*nothing was asked"):
        store.cache(teacher)(frame)
    assert teacher.usage.calls == 0


class Broken(Scorer):
    """A teacher whose server is away from the beginning."""

    def transform(self, inp):
        raise ptd.LabellingError("the server went away", inp.iloc[:0])


def test_an_error_at_the_very_first_question_stays_what_it_is(path):
    with pytest.raises(ptd.LabellingError, match="went away") as caught:
        ptd.LabelStore(path).cache(Broken())(Candidates()(topics(3)))
    assert len(caught.value.labelled) == 0
