"""Control tokens in texts are text: for students, teachers, language models and servers."""

import time

import numpy as np
import pandas as pd
import pytest
from transformers import AutoTokenizer

import pyterrier_distill as ptd
from pyterrier_distill.engine.tokens import disarmed
from pyterrier_distill.prompts import control
from pyterrier_distill.teachers.responses import parse_permutation

FP32 = {"precision": "fp32", "device": "cpu"}
CASES = ["red [SEP] dog", "[CLS] red dog", "red dog [PAD]", "red [MASK] dog", "red [sep] dog", "red ［SEP］ dog"]


def ids(tokenizer, text):
    return tokenizer(disarmed(tokenizer, [text])[0], add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("text", CASES)
def test_no_control_token_of_an_encoder_comes_from_a_text(text, minilm):
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    assert not set(ids(tokenizer, text)) & (set(tokenizer.all_special_ids) - {tokenizer.unk_token_id})


@pytest.mark.parametrize("text", ["a </s> b", "a <pad> b", "a<unk>b", "<|end|> x", "a<|end|>b"])
def test_nor_of_other_tokenizers(text, tiny_t5, tiny_llm):
    for name in (tiny_t5, tiny_llm):
        tokenizer = AutoTokenizer.from_pretrained(name)
        special = {i for i in tokenizer.all_special_ids if i != tokenizer.unk_token_id}
        assert not set(ids(tokenizer, text)) & special


def test_texts_without_control_tokens_are_read_as_they_are(minilm, documents):
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    texts = [*documents["text"], "a < b > c [1] {x} naïve – “quotes”", "信息检索", "SEP and CLS", "[see below]"]
    assert disarmed(tokenizer, texts) == texts


STUDENTS = {
    "BiEncoder": lambda m: ptd.BiEncoder(m["tiny"], **FP32),
    "LateInteraction": lambda m: ptd.LateInteraction(m["tiny"], **FP32),
    "USTAD": lambda m: ptd.USTAD(m["tiny"], query_length=12, **FP32),
    "CrossEncoder": lambda m: ptd.CrossEncoder(m["tiny"], **FP32),
    "MonoT5": lambda m: ptd.MonoT5(m["tiny_t5"], **FP32),
    "PointwiseTeacher": lambda m: ptd.PointwiseTeacher(m["tiny_cross"], **FP32),
}


@pytest.mark.parametrize("name", STUDENTS)
def test_a_text_scores_as_its_disarmed_form(name, tiny, tiny_t5, tiny_cross):
    ranker = STUDENTS[name]({"tiny": tiny, "tiny_t5": tiny_t5, "tiny_cross": tiny_cross})
    tokenizer = AutoTokenizer.from_pretrained(
        {"MonoT5": tiny_t5}.get(name, tiny if name != "PointwiseTeacher" else tiny_cross)
    )
    sign = tokenizer.eos_token if name == "MonoT5" else tokenizer.sep_token
    text = f"red dog {sign} blue bird"
    plain = disarmed(tokenizer, [text])[0]
    assert plain != text
    frame = pd.DataFrame(
        [("q", "red", "d1", text), ("q", "red", "d2", plain)], columns=["qid", "query", "docno", "text"]
    )
    one, other = (ranker(frame.iloc[[n]])["score"].iloc[0] for n in (0, 1))
    assert one == pytest.approx(other, abs=1e-6)


@pytest.mark.parametrize(
    "token",
    ["<eos>", "<bos>", "<pad>", "<think>", "<tool_call>", "[TOOL_CALLS]", "<start_of_image>", "<|im_end|>", "</s>"],
)
def test_servers_whose_tokenizer_is_not_known(token):
    assert token not in control.disarm(f"a {token} b")
    assert token not in control.neutralise(f"a{token}b")


@pytest.mark.parametrize("identifier", ["[3]", "[³]", "[①]", "﹇1﹈", "【3】", "⟦3⟧", "［３］"])
def test_identifiers_in_documents_are_none(identifier):
    said = control.neutralise(f"first {identifier} > [2]")
    assert identifier not in said and "[2]" not in said


DROPPED = (
    "\u0591\u034f\u1dfa\u20dd\u0903\u202a\u180e\ufe00\u0600\U000e0041\ue000\u0378\x00\x0b\x0c\x1c\x1f\x7f\x85\ufffd"
)


@pytest.mark.parametrize("character", DROPPED, ids=ascii)
def test_whatever_normalisers_drop_hides_no_control_token(character, minilm):
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    tokenizer.add_tokens(["[Q] ", "[D] "])
    marks = {*tokenizer.convert_tokens_to_ids(["[Q] ", "[D] ", "[SEP]"])}
    for text in (f"red [D{character}] dog", f"red [{character}Q] dog", f"[SE{character}P]", f"red [D]{character}dog"):
        assert not set(ids(tokenizer, text)) & marks


def test_control_tokens_that_overlap_are_all_found(tiny_llm):
    tokenizer = AutoTokenizer.from_pretrained(tiny_llm)
    tokenizer.add_special_tokens({"additional_special_tokens": ["|endoftext|", "\ue000\ue001"]})
    for text in ("|endoftext|endoftext|", "|endoftext|endoftext|endoftext|", "a \ue000\ue001 b"):
        assert not set(ids(tokenizer, text)) & set(tokenizer.all_special_ids)


@pytest.mark.parametrize("inside", ["\u202a1", "\u180e1", "\u034f1", "\ufe001", "\x001", "\U000e00201", "1\u20dd",
                                    "1\ufe0f\u20e3", "①\u0301", "1\u03012"], ids=ascii)  # fmt: skip
def test_identifiers_with_what_cannot_be_seen_are_none(inside):
    assert control.neutralise(f"first [{inside}] > [2]") in ("first (1) > (2)", "first (12) > (2)")


def test_long_runs_of_marks_take_no_longer_than_other_text():
    began = time.monotonic()
    for text in ("a" + "\u0316\u0301" * 50_000, "[" + "\u0301\u0316" * 50_000, "[1" + "\u0301 " * 50_000):
        assert control.neutralise(text) == text
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "answer",
    ["【3】 > 【1】 > 【2】", "〔3〕 > 〔1〕 > 〔2〕", "⟦3⟧ > ⟦1⟧ > ⟦2⟧", "Passage 3 > Passage 1 > Passage 2",
     '{"ranking": [3, 1, 2]}', "❸ > ❶ > ❷"],
)  # fmt: skip
def test_other_notations_are_read_and_counted_apart(answer):
    assert parse_permutation(answer, 3) == ([2, 0, 1], "other_notation")


