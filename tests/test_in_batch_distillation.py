"""A teacher's scores of every query against all documents of a batch, from its vectors; negatives of a batch."""

import numpy as np
import pandas as pd
import pytest
import torch

import pyterrier_distill as ptd
from pyterrier_distill.losses import Outputs, base

FP32 = {"precision": "fp32", "device": "cpu"}
IN_BATCH = [ptd.KLDivergence(in_batch=True), ptd.KLDivergence(2.0, student_temperature=0.5, in_batch=True),
            ptd.ListNet(in_batch=True)]  # fmt: skip


def log_softmax(x):
    x = np.asarray(x, dtype=np.float64)
    return x - x.max(axis=-1, keepdims=True) - np.log(np.exp(x - x.max(axis=-1, keepdims=True)).sum(-1, keepdims=True))


def expected(loss, student, teacher):
    """By numpy: scores of some queries, ``[queries, documents]``, every document counts."""
    if isinstance(loss, ptd.ListNet):
        return -(np.exp(log_softmax(teacher)) * log_softmax(student)).sum(-1).mean()
    own = loss.temperature if loss.student_temperature is None else loss.student_temperature
    log_t, log_s = log_softmax(teacher / loss.temperature), log_softmax(student / own)
    return (np.exp(log_t) * (log_t - log_s)).sum(-1).mean()


@pytest.fixture
def batch():
    """Four lists over five documents: of two share one, one is shorter, one is empty; the teacher's dimension is 3."""
    torch.manual_seed(0)
    index = torch.tensor([[0, 1, 2], [1, 3, 4], [2, 0, 0], [0, 0, 0]])
    mask = torch.tensor([[True] * 3, [True] * 3, [True, False, False], [False] * 3])
    documents = torch.randn(5, 3)
    vectors = documents[index].masked_fill(~mask.unsqueeze(-1), float("nan"))
    scores = torch.randn(4, 5)
    outputs = Outputs(mask=mask, batch_scores=scores, batch_index=index, scores=scores.gather(-1, index))
    return outputs, {"query_vec": torch.randn(4, 3), "doc_vec": vectors}, documents


@pytest.mark.parametrize("loss", IN_BATCH, ids=repr)
def test_every_query_against_every_document_once(loss, batch):
    outputs, labels, documents = batch
    outputs.batch_scores.requires_grad_()
    value = loss(outputs, labels)
    teacher = (labels["query_vec"] @ documents.T).numpy()[:3]  # the query without documents does not count
    assert float(value.detach()) == pytest.approx(expected(loss, outputs.batch_scores.detach().numpy()[:3], teacher))
    value.backward()
    assert torch.isfinite(outputs.batch_scores.grad).all() and (outputs.batch_scores.grad[3] == 0).all()


@pytest.mark.parametrize("loss", IN_BATCH, ids=repr)
def test_documents_that_must_not_count_do_not(loss, batch):
    outputs, labels, documents = batch
    scores = outputs.batch_scores.clone()
    scores[:, 4] = float("-inf")
    scores.requires_grad_()
    outputs.batch_scores = scores
    value = loss(outputs, labels)
    teacher = (labels["query_vec"] @ documents.T).numpy()[:3, :4]
    assert float(value.detach()) == pytest.approx(expected(loss, scores.detach().numpy()[:3, :4], teacher))
    value.backward()
    assert torch.isfinite(scores.grad).all()


@pytest.mark.parametrize("loss", [*IN_BATCH, ptd.InfoNCE()], ids=repr)
@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_student_that_gives_no_numbers_is_no_perfect_one(loss, score, batch):
    """As a training that diverged leaves it: a loss of 0 would say that all is well, and train on."""
    outputs, labels, _ = batch
    labels["label"] = torch.tensor([[0.0, 1.0, 0.0]] * 4)
    outputs.batch_scores = torch.full_like(outputs.batch_scores, score)
    assert not torch.isfinite(loss(outputs, labels))


