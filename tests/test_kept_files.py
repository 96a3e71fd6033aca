"""What an earlier commit wrote is read, and gone on with, without a question asked again; its students rank as then."""

import shutil

import pandas as pd
import pyterrier as pt
import pytest
from kept_files import (
    DOCUMENTS,
    FP32,
    KEPT,
    TOPICS,
    Candidates,
    distiller,
    generator,
    labelled,
    pairdistill,
    read,
    rounds,
    students,
    teachers,
)  # fmt: skip

import pyterrier_distill as ptd


@pytest.fixture
def kept(tmp_path):
    """A copy of the kept files, at another place than where they were written."""
    shutil.copytree(KEPT, tmp_path / "elsewhere")
    return tmp_path / "elsewhere"


def same(found, name):
    expected = read(name)
    columns = [c for c in expected.columns if c != "teacher_prefs"]
    found = found.assign(**{c: found[c].astype(float) for c in columns if "score" in c})
    pd.testing.assert_frame_equal(
        found[columns].reset_index(drop=True), expected[columns], check_dtype=False, atol=1e-5, rtol=1e-4
    )
    for cell, other in zip(found.get("teacher_prefs", ()), expected.get("teacher_prefs", ())):
        assert cell == pytest.approx(other, abs=1e-5)


def same_but_for_bias(found, name):
    """The losses of the kept trainings do not see what is added to all scores: rounding decides where that goes."""
    shift = (found["score"] - read(name)["score"].to_numpy()).mean()
    assert abs(shift) < 1e-3
    same(found.assign(score=found["score"] - shift), name)


def test_labels_are_read_and_gone_on_with(kept):
    store, pipeline = ptd.LabelStore(kept / "labels"), pairdistill(kept / "models")
    before = store.frame()
    assert list(before["qid"].unique()) == ["q0", "q1", "q2", "q3"]
    store.build(pipeline, TOPICS.head(4), batch_size=2, verbose=False)
    asked = [stage.usage.calls for stage in pipeline if hasattr(stage, "usage")]
    assert asked == [0, 0]
    store.build(pipeline, TOPICS, batch_size=2, verbose=False)
    pd.testing.assert_frame_equal(store.frame().head(len(before)), before)
    whole = ptd.LabelStore(kept / "anew").build(pairdistill(kept / "models"), TOPICS, batch_size=2, verbose=False)
    pd.testing.assert_frame_equal(store.frame(), whole.frame())


@pytest.mark.parametrize("name", ["pointwise", "re-ranker", "pairwise", "listwise", "run"])
def test_cached_answers_are_found(kept, name):
    teacher = teachers(kept / "models")[name]
    same(teacher(Candidates()(TOPICS)), name)
    again = teachers(kept / "models")[name]
    store = ptd.LabelStore(kept / "answers" / name)
    known = len(store)
    same(store.cache(again)(Candidates()(TOPICS)), name)
    assert again.usage.calls == 0 and len(store) == known > 0


def test_written_queries_are_found(kept):
    maker = generator()
    found = ptd.QueryStore(kept / "queries").cache(maker)(DOCUMENTS)
    assert maker.usage.calls == 0
    pd.testing.assert_frame_equal(found, generator()(DOCUMENTS))


@pytest.mark.parametrize("name", ["bi_encoder", "cross_encoder"])
def test_a_training_goes_on(kept, name):
    student = students(kept / "models")[name]
    training = distiller(student, kept / "training" / name).fit(labelled())
    assert [entry["step"] for entry in training.history if "loss" in entry][-1] == 6
    same_but_for_bias(student(Candidates()(TOPICS)), f"{name} trained")


def test_a_finished_training_is_over(kept, monkeypatch):
    student = students(kept / "models")["cross_encoder"]
    monkeypatch.setattr(student, "forward", None)
    distiller(student, kept / "training" / "finished").fit(labelled())
    same_but_for_bias(student(Candidates()(TOPICS)), "cross_encoder trained")


@pytest.mark.parametrize("name", ["bi_encoder", "asymmetric", "cross_encoder", "mono_t5", "late_interaction", "ustad"])
def test_students_load_and_rank(kept, name):
    kind, path = type(students(kept / "models")[name]), str(kept / "students" / name)
    assert type(pt.Artifact.load(path)) is kind
    same(kind(path, **FP32)(Candidates()(TOPICS)), f"{name} saved")


def test_rounds_are_over(kept):
    student, teacher = students(kept / "models")["cross_encoder"], teachers(kept / "models")["pointwise"]
    rounds(student, kept / "rounds", teacher).fit(TOPICS)
    assert teacher.usage.calls == 0
    same(student(Candidates()(TOPICS)), "rounds")


def test_token_vectors_are_searched(kept):
    late = ptd.LateInteraction(str(kept / "models" / "bi"), **FP32)
    same((late.query_encoder() >> ptd.MultiVectorIndex(kept / "vectors"))(TOPICS), "vectors")
