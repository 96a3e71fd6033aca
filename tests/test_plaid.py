"""Retrieval through PLAID: with fast-plaid itself where it is installed for this torch, else with a stand-in of its
interface."""

import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import pyterrier_distill as ptd
from pyterrier_distill.identity.content import checkpoint
from pyterrier_distill.identity.identity import identity
from pyterrier_distill.multi_vector import plaid


def available():
    try:
        plaid.check_engine()
    except ModuleNotFoundError:
        return False
    return True


class Standing:
    """Has FastPlaid's interface; sees the documents whose number is not a multiple of 5, and rounds their vectors."""

    built = 0
    nbits = ()

    def __init__(self, index, device):
        self.file = Path(index) / "documents.pkl"
        assert device in ("cpu", "cuda")

    def create(self, documents_embeddings, nbits):
        type(self).built += 1
        type(self).nbits += (nbits,)
        self.file.write_bytes(pickle.dumps([one.float().numpy() for one in documents_embeddings]))
        return self

    def get_embeddings(self, subset):
        documents = pickle.loads(self.file.read_bytes())
        return [torch.from_numpy(rounded(documents[number])) for number in subset]

    def search(self, queries_embeddings, top_k, n_ivf_probe, n_full_scores, show_progress):
        assert n_ivf_probe == 8 and n_full_scores >= top_k and show_progress is False
        documents = pickle.loads(self.file.read_bytes())
        found = []
        for query in queries_embeddings:
            scores = [(n, float((query.numpy() @ one.T).max(axis=1).sum())) for n, one in enumerate(documents)]
            seen = sorted((pair for pair in scores if pair[0] % 5), key=lambda pair: -pair[1])
            found.append([(n, value + 0.1) for n, value in seen[:top_k]])  # compressed vectors score otherwise
        return found


def rounded(found):
    """As the stand-in compresses vectors."""
    return np.round(found.astype(np.float16).astype(np.float32), 1)


@pytest.fixture
def standing(monkeypatch):
    package = types.ModuleType("fast_plaid")
    package.search = types.ModuleType("fast_plaid.search")
    package.search.FastPlaid = type("FastPlaid", (Standing,), {})
    monkeypatch.setitem(sys.modules, "fast_plaid", package)
    monkeypatch.setitem(sys.modules, "fast_plaid.search", package.search)
    versions = {"fast-plaid": "1.7.0", "torch": torch.__version__}
    monkeypatch.setattr(plaid, "version", versions.get)
    monkeypatch.setattr(plaid, "requires", lambda name: [f"torch=={torch.__version__.split('+')[0]}"])
    return package.search.FastPlaid


def vectors(rng, *shape):
    found = rng.normal(size=shape).astype(np.float32)
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


@pytest.fixture
def corpus():
    rng = np.random.default_rng(0)
    return [{"docno": f"d{n}", "doc_embs": vectors(rng, int(rng.integers(2, 20)), 16)} for n in range(200)]


@pytest.fixture
def queries():
    rng = np.random.default_rng(1)
    return pd.DataFrame([(f"q{n}", vectors(rng, n + 1, 16)) for n in range(5)], columns=["qid", "query_embs"])


@pytest.fixture
def index(corpus, tmp_path):
    return ptd.MultiVectorIndex(tmp_path / "docs.mvi").index(corpus)


SETTINGS = {"num_results": 20, "device": "cpu"}


def test_suggested_documents_have_their_exact_scores(index, queries, standing):
    exact = index.retriever(**{**SETTINGS, "num_results": 200})(queries)
    found = index.retriever(engine="plaid", **SETTINGS)(queries)
    seen = exact[exact["docid"] % 5 != 0].groupby("qid").head(20).reset_index(drop=True)
    assert found["docno"].tolist() == seen["docno"].tolist()
    np.testing.assert_allclose(found["score"], seen["score"], rtol=1e-6)
    assert found["rank"].tolist() == list(range(20)) * 5 and set(found.columns) == set(exact.columns)


