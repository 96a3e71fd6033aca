"""LateInteraction students: they score as ColBERT is defined, read others' checkpoints, learn, and are found again."""

import json
import pickle
import string

import numpy as np
import pandas as pd
import pytest
import torch
from learning import fitted
from torch.nn.functional import normalize

import pyterrier_distill as ptd
from pyterrier_distill.engine import batching

FP32 = {"precision": "fp32", "device": "cpu"}
QUERIES = ["red dog", "who: the blue bird?", "a " * 40, ""]
TEXTS = ["the red, red dog!", "...", "", "blue (bird) sings - loud.", "a dog is a dog is a dog " * 20]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A random BERT with ColBERT's markers and punctuation in its vocabulary."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    path = tmp_path_factory.mktemp("encoder")
    letters = string.ascii_lowercase
    words = ["[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.punctuation]
    (path / "vocab.txt").write_text("\n".join([*words, *letters, *(f"##{letter}" for letter in letters)]))
    BertTokenizerFast(str(path / "vocab.txt")).save_pretrained(path)
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(words) + 52, initializer_range=0.2, **size)).save_pretrained(path)
    return path


def reference(encoder, weight, query, text, *, query_length=32, document_length=180, punctuation=True):
    """MaxSim by hand: markers, [MASK] augmentation that nobody attends to, the punctuation skip list."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, bert = AutoTokenizer.from_pretrained(encoder), AutoModel.from_pretrained(encoder).eval()

    def ids(text, marker, length):
        words = tokenizer(text, add_special_tokens=False)["input_ids"][: length - 3]
        return [tokenizer.cls_token_id, tokenizer.convert_tokens_to_ids(marker), *words, tokenizer.sep_token_id]

    q, d = ids(query, "[unused0]", query_length), ids(text, "[unused1]", document_length)
    fill = query_length - len(q)
    attended = torch.tensor([[1] * len(q) + [0] * fill])
    q_vectors = bert(torch.tensor([q + [tokenizer.mask_token_id] * fill]), attention_mask=attended).last_hidden_state[0]
    skip = tokenizer.convert_tokens_to_ids(list(string.punctuation)) if punctuation else []
    d_vectors = bert(torch.tensor([d])).last_hidden_state[0][[token not in skip for token in d]]
    q_vectors, d_vectors = normalize(q_vectors @ weight.T, dim=-1), normalize(d_vectors @ weight.T, dim=-1)
    return float((q_vectors @ d_vectors.T).max(dim=1).values.sum())


def pairs():
    rows = [(f"q{i}", query, f"d{j}", text) for i, query in enumerate(QUERIES) for j, text in enumerate(TEXTS)]
    return pd.DataFrame(rows, columns=["qid", "query", "docno", "text"])


def assert_scores(student, encoder, weight, **settings):
    found = student(pairs())["score"]
    with torch.no_grad():
        for row, score in zip(pairs().itertuples(), found):
            assert reference(encoder, weight, row.query, row.text, **settings) == pytest.approx(score, abs=1e-5)


@pytest.fixture
def student(encoder):
    return ptd.LateInteraction(encoder, **FP32)


# -- what a score is ---------------------------------------------------------------------------------------------------


def test_an_encoder_becomes_a_colbert(student, encoder):
    weight = student.model[1].linear.weight
    assert weight.shape == (128, 32) and student.model[1].linear.bias is None
    assert_scores(student, encoder, weight)
    assert {p.dtype for p in student.model.parameters()} == {torch.float32}


def test_lengths_and_dimension_are_settings(encoder):
    settings = {"query_length": 8, "document_length": 20}
    student = ptd.LateInteraction(encoder, dimension=16, **settings, **FP32)
    assert student.model[1].linear.weight.shape == (16, 32)
    assert_scores(student, encoder, student.model[1].linear.weight, **settings)
    bare = ptd.LateInteraction(encoder, query_expansion=False, query_length=12, **FP32)
    assert [len(vectors) for vectors in bare.encode(["red", "a " * 40], "query")] == [6, 12]
    assert [len(vectors) for vectors in student.encode(["red", "a " * 40], "query")] == [8, 8]


def test_a_sentence_transformer_becomes_a_colbert(tiny):
    student = ptd.LateInteraction(tiny, **FP32)
    assert student.model[0].tokenizer.tokenize("[D] red")[0] == "[D]"
    query, document = student.encode(["red dog"], "query")[0], student.encode(["a red dog"], "document")[0]
    assert query.shape == (32, 128) and document.shape == (2 + 1 + 1 + 3 + 3, 128)
    np.testing.assert_allclose(np.linalg.norm(query, axis=1), 1, atol=1e-5)
    frame = pd.DataFrame([{"qid": "1", "query": "red dog", "docno": "d", "text": "a red dog"}])
    assert student(frame)["score"].item() == pytest.approx((query @ document.T).max(axis=1).sum(), abs=1e-5)


@pytest.mark.parametrize("length", [32, 16])
def test_reads_stanfords_checkpoints(encoder, tmp_path, length):
    from safetensors.torch import load_file, save_file

    weight = torch.randn(24, 32, generator=torch.Generator().manual_seed(1))
    tensors = {f"bert.{name}": tensor for name, tensor in load_file(encoder / "model.safetensors").items()}
    save_file({**tensors, "linear.weight": weight}, tmp_path / "model.safetensors", {"format": "pt"})
    config = json.loads((encoder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["HF_ColBERT"]}))
    metadata = {"query_token_id": "[unused0]", "doc_token_id": "[unused1]", "query_maxlen": length, "doc_maxlen": 40}
    settings = {"mask_punctuation": length == 32, "attend_to_mask_tokens": False, "dim": 24}
    (tmp_path / "artifact.metadata").write_text(json.dumps({**metadata, **settings}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text((encoder / name).read_text())
    student = ptd.LateInteraction(tmp_path, **FP32)
    expected = {"query_length": length, "document_length": 40, "punctuation": length == 32}
    assert_scores(student, encoder, weight, **expected)
    assert_scores(student.save(tmp_path / "saved"), encoder, weight, **expected)


def test_reads_pylates_checkpoints(encoder, tmp_path):
    from safetensors.torch import save_file

    weight = torch.randn(24, 32, generator=torch.Generator().manual_seed(1))
    for file in encoder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    modules = [("", "sentence_transformers.models.Transformer"), ("1_Dense", "pylate.models.Dense.Dense")]
    listed = [{"idx": n, "name": str(n), "path": p, "type": t} for n, (p, t) in enumerate(modules)]
    (tmp_path / "modules.json").write_text(json.dumps(listed))
    settings = {
        "model_type": "ColBERT", "prompts": {}, "default_prompt_name": None, "similarity_fn_name": "MaxSim",
        "query_prefix": "[unused0]", "document_prefix": "[unused1]", "query_length": 16, "document_length": 40,
        "attend_to_expansion_tokens": False, "skiplist_words": list(string.punctuation), "do_query_expansion": True,
    }  # fmt: skip
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(settings))
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 39, "do_lower_case": False}))
    (tmp_path / "1_Dense").mkdir()
    dense = {"in_features": 32, "out_features": 24, "bias": False}
    dense["activation_function"] = "torch.nn.modules.linear.Identity"
    (tmp_path / "1_Dense" / "config.json").write_text(json.dumps(dense))
    save_file({"linear.weight": weight}, tmp_path / "1_Dense" / "model.safetensors")
    student = ptd.LateInteraction(tmp_path, **FP32)
    assert_scores(student, encoder, weight, query_length=16, document_length=40)
    longer = ptd.LateInteraction(tmp_path, query_length=24, **FP32)
    assert_scores(longer, encoder, weight, query_length=24, document_length=40)


def test_a_saved_student_is_a_multi_vector_encoder(student, tmp_path):
    from sentence_transformers import MultiVectorEncoder

    student.save(tmp_path / "saved")
    model = MultiVectorEncoder(str(tmp_path / "saved"), device="cpu")
    expected = model.similarity(model.encode_query(QUERIES), model.encode_document(TEXTS)).numpy()
    np.testing.assert_allclose(student(pairs())["score"].to_numpy().reshape(expected.shape), expected, atol=1e-5)
    model.similarity_fn_name = "meanmaxsim"
    model.save_pretrained(str(tmp_path / "mean"), create_model_card=False)
    mean = ptd.LateInteraction(tmp_path / "mean", **FP32)(pairs())["score"].to_numpy()
    np.testing.assert_allclose(mean.reshape(expected.shape), expected / 32, atol=1e-5)


def test_scores_depend_on_nothing_but_the_pair(student):
    frame = pairs()
    whole = student(frame)["score"].to_numpy()
    alone = np.concatenate([student(frame.iloc[[n]])["score"] for n in range(len(frame))])
    np.testing.assert_allclose(alone, whole, atol=1e-5)
    shuffled = student(frame.sample(frac=1, random_state=0)).sort_index()["score"]
    np.testing.assert_allclose(shuffled, whole, atol=1e-5)
    np.testing.assert_allclose(student.apply_attributes(batch_size=1)(frame)["score"], whole, atol=1e-5)
    assert len(student(frame.iloc[:0])) == 0


def test_each_text_is_encoded_once_in_any_number_of_chunks(student, monkeypatch):

    frame, seen = pairs(), []
    whole = student(frame)
    tokenise = student.tokenise
    monkeypatch.setattr(student, "tokenise", lambda texts, task: seen.extend(texts) or tokenise(texts, task))
    monkeypatch.setattr(batching, "BUFFER", 2)
    pd.testing.assert_frame_equal(student(frame.sample(frac=1, random_state=3)).sort_index(), whole, atol=1e-5)
    assert sorted(seen) == sorted(QUERIES + TEXTS)


def test_no_padding_wins_a_maximum(student, documents):
    """All similarities negative: the best of a document's tokens is the least bad of them."""
    rng = np.random.default_rng(0)
    queries = [rng.uniform(0.1, 1, size=(n, 8)).astype(np.float32) for n in (3, 5)]
    texts = [-rng.uniform(0.1, 1, size=(n, 8)).astype(np.float32) for n in (1, 7)]
    frame = pd.DataFrame([{"qid": f"q{i}", "docno": f"d{j}"} for i in range(2) for j in range(2)])
    frame["query_embs"] = pd.Series([queries[i] for i in range(2) for _ in range(2)])
    expected = [float((queries[i] @ texts[j].T).max(axis=1).sum()) for i in range(2) for j in range(2)]
    frame["doc_embs"] = pd.Series([texts[j] for _ in range(2) for j in range(2)])
    np.testing.assert_allclose(student(frame)["score"], expected, atol=1e-5)
    assert max(expected) < 0
    with pytest.raises(ValueError, match="two models"):
        student(frame.assign(query_embs=pd.Series([np.ones((2, 9), dtype=np.float32)] * 4)))


