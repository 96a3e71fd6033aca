"""Copies of a relevant document, and a query that is itself a document, are no negatives: mined, or in a batch."""

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
import torch
from learning import fitted

import pyterrier_distill as ptd
from pyterrier_distill.teachers.pair_training import read_pairs
from pyterrier_distill.training.lists import Collator
from pyterrier_distill.training.reading import Reader

DOCUMENTS = pd.DataFrame(
    [("p1", "the red dog runs"), ("p2", "\tthe red dog runs \n"), ("p3", "a red dog"), ("q1", "red dog"),
     ("x", "blue bird"), ("y", "old tree")],
    columns=["docno", "text"],
)  # fmt: skip
TOPICS = pd.DataFrame([("q1", "red dog")], columns=["qid", "query"])
QRELS = pd.DataFrame([("q1", "p1", 1)], columns=["qid", "docno", "label"])


def mined(n=4, qrels=QRELS, documents=DOCUMENTS, **settings):
    found = documents.assign(qid="q1", query="red dog", score=-np.arange(len(documents)), rank=range(len(documents)))
    retriever = pt.Transformer.from_df(found[["qid", "docno", "score", "rank"]])
    miner = ptd.mine_negatives(retriever, n=n, strategy="top", exclude=qrels, text=documents, **settings)
    out = miner(TOPICS)
    return out.loc[out["label"] == 0, "docno"].tolist(), miner.counts


def test_copies_of_the_positive_are_not_mined():
    negatives, counts = mined(n=2)
    assert negatives == ["p3", "x"] and counts.copies == 1  # what is left out is replaced


def test_copies_of_any_retrieved_relevant_document_are_not_mined():
    qrels = pd.DataFrame([("q1", "x", 1), ("q1", "p1", 2)], columns=["qid", "docno", "label"])
    negatives, counts = mined(qrels=qrels)
    assert negatives == ["p3", "y"] and counts.copies == 1 and counts.short == 1


@pytest.mark.parametrize("source", ["frame", "transformer"])
def test_copies_of_a_judged_document_that_is_neither_given_nor_retrieved(source, caplog):
    qrels = pd.DataFrame(
        [("q1", "y", 1), ("q1", "p1", 2), ("q1", "gone", 1), ("q1", "lost", 1)], columns=["qid", "docno", "label"]
    )
    texts = DOCUMENTS.set_index("docno")["text"]  # knows neither "gone" nor "lost": judgements may
    text = DOCUMENTS if source == "frame" else pt.apply.text(lambda row: texts[row["docno"]])
    found = DOCUMENTS.assign(qid="q1", query="red dog", score=-np.arange(len(DOCUMENTS)), rank=range(len(DOCUMENTS)))
    retriever = pt.Transformer.from_df(found.loc[found["docno"] != "p1", ["qid", "docno", "score", "rank"]])
    miner = ptd.mine_negatives(retriever, n=4, strategy="top", exclude=qrels, text=text)
    given = TOPICS.assign(docno="y", label=1)
    out = miner(given)
    assert out.loc[out["label"] == 0, "docno"].tolist() == ["p3", "x"] and miner.counts.copies == 1


@pytest.mark.parametrize("drop_self, there", [(None, False), (True, False), (False, True)])
def test_a_query_that_is_a_document(drop_self, there):
    negatives, counts = mined(drop_self=drop_self)
    assert ("q1" in negatives) is there and counts.itself == (not there)


def test_ids_that_coincide_by_chance():
    documents = DOCUMENTS.assign(text=DOCUMENTS["text"].replace("red dog", "something else"))
    assert "q1" in mined(documents=documents)[0]
    assert "q1" not in mined(documents=documents, drop_self=True)[0]
    with pytest.raises(ValueError, match="drop_self must be None, True or False"):
        mined(drop_self="yes")


def contrasted(student, rows, qrels, loss=None):
    """(query, docno) → whether training lowers the score: what counts as a negative of which query."""
    frame = pd.DataFrame(rows, columns=["qid", "query", "docno", "text"])
    loss = loss or ptd.InfoNCE(temperature=0.05)
    judged = pd.DataFrame(qrels, columns=["qid", "docno", "label"])
    lists = Reader(student, loss, judged, None, student).read(frame)
    batch = Collator(student, loss)(lists)
    student.trainable(loss.needs)
    with torch.no_grad():
        out = student.forward(batch["batch"], batch["mask"], loss.needs)
    out.batch_scores = out.batch_scores.clone().requires_grad_(True)
    loss(out, batch["labels"]).backward()
    pushed = out.batch_scores.grad > 0
    return {
        (one.qid, docno): bool(pushed[row, out.batch_index[n, slot]])
        for row, one in enumerate(lists)
        for n, other in enumerate(lists)
        for slot, docno in enumerate(other.docnos)
    }


