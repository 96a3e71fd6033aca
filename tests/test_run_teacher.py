"""Labels from stored rankings: real runs, the formats of other projects, and fusion."""

import gzip
import json

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from pyterrier.measures import nDCG

import pyterrier_distill as ptd
from pyterrier_distill.stores.formats import read_labels


@pytest.mark.parametrize(
    "collection, run, expected",
    [
        ("dl19", "rankvicuna.bm25", 0.668), ("dl20", "rankvicuna.bm25", 0.655),
        ("dl19", "rankgpt35.bm25.1", 0.680), ("dl20", "rankgpt35.bm25.1", 0.638),
    ],
)  # fmt: skip
def test_real_llm_rankings_reproduce_their_figures(collections, collection, run, expected):
    folder = collections / collection
    first = pt.io.read_results(str(folder / "runs" / "bm25.txt.gz"))
    qrels = pt.get_dataset(f"folder:{folder}").get_qrels()
    teacher = ptd.RunTeacher(folder / "runs" / f"teacher.{run}.txt.gz")
    for frame in (first, first[["qid"]].drop_duplicates().assign(query="x")):  # re-ranked, and retrieved
        out = teacher(frame)
        assert round(pt.Evaluate(out, qrels, [nDCG @ 10])["nDCG@10"], 3) == expected
        assert (out.groupby("qid")["teacher_rank"].min() == 0).all() and len(out) == len(first)


def test_a_run_by_score(collections):
    path = collections / "dl19" / "runs" / "teacher.vbert.bm25.txt.gz"
    out = ptd.RunTeacher(path, by="score")(pd.DataFrame({"qid": ["156493"], "query": ["x"]}))
    assert len(out) > 50 and out.sort_values("teacher_rank")["teacher_score"].is_monotonic_decreasing
    np.testing.assert_allclose(out["score"], out["teacher_score"], rtol=1e-5)  # tied ones keep their order


@pytest.mark.parametrize("name", ["nq", "msmarco"])
def test_flag_embedding_samples(collections, name):
    teacher = ptd.RunTeacher(collections / "bge_samples" / f"{name}.jsonl.gz")
    stored = teacher.stored
    frame = stored.rename_axis("docno").reset_index().astype({"docno": str})
    frame["qid"] = frame["query"].factorize()[0].astype(str)
    out = teacher(frame[["qid", "query", "docno", "text"]])
    assert out["qid"].nunique() == 10 and np.isfinite(out["teacher_score"]).all()
    np.testing.assert_allclose(out["teacher_score"], stored["teacher_score"])