def test_vectors_in_the_frame_are_read_by_the_scorer_and_where_there_is_no_text(student):
    frame = pairs()
    expected = student(frame)["score"]
    encoded = (student.query_encoder() >> student.doc_encoder())(frame)
    np.testing.assert_allclose(student.text_scorer()(encoded)["score"], expected, atol=1e-5)
    np.testing.assert_allclose(student(encoded.drop(columns=["query", "text"]))["score"], expected, atol=1e-5)
    wrong = encoded.assign(doc_embs=encoded["doc_embs"].sample(frac=1, random_state=0).to_numpy())
    np.testing.assert_allclose(student(wrong)["score"], expected, atol=1e-5)
    assert not np.allclose(student.text_scorer()(wrong)["score"], expected)


def test_starts_the_same_and_is_another_when_trained(encoder, ten):
    one, two = ptd.LateInteraction(encoder, **FP32), ptd.LateInteraction(encoder, **FP32)
    torch.manual_seed(7)
    pd.testing.assert_frame_equal(one(ten), two(ten))
    assert one == two and hash(one) == hash(two) and one != ptd.LateInteraction(encoder, dimension=16, **FP32)
    fitted(two, ptd.RankNet(), ten, epochs=1)
    again = pickle.loads(pickle.dumps(two))
    assert one != two and again == two and "trained" in repr(two)
    pd.testing.assert_frame_equal(again(ten), two(ten))
    fitted(again, ptd.RankNet(), ten, epochs=1)
    assert not again(ten)["score"].equals(two(ten)["score"])


