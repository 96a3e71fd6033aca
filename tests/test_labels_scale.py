"""LabelStore: texts, states, other file systems, large and small shards, other engines."""

import os

import numpy as np
import pandas as pd
import pytest
from labelling import Lister, Scorer, Shared, pipeline, topics

import pyterrier_distill as ptd

pytest.importorskip("pyarrow")


def test_texts_are_stored_once_each(path):
    import pyarrow.parquet as pq

    store = ptd.LabelStore(path).build((Shared() >> Scorer()), topics(12), batch_size=5, with_text=True, verbose=False)
    frame = Shared()(topics(12)).drop_duplicates("docno")
    stored = [pq.read_table(file).to_pandas() for file in sorted((path / "texts").iterdir())]
    assert pd.concat(stored)["docno"].tolist() == frame["docno"].tolist() and len(store.texts) == len(frame)
    out = store.frame(with_text=True)
    assert dict(zip(out["docno"], out["text"])) == dict(zip(frame["docno"], frame["text"]))
    assert "text" not in store.frame().columns
    assert store.add_texts(frame) == 0
    assert store.add_texts(pd.DataFrame({"docno": ["new"], "text": ["words"]})) == 1
    assert ptd.LabelStore(path).texts.get(["new", "d0", "new"]) == ["words", frame["text"].iloc[0], "words"]
    with pytest.raises(KeyError, match="no text of document 'nowhere'"):
        store.text_loader()(pd.DataFrame({"qid": ["q"], "docno": ["nowhere"]}))
    without = ptd.LabelStore(path.parent / "without").build((Shared() >> Scorer()), topics(2), verbose=False)
    with pytest.raises(KeyError, match="with_text=True"):
        without.frame(with_text=True)
    with pytest.raises(ptd.MissingLabelError, match="'text'"):
        ptd.LabelStore(path.parent / "x").add(store.frame(), with_text=True)


def test_a_text_that_depends_on_the_query_is_refused_whenever_it_comes(path):
    from labelling import Candidates

    passages = Candidates() >> Scorer()
    for size in (1, 3):
        with pytest.raises(ptd.LabellingError, match="'d0' has two texts.*with_text=False"):
            ptd.LabelStore(path / str(size)).build(passages, topics(3), batch_size=size, with_text=True, verbose=False)
    assert ptd.LabelStore(path / "1").frame(with_text=True)["qid"].unique().tolist() == ["q0"]
    store = ptd.LabelStore(path / "added").add(passages(topics(1)), with_text=True)
    other = passages(topics(1)).assign(qid="z", text="another")
    for again in (store, ptd.LabelStore(path / "added")):  # of this process, and of an earlier one
        with pytest.raises(ValueError, match="'d0' has two texts"):
            again.add(other, with_text=True)
        with pytest.raises(ValueError, match="'d1' has two texts"):
            again.add_texts(pd.DataFrame({"docno": ["d1", "d1"], "text": ["changed"] * 2}))
    assert store.qids() == ["q0"] and store.add_texts(passages(topics(1))) == 0


def test_labels_of_a_text_that_is_not_the_stored_one_are_refused_without_texts_too(path):
    """A training would take them for labels of the stored text."""
    frame = (Shared() >> Scorer())(topics(1))
    store = ptd.LabelStore(path)
    assert store.add_texts(frame[["docno", "text"]]) == len(frame)
    store.add(frame)
    changed = frame.assign(qid="z", text=["changed", *frame["text"].iloc[1:]])
    for again in (store, ptd.LabelStore(path)):
        with pytest.raises(ValueError, match="document 'd0' has another text.*leave the column 'text' out"):
            again.add(changed)
    assert store.qids() == ["q0"]
    store.add(changed.drop(columns="text"))
    store.add(frame.assign(qid="y", docno="new " + frame["docno"], text="any"))  # of which no text is stored


def test_damaged_texts_are_set_aside_and_added_again(path):
    store = ptd.LabelStore(path).build((Shared() >> Scorer()), topics(12), with_text=True, verbose=False)
    victim = next((path / "texts").iterdir())
    victim.write_bytes(victim.read_bytes()[:-9])
    told = store.verify()
    assert told["advice"].str.contains("add_texts").sum() == 1 and (told["state"] == "ok").sum() == 1
    store = ptd.LabelStore(path)
    assert len(store.texts) == 0 and store.add_texts(Shared()(topics(12))) == 6
    assert len(store.frame(with_text=True)) == len(store.frame())


def test_states_of_tokens_come_back(path):
    frame = pipeline(Scorer())(topics(6))
    rng = np.random.default_rng(0)
    states = {qid: rng.normal(size=(3 + n, 2, 4)).astype(np.float16) for n, qid in enumerate(frame["qid"].unique())}
    frame["query_states"] = [states[qid] for qid in frame["qid"]]
    store = ptd.LabelStore(path).add(frame, topics(10).iloc[[9, *range(6)]])  # the first query has no documents
    for out in (store.frame(), store.compact().frame(columns=["query_states"])):
        for qid, cell in zip(out["qid"], out["query_states"]):
            np.testing.assert_array_equal(cell, states[qid])
            assert cell.dtype == np.float16