CANDIDATES = pd.DataFrame(
    {"qid": ["1", "1", "1"], "query": ["q"] * 3, "docno": ["a", "b", "c"], "text": ["A", "B", "C"], "rank": [0, 1, 2]}
)
FORMATS = {
    "trec": "1 Q0 c 1 0.5 x\n1 Q0 a 2 0.9 x\n1 Q0 b 3 0.1 x\n",
    "rank_llm": json.dumps(
        [
            {
                "query": {"text": "q", "qid": 1},
                "candidates": [{"docid": d, "score": 1, "doc": {"text": d}} for d in "cab"],
            }
        ]
    ),
    "rankgpt": json.dumps(
        {"query": "q", "hits": [{"qid": 1, "docid": d, "rank": 9, "score": 1, "content": d} for d in "cab"]}
    ),
    "inranker": "1.5\t-1.0\t1\tc\n0.5\t-0.5\t1\ta\n-2.0\t2.0\t1\tb\n",
    "pairdistill": "1\tc\t1.5\t-1.0\n1\ta\t0.5\t-0.5\n1\tb\t-2.0\t2.0\n",
    "pairdistill-pairs": "1\tc\ta\t2.0\t-1.0\n1\ta\tb\t5.5\t0.5\n",
    "flag": json.dumps({"query": "q", "pos": ["C"], "neg": ["A", "B"], "pos_scores": [3.0], "neg_scores": [2, 1]}),
    "inranker-jsonl": "\n".join(
        json.dumps({"query": "q", "contents": t, "true_logit": x, "false_logit": -x}) for t, x in zip("CAB", (2, 1, 0))
    ),
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("packed", [False, True])
def test_every_format_is_recognised_and_ranks(tmp_path, name, packed):
    path = tmp_path / ("labels.gz" if packed else "labels")
    path.write_bytes(gzip.compress(FORMATS[name].encode()) if packed else FORMATS[name].encode())
    for given in (None, name):
        out = ptd.RunTeacher(path, format=given)(CANDIDATES)
        assert out.sort_values("rank")["docno"].tolist() == ["c", "a", "b"]


def test_labels_of_logits_and_preferences(tmp_path):
    (tmp_path / "p").write_text(FORMATS["pairdistill"])
    out = ptd.RunTeacher(tmp_path / "p")(CANDIDATES).set_index("docno")
    np.testing.assert_allclose(out.loc["c", "teacher_logits"], [-1.0, 1.5])
    assert out.loc["c", "teacher_score"] == pytest.approx(-np.log1p(np.exp(-2.5)))
    (tmp_path / "pairs").write_text(FORMATS["pairdistill-pairs"])
    out = ptd.RunTeacher(tmp_path / "pairs")(CANDIDATES).set_index("docno")
    p = 1 / (1 + np.exp(-3.0))
    assert out.loc["c", "teacher_prefs"] == {"a": pytest.approx(p)} and out.loc["b", "teacher_prefs"] == {}
    assert out.loc["a", "score"] == pytest.approx((1 - p + 1 / (1 + np.exp(-5.0))) / 2)


def test_frames_are_labels_too():
    frame = CANDIDATES.assign(score=[0.1, 0.9, 0.5])
    assert list(ptd.RunTeacher(frame)(CANDIDATES)["teacher_rank"]) == [0, 1, 2]
    assert list(ptd.RunTeacher(frame, by="score")(CANDIDATES)["teacher_rank"]) == [2, 0, 1]
    labelled = CANDIDATES.assign(teacher_score=[1.0, 3.0, 2.0])
    assert list(ptd.RunTeacher(labelled)(CANDIDATES)["rank"]) == [2, 0, 1]
    both = CANDIDATES.assign(teacher_score=[1.0, 3.0, 2.0], teacher_rank=[0, 0, 1], teacher_logits=[np.zeros(2)] * 3)
    out = ptd.RunTeacher(both, by="score")(CANDIDATES)  # stored scores stay, ranks are counted among those at hand
    assert list(out["teacher_score"]) == [1, 3, 2] and list(out["teacher_rank"]) == [0, 0, 2]
    assert list(out["rank"]) == [2, 0, 1] and list(ptd.RunTeacher(both)(CANDIDATES)["rank"]) == [0, 1, 2]
    assert repr(ptd.RunTeacher(frame)) == repr(ptd.RunTeacher(frame.copy()))
    assert ptd.RunTeacher(frame) != ptd.RunTeacher(frame.assign(rank=[2, 1, 0]))


def test_a_file_that_changes_is_another_teacher(tmp_path):
    path = tmp_path / "run"
    path.write_text("1 Q0 c 1 0.5 x\n")
    before = repr(ptd.RunTeacher(path))
    path.write_text("\ufeff1 Q0 c 1 0.5 x\n1 Q0 a 2 0.9 x\n")
    after = ptd.RunTeacher(path)
    assert before != repr(after) and len(after(pd.DataFrame({"qid": ["1"], "query": ["q"]}))) == 2


def test_a_run_decides_its_own_ties(tmp_path):
    run, topics = tmp_path / "run", pd.DataFrame({"qid": ["1"], "query": ["q"]})
    run.write_text("1 Q0 a 2 5 t\n1 Q0 b 1 5 t\n1 Q0 c 3 4 t\n")
    out = ptd.RunTeacher(run, by="score")(topics)
    assert out["docno"].tolist() == ["b", "a", "c"] and out["teacher_rank"].tolist() == [0, 0, 2]
    run.write_text("1 Q0 a 1 4 t\n1 Q0 b 1 5 t\n1 Q0 c 0 1 t\n")
    out = ptd.RunTeacher(run)(topics)
    assert out["docno"].tolist() == ["c", "b", "a"] and out["teacher_rank"].tolist() == [0, 1, 1]


def test_candidates_without_label(tmp_path):
    teacher = ptd.RunTeacher(CANDIDATES[1:].assign(score=0.0))
    with pytest.raises(ValueError, match=r"1 of 3 candidates .*\('1', 'a'\): pass missing='drop'"):
        teacher(CANDIDATES)
    out = ptd.RunTeacher(CANDIDATES[1:].assign(score=0.0), missing="drop")(CANDIDATES)
    assert out["docno"].tolist() == ["b", "c"] and out["teacher_rank"].tolist() == [0, 1]


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "cannot tell the format"),
        ("hello\n", "cannot tell the format"),
        ("1 Q0 a 1 0.5 x\n1 Q0 a 2 0.4 x\n", r"labels \('1', 'a'\) more than once"),
        ("1 Q0 a 1 5\n1 Q0 b 2 4\n", "TREC run without its sixth column"),
        ("1 Q0 a 1 0.5 x\n1 Q0 b\n", "line 2: expected qid q0 docno"),
        ("1 Q0 a 1 0.5 x\n1 Q0 b two 0.4 x\n", "line 2: run_rank must be a number, not 'two'"),
        ("1 Q0 a 1 0.5 x\n1 Q0 b 2 nan x\n", "line 2: run_score must be a number"),
        ('{"query": "q", "pos": ["a"], "neg": [], "pos_scores": [1, 2], "neg_scores": []}\n', "1 texts but 2 scores"),
        ('{"query": "q", "pos": ["a"], "neg": []}\n', "entry 1: KeyError 'pos_scores'"),
        ('{"query": "q", "hits": []}\n{"query": broken\n', "entry 2: no JSON"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, content, message):
    path = tmp_path / "labels"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        ptd.RunTeacher(path)
    assert "\n" not in str(caught.value)


