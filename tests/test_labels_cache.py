"""LabelStore.cache, and what makes two teachers the same."""

import pandas as pd
import pytest
from labelling import Candidates, Lister, Scorer, pipeline, topics

import pyterrier_distill as ptd
from pyterrier_distill.identity.identity import difference, identity

pytest.importorskip("pyarrow")


def test_a_pointwise_teacher_is_asked_about_each_document_once(path):
    teacher = Scorer()
    cached = ptd.LabelStore(path).cache(teacher)
    frame = Candidates()(topics(8))
    expected = Scorer()(frame)
    some = frame[frame["docno"] != "d1"]
    cached(some)
    out = cached(frame.sample(frac=1, random_state=0))
    assert teacher.usage.calls == len(frame)
    pd.testing.assert_frame_equal(out.sort_index(), expected, check_dtype=False)
    again = Scorer()
    pd.testing.assert_frame_equal(ptd.LabelStore(path).cache(again)(frame), expected, check_dtype=False)
    assert again.usage.calls == 0 and ptd.LabelStore(path).cache(again).estimate is not None


def test_other_teachers_texts_and_lists_never_hit(path):
    store = ptd.LabelStore(path)
    frame = Candidates()(topics(6))
    store.cache(Scorer())(frame)
    for teacher, asked in ((Scorer(2.0), frame), (Scorer(), frame.assign(text=frame["text"] + "!"))):
        store.cache(teacher)(asked)
        assert teacher.usage.calls == len(frame)
    lister = Lister()
    store.cache(lister)(frame)
    store.cache(lister)(frame)
    assert lister.usage.calls == len(frame)
    one_less = frame[~((frame["qid"] == "q0") & (frame["docno"] == "d2"))]  # another list: another answer
    out = store.cache(lister)(one_less)
    assert lister.usage.calls == len(frame) + (one_less["qid"] == "q0").sum()
    assert (out["teacher_score"] == Scorer()(one_less)["teacher_score"]).all()
    assert list(out["teacher_prefs"]) == list(Lister()(one_less)["teacher_prefs"])


def test_a_store_of_topics_is_no_cache(path):
    store = ptd.LabelStore(path).build(pipeline(Scorer()), topics(2), verbose=False)
    with pytest.raises(ValueError, match="a path of its own"):
        store.cache(Scorer())


def test_identity_covers_what_decides_the_answer(tiny_t5, tiny_cross):
    teacher = ptd.PointwiseTeacher(tiny_t5)
    same = ptd.PointwiseTeacher(tiny_t5, batch_size=3, verbose=True, device="cpu")
    assert identity(teacher) == identity(same)
    for other in (
        ptd.PointwiseTeacher(tiny_t5, precision="fp16"),
        ptd.PointwiseTeacher(tiny_t5, prompt="yes_no"),
        ptd.PointwiseTeacher(tiny_t5, revision="main"),
        ptd.PointwiseTeacher(tiny_cross),
    ):
        assert difference(identity(teacher), identity(other)) is not None
    window = ptd.ListwiseLLMTeacher(tiny_t5, window_size=10)
    told = difference(identity(window), identity(ptd.ListwiseLLMTeacher(tiny_t5, window_size=12)))
    assert told == "window_size was 10 and is 12"