@pytest.mark.parametrize(
    "answer",
    ["Passage 3 (0.9) > Passage 1 (0.5) > Passage 2 (0.1)", "Document 3 (9/10) > Document 1 (8/10) > Document 2 (1/10)",
     "Passage 3 (score 2) > Passage 1 (score 1)", "Passage 3: 2 > Passage 1: 2 > Passage 2: 1",
     "Passage 3 (2019) > Passage 1 (2020) > Passage 2 (2021)", "Passage [3] (0.9) > Passage [1] (0.5)",
     "The order: **Passage 3** (2 > 1) > **Passage 1** (the 2nd of 2)"],
)  # fmt: skip
def test_what_stands_behind_an_identifier_is_none(answer):
    order, outcome = parse_permutation(answer, 3)
    assert order == [2, 0, 1] and outcome == ("wrong_format" if "[" in answer else "other_notation")


@pytest.mark.parametrize(
    "answer",
    ["Passage 3 > Passage 1. Passage 2 is irrelevant since 2 > 1.", "Passage 3 > 1 > 2", "3 → 1 → 2", "3 ≥ 1 ≥ 2",
     "Passage 3 → Passage 1 → Passage 2", "Passage 3 -> Passage 1 -> Passage 2", "#3 > #1 > #2",
     '{"ranking": [3, 1, 2], "scores": [2, 1, 3]}', '{"ids": [1, 2, 3], "ranking": [3, 1, 2]}',
     "Most to least relevant: 3, 1, 2"],
)  # fmt: skip
def test_what_can_mean_one_ranking_only_is_read(answer):
    assert parse_permutation(answer, 3) == ([2, 0, 1], "other_notation")


@pytest.mark.parametrize(
    "answer",
    ["Passage 3 - 2 > Passage 1 - 1", "Passage 3 score 2 > Passage 1 score 1", "3: 2 > 1: 1", '{"scores": [3, 1, 2]}',
     '{"a": [3, 1, 2], "b": [2, 1, 3]}', "Passage 3: 1\nPassage 1: 2", "Rank: Passage 3 > Passage 1 > 0.5",
     "Ranking from worst to best: 3, 1, 2", "it scores 0.3 > 0.2"],
)  # fmt: skip
def test_what_can_mean_several_rankings_is_not_read(answer):
    assert parse_permutation(answer, 3) == ([0, 1, 2], "wrong_format")


@pytest.mark.parametrize("answer", ["I considered 20 passages.", "3 passages are about it, 1 is not", "", "no idea"])
def test_numbers_in_prose_are_no_ranking(answer):
    assert parse_permutation(answer, 3) == ([0, 1, 2], "wrong_format")


def test_threads_that_load_and_score_at_once_give_what_one_gives(tiny, tiny_cross):
    from concurrent.futures import ThreadPoolExecutor

    from transformers import PreTrainedModel

    frame = pd.DataFrame(
        [("q", "red", f"d{n}", "red dog " * (n + 1)) for n in range(6)], columns=["qid", "query", "docno", "text"]
    )
    makers = [lambda: ptd.CrossEncoder(tiny, **FP32), lambda: ptd.PointwiseTeacher(tiny_cross, **FP32)]
    expected = [make()(frame)["score"].to_numpy() for make in makers]
    before = PreTrainedModel.tie_weights
    with ThreadPoolExecutor(6) as pool:
        for make, wanted in zip(makers, expected):
            for found in pool.map(lambda _, make=make: make()(frame)["score"].to_numpy(), range(6)):
                np.testing.assert_allclose(found, wanted, atol=1e-6)
            shared = make()
            for found in pool.map(lambda _, shared=shared: shared(frame)["score"].to_numpy(), range(6)):
                np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert PreTrainedModel.tie_weights is before
