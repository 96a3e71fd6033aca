"""Students that inherit the documents of a USTAD, or of another library's encoder (USTAD §5.2, Table 2)."""

import json
import logging
import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyterrier as pt
import pyterrier_dr
import pytest
import torch
from pyterrier_dr import SimFn

import pyterrier_distill as ptd

FP32 = {"precision": "fp32", "device": "cpu"}


class Words(pyterrier_dr.BiEncoder):
    """Another library's encoder: counts letters."""

    def __init__(self, dimension=48, sim_fn=SimFn.dot):
        super().__init__()
        self.dim = dimension
        self.sim = sim_fn

    decided_by = ("dim", "sim")

    @property
    def sim_fn(self):
        return self.sim

    def encode_docs(self, texts, batch_size=None):
        if not len(texts):
            return np.empty((0, 0))
        counts = [[text.count(chr(97 + n % 26)) + n / 100 for n in range(self.dim)] for text in texts]
        return np.array(counts, dtype=np.float64)

    encode_queries = encode_docs

    def __repr__(self):
        return f"Words({self.dim}, {self.sim})"


@pytest.fixture
def ustad(tiny_wide, tmp_path):
    student = ptd.USTAD(tiny_wide, modes=("cross", "dual"), query_length=16, scale=0.5, **FP32)
    saved = student.save(tmp_path / "ustad")
    saved.precision = "fp32"
    return saved


def built(tiny, encoder, **settings):
    return ptd.BiEncoder(tiny, pooling="cls", projection=48, doc_encoder=encoder, **{**FP32, **settings})


def fitted(student, frame, loss=None, **settings):
    defaults = {"precision": "fp32", "verbose": False, "learning_rate": 1e-2, "epochs": 2, "dropout": 0.0}
    return ptd.Distiller(student, loss or ptd.KLDivergence(), **{**defaults, **settings}).fit(frame)


def scores(student, frame):
    return student(frame)["score"].to_numpy()


def by_hand(student, encoder, frame):
    queries = student.encode_queries(frame["query"].tolist())
    documents = np.asarray(encoder.encode_docs(frame["text"].tolist()), dtype=np.float32)
    return np.einsum("nd,nd->n", queries, documents)


def weights(ustad):
    return [parameter.detach().clone() for parameter in ustad.model.parameters()]


def test_scores_are_inner_products_with_the_ustads_documents(tiny, ustad, results):
    teacher = ustad.as_bi_encoder()
    for given in (ustad, teacher, str(ustad.path)):
        student = built(tiny, given)
        assert student.apart and student.asymmetric and student.freeze_docs
        assert student.score_scale == student.known_scale() == "dot product" and student.sim_fn == SimFn.dot
        mine, theirs = student.encode_docs(results["text"]), teacher.encode_docs(results["text"])
        np.testing.assert_allclose(mine, theirs, atol=1e-6)
        np.testing.assert_allclose(scores(student, results), by_hand(student, teacher, results), rtol=1e-5, atol=1e-5)
        # the checkpoint normalises; compared by inner products, its vectors are not
        assert not np.allclose(np.linalg.norm(student.encode_queries(["red dog"]), axis=1), 1, atol=1e-2)


def test_rows_3_to_5_of_table_2_train_the_query_encoder_alone(tiny, ustad, results, qrels):
    teacher = ustad.as_bi_encoder()
    frame = teacher.query_encoder()(results)
    before = weights(ustad)
    losses = {
        "inherit": ptd.InfoNCE() + ptd.KLDivergence(),
        "matching": ptd.InfoNCE() + ptd.KLDivergence() + 0.02 * ptd.EmbeddingMatch(on=("query",)),
        "matching only": ptd.EmbeddingMatch(on=("query",)),
    }
    for loss in losses.values():
        student = built(tiny, ustad)
        start, documents = student.encode_queries(["red dog"]), student.encode_docs(["a tree"])
        distiller = ptd.Distiller(student, loss, precision="fp32", verbose=False, learning_rate=1e-2, epochs=2)
        distiller.fit(frame, qrels)
        assert not np.allclose(student.encode_queries(["red dog"]), start, atol=1e-3)
        np.testing.assert_array_equal(student.encode_docs(["a tree"]), documents)
    assert all(torch.equal(a, b) for a, b in zip(weights(ustad), before, strict=True))