def test_bad_settings(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file of labels"):
        ptd.RunTeacher(tmp_path / "nothing")
    (tmp_path / "labels").write_text(FORMATS["trec"])
    with pytest.raises(ValueError, match="format must be one of"):
        read_labels(tmp_path / "labels", "csv")
    for settings in ({"by": "order"}, {"missing": "ignore"}):
        with pytest.raises(ValueError, match="must be"):
            ptd.RunTeacher(tmp_path / "labels", **settings)
    with pytest.raises(ptd.MissingLabelError, match="'rank'"):
        ptd.RunTeacher(CANDIDATES[["qid", "docno"]])


# -- fusion -----------------------------------------------------------------------------------------------------------


def frame_of(**columns):
    return CANDIDATES.assign(**columns)


def test_fusion_by_normalised_scores():
    frame = frame_of(teacher_score=[1.0, 2.0, 3.0], teacher_score_b=[100.0, 300.0, 200.0])
    out = ptd.fuse_teachers("teacher_score", "teacher_score_b", strategy="minmax")(frame)
    np.testing.assert_allclose(out["teacher_score"], [0.0, 0.75, 0.75])
    assert list(out["rank"]) == [2, 0, 1]  # a tie keeps the incoming order
    out = ptd.fuse_teachers("teacher_score", "teacher_score_b", weights=[3, 1], label="teacher_score_fused")(frame)
    z = np.array([-1, 0, 1]) * np.sqrt(1.5)
    np.testing.assert_allclose(out["teacher_score_fused"], 0.75 * z + 0.25 * z[[0, 2, 1]])
    assert (out["teacher_score"] == frame["teacher_score"]).all()


def test_fusion_of_ranks_and_scores_agrees_on_direction():
    frame = frame_of(teacher_score=[3.0, 2.0, 1.0], teacher_rank=[0, 1, 2])
    for how in ("zscore", "minmax", "reciprocal_rank"):
        out = ptd.fuse_teachers("teacher_score", "teacher_rank", strategy=how)(frame)
        assert list(out["rank"]) == [0, 1, 2]
    np.testing.assert_allclose(out["teacher_score"], 1 / np.array([61, 62, 63]))


def test_fusion_is_per_query_and_ties_are_neutral():
    two = pd.concat([frame_of(qid="1"), frame_of(qid="2")], ignore_index=True)
    two = two.assign(teacher_score=[1.0, 2, 3, 1000, 2000, 3000], teacher_score_b=[5.0] * 6)
    out = ptd.fuse_teachers("teacher_score", "teacher_score_b")(two)
    np.testing.assert_allclose(out["score"][:3].to_numpy(), out["score"][3:].to_numpy())
    assert (
        np.isfinite(out["score"]).all()
        and len(
            ptd.fuse_teachers("teacher_score", "teacher_rank")(
                pd.DataFrame(columns=["qid", "docno", "teacher_score", "teacher_rank"])
            )
        )
        == 0
    )


def test_fusion_refuses_nonsense():
    for arguments, message in (
        (("a",), "at least two"), (("a", "a"), "at least two"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            ptd.fuse_teachers(*arguments)
    with pytest.raises(ValueError, match="strategy must be"):
        ptd.fuse_teachers("a", "b", strategy="max")
    for weights in ([1], [1, -1], ("a", "b"), [1, np.inf], [True, True]):
        with pytest.raises(ValueError, match="weights must be 2 positive numbers"):
            ptd.fuse_teachers("a", "b", weights=weights)
    with pytest.raises(ValueError, match="finite numbers"):
        ptd.fuse_teachers("teacher_score", "teacher_rank")(
            frame_of(teacher_score=[1, np.nan, 2], teacher_rank=[0, 1, 2])
        )
