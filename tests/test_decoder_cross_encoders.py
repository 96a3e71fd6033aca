"""Cross-encoders made of decoders: what they read, where they are scored, heads for all architectures, small bases."""

import copy
import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import pyterrier_distill as ptd
from pyterrier_distill.identity.identity import identity

FP32 = {"precision": "fp32", "device": "cpu"}
PAIR = ("red dog", "green tree")
TEXT = "query: red dog document: green tree"


def fitted(student, frame, **settings):
    defaults = {"precision": "fp32", "verbose": False, "learning_rate": 1e-2, "epochs": 3, "queries_per_batch": 10}
    return ptd.Distiller(student, ptd.RankNet(), **{"dropout": 0.0, **defaults, **settings}).fit(frame)


def scores(ranker, frame):
    return ranker(frame)["score"].to_numpy()


def by_sentence_transformers(path, frame):
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(path), device="cpu")
    return model.predict(list(zip(frame["query"], frame["text"])), show_progress_bar=False)


def decoder(source, path, **special):
    """A copy of a tiny LLM without a chat template, whose tokenizer has other special tokens or another rule."""
    from tokenizers import processors
    from transformers import AutoModelForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.chat_template = None
    rule = special.pop("rule", None)
    for name, token in special.items():
        setattr(tokenizer, name, token)
    if rule:
        known = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<|user|>", "<|end|>")]
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(rule, special_tokens=known)
    tokenizer.save_pretrained(path)
    AutoModelForCausalLM.from_pretrained(source).save_pretrained(path)
    return str(path)


def read(student, pair=PAIR):
    return student.features([pair])["input_ids"][0].tolist()


@pytest.mark.parametrize("rule", [None, "<|user|> $A", "$A <|end|>", "<|user|> $A <|end|>"])
@pytest.mark.parametrize("append_eos", [False, True])
def test_texts_begin_and_end_by_the_tokenizers_rule(rule, append_eos, tiny_llm, ten, tmp_path):
    name = decoder(tiny_llm, tmp_path / "llm", rule=rule)
    tokenizer = AutoTokenizer.from_pretrained(name)
    expected = tokenizer(TEXT)["input_ids"]
    if append_eos and expected[-1] != tokenizer.eos_token_id:
        expected = [*expected, tokenizer.eos_token_id]
    student = ptd.CrossEncoder(name, append_eos=append_eos, **FP32)
    assert read(student) == expected
    again = student.save(tmp_path / "saved")
    again.precision = "fp32"
    assert read(again) == expected
    np.testing.assert_allclose(by_sentence_transformers(tmp_path / "saved", ten), scores(student, ten), atol=1e-5)


def test_prompts_are_texts_names_and_templates(tiny_llm, tmp_path):
    plain = ptd.CrossEncoder(tiny_llm, prompt='Say "{query}" of\n{document}!', **FP32)
    assert plain.tokenizer.decode(read(plain)) == 'Say "red dog" of\ngreen tree!'
    named = ptd.CrossEncoder(tiny_llm, prompt="qwen3", append_eos=True, **FP32)
    text = named.tokenizer.decode(read(named))
    assert "<Query>: red dog\n<Document>: green tree<|im_end|>" in text and text.endswith("</think>\n\n<|end|>")
    template = ptd.Template((("system", "You rank."), ("user", "{document} for {query}")))
    chat = ptd.CrossEncoder(tiny_llm, prompt=template, **FP32)
    messages = [{"role": "system", "content": "You rank."}, {"role": "user", "content": "green tree for red dog"}]
    rendered = chat.tokenizer.decode(read(chat))
    asked = AutoTokenizer.from_pretrained(tiny_llm)
    assert rendered == asked.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    again = chat.save(tmp_path / "saved")
    assert read(again) == read(chat)  # without being told
    assert read(ptd.CrossEncoder(tmp_path / "saved", prompt="{query}: {document}", **FP32)) != read(chat)


