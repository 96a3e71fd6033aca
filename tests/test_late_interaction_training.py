"""How LateInteraction students learn: batches score as ranking does, gradients are exact, students are found again."""

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
import torch
from learning import fitted
from pyterrier.measures import nDCG

import pyterrier_distill as ptd
from pyterrier_distill.students.late_interaction import training
from pyterrier_distill.training.lists import Collator
from pyterrier_distill.training.reading import Reader

FP32 = {"precision": "fp32", "device": "cpu"}


@pytest.fixture
def student(tiny):
    return ptd.LateInteraction(tiny, **FP32)


@pytest.mark.parametrize("loss", [ptd.RankNet(), ptd.InfoNCE()])
@pytest.mark.slow
def test_overfits_ten_queries_and_is_found_again(loss, tiny, ten, tmp_path):
    student = ptd.LateInteraction(tiny, **FP32)
    qrels = ten.assign(label=(2 - ten["teacher_rank"]).clip(lower=0))[["qid", "docno", "label"]]
    if isinstance(loss, ptd.InfoNCE):
        qrels["label"] = (qrels["label"] == 2).astype(int)
    fitted(student, loss, ten, qrels if "label" in loss.columns() else None, epochs=150)
    assert pt.Evaluate(student(ten), qrels, [nDCG @ 10])["nDCG@10"] == pytest.approx(1.0)
    before = student(ten)
    saved = student.save(tmp_path / "student")
    for again in (saved, ptd.LateInteraction(tmp_path / "student"), pt.Artifact.load(str(tmp_path / "student"))):
        again.precision = "fp32"
        pd.testing.assert_frame_equal(again(ten), before, atol=1e-5)
        assert again.manifest["loss"] == repr(loss) and again.manifest["queries"] == 10
    with pytest.raises(FileExistsError):
        student.save(tmp_path / "student")


def batch_of(student, loss, frame):
    return Collator(student, loss)(Reader(student, loss, None, None, None).read(frame))


@pytest.mark.parametrize("in_batch", [False, True])
def test_gradients_are_those_of_the_definition(student, ten, in_batch):
    """Of every query and document by itself: no padding, no chunks, no masks."""
    needs = frozenset({"scores", "batch_scores"} if in_batch else {"scores"})
    batch = batch_of(student, ptd.RankNet(), ten.drop(index=[1, 5]))
    weights = torch.arange(30.0).reshape(10, 3) * batch["mask"]
    weight = student.model[1].linear.weight

    def gradient(scores):
        (found,) = torch.autograd.grad((scores * weights).sum(), weight)
        return found

    found = gradient(student.forward(batch["batch"], batch["mask"], needs).scores)

    def vectors(text, task):
        return student.token_vectors(student.tokenise([text], task), task)[0][0]

    scores = torch.zeros(10, 3)
    for row, (_, rows) in enumerate(ten.drop(index=[1, 5]).groupby("qid", sort=False)):
        for slot, text in enumerate(rows["text"]):
            similarities = vectors(rows["query"].iloc[0], "query") @ vectors(text, "document").T
            scores[row, slot] = similarities.max(dim=1).values.sum()
    torch.testing.assert_close(found, gradient(scores), atol=1e-3, rtol=1e-4)
    assert float(found.abs().max()) > 1


@pytest.mark.parametrize("in_batch", [False, True])
def test_similarities_are_fp32_in_mixed_precision(student, ten, in_batch):
    needs = frozenset({"scores", "batch_scores"} if in_batch else {"scores"})
    batch = batch_of(student, ptd.RankNet(), ten)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        scores = student.forward(batch["batch"], batch["mask"], needs).scores
        queries, _ = training.embed(student, batch["batch"]["queries"], "query")
        documents, mask = training.embed(student, batch["batch"]["documents"], "document")
    for row, places in enumerate(batch["batch"]["index"]):
        for slot, place in enumerate(places):
            expected = (queries[row].float() @ documents[place][mask[place]].float().T).max(dim=1).values.sum()
            assert float(scores[row, slot]) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("loss", [ptd.RankNet(), ptd.InfoNCE()])
def test_the_training_forward_pass_equals_ranking(loss, student, ten):
    ragged = ten.drop(index=[1, 5, 6]).assign(label=lambda frame: (frame["teacher_rank"] == 0).astype(int))
    ragged.loc[ragged["docno"] == ragged["docno"].iloc[0], "text"] = "a, long. " * 30
    batch = batch_of(student, loss, ragged)
    outputs = student.forward(batch["batch"], batch["mask"], loss.needs)
    assert len(batch["batch"]["documents"]["input_ids"]) == ragged["docno"].nunique()
    scored = student(ragged)
    for row, (_, rows) in enumerate(ragged.groupby("qid", sort=False)):
        expected = scored.loc[rows.index, "score"].to_numpy()
        np.testing.assert_allclose(outputs.scores[row, : len(rows)].detach(), expected, atol=1e-5)
    if outputs.batch_scores is not None:
        docs, queries = ragged.drop_duplicates("docno"), ragged.drop_duplicates("qid")
        every = queries[["qid", "query"]].merge(docs[["docno", "text"]], how="cross")
        expected = student(every)["score"].to_numpy().reshape(len(queries), len(docs))
        np.testing.assert_allclose(outputs.batch_scores.detach(), expected, atol=1e-5)
    student.model.zero_grad()
    loss(outputs, batch["labels"]).backward()
    assert all(p.grad is not None for name, p in student.model.named_parameters() if "pooler" not in name)


def test_gradient_checkpointing_changes_no_weight(tiny, ten):
    scores = []
    for checkpointing in (False, True):
        student = ptd.LateInteraction(tiny, **FP32)
        fitted(student, ptd.RankNet(), ten, epochs=2, args={"gradient_checkpointing": checkpointing})
        scores.append(student(ten)["score"].to_numpy())
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-4)
