"""Queries and documents of a cross-encoder are cut one by one, in training as in ranking (Rank-DistiLLM)."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

import pyterrier_distill as ptd

FP32 = {"precision": "fp32", "device": "cpu"}
CUT = {"query_length": 5, "document_length": 9}


@pytest.fixture
def long(ten):
    """Ten queries and their documents, most of them longer than that."""
    return ten.assign(query=ten["query"] + " sings in the house", text=ten["text"] + " and runs fast")


def by_hand(student, frame):
    """[CLS] q [SEP] d [SEP], each text's tokens cut with truncation alone, by transformers."""
    model, tokenizer = student.model[0].auto_model, student.tokenizer
    told = []
    for query, text in zip(frame["query"], frame["text"]):
        q, d = (
            tokenizer(t, add_special_tokens=False, truncation=True, max_length=n)["input_ids"]
            for t, n in ((query, 5), (text, 9))
        )
        ids = [tokenizer.cls_token_id, *q, tokenizer.sep_token_id, *d, tokenizer.sep_token_id]
        segments = [0] * (len(q) + 2) + [1] * (len(d) + 1)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids]), token_type_ids=torch.tensor([segments])).logits
        told.append(float(logits[0, 0]))
    return np.array(told)


def test_each_is_cut_to_its_own_length_in_ranking_and_in_training(tiny, long):
    from pyterrier_distill.training.lists import Collator
    from pyterrier_distill.training.reading import Reader

    student, loss = ptd.CrossEncoder(tiny, **CUT, **FP32), ptd.RankNet()
    expected = by_hand(student, long)
    np.testing.assert_allclose(student(long)["score"], expected, atol=1e-5)
    assert not np.allclose(ptd.CrossEncoder(tiny, **FP32)(long)["score"], expected, atol=1e-4)
    lists = Reader(student, loss, None, None, None).read(long)
    batch = Collator(student, loss)(lists)
    outputs = student.forward(batch["batch"], batch["mask"], loss.needs)
    by_pair = dict(zip(zip(long["qid"], long["docno"]), expected))
    for row, one in enumerate(lists):
        told = [by_pair[one.qid, docno] for docno in one.docnos]
        np.testing.assert_allclose(outputs.scores[row].detach(), told, atol=1e-5)


@pytest.mark.parametrize("fixture", ["tiny", "tiny_llm"])
@pytest.mark.parametrize("lora", [None, {"r": 2}])
def test_saved_with_the_model(fixture, lora, request, long, tmp_path):
    if lora:
        pytest.importorskip("peft")
    student = ptd.CrossEncoder(request.getfixturevalue(fixture), lora=lora, **CUT, **FP32)
    expected = student(long)["score"].to_numpy()
    again = student.save(tmp_path / "saved")
    again.precision = "fp32"
    np.testing.assert_allclose(again(long)["score"], expected, atol=1e-5)
    teacher = ptd.PointwiseTeacher(str(tmp_path / "saved"), **FP32)
    np.testing.assert_allclose(teacher(long)["score"], expected, atol=1e-5)
    other = ptd.CrossEncoder(tmp_path / "saved", document_length=4, **FP32)  # the query's stays
    shorter = ptd.CrossEncoder(tmp_path / "saved", document_length=4, query_length=5, **FP32)
    pd.testing.assert_frame_equal(other(long), shorter(long))
    assert not np.allclose(other(long)["score"], expected, atol=1e-5)
    told = json.loads((tmp_path / "saved" / "pt_meta.json").read_text())
    assert (told["query_length"], told["document_length"]) == (5, 9)
    assert repr(again) != repr(student) and "query_length=5" in repr(student)
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "It reads at most 5 tokens of a query and 9 tokens of a document. Other libraries cut the pair as a" in card
    if lora is None:  # texts that are no longer are read alike by others
        from sentence_transformers import CrossEncoder

        model = CrossEncoder(str(tmp_path / "saved"), device="cpu")
        short = long.assign(query="red", text="dog")
        scored = model.predict(list(zip(short["query"], short["text"])), show_progress_bar=False)
        np.testing.assert_allclose(scored, student(short)["score"], atol=1e-5)


def test_lengths_count_tokens_of_the_text_alone(tiny_llm, tiny):
    for name in (tiny, tiny_llm):
        student = ptd.CrossEncoder(name, **CUT, **FP32)
        ids = student.features([("red dog sings loud", "river " * 20)])["input_ids"][0]
        bare = student.features([("", "")])["input_ids"][0]
        assert len(bare) + 10 <= len(ids) <= len(bare) + 14


def test_cut_texts_are_beginnings_of_at_most_that_many_tokens(tiny_llm, tiny_t5):
    from transformers import AutoTokenizer

    from pyterrier_distill.engine.pairs import cut

    texts = ["red dog", "", "größer als 日本語 🐕🐕🐕 and 😀 passage", "Documentation of greenhouses", "a" * 50]
    for name in (tiny_llm, tiny_t5):
        tokenizer = AutoTokenizer.from_pretrained(name)
        for tokens in (1, 3, 7, 100):
            for text, short in zip(texts, cut(tokenizer, texts, tokens)):
                sizes = [len(tokenizer(t, add_special_tokens=False)["input_ids"]) for t in (text, short)]
                assert text.startswith(short) and sizes[1] <= tokens
                assert short == text if sizes[0] <= tokens else sizes[1] > tokens - 5
    assert cut(tokenizer, texts, None) == texts


def test_mistakes(tiny, tiny_llm, long):
    for settings in ({"query_length": 0}, {"document_length": 2.5}, {"query_length": True}, {"document_length": "all"}):
        with pytest.raises(ValueError, match=f"{next(iter(settings))} must be None or a whole number"):
            ptd.CrossEncoder(tiny, **settings)
    with pytest.raises(ValueError, match=r"query_length=32 and document_length=256 take 291 tokens.*reads 64"):
        ptd.CrossEncoder(tiny, query_length=32, document_length=256, **FP32)(long)
    with pytest.raises(ValueError, match="raise max_length"):
        ptd.CrossEncoder(tiny_llm, query_length=8, document_length=40, max_length=50, **FP32)(long)
