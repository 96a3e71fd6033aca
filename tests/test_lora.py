"""Low-rank adapters: they learn beside a base that does not move, and are what peft says an adapter is."""

import json
import pickle
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
import torch
from pyterrier.measures import nDCG
from safetensors.torch import load_file

import pyterrier_distill as ptd
from pyterrier_distill.training.trainer import Trainer

pytest.importorskip("peft")

FP32 = {"precision": "fp32", "device": "cpu"}
WIDE = {"r": 8, "alpha": 32, "target_modules": "all-linear"}
KINDS = {
    "encoder": (ptd.CrossEncoder, "tiny"),
    "decoder": (ptd.CrossEncoder, "tiny_llm"),
    "t5": (ptd.MonoT5, "tiny_t5"),
    "causal": (ptd.CausalReranker, "tiny_llm"),
}


@pytest.fixture(params=KINDS)
def make(request):
    """A maker of students of one kind, with an adapter."""
    kind, fixture = KINDS[request.param]
    name = request.getfixturevalue(fixture)
    return lambda **settings: kind(name, **{**FP32, "lora": WIDE, **settings})


@pytest.fixture
def decoder(tiny_llm):
    return ptd.CrossEncoder(tiny_llm, lora=WIDE, **FP32)


def fitted(student, frame, **settings):
    defaults = {"precision": "fp32", "verbose": False, "learning_rate": 1e-2, "epochs": 3, "queries_per_batch": 10}
    return ptd.Distiller(student, ptd.RankNet(), **{"dropout": 0.0, **defaults, **settings}).fit(frame)


def scores(student, frame):
    return student(frame)["score"].to_numpy()


def base_weights(student):
    """Every weight that the adapter leaves alone, by the name it has without one."""
    return {
        name.replace("base_layer.", "").replace("original_module.", ""): parameter.detach().clone()
        for name, parameter in student.model.named_parameters()
        if "lora_" not in name and "modules_to_save" not in name
    }


@pytest.mark.slow
def test_overfits_ten_queries_beside_a_base_that_does_not_move(make, ten):
    student, plain = make(), make(lora=None)
    before = {name: parameter.detach().clone() for name, parameter in plain.model.named_parameters()}
    np.testing.assert_allclose(scores(student, ten), scores(plain, ten), atol=1e-6)  # a new adapter says nothing
    fitted(student, ten, epochs=120)
    qrels = ten.assign(label=2 - ten["teacher_rank"])[["qid", "docno", "label"]]
    assert pt.Evaluate(student(ten), qrels, [nDCG @ 10])["nDCG@10"] == pytest.approx(1.0)
    after = base_weights(student)
    assert set(after) == set(before) and all(torch.equal(after[name], before[name]) for name in before)
    moving = [name for name, parameter in student.model.named_parameters() if parameter.requires_grad]
    assert moving and all("lora_" in name or "modules_to_save" in name for name in moving)


