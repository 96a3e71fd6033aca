"""What is drawn from lists, how batches are cut, and what is said when a training goes wrong."""

import logging

import numpy as np
import pandas as pd
import pytest
import torch

import pyterrier_distill as ptd
from pyterrier_distill.engine import micro_batches
from pyterrier_distill.training import sampled
from pyterrier_distill.training.lists import Collator
from pyterrier_distill.training.reading import Reader

FP32 = {"precision": "fp32", "device": "cpu"}
SETTINGS = {"precision": "fp32", "verbose": False, "dropout": 0.0}


# -- ListSampler ------------------------------------------------------------------------------------------------------


def test_strategies():
    ranking = [3, 1, 4, 0, 2, 5, 9, 8, 7, 6]
    assert ptd.ListSampler(3, strategy="top").draw("q", ranking) == [1, 3, 4]
    for strategy in ("random", "log_random"):
        drawn = [ptd.ListSampler(3, depth=5, strategy=strategy).draw("q", ranking, epoch=e) for e in range(200)]
        assert all(len(set(one)) == 3 and set(one) <= {0, 1, 2, 3, 4} and one == sorted(one) for one in drawn)
        assert len({tuple(one) for one in drawn}) == 10  # all there are
    positive = ptd.ListSampler(3, depth=4, strategy="with_positive")
    for epoch in range(50):
        one = positive.draw("q", ranking, relevant=[6, 3], epoch=epoch)
        assert len(one) == 3 and len({3, 6} & set(one)) == 1 and set(one) <= {0, 1, 3, 4, 6}
    assert len(positive.draw("q", ranking, relevant=[])) == 3
    assert ptd.ListSampler(20).draw("q", ranking) == sorted(ranking)


def test_draws_are_repeatable_and_independent_of_other_queries():
    sampler = ptd.ListSampler(5, seed=1)
    draw = lambda **given: sampler.draw(**{"query": "red dog", "ranking": list(range(50)), **given})  # noqa: E731
    assert draw() == draw(epoch=0)
    assert draw() != draw(epoch=1) and draw() != draw(query="tree")
    assert draw() != ptd.ListSampler(5, seed=2).draw("red dog", list(range(50)))


def test_log_random_prefers_early_ranks_as_stated():
    sampler, counts = ptd.ListSampler(1, strategy="log_random"), np.zeros(5)
    for epoch in range(4000):
        counts[sampler.draw("q", range(5), epoch=epoch)] += 1
    weights = 1 / np.log2(1 + np.arange(1, 6))
    np.testing.assert_allclose(counts / counts.sum(), weights / weights.sum(), atol=0.03)


@pytest.mark.parametrize("wrong", [{"n": 0}, {"n": None}, {"n": 3, "depth": 0}, {"n": 3, "strategy": "x"}])
def test_impossible_samplers(wrong):
    with pytest.raises(ValueError, match="must be"):
        ptd.ListSampler(**wrong)


def test_each_epoch_trains_on_other_documents(tiny, results, qrels, monkeypatch):
    results["teacher_prefs"] = [{d: 0.7 for d in results.loc[results["qid"] == q, "docno"]} for q in results["qid"]]
    results["teacher_prefs"] = [
        {d: p for d, p in cell.items() if d != own} for cell, own in zip(results["teacher_prefs"], results["docno"])
    ]
    seen = []
    collate = ptd.CrossEncoder.collate
    monkeypatch.setattr(
        ptd.CrossEncoder, "collate", lambda self, lists, needs: seen.append(lists) or collate(self, lists, needs)
    )
    student = ptd.CrossEncoder(tiny, **FP32)
    loss = ptd.KLDivergence() + ptd.PairwiseKL() + ptd.LocalizedContrastive()
    sampler = ptd.ListSampler(2, strategy="with_positive")
    ptd.Distiller(student, loss, sampler=sampler, epochs=8, **SETTINGS).fit(results, qrels)
    assert len(seen) == 8
    relevant = set(zip(qrels["qid"].map(dict(zip(results["qid"], results["query"]))), qrels["docno"]))
    scores = results.set_index(["query", "docno"])["teacher_score"]
    texts = results.set_index(["query", "docno"])["text"]
    drawn = {}
    for epoch in seen:
        for one in epoch:
            assert len(one.docnos) == 2
            judged = {docno for query, docno in relevant if query == one.query}
            assert len(set(one.docnos) & judged) == (1 if judged else 0)
            assert one.labels["teacher_score"].tolist() == pytest.approx([scores[one.query, d] for d in one.docnos])
            assert one.texts == [texts[one.query, d] for d in one.docnos]
            assert sorted(map(tuple, one.labels["teacher_prefs"][:, :2].tolist())) == [(0, 1), (1, 0)]
            drawn.setdefault(one.query, set()).add(tuple(one.docnos))
    assert all(len(different) > 1 for different in drawn.values())


