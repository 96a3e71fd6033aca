"""Stores whose disk is full, that are deleted, or filled by several at once: nothing that was paid is lost."""

import errno
import os
import shutil

import pandas as pd
import pytest
from generating import Telling, docs
from labelling import Candidates, Lister, Scorer, Shared, topics

import pyterrier_distill as ptd
from pyterrier_distill.identity.identity import identity
from pyterrier_distill.stores.storage import LocalFiles

pytest.importorskip("pyarrow")


@pytest.fixture
def full(monkeypatch):
    """Makes every write fail whose name begins so."""

    def fill(*names):
        def write(self, name, content, before=LocalFiles.write):
            if name.startswith(names):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
            before(self, name, content)

        monkeypatch.setattr(LocalFiles, "write", write)

    return fill


def test_nothing_is_asked_where_a_disk_is_full(path, full):
    teacher, model = Scorer(), Telling()
    ptd.LabelStore(path / "labels").build(Candidates() >> Scorer(), topics(1), verbose=False)
    ptd.QueryStore(path / "queries").cache(ptd.SyntheticQueryGen(Telling()))(docs("red"))
    full("shards", "queries")
    with pytest.raises(OSError, match="No space left.*nothing was asked") as caught:
        ptd.LabelStore(path / "labels").build(Candidates() >> teacher, topics(4), verbose=False)
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="No space left.*nothing was asked"):
        ptd.QueryStore(path / "queries").cache(ptd.SyntheticQueryGen(model))(docs("red", "blue"))
    assert teacher.usage.calls == model.usage.calls == 0
    ptd.LabelStore(path / "labels").build(Candidates() >> teacher, topics(1), verbose=False)  # all is in
    assert len(ptd.QueryStore(path / "queries").cache(ptd.SyntheticQueryGen(model))(docs("red"))) == 1


def test_what_was_asked_when_a_disk_filled_up_is_handed_over(path, full):
    full("shards/0", "queries/0")
    with pytest.raises(ptd.LabellingError, match="No space left.*.labelled") as caught:
        ptd.LabelStore(path / "labels").build(Candidates() >> Scorer(), topics(2), verbose=False)
    pd.testing.assert_frame_equal(caught.value.labelled, Scorer()(Candidates()(topics(2))))
    with pytest.raises(ptd.GenerationError, match="No space left.*.generated") as caught:
        ptd.QueryStore(path / "queries").cache(ptd.SyntheticQueryGen(Telling()))(docs("red", "blue"))
    assert caught.value.generated["querygen"].tolist() == ["about red", "about blue"]


class Deleting(Scorer):
    """A teacher during whose third batch somebody deletes the store."""

    path = None

    def transform(self, inp):
        out = super().transform(inp)
        if self.path is not None and "q2" in set(inp["qid"]):
            shutil.rmtree(self.path)
        return out


class DeletingLists(Deleting, Lister):
    pass


class DeletingModel(Telling):
    path = None

    def complete(self, prompts, **settings):
        if any("blue" in prompt for prompt in prompts):
            shutil.rmtree(self.path)
        return super().complete(prompts, **settings)


@pytest.mark.parametrize("kind", [Deleting, DeletingLists])
def test_a_cache_deleted_while_it_is_filled_is_told(kind, path):
    teacher = kind()
    teacher.path = path
    with pytest.raises(ptd.LabellingError, match="is gone: the store was deleted") as caught:
        ptd.LabelStore(path).cache(teacher, batch_size=1)(Candidates()(topics(4)))
    assert set(caught.value.labelled["qid"]) == {"q2"}


def test_a_store_of_queries_deleted_while_it_is_filled_is_told(path):
    model = DeletingModel()
    model.path = path
    cached = ptd.QueryStore(path).cache(ptd.SyntheticQueryGen(model), batch_size=1)
    with pytest.raises(ptd.GenerationError, match="is gone: the store was deleted") as caught:
        cached(docs("red", "blue", "green"))
    assert caught.value.generated["querygen"].tolist() == ["about blue"]


