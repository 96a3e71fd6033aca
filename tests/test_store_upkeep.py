"""verify() sets aside what is damaged and nothing else; a compaction that is killed changes nothing that is told."""

import os
import time

import pandas as pd
import pytest
from labelling import Candidates, Scorer, pipeline, topics

import pyterrier_distill as ptd

pytest.importorskip("pyarrow")


def built(path, queries=12, **settings):
    return ptd.LabelStore(path).build(pipeline(Scorer()), topics(queries), batch_size=4, verbose=False, **settings)


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), OSError(24, "Too many open files"), MemoryError("no memory")]
)
def test_what_cannot_be_read_is_told_and_left(path, monkeypatch, error):
    store = built(path)
    before = store.directory.names()

    def unreadable(*args, **kwargs):
        raise error

    monkeypatch.setattr(type(store.directory.files), "read", unreadable)
    told = store.verify()
    assert (told["state"] != "ok").all() and told["advice"].str.contains("left where it is").all()
    monkeypatch.undo()
    assert ptd.LabelStore(path).directory.names() == before and not (path / "damaged").exists()
    assert (store.verify()["state"] == "ok").all()


def test_flipped_bytes_and_foreign_content_are_damage(path):
    store = built(path)
    flipped, foreign, _ = store.directory.names()
    content = bytearray((path / "shards" / flipped).read_bytes())
    content[len(content) // 2] ^= 255
    (path / "shards" / flipped).write_bytes(bytes(content))
    (path / "shards" / foreign).write_bytes(b"no parquet")
    assert (store.verify(repair=False)["state"] != "ok").sum() == 2 and len(store.directory.names()) == 3
    told = store.verify()
    assert told["advice"].str.startswith("moved to damaged/").sum() == 2 and len(store.directory.names()) == 1
    mended = Scorer()
    ptd.LabelStore(path).build(pipeline(mended), topics(12), batch_size=4, verbose=False)
    assert mended.usage.calls == sum(len(Candidates()(topics(12)).query(f"qid == 'q{q}'")) for q in range(8))


def test_a_killed_compaction_counts_nothing_twice(path, monkeypatch):
    store = built(path)
    cost, frame = store.usage.as_dict(), store.frame()

    class Killed(BaseException):
        pass

    def killed(*args, **kwargs):
        raise Killed

    monkeypatch.setattr(type(store.directory), "remove", killed)
    with pytest.raises(Killed):
        store.compact()
    monkeypatch.undo()
    for _ in range(2):
        again = ptd.LabelStore(path)
        assert again.usage.as_dict() == cost and len(again) == 12
        pd.testing.assert_frame_equal(again.frame().sort_values(["qid", "docno"], ignore_index=True),
                                      frame.sort_values(["qid", "docno"], ignore_index=True))  # fmt: skip
        again.compact()
    assert len(ptd.LabelStore(path).directory.names()) == 1


class Slow(Scorer):
    """A model in this process, which tells no seconds."""

    def transform(self, inp):
        time.sleep(0.2)
        out = super().transform(inp)
        self.spent.seconds = 0.0
        return out


def test_seconds_are_measured_where_nobody_tells_them(path):
    store = ptd.LabelStore(path).build(pipeline(Slow()), topics(4), batch_size=2, verbose=False)
    assert store.usage.seconds >= 0.4


def test_a_store_that_is_deleted_while_it_is_built_is_told(path):
    import shutil

    class Deleting(Scorer):
        def transform(self, inp):
            out = super().transform(inp)
            if (inp["qid"] == "q4").any():
                shutil.rmtree(path / "shards")
            return out

        def __repr__(self):
            return "Deleting()"

    with pytest.raises((OSError, ValueError, RuntimeError), match=str(path)):
        ptd.LabelStore(path).build(pipeline(Deleting()), topics(8), batch_size=2, verbose=False)


@pytest.mark.parametrize("name", ["manifest.json", "pt_meta.json"])
def test_damaged_descriptions_name_their_file(path, name):
    built(path)
    (path / name).write_text("{")
    with pytest.raises(ValueError, match=name):
        ptd.LabelStore(path).build(pipeline(Scorer()), topics(12), verbose=False)


@pytest.mark.parametrize(
    "cells",
    [{"teacher_prefs": [{"d1": 2.0}, {}]}, {"teacher_prefs": [{"d1": float("nan")}, {}]},
     {"teacher_score": [None, 1.0]}, {"query_vec": [[float("nan")] * 2] * 2}],
)  # fmt: skip
def test_what_is_no_label_is_not_taken(path, cells):
    frame = pd.DataFrame({"qid": "q", "query": "red", "docno": ["d0", "d1"], **cells})
    with pytest.raises(ValueError):
        ptd.LabelStore(path).add(frame)
    assert not os.path.exists(path / "shards") and len(ptd.LabelStore(path)) == 0


def test_nothing_is_asked_about_queries_without_ids(path):
    teacher = Scorer()
    given = topics(4).assign(qid=["q0", None, "q2", "q3"])
    with pytest.raises(ValueError, match="'qid' of .* must hold ids"):
        ptd.LabelStore(path).build(pipeline(teacher), given, verbose=False)
    assert teacher.usage.calls == 0