def test_on_another_file_system(tmp_path):
    import fsspec

    url = "memory://bucket/labels"
    fsspec.filesystem("memory").store.clear()
    teacher = Scorer()
    for n in (10, 25):
        store = ptd.LabelStore(url).build((Shared() >> teacher), topics(n), batch_size=4, with_text=True, verbose=False)
    here = ptd.LabelStore(tmp_path / "here").build((Shared() >> Scorer()), topics(25), batch_size=4, verbose=False)
    pd.testing.assert_frame_equal(store.frame(), here.frame())
    assert teacher.usage.calls == len(here.frame()) == here.usage.calls
    assert len(store.frame(with_text=True)) and not [
        f for f in fsspec.filesystem("memory").find("/bucket") if "/." in f
    ]
    assert repr(store) == "LabelStore('memory://bucket/labels')"
    name = store.directory.names()[1]
    with fsspec.open(f"{url}/shards/{name}", "wb") as file:
        file.write(b"damaged")
    assert (store.verify()["state"] != "ok").sum() == 1 and len(ptd.LabelStore(url)) == 21
    fsspec.filesystem("memory").pipe_file("/other/file", b"x")
    with pytest.raises(ValueError, match="is not a label store"):
        ptd.LabelStore("memory://other")
    with pytest.raises((ModuleNotFoundError, ValueError), match="nosuch"):
        ptd.LabelStore("nosuch://bucket/labels")


def test_small_shards_become_large_ones(path):
    store = ptd.LabelStore(path).build(pipeline(Lister()), topics(50), batch_size=3, verbose=False)
    before, usage, documents = store.frame(), store.usage.as_dict(), store.documents
    assert len(store.directory.names()) == 17
    for _ in range(2):
        store.compact(queries=20)
        again = ptd.LabelStore(path)
        pd.testing.assert_frame_equal(again.frame(), before)
        pd.testing.assert_frame_equal(again.topics(), topics(50), check_dtype=False)
        assert len(again.directory.names()) == 3 and again.documents == documents == len(before)
        assert again.usage.as_dict() == pytest.approx(usage) and (again.verify()["state"] == "ok").all()
    assert pd.concat(again.lists(seed=None))["qid"].nunique() == 45  # those that have documents
    again.build(pipeline(Lister()), topics(53), batch_size=3, verbose=False)
    assert len(again) == 53


def test_a_compaction_that_was_killed_leaves_copies_that_do_not_count(path, monkeypatch):
    store = ptd.LabelStore(path).build(pipeline(Scorer()), topics(20), batch_size=5, verbose=False)
    before = store.frame()

    def killed(name, folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(store.directory, "remove", killed)
    with pytest.raises(KeyboardInterrupt):
        store.compact()
    again = ptd.LabelStore(path)
    assert len(again) == 20 and len(again.directory.names()) == 5
    pd.testing.assert_frame_equal(
        again.frame().sort_values(["qid", "docno"], ignore_index=True),
        before.sort_values(["qid", "docno"], ignore_index=True),
    )
    assert sorted(q for f in again.lists() for q in f["qid"].unique()) == sorted(before["qid"].unique())
    assert again.verify()["advice"].str.contains("compact").any()
    again.compact()
    assert (again.verify()["state"] == "ok").all() and len(again.directory.names()) == 1
    pd.testing.assert_frame_equal(again.frame(), before)


@pytest.mark.filterwarnings("ignore")
def test_ray_gives_the_same_store(path, tmp_path):
    pytest.importorskip("ray", reason="install the [ray] extra")
    alone = ptd.LabelStore(tmp_path / "alone").build(pipeline(Lister()), topics(40), batch_size=3, verbose=False)
    store = ptd.LabelStore(path).build(
        pipeline(Lister()), topics(40), batch_size=3, engine="ray", workers=2, verbose=False
    )
    pd.testing.assert_frame_equal(store.frame(), alone.frame())
    assert store.usage.calls == alone.usage.calls and store.manifest["pipeline"] == alone.manifest["pipeline"]


class Mortal(Scorer):
    """Its process dies over one query, the first time."""

    def __init__(self, log, times=1):
        super().__init__()
        self.log = log
        self.times = times

    def transform(self, inp):
        with open(self.log, "a+") as log:
            log.seek(0)
            died = log.read().count("q7 ")
            if "q7" in set(inp["qid"]) and died < self.times:
                log.write("q7 ")
                log.flush()
                os._exit(1)
        return super().transform(inp)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_ray_workers_that_die_are_replaced(path, tmp_path):
    pytest.importorskip("ray", reason="install the [ray] extra")
    store = ptd.LabelStore(path).build(
        pipeline(Mortal(str(tmp_path / "log"))), topics(20), batch_size=2, engine="ray", workers=2, verbose=False
    )
    assert (tmp_path / "log").read_text() == "q7 " and len(store) == 20
    again = ptd.LabelStore(tmp_path / "again")
    with pytest.raises(RuntimeError, match="3 Ray actors died over the batch of query 'q6'"):
        again.build(
            pipeline(Mortal(str(tmp_path / "log2"), 99)),
            topics(20),
            batch_size=2,
            engine="ray",
            workers=2,
            verbose=False,
        )
    assert "q7" not in ptd.LabelStore(tmp_path / "again")


def test_engines_are_named(path):
    with pytest.raises(ValueError, match="engine must be"):
        ptd.LabelStore(path).build(pipeline(Scorer()), topics(2), engine="spark")
    with pytest.raises(ValueError, match="workers must be"):
        ptd.LabelStore(path).build(pipeline(Scorer()), topics(2), engine="ray", workers=0)
