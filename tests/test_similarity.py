"""A bi-encoder's vectors: compared by dot products as the checkpoint asks, in ranking, search and training alike."""

import os

import numpy as np
import pandas as pd
import pyterrier as pt
import pyterrier_dr
import pytest
import torch

import pyterrier_distill as ptd
from pyterrier_distill.losses import base as losses
from pyterrier_distill.students.bi_encoder import states, training
from pyterrier_distill.students.bi_encoder.similarity import unit, unit_rows

FP32 = {"precision": "fp32", "device": "cpu"}
TEXTS = ["red dog", "a dog", "blue bird sings", "house", "the dog runs", "loud red house"]
DOCUMENTS = pd.DataFrame([(f"d{i}", text) for i, text in enumerate(TEXTS)], columns=["docno", "text"])
TOPICS = pd.DataFrame([("q1", "red dog"), ("q2", "bird")], columns=["qid", "query"])
RESULTS = TOPICS.merge(DOCUMENTS, how="cross")


def reference(path, texts=None):
    """Similarities [queries, documents] by sentence-transformers alone."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(path, device="cpu")
    queries, documents = model.encode_query(TOPICS["query"].tolist()), model.encode_document(DOCUMENTS["text"].tolist())
    return model.similarity(queries, documents).numpy()


def made(tmp_path, tiny, name="cosine", pooling="mean", normalise=False, **settings):
    """A sentence-transformers checkpoint over the tiny encoder, without a Normalize module."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    modules = [Transformer(os.path.join(os.path.dirname(tiny), "plain")), Pooling(32, pooling)]
    modules += [Normalize()] if normalise else []
    model = SentenceTransformer(modules=modules, similarity_fn_name=name, device="cpu", **settings)
    model.save_pretrained(str(tmp_path / "m"), create_model_card=False)
    return str(tmp_path / "m")


def searched(student, tmp_path, **settings):
    index = pyterrier_dr.FlexIndex(str(tmp_path / f"{len(os.listdir(tmp_path))}.flex"), verbose=False, **settings)
    (student >> index).index(DOCUMENTS.to_dict("records"))
    found = (student.query_encoder() >> index.np_retriever())(TOPICS)
    return index, found.sort_values(["qid", "docno"])["score"].to_numpy().reshape(2, -1)


def trained_on(student):
    """Scores [queries, documents] as a loss sees them."""
    from pyterrier_distill.training.lists import QueryList

    one = {"docnos": tuple(DOCUMENTS["docno"]), "texts": tuple(DOCUMENTS["text"])}
    fields = {name: None for name in QueryList.__dataclass_fields__}
    lists = [QueryList(**{**fields, "qid": t.qid, "query": t.query, **one}) for t in TOPICS.itertuples()]
    needs = frozenset({losses.SCORES})
    student.prepare_lists(lists, needs)
    mask = torch.ones(len(lists), len(DOCUMENTS), dtype=torch.bool)
    return student.forward(student.collate(lists, needs), mask, needs).scores.detach().numpy()


