"""Whatever loads a checkpoint fits tokenizer and model to each other: padding, length, vocabulary."""

import shutil
import string
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import transformers

import pyterrier_distill as ptd
from pyterrier_distill.backends.hf import HF
from pyterrier_distill.engine import lengths

FP32 = {"precision": "fp32", "device": "cpu"}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
LETTERS = string.ascii_lowercase
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
PAIRS = pd.DataFrame(
    [("q1", "red dog", "d1", "a red dog " * 40), ("q1", "red dog", "d2", "bird")],
    columns=["qid", "query", "docno", "text"],
)


def written(path: Path, model, **tokenizer) -> str:
    """A checkpoint of ``model`` with a tokenizer of letters that names no limit."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "vocab.txt").write_text("\n".join(WORDS))
    made = transformers.BertTokenizerFast(str(path / "vocab.txt"), **tokenizer)
    made.save_pretrained(path)
    (path / "vocab.txt").unlink()
    model.save_pretrained(path)
    return str(path)


def small(architecture: str, head: str = "Model", **settings):
    config = getattr(transformers, f"{architecture}Config")
    torch.manual_seed(0)
    if architecture == "DistilBert":
        sizes = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "vocab_size": len(WORDS)}
    elif architecture == "T5":
        sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": len(WORDS)}
    else:
        sizes = {**SMALL, "vocab_size": len(WORDS)}
    return getattr(transformers, architecture + head)(config(**sizes, **settings)).eval()


# -- length -----------------------------------------------------------------------------------------------------------

POSITIONS = {"max_position_embeddings": 40}
RELATIVE = {"relative_attention": True, "position_biased_input": False, "pos_att_type": ["p2c", "c2p"]}
SPECIAL = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}


@pytest.mark.parametrize(
    ("architecture", "settings", "usual", "most"),
    [
        ("Bert", POSITIONS, 40, 40),
        ("Electra", POSITIONS, 40, 40),
        ("DistilBert", POSITIONS, 40, 40),
        ("Roberta", {**POSITIONS, "pad_token_id": 0}, 39, 39),
        ("XLMRoberta", {**POSITIONS, "pad_token_id": 1}, 38, 38),
        ("Camembert", {**POSITIONS, "pad_token_id": 1}, 38, 38),
        ("MPNet", {**POSITIONS, "pad_token_id": 1}, 38, 38),
        ("ModernBert", {**POSITIONS, **SPECIAL}, 40, 40),
        ("Llama", POSITIONS, 40, 40),
        ("DebertaV2", {**POSITIONS, **RELATIVE}, 40, None),
        ("DebertaV2", POSITIONS, 40, 40),
    ],
)
def test_a_model_reads_as_many_tokens_as_it_has_positions(architecture, settings, usual, most):
    model = small(architecture, **settings)
    assert lengths.limits(model) == (usual, most)
    model(input_ids=torch.full((1, usual), 7))
    if most is None or architecture in ("ModernBert", "Llama"):  # rotary positions go on, untrained
        return
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, most + 1), 7))


def test_relative_positions_have_no_end():
    assert lengths.limits(small("T5", "EncoderModel")) == (None, None)


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    """An XLM-RoBERTa of 38 positions whose tokenizer names no limit; with a head."""
    model = small("XLMRoberta", "ForSequenceClassification", **POSITIONS, pad_token_id=1, num_labels=1)
    return written(tmp_path_factory.mktemp("roberta"), model)


READERS = {
    "PointwiseTeacher": lambda path, **k: ptd.PointwiseTeacher(path, **k, **FP32),
    "PairwiseTeacher": lambda path, **k: ptd.PairwiseTeacher(path, **k, **FP32),
    "CrossEncoder": lambda path, **k: ptd.CrossEncoder(path, **k, **FP32),
    "BiEncoder": lambda path, **k: ptd.BiEncoder(path, **k, **FP32),
    "LateInteraction": lambda path, max_length=None: ptd.LateInteraction(path, document_length=max_length, **FP32),
    "USTAD": lambda path, **k: ptd.USTAD(path, query_length=10, **k, **FP32),
}


@pytest.mark.parametrize("reader", READERS)
def test_every_class_reads_what_the_model_reads_and_refuses_more(reader, roberta):
    make = READERS[reader]
    longer = PAIRS.assign(text=[PAIRS["text"][0] + " more", "bird"])
    column = "score"
    np.testing.assert_allclose(make(roberta)(PAIRS)[column], make(roberta)(longer)[column], atol=1e-6)
    np.testing.assert_allclose(make(roberta)(PAIRS)[column], make(roberta, max_length=38)(PAIRS)[column], atol=1e-6)
    for length in (39, 200):
        with pytest.raises(ValueError, match=f"length={length}, .* reads at most 38 tokens"):
            make(roberta, max_length=length)(PAIRS)


def test_a_checkpoint_that_claims_more_than_it_has_is_cut(tmp_path):
    path = written(tmp_path / "m", small("Roberta", **POSITIONS, pad_token_id=1), model_max_length=40)
    assert np.isfinite(ptd.BiEncoder(path, **FP32)(PAIRS)["score"]).all()


def test_backends_and_perturbation_refuse_more_than_there_is(tmp_path, tiny_llm, tiny_t5):
    with pytest.raises(ValueError, match="max_length=4000, .* reads at most 2048 tokens"):
        HF(tiny_llm, max_length=4000, **FP32).prompt_sizes(["red"])
    assert HF(tiny_t5, max_length=4000, **FP32).context == 4000  # T5's positions have no end
    assert HF(tiny_t5, **FP32).context == 512 and HF(tiny_llm, **FP32).context == 2048
    bart = transformers.BartConfig(
        vocab_size=len(WORDS), d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=40, pad_token_id=0,
        bos_token_id=2, eos_token_id=3, decoder_start_token_id=3, forced_eos_token_id=3,
    )  # fmt: skip
    path = written(tmp_path / "bart", transformers.BartForConditionalGeneration(bart), pad_token="[PAD]")
    topics = pd.DataFrame({"qid": ["1"], "query": ["red " * 60]})
    with pytest.raises(ValueError, match="max_length=41, .* reads at most 40 tokens"):
        ptd.QueryPerturbation(path, noise=0.1, max_length=41, **FP32)(topics)


# -- padding ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """A decoder that ranks, whose tokenizer and configuration name no padding."""
    path = tmp_path_factory.mktemp("decoder")
    model = small("Qwen3", "ForSequenceClassification", num_key_value_heads=2, head_dim=8, num_labels=1)
    return written(path, model, pad_token=None, eos_token="[SEP]")


def one_by_one(path):
    """Scores by transformers alone, without padding."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(path).eval()
    model.config.pad_token_id = tokenizer.sep_token_id
    with torch.no_grad():
        return [
            model(**tokenizer(query, text, return_tensors="pt")).logits.item()
            for query, text in zip(PAIRS["query"], PAIRS["text"])
        ]


