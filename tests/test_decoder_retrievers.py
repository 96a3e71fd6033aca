"""Decoders as retrievers (RepLlama, RepQwen): the last token's state, prompts, an end of text, adapters."""

import json
import pickle
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

import pyterrier_distill as ptd
from pyterrier_distill.engine.tokens import append_end

peft = pytest.importorskip("peft")

FP32 = {"precision": "fp32", "device": "cpu"}
PROMPTS = {"query": "query: ", "document": "passage: "}
REP = {"pooling": "lasttoken", "append_eos": True, "prompts": PROMPTS, "similarity": "dot", **FP32}
LORA = {"r": 4, "alpha": 8}


def fitted(student, frame, **settings):
    defaults = {"precision": "fp32", "verbose": False, "learning_rate": 1e-2, "epochs": 3, "dropout": 0.0}
    return ptd.Distiller(student, ptd.KLDivergence(), **{**defaults, **settings}).fit(frame)


def scores(student, frame):
    return student(frame)["score"].to_numpy()


def by_transformers(model, tokenizer, frame, *, end=True):
    """Inner products of the last tokens' states, text by text: no padding, no pooling of anybody else."""

    def vector(text):
        ids = tokenizer(text, return_tensors="pt")
        assert not end or int(ids["input_ids"][0, -1]) == tokenizer.eos_token_id
        with torch.no_grad():
            return model(**ids).last_hidden_state[0, -1].numpy()

    queries = {text: vector(f"query: {text}") for text in frame["query"].unique()}
    documents = {text: vector(f"passage: {text}") for text in frame["text"].unique()}
    return np.array([queries[q] @ documents[d] for q, d in zip(frame["query"], frame["text"], strict=True)])


@pytest.fixture
def repllama(tiny_llm):
    return ptd.BiEncoder(tiny_llm, lora=LORA, **REP)


def test_scores_are_products_of_the_last_tokens_states(tiny_llm, results, tmp_path):
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel, AutoTokenizer

    student = ptd.BiEncoder(tiny_llm, **REP)
    assert "pooling='lasttoken'" in repr(student) and "append_eos=True" in repr(student)
    found = scores(student, results)
    student.save(tmp_path / "student")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "student")  # which says that texts end
    model = AutoModel.from_pretrained(tmp_path / "student").eval()
    np.testing.assert_allclose(found, by_transformers(model, tokenizer, results), rtol=1e-5, atol=1e-5)
    other = SentenceTransformer(str(tmp_path / "student"), device="cpu")
    queries, documents = other.encode_query(results["query"].tolist()), other.encode_document(results["text"].tolist())
    np.testing.assert_allclose(found, other.similarity_pairwise(queries, documents), rtol=1e-5, atol=1e-5)


def test_texts_end_as_the_tokenizer_says_and_once(tiny_llm, results):
    own = ptd.BiEncoder(tiny_llm, **{**REP, "append_eos": False})
    read = own.tokenise(["red dog"], "query")
    assert read["input_ids"][0, -1] != own.model.tokenizer.eos_token_id  # nothing was said
    assert own.model.tokenizer.decode(read["input_ids"][0]) == "query: red dog"  # and no chat
    ends = ptd.BiEncoder(tiny_llm, **REP)
    read = ends.tokenise(["red dog", "a longer one that is not padded"], "query")
    for ids, mask in zip(read["input_ids"], read["attention_mask"].bool(), strict=True):
        assert ids[mask][-1] == 0 and (ids[mask] == 0).sum() == 1
    long = ptd.BiEncoder(tiny_llm, max_length=8, **REP).tokenise(["red " * 50], "document")
    assert long["input_ids"].shape == (1, 8) and long["input_ids"][0, -1] == 0  # what is cut ends, too


def test_where_padding_is_the_end_of_text_the_last_token_is_found(tiny_llm, results, tmp_path):
    from transformers import AutoTokenizer

    shutil.copytree(tiny_llm, tmp_path / "llm")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "llm")
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path / "llm")
    student = ptd.BiEncoder(tmp_path / "llm", **REP)
    assert student.model.tokenizer.pad_token_id == student.model.tokenizer.eos_token_id
    expected = scores(ptd.BiEncoder(tiny_llm, **REP), results)
    np.testing.assert_allclose(scores(student, results), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("own", ["nothing", "begin", "begin and end"])
def test_the_rule_is_a_part_of_the_tokenizer(own, tiny_llm, tmp_path):
    from tokenizers import processors
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llm)
    begin, end = ("<|user|>", 1), ("<|end|>", 0)
    single = {"begin": "<|user|> $A", "begin and end": "<|user|> $A <|end|>"}.get(own)
    if single:
        rule = processors.TemplateProcessing(single=single, pair=f"{single} $B:1", special_tokens=[begin, end])
        tokenizer.backend_tokenizer.post_processor = rule
    before = tokenizer("red dog")["input_ids"]
    append_end("a", tokenizer)
    append_end("a", tokenizer)
    expected = before if own == "begin and end" else [*before, 0]
    tokenizer.save_pretrained(tmp_path / "t")
    for one in (tokenizer, AutoTokenizer.from_pretrained(tmp_path / "t")):
        assert one("red dog")["input_ids"] == expected
        cut = one("red dog " * 20, truncation=True, max_length=6)["input_ids"]
        assert len(cut) == 6 and cut[-1] == 0


