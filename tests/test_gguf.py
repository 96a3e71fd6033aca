"""GGUF files where a model's name is taken: a tiny one that the gguf package writes, and a real one."""

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
import torch

import pyterrier_distill as ptd
from pyterrier_distill.identity.identity import identity

gguf = pytest.importorskip("gguf")
FP32 = {"precision": "fp32", "device": "cpu"}


def written(path, checkpoint, architecture="llama"):
    """A Llama checkpoint as a GGUF file, as llama.cpp's converter writes one: queries and keys turned, F32."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    config, writer = model.config, gguf.GGUFWriter(str(path), architecture)
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    inside = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(inside["vocab"], key=inside["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if n < 4 else 1 for n in range(len(tokens))])
    writer.add_token_merges([" ".join(pair) for pair in inside["merges"]])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(0)
    writer.add_pad_token_id(3)
    writer.add_add_bos_token(False)
    writer.add_chat_template(tokenizer.chat_template)
    names = {
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "post_attention_layernorm": "ffn_norm", "input_layernorm": "attn_norm",
        "model.layers": "blk",
    }  # fmt: skip
    for name, tensor in model.state_dict().items():
        value, heads = tensor.numpy(), config.num_attention_heads
        if "q_proj" in name or "k_proj" in name:
            value = value.reshape(heads, 2, -1, value.shape[1]).swapaxes(1, 2).reshape(value.shape)
        for long, short in names.items():
            name = name.replace(long, short)
        writer.add_tensor(name, np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


@pytest.fixture(scope="session")
def tiny_gguf(tiny_llm, tmp_path_factory):
    """The random Llama of the other tests."""
    return written(tmp_path_factory.mktemp("gguf") / "tiny.gguf", tiny_llm)


TEACHERS = {
    "yes or no": lambda m: ptd.PointwiseTeacher(m, **FP32),
    "query likelihood": lambda m: ptd.PointwiseTeacher(m, kind="query_likelihood", **FP32),
    "pairs": lambda m: ptd.PairwiseTeacher(m, n_pairs=3, **FP32),
    "backend": lambda m: ptd.PointwiseTeacher(ptd.HF(m, **FP32)),
    "sets": lambda m: ptd.SetwiseTeacher(m, k=2, set_size=3, **FP32),
    "orders": lambda m: ptd.ListwiseLLMTeacher(m, constrained=True, **FP32),
}


@pytest.mark.parametrize("kind", TEACHERS)
def test_a_teacher_answers_as_from_the_ordinary_checkpoint(kind, tiny_llm, tiny_gguf, results):
    expected, out = (TEACHERS[kind](model)(results) for model in (tiny_llm, tiny_gguf))
    np.testing.assert_allclose(out["score"], expected["score"], atol=1e-5)
    label = next(column for column in ("teacher_score", "teacher_prefs", "teacher_rank") if column in expected)
    if label != "teacher_prefs":
        np.testing.assert_allclose(out[label], expected[label], atol=1e-5)


def test_queries_are_written_from_it(tiny_llm, tiny_gguf, documents):
    made = [ptd.SyntheticQueryGen(model, "gbq", max_new_tokens=6, **FP32) for model in (tiny_llm, tiny_gguf)]
    one, other = (generator(documents.head(3)) for generator in made)
    pd.testing.assert_frame_equal(one, other, atol=1e-5)


def test_it_is_known_by_its_content(tiny_gguf, tmp_path):
    copied = shutil.copy(tiny_gguf, tmp_path / "other-name.gguf")
    unnamed = shutil.copy(tiny_gguf, tmp_path / "sha256-0123")  # as Ollama keeps them
    told = [identity(ptd.PointwiseTeacher(name)) for name in (tiny_gguf, copied, unnamed)]
    assert told[0] == told[1] == told[2] and tiny_gguf not in str(told[0])
    with open(copied, "r+b") as file:
        file.seek(-4, 2)
        file.write(b"abcd")
    assert identity(ptd.PointwiseTeacher(copied)) != told[0]


def test_an_unpacked_one_is_an_ordinary_checkpoint(tiny_llm, tiny_gguf, results, qrels, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = ptd.unpack_gguf(tiny_gguf, tmp_path / "plain")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    original = AutoModelForCausalLM.from_pretrained(tiny_llm)
    text = "red dog Query: house"
    assert tokenizer(text).input_ids == AutoTokenizer.from_pretrained(tiny_llm)(text).input_ids
    ids = tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, original(ids).logits, atol=1e-5, rtol=0)
    with pytest.raises(FileExistsError, match="exists already"):
        ptd.unpack_gguf(tiny_gguf, path)
    half = ptd.unpack_gguf(tiny_gguf, path, precision="bf16", overwrite=True)
    assert AutoModelForCausalLM.from_pretrained(half).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="precision must be one of"):
        ptd.unpack_gguf(tiny_gguf, tmp_path / "new", precision="q4")


STUDENTS = [ptd.BiEncoder, ptd.CrossEncoder, ptd.MonoT5, ptd.LateInteraction, ptd.USTAD]


@pytest.mark.parametrize("student", STUDENTS, ids=lambda s: s.__name__)
def test_a_student_says_how_to_unpack_it(student, tiny_gguf):
    with pytest.raises(ValueError, match="ptd.unpack_gguf") as caught:
        student(tiny_gguf)
    assert "\n" not in str(caught.value)


def problem(make, results, kind=ValueError):
    """What is said, in one line, of a file that cannot be read."""
    with pytest.raises(kind) as caught:
        make()(results)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("model", [ptd.PointwiseTeacher, ptd.PairwiseTeacher, ptd.ListwiseLLMTeacher])
def test_what_is_wrong_is_said_in_one_line(model, tiny_llm, tiny_gguf, results, tmp_path, monkeypatch):
    content = Path(tiny_gguf).read_bytes()
    for size, message in ((len(content) // 2, f"it has {len(content) // 2} of"), (2000, "its header ends too soon")):
        (tmp_path / "cut.gguf").write_bytes(content[:size])
        assert message in problem(lambda: model(str(tmp_path / "cut.gguf"), **FP32), results)
    (tmp_path / "text.gguf").write_text("no model")
    assert "no GGUF file, or damaged" in problem(lambda: model(str(tmp_path / "text.gguf")), results)
    assert "no GGUF file at" in problem(lambda: model(str(tmp_path / "absent.gguf")), results, FileNotFoundError)
    assert "no GGUF file at" in problem(lambda: model("absent.gguf"), results, FileNotFoundError)
    (tmp_path / "new.gguf").write_bytes(content[:4] + struct.pack("<I", 9) + content[8:])
    assert "of version 9" in problem(lambda: model(str(tmp_path / "new.gguf")), results)
    other = written(tmp_path / "other.gguf", tiny_llm, "rwkv9")
    said = problem(lambda: model(other, **FP32), results)
    assert "architecture 'rwkv9'" in said and "ordinary checkpoint" in said
    monkeypatch.setattr("pyterrier_distill.engine.gguf.find_spec", lambda name: None)
    said = problem(lambda: model(tiny_gguf, **FP32), results, ModuleNotFoundError)
    assert 'pip install "pyterrier-distill[gguf]"' in said


def test_a_pipeline_is_drawn_without_reading_it(tiny_gguf, monkeypatch):
    monkeypatch.setattr("pyterrier_distill.engine.gguf.check", None)
    drawn = str(pt.schematic.draw(ptd.PointwiseTeacher(tiny_gguf) >> ptd.PairwiseTeacher(tiny_gguf)))
    assert "PointwiseTeacher" in drawn and "PairwiseTeacher" in drawn


@pytest.mark.slow
def test_packed_weights_are_unpacked_exactly(smollm2, smollm2_gguf, tmp_path):
    from transformers import AutoModelForCausalLM

    path = ptd.unpack_gguf(smollm2_gguf, tmp_path / "smollm2")
    ids = smollm2.tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(path)(ids).logits
        torch.testing.assert_close(smollm2.model(ids).logits, expected, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_a_real_one_speaks(smollm2):
    chat = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    assert "Paris" in smollm2.generate([chat], max_new_tokens=12)[0]
    assert smollm2.context == 512 and smollm2.tokenizer.chat_template


def test_what_a_real_small_model_cannot_do_is_told(smollm2, caplog):
    """Asked A or B, SmolLM2-135M says A whatever stands there: shown in both orders, no answer is kept."""
    facts = ["Paris is in France.", "Cats eat mice.", "The sky is blue.", "Rome is in Italy.", "Tea is drunk hot."]
    frame = pd.DataFrame({"qid": "q", "query": "where is paris", "docno": list("abcde"), "text": facts})
    teacher = ptd.PairwiseTeacher(smollm2, both_orders=True)
    teacher(frame.assign(score=0.0, rank=range(5)))
    assert teacher.inconsistency == 1.0
    (record,) = [record for record in caplog.records if "pyterrier_distill" in record.name]
    assert "all 20 answers prefer the document that is shown first" in record.getMessage()