def test_the_document_alone_is_cut_and_the_end_stays(tiny_llm, tmp_path):
    name = decoder(tiny_llm, tmp_path / "llm")
    for prompt in (None, "{query} of {document}", "{document} for {query}?"):
        student = ptd.CrossEncoder(name, prompt=prompt, append_eos=True, max_length=24, **FP32)
        ids = read(student, ("red dog", "river " * 100))
        assert len(ids) <= 24 and ids[-1] == student.tokenizer.eos_token_id
        assert "red dog" in student.tokenizer.decode(ids) and "river" in student.tokenizer.decode(ids)


@pytest.mark.parametrize("pad", ["<|end|>", "<pad>"])
def test_scored_at_the_last_token_also_where_padding_is_the_end(pad, tiny_llm, ten, tmp_path):
    """Against a decoder and a head run by hand, one pair at a time, without any padding."""
    name = decoder(tiny_llm, tmp_path / "llm", pad_token=pad)
    student = ptd.CrossEncoder(name, append_eos=True, **FP32)
    fitted(student, ten)
    inner, tokenizer = student.model[0].auto_model, AutoTokenizer.from_pretrained(name)
    expected = []
    for query, text in zip(ten["query"], ten["text"]):
        ids = tokenizer(f"query: {query} document: {text}<|end|>", return_tensors="pt")["input_ids"]
        assert ids[0, -1] == tokenizer.eos_token_id
        with torch.no_grad():
            states = inner.model(input_ids=ids).last_hidden_state
        expected.append(float(states[0, -1] @ inner.score.weight[0].detach()))
    np.testing.assert_allclose(scores(student, ten), expected, atol=1e-5)
    student.save(tmp_path / "saved")
    np.testing.assert_allclose(by_sentence_transformers(tmp_path / "saved", ten), expected, atol=1e-5)
    np.testing.assert_allclose(scores(ptd.PointwiseTeacher(str(tmp_path / "saved"), **FP32), ten), expected, atol=1e-5)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    told = AutoTokenizer.from_pretrained(tmp_path / "saved")
    texts = [f"query: {query} document: {text}<|end|>" for query, text in zip(ten["query"], ten["text"])]
    with torch.no_grad():
        batch = told(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        logits = model(**batch).logits[:, 0]
    np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize("append_eos", [False, True])
def test_peft_loads_an_adapter_as_its_card_says_also_where_padding_is_the_end(append_eos, tiny_llm, ten, tmp_path):
    """A batch with padding: the base alone would be read at the token before the end."""
    peft = pytest.importorskip("peft")
    name = decoder(tiny_llm, tmp_path / "llm", pad_token="<|end|>")
    config = json.loads((tmp_path / "llm" / "config.json").read_text())
    (tmp_path / "llm" / "config.json").write_text(json.dumps({**config, "pad_token_id": config["eos_token_id"]}))
    student = ptd.CrossEncoder(name, append_eos=append_eos, lora={"r": 4}, **FP32)
    student.save(tmp_path / "saved")
    line = re.search(r"Without PyTerrier: `(.*)`\.", (tmp_path / "saved" / "README.md").read_text())[1]
    line = re.sub(r'"[^"]*"', repr(str(tmp_path / "saved")), line)
    model, tokenizer = eval(line, {"peft": peft}).eval(), AutoTokenizer.from_pretrained(tmp_path / "saved")
    end = "<|end|>" if append_eos else ""
    texts = [f"query: {query} document: {text}{end}" for query, text in zip(ten["query"], ten["text"])]
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    assert (batch["attention_mask"] == 0).any()
    with torch.no_grad():
        np.testing.assert_allclose(model(**batch).logits[:, 0], scores(student, ten), atol=1e-5)


# -- architectures without a classifier -------------------------------------------------------------------------------


def _mamba(tokens):
    from transformers import MambaConfig, MambaForCausalLM

    return MambaForCausalLM(MambaConfig(vocab_size=tokens, hidden_size=32, num_hidden_layers=2, state_size=8))


def _mamba2(tokens):
    from transformers import Mamba2Config, Mamba2ForCausalLM

    config = Mamba2Config(
        vocab_size=tokens, hidden_size=32, num_hidden_layers=2, state_size=8, num_heads=8, head_dim=8, n_groups=1
    )
    return Mamba2ForCausalLM(config)


def _recurrent_gemma(tokens):
    from transformers import RecurrentGemmaConfig, RecurrentGemmaForCausalLM

    config = RecurrentGemmaConfig(
        vocab_size=tokens, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64,
        lru_width=32, attention_window_size=64,
    )  # fmt: skip
    return RecurrentGemmaForCausalLM(config)


HEADLESS = {
    "mamba": (_mamba, ["in_proj"]), "mamba2": (_mamba2, ["in_proj"]),
    "recurrent_gemma": (_recurrent_gemma, ["linear_x", "up_proj"]),
}  # fmt: skip


@pytest.fixture(params=HEADLESS)
def headless(request, tiny_llm, tmp_path):
    """A decoder for which transformers has no classifier, and modules to adapt."""
    build, modules = HEADLESS[request.param]
    tokenizer = AutoTokenizer.from_pretrained(tiny_llm)
    torch.manual_seed(0)
    build(len(tokenizer)).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base"), modules


def test_a_linear_head_on_the_last_state_of_any_decoder(headless, ten, tmp_path):
    from transformers import AutoModel

    name, _ = headless
    student = ptd.CrossEncoder(name, append_eos=True, **FP32)
    before = scores(student, ten)
    np.testing.assert_array_equal(scores(ptd.CrossEncoder(name, append_eos=True, **FP32), ten), before)
    fitted(student, ten)
    after = scores(student, ten)
    assert not np.allclose(before, after, atol=1e-3)
    again = student.save(tmp_path / "saved")
    again.precision = "fp32"
    np.testing.assert_allclose(scores(again, ten), after, atol=1e-5)
    np.testing.assert_allclose(by_sentence_transformers(tmp_path / "saved", ten), after, atol=1e-5)
    np.testing.assert_allclose(scores(ptd.PointwiseTeacher(str(tmp_path / "saved"), **FP32), ten), after, atol=1e-5)
    body = AutoModel.from_pretrained(tmp_path / "saved").eval()  # transformers alone, and the head by hand
    head = student.model[-1].linear.weight[0].detach()
    for pair, score in list(zip(zip(ten["query"], ten["text"]), after))[:4]:
        with torch.no_grad():
            states = body(input_ids=torch.tensor([read(student, pair)])).last_hidden_state
        assert float(states[0, -1] @ head) == pytest.approx(score, abs=1e-5)


def test_adapters_of_all_linear_layers_and_what_to_name_else(headless, ten):
    pytest.importorskip("peft")
    name, modules = headless
    student = ptd.CrossEncoder(name, lora={"r": 4, "target_modules": "all-linear"}, **FP32)
    adapted = {n.split(".lora_A")[0].split(".")[-1] for n, _ in student.model.named_parameters() if ".lora_A" in n}
    assert set(modules) <= adapted and not adapted & {"out_proj", "x_proj", "dt_proj"}  # read past it
    with pytest.raises(ValueError, match="linear layers, which are called ") as told:
        ptd.CrossEncoder(name, lora={"r": 4, "target_modules": ["nothing"]}, **FP32).model  # noqa: B018
    named = json.loads(re.search(r"target_modules=(\[.*?\])", str(told.value))[1])
    assert set(named) <= adapted and ptd.CrossEncoder(name, lora={"target_modules": named}, **FP32).model is not None
    assert np.isfinite(scores(student, ten)).all()


def test_its_adapter_is_saved_with_its_head(headless, ten, tmp_path):
    pytest.importorskip("peft")
    name, modules = headless
    student = ptd.CrossEncoder(name, lora=dict(r=4, target_modules=modules), **FP32)
    before = {n: p.detach().clone() for n, p in student.model.named_parameters() if not p.requires_grad}
    fitted(student, ten)
    after = scores(student, ten)
    assert all(torch.equal(p, before[n]) for n, p in student.model.named_parameters() if n in before)
    assert any(p.requires_grad and n.startswith("2.linear") for n, p in student.model.named_parameters())
    again = student.save(tmp_path / "adapter")
    again.precision = "fp32"
    student.save(tmp_path / "whole", merge=True)
    assert not list((tmp_path / "adapter").glob("model*.safetensors"))
    np.testing.assert_allclose(scores(again, ten), after, atol=1e-5)
    for folder in ("adapter", "whole"):
        np.testing.assert_allclose(by_sentence_transformers(tmp_path / folder, ten), after, atol=1e-5)
        np.testing.assert_allclose(scores(ptd.PointwiseTeacher(str(tmp_path / folder), **FP32), ten), after, atol=1e-5)
    assert "sentence_transformers.CrossEncoder" in (tmp_path / "adapter" / "README.md").read_text()


# -- bases ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, fixture", [("CrossEncoder", "tiny_llm"), ("CrossEncoder", "tiny"),
                                           ("CausalReranker", "tiny_llm")])  # fmt: skip
