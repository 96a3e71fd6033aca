"""Trainings that look where student and teacher disagree."""

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from learning import Counting

import pyterrier_distill as ptd

FP32 = {"precision": "fp32", "device": "cpu"}
SETTINGS = {"precision": "fp32", "verbose": False, "dropout": 0.0, "learning_rate": 1e-3}
DOCS = [f"d{n}" for n in range(6)]
#: As the frame ranks d0 … d5: the teacher agrees about all but d1 and d4, which it exchanges.
SCORES = [6.0, 2.0, 4.0, 3.0, 5.0, 1.0]
LABELS = {
    "teacher_score": (SCORES, ptd.KLDivergence()),
    "teacher_rank": ([0, 4, 2, 3, 1, 5], ptd.RankNet()),
    "teacher_logits": ([np.array([1.0, 1 + s], dtype=np.float32) for s in SCORES], ptd.LogitMSE()),
    "teacher_prefs": (
        [{DOCS[j]: float(SCORES[i] > SCORES[j]) for j in range(6) if j != i} for i in range(6)],
        ptd.PairwiseKL(),
    ),
}


@pytest.fixture
def seen(monkeypatch):
    """The documents of each list that a training computes."""
    drawn = []

    def watch(student):
        collate = student.collate
        monkeypatch.setattr(
            student,
            "collate",
            lambda lists, needs: drawn.extend(frozenset(one.docnos) for one in lists) or collate(lists, needs),
        )
        return student

    watch.drawn = drawn
    return watch


def labelled(column):
    frames = [
        pd.DataFrame({"qid": qid, "query": query, "docno": DOCS, "text": [f"word {d}" for d in DOCS], "rank": range(6)})
        for qid, query in (("q1", "red dog"), ("q2", "blue bird"))
    ]
    return pd.concat([frame.assign(**{column: pd.Series(LABELS[column][0])}) for frame in frames])


@pytest.mark.parametrize("column", LABELS)
@pytest.mark.parametrize("stored", [False, True])
def test_training_draws_what_student_and_teacher_place_apart(column, stored, tiny, tiny_t5, seen, path):
    student = ptd.MonoT5(tiny_t5, **FP32) if column == "teacher_logits" else ptd.CrossEncoder(tiny, **FP32)
    data = labelled(column).sample(frac=1, random_state=0)
    if stored:
        topics = data[["qid", "query"]].drop_duplicates()
        data = ptd.LabelStore(path).add(data.sort_values(["qid", "rank"]), topics, with_text=True)
    sampler = ptd.ListSampler(2, strategy="disagreement")
    ptd.Distiller(seen(student), LABELS[column][1], sampler=sampler, epochs=5, **SETTINGS).fit(data)
    assert len(seen.drawn) == 10 and set(seen.drawn) == {frozenset({"d1", "d4"})}


def test_the_first_label_of_a_sum_decides(tiny, seen):
    frame = labelled("teacher_score").assign(teacher_score_other=lambda f: -f["rank"].astype(float))
    frame["teacher_score_other"] += (frame["docno"] == "d0") * -9.0
    sampler = ptd.ListSampler(2, strategy="disagreement")
    loss = ptd.LocalizedContrastive() + ptd.KLDivergence() + ptd.MSE("teacher_score_other")
    judged = pd.DataFrame({"qid": ["q1", "q2"], "docno": "d1", "label": 1})
    ptd.Distiller(seen(ptd.CrossEncoder(tiny, **FP32)), loss, sampler=sampler, epochs=5, **SETTINGS).fit(frame, judged)
    assert set(seen.drawn) == {frozenset({"d1", "d4"})}


def test_the_teachers_own_order_is_refused(tiny, path):
    frame = labelled("teacher_score")
    frame["rank"] = frame.groupby("qid")["teacher_score"].rank(ascending=False).astype(int) - 1
    sampler = ptd.ListSampler(2, strategy="disagreement")
    distiller = ptd.Distiller(ptd.CrossEncoder(tiny, **FP32), ptd.KLDivergence(), sampler=sampler, **SETTINGS)
    with pytest.raises(ValueError, match="candidates >> teacher >> student"):
        distiller.fit(frame)
    store = ptd.LabelStore(path).add(frame, frame[["qid", "query"]].drop_duplicates(), with_text=True)
    with pytest.raises(ValueError, match="candidates >> teacher >> student"):
        distiller.fit(store)


def test_losses_without_a_teachers_order_are_refused(tiny):
    for loss in (ptd.LocalizedContrastive(), ptd.BinaryCrossEntropy()):
        with pytest.raises(ValueError, match="such as RankNet"):
            ptd.Distiller(ptd.CrossEncoder(tiny, **FP32), loss, sampler=ptd.ListSampler(2, strategy="disagreement"))


@pytest.fixture
def candidates(documents):
    topics = pd.DataFrame({"qid": ["a", "b", "c"], "query": ["red dog", "blue bird sings", "tree"]})
    return topics, pt.Transformer.from_df(topics.merge(documents, how="cross").assign(score=0.0, rank=0))


def test_rounds_rank_with_the_student_as_it_is(tiny, documents, candidates, tmp_path):
    topics, everything = candidates
    student, teacher = ptd.CrossEncoder(tiny, **FP32), Counting()
    sampler = ptd.ListSampler(4, strategy="disagreement")
    distiller = ptd.Distiller(student, ptd.RankNet(), sampler=sampler, epochs=6, **SETTINGS)
    order = {1: student(everything(topics)).sort_values(["qid", "rank"])["docno"].tolist()}
    ptd.IterativeDistiller(everything, teacher, distiller, tmp_path / "one", rounds=1, verbose=False).fit(topics)
    order[2] = student(everything(topics)).sort_values(["qid", "rank"])["docno"].tolist()
    assert order[1] != order[2]
    again = ptd.CrossEncoder(tiny, **FP32)
    distiller = ptd.Distiller(again, ptd.RankNet(), sampler=sampler, epochs=6, **SETTINGS)
    teacher.asked.clear()
    ptd.IterativeDistiller(everything, teacher, distiller, tmp_path / "two", rounds=2, verbose=False).fit(topics)
    assert len(teacher.asked) == len(set(teacher.asked)) == 3 * len(documents)
    for number in (1, 2):
        kept = ptd.LabelStore(tmp_path / "two" / f"round-{number}" / "labels").frame()
        assert kept.sort_values(["qid", "rank"])["docno"].tolist() == order[number]
        assert "teacher_score" in kept.columns


def test_adapting_looks_there_too(tiny, documents, candidates, seen, tmp_path):
    topics, everything = candidates
    student = ptd.CrossEncoder(tiny, **FP32)
    before = student(everything(topics))
    sampler = ptd.ListSampler(4, strategy="disagreement")
    ptd.adapt(
        seen(student), Counting(), documents, tmp_path / "a", topics=topics, candidates=everything, sampler=sampler,
        **SETTINGS,
    )  # fmt: skip
    assert all(len(docnos) == 4 for docnos in seen.drawn)
    kept = ptd.LabelStore(tmp_path / "a" / "labels").frame().set_index(["qid", "docno"])["rank"].sort_index()
    pd.testing.assert_series_equal(kept, before.set_index(["qid", "docno"])["rank"].sort_index(), check_dtype=False)