def test_it_comes_nearer_to_the_teachers_queries(tiny, ustad, results):
    teacher = ustad.as_bi_encoder()
    queries = teacher.query_encoder()(results[["qid", "query"]].drop_duplicates())
    student = built(tiny, ustad)

    def distance():
        mine, theirs = student.encode_queries(queries["query"]), np.stack(list(queries["query_vec"]))
        return float(np.linalg.norm(mine - theirs, axis=1).mean())

    before = distance()
    fitted(student, queries, ptd.EmbeddingMatch(), epochs=60)
    assert distance() < before / 2


def test_the_saved_student_refers_to_a_saved_ustad(tiny, ustad, results, tmp_path):
    from sentence_transformers import SentenceTransformer

    student = built(tiny, ustad)
    fitted(student, results)
    found, path = scores(student, results), tmp_path / "student"
    saved = student.save(path)
    meta = json.loads((path / "pt_meta.json").read_text())
    assert meta["doc_encoder"]["path"] == str(ustad.path) and not (path / "document_encoder").exists()
    for again in (saved, ptd.BiEncoder(path, **FP32), pickle.loads(pickle.dumps(saved)), pt.Artifact.load(str(path))):
        again.precision = "fp32"
        assert again.apart and again.freeze_docs
        np.testing.assert_allclose(scores(again, results), found, rtol=1e-5, atol=1e-5)
    other = SentenceTransformer(str(path), device="cpu")  # the query encoder
    np.testing.assert_allclose(other.encode_query(["red dog"]), student.encode_queries(["red dog"]), atol=1e-5)
    card = (path / "README.md").read_text()
    assert "It encodes queries; its documents are encoded by `USTADBiEncoder(" in card


def test_a_ustad_that_is_saved_nowhere_is_saved_with_it(tiny, tiny_wide, results, qrels, tmp_path):
    teacher = ptd.USTAD(tiny_wide, query_length=16, **FP32)
    ptd.Distiller(teacher, ptd.LocalizedContrastive(), precision="fp32", verbose=False, steps=2).fit(results, qrels)
    student = built(tiny, teacher)
    found = scores(student, results)
    student.save(tmp_path / "one")
    assert (tmp_path / "one" / "document_encoder" / "pt_meta.json").is_file()
    shutil.move(tmp_path / "one", tmp_path / "two")  # it goes along
    again = ptd.BiEncoder(tmp_path / "two", **FP32)
    np.testing.assert_allclose(scores(again, results), found, rtol=1e-5, atol=1e-5)
    fitted(again, results)
    found = scores(again, results)
    again.save(tmp_path / "two", overwrite=True)  # and is not lost when the student takes its own place
    np.testing.assert_allclose(scores(ptd.BiEncoder(tmp_path / "two", **FP32), results), found, rtol=1e-5, atol=1e-5)


def test_what_is_not_there_or_is_another_is_said(tiny, ustad, results, tmp_path):
    student = built(tiny, ustad)
    student.save(tmp_path / "student")
    shutil.move(ustad.path, tmp_path / "elsewhere")
    again = ptd.BiEncoder(tmp_path / "student", **FP32)
    assert again.encode_queries(["red"]).shape == (1, 48)  # queries need no documents
    with pytest.raises(FileNotFoundError, match="documents of .*student.* are encoded by .*pass it as doc_encoder="):
        scores(again, results)
    moved = ptd.BiEncoder(tmp_path / "student", doc_encoder=tmp_path / "elsewhere", **FP32)
    np.testing.assert_allclose(scores(moved, results), by_hand(student, moved, results), rtol=1e-5, atol=1e-5)
    other = ptd.USTAD(tmp_path / "elsewhere", scale=3.0, **FP32)
    other.save(ustad.path)
    with pytest.raises(ValueError, match="holds another model than it was trained with"):
        scores(ptd.BiEncoder(tmp_path / "student", **FP32), results)


