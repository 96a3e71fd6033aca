"""A retriever's scores as labels of documents that others found."""

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest

import pyterrier_distill as ptd

FOUND = pd.DataFrame(
    [("1", "a", 9.0), ("1", "b", 4.0), ("1", "c", 4.0), ("2", "a", 3.0)], columns=["qid", "docno", "score"]
).assign(rank=[0, 1, 2, 0])


class Finds(pt.Transformer):
    """Retrieves what is stored, and counts how often it is asked."""

    def __init__(self):
        self.asked = []

    def transform(self, inp):
        self.asked.append(inp)
        return inp[["qid", "query"]].astype({"qid": str}).merge(FOUND, on="qid")


def candidates(*pairs):
    frame = pd.DataFrame(pairs, columns=["qid", "docno"])
    return frame.assign(query="red " + frame["qid"].astype(str), score=0.0, rank=frame.groupby("qid").cumcount())


def test_candidates_get_its_scores_and_others_its_lowest():
    retriever = Finds()
    frame = candidates(("1", "z"), ("1", "b"), ("1", "a"), ("2", "c"), ("3", "a"), ("3", "b"))
    out = ptd.RetrieverTeacher(retriever, label="teacher_score_bm25")(frame.sample(frac=1, random_state=1))
    scores = out.set_index(["qid", "docno"])["teacher_score_bm25"].to_dict()
    assert scores == {
        ("1", "a"): 9.0,
        ("1", "b"): 4.0,
        ("1", "z"): 4.0,
        ("2", "c"): 3.0,
        ("3", "a"): 0.0,
        ("3", "b"): 0.0,
    }
    first = out[out["rank"] == 0].set_index("qid")["docno"].to_dict()
    assert first["1"] == "a" and len(out) == len(frame)
    assert len(retriever.asked) == 1 and sorted(retriever.asked[0]["qid"]) == ["1", "2", "3"]


def test_ids_that_are_numbers_are_found():
    frame = candidates((1, "a"), (1, "b"))
    assert ptd.RetrieverTeacher(Finds())(frame.assign(qid=frame["qid"].astype("int64")))["qid"].tolist() == [1, 1]


def test_what_is_not_found_can_have_a_score_of_its_own():
    """BM25 gives 0 to what has no word of the query: one document that has one is told from others."""
    frame = candidates(("2", "a"), ("2", "b"), ("3", "a"))
    assert ptd.RetrieverTeacher(Finds(), missing=0.0)(frame)["teacher_score"].tolist() == [3.0, 0.0, 0.0]
    assert ptd.RetrieverTeacher(Finds())(frame)["teacher_score"].tolist() == [3.0, 3.0, 0.0]
    for wrong in (float("nan"), True, None):
        with pytest.raises(ValueError, match="missing must be"):
            ptd.RetrieverTeacher(Finds(), missing=wrong)


def test_what_is_not_found_can_be_an_error():
    strict = ptd.RetrieverTeacher(Finds(), missing="error")
    assert strict(candidates(("1", "a")))["teacher_score"].tolist() == [9.0]
    with pytest.raises(ValueError, match="does not find document 'z' for query '1' .1 such rows"):
        strict(candidates(("1", "a"), ("1", "z")))
    with pytest.raises(ValueError, match="missing must be"):
        ptd.RetrieverTeacher(Finds(), missing="drop")
    with pytest.raises(TypeError, match="pipeline Q → R"):
        ptd.RetrieverTeacher("bm25")


def test_a_fused_teacher_of_two_retrievers_is_that_of_their_scores(tmp_path):
    """As if both had been given one table."""
    records = [{"docno": f"d{n}", "text": f"red dog {'blue ' * (n % 3)} house {n}"} for n in range(30)]
    bm25 = ptd.bm25(tmp_path / "index", records)
    topics = pd.DataFrame({"qid": ["1", "2"], "query": ["blue house", "red dog 7"]})
    found = (bm25 % 5)(topics)
    teacher = ptd.RetrieverTeacher(bm25 % 30, label="teacher_score_bm25")
    labelled = (teacher >> ptd.fuse_teachers("teacher_score_bm25", "score"))(found)
    for _, rows in labelled.groupby("qid"):
        scores = found.set_index(["qid", "docno"])["score"].loc[list(zip(rows["qid"], rows["docno"], strict=True))]
        z = (scores - scores.mean()) / (scores.std(ddof=0) or 1.0)
        np.testing.assert_allclose(rows["teacher_score_bm25"], scores, rtol=1e-6)
        assert scores.std() < 1e-9 or np.corrcoef(rows["teacher_score"], z)[0, 1] > 0.999