def test_an_adapter_trains_beside_a_base_that_does_not_move(tiny_llm, repllama, results):
    plain = ptd.BiEncoder(tiny_llm, **REP)
    np.testing.assert_allclose(scores(repllama, results), scores(plain, results), atol=1e-5)  # it says nothing yet
    before = {name: p.detach().clone() for name, p in plain.model.named_parameters()}
    start = scores(repllama, results)
    fitted(repllama, results, epochs=10)
    assert not np.allclose(scores(repllama, results), start, atol=1e-2)
    after = {n.replace("base_layer.", ""): p for n, p in repllama.model.named_parameters() if "lora_" not in n}
    assert set(after) == set(before) and all(torch.equal(after[name], before[name]) for name in before)
    assert {n for n, p in repllama.model.named_parameters() if p.requires_grad} == {
        n for n, _ in repllama.model.named_parameters() if "lora_" in n
    }


def test_it_learns_what_a_teacher_says(tiny_llm, ten):
    labelled = ten.assign(teacher_score=3.0 - ten["teacher_rank"])
    student = ptd.BiEncoder(tiny_llm, **{**REP, "similarity": "cos"}, lora={"r": 8, "target_modules": "all-linear"})
    distiller = ptd.Distiller(student, ptd.RankNet(temperature=0.05), precision="fp32", verbose=False,
                              learning_rate=1e-2, epochs=40, queries_per_batch=10, dropout=0.0)  # fmt: skip
    distiller.fit(labelled)
    ranked = student(labelled)
    assert (ranked["rank"] == ranked["teacher_rank"]).mean() > 0.9