def test_a_student_is_never_written_over_the_encoder_of_its_documents(tiny, ustad):
    with pytest.raises(ValueError, match="holds what this student needs"):
        built(tiny, ustad).save(ustad.path, overwrite=True)


@pytest.mark.parametrize("sim_fn", [SimFn.dot, SimFn.cos])
def test_another_librarys_encoder(sim_fn, tiny, results, tmp_path, caplog):
    encoder = Words(sim_fn=sim_fn)
    student = built(tiny, encoder)
    fitted(student, results, ptd.KLDivergence(temperature=0.5))
    documents = encoder.encode_docs(results["text"].tolist())
    queries = student.encode_queries(results["query"])
    if sim_fn == SimFn.cos:
        documents = documents / np.linalg.norm(documents, axis=1, keepdims=True)
        np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, atol=1e-5)
    expected = np.einsum("nd,nd->n", queries, documents)
    assert student.score_scale == {"dot": "dot product", "cos": "cosine"}[sim_fn.value] == student.known_scale()
    np.testing.assert_allclose(scores(student, results), expected, rtol=1e-5, atol=1e-5)
    index = pyterrier_dr.FlexIndex(str(tmp_path / "docs.flex"), verbose=False, sim_fn=sim_fn)
    (encoder >> index).index(results[["docno", "text"]].drop_duplicates().to_dict("records"))
    found = (student.query_encoder() >> index.np_retriever())(results[["qid", "query"]].drop_duplicates())
    both = found.merge(results.assign(score=expected), on=["qid", "docno"])
    np.testing.assert_allclose(both["score_x"], both["score_y"], rtol=1e-4, atol=1e-4)

    student.save(tmp_path / "student")
    alone = ptd.BiEncoder(tmp_path / "student", **FP32)
    np.testing.assert_allclose(alone.encode_queries(results["query"]), queries, atol=1e-5)
    with pytest.raises(ValueError, match=r"was saved without Words\(48.*pass it as doc_encoder="):
        scores(alone, results)
    with caplog.at_level(logging.WARNING):
        again = ptd.BiEncoder(tmp_path / "student", doc_encoder=Words(sim_fn=sim_fn), **FP32)
        np.testing.assert_allclose(scores(again, results), expected, rtol=1e-5, atol=1e-5)
        assert "encodes them now" not in caplog.text
    alone.save(tmp_path / "copy")  # which remembers what it was trained with
    told = [json.loads((tmp_path / n / "pt_meta.json").read_text())["doc_encoder"] for n in ("student", "copy")]
    assert told[0] == told[1]


def test_another_encoder_than_it_was_trained_with_is_warned_of(tiny, results, tmp_path, caplog):
    class Others(Words):
        """Another one."""

        def __repr__(self):
            return "Others()"

    built(tiny, Words()).save(tmp_path / "student")
    with caplog.at_level(logging.WARNING):
        student = ptd.BiEncoder(tmp_path / "student", doc_encoder=Others(), **FP32)
        scores(student, results)
    assert "was trained with the documents of Words(48" in caplog.text and "Others() encodes them now" in caplog.text


def test_documents_of_an_index_are_looked_up(tiny, ustad, results, tmp_path):
    index = pyterrier_dr.FlexIndex(str(tmp_path / "docs.flex"), verbose=False)
    (ustad.as_bi_encoder() >> index).index(results[["docno", "text"]].drop_duplicates().to_dict("records"))
    student = built(tiny, ustad, doc_index=index)
    fitted(student, results.drop(columns="text"))
    found = scores(student, results.drop(columns="text"))
    np.testing.assert_allclose(found, by_hand(student, ustad.as_bi_encoder(), results), rtol=1e-5, atol=1e-5)


