"""Beginnings that inputs share are read once, and change no score."""

import numpy as np
import pytest
import torch

import pyterrier_distill as ptd
from pyterrier_distill.backends.completions import Sampling
from pyterrier_distill.engine import batching, prefixes
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


def generating(model, monkeypatch):
    """Shapes of what the model reads while it writes; forward is called by keyword."""
    shapes, real = [], model.forward

    def forward(*args, **settings):
        shapes.append(tuple(settings["input_ids"].shape))
        return real(*args, **settings)

    forward.__signature__ = __import__("inspect").signature(real)
    monkeypatch.setattr(model, "forward", forward)
    return shapes


def same(found, expected):
    """Completions are equal in text and, to 1e-4, in log-probabilities."""
    assert [one.text for one in found] == [one.text for one in expected]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)


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


# -- answers that are written -----------------------------------------------------------------------------------------

ARCHITECTURES = ["llama", "gpt2", "neox", "qwen3", "qwen3, window", "mamba", "recurrent_gemma", "rwkv"]
SHARING = ("llama", "gpt2", "neox", "qwen3")
ODD = {
    "a single one": asked()[:1],
    "equal ones": [asked()[0]] * 5,
    "one that begins another": [EXAMPLES, EXAMPLES + "Query: red dog", EXAMPLES + "Query: red dog Document: a"],
    "nothing in common": ["red dog " * 20, "a bird in the house " * 9, "[1] tree " * 15],
    "two families": [f"{head} {n}" for head in ("red dog " * 40, "the blue bird " * 40) for n in range(4)],
}


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("batch_size", [None, 3])
def test_answers_are_those_to_prompts_read_whole(name, batch_size, architectures, monkeypatch):
    backend = ptd.HF(architectures[name], batch_size=batch_size, **FP32)
    settings = {"max_new_tokens": 6}
    drawn = {"sampling": Sampling(1.0), "seeds": range(16)}
    read = counting(backend.model, monkeypatch)
    likeliest = backend.complete(asked(), **settings)
    some, texts = backend.complete(asked(), **settings, **drawn), backend.generate(asked(), **settings)
    shared, usage = sum(read), backend.usage.prompt_tokens
    monkeypatch.setattr(prefixes, "_shares", lambda model: False)
    read.clear()
    same(likeliest, backend.complete(asked(), **settings))
    same(some, backend.complete(asked(), **settings, **drawn))
    assert texts == backend.generate(asked(), **settings)
    assert len(set(texts)) > 1
    assert backend.usage.prompt_tokens == 2 * usage  # what was asked, however it was read
    if name in SHARING:
        assert shared < 0.6 * sum(read)
    elif name in ("recurrent_gemma", "rwkv"):  # nothing of padding is in an answer
        same(likeliest[:4], [backend.complete([prompt], **settings)[0] for prompt in asked()[:4]])


