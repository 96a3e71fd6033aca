"""Title and text are one text wherever a dataset is given for its documents: titles are not lost silently."""

import gzip
import json

import pandas as pd
import pyterrier as pt
import pytest

import pyterrier_distill as ptd
from pyterrier_distill.frames import given
from pyterrier_distill.frames.texts import text_source
from pyterrier_distill.suites.context import Context

ROWS = {"d0": ("Zebras", "animals with stripes"), "d1": ("", "a horse"), "d2": ("Ponies", "")}
JOINED = {"d0": "Zebras animals with stripes", "d1": "a horse", "d2": "Ponies"}


@pytest.fixture
def dataset(tmp_path):
    path = tmp_path / "titled"
    path.mkdir()
    with gzip.open(path / "corpus.jsonl.gz", "wt") as file:
        file.writelines(
            json.dumps({"_id": docno, "title": title, "text": text}) + "\n" for docno, (title, text) in ROWS.items()
        )
    (path / "queries.jsonl").write_text(json.dumps({"_id": "q0", "text": "zebras"}) + "\n")
    return pt.get_dataset(f"folder:{path}")


def texts(documents):
    return {document["docno"]: document["text"] for document in documents}


def test_a_dataset_has_one_text_whoever_reads_it(dataset, tmp_path):
    frame = pd.DataFrame({"qid": "q0", "query": "zebras", "docno": list(ROWS)})
    assert texts(given.documents(dataset)) == JOINED
    assert texts(ptd.JoinedText(dataset)(frame).to_dict("records")) == JOINED
    assert texts(text_source(dataset)(frame).to_dict("records")) == JOINED
    assert texts(Context(dataset, tmp_path, "titled").get_corpus_iter()) == JOINED
    assert {document.get("title") for document in given.documents(dataset)} == {"Zebras", "", "Ponies"}


def test_a_title_is_searched(dataset, tmp_path):
    found = ptd.bm25(tmp_path / "index", dataset).search("zebras")
    assert found["docno"].tolist() == ["d0"]


@pytest.mark.usefixtures("irds")
def test_so_it_is_in_collections_of_ir_datasets(tmp_path):
    nfcorpus = pt.get_dataset("irds:beir/nfcorpus/test")
    one = next(iter(nfcorpus.get_corpus_iter(verbose=False)))
    joined = next(iter(given.documents(nfcorpus)))
    assert joined["docno"] == one["docno"] and joined["title"] == one["title"]
    assert joined["text"] == f"{one['title']} {one['text']}" and set(one) <= set(joined)


def test_documents_of_another_collection_are_named(dataset, tiny):
    labelled = pd.DataFrame({"qid": "q0", "query": "zebras", "docno": ["d0", "x9"], "teacher_score": [1.0, 0.0]})
    distiller = ptd.Distiller(ptd.CrossEncoder(tiny), ptd.RankNet(), steps=1, verbose=False)
    with pytest.raises(ValueError, match="holds no document 'x9'"):
        distiller.fit(labelled, text=dataset)


@pytest.mark.parametrize("engine", ["pisa", "bm25s"])
def test_an_index_is_not_that_of_other_documents(engine, tmp_path):
    pytest.importorskip({"pisa": "pyterrier_pisa"}.get(engine, engine))
    one = pd.DataFrame({"docno": ["a", "b"], "text": ["a red dog", "an old house"]})
    first = ptd.bm25(tmp_path / "index", one, engine=engine).search("dog")
    again = ptd.bm25(tmp_path / "index", one.to_dict("records"), engine=engine).search("dog")
    pd.testing.assert_frame_equal(first, again)
    with pytest.raises(ValueError, match="built from other documents"):
        ptd.bm25(tmp_path / "index", one.assign(text=["a cat", "a bird"]), engine=engine)
