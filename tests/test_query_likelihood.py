"""Query likelihood against transformers, one input at a time; its prompts, its errors, a real model."""

import functools

import numpy as np
import pandas as pd
import pytest
import torch

import pyterrier_distill as ptd
from pyterrier_distill.prompts import Template

FP32 = {"precision": "fp32", "device": "cpu"}
LIKELY = {"kind": "query_likelihood", **FP32}
UPR = "Passage: {}. Please write a question based on this passage."


@functools.lru_cache
def loaded(path, kind):
    import transformers

    return transformers.AutoTokenizer.from_pretrained(path), getattr(transformers, kind).from_pretrained(path).eval()


def of_causal(path, prompt, query):
    """log p of each token that joins the prompt when the query follows it, one input at a time."""
    tokenizer, model = loaded(path, "AutoModelForCausalLM")
    before, ids = tokenizer(prompt)["input_ids"], tokenizer(prompt + query)["input_ids"]
    assert ids[: len(before)] == before
    with torch.no_grad():
        logs = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return np.mean([logs[n - 1, ids[n]].item() for n in range(len(before), len(ids))])


def of_t5(path, prompt, query):
    """The negative of transformers' own loss: cross-entropy of the decoder's text, averaged over its tokens."""
    tokenizer, model = loaded(path, "AutoModelForSeq2SeqLM")
    with torch.no_grad():
        inputs, labels = (tokenizer(text, return_tensors="pt").input_ids for text in (prompt, query))
        return -model(input_ids=inputs, labels=labels).loss.item()


@pytest.fixture
def various(results):
    """Passages and queries of different lengths."""
    words = "red green blue dog cat bird house tree passage yes".split()
    rng = np.random.default_rng(2)
    texts = [" ".join(rng.choice(words, size=n)) for n in rng.integers(1, 40, size=len(results))]
    return results.assign(text=texts)


@pytest.mark.parametrize("batch_size", [1, 4, None])
def test_a_causal_model_equals_one_at_a_time(tiny_llm, various, batch_size):
    out = ptd.PointwiseTeacher(tiny_llm, batch_size=batch_size, **LIKELY)(various)
    for row in out.itertuples():
        expected = of_causal(tiny_llm, UPR.format(row.text), f" {row.query}")
        assert row.teacher_score == pytest.approx(expected, abs=1e-5) and row.teacher_score <= 0
    assert out["teacher_score"].std() > 1e-2 and (out["score"] == out["teacher_score"]).all()
    assert "teacher_logits" not in out.columns


@pytest.mark.parametrize("batch_size", [1, 4, None])
def test_a_seq2seq_model_equals_one_at_a_time(tiny_t5, various, batch_size):
    out = ptd.PointwiseTeacher(tiny_t5, batch_size=batch_size, **LIKELY)(various)
    for row in out.itertuples():
        assert row.teacher_score == pytest.approx(of_t5(tiny_t5, UPR.format(row.text), row.query), abs=1e-5)
    assert out["teacher_score"].std() > 1e-3


@pytest.mark.parametrize("model", ["tiny_llm", "tiny_t5"])
def test_a_score_depends_on_nothing_else(model, various, request):
    various.loc[3, "text"] = "red dog " * 2000  # is cut
    teacher = ptd.PointwiseTeacher(request.getfixturevalue(model), max_length=96, **LIKELY)
    whole = teacher(various)["teacher_score"].to_numpy()
    other = teacher(various.sample(frac=1, random_state=1))["teacher_score"].reindex(various.index)
    np.testing.assert_allclose(other, whole, atol=1e-5)
    alone = [teacher(various.iloc[[n]])["teacher_score"].iloc[0] for n in range(5)]
    np.testing.assert_allclose(alone, whole[:5], atol=1e-5)


def of_tokenizer(path, tmp_path, **changes):
    """The checkpoint with a tokenizer that puts special tokens round texts."""
    from tokenizers import processors
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    end = tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        changes["single"], special_tokens=[(end, tokenizer.eos_token_id)]
    )
    tokenizer.save_pretrained(tmp_path)
    AutoModelForCausalLM.from_pretrained(path).save_pretrained(tmp_path)
    return str(tmp_path), tokenizer