@pytest.mark.parametrize("prompts", ODD.values(), ids=ODD)
@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3, window"])
def test_prompts_of_any_kind_are_answered_as_if_alone(prompts, name, architectures):
    backend = ptd.HF(architectures[name], **FP32)
    seeds = range(len(prompts))
    for sampling in (None, Sampling(1.0)):
        alone = [
            backend.complete([prompt], max_new_tokens=5, sampling=sampling, seeds=[seed])[0]
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        same(backend.complete(prompts, max_new_tokens=5, sampling=sampling, seeds=seeds), alone)
    np.testing.assert_allclose(
        backend.option_logits(prompts, ["yes", "no"]),
        np.concatenate([backend.option_logits([prompt], ["yes", "no"]) for prompt in prompts]),
        atol=1e-5,
    )


def test_prompts_of_which_several_answers_are_drawn_are_read_once(tiny_llm, monkeypatch):
    backend = ptd.HF(tiny_llm, **FP32)
    prompts = ["red dog of the green house " * 8, "blue bird in a tree " * 9]
    shapes = generating(backend.model, monkeypatch)
    drawn = {"sampling": Sampling(1.0), "seeds": range(12)}
    backend.complete([p for p in prompts for _ in range(6)], max_new_tokens=4, **drawn)
    assert sum(rows * width for rows, width in shapes if width > 1) <= 2 * max(backend.prompt_sizes(prompts))
    assert {rows for rows, width in shapes if width == 1} == {12}


def test_beginnings_of_several_groups_are_read_together(tiny_llm, monkeypatch):
    backend = ptd.HF(tiny_llm, **FP32)
    heads = [f"red dog {n} of the green house by the tree " * (5 + n % 3) for n in range(6)]
    prompts = [f"{EXAMPLES}{head} passage {n}" for head in heads for n in range(5)]
    shapes = generating(backend.model, monkeypatch)
    backend.option_logits(prompts, ["yes", "no"])
    assert [rows for rows, _ in shapes] == [1, 6, 30]  # what all share, what five each share, the rest
    shapes.clear()
    backend.generate(prompts, max_new_tokens=5)
    assert [rows for rows, _ in shapes] == [1, 6, *[30] * 5]


def test_constrained_orders_share_their_beginning(tiny_llm, monkeypatch):
    backend = ptd.HF(tiny_llm, **FP32)
    prompts, numbers = [EXAMPLES + f"[{n}] > [2] house" for n in range(6)], [3, 5, 12, 2, 4, 3]
    shapes = generating(backend.model, monkeypatch)
    together = backend.generate(prompts, max_new_tokens=4, permutations=numbers)
    assert shapes[0][0] == 1  # the beginning; and then a call for each token of the longest answer, for all at once
    assert all(rows == 6 for rows, _ in shapes[1:]) and len(shapes) < 2 + len(together[2])
    alone = [backend.generate([p], max_new_tokens=4, permutations=[n])[0] for p, n in zip(prompts, numbers)]
    assert together == alone


def test_a_beginning_is_held_once_and_counts_in_a_batch(tiny_llm, monkeypatch):
    backend = ptd.HF(tiny_llm, **FP32)
    prompts = [EXAMPLES * 2 + f"red dog {n}" for n in range(100, 140)]
    sizes = backend.prompt_sizes(prompts)
    beginning = prefixes.common(*backend.encode([prompts[0], prompts[-1]])["input_ids"])
    monkeypatch.setitem(batching.TOKEN_BUDGET, "cpu", sizes[0])  # a cache of four prompts
    shapes, held, real = generating(backend.model, monkeypatch), [], prefixes.before_answers

    def before_answers(model, features, beginning):
        cache = real(model, features, beginning)
        held.append(cache)
        return cache

    monkeypatch.setattr(prefixes, "before_answers", before_answers)
    backend.generate(prompts, max_new_tokens=10)
    rows = max(rows for rows, _ in shapes)
    own = max(sizes) - beginning + 10
    assert 4 < rows and beginning + rows * own <= 4 * sizes[0]
    assert rows * max(sizes) <= batching.TOGETHER * 4 * sizes[0]
    layers = [layer for cache in held for layer in cache.layers]
    assert {len(keys) for layer in layers for keys, _ in layer.beginnings} == {1}
    assert len({layer.beginnings[0][0].data_ptr() for layer in layers[::2]}) == 1  # of all batches, too
    assert max(layer.keys.shape[2] for layer in layers) <= own


def test_batches_with_a_long_beginning_are_bounded():
    assert batching.size(100, 2048) == 20
    assert batching.size(500, 2048, 400) == 16  # 400 + 16 · 100
    assert batching.size(5050, 2048, 5000) == 3  # 3 · 5050 stand before one layer's attention
    assert batching.size(9000, 2048, 0) == 1 and batching.size(30_000, 2048, 29_990) == 1


def test_precision_of_what_is_held_is_that_of_attention(tiny_llm):
    half = ptd.HF(tiny_llm, precision="bf16", device="cpu")
    whole = half.option_logits(asked()[:1], ["yes", "no"])
    together = half.option_logits(asked(), ["yes", "no"])
    np.testing.assert_allclose(together[:1], whole, atol=0.1)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_positions_that_depend_on_what_follows_share_nothing(kind):
    from transformers import LlamaConfig, LlamaForCausalLM

    extra = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "original_max_position_embeddings": 64}
    rope = {"rope_type": kind, "factor": 2.0, "rope_theta": 10_000.0, **(extra if kind == "longrope" else {})}
    sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    make = lambda **more: LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, **more))  # noqa: E731
    assert prefixes._shares(make()) and not prefixes._shares(make(rope_parameters=rope))


def test_a_model_that_fails_in_a_later_part_loses_nothing(tiny_llm, monkeypatch):
    from pyterrier_distill.backends.base import BackendError

    backend = ptd.HF(tiny_llm, batch_size=4, **FP32)
    expected = backend.generate(asked(), max_new_tokens=3)
    real, calls = backend.model.generate, []

    def failing(*args, **settings):
        calls.append(1)
        if len(calls) > 2:
            raise RuntimeError("broken")
        return real(*args, **settings)

    monkeypatch.setattr(backend.model, "generate", failing)
    with pytest.raises(BackendError) as failure:
        backend.generate(asked(), max_new_tokens=3)
    kept = failure.value.answers
    assert sum(one is not None for one in kept) == 8 and kept[failure.value.failed] is None
    assert all(one in (None, other) for one, other in zip(kept, expected, strict=True))


def test_a_real_model_writes_and_judges_the_same(smollm2, monkeypatch):
    head = "".join(f"Document: {d}\nQuery: {q}\n" for d, q in (
        ("The Eiffel Tower was built in Paris in 1889.", "when was the eiffel tower built"),
        ("Honey bees make honey from the nectar of flowers.", "how do bees make honey"),
    ))  # fmt: skip
    texts = ["Lisbon is the capital of Portugal.", "Water boils at 100 degrees at sea level, and on mountains at less."]
    prompts = [f"{head}Document: {text}\nQuery:" for text in texts]
    written, likely = smollm2.complete(prompts, max_new_tokens=8), smollm2.likelihoods(prompts, ["capital"] * 2)
    monkeypatch.setattr(prefixes, "_shares", lambda model: False)
    same(written, smollm2.complete(prompts, max_new_tokens=8))
    np.testing.assert_allclose(likely, smollm2.likelihoods(prompts, ["capital"] * 2), atol=1e-5)