def test_saved_adapter_is_found_again_with_equal_scores(make, ten, tmp_path):
    student = make(max_length=48)
    fitted(student, ten)
    long = ten.assign(text=ten["text"] + " river" * 60)
    expected, cut = scores(student, ten), scores(student, long)
    path = tmp_path / "adapter"
    saved = student.save(path)
    config = json.loads((path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == student.name_or_path and config["r"] == 8
    assert (path / "adapter_model.safetensors").stat().st_size < 200_000 and not (path / "model.safetensors").exists()
    for again in (saved, type(student)(path, **FP32), pt.Artifact.load(str(path))):
        again.precision = "fp32"
        assert type(again) is type(student) and again.manifest["loss"] == "RankNet()"
        np.testing.assert_allclose(scores(again, ten), expected, atol=1e-5)
        np.testing.assert_allclose(scores(again, long), cut, atol=1e-5)  # it reads as many tokens as before
        assert again.num_trainable_parameters() == student.num_trainable_parameters()
    assert (tmp_path / "adapter" / "README.md").read_text().count("lora")


def read(tokenizer, query, text):
    """A pair as sentence-transformers reads it: in the model's chat template, where it has one."""
    if tokenizer.chat_template is None:
        return tokenizer(query, text, return_tensors="pt", truncation=True)
    messages = [{"role": "query", "content": query}, {"role": "document", "content": text}]
    shown = tokenizer.apply_chat_template(messages, tokenize=False)
    return tokenizer(shown, return_tensors="pt", add_special_tokens=False)


def test_peft_loads_the_adapter(tiny_llm, tiny, ten, tmp_path):
    from peft import AutoPeftModelForSequenceClassification, PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertForMaskedLM

    headless = str(tmp_path / "headless")  # neither a head nor a pooler: both start at random
    BertForMaskedLM(BertConfig.from_pretrained(tiny)).save_pretrained(headless)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(headless)
    for number, name in enumerate((tiny_llm, tiny, headless)):
        student = ptd.CrossEncoder(name, lora=WIDE, **FP32)
        fitted(student, ten)
        path = tmp_path / str(number)
        student.save(path)
        tokenizer = AutoTokenizer.from_pretrained(path)
        base = AutoModelForSequenceClassification.from_pretrained(name, num_labels=1)
        models = [
            AutoPeftModelForSequenceClassification.from_pretrained(path, num_labels=1),
            PeftModel.from_pretrained(base, str(path)),
        ]
        for model in models:
            model.eval()
            with torch.no_grad():
                told = [
                    float(model(**read(tokenizer, query, text)).logits[0, 0])
                    for query, text in zip(ten["query"], ten["text"])
                ]
            np.testing.assert_allclose(told, scores(student, ten), atol=1e-5)


def test_peft_loads_the_adapter_of_a_t5(tiny_t5, ten, tmp_path):
    from peft import AutoPeftModelForSeq2SeqLM
    from transformers import AutoTokenizer

    student = ptd.MonoT5(tiny_t5, lora=WIDE, **FP32)
    fitted(student, ten)
    student.save(tmp_path / "adapter")
    model = AutoPeftModelForSeq2SeqLM.from_pretrained(tmp_path / "adapter").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "adapter")
    words = [tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("false", "true")]
    for row, score in list(zip(ten.itertuples(), scores(student, ten)))[:5]:
        ids = tokenizer(f"Query: {row.query} Document: {row.text} Relevant:", return_tensors="pt")
        with torch.no_grad():
            logits = model(**ids, decoder_input_ids=torch.tensor([[0]])).logits[0, 0, words]
        assert float(logits.log_softmax(-1)[1]) == pytest.approx(score, abs=1e-5)


def test_merged_it_is_an_ordinary_checkpoint(make, ten, tmp_path):
    student = make()
    fitted(student, ten)
    expected = scores(student, ten)
    merged = student.save(tmp_path / "whole", merge=True)
    assert not list((tmp_path / "whole").glob("adapter*"))
    np.testing.assert_array_equal(scores(student, ten), expected)  # the student itself keeps its adapter
    merged.precision = "fp32"
    np.testing.assert_allclose(scores(merged, ten), expected, atol=1e-5)
    assert merged.num_trainable_parameters() == merged.num_parameters() == make(lora=None).num_parameters()
    student.save(tmp_path / "adapter")
    for name in ("whole", "adapter"):
        teacher = ptd.PointwiseTeacher(str(tmp_path / name), **FP32)
        np.testing.assert_allclose(teacher(ten)["score"], expected, atol=1e-5)
    if isinstance(student, ptd.CrossEncoder):
        from sentence_transformers import CrossEncoder

        model = CrossEncoder(str(tmp_path / "whole"), device="cpu")
        pairs = list(zip(ten["query"], ten["text"]))
        np.testing.assert_allclose(model.predict(pairs, show_progress_bar=False), expected, atol=1e-5)


def _llama(path, tokenizer):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=16_000, hidden_size=256, intermediate_size=704, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=512, eos_token_id=0, bos_token_id=0, pad_token_id=3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(path)
    shutil.copytree(tokenizer, path, ignore=shutil.ignore_patterns("model*", "config.json"), dirs_exist_ok=True)


def _bert(path, tokenizer):
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=30_522, hidden_size=384, intermediate_size=1536, num_hidden_layers=6, num_attention_heads=12
    )
    BertModel(config).save_pretrained(path)
    shutil.copytree(tokenizer, path, ignore=shutil.ignore_patterns("model*", "config.json"), dirs_exist_ok=True)


