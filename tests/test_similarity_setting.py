"""BiEncoder(similarity=): inner products or cosines, saved with the student; losses that cosines do not teach."""

import json
import logging
import os

import numpy as np
import pyterrier_dr
import pytest
import torch
from pyterrier_dr import SimFn

import pyterrier_distill as ptd
from pyterrier_distill.losses.temperature import warn_of_cosines

FP32 = {"precision": "fp32", "device": "cpu"}
QUERIES, TEXTS = ["red dog", "bird"], ["red dog", "blue bird sings", "house", "the dog runs"]


@pytest.fixture
def plain(tiny):
    """A transformers checkpoint, of which sentence-transformers knows nothing."""
    return os.path.join(os.path.dirname(tiny), "plain")


def pooled(checkpoint, texts):
    """Mean-pooled vectors by transformers alone, unnormalised."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(checkpoint), AutoModel.from_pretrained(checkpoint).eval()
    vectors = []
    for text in texts:
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        vectors.append(states.mean(dim=0).numpy())
    return np.stack(vectors)


def products(student):
    return student.encode_queries(QUERIES) @ student.encode_docs(TEXTS).T


def test_inner_products_and_cosines_of_a_plain_checkpoint(plain, tmp_path):
    from sentence_transformers import SentenceTransformer

    queries, documents = pooled(plain, QUERIES), pooled(plain, TEXTS)
    lengths = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(documents, axis=1)
    expected = {"dot": queries @ documents.T, "cos": queries @ documents.T / lengths}
    for similarity, scores in expected.items():
        student = ptd.BiEncoder(plain, similarity=similarity, **FP32)
        assert f"similarity='{similarity}'" in repr(student)
        np.testing.assert_allclose(products(student), scores, atol=1e-5)
        assert student.score_scale == {"dot": "dot product", "cos": "cosine"}[similarity] == student.known_scale()
        assert student.sim_fn == {"dot": SimFn.dot, "cos": SimFn.cos}[similarity]
        saved = student.save(tmp_path / similarity)
        assert f"similarity='{similarity}'" in repr(saved) and json.loads(
            (tmp_path / similarity / "pt_meta.json").read_text()
        )["similarity"] == similarity
        other = SentenceTransformer(str(tmp_path / similarity), device="cpu")
        theirs = other.similarity(other.encode_query(QUERIES), other.encode_document(TEXTS)).numpy()
        np.testing.assert_allclose(theirs, scores, atol=1e-5)
        saved.precision = "fp32"
        np.testing.assert_allclose(products(saved), scores, atol=1e-5)
    np.testing.assert_allclose(products(ptd.BiEncoder(plain, **FP32)), expected["cos"], atol=1e-5)  # as ever


def test_a_normalisation_at_the_end_is_left_out_for_inner_products(tiny, plain, tmp_path):
    student = ptd.BiEncoder(tiny, similarity="dot", **FP32)
    np.testing.assert_allclose(products(student), pooled(plain, QUERIES) @ pooled(plain, TEXTS).T, atol=1e-5)
    index = pyterrier_dr.FlexIndex(str(tmp_path / "docs.flex"), verbose=False)
    (student >> index).index([{"docno": str(n), "text": text} for n, text in enumerate(TEXTS)])
    np.testing.assert_allclose(index.payload()[1], student.encode_docs(TEXTS), atol=1e-6)
    again = ptd.BiEncoder(student, similarity="cos", **FP32)
    np.testing.assert_allclose(products(again), products(ptd.BiEncoder(tiny, **FP32)), atol=1e-5)


def test_students_without_it_are_what_they_were(tiny, tmp_path):
    student = ptd.BiEncoder(tiny, **FP32)
    assert "similarity" not in repr(student)
    saved = student.save(tmp_path / "student")
    assert "similarity" not in repr(saved) and "similarity" not in json.loads(
        (tmp_path / "student" / "pt_meta.json").read_text()
    )


def test_what_is_made_of_a_student_is_saved_with_its_similarity(tiny, tmp_path):
    dots = ptd.BiEncoder(tiny, similarity="dot", **FP32)
    made = (ptd.BiEncoder.truncated(dots, 2, **FP32), ptd.BiEncoder(tiny, layers=2, doc_encoder=dots, **FP32))
    for number, student in enumerate(made):
        saved = student.save(tmp_path / str(number))
        assert "similarity='dot'" in repr(saved) and saved.score_scale == "dot product"
        saved.precision = "fp32"
        np.testing.assert_allclose(products(saved), products(student), atol=1e-5)
    other = ptd.BiEncoder(dots, similarity="cos", **FP32).save(tmp_path / "cos")
    assert "similarity='cos'" in repr(other)


def test_the_documents_of_a_frozen_encoder_keep_their_vectors(tiny, plain, tmp_path):
    documents = ptd.BiEncoder(plain, **FP32)  # cosines, normalised behind its modules
    shared = {"doc_encoder": documents, "freeze_docs": True, **FP32}
    student = ptd.BiEncoder(tiny, similarity="dot", layers=2, **shared)
    np.testing.assert_allclose(student.encode_docs(TEXTS), documents.encode_docs(TEXTS), atol=1e-6)
    assert not np.allclose(np.linalg.norm(student.encode_queries(QUERIES), axis=1), 1, atol=1e-2)
    assert student.score_scale == "dot product"
    saved = student.save(tmp_path / "student")
    saved.precision = "fp32"
    assert "similarity='dot'" in repr(saved)
    np.testing.assert_allclose(products(saved), products(student), atol=1e-5)
    dots = ptd.BiEncoder(plain, similarity="dot", **FP32)
    with pytest.raises(ValueError, match="similarity='cos' would give the frozen vectors"):
        ptd.BiEncoder(tiny, similarity="cos", doc_encoder=dots, freeze_docs=True, **FP32).model  # noqa: B018
    with pytest.raises(ValueError, match="similarity, append_eos cannot change a saved asymmetric student"):
        ptd.BiEncoder(tmp_path / "student", similarity="cos", **FP32).model  # noqa: B018


def test_what_cannot_be_is_refused(tiny):
    for wrong in ("cosine", "l2", 1):
        with pytest.raises(ValueError, match="similarity must be 'dot' or 'cos', or None"):
            ptd.BiEncoder(tiny, similarity=wrong)


def test_it_can_replace_a_distance(tiny, tmp_path):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(tiny, device="cpu")
    model.similarity_fn_name = "euclidean"
    model.save_pretrained(str(tmp_path / "m"), create_model_card=False)
    with pytest.raises(ValueError, match='euclidean distance.*pass similarity="dot"'):
        ptd.BiEncoder(tmp_path / "m", **FP32).model  # noqa: B018
    assert ptd.BiEncoder(tmp_path / "m", similarity="cos", **FP32).score_scale == "cosine"


# -- losses that cosines do not teach ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "way"),
    [
        (ptd.InfoNCE(), "pass temperature=0.05"),
        (ptd.KLDivergence(), "temperature=0.05"),
        (ptd.ListNet(), r"take a loss that has a temperature, such as KLDivergence\(temperature=0.05\)"),
        (ptd.LocalizedContrastive(temperature=2.0), "pass temperature=0.05"),
        (ptd.LambdaLoss(), r"pass sigma=20 \(temperature is 1 / sigma\)"),
        (ptd.ApproxNDCG(alpha=0.5), "pass alpha=20"),
        (ptd.ADRMSE(), "pass alpha=20"),
        (ptd.MSE() + 0.5 * ptd.RankNet(), r"RankNet\(\) reads cosines.*pass temperature=0.05"),
    ],
    ids=repr,
)
def test_cosines_at_temperature_1_are_warned_of_before_training(loss, way, tiny, caplog):
    import re

    with caplog.at_level(logging.WARNING):
        ptd.Distiller(ptd.BiEncoder(tiny, **FP32), loss)
    assert len(caplog.records) == 1
    message = caplog.records[0].getMessage()
    assert re.search(way, message) and "similarity='dot'" in message


def test_others_are_not_warned_of(tiny, tiny_cross, caplog):
    cosines, dots = ptd.BiEncoder(tiny, **FP32), ptd.BiEncoder(tiny, similarity="dot", **FP32)
    with caplog.at_level(logging.WARNING):
        for loss in (ptd.InfoNCE(temperature=0.05), ptd.EmbeddingMatch(), ptd.MarginMSE(), ptd.MSE(),
                     ptd.LambdaLoss(sigma=20), ptd.ADRMSE(alpha=10.0), ptd.ApproxNDCG(alpha=20)):  # fmt: skip
            ptd.Distiller(cosines, loss)
        for student in (dots, ptd.CrossEncoder(tiny_cross, **FP32), ptd.LateInteraction(tiny, **FP32)):
            ptd.Distiller(student, ptd.KLDivergence())
    assert not caplog.records
    assert not warn_of_cosines(ptd.KLDivergence(), cosines, None)


def test_it_warns_once(tiny, results, monkeypatch, caplog):
    settings = {"steps": 1, "precision": "fp32", "verbose": False}
    with caplog.at_level(logging.WARNING, "pyterrier_distill.losses.temperature"):
        distiller = ptd.Distiller(ptd.BiEncoder(tiny, **FP32), ptd.KLDivergence(), **settings)
        distiller.fit(results)
        distiller.fit(results)
    assert len(caplog.records) == 1
    caplog.clear()
    monkeypatch.setattr(ptd.BiEncoder, "known_scale", lambda self: None)  # as of a name on the hub
    with caplog.at_level(logging.WARNING, "pyterrier_distill.losses.temperature"):
        distiller = ptd.Distiller(ptd.BiEncoder(tiny, **FP32), ptd.KLDivergence(), **settings)
        assert not caplog.records
        distiller.fit(results)
    assert len(caplog.records) == 1
