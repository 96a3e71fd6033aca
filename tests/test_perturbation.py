"""QueryPerturbation: noise and masks, seeded, query by query."""

import numpy as np
import pandas as pd
import pytest

import pyterrier_distill as ptd

FP32 = {"precision": "fp32", "device": "cpu", "max_length": 20}


@pytest.fixture
def topics():
    return pd.DataFrame(
        [("1", "red dog runs"), ("2", "blue bird sings fast in the house"), ("3", "tree"), ("4", "")],
        columns=["qid", "query"],
    ).assign(qextra=[1, 2, 3, 4])


def reference(path, text, noise, seed, k, n):
    """One query without padding: Enc, noise, Dec, token by token."""
    import hashlib

    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
    from transformers.modeling_outputs import BaseModelOutput

    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForSeq2SeqLM.from_pretrained(path).eval()
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(f"{seed}\0{text}\0{k}".encode()).digest()[:8], "big"))
    rng.random(20)  # the masks'
    ids, said = tokenizer(text, return_tensors="pt")["input_ids"], [model.config.decoder_start_token_id]
    with torch.inference_mode():
        states = model.get_encoder()(input_ids=ids).last_hidden_state
        states = states + torch.tensor(noise * rng.standard_normal(states.shape[1:]), dtype=torch.float32)
        while len(said) <= n:
            outputs = BaseModelOutput(last_hidden_state=states)
            logits = model(encoder_outputs=outputs, decoder_input_ids=torch.tensor([said])).logits[0, -1]
            said.append(int(logits.argmax()))
            if said[-1] == tokenizer.eos_token_id:
                break
    return " ".join(tokenizer.decode(said, skip_special_tokens=True).split())


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_new_queries_are_read_out_of_noisy_states(kind, topics, tiny_t5, tiny_bart):
    path = {"t5": tiny_t5, "bart": tiny_bart}[kind]
    out = ptd.QueryPerturbation(path, noise=0.5, mask=0, n=2, **FP32)(topics)
    text = dict(zip(topics["qid"], topics["query"]))
    new = out[out["qid"].str.contains("-p")]
    assert len(new) >= 3
    for qid, query in zip(new["qid"], new["query"]):
        original, k = qid.split("-p")
        assert query == reference(path, text[original], 0.5, 42, int(k), 20)


def test_rows_stand_behind_their_query(topics, tiny_t5):
    perturb = ptd.QueryPerturbation(tiny_t5, noise=0.5, n=3, **FP32)
    frame = topics.assign(query_vec=[np.ones(3)] * 4, query_toks=[{}] * 4).set_index(pd.Index([7, 7, 7, 7]))
    out = perturb(frame)
    assert list(out.columns) == ["qid", "query", "qextra"] and out.index.tolist() == list(range(len(out)))
    roots = out["qid"].str.split("-p").str[0]
    assert roots.tolist() == sorted(roots) and (roots.astype(int) == out["qextra"]).all()
    assert out.loc[out["qid"].isin(topics["qid"]), "query"].tolist() == topics["query"].tolist()
    assert out["qid"].is_unique and sum(perturb.responses.values()) == 9  # the empty query is not asked about
    assert perturb.responses["ok"] == len(out) - 4
    alone = ptd.QueryPerturbation(tiny_t5, noise=0.5, n=3, keep_original=False, **FP32)(topics)
    assert alone.to_dict("list") == out[out["qid"].str.contains("-p")].to_dict("list")


def test_no_new_query_equals_its_own_or_another(topics, tiny_t5, monkeypatch):
    perturb = ptd.QueryPerturbation(tiny_t5, n=4, **FP32)
    monkeypatch.setattr(perturb, "_write", lambda texts: [["Red  dog runs?", "", "new", "NEW"] for _ in texts])
    out = perturb(topics.iloc[:1])
    assert out["qid"].tolist() == ["1", "1-p2"] and out["query"].tolist() == ["red dog runs", "new"]
    assert perturb.responses == {"ok": 1, "duplicate": 2, "empty": 1}


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_they_depend_on_seed_and_query_alone(kind, topics, tiny_t5, tiny_bart):
    path = {"t5": tiny_t5, "bart": tiny_bart}[kind]
    make = lambda **more: ptd.QueryPerturbation(path, noise=0.3, mask=0.3, n=3, **more, **FP32)  # noqa: E731
    whole = dict(make()(topics)[["qid", "query"]].to_numpy().tolist())
    parts = pd.concat([make(batch_size=1)(topics.iloc[[i]]) for i in (2, 0, 1, 3)])
    assert dict(parts[["qid", "query"]].to_numpy().tolist()) == whole
    assert dict(make(seed=5)(topics)[["qid", "query"]].to_numpy().tolist()) != whole
    renamed = make()(topics.assign(qid=["a", "b", "c", "d"]))
    assert renamed["query"].tolist() == list(whole.values())


