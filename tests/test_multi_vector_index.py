"""The index of token vectors: exact, whole or not there, found again."""

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from pyterrier.measures import nDCG

import pyterrier_distill as ptd
from pyterrier_distill.multi_vector import maxsim

FP32 = {"precision": "fp32", "device": "cpu"}


@pytest.fixture
def student(tiny):
    return ptd.LateInteraction(tiny, **FP32)


@pytest.fixture
def corpus():
    """Forty documents of 1 to 30 vectors, some of them the same, of 8 dimensions."""
    rng = np.random.default_rng(0)
    documents = [
        {"docno": f"d{n}", "doc_embs": rng.normal(size=(rng.integers(1, 31), 8)).astype(np.float32)} for n in range(40)
    ]
    for n in (7, 23, 39):
        documents[n]["doc_embs"] = documents[3]["doc_embs"]
    return documents


@pytest.fixture
def queries():
    rng = np.random.default_rng(1)
    rows = [(f"q{n}", rng.normal(size=(n % 4 + 1, 8)).astype(np.float32)) for n in range(9)]
    return pd.DataFrame(rows, columns=["qid", "query_embs"])


@pytest.fixture
def index(corpus, tmp_path):
    return ptd.MultiVectorIndex(tmp_path / "docs.mvi").index(corpus)


def brute_force(queries, corpus):
    """MaxSim in float64 of vectors rounded to float16, by a loop."""
    rows = []
    for query in queries.itertuples():
        for document in corpus:
            stored = document["doc_embs"].astype(np.float16).astype(float)
            score = (query.query_embs.astype(float) @ stored.T).max(axis=1).sum()
            rows.append((query.qid, document["docno"], score))
    return pd.DataFrame(rows, columns=["qid", "docno", "score"])


def by_rank(results):
    return results.sort_values(["qid", "rank"], ignore_index=True)[["qid", "docno", "score"]]


@pytest.mark.parametrize("elements", [1, 100, 1000, 2**25])
@pytest.mark.parametrize("depth", [1, 10, 100])
def test_retrieval_is_brute_force_in_blocks_of_any_size(index, corpus, queries, monkeypatch, elements, depth):
    monkeypatch.setattr(maxsim, "ELEMENTS", elements)
    found = index.retriever(num_results=depth, batch_size=4, device="cpu")(queries)
    expected = brute_force(queries, corpus).assign(place=list(range(40)) * 9)
    expected["score"] = expected["score"].round(4)  # the same vectors have the same score, and stand as indexed
    expected = expected.sort_values(["qid", "score", "place"], ascending=[True, False, True]).groupby("qid").head(depth)
    pd.testing.assert_frame_equal(by_rank(found), expected[["qid", "docno", "score"]].reset_index(drop=True), atol=1e-4)
    assert (found["docid"] == found["docno"].str[1:].astype(int)).all()


def test_equal_documents_stay_in_the_order_of_the_index(queries, tmp_path):
    same = np.random.default_rng(2).normal(size=(4, 8)).astype(np.float32)
    corpus = [{"docno": f"x{n}", "doc_embs": same} for n in (5, 3, 9, 1)]
    index = ptd.MultiVectorIndex(tmp_path / "same.mvi").index(corpus)
    for depth in (2, 3, 4):
        found = index.retriever(num_results=depth, device="cpu")(queries)
        for _, rows in found.groupby("qid"):
            assert rows["docno"].tolist() == ["x5", "x3", "x9", "x1"][:depth]


def test_the_scorer_gives_retrievals_scores(index, queries):
    found = index.retriever(device="cpu")(queries)
    shuffled = found.sample(frac=1, random_state=0).assign(score=0.0, rank=0)
    for again in (index.scorer(device="cpu")(shuffled), index(shuffled)):
        assert again.index.equals(shuffled.index) and (again["docno"] == shuffled["docno"]).all()
        np.testing.assert_allclose(again.sort_index()["score"], found["score"], atol=1e-5)
        assert all(np.diff(rows.sort_values("rank")["score"]).max() <= 0 for _, rows in again.groupby("qid"))
    pd.testing.assert_frame_equal(by_rank(index(queries)), by_rank(found), atol=1e-5)