def test_clusters_are_built_once_and_replaced_with_the_index(index, corpus, queries, standing):
    first = index.retriever(engine="plaid", **SETTINGS)(queries)
    again = ptd.MultiVectorIndex(index.path)
    pd.testing.assert_frame_equal(again.retriever(engine="plaid", **SETTINGS)(queries), first)
    pd.testing.assert_frame_equal(
        pickle.loads(pickle.dumps(index)).retriever(engine="plaid", **SETTINGS)(queries), first
    )
    assert standing.built == 1
    index.indexer(overwrite=True).index(corpus[:50])
    few = index.retriever(engine="plaid", **SETTINGS)(queries)
    assert standing.built == 2 and few["docid"].max() < 50


def test_bits_are_of_the_index_beside(index, queries, standing):
    index.retriever(engine="plaid", **SETTINGS)(queries)
    two = index.retriever(engine="plaid", nbits=2, **SETTINGS)
    two(queries)
    ptd.MultiVectorIndex(index.path).retriever(engine="plaid", nbits=2, **SETTINGS)(queries)
    index.retriever(engine="plaid", nbits=4, **SETTINGS)(queries)
    assert standing.nbits == (4, 2)
    assert (two % 3).compile().nbits == 2 and two != index.retriever(engine="plaid", **SETTINGS)
    assert repr(index.retriever(**SETTINGS)) == repr(index.retriever(nbits=None, **SETTINGS))
    assert identity(index.retriever(**SETTINGS)).keys().isdisjoint({"nbits"})


def test_clusters_made_in_use_leave_the_identity(index, queries, standing):
    before = checkpoint(str(index.path))
    for bits in (2, 4):
        index.retriever(engine="plaid", nbits=bits, **SETTINGS)(queries)
    assert checkpoint(str(index.path)) == before


def test_compressed_vectors_are_all_that_is_kept(index, corpus, queries, standing, tmp_path):
    small = ptd.MultiVectorIndex(tmp_path / "small.mvi")
    indexer = small.indexer(nbits=2)
    assert "nbits=2" in repr(indexer) and indexer.index(iter(corpus)) is small
    assert standing.nbits == (2,) and not (tmp_path / "small.mvi" / "vectors.f2").exists()
    again = ptd.MultiVectorIndex(small.path)
    assert len(again) == len(corpus)
    for document, kept in zip(corpus, again.get_corpus_iter(), strict=True):
        assert kept["docno"] == document["docno"] and kept["doc_embs"].dtype == np.float32
        np.testing.assert_array_equal(kept["doc_embs"], rounded(document["doc_embs"]))
    plain = [{**document, "doc_embs": rounded(document["doc_embs"])} for document in corpus]
    other = ptd.MultiVectorIndex(tmp_path / "rounded.mvi").index(plain)
    for engine in ("exact", "plaid"):
        found, expected = (one.retriever(engine=engine, **SETTINGS)(queries) for one in (again, other))
        assert len(found) == 100 and found["docno"].tolist()[0] in expected["docno"].tolist()
        if engine == "exact":
            assert found["docno"].tolist() == expected["docno"].tolist()
            np.testing.assert_allclose(found["score"], expected["score"], atol=2e-3)
    shuffled = found.sample(frac=1, random_state=0)
    np.testing.assert_allclose(again.scorer(device="cpu")(shuffled)["score"], shuffled["score"], rtol=1e-6)
    with pytest.raises(ValueError, match="compressed with nbits=2: leave nbits=4 out"):
        again.retriever(engine="plaid", nbits=4, **SETTINGS)(queries)
    assert len(again.indexer(overwrite=True).index(corpus[:7])) == 7 and "nbits" not in again.payload()[-1]


def test_what_cannot_be_compressed_is_told_before_anything_is_built(index, corpus, standing, tmp_path):
    path = tmp_path / "bad.mvi"
    for bits in (0, 3, True, "2", 2.5):
        for asked in (ptd.MultiVectorIndex(path).indexer, index.retriever):
            with pytest.raises(ValueError, match="nbits.*must be 1, 2, 4 or 8"):
                asked(nbits=bits)
    with pytest.raises(ValueError, match="nbits=2 is of engine='plaid'"):
        index.retriever(nbits=2)
    long = {**corpus[3], "doc_embs": corpus[3]["doc_embs"] * 2}
    with pytest.raises(ValueError, match="'d3' are not of length 1"):
        ptd.MultiVectorIndex(path).indexer(nbits=2).index([*corpus[:3], long])
    odd = [{"docno": "a", "doc_embs": np.eye(5, dtype=np.float32)}]
    with pytest.raises(ValueError, match="multiple of 8, not 5"):
        ptd.MultiVectorIndex(path).indexer(nbits=2).index(odd)
    assert not path.exists() and list(tmp_path.glob(".bad*")) == []