# -- one similarity ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [
    {}, {"name": "dot"}, {"normalise": True}, {"name": "dot", "normalise": True}, {"truncate_dim": 12},
    {"normalise": True, "truncate_dim": 12}, {"name": "dot", "truncate_dim": 12}, {"pooling": "cls"},
    {"name": "dot", "normalise": True, "truncate_dim": 12}, {"truncate_dim": 64},
])  # fmt: skip
def test_ranking_search_training_and_sentence_transformers_agree(settings, tiny, tmp_path):
    path = made(tmp_path, tiny, **settings)
    expected = reference(path)
    student = ptd.BiEncoder(path, **FP32)
    for one in (student, student.save(tmp_path / "again"), ptd.BiEncoder(student, layers=4, **FP32)):
        np.testing.assert_allclose(one(RESULTS)["score"].to_numpy().reshape(2, -1), expected, atol=1e-5)
    np.testing.assert_allclose(reference(str(tmp_path / "again")), expected, atol=1e-5)
    index, found = searched(student, tmp_path)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(trained_on(student), expected, atol=1e-5)
    asymmetric = ptd.BiEncoder(student, doc_encoder=student, freeze_docs=True, doc_index=index, **FP32)
    np.testing.assert_allclose(
        asymmetric(RESULTS.drop(columns="text"))["score"], expected.ravel(), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(trained_on(asymmetric), expected, rtol=1e-4, atol=1e-4)
    size = min(32, settings.get("truncate_dim", 32))
    assert student.dimension == size and student.encode_docs(["red"]).shape == (1, size)
    assert student.encode_queries_torch(["red"]).shape == (1, size)
    cosines = settings.get("name") != "dot" or (settings.get("normalise", False) and size == 32)
    assert student.scores_cosines is cosines


def test_a_real_matryoshka_setting(minilm, tmp_path):
    from sentence_transformers import SentenceTransformer

    path = str(tmp_path / "m")
    SentenceTransformer(minilm, truncate_dim=64, device="cpu").save_pretrained(path, create_model_card=False)
    student = ptd.BiEncoder(path, **FP32).save(tmp_path / "again")
    assert student.dimension == 64
    np.testing.assert_allclose(student(RESULTS)["score"], reference(path).ravel(), atol=1e-5)
    np.testing.assert_allclose(searched(student, tmp_path)[1], reference(path), atol=1e-4)


def test_an_index_told_of_cosines_and_one_of_raw_vectors_rank_alike(tiny, tmp_path):
    path = made(tmp_path, tiny)
    student = ptd.BiEncoder(path, **FP32)
    np.testing.assert_allclose(searched(student, tmp_path, sim_fn=student.sim_fn)[1], reference(path), atol=1e-4)
    from sentence_transformers import SentenceTransformer

    raw = SentenceTransformer(path, device="cpu").encode_document(DOCUMENTS["text"].tolist())
    assert not np.allclose(np.linalg.norm(raw, axis=1), 1, atol=1e-2)
    index = pyterrier_dr.FlexIndex(str(tmp_path / "raw.flex"), verbose=False)
    index.index([{"docno": d, "doc_vec": v} for d, v in zip(DOCUMENTS["docno"], raw)])
    looked_up = ptd.BiEncoder(path, doc_index=index, **FP32)
    np.testing.assert_allclose(looked_up(RESULTS)["score"], reference(path).ravel(), atol=1e-4)
    given = RESULTS.drop(columns="text").assign(doc_vec=[raw[i % len(raw)] for i in range(len(RESULTS))])
    np.testing.assert_allclose(student(given)["score"], reference(path).ravel(), atol=1e-5)


def test_labels_are_the_vectors_that_training_compares(tiny, tmp_path):
    """EmbeddingMatch of a student with its own labels is 0, cosine or not, cut or not."""
    for name, cut in (("cosine", None), ("dot", None), ("cosine", 12)):
        student = ptd.BiEncoder(made(tmp_path, tiny, name=name, truncate_dim=cut), **FP32)
        vectors = np.stack(list(student.query_encoder()(TOPICS)["query_vec"]))
        outputs = training.embed(student, student.tokenise(TOPICS["query"].tolist(), "query"), "query").detach().numpy()
        np.testing.assert_allclose(outputs, vectors, atol=1e-6)
        with_states = student.query_encoder(states=[4])(TOPICS)
        np.testing.assert_allclose(np.stack(list(with_states["query_vec"])), vectors, atol=1e-6)
        embedded, _ = states.embed(student, student.tokenise(TOPICS["query"].tolist(), "query"))
        np.testing.assert_allclose(embedded.detach().numpy(), vectors, atol=1e-6)


def test_two_encoders_of_which_one_normalises(tiny, tmp_path):
    """The similarity is the documents' encoder's, and holds for both sides."""
    plain = ptd.BiEncoder(made(tmp_path, tiny), **FP32)
    normalising = ptd.BiEncoder(tiny, **FP32)
    for queries, documents in ((plain, normalising), (normalising, plain)):
        student = ptd.BiEncoder(queries, doc_encoder=documents, **FP32)
        expected = queries.encode_queries(TOPICS["query"]) @ documents.encode_docs(DOCUMENTS["text"]).T
        np.testing.assert_allclose(student(RESULTS)["score"], expected.ravel(), atol=1e-5)
        np.testing.assert_allclose(searched(student, tmp_path)[1], expected, atol=1e-4)
        np.testing.assert_allclose(trained_on(student), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["euclidean", "manhattan"])
def test_distances_are_refused(name, tiny, tmp_path):
    student = ptd.BiEncoder(made(tmp_path, tiny, name=name), **FP32)
    with pytest.raises(ValueError, match=f"compares by {name} distance.*set similarity_fn_name"):
        student(RESULTS)


# -- settings of the model --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changed", [{"layers": 3}, {"pooling": "cls"}, {"max_length": 20}, {}])
def test_settings_outside_of_the_modules_survive(changed, tiny, tmp_path):
    prompts = {"query": "find ", "document": "text ", "other": "sort "}
    path = made(tmp_path, tiny, truncate_dim=12, prompts=prompts, default_prompt_name="other")
    student = ptd.BiEncoder(path, **changed, **FP32)
    for one in (student, student.save(tmp_path / "again")):
        model = one.model
        assert (model.truncate_dim, model.default_prompt_name, model.prompts) == (12, "other", prompts)
        assert one.dimension == 12
    assert student.model.max_seq_length == changed.get("max_length", 512)


def test_a_projection_is_as_long_as_asked_for_and_sides_must_agree(tiny, tmp_path):
    path = made(tmp_path, tiny, truncate_dim=12)
    assert ptd.BiEncoder(path, projection=20, **FP32).encode_queries(["red"]).shape == (1, 20)
    with pytest.raises(ValueError, match="gives 12 dimensions and the document encoder 32: pass projection=32"):
        ptd.BiEncoder(path, doc_encoder=tiny, **FP32).encode_queries(["red"])
    with pytest.raises(ValueError, match="gives 32 dimensions and the document encoder 12: pass projection=12"):
        ptd.BiEncoder(tiny, doc_encoder=path, **FP32).encode_queries(["red"])
    both = ptd.BiEncoder(tiny, doc_encoder=path, projection=12, **FP32)
    assert both.encode_queries(["red"]).shape == both.encode_docs(["red"]).shape == (1, 12)
    ptd.BiEncoder(tiny, projection=20, **FP32).save(tmp_path / "projected")
    twice = ptd.BiEncoder(tmp_path / "projected", projection=6, **FP32)  # behind the one that it has
    assert twice.encode_queries(["red"]).shape == twice.encode_docs(["red"]).shape == (1, 6)


def test_late_interaction_keeps_its_settings(tiny, tmp_path):
    from sentence_transformers import MultiVectorEncoder

    student = ptd.LateInteraction(tiny, **FP32)
    model = student.model
    model.prompts["other"], model.default_prompt_name = "sort ", "other"
    model.save_pretrained(str(tmp_path / "m"), create_model_card=False)
    again = ptd.LateInteraction(str(tmp_path / "m"), dimension=16, **FP32).save(tmp_path / "again")
    assert again.model.default_prompt_name == "other" and again.model.prompts["other"] == "sort "
    assert MultiVectorEncoder(str(tmp_path / "again"), device="cpu").default_prompt_name == "other"


def test_a_cross_encoders_default_prompt_is_read(tiny_cross, tmp_path):
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(tiny_cross, device="cpu", prompts={"task": "find the dog "}, default_prompt_name="task")
    model.save_pretrained(str(tmp_path / "m"), create_model_card=False)
    expected = model.predict(RESULTS[["query", "text"]].values.tolist(), activation_fn=torch.nn.Identity())
    student = ptd.CrossEncoder(str(tmp_path / "m"), **FP32)
    for ranker in (student, student.save(tmp_path / "again"), ptd.PointwiseTeacher(str(tmp_path / "m"), **FP32)):
        np.testing.assert_allclose(ranker(RESULTS)["score"], expected, atol=1e-5)
    assert not np.allclose(ptd.CrossEncoder(tiny_cross, **FP32)(RESULTS)["score"], expected, atol=1e-3)


# -- zero vectors -----------------------------------------------------------------------------------------------------


@pytest.fixture
def words(tiny, tmp_path):
    """Static embeddings: an empty text has no vector but zero."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from transformers import AutoTokenizer

    torch.manual_seed(0)
    plain = AutoTokenizer.from_pretrained(os.path.join(os.path.dirname(tiny), "plain"))
    model = SentenceTransformer(modules=[StaticEmbedding(plain, embedding_dim=16)], device="cpu")
    model.save_pretrained(str(tmp_path / "words"), create_model_card=False)
    return str(tmp_path / "words")


def test_a_zero_vector_scores_zero_everywhere(words, tmp_path, monkeypatch):
    texts = DOCUMENTS["text"].tolist()
    monkeypatch.setitem(globals(), "DOCUMENTS", DOCUMENTS.assign(text=["", *texts[1:]]))
    monkeypatch.setitem(globals(), "RESULTS", TOPICS.merge(DOCUMENTS, how="cross"))
    student = ptd.BiEncoder(words, **FP32)
    expected = reference(words)
    assert (expected[:, 0] == 0).all()
    scored = student(RESULTS)
    np.testing.assert_allclose(scored["score"].to_numpy().reshape(2, -1), expected, atol=1e-5)
    assert scored["rank"].dtype.kind == "i"
    np.testing.assert_allclose(searched(student, tmp_path)[1], expected, atol=1e-5)
    np.testing.assert_allclose(trained_on(student), expected, atol=1e-5)


def test_zero_vectors_have_length_zero_and_no_gradient():
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-20, 0.0]], requires_grad=True)
    units = unit(vectors)
    expected = torch.nn.functional.normalize(vectors.detach(), dim=-1)
    np.testing.assert_allclose(units.detach(), expected, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(unit_rows(vectors.detach().numpy()), expected, rtol=1e-6, atol=1e-12)
    units[:2].sum().backward()
    assert torch.isfinite(vectors.grad).all() and (vectors.grad[1] == 0).all() and (vectors.grad[0] != 0).any()
    rows = unit_rows(np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32))
    np.testing.assert_array_equal(unit_rows(rows), rows)


# -- as pyterrier_dr's ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", ["BiEncoder", "asymmetric", "USTAD"])
def test_what_pyterrier_dr_asks_of_a_bi_encoder(make, tiny, tmp_path, documents):
    """Query and document encoder, scorer of texts and vectors in all four ways, empty frames, indexing, retrieval."""
    student = {
        "BiEncoder": lambda: ptd.BiEncoder(tiny, **FP32),
        "asymmetric": lambda: ptd.BiEncoder(tiny, doc_encoder=tiny, freeze_docs=True, **FP32),
        "USTAD": lambda: ptd.USTAD(tiny, mode="dual", **FP32).as_bi_encoder(),
    }[make]()
    queries, docs = student(TOPICS), student(documents)
    for frame, given, column in ((queries, TOPICS, "query_vec"), (docs, documents, "doc_vec")):
        assert len(frame) == len(given) and set(given.columns) < set(frame.columns)
        assert frame[column].dtype == object and frame[column][0].dtype == np.float32
        assert {vector.shape for vector in frame[column]} == {(student.dimension,)}
    texts = student(TOPICS.merge(documents, how="cross"))
    frames = {
        "vectors and texts": queries.drop(columns="query").merge(documents, how="cross"),
        "texts and vectors": TOPICS.merge(docs.drop(columns="text"), how="cross"),
        "vectors": queries.drop(columns="query").merge(docs.drop(columns="text"), how="cross"),
    }
    for name, frame in frames.items():
        for scored in (student(frame), student.scorer()(frame)):
            assert set(frame.columns) | {"score", "rank"} == set(scored.columns), name
            np.testing.assert_allclose(scored["score"], texts["score"], atol=1e-4, rtol=1e-5)
            assert scored["rank"].tolist() == texts["rank"].tolist()
    for columns, new in ((["qid", "query"], ["query_vec"]), (["docno", "text"], ["doc_vec"]),
                         (["qid", "query", "docno", "text"], ["score", "rank"])):  # fmt: skip
        empty = student(pd.DataFrame(columns=columns))
        assert len(empty) == 0 and {*columns, *new} <= set(empty.columns)
    alone = student(pd.DataFrame({"query": TOPICS["query"]})), student(pd.DataFrame({"text": documents["text"]}))
    assert list(alone[0].columns) == ["query", "query_vec"] and list(alone[1].columns) == ["text", "doc_vec"]
    np.testing.assert_allclose(np.stack(list(alone[0]["query_vec"])), np.stack(list(queries["query_vec"])), atol=1e-6)
    index = pyterrier_dr.FlexIndex(str(tmp_path / "index"), verbose=False)
    pipeline = student >> index
    pipeline.index(documents.to_dict("records"))
    assert index.built() and len(index) == len(documents)
    found = pipeline(TOPICS)
    assert {"qid", "query", "docno", "score", "rank"} <= set(found.columns)
    whole = found.merge(texts, on=["qid", "docno"])
    np.testing.assert_allclose(whole["score_x"], whole["score_y"], atol=1e-3, rtol=1e-4)


def test_frames_that_are_neither_are_refused(tiny):
    for student in (ptd.BiEncoder(tiny, **FP32), ptd.USTAD(tiny, **FP32).as_bi_encoder()):
        for columns in (["qid"], ["docno", "query_vec"], ["qid", "query", "docno"]):
            with pytest.raises(pt.validate.InputValidationError):
                student(pd.DataFrame([["x"] * len(columns)], columns=columns))