def test_columns_have_names_and_terms_may_share_them():
    assert ptd.KLDivergence(in_batch=True).columns() == ("query_vec", "doc_vec")
    other = ptd.ListNet(label=["query_vec_e5", "doc_vec_e5"], in_batch=True)
    assert other.columns() == ("query_vec_e5", "doc_vec_e5") and eval(repr(other), vars(ptd)) == other
    assert repr(ptd.KLDivergence(in_batch=True)) == "KLDivergence(in_batch=True)"
    apart = ptd.KLDivergence(2.0, student_temperature=1.0)
    assert repr(apart) == "KLDivergence(temperature=2.0, student_temperature=1.0)"
    together = ptd.EmbeddingMatch() + ptd.KLDivergence(in_batch=True) + ptd.KLDivergence()
    assert together.columns() == ("query_vec", "doc_vec", "teacher_score")
    assert base.vectors_to_match(together) == ["query_vec"] and not base.vectors_to_match(other)


def vectors(frame, dimension):
    """A teacher's vectors of a frame's queries and documents, of any dimension."""
    rng = np.random.default_rng(1)
    of = {text: rng.normal(size=dimension).astype(np.float32) for c in ("query", "docno") for text in set(frame[c])}
    return frame.assign(query_vec=frame["query"].map(of), doc_vec=frame["docno"].map(of))


@pytest.mark.parametrize("loss", IN_BATCH, ids=repr)
@pytest.mark.parametrize("kind", ["BiEncoder", "LateInteraction"])
def test_a_student_learns_by_it_from_lists_of_one_document(loss, kind, tiny, results):
    """Under a teacher of another dimension: the loss of the first batch is that of the student's own scores."""
    first = vectors(results, 5).drop_duplicates("qid")
    first = first[~first["docno"].duplicated()]
    student = getattr(ptd, kind)(tiny, **FP32)
    pairs = first[["qid", "query"]].merge(first[["docno", "text"]], how="cross")
    scores = student(pairs).pivot(index="qid", columns="docno", values="score")
    table = first.set_index("docno")["doc_vec"][scores.columns]
    teacher = np.stack(first.set_index("qid")["query_vec"][scores.index]) @ np.stack(table).T
    settings = {"epochs": 8, "learning_rate": 2e-3, "dropout": 0.0, "precision": "fp32", "verbose": False}
    distiller = ptd.Distiller(student, loss, args={"logging_steps": 1}, warmup=0.0, **settings).fit(first)
    found = [entry["loss"] for entry in distiller.history if "loss" in entry]
    assert found[0] == pytest.approx(expected(loss, scores.to_numpy(), teacher), abs=2e-3)
    assert found[-1] < found[0]


def test_what_does_not_go_together_is_refused(tiny, tiny_cross, results):
    with pytest.raises(ValueError, match="needs batch_scores, which CrossEncoder does not give.*KLDivergence"):
        ptd.Distiller(ptd.CrossEncoder(tiny_cross, **FP32), ptd.KLDivergence(in_batch=True))
    student = ptd.BiEncoder(tiny, **FP32)
    with pytest.raises(ptd.MissingLabelError, match="doc_vec.*doc_encoder"):
        ptd.Distiller(student, ptd.ListNet(in_batch=True), verbose=False).fit(
            vectors(results, 5).drop(columns="doc_vec")
        )
    frame = vectors(results, 5).assign(doc_vec=vectors(results, 4)["doc_vec"])
    with pytest.raises(ValueError, match="'query_vec', of 5 dimensions, with those of 'doc_vec', of 4"):
        ptd.Distiller(student, ptd.ListNet(in_batch=True), verbose=False).fit(frame)
    for label in (("query_vec", "query_vec"), ("query_vec",), "query_vec", None, 5, (1, 2)):
        with pytest.raises(ValueError, match=r"label must name the columns of queries' and of documents' vectors"):
            ptd.KLDivergence(label=label, in_batch=True)
    for label in (None, 5, ("query_vec", "doc_vec"), ""):
        with pytest.raises(ValueError, match="label must be the column of the teacher's scores.*in_batch=True"):
            ptd.ListNet(label=label)
    both = ptd.EmbeddingMatch() + ptd.KLDivergence(in_batch=True)
    with pytest.raises(ValueError, match="projection=5"):
        ptd.Distiller(student, both, verbose=False).fit(vectors(results, 5))


