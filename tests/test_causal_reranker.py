"""The student that answers yes or no with a causal LM: what it asks, how it scores, and who else reads it."""

import numpy as np
import pandas as pd
import pytest
import torch

import pyterrier_distill as ptd
from pyterrier_distill.losses import functional

FP32 = {"precision": "fp32", "device": "cpu"}
PLAIN = ptd.Template((("user", "Query: {query} Document: {document} Relevant:"),), ("no", "yes"), plain=True)
QWEN3 = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct"
    ' provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n<Instruct>: Given a web'
    " search query, retrieve relevant passages that answer the query\n<Query>: {query}\n"
    "<Document>: {document}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
YES_NO = "Is the document relevant to the query (Yes or No)?\nQuery: {query}\nDocument: {document}"


def logits(path, frame, render, words, load=None):
    """Raw logits ``[n, 2]`` by transformers alone: one prompt at a time, the two words' tokens behind its last one."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = (load or AutoModelForCausalLM.from_pretrained)(path).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokens = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
    assert all(len(ids) == 1 for ids in tokens)
    told = []
    for query, text in zip(frame["query"], frame["text"]):
        ids = tokenizer(render(tokenizer, query, text), return_tensors="pt", add_special_tokens=False)
        with torch.no_grad():
            told.append(model(**ids).logits[0, -1, [ids[0] for ids in tokens]].numpy())
    return np.stack(told)


def chat(tokenizer, query, text):
    said = [{"role": "user", "content": YES_NO.format(query=query, document=text)}]
    return tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)


ASKED = {
    "yes_no": (None, chat, ("No", "Yes")),
    "qwen3": ("qwen3", lambda _, query, text: QWEN3.format(query=query, document=text), ("no", "yes")),
    "plain": (PLAIN, lambda _, q, d: f"Query: {q} Document: {d} Relevant:", (" no", " yes")),
}


@pytest.mark.parametrize("asked", ASKED)
def test_scores_are_log_probabilities_of_yes_behind_the_prompt(asked, tiny_llm, ten):
    prompt, render, words = ASKED[asked]
    student = ptd.CausalReranker(tiny_llm, prompt=prompt, **FP32)
    expected = torch.tensor(logits(tiny_llm, ten, render, words))
    np.testing.assert_allclose(student(ten)["score"], expected.log_softmax(-1)[:, 1], atol=1e-5)
    with torch.no_grad():
        told = student.logits(student.features(list(zip(ten["query"], ten["text"]))))  # padded to each other
    np.testing.assert_allclose(told, expected, atol=1e-5)


@pytest.mark.parametrize("lora", [None, dict(r=8, alpha=32, target_modules="all-linear")])
def test_learns_its_teachers_logits_and_is_read_by_others(lora, tiny_llm, tiny_t5, ten, tmp_path):
    if lora is not None:
        pytest.importorskip("peft")
    labelled = ptd.PointwiseTeacher(tiny_t5, **FP32)(ten)  # InRanker's teacher: monoT5
    student = ptd.CausalReranker(tiny_llm, prompt=PLAIN, lora=lora, **FP32)
    settings = {"precision": "fp32", "verbose": False, "learning_rate": 1e-2, "epochs": 60, "queries_per_batch": 10}
    ptd.Distiller(student, ptd.LogitMSE(), dropout=0.0, **settings).fit(labelled)
    with torch.no_grad():
        told = student.logits(student.features(list(zip(labelled["query"], labelled["text"]))))
    assert float(functional.logit_mse(told, torch.tensor(np.stack(labelled["teacher_logits"])))) < 0.1

    expected = student(ten)["score"].to_numpy()
    student.save(tmp_path / "student")
    load = None
    if lora is not None:
        from peft import AutoPeftModelForCausalLM

        load = AutoPeftModelForCausalLM.from_pretrained
        assert student.num_trainable_parameters() < student.num_parameters()
        student.save(tmp_path / "whole", merge=True)
        whole = torch.tensor(logits(tmp_path / "whole", ten, *ASKED["plain"][1:]))
        np.testing.assert_allclose(whole.log_softmax(-1)[:, 1], expected, atol=1e-5)
    others = torch.tensor(logits(tmp_path / "student", ten, *ASKED["plain"][1:], load))
    np.testing.assert_allclose(others.log_softmax(-1)[:, 1], expected, atol=1e-5)
    teacher = ptd.PointwiseTeacher(str(tmp_path / "student"), **FP32)(ten)  # asks what the student was saved with
    np.testing.assert_allclose(teacher["score"], expected, atol=1e-5)
    np.testing.assert_allclose(np.stack(teacher["teacher_logits"]), others, atol=1e-5)


@pytest.mark.parametrize("loss", [ptd.KLDivergence(), ptd.ADRMSE(), ptd.ListNet(), ptd.MarginMSE()], ids=repr)
def test_list_losses_train_it(loss, tiny_llm, ten):
    frame = ten.assign(teacher_score=-ten["teacher_rank"].astype(float), rank=ten["teacher_rank"])
    distiller = ptd.Distiller(
        ptd.CausalReranker(tiny_llm, **FP32), loss, precision="fp32", verbose=False, learning_rate=3e-3, epochs=15,
        dropout=0.0, queries_per_batch=10,
    )  # fmt: skip
    distiller.fit(frame)
    history = [entry["loss"] for entry in distiller.history if "loss" in entry]
    assert history[-1] < history[0]


def test_a_saved_one_asks_as_it_was_trained(tiny_llm, ten, tmp_path):
    long = ten.assign(text=ten["text"] + " river" * 60)
    for n, prompt in enumerate(("Passage: {document}\nQuery: {query}\nRelevant?", PLAIN, "qwen3")):
        length = None if prompt == "qwen3" else 60
        student = ptd.CausalReranker(tiny_llm, prompt=prompt, answers=("No", "Yes"), max_length=length, **FP32)
        path = tmp_path / str(n)
        again = student.save(path)
        again.precision = "fp32"
        teacher = ptd.PointwiseTeacher(str(path), **FP32)
        for frame in (ten, long):
            pd.testing.assert_frame_equal(again(frame), student(frame), atol=1e-5)
            np.testing.assert_allclose(teacher(frame)["score"], student(frame)["score"], atol=1e-5)
        other = ptd.CausalReranker(path, prompt="yes_no", max_length=200, **FP32)
        assert not np.allclose(other(ten)["score"], student(ten)["score"], atol=1e-4)
        asked = ptd.PointwiseTeacher(str(path), prompt="yes_no", max_length=200, **FP32)(ten)
        np.testing.assert_allclose(asked["score"], other(ten)["score"], atol=1e-5)


def test_the_document_alone_is_cut(tiny_llm):
    student = ptd.CausalReranker(tiny_llm, prompt=PLAIN, max_length=40, **FP32)
    ids = student.features([("red dog", "river " * 100)])["input_ids"][0]
    text = student.tokenizer.decode(ids)
    assert len(ids) <= 39 and text.startswith("Query: red dog Document: river") and text.endswith("Relevant:")


def test_teachers_that_remember_a_question_are_told_apart(tiny_llm, tmp_path):
    from pyterrier_distill.identity.identity import identity

    ptd.CausalReranker(tiny_llm, **FP32).save(tmp_path / "default")
    ptd.CausalReranker(tiny_llm, prompt=PLAIN, **FP32).save(tmp_path / "plain")
    one, two = (identity(ptd.PointwiseTeacher(str(tmp_path / name), **FP32)) for name in ("default", "plain"))
    assert one != two and "prompt_text" in two and "prompt_text" not in one


def test_mistakes(tiny, tiny_t5, tiny_llm, tiny_cross, ten):
    for name, other in ((tiny_t5, "MonoT5"), (tiny_cross, "CrossEncoder")):
        with pytest.raises(ValueError, match=f"not a causal LM: it makes a {other}"):
            ptd.CausalReranker(name, **FP32)(ten)
    with pytest.raises(ValueError, match="no head that scores"):
        ptd.CausalReranker(tiny, **FP32)(ten)
    with pytest.raises(ValueError, match="lacks the placeholder {document}"):
        ptd.CausalReranker(tiny_llm, prompt="Query: {query}")
    with pytest.raises(ValueError, match="no prompt 'yesno'.*'yes_no'"):
        ptd.CausalReranker(tiny_llm, prompt="yesno")
    for answers in ("no", ("yes", "yes"), ("no",), ("no", "yes", "maybe"), ("", "yes"), (0, 1)):
        with pytest.raises(ValueError, match="two different words"):
            ptd.CausalReranker(tiny_llm, answers=answers)
    with pytest.raises(ValueError, match="not one token"):
        ptd.CausalReranker(tiny_llm, answers=("no", "certainly"), **FP32)(ten)
    with pytest.raises(ValueError, match="instructions alone take"):
        ptd.CausalReranker(tiny_llm, max_length=10, **FP32)(ten)
    with pytest.raises(ValueError, match="log-probability.*LogitMSE"):
        ptd.Distiller(ptd.CausalReranker(tiny_llm), ptd.BinaryCrossEntropy())