def test_top_reads_the_frames_ranks(tiny, results, qrels):
    shuffled = results.sample(frac=1, random_state=1)
    loss, sampler = ptd.KLDivergence(), ptd.ListSampler(2, strategy="top")
    lists = Reader(ptd.CrossEncoder(tiny, **FP32), loss, None, None, None, sampler).read(shuffled)
    for n, one in enumerate(lists):
        best = results[results["query"] == one.query].nsmallest(2, "rank")["docno"]
        assert set(sampled.SampledLists(lists, sampler, loss)[0, n].docnos) == set(best)


def test_resumed_trainings_see_the_epochs_lists(tiny, results, qrels, tmp_path):
    sampler = ptd.ListSampler(2)
    settings = {**SETTINGS, "epochs": 4, "queries_per_batch": 2, "learning_rate": 1e-3, "sampler": sampler}

    class Stop(Exception):
        pass

    def failing(student):
        forward, calls = student.forward, []

        def counted(*args):
            calls.append(1)
            if len(calls) == 6:
                raise Stop
            return forward(*args)

        student.forward = counted
        return student

    whole = ptd.CrossEncoder(tiny, **FP32)
    ptd.Distiller(whole, ptd.KLDivergence(), **settings).fit(results)
    saved = {**settings, "checkpoints": tmp_path / "c", "save_every": 1}
    with pytest.raises(Stop):
        ptd.Distiller(failing(ptd.CrossEncoder(tiny, **FP32)), ptd.KLDivergence(), **saved).fit(results)
    assert list((tmp_path / "c").glob("checkpoint-*"))
    again = ptd.CrossEncoder(tiny, **FP32)
    ptd.Distiller(again, ptd.KLDivergence(), **saved).fit(results)
    np.testing.assert_allclose(again(results)["score"], whole(results)["score"], atol=1e-6)


def test_with_positive_wants_judgements(tiny, results, qrels):
    sampler = ptd.ListSampler(2, strategy="with_positive")
    distiller = ptd.Distiller(ptd.CrossEncoder(tiny, **FP32), ptd.KLDivergence(), sampler=sampler, **SETTINGS)
    with pytest.raises(ptd.MissingLabelError, match="label"):
        distiller.fit(results)
    distiller.fit(results, qrels)
    with pytest.raises(TypeError, match="ListSampler"):
        ptd.Distiller(ptd.CrossEncoder(tiny, **FP32), ptd.KLDivergence(), sampler=8)


def test_a_store_is_sampled_as_its_frame(tiny, results, path):
    store = ptd.LabelStore(path)
    store.add(results, results[["qid", "query"]].drop_duplicates(), with_text=True)
    loss, sampler = ptd.KLDivergence(), ptd.ListSampler(2, strategy="top")
    student = ptd.CrossEncoder(tiny, **FP32)
    reader = Reader(student, loss, None, store.text_loader("text"), None, sampler)
    from pyterrier_distill.training.streaming import StoredLists

    lists = StoredLists(store, reader)
    labelled = store.frame()
    for n in range(len(lists)):
        one = sampled.SampledLists(lists, sampler, loss)[0, n]
        best = labelled[labelled["query"] == one.query].nsmallest(2, "rank")["docno"]
        assert set(one.docnos) == set(best)


# -- labelled and unlabelled queries ----------------------------------------------------------------------------------


def gradients(student, loss, frame, qrels=None):
    """Of one batch of all lists."""
    lists = Reader(student, loss, qrels, None, None).read(frame)
    batch = Collator(student, loss)(lists)
    student.model.zero_grad()
    value = loss(student.forward(batch["batch"], batch["mask"], loss.needs), batch["labels"])
    value.backward()
    parts = [p.grad.flatten() for p in student.model.parameters() if p.grad is not None]
    return float(value.detach()), torch.cat(parts)


@pytest.mark.parametrize("contrast", [ptd.InfoNCE(), ptd.LocalizedContrastive(), ptd.BinaryCrossEntropy()])
def test_unlabelled_queries_count_for_the_teachers_terms_only(tiny, results, qrels, contrast):
    kind = ptd.BiEncoder if isinstance(contrast, ptd.InfoNCE) else ptd.CrossEncoder
    labelled = results["qid"].isin({"q0", "q1"})
    judged = qrels[qrels["qid"].isin({"q0", "q1"})]
    if isinstance(contrast, ptd.InfoNCE):  # documents of unlabelled queries remain negatives
        value, _ = gradients(kind(tiny, **FP32), contrast, results, judged)
        assert value > 0
    else:
        mixed = gradients(kind(tiny, **FP32), contrast, results, judged)
        alone = gradients(kind(tiny, **FP32), contrast, results[labelled], judged)
        assert mixed[0] == pytest.approx(alone[0], abs=1e-6)
        torch.testing.assert_close(mixed[1], alone[1], atol=1e-6, rtol=0)
    both, _ = gradients(kind(tiny, **FP32), contrast + 2.0 * ptd.KLDivergence(), results, judged)
    teacher, _ = gradients(kind(tiny, **FP32), ptd.KLDivergence(), results)
    first, _ = gradients(kind(tiny, **FP32), contrast, results, judged)
    assert both == pytest.approx(first + 2 * teacher, abs=1e-5)