# -- negatives of the batch -------------------------------------------------------------------------------------------


def nce(scores, target, negatives):
    return -log_softmax([scores[target], *(scores[n] for n in negatives)])[0]


def test_a_querys_own_hits_may_be_left_out(batch):
    """ColBERT's in-batch term: the positive against the documents of other queries alone, wherever its own stand."""
    outputs, _, _ = batch
    labels = {"label": torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 2.0], [0.0, 9.0, 9.0], [9.0] * 3])}
    s = outputs.batch_scores.numpy()
    alone = (nce(s[0], 1, [3, 4]) + nce(s[1], 4, [0, 2])) / 2
    assert float(ptd.InfoNCE(own_negatives=False)(outputs, labels)) == pytest.approx(alone, rel=1e-5)
    whole = (nce(s[0], 1, [0, 2, 3, 4]) + nce(s[1], 4, [0, 1, 2, 3])) / 2
    assert float(ptd.InfoNCE()(outputs, labels)) == pytest.approx(whole, rel=1e-5)
    assert repr(ptd.InfoNCE(own_negatives=False)) == "InfoNCE(own_negatives=False)"


def test_a_batch_of_one_query_has_no_documents_of_others(tiny, results, qrels):
    student, settings = ptd.BiEncoder(tiny, **FP32), {"queries_per_batch": 1, "precision": "fp32", "verbose": False}
    with pytest.raises(ValueError, match=r"own_negatives=False\) compares.*queries_per_batch of 2 or more"):
        ptd.Distiller(student, ptd.InfoNCE(0.05, own_negatives=False), **settings).fit(results, qrels)
    one_each = vectors(results, 5).drop_duplicates("qid").assign(label=1)
    for loss in (ptd.InfoNCE(0.05), ptd.KLDivergence(0.05, in_batch=True)):
        with pytest.raises(ValueError, match="queries_per_batch of 2 or more"):
            ptd.Distiller(student, ptd.EmbeddingMatch(labels=("mine",)) + loss, **settings).fit(
                one_each.assign(mine=list(student.encode_queries(one_each["query"])))
            )
        ptd.Distiller(student, loss, **{**settings, "steps": 1}).fit(vectors(results, 5), qrels)


def test_queries_of_the_same_text_are_one_query(tiny, documents):
    """As two lists of one query, of a positive each: neither positive is a negative of the other."""
    docs = documents.iloc[:4]
    frame = pd.DataFrame({
        "qid": ["1+a", "1+b", "2"], "query": ["red", "red", "green"], "docno": docs["docno"].tolist()[:3],
        "text": docs["text"].tolist()[:3], "label": 1,
    })  # fmt: skip
    student = ptd.BiEncoder(tiny, **FP32)
    cross = frame[["qid", "query"]].merge(frame[["docno", "text"]], how="cross")
    s = student(cross).set_index(["qid", "docno"])["score"].unstack()[frame["docno"]].loc[frame["qid"]].to_numpy()
    distiller = ptd.Distiller(student, ptd.InfoNCE(), steps=1, dropout=0.0, precision="fp32", verbose=False,
                              args={"logging_steps": 1}).fit(frame)  # fmt: skip
    expected = (nce(s[0], 0, [2]) + nce(s[1], 1, [2]) + nce(s[2], 2, [0, 1])) / 3
    assert distiller.history[0]["loss"] == pytest.approx(expected, abs=1e-4)