ROWS = [
    ("q1", "red dog", "a", "a dog that is red"), ("q1", "red dog", "n", "tree"),
    ("q1", "red dog", "c", "a dog that is red "),
    ("q2", "my dog", "b", "my dog is red"), ("q2", "my dog", "m", "river"), ("q2", "my dog", "a2", "a dog that is red"),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["BiEncoder", "LateInteraction"])
def test_no_copy_and_nothing_judged_relevant_is_a_negative_in_the_batch(kind, tiny):
    student = getattr(ptd, kind)(tiny, precision="fp32", device="cpu")
    loss = ptd.InfoNCE(temperature={"BiEncoder": 0.05, "LateInteraction": 5.0}[kind])
    pushed = contrasted(student, ROWS, [("q1", "a", 1), ("q1", "b", 1), ("q2", "b", 1)], loss)
    assert {docno for (qid, docno), down in pushed.items() if qid == "q1" and down} == {"n", "m"}
    assert {docno for (qid, docno), down in pushed.items() if qid == "q2" and down} == {"a", "n", "c", "m", "a2"}


def test_judgements_in_the_frame_tell_as_well(tiny):
    student = ptd.BiEncoder(tiny, precision="fp32", device="cpu")
    frame = pd.DataFrame(ROWS, columns=["qid", "query", "docno", "text"]).assign(label=[1, 0, 0, 1, 0, 0])
    loss = ptd.InfoNCE(temperature=0.05)
    lists = Reader(student, loss, None, None, student).read(frame)
    # The docnos and the one text of the relevant document and its copy; q2's relevant document has no copy.
    assert [len(set(one.known.tolist())) for one in lists] == [3, 2]


COPIED = pd.DataFrame(
    [("q1", "a", "p", "red dog"), ("q1", "a", "copy", "red dog "), ("q1", "a", "n", "cat"),
     ("q2", "b", "p2", "tree"), ("q2", "b", "n2", "house"), ("q2", "b", "p", "red dog")],
    columns=["qid", "query", "docno", "text"],
)  # fmt: skip
JUDGED = pd.DataFrame([("q1", "p", 1), ("q2", "p2", 2)], columns=["qid", "docno", "label"])


def test_list_losses_do_not_train_copies_of_the_positive_as_negatives(tiny_cross):
    student = ptd.CrossEncoder(tiny_cross, precision="fp32", device="cpu")
    fitted(student, ptd.BinaryCrossEntropy(), COPIED, JUDGED, epochs=40, learning_rate=3e-3)
    scores = student(COPIED[COPIED["qid"] == "q1"]).set_index("docno")["score"]
    assert scores[["p", "copy"]].min() > scores["n"] + 2


@pytest.mark.parametrize("loss", [ptd.LocalizedContrastive(), ptd.LambdaLoss(), ptd.ApproxNDCG(), ptd.RankNet()])
def test_copies_count_as_the_relevant_document_does(loss, tiny_cross):
    student = ptd.CrossEncoder(tiny_cross, precision="fp32", device="cpu")
    sampler = ptd.ListSampler(2, strategy="with_positive")  # reads judgements for the loss that does not
    frame = COPIED.assign(teacher_rank=[0, 1, 2] * 2)
    lists = Reader(student, loss, JUDGED, None, student, sampler).read(frame, by_content=True)
    relevant = {one.qid: {d for d, yes in zip(one.docnos, one.relevant) if yes} for one in lists}
    assert relevant == {"q1": {"p", "copy"}, "q2": {"p2"}}
    if "label" in loss.columns():
        assert [dict(zip(one.docnos, one.labels["label"])) for one in lists] == [
            {"copy": 1, "n": 0, "p": 1}, {"n2": 0, "p": 0, "p2": 2}
        ]  # fmt: skip


def test_copies_get_the_highest_label_of_their_text(tiny_cross):
    student = ptd.CrossEncoder(tiny_cross, precision="fp32", device="cpu")
    frame = COPIED.assign(label=[1, 3, 0, 0, -1, 0], text=[*COPIED["text"][:3], "tree", "\ttree\n", "red dog"])
    lists = Reader(student, ptd.LambdaLoss(), None, None, student).read(frame.assign(label=frame["label"] + 0.0))
    assert [one.labels["label"].tolist() for one in lists] == [[3, 3, 0], [0, -1, 0]]


def test_pairs_of_one_text_are_no_examples(tiny_cross):
    teacher = ptd.PairwiseTeacher(tiny_cross, kind="classifier", precision="fp32", device="cpu")
    examples = read_pairs(COPIED, JUDGED, teacher, ptd.PairTraining(pairs_per_query=20))
    assert len(examples) == 4 and all(a.strip() != b.strip() for _, a, b, _ in examples)
    assert all({a.strip(), b.strip()} == {"red dog", "cat"} for query, a, b, _ in examples if query == "a")
    judged = pd.DataFrame([("q1", "copy", -1), ("q2", "p2", 1)], columns=["qid", "docno", "label"])
    examples = read_pairs(COPIED, judged, teacher, ptd.PairTraining(pairs_per_query=20))
    assert all(a.strip() != b.strip() for _, a, b, _ in examples)