def test_zero_shot_needs_no_judgement(tiny, results):
    results["teacher_prefs"] = [{} for _ in range(len(results))]
    for _, rows in results.groupby("qid"):
        results.at[rows.index[0], "teacher_prefs"] = {rows["docno"].iloc[1]: 0.9}
    student = ptd.BiEncoder(tiny, **FP32)
    distiller = ptd.Distiller(student, ptd.KLDivergence() + 3.0 * ptd.PairwiseKL(), epochs=3, **SETTINGS)
    distiller.fit(results)
    assert [entry for entry in distiller.history if "loss" in entry]


def test_two_stages_are_two_fits(tiny, results, qrels):
    student = ptd.CrossEncoder(tiny, **FP32)
    ptd.Distiller(student, ptd.LocalizedContrastive(), learning_rate=1e-3, epochs=3, **SETTINGS).fit(results, qrels)
    first = student(results)["score"].to_numpy()
    ptd.Distiller(student, ptd.RankNet(), learning_rate=1e-3, epochs=3, **SETTINGS).fit(results)
    assert not np.allclose(student(results)["score"], first, atol=1e-4)
    fresh = ptd.CrossEncoder(tiny, **FP32)
    ptd.Distiller(fresh, ptd.RankNet(), learning_rate=1e-3, epochs=3, **SETTINGS).fit(results)
    assert not np.allclose(student(results)["score"], fresh(results)["score"], atol=1e-4)  # it went on, not anew


# -- micro-batches ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, loss", [(ptd.BiEncoder, ptd.InfoNCE()), (ptd.CrossEncoder, ptd.RankNet())])
def test_cutting_and_recomputing_change_no_gradient(tiny, results, qrels, kind, loss):
    frame = results.assign(teacher_rank=results["rank"])
    value, expected = gradients(kind(tiny, **FP32), loss, frame, qrels)
    for settings in ({"tokens": 1}, {"tokens": 100_000}, {"recompute": True}, {"tokens": 40, "recompute": True}):
        with micro_batches.cut(micro_batches.MicroBatches(**settings)):
            again, found = gradients(kind(tiny, **FP32), loss, frame, qrels)
        assert again == pytest.approx(value, abs=1e-6)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_a_gradient_cache_keeps_no_activations(tiny, results, qrels):
    def kept(recompute):
        sizes = []
        student = ptd.CrossEncoder(tiny, **FP32)
        loss = ptd.LocalizedContrastive()
        batch = Collator(student, loss)(Reader(student, loss, qrels, None, None).read(results))
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t)
        with micro_batches.cut(micro_batches.MicroBatches(64, recompute)), hooks:
            student.forward(batch["batch"], batch["mask"], loss.needs)
        return sum(sizes)

    assert kept(True) < 0.05 * kept(False)


def test_dropout_is_the_same_when_recomputed(tiny, results):
    losses = []
    for cache in (False, True):
        student = ptd.CrossEncoder(tiny, **FP32)
        settings = {**SETTINGS, "dropout": 0.2, "learning_rate": 1e-3, "epochs": 3, "gradient_cache": cache}
        ptd.Distiller(student, ptd.KLDivergence(), **settings).fit(results)
        losses.append(student(results)["score"].to_numpy())
    np.testing.assert_allclose(losses[0], losses[1], atol=1e-5)


@pytest.mark.slow
def test_compiled_training_is_the_same_training(tiny, results):
    scores, graphs = [], []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    for args in ({}, {"torch_compile": True, "torch_compile_backend": backend}):
        assert not graphs
        student = ptd.CrossEncoder(tiny, **FP32)
        settings = {**SETTINGS, "learning_rate": 1e-3, "epochs": 2, "args": args}
        ptd.Distiller(student, ptd.KLDivergence(), **settings).fit(results)
        scores.append(student(results)["score"].to_numpy())
        assert not any("forward" in vars(m) for m in student.model.modules())
    assert graphs
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-5)


# -- what is said -----------------------------------------------------------------------------------------------------


def test_a_collapsed_student_is_noticed(tiny, results, caplog):
    student = ptd.CrossEncoder(tiny, **FP32)
    with torch.no_grad():
        for parameter in student.model.parameters():
            parameter.zero_()
    with caplog.at_level(logging.WARNING):
        ptd.Distiller(
            student, ptd.KLDivergence(), steps=8, learning_rate=1e-12, args={"logging_steps": 1}, **SETTINGS
        ).fit(results)
    assert "collapsed" in caplog.text and "learning rate" in caplog.text