@pytest.mark.parametrize("single", ["<|end|> $A", "$A <|end|>", "<|end|> $A <|end|>"])
def test_special_tokens_stand_where_the_tokenizer_puts_them(single, tiny_llm, various, tmp_path):
    """One before a text is read, one behind it scored, and none stands between the passage and the query."""
    from transformers import AutoModelForCausalLM

    path, tokenizer = of_tokenizer(tiny_llm, tmp_path, single=single)
    model = AutoModelForCausalLM.from_pretrained(path).eval()
    out = ptd.PointwiseTeacher(path, **LIKELY)(various.head(4))
    for row in out.itertuples():
        prompt = UPR.format(row.text)
        ids = tokenizer(f"{prompt} {row.query}")["input_ids"]
        before = len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) + single.startswith("<")
        with torch.no_grad():
            logs = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
        expected = np.mean([logs[n - 1, ids[n]].item() for n in range(before, len(ids))])
        assert row.teacher_score == pytest.approx(expected, abs=1e-5)


def test_any_template_may_show_the_passage(tiny_llm, various):
    rows = various.head(4)
    examples = "Passage: the red dog Question: red dog\nPassage: a blue bird Question: blue\n"
    plain = Template((("user", examples + "Passage: {document} Question:"),), plain=True)
    out = ptd.PointwiseTeacher(tiny_llm, prompt=plain, **LIKELY)(rows)
    for row in out.itertuples():
        expected = of_causal(tiny_llm, f"{examples}Passage: {row.text} Question:", f" {row.query}")
        assert row.teacher_score == pytest.approx(expected, abs=1e-5)
    # One that ends in white space is followed by no other; a text becomes a message of the model's chat.
    lines = Template((("user", "{document}\n"),), plain=True)
    written = ptd.PointwiseTeacher(tiny_llm, prompt=lines, **LIKELY)(rows)
    spoken = ptd.PointwiseTeacher(tiny_llm, prompt="Ask about: {document}", **LIKELY)(rows)
    for row, said in zip(written.itertuples(), spoken.itertuples()):
        assert row.teacher_score == pytest.approx(of_causal(tiny_llm, f"{row.text}\n", row.query), abs=1e-5)
        chat = f"<|user|>user: Ask about: {row.text}\n<|assistant|>\n"
        assert said.teacher_score == pytest.approx(of_causal(tiny_llm, chat, row.query), abs=1e-5)


