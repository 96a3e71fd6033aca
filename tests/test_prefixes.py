"""Beginnings that inputs share are read once, and change no score."""

import numpy as np
import pytest
import torch

import pyterrier_distill as ptd
from pyterrier_distill.engine import prefixes
from pyterrier_distill.engine.prefixes import Group, groups

FP32 = {"precision": "fp32", "device": "cpu"}
EXAMPLES = "Query: red dog Document: the dog is red Relevant: yes\n" * 4


def test_groups_are_those_that_save_most():
    same, other = list(range(100)), list(range(200, 260))
    inputs = [[*same, 1], [*other, 5], [*same, 2, 3], [9], [*other, 6], [*same, 4]]
    found = groups(inputs, [1] * 6, call=32)
    assert found[0] == Group(0, [3])
    assert sorted((g.shared, sorted(g.rows)) for g in found[1:]) == [(60, [1, 4]), (100, [0, 2, 4 + 1])]
    # A call more takes as long as 200 tokens: two inputs are not worth it, three that share 100 tokens neither.
    assert groups(inputs, [1] * 6, call=200) == [Group(0, list(range(6)))]


def test_a_group_that_shares_more_within_is_taken_apart_only_where_that_saves_more():
    head = list(range(50))
    inputs = [[*head, *range(100 * n, 100 * n + 40), k] for n in (1, 2) for k in range(10)]
    assert [(g.shared, len(g.rows)) for g in groups(inputs, [1] * 20, call=8)] == [(90, 10), (90, 10)]
    inputs = [[*head, n, n + 1, k] for n in (100, 200) for k in range(3)]
    assert [(g.shared, len(g.rows)) for g in groups(inputs, [1] * 6, call=30)] == [(50, 6)]


def test_what_must_be_read_by_itself_is_not_shared():
    inputs = [list(range(60))] * 3
    assert [(g.shared, len(g.rows)) for g in groups(inputs, [1, 20, 5], call=8)] == [(40, 3)]


def counting(model, monkeypatch):
    """How many tokens the model reads, padding included."""
    read = []
    real = model.forward

    def forward(*args, **settings):
        read.append(settings["input_ids"].numel())
        return real(*args, **settings)

    forward.__signature__ = __import__("inspect").signature(real)
    monkeypatch.setattr(model, "forward", forward)
    return read


def asked():
    rng = np.random.default_rng(0)
    words = "red green blue dog cat bird house tree passage".split()
    texts = [" ".join(rng.choice(words, size=n)) for n in rng.integers(1, 25, size=16)]
    queries = ["red dog of the green house by the tree", "blue bird"]
    return [f"{EXAMPLES}Query: {queries[n % 2]} Document: {text} Relevant:" for n, text in enumerate(texts)]


@pytest.fixture(scope="module")
def architectures(tiny_llm, tmp_path_factory):
    """Random decoders of several architectures, with one tokenizer."""
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        GPT2Config,
        GPTNeoXConfig,
        MambaConfig,
        Qwen3Config,
        RecurrentGemmaConfig,
        RwkvConfig,
    )

    tokenizer = AutoTokenizer.from_pretrained(tiny_llm)
    shared = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2, "initializer_range": 0.3}
    heads = {"num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 2048}
    ends = {"eos_token_id": 0, "bos_token_id": 0, "pad_token_id": 3}
    window = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 0}
    configs = {
        "gpt2": GPT2Config(
            vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=2048, initializer_range=0.3, **ends
        ),
        "neox": GPTNeoXConfig(**shared, **heads, **ends),
        "qwen3": Qwen3Config(**shared, **heads, **ends, num_key_value_heads=2, head_dim=8),
        "qwen3, window": Qwen3Config(**shared, **heads, **ends, num_key_value_heads=2, head_dim=8, **window),
        "mamba": MambaConfig(**shared, **ends, state_size=4),
        "recurrent_gemma": RecurrentGemmaConfig(
            **{**shared, "num_hidden_layers": 3}, **ends, intermediate_size=64, num_attention_heads=4, lru_width=32,
            attention_window_size=8,
        ),
        "rwkv": RwkvConfig(**shared, **ends),
    }
    paths = {"llama": tiny_llm}
    for name, config in configs.items():
        path = tmp_path_factory.mktemp("decoder")
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(path)
        tokenizer.save_pretrained(path)
        paths[name] = str(path)
    return paths