@pytest.mark.parametrize("build, tokenizer", [(_llama, "tiny_llm"), (_bert, "tiny")])
def test_less_than_two_percent_trains(build, tokenizer, request, tmp_path):
    build(tmp_path / "model", request.getfixturevalue(tokenizer))
    plain = ptd.CrossEncoder(tmp_path / "model", **FP32)
    student = ptd.CrossEncoder(tmp_path / "model", lora=dict(r=16, alpha=32), **FP32)
    assert plain.num_trainable_parameters() == plain.num_parameters()
    assert plain.num_parameters() < student.num_parameters()
    assert 0 < student.num_trainable_parameters() < 0.02 * student.num_parameters()
    moved = sum(parameter.numel() for parameter in student.trainable(ptd.RankNet().needs).parameters() if
                parameter.requires_grad)  # fmt: skip
    assert moved == student.num_trainable_parameters()


def test_checkpoints_hold_what_trains_alone(decoder, ten, tmp_path):
    fitted(decoder, ten, epochs=4, checkpoints=tmp_path / "c", save_every=2)
    files = [*(tmp_path / "c").rglob("model.safetensors"), *(tmp_path / "c").glob("finished.safetensors")]
    assert len(files) >= 2
    trained = {n: p for n, p in decoder.model.named_parameters() if p.requires_grad}
    for file in files:
        held = load_file(file)
        assert {name.removeprefix("trained.model.") for name in held} == set(trained)
    final = load_file(tmp_path / "c" / "finished.safetensors")
    for name, tensor in final.items():
        assert torch.equal(tensor, trained[name.removeprefix("trained.model.")])


def test_an_interrupted_training_goes_on_to_the_same_weights(make, ten, tmp_path, monkeypatch):
    settings = {"epochs": 8, "save_every": 3, "lora": {"dropout": 0.1, **WIDE}, "dropout": None}
    lora = settings.pop("lora")
    undisturbed = make(lora=lora)
    fitted(undisturbed, ten, queries_per_batch=5, **settings)

    stopped = make(lora=lora)
    start = scores(stopped, ten)
    step, done = Trainer.training_step, []

    def failing(self, *args, **kwargs):
        done.append(1)
        if len(done) == 8:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "training_step", failing)
    with pytest.raises(KeyboardInterrupt):
        fitted(stopped, ten, queries_per_batch=5, checkpoints=tmp_path / "c", **settings)
    monkeypatch.undo()
    np.testing.assert_array_equal(scores(stopped, ten), start)  # as it was before
    assert stopped.num_trainable_parameters() < stopped.num_parameters()

    for _ in range(2):  # goes on; then finds that it has finished
        resumed = make(lora=lora)
        fitted(resumed, ten, queries_per_batch=5, checkpoints=tmp_path / "c", **settings)
        for (name, a), (_, b) in zip(undisturbed.model.named_parameters(), resumed.model.named_parameters()):
            assert torch.equal(a, b), name
    assert not np.array_equal(scores(resumed, ten), start)


def test_the_best_adapter_is_the_one_kept(make, ten):
    student = make()
    qrels = ten.assign(label=2 - ten["teacher_rank"])[["qid", "docno", "label"]]
    settings = {"precision": "fp32", "verbose": False, "learning_rate": 1e-2, "steps": 6, "eval_every": 2}
    distiller = ptd.Distiller(student, ptd.RankNet(), metric=nDCG @ 10, **settings).fit(ten, None, ten, qrels)
    measured = [entry["eval_nDCG@10"] for entry in distiller.history if "eval_nDCG@10" in entry]
    measured = measured[1:]  # the first is that of the student before training
    assert len(measured) == 3 and student.manifest["best"] == {"nDCG@10": pytest.approx(max(measured))}
    assert pt.Evaluate(student(ten), qrels, [nDCG @ 10])["nDCG@10"] == pytest.approx(max(measured))


