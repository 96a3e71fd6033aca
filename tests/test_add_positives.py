"""Relevant documents that a first stage missed, put into their queries' lists."""

import numpy as np
import pandas as pd
import pytest

import pyterrier_distill as ptd

TEXTS = pd.DataFrame({"docno": list("abcdxyz"), "text": [f"text of {c}" for c in "abcdxyz"]})
QRELS = pd.DataFrame({
    "qid": ["1", "1", "1", "1", "9"], "docno": ["b", "z", "x", "y", "a"], "label": [1, 1, 2, 0, 1]
})  # fmt: skip


@pytest.fixture
def lists():
    """Query 1 is judged and lacks two positives, query 2 is not judged, query 3 lacks nothing."""
    frame = pd.DataFrame({
        "qid": [1, 1, 2, 2, 1], "query": ["one", "one", "two", "two", "one"], "docno": list("abcda"),
        "score": [5.0, 2.0, 1.0, 0.5, -3.0], "rank": [0, 1, 0, 1, 2], "qnote": ["n"] * 5, "url": ["u"] * 5,
    })  # fmt: skip
    frame.loc[4, "docno"] = "c"
    return frame.merge(TEXTS, on="docno", how="left")


def test_missing_positives_stand_behind_the_others_and_unlabelled_queries_stay(lists):
    before = lists.copy(deep=True)
    out = ptd.AddPositives(QRELS, text=TEXTS)(lists)
    pd.testing.assert_frame_equal(lists, before)
    assert out["docno"].tolist() == ["a", "b", "c", "d", "c", "x", "z"] and list(out.columns) == list(lists.columns)
    one = out[out["qid"] == "1"]
    assert one["docno"].tolist() == ["a", "b", "c", "x", "z"]  # the most relevant of those that were missing first
    assert one["score"].tolist() == [5.0, 2.0, -3.0, -4.0, -5.0] and one["rank"].tolist() == [0, 1, 2, 3, 4]
    assert one["text"].tolist()[3:] == ["text of x", "text of z"]
    assert one["url"].isna().tolist() == [False] * 3 + [True] * 2
    assert set(one["query"]) == {"one"} and set(one["qnote"]) == {"n"}
    pd.testing.assert_frame_equal(
        out[out["docno"].isin(list("abcd"))].reset_index(drop=True), lists.assign(qid=lists["qid"].astype(str))
    )
    again = ptd.AddPositives(QRELS, text=TEXTS)(out)
    pd.testing.assert_frame_equal(again, out)


def test_judgements_go_where_the_frame_has_them_and_texts_where_it_has_those(lists):
    out = ptd.AddPositives(QRELS)(lists.drop(columns=["text", "score", "rank"]).assign(label=0))
    assert out["label"].tolist() == [0] * 5 + [2, 1] and "text" not in out.columns and "rank" not in out.columns


def test_texts_that_are_not_there(lists):
    with pytest.raises(ValueError, match=r"document 'x' of query '1' is to be added: pass text="):
        ptd.AddPositives(QRELS)(lists)
    with pytest.raises(ValueError, match="holds no document"):
        ptd.AddPositives(QRELS, text=TEXTS.iloc[:4])(lists)
    with pytest.raises(ValueError, match="qrels need the columns"):
        ptd.AddPositives(QRELS.drop(columns="label"))
    with pytest.raises(TypeError, match="text must be"):
        ptd.AddPositives(QRELS, text=3)


def test_labelled_and_unlabelled_queries_train_together(tiny, documents):
    """A contrastive term learns from the positives that were added, a distillation term from all queries."""
    rng = np.random.default_rng(0)
    rows = [(f"q{n}", f"query {n}", docno) for n in range(6) for docno in rng.permutation(documents["docno"])[:5]]
    found = pd.DataFrame(rows, columns=["qid", "query", "docno"]).merge(documents, on="docno")
    missing = [set(documents["docno"]) - set(found.loc[found["qid"] == f"q{n}", "docno"]) for n in range(3)]
    qrels = pd.DataFrame({"qid": [f"q{n}" for n in range(3)], "docno": [min(docs) for docs in missing], "label": 1})
    student = ptd.BiEncoder(tiny, precision="fp32", device="cpu")
    teacher = ptd.PointwiseTeacher(ptd.BiEncoder(tiny, precision="fp32", device="cpu"))
    loss = ptd.InfoNCE(own_negatives=False) + ptd.KLDivergence()
    distiller = ptd.Distiller(student, loss, epochs=1, precision="fp32", verbose=False)
    with pytest.raises(ValueError, match="judge none"):
        distiller.fit(teacher(found), qrels)
    labelled = teacher(ptd.AddPositives(qrels, text=documents)(found))
    distiller.fit(labelled, qrels)
    assert len(labelled) == 33 and student.manifest["queries"] == 6 and student.manifest["documents"] == 33
