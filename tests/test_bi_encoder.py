"""The bi-encoder student: encoding, shape, asymmetry, artifacts, identity."""

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pyterrier as pt
import pyterrier_dr
import pytest
import torch

import pyterrier_distill as ptd
from pyterrier_distill.stores import drafts

TEXTS = ["red dog", "a much longer text about a cat that sleeps by the river all day", "tree", "red dog"]


def fp32(model, **settings):
    return ptd.BiEncoder(model, precision="fp32", device="cpu", **settings)


def one_at_a_time(path, texts):
    """The reference: sentence-transformers on one text at a time, so without padding."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(path, device="cpu")
    return np.stack([model.encode_query(text) for text in texts])


# -- encoding ---------------------------------------------------------------------------------------------------------


def test_vectors_equal_one_text_at_a_time(tiny):
    reference = one_at_a_time(tiny, TEXTS)
    for batch_size in (1, 2, 1024):
        np.testing.assert_allclose(fp32(tiny, batch_size=batch_size).encode_queries(TEXTS), reference, atol=1e-5)


def test_vectors_equal_one_text_at_a_time_real_model(minilm):
    np.testing.assert_allclose(fp32(minilm).encode_docs(TEXTS), one_at_a_time(minilm, TEXTS), atol=1e-5)


def test_bf16_stays_within_two_hundredths(minilm):
    texts = [" ".join(["word"] * n) for n in range(1, 60, 7)] + TEXTS
    reference = fp32(minilm).encode_docs(texts)
    model = ptd.BiEncoder(minilm, precision="bf16", device="cpu")
    for batch_size in (1, 1024):
        np.testing.assert_allclose(model.encode_docs(texts) @ reference.T, reference @ reference.T, atol=2e-2)
    del model


def test_vectors_with_gradients_equal_those_without(tiny):
    model = fp32(tiny)
    vectors = model.encode_queries_torch(TEXTS)
    assert vectors.requires_grad
    np.testing.assert_allclose(vectors.detach().numpy(), model.encode_queries(TEXTS), atol=1e-5)


def test_prompts_of_the_checkpoint_are_used(tiny, tmp_path):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(tiny, device="cpu")
    model.prompts = {"query": "find ", "passage": "text ", "document": ""}
    model.save_pretrained(str(tmp_path / "m"), create_model_card=False)
    student = fp32(str(tmp_path / "m"))
    np.testing.assert_allclose(student.encode_queries(["dog"]), model.encode(["find dog"]), atol=1e-6)
    np.testing.assert_allclose(student.encode_docs(["dog"]), model.encode(["text dog"]), atol=1e-6)


def test_nothing_is_loaded_before_it_is_needed():
    student = ptd.BiEncoder("nobody/has-this-model")
    assert student.encode_queries([]).shape == (0, 0)
    assert list(student.query_encoder()(pd.DataFrame(columns=["qid", "query"])).columns) == [
        "qid",
        "query",
        "query_vec",
    ]
    with pytest.raises(FileNotFoundError, match="nobody/has-this-model") as caught:
        student.encode_queries(["x"])
    assert "\n" not in str(caught.value)


def test_max_length_cuts(tiny):
    long = "red dog " * 40
    cut = fp32(tiny, max_length=8).encode_docs([long])
    np.testing.assert_allclose(cut, fp32(tiny, max_length=8).encode_docs(["red dog red dog"]), atol=1e-5)
    assert not np.allclose(cut, fp32(tiny).encode_docs([long]), atol=1e-3)


# -- shape ------------------------------------------------------------------------------------------------------------


def test_layers_by_number_are_spread_and_by_name_are_those(tiny):
    assert fp32(tiny, layers=2) != fp32(tiny)
    by_number, by_name = fp32(tiny, layers=2), ptd.BiEncoder.truncated(tiny, [0, 3], precision="fp32", device="cpu")
    np.testing.assert_allclose(by_number.encode_queries(TEXTS), by_name.encode_queries(TEXTS), atol=1e-6)
    assert by_name.model[0].auto_model.config.num_hidden_layers == 2
    full = fp32(tiny).model[0].auto_model
    for kept, layer in zip(by_name.model[0].auto_model.encoder.layer, (0, 3)):
        for a, b in zip(kept.parameters(), full.encoder.layer[layer].parameters()):
            assert torch.equal(a, b)


@pytest.mark.parametrize("layers", [0, 5, [4], [], [-1], [0, 0], "0,3", 2.0, True])
def test_layers_that_are_not_there_are_refused(tiny, layers):
    with pytest.raises(ValueError, match="layers"):
        fp32(tiny, layers=layers).encode_queries(["x"])


def test_pooling_and_projection(tiny):
    cls = fp32(tiny, pooling="cls")
    assert cls.model[1].pooling_mode == "cls" and cls.dimension == 32
    projected = fp32(tiny, projection=20)
    assert projected.dimension == 20 and projected.encode_queries(TEXTS).shape == (4, 20)
    np.testing.assert_allclose(np.linalg.norm(projected.encode_queries(TEXTS), axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(projected.encode_queries(TEXTS), fp32(tiny, projection=20).encode_queries(TEXTS))
    with pytest.raises(ValueError, match="'mean', 'cls' or 'lasttoken'"):
        ptd.BiEncoder(tiny, pooling="max")


def test_a_plain_transformers_checkpoint_gets_mean_pooling_and_cosine_scores(tiny, results):
    plain = os.path.join(os.path.dirname(tiny), "plain")
    student = fp32(plain)
    scores = student(results).set_index(["qid", "docno"])["score"]
    assert student.sim_fn == pyterrier_dr.SimFn.cos and scores.abs().max() <= 1 + 1e-6
    q, d = student.encode_queries(results["query"]), student.encode_docs(results["text"])
    cosine = (q * d).sum(1) / np.linalg.norm(q, axis=1) / np.linalg.norm(d, axis=1)
    np.testing.assert_allclose(scores.to_numpy(), cosine, atol=1e-5)


# -- ranking ----------------------------------------------------------------------------------------------------------


def test_re_ranks_by_dot_product_and_keeps_the_rest(tiny, results):
    student = fp32(tiny)
    frame = results.sample(frac=1, random_state=2)
    out = student(frame)
    expected = (student.encode_queries(frame["query"]) * student.encode_docs(frame["text"])).sum(axis=1)
    np.testing.assert_allclose(out["score"].to_numpy(), expected, atol=1e-5)
    kept = [c for c in frame.columns if c not in ("score", "rank")]
    pd.testing.assert_frame_equal(out[kept], frame[kept])
    for _, rows in out.groupby("qid"):
        assert rows.sort_values("score", ascending=False)["rank"].tolist() == list(range(len(rows)))


def test_vectors_that_are_there_are_used(tiny, results):
    student = fp32(tiny)
    vectors = (student.query_encoder() >> student.doc_encoder())(results)
    student._encode = None  # any encoding now would fail
    np.testing.assert_allclose(student.text_scorer()(vectors)["score"], fp32(tiny)(results)["score"], atol=1e-6)


def test_a_teachers_vectors_beside_the_texts_are_labels_not_the_students(tiny, tiny_wide, results):
    labelled = (fp32(tiny_wide).query_encoder() >> fp32(tiny_wide).doc_encoder())(results)
    out = fp32(tiny)(labelled)
    np.testing.assert_allclose(out["score"], fp32(tiny)(results)["score"], atol=1e-6)
    assert len(out["query_vec"].iloc[0]) == 48  # and they stay where they are


def test_vectors_of_another_model_are_refused(tiny, tiny_wide, results):
    frame = fp32(tiny_wide).doc_encoder()(results)
    with pytest.raises(ValueError, match="32 dimensions and doc_vec 48"):
        fp32(tiny).text_scorer()(frame)


@pytest.mark.parametrize("column", ["query", "text"])
def test_missing_text_is_an_error(tiny, results, column):
    frame = results.assign(**{column: [None, *results[column].iloc[1:]]})
    with pytest.raises(ValueError, match=f"'{column}' must hold text"):
        fp32(tiny)(frame)


def test_one_query_one_document(tiny, results):
    out = fp32(tiny)(results.head(1))
    assert len(out) == 1 and out["rank"].tolist() == [0]


# -- asymmetric -------------------------------------------------------------------------------------------------------


@pytest.fixture
def teacher(tiny):
    return fp32(tiny)


@pytest.fixture
def index(teacher, documents, tmp_path):
    index = pyterrier_dr.FlexIndex(str(tmp_path / "docs.flex"), verbose=False)
    (teacher >> index).index(documents.to_dict("records"))
    return index


def asymmetric(teacher, **settings):
    return ptd.BiEncoder(
        ptd.BiEncoder.truncated(teacher, 2),
        doc_encoder=teacher,
        freeze_docs=True,
        precision="fp32",
        device="cpu",
        **settings,
    )


def test_asymmetric_student_inherits_the_documents(teacher, documents):
    student = asymmetric(teacher)
    assert student.asymmetric and student.num_parameters("query") < student.num_parameters("document")
    np.testing.assert_array_equal(student.encode_docs(documents["text"]), teacher.encode_docs(documents["text"]))
    assert not np.allclose(student.encode_queries(TEXTS), teacher.encode_queries(TEXTS), atol=1e-3)


def test_the_teachers_index_serves_the_student(teacher, index, results):
    student = asymmetric(teacher, doc_index=index)
    topics = results[["qid", "query"]].drop_duplicates()
    expected = asymmetric(teacher)(results).set_index(["qid", "docno"])["score"]
    student.encode_docs = None  # any encoding of a document now would fail
    ranked = (student.query_encoder() >> index.np_retriever())(topics).set_index(["qid", "docno"])["score"]
    np.testing.assert_allclose(ranked[expected.index], expected, atol=1e-5)
    re_ranked = student(results.drop(columns="text")).set_index(["qid", "docno"])["score"]
    np.testing.assert_allclose(re_ranked[expected.index], expected, atol=1e-5)


def test_an_index_of_another_model_is_refused(tiny_wide, index, results):
    with pytest.raises(ValueError, match="holds vectors of 32 dimensions and the model's have 48"):
        fp32(tiny_wide, doc_index=index).doc_encoder()(results)
    with pytest.raises(ValueError, match="doc_index must be a FlexIndex"):
        fp32(tiny_wide, doc_index="docs.flex")


def test_documents_the_index_lacks_are_encoded(teacher, index, results):
    student = asymmetric(teacher, doc_index=index)
    new = results.assign(docno=[f"new{i}" if i % 2 else docno for i, docno in enumerate(results["docno"])])
    np.testing.assert_allclose(student(new)["score"], asymmetric(teacher)(results)["score"], atol=1e-5)
    with pytest.raises(ValueError, match="holds no vector of docno 'new1'"):
        student(new.drop(columns="text"))


def test_other_retrievers_work_on_it(teacher, index, results):
    """LADR and dense pseudo-relevance feedback, as pyterrier_dr has them."""
    student = asymmetric(teacher)
    topics = results[["qid", "query"]].drop_duplicates()
    first = (student.query_encoder() >> index.np_retriever())(topics)
    feedback = student.query_encoder() >> index.np_retriever() >> index.vec_loader() >> pyterrier_dr.AveragePrf(k=2)
    assert (feedback >> index.np_retriever())(topics)["docno"].nunique() > 0
    ladr = (student.query_encoder() >> index.np_scorer())(first.assign(query=first["query"]))
    np.testing.assert_allclose(
        ladr.set_index(["qid", "docno"])["score"][first.set_index(["qid", "docno"]).index], first["score"], atol=1e-5
    )


def test_freezing_the_only_encoder_is_refused(tiny):
    with pytest.raises(ValueError, match="freeze_docs=True needs doc_encoder="):
        fp32(tiny, freeze_docs=True).encode_queries(["x"])


def test_dimensions_must_agree_or_be_projected(teacher, tiny_wide):
    with pytest.raises(ValueError, match="48 dimensions and the document encoder 32: pass projection=32"):
        ptd.BiEncoder(tiny_wide, doc_encoder=teacher, freeze_docs=True).encode_queries(["x"])
    projected = ptd.BiEncoder(tiny_wide, doc_encoder=teacher, freeze_docs=True, projection=32)
    assert projected.encode_queries(["x"]).shape == (1, 32)


# -- artifacts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["symmetric", "truncated", "projected", "asymmetric"])
def test_saved_students_load_everywhere_with_equal_vectors(shape, tiny, teacher, tmp_path):
    from sentence_transformers import SentenceTransformer

    student = {
        "symmetric": lambda: fp32(tiny),
        "truncated": lambda: fp32(tiny, layers=[0, 2]),
        "projected": lambda: fp32(tiny, projection=16, pooling="cls"),
        "asymmetric": lambda: asymmetric(teacher),
    }[shape]()
    path = tmp_path / "student"
    student.save(path)
    queries, documents = student.encode_queries(TEXTS), student.encode_docs(TEXTS)
    plain = SentenceTransformer(str(path), device="cpu")
    np.testing.assert_allclose(plain.encode_query(TEXTS), queries, atol=1e-5)
    np.testing.assert_allclose(plain.encode_document(TEXTS), documents, atol=1e-5)
    for loaded in (fp32(str(path)), pt.Artifact.load(str(path), precision="fp32", device="cpu")):
        assert isinstance(loaded, ptd.BiEncoder)
        np.testing.assert_allclose(loaded.encode_queries(TEXTS), queries, atol=1e-5)
        np.testing.assert_allclose(loaded.encode_docs(TEXTS), documents, atol=1e-5)
        assert loaded.freeze_docs == student.freeze_docs and loaded.asymmetric == student.asymmetric
    meta = json.loads((path / "pt_meta.json").read_text())
    assert (meta["type"], meta["format"]) == ("bi_encoder", "sentence_transformers")
    assert meta["versions"]["sentence-transformers"]


def test_saving_never_leaves_half_a_student(tiny, tmp_path, monkeypatch):
    student = fp32(tiny)
    student.save(tmp_path / "s")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        student.save(tmp_path / "s")
    before = sorted(p.name for p in (tmp_path / "s").iterdir())
    monkeypatch.setattr(
        type(student.model), "save_pretrained", lambda *a, **k: (_ for _ in ()).throw(OSError("disk full"))
    )
    for path in (tmp_path / "s", tmp_path / "new"):
        with pytest.raises(OSError, match="disk full"):
            student.save(path, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s"]
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == before


def test_saving_never_replaces_what_is_no_student(tiny, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="was not made by this program"):
            fp32(tiny).save(tmp_path / "thesis", overwrite=overwrite)
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "years of work"


def test_drafts_of_a_killed_process_go_with_the_next_save(tiny, tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    mine = drafts.writer()
    theirs = mine.replace(f"-{os.getpid()}-", f"-{gone.pid}-")
    for name in ("abc", f"{theirs}-abc"):
        (tmp_path / f".s-draft-{name}").mkdir()
    alive = [f".s-draft-{mine}-abc", f".s-draft-elsewhere-{gone.pid}-1-abc"]  # who says that it is not still written?
    for name in alive:
        (tmp_path / name).mkdir()
    fp32(tiny).save(tmp_path / "s")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*alive, "s"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_checkpoints_compute_in_the_precision_asked_for(dtype, tiny, tmp_path):
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(tiny, device="cpu").to(dtype).save_pretrained(str(tmp_path / "half"), create_model_card=False)
    student = fp32(str(tmp_path / "half"))
    assert student.model.dtype == torch.float32
    one = np.stack([student.encode_queries([text])[0] for text in TEXTS])
    np.testing.assert_allclose(student.encode_queries(TEXTS), one, atol=1e-5)
    assert ptd.BiEncoder(str(tmp_path / "half"), precision="bf16", device="cpu").encode_queries(TEXTS).shape == (4, 32)


def test_a_static_embedding_model_is_a_teacher_too(tiny, results, tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from transformers import AutoTokenizer

    torch.manual_seed(0)
    words = StaticEmbedding(AutoTokenizer.from_pretrained(tiny + "/../plain"), embedding_dim=16)
    SentenceTransformer(modules=[words], device="cpu").save_pretrained(str(tmp_path / "s"), create_model_card=False)
    reference = one_at_a_time(str(tmp_path / "s"), TEXTS)
    reference /= np.linalg.norm(reference, axis=1, keepdims=True)  # it asks for cosines
    np.testing.assert_allclose(fp32(str(tmp_path / "s")).encode_docs(TEXTS), reference, atol=1e-5)
    with pytest.raises(ValueError, match="StaticEmbedding is not a transformer"):
        fp32(str(tmp_path / "s"), layers=2).encode_docs(TEXTS)


@pytest.mark.parametrize(
    "settings",
    [{"batch_size": 0}, {"max_length": -1}, {"projection": 0}, {"precision": "int8"}, {"max_length": 1000}],
    ids=repr,
)
def test_impossible_settings_are_refused(tiny, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        ptd.BiEncoder(tiny, device="cpu", **settings).encode_queries(["x"])


def test_one_text_is_not_a_list_of_letters(tiny):
    with pytest.raises(ValueError, match="must be a list of texts"):
        fp32(tiny).encode_queries("red dog")


def test_a_path_that_is_not_there_is_told_at_once():
    with pytest.raises(FileNotFoundError, match="no model at '/no/such/model'"):
        ptd.BiEncoder("/no/such/model")


def test_a_directory_without_a_model_is_told_in_one_line(tmp_path):
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        ptd.BiEncoder(str(tmp_path)).encode_queries(["x"])
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


# -- identity ---------------------------------------------------------------------------------------------------------


def test_equality_and_repr(tiny):
    assert ptd.BiEncoder(tiny, layers=2) == ptd.BiEncoder(tiny, layers=2)
    assert repr(ptd.BiEncoder(tiny, layers=2)) == f"BiEncoder({tiny!r}, layers=2)"
    assert eval(repr(ptd.BiEncoder(tiny, layers=2)), vars(ptd)) == ptd.BiEncoder(tiny, layers=2)
    assert ptd.BiEncoder(tiny, layers=2) != ptd.BiEncoder(tiny, layers=[0, 1])
    assert ptd.BiEncoder(tiny).query_encoder() != ptd.BiEncoder(tiny, layers=2).query_encoder()


def test_changed_settings_share_the_weights(tiny):
    student = fp32(tiny)
    changed = pt.inspect.transformer_apply_attributes(student, batch_size=7, text_field="body")
    assert (changed.batch_size, changed.text_field, student.batch_size) == (7, "body", 1024)
    assert changed.model is student.model
    other = pt.inspect.transformer_apply_attributes(student, layers=2)
    assert other.model is not student.model and other.layers == 2


def test_pickle_keeps_what_it_is(tiny):
    student = fp32(tiny, layers=2)
    student.encode_queries(["x"])
    again = pickle.loads(pickle.dumps(student))
    assert again == student and again._weights.model is None  # an untrained model is loaded again, not shipped
    np.testing.assert_array_equal(again.encode_queries(TEXTS), student.encode_queries(TEXTS))