def test_a_base_in_bfloat16_below_an_adapter_and_a_head_in_float32(kind, fixture, request, ten, tmp_path):
    pytest.importorskip("peft")
    make, name = getattr(ptd, kind), request.getfixturevalue(fixture)
    lora = dict(r=4, target_modules="all-linear")
    student = make(name, lora=lora, base_dtype="bf16", **FP32)
    below = {n: p for n, p in student.model.named_parameters() if "original_module" not in n}  # a head's first weights
    kinds = {(p.requires_grad, p.dtype) for p in below.values()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
    moving = [n for n, p in student.model.named_parameters() if p.requires_grad and "lora_" not in n]
    assert bool(moving) == (kind == "CrossEncoder")  # its head
    frozen = {n: p.detach().clone() for n, p in student.model.named_parameters() if not p.requires_grad}
    before = scores(student, ten)
    np.testing.assert_allclose(scores(make(name, lora=lora, **FP32), ten), before, atol=0.1)  # as precise as bfloat16
    fitted(student, ten, epochs=10)
    after = scores(student, ten)
    assert not np.allclose(before, after, atol=1e-2)
    assert all(torch.equal(p, frozen[n]) for n, p in student.model.named_parameters() if n in frozen)
    again = student.save(tmp_path / "adapter")
    again.precision = "fp32"
    assert {n: p.dtype for n, p in again.model.named_parameters() if n in below} == {n: below[n].dtype for n in below}
    np.testing.assert_array_equal(scores(again, ten), after)
    whole = student.save(tmp_path / "whole", merge=True)  # in float32: nothing is rounded
    whole.precision = "fp32"
    assert {p.dtype for p in whole.model.parameters()} == {torch.float32}
    near = {"atol": 0.05 * np.ptp(after)}  # activations of eight bits, layer upon layer
    np.testing.assert_allclose(scores(whole, ten), after, **near)
    assert "base_dtype" not in json.loads((tmp_path / "whole" / "pt_meta.json").read_text())
    wide = make(tmp_path / "adapter", base_dtype="fp32", **FP32)  # says more than what it was saved with
    assert {p.dtype for p in wide.model.parameters()} == {torch.float32}
    np.testing.assert_allclose(scores(wide, ten), after, **near)
    # a base that was rounded, and one that was not: weights alone differ
    np.testing.assert_allclose(scores(wide, ten), scores(whole, ten), atol=0.01 * np.ptp(after))
    assert not np.array_equal(scores(wide, ten), after)
    wide.save(tmp_path / "wide")
    again = make(tmp_path / "wide", **FP32)
    assert {p.dtype for p in again.model.parameters()} == {torch.float32}
    np.testing.assert_allclose(scores(again, ten), scores(wide, ten), atol=1e-5)


def test_attention_is_chosen(tiny_llm, ten):
    one = ptd.CrossEncoder(tiny_llm, attn_implementation="eager", **FP32)
    two = ptd.CrossEncoder(tiny_llm, attn_implementation="sdpa", **FP32)
    np.testing.assert_allclose(scores(one, ten), scores(two, ten), atol=1e-5)
    assert one.model[0].auto_model.config._attn_implementation == "eager"
    causal = ptd.CausalReranker(tiny_llm, attn_implementation="eager", **FP32)
    np.testing.assert_allclose(scores(causal, ten), scores(ptd.CausalReranker(tiny_llm, **FP32), ten), atol=1e-5)
    assert causal.model.config._attn_implementation == "eager"
    with pytest.raises(ValueError, match="attn_implementation"):
        ptd.CrossEncoder(tiny_llm, attn_implementation="quick", **FP32)(ten)


def test_students_made_without_the_newer_arguments_are_who_they_were(tiny_llm):
    student = ptd.CrossEncoder(tiny_llm, **FP32)
    told = identity(student)
    assert not {"prompt", "append_eos", "query_length", "base_dtype"} & set(told)
    assert "append_eos" not in repr(student)
    other = ptd.CrossEncoder(tiny_llm, append_eos=True, **FP32)
    assert identity(other) != told and "append_eos=True" in repr(other) and other != student
    assert copy.deepcopy(other) == other


def test_mistakes(tiny, tiny_llm, ten, tmp_path):
    for settings in ({"prompt": "{query}: {document}"}, {"append_eos": True}):
        with pytest.raises(ValueError, match="are for decoders"):
            ptd.CrossEncoder(tiny, **settings, **FP32)(ten)
    with pytest.raises(ValueError, match="lacks the placeholder {document}"):
        ptd.CrossEncoder(tiny_llm, prompt="{query}")
    with pytest.raises(ValueError, match="append_eos must be one of False, True, not 'no'"):
        ptd.CrossEncoder(tiny_llm, append_eos="no")
    with pytest.raises(ValueError, match="base_dtype must be None, .fp32. or .bf16."):
        ptd.CrossEncoder(tiny_llm, lora={}, base_dtype="int8")
    for kind in (ptd.CrossEncoder, ptd.CausalReranker):
        with pytest.raises(ValueError, match="below an adapter.*add lora="):
            kind(tiny_llm, base_dtype="bf16")
    only = decoder(tiny_llm, tmp_path / "only", pad_token="<|end|>")
    text = (tmp_path / "only" / "tokenizer.json").read_text()
    told = json.loads(text)
    told["added_tokens"] = [token for token in told["added_tokens"] if token["content"] == "<|end|>"]
    (tmp_path / "only" / "tokenizer.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match="no special token besides '<|end|>'"):
        ptd.CrossEncoder(only, append_eos=True, **FP32)(ten)
    endless = decoder(tiny_llm, tmp_path / "endless", eos_token=None)
    with pytest.raises(ValueError, match="has no end of text"):
        ptd.CrossEncoder(endless, append_eos=True, **FP32)(ten)


def test_architectures_of_which_no_cross_encoder_can_be_made_are_named(tiny_llm, ten, tmp_path):
    from transformers import TrOCRConfig, TrOCRForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tiny_llm)
    config = TrOCRConfig(vocab_size=len(tokenizer), d_model=16, decoder_layers=1, decoder_attention_heads=2,
                         decoder_ffn_dim=16, max_position_embeddings=64)  # fmt: skip
    TrOCRForCausalLM(config).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    with pytest.raises(ValueError, match="TrOCRForCausalLM"):
        ptd.CrossEncoder(tmp_path / "m", **FP32)(pd.DataFrame(ten))
