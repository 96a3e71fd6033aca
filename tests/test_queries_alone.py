"""Queries without documents among labelled lists: terms on queries alone train on them, others pass them over."""

import numpy as np
import pandas as pd
import pytest
import torch

import pyterrier_distill as ptd

LOSS = ptd.EmbeddingMatch() + 2.0 * ptd.KLDivergence()
SETTINGS = {"dropout": 0.0, "precision": "fp32", "verbose": False, "args": {"logging_steps": 1}, "warmup": 0.0}


@pytest.fixture
def student(tiny):
    return ptd.BiEncoder(tiny, precision="fp32", device="cpu")


def vector(text, dimension=32):
    return np.random.default_rng(list(text.encode())).normal(size=dimension).astype(np.float32)


@pytest.fixture
def labelled(results):
    return results.assign(query_vec=results["query"].map(vector))


@pytest.fixture
def generated():
    queries = [f"a new query {word}" for word in "red green blue dog cat tree house car".split()]
    frame = pd.DataFrame({"qid": [f"g{n}" for n in range(len(queries))], "query": queries})
    return frame.assign(query_vec=frame["query"].map(vector))


def matched(student, frame):
    """Mean distance of the student's and the teacher's vectors, over queries."""
    queries = frame.drop_duplicates("qid")
    own = student.encode_queries(queries["query"].tolist())
    return np.linalg.norm(own - np.stack(queries["query_vec"]), axis=1).mean()


def divergence(student, frame):
    """Mean KL over lists."""
    found = []
    for _, rows in student(frame).groupby("qid"):
        t, s = (torch.log_softmax(torch.tensor(rows[c].to_numpy()), 0) for c in ("teacher_score", "score"))
        found.append(float((t.exp() * (t - s)).sum()))
    return np.mean(found)


def first_loss(distiller):
    return next(entry["loss"] for entry in distiller.history if "loss" in entry)


@pytest.mark.parametrize("stored", [False, True])
def test_each_term_averages_over_what_it_reads(stored, student, labelled, generated, path):
    both = pd.concat([labelled[["qid", "query", "query_vec"]], generated])
    expected = matched(student, both) + 2.0 * divergence(student, labelled)
    given = labelled
    if stored:
        given = ptd.LabelStore(path)
        given.add(labelled, labelled[["qid", "query"]].drop_duplicates(), with_text=True)
    distiller = ptd.Distiller(student, LOSS, steps=1, queries_per_batch=100, **SETTINGS)
    distiller.fit(given, queries=generated)
    assert first_loss(distiller) == pytest.approx(expected, rel=1e-4)
    assert student.manifest["queries"] == both["qid"].nunique()


@pytest.mark.parametrize(
    "loss",
    [
        LOSS,
        ptd.EmbeddingMatch() + ptd.EmbeddingMatch(on="document") + ptd.KLDivergence(in_batch=True),
        ptd.EmbeddingMatch() + ptd.InfoNCE() + ptd.PairwiseKL() + ptd.RankNet() + ptd.MSE(),
    ],
    ids=repr,
)
def test_batches_of_queries_alone(loss, student, labelled, generated):
    """One list a batch: where it has no document, only the term on queries has a loss."""
    others = {qid: rows["docno"].tolist() for qid, rows in labelled.groupby("qid")}
    labelled = labelled.assign(
        doc_vec=labelled["docno"].map(vector), label=(labelled["rank"] == 0).astype(int),
        teacher_prefs=[{d: 0.7 for d in others[row.qid] if d > row.docno} for row in labelled.itertuples()],
        teacher_rank=labelled["rank"],
    )  # fmt: skip
    lists = labelled["qid"].nunique() + len(generated)
    distiller = ptd.Distiller(student, loss, epochs=1, queries_per_batch=1, learning_rate=1e-12, **SETTINGS)
    distiller.fit(labelled, queries=generated)
    found = [entry["loss"] for entry in distiller.history if "loss" in entry]
    alone = [matched(student, generated[generated["qid"] == qid]) for qid in generated["qid"]]
    assert len(found) == lists
    assert all(min(abs(x - y) for y in found) < 1e-3 for x in alone)


def test_a_query_encoder_of_frozen_documents_learns_from_them(student, labelled, generated):
    asymmetric = ptd.BiEncoder(student, doc_encoder=student, freeze_docs=True, precision="fp32", device="cpu")
    before = matched(asymmetric, generated)
    distiller = ptd.Distiller(asymmetric, LOSS, epochs=10, queries_per_batch=2, learning_rate=1e-3, **SETTINGS)
    distiller.fit(labelled, queries=generated)
    assert matched(asymmetric, generated) < before


def test_samplers_leave_them_alone(student, labelled, generated, qrels):
    sampler = ptd.ListSampler(2, strategy="with_positive")
    distiller = ptd.Distiller(student, LOSS, sampler=sampler, epochs=1, queries_per_batch=3, **SETTINGS)
    distiller.fit(labelled, qrels, queries=generated)
    assert all(np.isfinite(entry["loss"]) for entry in distiller.history if "loss" in entry)


def test_they_belong_to_what_a_training_is_resumed_by(tiny, labelled, generated, tmp_path):
    def distiller():
        student = ptd.BiEncoder(tiny, precision="fp32", device="cpu")
        return ptd.Distiller(student, LOSS, steps=2, checkpoints=tmp_path / "c", **SETTINGS)

    distiller().fit(labelled, queries=generated)
    distiller().fit(labelled, queries=generated.assign(docno="d1", note="not read").sample(frac=1, random_state=1))
    with pytest.raises(ValueError, match="data was"):
        distiller().fit(labelled)
    with pytest.raises(ValueError, match="data was"):
        distiller().fit(labelled, queries=generated.iloc[:3])


def test_what_does_not_go_together_is_refused(student, labelled, generated):
    def fit(loss, queries):
        ptd.Distiller(student, loss, **SETTINGS).fit(labelled, queries=queries)

    with pytest.raises(ValueError, match="no term of KLDivergence.* reads queries alone: add .*EmbeddingMatch"):
        fit(ptd.KLDivergence(), generated)
    with pytest.raises(ptd.MissingLabelError, match="query_vec"):
        fit(LOSS, generated.drop(columns="query_vec"))
    with pytest.raises(ValueError, match="5 dimensions in queries= and 32 in the training frame"):
        fit(LOSS, generated.assign(query_vec=[vector(q, 5) for q in generated["query"]]))
    for passes in ({"accumulation": 2}, {"args": {"gradient_accumulation_steps": 2}}):
        with pytest.raises(ValueError, match="2 accumulated passes: .* gradient_cache=True"):
            ptd.Distiller(student, LOSS, **{**SETTINGS, **passes}).fit(labelled, queries=generated)
    with pytest.raises(TypeError, match="queries must be a frame"):
        fit(LOSS, ["a query"])
    with pytest.raises(ValueError):
        fit(LOSS, generated.iloc[:0])