def test_cut_to_layers(encoder, ten, tmp_path):
    whole, cut = ptd.LateInteraction(encoder, **FP32), ptd.LateInteraction(encoder, layers=(1,), **FP32)
    assert cut.num_parameters() < whole.num_parameters()
    pd.testing.assert_frame_equal(cut.save(tmp_path / "cut")(ten), cut(ten), atol=1e-5)


def test_a_saved_students_settings_can_be_changed(student, encoder, tmp_path):
    saved = student.save(tmp_path / "saved")
    weight = student.model[1].linear.weight
    assert_scores(ptd.LateInteraction(saved.path, query_length=16, **FP32), encoder, weight, query_length=16)
    assert_scores(ptd.LateInteraction(saved.path, dimension=128, **FP32), encoder, weight)
    bare = ptd.LateInteraction(saved.path, query_expansion=False, **FP32)
    assert [len(vectors) for vectors in bare.encode(["red", "a " * 40], "query")] == [6, 32]
    again = ptd.LateInteraction(bare.save(tmp_path / "bare").path, **FP32)
    assert [len(vectors) for vectors in again.encode(["red", "a " * 40], "query")] == [6, 32]
    filled = ptd.LateInteraction(again.name_or_path, query_expansion=True, **FP32)
    assert_scores(filled, encoder, weight)
    small = ptd.LateInteraction(saved.path, dimension=24, **FP32)
    assert small.encode(["red"], "query")[0].shape == (32, 24)
    pd.testing.assert_frame_equal(small.save(tmp_path / "small")(pairs()), small(pairs()), atol=1e-5)