def test_so_many_tokens_are_masked(tiny_bart, tiny_t5):
    text = "red green blue dog cat bird house tree"
    for path, name in ((tiny_bart, "<mask>"), (tiny_t5, "<unk>")):
        perturb = ptd.QueryPerturbation(path, mask=0.25, precision="fp32", device="cpu", max_length=64)
        tokenizer = perturb._loaded[0]
        ids = tokenizer(text, return_tensors="pt")["input_ids"][0]
        masked = total = 0
        for k in range(300):
            row = ids.clone()
            perturb._mask_tokens(row, perturb._random(text, k))
            changed = row != ids
            assert not changed[-1] and (row[changed] == tokenizer.convert_tokens_to_ids(name)).all()
            masked, total = masked + int(changed.sum()), total + len(ids) - 1
        assert abs(masked / total - 0.25) < 0.03


def test_a_model_without_head_or_with_beams_of_its_own(tiny_bart, topics, tmp_path):
    """As facebook/bart-base lies on the hub: a BartModel, and a configuration that asks for beams."""
    from transformers import AutoTokenizer, BartForConditionalGeneration

    whole = BartForConditionalGeneration.from_pretrained(tiny_bart)
    whole.model.save_pretrained(tmp_path / "bare")
    whole.generation_config.num_beams, whole.generation_config.no_repeat_ngram_size = 4, 1
    whole.save_pretrained(tmp_path / "beams")
    expected = ptd.QueryPerturbation(tiny_bart, noise=0.5, **FP32)(topics)
    for name in ("bare", "beams"):
        AutoTokenizer.from_pretrained(tiny_bart).save_pretrained(tmp_path / name)
        pd.testing.assert_frame_equal(ptd.QueryPerturbation(tmp_path / name, noise=0.5, **FP32)(topics), expected)


def test_sentinels_count_up(tiny_t5, tmp_path):
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_t5)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<extra_id_0>", "<extra_id_1>"]})
    model = AutoModelForSeq2SeqLM.from_pretrained(tiny_t5)
    model.resize_token_embeddings(len(tokenizer))
    tokenizer.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    perturb = ptd.QueryPerturbation(tmp_path, mask=1.0, **FP32)
    row = tokenizer("red dog cat", return_tensors="pt")["input_ids"][0]
    length = len(row)
    perturb._mask_tokens(row, perturb._random("red dog cat", 0))
    first, last = tokenizer.convert_tokens_to_ids(["<extra_id_0>", "<extra_id_1>"])
    assert torch.equal(row, torch.tensor([first] + [last] * (length - 2) + [tokenizer.eos_token_id]))


def test_mistakes_are_told(tiny_llm, tiny_t5):
    for wrong in ({"noise": -1}, {"mask": 2}, {"n": 0}, {"max_length": 1}, {"noise": 0, "mask": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ptd.QueryPerturbation(tiny_t5, **wrong)
    with pytest.raises(FileNotFoundError, match="no model"):
        ptd.QueryPerturbation("/no/such/model")
    with pytest.raises(ValueError, match="llama checkpoint"):
        ptd.QueryPerturbation(tiny_llm)(pd.DataFrame([("1", "red")], columns=["qid", "query"]))


def test_ids_are_text_and_never_the_same_twice(topics, tiny_t5):
    perturb = ptd.QueryPerturbation(tiny_t5, noise=0.5, **FP32)
    numbered = perturb(topics.assign(qid=[1, 2, 3, 4]))
    assert numbered["qid"].tolist() == perturb(topics)["qid"].tolist()
    more = ptd.QueryPerturbation(tiny_t5, noise=0.9, seed=1, **FP32)
    with pytest.raises(ValueError, match="two queries would have the qid '.-p.'.*suffix="):
        (perturb >> more)(topics)
    other = ptd.QueryPerturbation(tiny_t5, noise=0.9, seed=1, suffix="x", **FP32)
    out = (perturb >> other)(topics)
    assert out["qid"].is_unique and any("-p0-x" in qid for qid in out["qid"])
    with pytest.raises(ValueError, match="drop_duplicates"):
        perturb(topics.assign(qid="1"))
    with pytest.raises(ValueError, match="must hold ids"):
        perturb(topics.assign(qid=[1, 2, 3, None]))