def test_a_saved_adapter_is_read_by_sentence_transformers_and_peft(tiny_llm, repllama, results, tmp_path):
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel, AutoTokenizer

    fitted(repllama, results)
    found, path = scores(repllama, results), tmp_path / "adapter"
    saved = repllama.save(path)
    config = json.loads((path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == tiny_llm and config["task_type"] == "FEATURE_EXTRACTION"
    assert not (path / "model.safetensors").exists() and json.loads((path / "pt_meta.json").read_text())[
        "format"
    ] == "peft"
    for again in (saved, ptd.BiEncoder(path, **FP32), pickle.loads(pickle.dumps(repllama))):
        again.precision = "fp32"
        np.testing.assert_allclose(scores(again, results), found, rtol=1e-5, atol=1e-5)
    other = SentenceTransformer(str(path), device="cpu")
    queries, documents = other.encode_query(results["query"].tolist()), other.encode_document(results["text"].tolist())
    np.testing.assert_allclose(found, other.similarity_pairwise(queries, documents), rtol=1e-5, atol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(path)
    for model in (
        peft.AutoPeftModelForFeatureExtraction.from_pretrained(path),
        peft.PeftModel.from_pretrained(AutoModel.from_pretrained(tiny_llm), str(path)),
    ):
        theirs = by_transformers(model.eval(), tokenizer, results)
        np.testing.assert_allclose(found, theirs, rtol=1e-5, atol=1e-5)


def test_it_trains_on_from_what_was_saved_and_is_merged(repllama, results, tmp_path):
    fitted(repllama, results)
    saved = repllama.save(tmp_path / "one")
    saved.precision = "fp32"
    before = scores(saved, results)
    fitted(saved, results)
    assert not np.allclose(scores(saved, results), before, atol=1e-3)
    adapter = saved.save(tmp_path / "two")
    adapter.precision = "fp32"
    np.testing.assert_allclose(scores(adapter, results), scores(saved, results), rtol=1e-5, atol=1e-5)
    whole = saved.save(tmp_path / "whole", merge=True)
    whole.precision = "fp32"
    assert not (tmp_path / "whole" / "adapter_config.json").exists()
    for copy in (whole, ptd.BiEncoder(saved, **FP32)):
        np.testing.assert_allclose(scores(copy, results), scores(saved, results), rtol=1e-4, atol=1e-4)
        assert not any("lora_" in name for name, _ in copy.model.named_parameters())


def test_somebody_elses_adapter(tiny_llm, results, tmp_path):
    """As peft alone writes one: no modules, no prompts."""
    from transformers import AutoModel, AutoTokenizer

    torch.manual_seed(1)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="FEATURE_EXTRACTION", init_lora_weights=False)
    model = peft.get_peft_model(AutoModel.from_pretrained(tiny_llm), config).eval()
    model.save_pretrained(tmp_path / "theirs")
    tokenizer = AutoTokenizer.from_pretrained(tiny_llm)
    tokenizer.save_pretrained(tmp_path / "theirs")
    student = ptd.BiEncoder(tmp_path / "theirs", **{**REP, "append_eos": False})
    expected = by_transformers(model, tokenizer, results, end=False)
    np.testing.assert_allclose(scores(student, results), expected, rtol=1e-5, atol=1e-5)


def test_a_projection_trains_with_the_adapter(tiny_llm, results, tmp_path):
    student = ptd.BiEncoder(tiny_llm, lora=LORA, projection=8, **REP)
    before = student.model[2].linear.weight.detach().clone()
    fitted(student, results)
    assert not torch.equal(student.model[2].linear.weight, before)
    saved = student.save(tmp_path / "student")
    saved.precision = "fp32"
    np.testing.assert_allclose(scores(saved, results), scores(student, results), rtol=1e-5, atol=1e-5)


def test_an_adapted_encoder_can_be_a_teacher_of_documents(tiny_llm, tiny, repllama, results, tmp_path):
    fitted(repllama, results)
    student = ptd.BiEncoder(tiny, projection=32, similarity="dot", doc_encoder=repllama, freeze_docs=True, **FP32)
    texts = results["text"].tolist()
    np.testing.assert_allclose(student.encode_docs(texts), repllama.encode_docs(texts), rtol=1e-4, atol=1e-4)
    saved = student.save(tmp_path / "student")
    saved.precision = "fp32"
    np.testing.assert_allclose(scores(saved, results), scores(student, results), rtol=1e-5, atol=1e-5)


def test_settings_that_cannot_be_are_refused(tiny_llm, tiny, repllama, results, tmp_path):
    with pytest.raises(ValueError, match="'mean', 'cls' or 'lasttoken', not 'last'"):
        ptd.BiEncoder(tiny_llm, pooling="last")
    with pytest.raises(ValueError, match="lora: r must be"):
        ptd.BiEncoder(tiny_llm, lora={"r": 0})
    with pytest.raises(ValueError, match="append_eos must be one of False, True, not 'yes'"):
        ptd.BiEncoder(tiny_llm, append_eos="yes")
    with pytest.raises(ValueError, match="layers= with lora="):
        ptd.BiEncoder(tiny_llm, layers=1, lora=LORA)
    with pytest.raises(ValueError, match="needs the name of a checkpoint, not a BiEncoder"):
        ptd.BiEncoder(repllama, lora=LORA)
    with pytest.raises(ValueError, match="lora= with a BiEncoder as doc_encoder="):
        ptd.BiEncoder(tiny_llm, lora=LORA, doc_encoder=tiny)
    with pytest.raises(ValueError, match="tokenizer of .* has no end of text: set eos_token"):
        ptd.BiEncoder(tiny, append_eos=True, **FP32).model  # noqa: B018
    repllama.save(tmp_path / "adapter")
    with pytest.raises(ValueError, match="has an adapter already"):
        ptd.BiEncoder(tmp_path / "adapter", lora=LORA)
    with pytest.raises(ValueError, match="adapter of all layers"):
        ptd.BiEncoder(tmp_path / "adapter", layers=1, **FP32).model  # noqa: B018
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    moved = {**config, "base_model_name_or_path": str(tmp_path / "nowhere")}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(moved))
    with pytest.raises(FileNotFoundError, match="is an adapter of .*nowhere"):
        ptd.BiEncoder(tmp_path / "adapter", **FP32).model  # noqa: B018


def test_a_student_is_never_written_over_the_base_of_its_adapter(tiny_llm, results, tmp_path):
    base = ptd.BiEncoder(tiny_llm, **REP).save(tmp_path / "base")
    student = ptd.BiEncoder(str(base.path), lora=LORA, **FP32)
    with pytest.raises(ValueError, match="holds what this student needs"):
        student.save(base.path, overwrite=True)


def test_retrieval_over_an_index(repllama, results, tmp_path):
    import pyterrier_dr

    index = pyterrier_dr.FlexIndex(str(tmp_path / "docs.flex"), verbose=False)
    documents = results[["docno", "text"]].drop_duplicates()
    (repllama >> index).index(documents.to_dict("records"))
    topics = results[["qid", "query"]].drop_duplicates()
    found = (repllama.query_encoder() >> index.np_retriever())(topics)
    both = found.merge(pd.DataFrame(repllama(results))[["qid", "docno", "score"]], on=["qid", "docno"])
    assert len(both) == len(results)
    np.testing.assert_allclose(both["score_x"], both["score_y"], rtol=1e-5, atol=1e-5)