def test_a_validation_that_never_improves_is_noticed(tiny, results, qrels, caplog):
    student = ptd.CrossEncoder(tiny, **FP32)
    with caplog.at_level(logging.WARNING):
        ptd.Distiller(student, ptd.KLDivergence(), steps=8, eval_every=2, learning_rate=1e-12, **SETTINGS).fit(
            results, None, results, qrels
        )
    assert "nDCG@10 never rose" in caplog.text


def test_a_good_training_is_not_warned_of(tiny, results, qrels, caplog):
    student = ptd.CrossEncoder(tiny, **FP32)
    with caplog.at_level(logging.WARNING):
        ptd.Distiller(student, ptd.KLDivergence(), epochs=30, learning_rate=2e-3, **SETTINGS).fit(
            results, None, results
        )
    assert "collapsed" not in caplog.text and "never" not in caplog.text


def test_a_collapse_is_noticed_through_dropout(tiny, results, caplog):
    student = ptd.CrossEncoder(tiny, **FP32)
    with torch.no_grad():
        head = student.model[0].auto_model.classifier
        head.weight.zero_()
    settings = {**SETTINGS, "dropout": 0.3, "steps": 8, "learning_rate": 1e-12, "args": {"logging_steps": 1}}
    with caplog.at_level(logging.WARNING):
        ptd.Distiller(student, ptd.KLDivergence(), **settings).fit(results)
    assert "collapsed" in caplog.text


def test_a_loss_that_ends_as_no_number_is_noticed(tiny, results):
    student = ptd.CrossEncoder(tiny, **FP32)
    before = student(results)["score"]
    forward, calls = student.forward, []

    def ending(*args):
        calls.append(1)
        outputs = forward(*args)
        if len(calls) == 6:
            outputs.scores = outputs.scores * float("nan")
        return outputs

    student.forward = ending
    settings = {**SETTINGS, "steps": 6, "args": {"logging_steps": 100}}
    with pytest.raises(FloatingPointError, match="learning rate"):
        ptd.Distiller(student, ptd.KLDivergence(), **settings).fit(results)
    pd.testing.assert_series_equal(student(results)["score"], before)


def test_without_dropout_equal_batches_have_equal_losses(tiny_t5, results):
    student = ptd.MonoT5(tiny_t5, **FP32)
    inner = student.model
    settings = {**SETTINGS, "steps": 5, "learning_rate": 1e-12, "queries_per_batch": 8, "args": {"logging_steps": 1}}
    distiller = ptd.Distiller(student, ptd.KLDivergence(), **settings).fit(results)
    losses = [entry["loss"] for entry in distiller.history if "loss" in entry]
    assert len(losses) == 5 and np.ptp(losses) < 1e-5
    probabilities = [value for part in inner.modules() for name, value in vars(part).items() if name == "dropout"]
    assert 0.1 in probabilities  # as it was before


@pytest.mark.parametrize("kind", [ptd.BiEncoder, ptd.LateInteraction, ptd.CrossEncoder, ptd.USTAD])
def test_integer_docnos_and_documents_of_several_texts_train(tiny, results, kind):
    frame = results.assign(docno=results["docno"].str[1:].astype(int))
    frame["text"] = [f"{text} {qid}" for text, qid in zip(frame["text"], frame["qid"])]  # as passages of a document
    student = kind(tiny, **FP32)
    value, _ = gradients(student, ptd.KLDivergence(), frame)
    scores = student(frame)
    expected = [
        torch.nn.functional.kl_div(
            torch.tensor(rows["score"].to_numpy(), dtype=torch.float).log_softmax(0),
            torch.tensor(rows["teacher_score"].to_numpy(), dtype=torch.float).log_softmax(0),
            log_target=True,
            reduction="sum",
        )
        for _, rows in scores.groupby("qid")
    ]
    assert value == pytest.approx(float(torch.stack(expected).mean()), abs=1e-4)


def test_labels_that_tell_nothing_apart_are_refused(tiny, results):
    student = ptd.CrossEncoder(tiny, **FP32)
    with pytest.raises(ValueError, match="the same for all documents"):
        ptd.Distiller(student, ptd.RankNet(label="teacher_score"), **SETTINGS).fit(results.assign(teacher_score=1.0))
    with pytest.raises(ValueError, match="must leave it 2"):
        ptd.Distiller(student, ptd.RankNet(), sampler=ptd.ListSampler(1))
    with pytest.raises(ValueError, match="queries alone"):
        ptd.Distiller(ptd.BiEncoder(tiny, **FP32), ptd.EmbeddingMatch(), sampler=ptd.ListSampler(4))