def test_end_to_end_equals_re_ranking_with_rounded_vectors(student, documents, results, tmp_path):
    index = ptd.MultiVectorIndex(tmp_path / "docs.mvi")
    assert not index.built()
    (student >> index).index(documents.to_dict("records"))
    assert index.built() and len(index) == len(documents)
    topics = results[["qid", "query"]].drop_duplicates()
    found = (student.query_encoder() >> index.retriever(device="cpu"))(topics)
    every = topics.merge(documents, how="cross").assign(score=0.0, rank=0)
    encoded = student.doc_encoder()(every)
    encoded["doc_embs"] = [vectors.astype(np.float16).astype(np.float32) for vectors in encoded["doc_embs"]]
    pd.testing.assert_frame_equal(by_rank(found), by_rank(student.text_scorer()(encoded)), atol=1e-5)
    close = by_rank(found).set_index(["qid", "docno"])["score"] - student(every).set_index(["qid", "docno"])["score"]
    assert close.abs().max() < 0.02
    alone = (student.query_encoder() >> index.retriever(device="cpu"))(topics.iloc[[1]])
    pd.testing.assert_frame_equal(by_rank(alone), by_rank(found[found["qid"] == topics["qid"].iloc[1]]), atol=1e-5)
    again = (student.query_encoder() >> index.scorer(device="cpu"))(results.drop(columns="text"))
    assert len(again) == len(results) and "text" not in again.columns
    first = pt.Transformer.from_df(results.drop(columns="text"))
    best = pd.DataFrame(
        [{"qid": row.qid, "docno": row.docno, "label": 1} for row in found[found["rank"] == 0].itertuples()]
    )
    searches = student.query_encoder() >> index.retriever(device="cpu")
    reranks = first >> student.query_encoder() >> index.scorer(device="cpu")
    table = pt.Experiment([searches, searches % 1, reranks], topics, best, [nDCG @ 10], validate="error", plan="tree")
    assert table["nDCG@10"].iloc[:2].tolist() == pytest.approx([1.0, 1.0]) and table["nDCG@10"].iloc[2] <= 1
    for pipeline in (searches, reranks, student >> index, student.doc_encoder() >> index.indexer()):
        assert pt.schematic.draw(pipeline)


def test_encoder_pipelines_and_frames_index_alike(student, documents, tmp_path):
    records = documents.to_dict("records")
    one, two, three = (ptd.MultiVectorIndex(tmp_path / name) for name in "abc")
    (student >> one).index(records)
    (student.doc_encoder() >> two.indexer()).index(iter(records))
    three.index(student.doc_encoder()(documents))
    for other in (two, three):
        for a, b in zip(one.get_corpus_iter(), other.get_corpus_iter(), strict=True):
            assert a["docno"] == b["docno"] and a["doc_embs"].dtype == np.float32
            np.testing.assert_array_equal(a["doc_embs"], b["doc_embs"])


def test_is_found_again(index, queries, tmp_path):
    expected = index.retriever(device="cpu")(queries)
    for again in (
        ptd.MultiVectorIndex(tmp_path / "docs.mvi"),
        pt.Artifact.load(str(tmp_path / "docs.mvi")),
        pickle.loads(pickle.dumps(index)),
    ):
        assert again == index and isinstance(again, ptd.MultiVectorIndex)
        pd.testing.assert_frame_equal(again.retriever(device="cpu")(queries), expected)


def test_fewer_results_are_fused(index, queries):
    pipeline = (index.retriever(device="cpu") % 3).compile()
    assert "num_results=3" in repr(pipeline)
    pd.testing.assert_frame_equal(pipeline(queries), index.retriever(num_results=3, device="cpu")(queries))
    bare = index.retriever(num_results=3, drop_query_embs=True, device="cpu")(queries)
    assert "query_embs" not in bare.columns and len(bare) == 27


def test_is_replaced_only_when_asked_and_only_by_a_whole_one(index, corpus, queries):
    before = index.retriever(device="cpu")(queries)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        index.index(corpus)

    def broken():
        yield from corpus[:5]
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="disk is full"):
        index.indexer(overwrite=True).index(broken())
    pd.testing.assert_frame_equal(ptd.MultiVectorIndex(index.path).retriever(device="cpu")(queries), before)
    assert len(index.indexer(overwrite=True).index(corpus[:5])) == 5
    assert set(index.retriever(device="cpu")(queries)["docno"]) == {"d0", "d1", "d2", "d3", "d4"}
    assert [name for name in os.listdir(os.path.dirname(index.path)) if "draft" in name] == []