@pytest.mark.parametrize(
    "name", ["llama", "gpt2", "neox", "qwen3", "qwen3, window", "mamba", "recurrent_gemma", "rwkv"]
)
@pytest.mark.parametrize("batch_size", [None, 3])
def test_scores_are_those_of_reading_each_input_whole(name, batch_size, architectures, monkeypatch):
    backend = ptd.HF(architectures[name], batch_size=batch_size, **FP32)
    answers = [" ".join(["red", "dog", "tree", "bird", "house"][: 1 + n % 5]) for n in range(16)]
    read = counting(backend.model, monkeypatch)
    logits, likely = backend.option_logits(asked(), ["yes", "no"]), backend.likelihoods(asked(), answers)
    shared = sum(read)
    monkeypatch.setattr(prefixes, "_shares", lambda model: False)
    read.clear()
    np.testing.assert_allclose(logits, backend.option_logits(asked(), ["yes", "no"]), atol=1e-5)
    np.testing.assert_allclose(likely, backend.likelihoods(asked(), answers), atol=1e-5)
    assert logits.std() > 1e-3 and likely.std() > 1e-3
    if name in ("llama", "gpt2", "neox", "qwen3"):
        assert shared < 0.5 * sum(read)


@pytest.mark.parametrize("name", ["mamba", "recurrent_gemma", "rwkv"])
def test_a_state_holds_nothing_of_padding_or_of_what_was_read_before(name, architectures):
    backend = ptd.HF(architectures[name], **FP32)
    prompts, answers = asked()[:6], ["red", "dog tree", "bird", "house", "red dog", "dog"]
    logits, likely = backend.option_logits(prompts, ["yes", "no"]), backend.likelihoods(prompts, answers)
    for n, (prompt, answer) in enumerate(zip(prompts, answers)):
        np.testing.assert_allclose(backend.option_logits([prompt], ["yes", "no"])[0], logits[n], atol=1e-5)
        np.testing.assert_allclose(backend.likelihoods([prompt], [answer])[0], likely[n], atol=1e-5)


def test_passages_that_share_a_query_share_its_reading(tiny_llm, monkeypatch):
    backend = ptd.HF(tiny_llm, **FP32)
    read = counting(backend.model, monkeypatch)
    query = "red dog of the green house by the tree passage and the blue bird of the house by the tree"
    texts = ["dog", "a cat", "the bird sings", "house", "tree tree tree", "red", "green", "blue"]
    prompts = [f"Query: {query} Document: {text} Relevant:" for text in texts]
    shared = backend.option_logits(prompts, ["yes", "no"])
    tokens = sum(read)
    usage = backend.usage.prompt_tokens
    assert usage == sum(backend.prompt_sizes(prompts))  # what was asked, however it was read
    assert tokens < 0.6 * usage
    for prompt, row in zip(prompts, shared):
        np.testing.assert_allclose(backend.option_logits([prompt], ["yes", "no"])[0], row, atol=1e-5)


def test_a_batch_that_does_not_fit_is_halved_with_its_beginning(tiny_llm, monkeypatch):
    backend = ptd.HF(tiny_llm, **FP32)
    expected = backend.option_logits(asked(), ["yes", "no"])
    real = backend.model.forward

    def forward(*args, **settings):
        if len(settings["input_ids"]) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return real(*args, **settings)

    forward.__signature__ = __import__("inspect").signature(real)
    monkeypatch.setattr(backend.model, "forward", forward)
    np.testing.assert_allclose(backend.option_logits(asked(), ["yes", "no"]), expected, atol=1e-5)
