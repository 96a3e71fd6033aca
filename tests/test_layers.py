"""Layers cut out of a model are the same after saving, or are not cut out."""

import numpy as np
import pytest
import torch
import transformers
from test_fitting import PAIRS, SMALL, SPECIAL, WORDS, written

import pyterrier_distill as ptd
from pyterrier_distill.engine.checkpoints import cut_layers

FP32 = {"precision": "fp32", "device": "cpu"}
SIX = {**SMALL, "num_hidden_layers": 6, "vocab_size": len(WORDS)}
DECODER = {"num_key_value_heads": 1, "head_dim": 16}
T5 = {"vocab_size": len(WORDS), "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 6, "num_heads": 4}
MODELS = {
    "bert": ("Bert", SIX, ""),
    "mpnet": ("MPNet", SIX, ""),
    "modernbert": ("ModernBert", {**SIX, **SPECIAL, "local_attention": 4}, "attn_norm is Identity, not LayerNorm"),
    "t5": ("T5Encoder", T5, "relative_attention_bias is Embedding, not nothing"),
    "gemma3": ("Gemma3Text", {**SIX, **DECODER, "sliding_window": 4, "_sliding_window_pattern": 2}, ""),
    "qwen2": ("Qwen2", {**SIX, **DECODER, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 3}, ""),
    "gpt2": (
        "GPT2",
        {"vocab_size": len(WORDS), "n_embd": 32, "n_layer": 6, "n_head": 2, "scale_attn_by_inverse_layer_idx": True},
        "scaling=",
    ),
    "mixture": (
        "Qwen3Moe",
        {
            **SIX,
            **DECODER,
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "moe_intermediate_size": 8,
            "mlp_only_layers": [0],
        },
        "mlp is Qwen3MoeMLP, not Qwen3MoeSparseMoeBlock",
    ),
}


def model_of(name: str, settings: dict):
    config = {"T5Encoder": "T5"}.get(name, name) + "Config"
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}Model")(getattr(transformers, config)(**settings)).eval()
    for parameter in model.parameters():  # norms are not all one, as in any trained checkpoint
        parameter.data = parameter.data * 2 + torch.rand_like(parameter) * 0.2
    return model


def states(model):
    ids = torch.arange(40).reshape(2, 20) % 50 + 5
    with torch.no_grad():
        cache = {} if model.config.model_type in ("bert", "mpnet", "modernbert", "t5") else {"use_cache": False}
        return model(input_ids=ids, attention_mask=torch.ones_like(ids), **cache)[0].numpy()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("layers", [[0, 3], [0, 1, 2], [1, 4], 2])
def test_a_cut_model_is_the_same_after_saving_or_refused(name, layers, tmp_path):
    architecture, settings, why = MODELS[name]
    model = model_of(architecture, settings)
    try:
        cut_layers(model, layers)
    except ValueError as refused:
        assert why and why in str(refused) and "Saved and loaded" in str(refused)
        assert model.config.num_hidden_layers == 6  # it is as it was
        return
    before = states(model)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert again.config.num_hidden_layers == (2 if layers == 2 else len(layers))
    np.testing.assert_allclose(before, states(again), atol=1e-5)
    assert why == "" or layers != [1, 4]


def test_layers_kept_are_those_of_the_whole_model():
    """Local attention stays local: the cut layers give what the same layers of the whole model give, one by one."""
    whole, cut = (model_of("Gemma3Text", MODELS["gemma3"][1]) for _ in range(2))
    cut_layers(cut, [1, 4])
    del whole.layers[5], whole.layers[2:4], whole.layers[0]
    whole.config.layer_types = [whole.config.layer_types[layer] for layer in (1, 4)]
    whole.config.num_hidden_layers = 2
    np.testing.assert_allclose(states(cut), states(whole), atol=1e-5)


@pytest.mark.parametrize("make", [ptd.BiEncoder, ptd.BiEncoder.truncated, ptd.LateInteraction, ptd.USTAD])
def test_every_student_refuses_when_built_and_keeps_what_it_can(make, tmp_path):
    path = written(tmp_path / "modern", model_of("ModernBert", MODELS["modernbert"][1]), model_max_length=64)
    with pytest.raises(ValueError, match="layer 1 of ModernBertModel would stand as layer 0, where layers.0.attn_norm"):
        make(path, layers=[1, 4], **FP32)
    student = make(path, layers=[0, 4], **FP32)
    np.testing.assert_allclose(student(PAIRS)["score"], student.save(tmp_path / "cut")(PAIRS)["score"], atol=1e-5)


def test_a_cross_encoder_too(tmp_path):
    torch.manual_seed(0)
    config = transformers.ModernBertConfig(**MODELS["modernbert"][1], num_labels=1)
    path = written(tmp_path / "m", transformers.ModernBertForSequenceClassification(config), model_max_length=64)
    with pytest.raises(ValueError, match="attn_norm"):
        ptd.CrossEncoder(path, layers=[1, 4], **FP32)
    student = ptd.CrossEncoder(path, layers=2, **FP32)
    np.testing.assert_allclose(student(PAIRS)["score"], student.save(tmp_path / "cut")(PAIRS)["score"], atol=1e-5)


def test_layers_that_are_not_there_are_refused_when_built(tiny):
    for source in (tiny, ptd.BiEncoder(tiny, **FP32), ptd.BiEncoder(ptd.BiEncoder(tiny, **FP32), **FP32)):
        with pytest.raises(ValueError, match="layers=12 is impossible: this model has 4 layers"):
            ptd.BiEncoder.truncated(source, 12)
    with pytest.raises(ValueError, match="this model has 2 layers"):
        ptd.BiEncoder.truncated(ptd.BiEncoder(tiny, layers=[0, 3]), 3)
    for make in (ptd.CrossEncoder, ptd.LateInteraction, ptd.USTAD):
        with pytest.raises(ValueError, match="layers 0 to 3"):
            make(tiny, layers=[4])