def test_nothing_stands_there_after_a_failed_build(tmp_path):
    path = tmp_path / "docs.mvi"
    vectors = np.ones((2, 4), dtype=np.float32)
    good = {"docno": "a", "doc_embs": vectors}
    for records, message in (
        ([], "corpus is empty"),
        ([good, good], "'a' occurs twice"),
        ([{"docno": "a", "text": "b"}], r"student\.doc_encoder\(\)"),
        ([good, {"docno": "b", "doc_embs": vectors[:, :3]}], "3 dimensions, those before it 4"),
        ([{"docno": "b", "doc_embs": vectors[:0]}], "at least one token"),
        ([{"docno": "b", "doc_embs": vectors[0]}], "at least one token"),
        ([{"docno": "", "doc_embs": vectors}], "at least one character"),
        ([{"docno": 3, "doc_embs": vectors}], "must be a text"),
        ([{"docno": "b", "doc_embs": vectors * 1e6}], "float16 cannot hold"),
        ([{"docno": "b", "doc_embs": vectors * np.nan}], "float16 cannot hold"),
    ):
        with pytest.raises(ValueError, match=message):
            ptd.MultiVectorIndex(path).index(records)
        assert not path.exists()
    with pytest.raises(FileNotFoundError, match="no index"):
        len(ptd.MultiVectorIndex(path))


def test_docnos_of_any_length_and_script_are_looked_up(tmp_path):
    vectors = np.ones((1, 4), dtype=np.float32)
    docnos = ["b", "a", "ab", "日本語", "x" * 300, "é", "B", "1", "10", " "]
    index = ptd.MultiVectorIndex(tmp_path / "names.mvi").index({"docno": d, "doc_embs": vectors} for d in docnos)
    assert [document["docno"] for document in index.get_corpus_iter()] == docnos
    assert index.docids(docnos).tolist() == list(range(len(docnos)))
    assert index.docids(["", "zz", "x" * 301, "日本", "A", 1, "b"]).tolist() == [-1] * 6 + [0]
    assert index.docnos(np.array([3, 3, 0])).tolist() == ["日本語", "日本語", "b"]
    assert index.docids([]).tolist() == []
    alone = ptd.MultiVectorIndex(tmp_path / "one.mvi").index([{"docno": "1", "doc_embs": vectors}])
    assert alone.docids(["1", "2", "0"]).tolist() == [0, -1, -1]


def test_mistakes_in_searching(index, queries):
    with pytest.raises(ValueError, match="8 dimensions"):
        index.retriever(device="cpu")(queries.assign(query_embs=[np.ones((2, 9))] * 9))
    with pytest.raises(ValueError, match="8 dimensions"):
        index.retriever(device="cpu")(queries.assign(query_embs=[np.ones(8)] * 9))
    with pytest.raises(ValueError, match="no vectors of docno 'elsewhere'"):
        index.scorer(device="cpu")(queries.assign(docno=["d1"] * 8 + ["elsewhere"], score=0.0))
    for wrong in ({"num_results": 0}, {"batch_size": 2.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            index.retriever(**wrong)


def test_others_and_damaged_directories_are_refused(index, tmp_path):
    with open(os.path.join(index.path, "vectors.f2"), "ab") as out:
        out.write(b"\0\0")
    with pytest.raises(ValueError, match="damaged"):
        len(ptd.MultiVectorIndex(index.path))
    other = tmp_path / "other"
    other.mkdir()
    (other / "pt_meta.json").write_text(json.dumps({"type": "dense_index", "format": "flex"}))
    with pytest.raises(ValueError, match="dense_index.flex"):
        len(ptd.MultiVectorIndex(other))


def test_memory_does_not_grow_with_the_index(tmp_path):
    """A search over 192 MB of vectors succeeds where no more than 64 MB are left to allocate."""
    code = """
import resource, sys, numpy as np, pandas as pd, torch, pyterrier_distill as ptd
from pyterrier_distill.multi_vector import maxsim
torch.set_num_threads(1)
block = np.random.default_rng(0).normal(size=(1000, 128)).astype(np.float32)
index = ptd.MultiVectorIndex(sys.argv[1])
index.index({"docno": str(n), "doc_embs": np.roll(block, n, axis=0)} for n in range(750))
queries = pd.DataFrame({"qid": ["1"], "query_embs": [block[:4]]})
maxsim.ELEMENTS = 2**20
ptd.MultiVectorIndex(sys.argv[1] + "-small").index([{"docno": "1", "doc_embs": block}]).retriever(device="cpu")(queries)
used = int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + 2**26, -1))
try:
    np.array(index.payload()[0])
except MemoryError:
    print("the whole does not fit")
print(len(index.retriever(num_results=10, device="cpu")(queries)))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "big.mvi")], capture_output=True, text=True)
    assert done.stdout.split("\n")[:2] == ["the whole does not fit", "10"], done.stderr