def test_cutoffs_are_fused_and_engines_differ(index, queries, standing):
    retriever = index.retriever(engine="plaid", **SETTINGS)
    fused = (retriever % 3).compile()
    assert "engine='plaid'" in repr(fused) and "num_results=3" in repr(fused)
    assert (fused(queries)["rank"] < 3).all()
    assert retriever != index.retriever(**SETTINGS)


def test_what_is_missing_is_said(index, monkeypatch, standing):
    monkeypatch.setattr(plaid, "requires", lambda name: ["numpy>=1", "torch==1.2.3"])
    with pytest.raises(ModuleNotFoundError, match="built for torch 1.2.3, and torch"):
        index.retriever(engine="plaid")

    def absent(name):
        raise plaid.PackageNotFoundError(name)

    monkeypatch.setattr(plaid, "requires", absent)
    with pytest.raises(ModuleNotFoundError, match="not installed.*exact"):
        index.retriever(engine="plaid")
    with pytest.raises(ModuleNotFoundError, match="^nbits=2 needs the package fast-plaid.*without nbits="):
        index.indexer(nbits=2)
    with pytest.raises(ValueError, match="engine must be"):
        index.retriever(engine="warp")
    with pytest.raises(ValueError, match="probes must be"):
        index.retriever(probes=0)


@pytest.mark.skipif(not available(), reason="fast-plaid is not installed for this torch")
def test_fast_plaid_finds_nearly_all(index, queries):
    exact = index.retriever(**SETTINGS)(queries)
    found = index.retriever(engine="plaid", probes=32, **SETTINGS)(queries)
    both = found.merge(exact, on=["qid", "docno"], suffixes=("", "_exact"))
    assert len(both) >= 0.9 * len(exact)
    np.testing.assert_allclose(both["score"], both["score_exact"], rtol=1e-5)
    again = ptd.MultiVectorIndex(index.path).retriever(engine="plaid", probes=32, **SETTINGS)(queries)
    pd.testing.assert_frame_equal(again, found)


@pytest.mark.skipif(not available(), reason="fast-plaid is not installed for this torch")
@pytest.mark.parametrize(("nbits", "least"), [(1, 0.75), (2, 0.9), (4, 0.98), (8, 0.99)])
def test_fast_plaid_compresses(index, corpus, queries, nbits, least, tmp_path):
    small = ptd.MultiVectorIndex(tmp_path / "small.mvi")
    small.indexer(nbits=nbits).index(corpus)
    before = checkpoint(str(small.path))
    for document, kept in zip(corpus, small.get_corpus_iter(), strict=True):
        assert kept["doc_embs"].shape == document["doc_embs"].shape
        np.testing.assert_allclose(np.linalg.norm(kept["doc_embs"], axis=1), 1, atol=2e-3)
    kept = np.concatenate([one["doc_embs"] for one in small.get_corpus_iter()])
    assert (kept * np.concatenate([one["doc_embs"] for one in corpus])).sum(axis=1).mean() > least
    found = small.retriever(engine="plaid", probes=32, **SETTINGS)(queries)
    exact = small.retriever(**SETTINGS)(queries)
    both = found.merge(exact, on=["qid", "docno"], suffixes=("", "_exact"))
    assert len(both) >= 0.9 * len(exact)
    np.testing.assert_allclose(both["score"], both["score_exact"], rtol=1e-5)
    again = ptd.MultiVectorIndex(small.path)
    pd.testing.assert_frame_equal(again.retriever(**SETTINGS)(queries), exact)
    assert checkpoint(str(small.path)) == before