def test_threads_fill_one_new_store(path):
    from concurrent.futures import ThreadPoolExecutor

    frame = Candidates()(topics(6))
    expected = Scorer()(frame)
    for n in range(3):
        cached = ptd.LabelStore(path / str(n)).cache(Scorer(), batch_size=1)
        with ThreadPoolExecutor(6) as threads:
            for out in threads.map(lambda _, ask=cached: ask(frame), range(6)):
                pd.testing.assert_frame_equal(out, expected, check_dtype=False)
    queries = ptd.QueryStore(path / "q").cache(ptd.SyntheticQueryGen(Telling()), batch_size=1)
    with ThreadPoolExecutor(6) as threads:
        assert all(len(out) == 2 for out in threads.map(lambda _: queries(docs("red", "blue")), range(6)))


def test_threads_read_a_store_that_grows(path):
    """What one thread reads of a store is whole while another one reads shards that come in front of the known ones."""
    import sys
    from concurrent.futures import ThreadPoolExecutor
    from threading import Event

    def labels(n):
        return Scorer()(Shared()(topics(n + 1).tail(1)))

    store, writer, done = ptd.LabelStore(path), ptd.LabelStore(path), Event()
    store.add(labels(0), with_text=True)
    texts = dict(labels(0)[["docno", "text"]].to_numpy())

    def read(_):
        while not done.is_set():
            n = len(store)
            assert all("q0" in store for _ in range(20))
            assert len(store.frame(["q0"])) == len(texts)
            assert len(store.qids()) >= n and len(store.located()) >= n and len(store.topics()) >= n
            assert store.documents >= n and "teacher_score" in store.columns() and store.blocks()
            assert {docno for part in store.texts.parts() for docno in part["docno"]} == set(texts)
            assert store.texts.get(list(texts)) == list(texts.values())
        return store.frame()

    every = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            reading = threads.map(read, range(4))
            try:
                for n in range(1, 30):
                    writer.add(labels(n), start=100 - n)
            finally:
                done.set()
            frames = list(reading)
    finally:
        sys.setswitchinterval(every)
    for frame in frames:
        pd.testing.assert_frame_equal(frame, ptd.LabelStore(path).frame())


def test_threads_count_the_cost_of_queries_once(path):
    from concurrent.futures import ThreadPoolExecutor

    cached = ptd.QueryStore(path).cache(ptd.SyntheticQueryGen(Telling()), batch_size=1)
    cached(docs(*(f"colour {n}" for n in range(20))))
    for _ in range(5):
        store = ptd.QueryStore(path)
        with ThreadPoolExecutor(6) as threads:
            assert set(threads.map(lambda _, one=store: (one.usage.calls, len(one)), range(6))) == {(20, 20)}


def test_a_generator_that_changes_is_noticed(path):
    generator = ptd.SyntheticQueryGen(Telling())
    cached = ptd.QueryStore(path).cache(generator)
    cached(docs("red"))
    generator.n = 3
    with pytest.raises(ValueError, match="another generator: n was .* and is 3"):
        cached(docs("red", "blue"))
    generator.n = ptd.SyntheticQueryGen(Telling()).n
    assert len(cached(docs("red", "blue"))) == 2


def test_a_store_stays_where_it_was_made(path, tmp_path, monkeypatch, tiny_cross):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    shutil.copytree(tiny_cross, tmp_path / "here" / "model")
    monkeypatch.chdir(tmp_path / "here")
    teacher, frame = ptd.PointwiseTeacher("model", precision="fp32", device="cpu"), Candidates()(topics(2))
    store, before = ptd.LabelStore("answers"), identity(teacher)
    cached, queries = store.cache(teacher), ptd.QueryStore("queries").cache(ptd.SyntheticQueryGen(Telling()))
    monkeypatch.chdir(tmp_path / "there")
    expected = cached(frame)
    queries(docs("red"))
    assert identity(teacher) == before and not os.listdir(tmp_path / "there")
    monkeypatch.chdir(tmp_path)
    asked = teacher.usage.calls
    pd.testing.assert_frame_equal(cached(frame), expected)
    assert teacher.usage.calls == asked and len(ptd.QueryStore("here/queries")) == 1
