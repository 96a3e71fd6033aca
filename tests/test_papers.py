"""The methods of the papers, written down with public names only (``tests/papers/``), run on tiny models.

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