def test_a_copy_and_a_student_of_such_a_student(tiny, ustad, results):
    student = built(tiny, ustad)
    copy = ptd.BiEncoder(student, **FP32)
    assert copy.apart
    np.testing.assert_allclose(scores(copy, results), scores(student, results), atol=1e-6)
    heir = ptd.BiEncoder(tiny, projection=48, doc_encoder=student, **FP32)  # its documents are the USTAD's
    assert heir.apart
    np.testing.assert_array_equal(heir.encode_docs(["red dog"]), student.encode_docs(["red dog"]))


def test_an_adapter_beside_documents_apart(tiny, ustad, results, tmp_path):
    pytest.importorskip("peft")
    plain = str(Path(tiny).parent / "plain")
    student = ptd.BiEncoder(plain, projection=48, lora={"r": 2}, doc_encoder=ustad, **FP32)
    fitted(student, results)
    saved = student.save(tmp_path / "student")
    saved.precision = "fp32"
    np.testing.assert_allclose(scores(saved, results), scores(student, results), rtol=1e-5, atol=1e-5)


def test_bad_input(tiny, ustad, tiny_cross):
    for wrong in (ptd.CrossEncoder(tiny_cross), 3, pd.DataFrame()):
        with pytest.raises(TypeError, match="doc_encoder must be a BiEncoder, a USTAD, another pyterrier_dr.BiEncoder"):
            ptd.BiEncoder(tiny, doc_encoder=wrong)
    with pytest.raises(ValueError, match="freeze_docs=False: training cannot change USTADBiEncoder"):
        built(tiny, ustad, freeze_docs=False)
    with pytest.raises(ValueError, match="query encoder gives 32 .* document encoder 48: pass projection=48"):
        ptd.BiEncoder(tiny, doc_encoder=ustad, **FP32).model  # noqa: B018
    with pytest.raises(ValueError, match="similarity='cos' would give the frozen vectors"):
        built(tiny, ustad, similarity="cos").model  # noqa: B018
    with pytest.raises(ValueError, match="query encoder gives 48 .* document encoder 7: pass projection=7"):
        built(tiny, Words(7)).model  # noqa: B018

    class Ragged(Words):
        """Gives one document too few."""

        def encode_docs(self, texts, batch_size=None):
            return super().encode_docs(list(texts)[:1])

    with pytest.raises(ValueError, match="not the encoder that this student was built for"):
        built(tiny, Ragged()).encode_docs(["red", "dog"])


def test_a_saved_student_takes_no_settings_that_its_documents_refuse(tiny, ustad, tmp_path):
    """As when the encoder to which it refers is passed; of a copy of the student likewise."""
    built(tiny, ustad).save(tmp_path / "student")
    for source in (tmp_path / "student", ptd.BiEncoder(tmp_path / "student", **FP32)):
        with pytest.raises(ValueError, match="similarity='cos' would give the frozen vectors"):
            ptd.BiEncoder(source, similarity="cos", **FP32).model  # noqa: B018
        with pytest.raises(ValueError, match="query encoder gives 16 .* document encoder 48: pass projection=48"):
            ptd.BiEncoder(source, projection=16, **FP32).model  # noqa: B018
        assert ptd.BiEncoder(source, projection=48, **FP32).score_scale == "dot product"
    built(tiny, Words()).save(tmp_path / "other")
    with pytest.raises(ValueError, match=r"saved without Words.*pass it as doc_encoder="):
        ptd.BiEncoder(tmp_path / "other", similarity="cos", **FP32).model  # noqa: B018
    assert ptd.BiEncoder(tmp_path / "other", similarity="dot", **FP32).model is not None


def test_what_is_written_elsewhere_holds_the_ustad(tiny, ustad, results, tmp_path):
    """As for the hub, which has no directory of this machine."""
    student = built(tiny, ustad)
    with student.standing_alone():
        student.save(tmp_path / "student")
    shutil.rmtree(ustad.path)
    again = ptd.BiEncoder(tmp_path / "student", **FP32)
    assert np.isfinite(scores(again, results)).all()
