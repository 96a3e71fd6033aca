"""What is done once on the way of a frame: checking it, drawing pairs, cutting prompts into tokens, hashing texts."""

from collections import Counter

import numpy as np
import pytest
from labelling import Candidates, Scorer, topics

import pyterrier_distill as ptd
from pyterrier_distill.frames import validate
from pyterrier_distill.sampling.samplers import PairSampler
from pyterrier_distill.training import lists, order

FP32 = {"precision": "fp32", "device": "cpu"}


@pytest.fixture
def counted(monkeypatch):
    """Replaces a function of a module or class by one that counts its calls, under a key of its arguments."""
    counts = {}

    def replace(holder, name, key):
        real, counter = getattr(holder, name), counts.setdefault(name, Counter())

        def call(*args, **settings):
            counter[key(*args, **settings)] += 1
            return real(*args, **settings)

        monkeypatch.setattr(holder, name, call)
        return counter

    return replace


@pytest.fixture
def checked(counted):
    """How often frames with so many rows were checked."""
    return counted(validate, "check_queries", lambda frame, what="": len(frame))


def test_a_result_frame_through_a_pairwise_teacher(tiny_t5, results, counted, checked):
    teacher = ptd.PairwiseTeacher(tiny_t5, n_pairs=4, **FP32)
    drawn = counted(PairSampler, "draw", lambda self, qid, *rest: qid)
    tokenizer = teacher._comparer.backend.tokenizer
    cut = Counter()
    real = type(tokenizer).__call__

    def call(self, texts, *args, **settings):
        cut.update(t for t in ([texts] if isinstance(texts, str) else texts) if "Query:" in t)
        return real(self, texts, *args, **settings)

    type(tokenizer).__call__ = call
    try:
        teacher(results)
    finally:
        type(tokenizer).__call__ = real
    assert drawn == Counter(results["qid"].unique())  # once a query
    assert checked == {len(results): 1}
    assert set(cut.values()) == {1} and len(cut) == teacher.usage.calls


def test_a_labelled_frame_through_fit(tiny, results, qrels, counted, checked):
    texts = Counter()
    real = order._cells

    def cells(column):
        if column.name == "text":
            texts.update(column)
        return real(column)

    order._cells = cells
    hashed = counted(lists, "_key", lambda cell, kind: (kind, cell))
    try:
        student = ptd.BiEncoder(tiny, **FP32)
        loss = ptd.InfoNCE(temperature=0.05) + ptd.KLDivergence()
        ptd.Distiller(student, loss, epochs=3, queries_per_batch=2, precision="fp32", verbose=False).fit(results, qrels)
    finally:
        order._cells = real
    assert checked[len(results)] == 1
    assert texts == Counter(results["text"])  # for the fingerprint: as often as it stands in the frame
    in_lists = Counter(("text", text) for text in results["text"])
    relevant = results.merge(qrels, on=["qid", "docno"])
    in_lists.update(("text", text) for text in relevant["text"])
    assert {key: n for key, n in hashed.items() if key in in_lists} == in_lists  # documents, whatever the epochs


def test_topics_through_build(tmp_path, counted, checked):
    asked = topics(10)
    ptd.LabelStore(tmp_path / "s").build(Candidates() >> Scorer(), asked, batch_size=10, verbose=False)
    rows = len(Candidates()(asked))
    assert checked == {10: 1, rows: 2}  # the topics once; the rows at the teacher's door, and at the store's


@pytest.mark.parametrize("side", ["query", "document", "both"])
def test_a_frame_through_a_bi_encoder(tiny, results, side, checked):
    student = ptd.BiEncoder(tiny, **FP32)
    frame = {
        "query": results[["qid", "query"]].drop_duplicates(),
        "document": results[["docno", "text"]].drop_duplicates(),
        "both": results,
    }[side]
    out = student(frame)
    assert len(out) == len(frame) and checked == {len(frame): 1}


def test_tokens_that_are_kept_are_the_prompts(tiny_t5, tiny_llm):
    """What is answered from remembered tokens is what is answered without."""
    for name in (tiny_t5, tiny_llm):
        backend = ptd.HF(name, **FP32)
        prompts = [f"Query: {'red dog ' * n} Relevant:" for n in range(1, 9)]
        expected = backend.choose(prompts, ["true", "false"])
        with backend.tokenised_once():
            sizes = backend.prompt_sizes(prompts)
            np.testing.assert_array_equal(backend.choose(prompts, ["true", "false"]), expected)
        assert sizes == backend.prompt_sizes(prompts)
    chat = [[{"role": "user", "content": f"Query: {n}"}] for n in range(3)]
    expected = backend.choose(chat, ["Yes", "No"])
    with backend.tokenised_once():
        backend.prompt_sizes(chat)
        np.testing.assert_array_equal(backend.choose(chat, ["Yes", "No"]), expected)
