"""The methods of five papers, written down with public names only (``tests/papers/``), run on tiny models.

What is tested is that every piece is there and fits: each student trains, ranks, and is found again when saved.
"""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest

import pyterrier_distill as ptd

PAPERS = Path(__file__).parent / "papers"
RUNS = {"device": "cpu", "precision": "fp32"}
SHORT = {"steps": 2, "queries_per_batch": 4, "verbose": False}
TOPICS = pd.DataFrame(
    [(f"q{n}", query) for n, query in enumerate(("red dog", "blue bird", "old tree", "fast cat", "loud river"))],
    columns=["qid", "query"],
)


def paper(name):
    """The function of that name in the script of that name."""
    spec = importlib.util.spec_from_file_location(name, PAPERS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def dataset(documents, tmp_path):
    """The twelve documents as a collection in BEIR layout."""
    folder = tmp_path / "collection"
    (folder / "qrels").mkdir(parents=True)
    rows = documents.rename(columns={"docno": "_id"}).to_dict("records")
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return pt.get_dataset(f"folder:{folder}")


@pytest.fixture
def bm25(documents, tmp_path):
    return ptd.bm25(tmp_path / "bm25", documents.to_dict("records"), num_results=12)


@pytest.fixture
def judged(documents):
    """A relevant document of each query but the last, which nobody judged."""
    return TOPICS[["qid"]].head(4).assign(docno=documents["docno"].head(4).to_numpy(), label=1)


def check(student, results, path):
    """It ranks, and what is saved ranks alike."""
    before = student(results)
    assert np.isfinite(before["score"]).all() and len(before) == len(results)
    student.save(path)
    again = type(student)(path, **RUNS)(results)
    pd.testing.assert_frame_equal(before[["qid", "docno", "score"]], again[["qid", "docno", "score"]], atol=1e-5)


@pytest.mark.parametrize("loss", [ptd.RankNet(), ptd.ADRMSE()], ids=repr)
@pytest.mark.parametrize("two_stages", [True, False])
def test_rank_distillm(two_stages, loss, dataset, judged, bm25, results, tiny_cross, tmp_path):
    orders = bm25(TOPICS).assign(rank=lambda run: run.groupby("qid").cumcount(ascending=False))
    orders = orders.assign(score=-orders["rank"])[["qid", "docno", "score", "rank"]]
    student = paper("rank_distillm").rank_distillm(
        bm25, dataset.text_loader(), ptd.RunTeacher(orders), TOPICS, judged, TOPICS, judged, start=tiny_cross,
        first_stage_labels=two_stages, loss=loss, lengths=(16, 64), mined=12, depth=5, **RUNS, **SHORT,
    )  # fmt: skip
    assert (student.query_length, student.document_length) == (16, 64)
    check(student, results, tmp_path / "student")


@pytest.mark.parametrize("way", ["supervised", "zero-shot"])
def test_pairdistill(way, dataset, judged, results, tiny, tiny_cross, tiny_t5, tmp_path):
    qrels = judged if way == "supervised" else None
    tiny_size = {"start": tiny, "pointwise": tiny_cross, "pairwise": tiny_t5, "depth": 6, "documents": 4, "pairs": 3}
    rounds = paper("pairdistill").pairdistill(
        dataset, TOPICS, qrels, out=tmp_path / "out", delta=3, **tiny_size, **RUNS, **SHORT
    )
    assert [entry["round"] for entry in rounds.rounds_] == [0, 1, 2]
    check(rounds.student, results, tmp_path / "student")


def test_distillation_vs_contrastive(dataset, judged, bm25, results, documents, tiny_llm, tmp_path):
    triples = ptd.mine_negatives(bm25, depth=12, n=3, exclude=judged, text=dataset)(TOPICS)
    size = {"backbone": tiny_llm, "students": (tiny_llm,), "lora": {"r": 2, "alpha": 4}, "depth": 6, "negatives": 3}
    retriever, rerankers = paper("distillation_vs_contrastive").distillation_vs_contrastive(
        dataset, triples, TOPICS, judged, out=tmp_path, **size, **RUNS, **SHORT
    )
    assert set(rerankers) == {"teacher", f"{tiny_llm} CL", f"{tiny_llm} KD"}
    assert set(retriever(TOPICS)["qid"]) == set(TOPICS["qid"])
    for n, student in enumerate(rerankers.values()):
        check(student, results, tmp_path / str(n))


@pytest.mark.parametrize("soft", ["LogitMSE()", 'LogitMSE(only="true")', "LogitKL()"])
@pytest.mark.parametrize("kind", ["MonoT5", "CausalReranker"])
def test_inranker(kind, soft, dataset, judged, bm25, results, tiny_t5, plain_llm, tmp_path):
    student = ptd.MonoT5(tiny_t5, **RUNS) if kind == "MonoT5" else ptd.CausalReranker(plain_llm, **RUNS)
    size = {"teacher": tiny_t5, "llm": plain_llm, "synthetic": 6, "depth": 12, "negatives": 3, "runs": RUNS}
    paper("inranker").inranker(
        dataset, bm25, TOPICS, judged, {"animals": (dataset, bm25)}, out=tmp_path, student=student,
        soft=eval(f"ptd.{soft}"), **size, **{**SHORT, "epochs": 1},
    )  # fmt: skip
    check(student, results, tmp_path / "student")


@pytest.mark.parametrize("kind", ["USTAD", "BiEncoder"])
def test_ustad(kind, results, qrels, tiny, tiny_bart, tmp_path):
    scripts = paper("ustad")
    teacher = (
        scripts.ustad_teacher(results, qrels, start=tiny, runs=RUNS, **SHORT)
        if kind == "USTAD"
        else ptd.BiEncoder(tiny, **RUNS)
    )
    students = scripts.ustad_students(teacher, results, qrels, start=tiny, bart=tiny_bart, runs=RUNS, **SHORT)
    assert len(students) == 7
    for n, student in enumerate(students.values()):
        check(student, results, tmp_path / str(n))