def test_a_loaded_adapter_trains_on(make, ten, tmp_path):
    student = make()
    fitted(student, ten)
    loaded = student.save(tmp_path / "one")
    loaded.precision = "fp32"
    before, start = base_weights(loaded), scores(loaded, ten)
    fitted(loaded, ten)
    after = base_weights(loaded)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not np.allclose(scores(loaded, ten), start, atol=1e-4)
    again = loaded.save(tmp_path / "two")
    again.precision = "fp32"
    np.testing.assert_allclose(scores(again, ten), scores(loaded, ten), atol=1e-5)
    config = json.loads((tmp_path / "two" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == student.name_or_path
    assert again.manifest["earlier"]["loss"] == "RankNet()"


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_no_weight(make, ten, reentrant):
    trained = []
    for args in ({}, {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": reentrant}}):
        student = make()
        first = scores(student, ten)
        fitted(student, ten, epochs=2, args=args)
        trained.append(scores(student, ten))
        assert not np.allclose(first, trained[-1], atol=1e-4)
    np.testing.assert_allclose(trained[0], trained[1], atol=1e-4)


def test_pickled_with_its_weights(make, ten, tmp_path):
    student = make()
    assert pickle.loads(pickle.dumps(student)) == student
    fitted(student, ten)
    again = pickle.loads(pickle.dumps(student))
    pd.testing.assert_frame_equal(again(ten), student(ten))
    fitted(again, ten)
    again.save(tmp_path / "again")
    assert (tmp_path / "again" / "adapter_config.json").exists()
    np.testing.assert_allclose(scores(type(student)(tmp_path / "again", **FP32), ten), scores(again, ten), atol=1e-5)


def test_is_a_value_and_shows_its_adapter(tiny, ten):
    one, two = (ptd.CrossEncoder(tiny, lora={"r": r}, **FP32) for r in (4, 8))
    assert "lora={'r': 4}" in repr(one) and one != two and one == ptd.CrossEncoder(tiny, lora={"r": 4}, **FP32)
    assert pt.inspect.transformer_apply_attributes(one) == one
    assert two.num_trainable_parameters() > one.num_trainable_parameters()
    more = ptd.CrossEncoder(tiny, lora={"r": 4, "use_rslora": True, "modules_to_save": ["word_embeddings"]}, **FP32)
    assert more.num_trainable_parameters() > two.num_trainable_parameters()  # what peft takes besides


def test_mistakes(tiny, tiny_llm, ten, tmp_path, monkeypatch):
    for lora, words in [
        ({"rank": 4}, "rank cannot be set"), ({"lora_alpha": 4}, "lora_alpha cannot be set"), ({"r": 0}, "r must be"),
        ({"alpha": -1}, "alpha must be"), ({"alpha": float("inf")}, "alpha must be None or positive and finite"),
        ({"dropout": 1}, "dropout must be"), ({"task_type": "x"}, "task_type cannot"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=words):
            ptd.CrossEncoder(tiny, lora=lora)
    with pytest.raises(TypeError, match="must be a dict"):
        ptd.CrossEncoder(tiny, lora=16)
    with pytest.raises(ValueError, match="save the cut student"):
        ptd.CrossEncoder(tiny, layers=2, lora={})
    with pytest.raises(ValueError, match="target_modules"):
        ptd.CrossEncoder(tiny, lora={"target_modules": ["nothing"]}, **FP32)(ten)

    base = shutil.copytree(tiny_llm, tmp_path / "base")
    ptd.CrossEncoder(base, lora=WIDE, **FP32).save(tmp_path / "adapter")
    with pytest.raises(ValueError, match="has an adapter already"):
        ptd.CrossEncoder(tmp_path / "adapter", lora={})
    with pytest.raises(ValueError, match="adapter of all layers"):
        ptd.CrossEncoder(tmp_path / "adapter", layers=1, **FP32)(ten)
    monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pyterrier-distill\[lora\]"):
        ptd.CrossEncoder(tiny, lora={})
    with pytest.raises(ModuleNotFoundError, match=r"pyterrier-distill\[lora\]"):
        ptd.CrossEncoder(tmp_path / "adapter", **FP32)(ten)
    monkeypatch.undo()
    shutil.rmtree(base)
    with pytest.raises(FileNotFoundError, match="is an adapter of .*base.* which is not here"):
        ptd.CrossEncoder(tmp_path / "adapter", **FP32)(ten)
    config = Path(tmp_path / "adapter" / "adapter_config.json")
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": tiny}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's, of what is missing
        with pytest.raises(ValueError, match="does not fit its base"):
            ptd.CrossEncoder(tmp_path / "adapter", **FP32)(ten)


def test_an_adapter_is_not_saved_over_its_base(tiny, ten, tmp_path):
    base = tmp_path / "base"
    ptd.CrossEncoder(tiny, **FP32).save(base)
    student = ptd.CrossEncoder(base, lora={"r": 2}, **FP32)
    with pytest.raises(ValueError, match="merge=True"):
        student.save(base, overwrite=True)
    assert (base / "model.safetensors").exists()
    student.save(base, overwrite=True, merge=True)
    assert (base / "model.safetensors").exists()