def test_a_missing_padding_token_is_the_same_in_teacher_and_student(decoder, tmp_path):
    expected = one_by_one(decoder)
    student = ptd.CrossEncoder(decoder, **FP32)
    np.testing.assert_allclose(student(PAIRS)["score"], expected, atol=1e-5)
    np.testing.assert_allclose(student.save(tmp_path / "again")(PAIRS)["score"], expected, atol=1e-5)
    np.testing.assert_allclose(ptd.PointwiseTeacher(decoder, **FP32)(PAIRS)["score"], expected, atol=1e-5)


@pytest.mark.parametrize("make", [ptd.BiEncoder, ptd.LateInteraction, ptd.USTAD])
def test_a_missing_padding_token_in_the_other_students(make, tmp_path):
    path = written(tmp_path / "bert", small("Bert"), pad_token=None, model_max_length=64)
    whole = written(tmp_path / "whole", small("Bert"), model_max_length=64)
    np.testing.assert_allclose(make(path, **FP32)(PAIRS)["score"], make(whole, **FP32)(PAIRS)["score"], atol=1e-5)


def test_padding_is_the_configurations_own_where_it_names_one(tmp_path):
    bert = written(tmp_path / "bert", small("Bert"), pad_token=None)
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert)
    model = small("Bert", pad_token_id=4)
    lengths.pad(bert, tokenizer, model)
    assert tokenizer.pad_token == "[MASK]" and model.config.pad_token_id == 4


def test_no_special_token_at_all_is_refused(tmp_path):
    from tokenizers import Tokenizer, models

    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"red": 0})))
    with pytest.raises(ValueError, match="no padding token, nor any special token"):
        lengths.pad("m", tokenizer, small("Llama", pad_token_id=None))


# -- vocabulary -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reader", [*READERS, "MonoT5", "HF", "QueryPerturbation"])
@pytest.mark.parametrize("settings", [True, False])
def test_a_checkpoint_without_its_tokenizer_is_refused(reader, settings, tmp_path, roberta, tiny_cross, tiny_t5):
    """transformers makes an empty vocabulary; every text would be one and the same."""
    t5 = reader in ("MonoT5", "HF", "QueryPerturbation")
    shutil.copytree(tiny_t5 if t5 else tiny_cross, tmp_path / "m")
    for name in ("tokenizer.json", "vocab.txt", *(() if settings else ("tokenizer_config.json",))):
        (tmp_path / "m" / name).unlink(missing_ok=True)
    if t5 and settings:  # it says that it has no class but tokenizer.json
        (tmp_path / "m" / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}')
    path = str(tmp_path / "m")
    make = {
        **READERS,
        "MonoT5": lambda path: ptd.MonoT5(path, **FP32),
        "HF": lambda path: ptd.PointwiseTeacher(HF(path, **FP32)),
        "QueryPerturbation": lambda path: ptd.QueryPerturbation(path, noise=0.1, **FP32),
    }[reader]
    with pytest.raises(ValueError, match=r"tokenizer\.json|vocab|sentencepiece"):
        make(path)(PAIRS if reader != "QueryPerturbation" else PAIRS[["qid", "query"]])


def test_the_missing_files_are_named(tmp_path):
    path = Path(written(tmp_path / "m", small("Bert")))
    (path / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"lacks tokenizer\.json or vocab\.txt.*every word would be unknown"):
        ptd.BiEncoder(path, **FP32).encode_queries(["red"])
    (path / "vocab.txt").write_text("\n".join(WORDS))
    assert np.isfinite(ptd.BiEncoder(path, **FP32).encode_queries(["red"])).all()
