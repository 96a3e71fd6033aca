"""Adapting to a collection that is read document by document: the same as from a frame, in bounded memory."""

import pickle
import tracemalloc

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from learning import Counting

import pyterrier_distill as ptd
from pyterrier_distill.corpora import on_disk
from pyterrier_distill.corpora.on_disk import DocumentsOnDisk
from pyterrier_distill.identity.identity import hash_frame, identity

FP32 = {"precision": "fp32", "device": "cpu"}
SETTINGS = {"precision": "fp32", "verbose": False, "dropout": 0.0, "learning_rate": 2e-3, "queries_per_batch": 8}


class Dataset(pt.datasets.Dataset):
    """Gives documents one by one, as often as it is asked, and counts how many are held."""

    def __init__(self, records):
        self.records = records

    def get_corpus_iter(self, verbose=True):
        yield from (dict(record) for record in self.records)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(on_disk, "BLOCK", 5)


def adapted(tiny, source, path, **settings):
    student, teacher = ptd.BiEncoder(tiny, **FP32), Counting()
    loss = ptd.KLDivergence(temperature=0.1)
    ptd.adapt(student, teacher, source, path, loss=loss, depth=5, **{**SETTINGS, "epochs": 2, **settings})
    return student, sorted(teacher.asked)


@pytest.mark.parametrize("settings", [{}, {"loss_reads": True}, {"filters": True}, {"whole": True}])
def test_a_stream_gives_what_a_frame_gives(tiny, documents, small_blocks, settings, tmp_path):
    given = {}
    if "filters" in settings:
        given["filters"] = ptd.LengthFilter(2)
    if "whole" in settings:
        given["generator"] = ptd.KeyphraseQueries(2)
    if "loss_reads" in settings:
        given["sampler"] = ptd.ListSampler(3, strategy="with_positive")
    expected, asked = adapted(tiny, documents, tmp_path / "frame", **given)
    records = documents.to_dict("records")
    for name, source in (("dataset", Dataset(records)), ("once", iter(records))):
        found, also = adapted(tiny, source, tmp_path / name, **given)
        assert also == asked and len(asked) > 0
        np.testing.assert_array_equal(found.encode_docs(documents["text"]), expected.encode_docs(documents["text"]))
    stored = ptd.LabelStore(tmp_path / "dataset" / "labels").frame(with_text=True)
    texts = dict(zip(documents["docno"], documents["text"], strict=True))
    assert (stored["docno"].map(texts) == stored["text"]).all()


def test_it_goes_on_where_it_was(tiny, documents, tmp_path):
    _, asked = adapted(tiny, Dataset(documents.to_dict("records")), tmp_path / "a")
    _, again = adapted(tiny, Dataset(documents.to_dict("records")), tmp_path / "a")
    assert asked and not again


def test_what_began_with_the_collection_in_memory_goes_on(tiny, documents, tmp_path):
    """Earlier versions made a frame of every collection."""
    _, asked = adapted(tiny, documents, tmp_path / "a")
    for _ in range(2):
        _, again = adapted(tiny, Dataset(documents.to_dict("records")), tmp_path / "a")
        assert asked and not again and not (tmp_path / "a" / "documents").exists()


def test_documents_on_disk(documents, small_blocks, tmp_path):
    records = [*documents.to_dict("records"), {"docno": 7, "text": "\u00e9t\u00e9 \ud83d"}]
    stored = DocumentsOnDisk.write(tmp_path / "d", iter(records))
    records[-1] = {"docno": "7", "text": "\u00e9t\u00e9 ?"}  # no frame can hold half a character
    frame = pd.DataFrame(records)
    assert stored.content == hash_frame(frame) == DocumentsOnDisk(tmp_path / "d").content
    pd.testing.assert_frame_equal(pd.concat(stored.blocks(), ignore_index=True), frame)
    assert list(stored.records()) == frame.to_dict("records")
    loader = pickle.loads(pickle.dumps(stored.text_loader()))
    asked = frame.sample(frac=1, random_state=0)[["docno"]].assign(text="other", qid="q")
    pd.testing.assert_series_equal(loader(asked)["text"], frame["text"].reindex(asked.index), check_dtype=False)
    assert identity(loader)["content"] == stored.content and loader == stored.text_loader()
    with pytest.raises(ValueError, match="no document 'x' \\(1 such"):
        loader(pd.DataFrame({"docno": ["d0", "x"]}))
    titled = [{"docno": "a", "text": "b"}, {"docno": "c", "title": "T", "text": "d"}]
    kept = pd.concat(DocumentsOnDisk.write(tmp_path / "d", titled).blocks())
    assert kept.to_numpy().tolist() == [["a", "b", ""], ["c", "T d", "T"]]


def test_a_large_collection_is_not_held(monkeypatch, tmp_path):
    monkeypatch.setattr(on_disk, "BLOCK", 64)
    count, length = 5_000, 1_000

    def records():
        for number in range(count):
            yield {"docno": f"d{number}", "text": f"{number} ".ljust(length, "x")}

    tracemalloc.start()
    stored = DocumentsOnDisk.write(tmp_path / "d", records())
    read = sum(len(block) for block in stored.blocks()) + sum(1 for _ in stored.records())
    texts = stored.texts(f"d{number}" for number in range(0, count, 20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read == 2 * count and len(texts) == count // 20
    assert peak < count * length / 4


def test_what_is_no_collection_is_told(tmp_path):
    good = {"docno": "a", "text": "b"}
    for source, error, message in (
        ([], ValueError, "^the list of documents has no documents"),
        ([good, {"docno": "c", "text": "d"}, good], ValueError, "^the list of documents holds document 'a' more than"),
        (iter([good, good]), ValueError, "^the list_iterator of documents holds document 'a' more than once"),
        (Dataset([good, good]), ValueError, "Dataset object.* holds document 'a' more than once"),
        ([good, {"docno": "b"}], ValueError, "dicts with docno and text, not {'docno': 'b'}"),
        ([{"docno": "b", "text": None}], ValueError, "dicts with docno and text"),
        ([("b", "c")], ValueError, "dicts with docno and text"),
        ([{"docno": "", "text": "c"}], ValueError, "at least one character"),
        ([{"docno": 1.0, "text": "c"}], ValueError, "at least one character, not 1.0"),
        (3, TypeError, "a collection is a dataset.*not of type int"),
        ("nowhere", ValueError, "no dataset 'nowhere'"),
    ):
        with pytest.raises(error, match=message):
            ptd.adapt(None, Counting(), source, tmp_path / "a")
    assert not (tmp_path / "a" / "documents").exists()