def test_other_models_are_refused(student, tmp_path):
    from sentence_transformers import MultiVectorEncoder, SentenceTransformer
    from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    frame = pairs()
    with pytest.raises(FileNotFoundError, match="hub did not give it"):
        ptd.LateInteraction("nobody/no-such-model", **FP32)(frame)
    words = StaticEmbedding(student.model.tokenizer.backend_tokenizer, embedding_dim=8)
    SentenceTransformer(modules=[words], device="cpu").save_pretrained(str(tmp_path / "s"), create_model_card=False)
    with pytest.raises(ValueError, match="no Transformer module"):
        ptd.LateInteraction(tmp_path / "s", **FP32)(frame)
    model = student.model
    pooled = MultiVectorEncoder(modules=[*model, HierarchicalTokenPooling()], prompts=model.prompts, device="cpu")
    pooled.save_pretrained(str(tmp_path / "p"), create_model_card=False)
    with pytest.raises(ValueError, match="pools its token vectors"):
        ptd.LateInteraction(tmp_path / "p", **FP32)(frame)


def test_mistakes(encoder, ten):
    with pytest.raises(FileNotFoundError):
        ptd.LateInteraction("./nowhere")
    for wrong in ({"dimension": 0}, {"query_length": 1.5}, {"batch_size": True}, {"query_expansion": "mask"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ptd.LateInteraction(encoder, **wrong)
    with pytest.raises(ValueError, match="at most 512"):
        ptd.LateInteraction(encoder, document_length=1000, **FP32)(ten)
    with pytest.raises(ValueError, match="task must be"):
        ptd.LateInteraction(encoder, **FP32).encode(["a"], "passage")
    with pytest.raises(ptd.MissingLabelError, match="'text'"):
        fitted(ptd.LateInteraction(encoder, **FP32), ptd.RankNet(), ten.drop(columns="text"))
    with pytest.raises(ValueError, match="needs query_vectors"):
        ptd.Distiller(ptd.LateInteraction(encoder), ptd.EmbeddingMatch())