def test_a_text_is_scored_as_the_template_that_says_the_same_where_a_model_knows_no_chat(tiny_llm, various, tmp_path):
    """It is a text that goes on: the query stands behind a space, unless the prompt ends in white space."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llm)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    AutoModelForCausalLM.from_pretrained(tiny_llm).save_pretrained(tmp_path)
    path, rows = str(tmp_path), various.head(4)
    named = ptd.PointwiseTeacher(path, **LIKELY)(rows)
    told = ptd.PointwiseTeacher(path, prompt=UPR.format("{document}"), **LIKELY)(rows)
    lines = ptd.PointwiseTeacher(path, prompt="{document}\n", **LIKELY)(rows)
    np.testing.assert_allclose(told["teacher_score"], named["teacher_score"], atol=1e-6)
    for row, line in zip(told.itertuples(), lines.itertuples()):
        assert row.teacher_score == pytest.approx(of_causal(path, UPR.format(row.text), f" {row.query}"), abs=1e-5)
        assert line.teacher_score == pytest.approx(of_causal(path, f"{row.text}\n", row.query), abs=1e-5)


def test_the_passage_alone_is_cut_and_the_query_is_read_whole(tiny_llm, various):
    teacher = ptd.PointwiseTeacher(tiny_llm, max_length=64, **LIKELY)
    query = "red dog of the green house"
    (prompt,) = teacher._scorer.prompts([(query, "blue " * 500)])
    assert prompt.startswith("Passage: blue blue") and prompt.endswith(UPR[-40:])
    backend = teacher._scorer.backend
    assert 58 <= backend.prompt_sizes([f"{prompt} {query}"])[0] <= 64
    (prompt,) = teacher._scorer.prompts([("red " * 500, "blue " * 500)])
    assert prompt.count("blue") > 3  # a query takes half of the room at most
    assert np.isfinite(teacher(various.head(1).assign(query="red " * 500))["teacher_score"]).all()


def test_usage_is_as_estimated(tiny_llm, various):
    teacher = ptd.PointwiseTeacher(tiny_llm, **LIKELY)
    expected = teacher.estimate(various)
    teacher(pd.concat([various, various.assign(qid="again-" + various["qid"])]))
    assert (teacher.usage.calls, teacher.usage.output_tokens) == (expected.calls, 0) == (len(various), 0)
    assert teacher.usage.prompt_tokens == expected.prompt_tokens


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"prompt": "Is {document} about {query}?"}, "the query is what follows"),
        ({"prompt": "Ask something."}, "no prompt 'Ask something.'.*'upr'"),
        ({"prompt": "monot5"}, "no prompt 'monot5'"),
        ({"answers": ("no", "yes")}, "no answers to choose from"),
        ({"backend": "vllm"}, "in this process"),
        ({"kind": "likelihood"}, "kind must be one of .*query_likelihood"),
    ],
)
def test_impossible_settings_are_refused(tiny_llm, settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        ptd.PointwiseTeacher(tiny_llm, **{"kind": "query_likelihood", **settings})
    assert "\n" not in str(caught.value)


def test_what_cannot_tell_likelihoods_is_refused(tiny, tiny_cross, various):
    with pytest.raises(ValueError, match="in this process"):
        ptd.PointwiseTeacher(ptd.BiEncoder(tiny), kind="query_likelihood")
    server = ptd.OpenAI("m", base_url="http://localhost:1", api_key="none")
    with pytest.raises(ValueError, match=r"how likely a text is.*ptd.HF"):
        ptd.PointwiseTeacher(server, kind="query_likelihood")(various)
    with pytest.raises(ValueError, match="is a cross-encoder checkpoint: it cannot answer prompts"):
        ptd.PointwiseTeacher(tiny_cross, **LIKELY)(various)
    with pytest.raises(ValueError, match="a query of no words has no likelihood"):
        ptd.PointwiseTeacher(ptd.HF(tiny_cross), kind="query_likelihood")(various.assign(query=" "))


def test_other_prompts_and_models_are_other_teachers(tiny_llm):
    from pyterrier_distill.identity.identity import identity

    one = ptd.PointwiseTeacher(tiny_llm, **LIKELY)
    prompted = ptd.PointwiseTeacher(tiny_llm, prompt="{document}", **LIKELY)
    asked = ptd.PointwiseTeacher(tiny_llm, **FP32)
    told = [str(identity(teacher)) for teacher in (one, prompted, asked)]
    assert len(set(told)) == 3 and "upr" in told[0]


def test_a_real_model_knows_which_passage_makes_a_query_likely(smollm2):
    passages = {
        "d1": "Light is scattered by the molecules of the air, blue light most of all, so that the sky appears blue.",
        "d2": "Aspirin is a medicine that reduces pain and fever. Doctors advise against it for small children.",
        "d3": "The Eiffel Tower in Paris was built for the World's Fair of 1889 and is 330 metres tall.",
    }
    queries = {"d1": "why is the sky blue", "d2": "is aspirin safe for children", "d3": "how tall is the eiffel tower"}
    rows = [(f"q-{right}", q, docno, text) for right, q in queries.items() for docno, text in passages.items()]
    frame = pd.DataFrame(rows, columns=["qid", "query", "docno", "text"]).assign(score=0.0, rank=0)
    out = ptd.PointwiseTeacher(smollm2, kind="query_likelihood")(frame)
    best = out.loc[out.groupby("qid")["teacher_score"].idxmax()]
    assert best["docno"].tolist() == [qid.removeprefix("q-") for qid in best["qid"]]
