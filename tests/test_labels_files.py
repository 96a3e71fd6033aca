"""LabelStore and its files: what is damage and what is not, what a kill leaves, what is refused, what is written."""

import errno
import gzip
import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
from generating import Telling, docs
from labelling import Lister, Scorer, Shared, pipeline, topics

import pyterrier_distill as ptd
from pyterrier_distill.labels import directory, shards
from pyterrier_distill.stores import storage

pytest.importorskip("pyarrow")


def built(path, n=6, batch_size=2, **kwargs):
    return ptd.LabelStore(path).build((Shared() >> Scorer()), topics(n), batch_size=batch_size, verbose=False, **kwargs)


def planted(path, table, start=99):
    """Put a table into a store as a shard of a right name."""
    content = shards.to_bytes(table)
    (path / "shards" / shards.name_of(content, start)).write_bytes(content)


# -- verify() ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied"),
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.EIO, "Input/output error"),
        MemoryError("no memory"),
        RuntimeError("the object store answers 503"),
        TimeoutError("too slow"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_cannot_be_read_is_told_and_not_moved(path, error, monkeypatch):
    store = built(path, with_text=True)
    before = sorted(p.name for folder in ("shards", "texts") for p in (path / folder).iterdir())

    def fail(self, name):
        raise error

    monkeypatch.setattr(storage.LocalFiles, "read", fail)
    told = store.verify()
    monkeypatch.undo()
    assert told["state"].str.contains(f"could not be checked \\({type(error).__name__}").all()
    assert told["advice"].str.contains("left where it is").all() and not (path / "damaged").exists()
    assert sorted(p.name for folder in ("shards", "texts") for p in (path / folder).iterdir()) == before
    assert (store.verify()["state"] == "ok").all() and len(ptd.LabelStore(path)) == 6


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "Too many open files"), MemoryError("no memory")])
def test_a_read_that_fails_is_no_damage(path, error, monkeypatch):
    built(path)

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(shards.arrow().parquet, "ParquetFile", fail)
    with pytest.raises(type(error), match="shards") as caught:
        ptd.LabelStore(path).frame()
    assert not isinstance(caught.value, shards.DamagedShard)
    assert ptd.LabelStore(path).verify()["state"].str.startswith("could not be checked").all()
    monkeypatch.undo()
    assert len(ptd.LabelStore(path).frame()) and not (path / "damaged").exists()


def test_what_a_newer_version_wrote_is_left_alone(path):
    store = built(path)
    (name, *_) = store.directory.names()
    table = store.directory.open(name).read()
    told = shards.meta_of(table.schema)
    usage = {**told["usage"], "cached_tokens": 7}
    (path / "shards" / name).unlink()
    planted(path, shards.with_meta(table, {**told, "usage": usage, "colour": "red"}), 0)  # fields that are not known
    assert (store.verify()["state"] == "ok").all()
    again = ptd.LabelStore(path)
    assert again.usage.calls == store.usage.calls and len(again.frame()) == len(store.frame())
    columns = table.append_column("teacher_opinion", shards.arrow().array(["yes"] * len(table)))
    planted(path, shards.with_meta(columns, {"version": 2}))
    told = store.verify()
    assert told["state"].str.contains("NewerShard.*newer version of pyterrier-distill").sum() == 1
    assert not (path / "damaged").exists()
    with pytest.raises(shards.NewerShard, match="update the package"):
        ptd.LabelStore(path).frame()


def test_damage_that_cannot_be_moved_is_told(path, monkeypatch):
    store = built(path)
    victim = path / "shards" / store.directory.names()[0]
    victim.write_bytes(victim.read_bytes()[:-1])

    def fail(self, name, target):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(storage.LocalFiles, "move", fail)
    told = store.verify()
    assert told["advice"].str.contains("move it yourself").sum() == 1 and (told["state"] == "ok").sum() == 2
    monkeypatch.undo()
    assert store.verify()["advice"].str.contains("moved to damaged/").sum() == 1 and not victim.exists()


def test_a_store_that_cannot_be_looked_into_is_not_taken_for_none(path, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    fsspec.filesystem("memory").store.clear()
    built("memory://bucket/labels")
    memory = type(fsspec.filesystem("memory"))

    def fail(self, path, **_):
        raise PermissionError("403")

    monkeypatch.setattr(memory, "info", fail)
    with pytest.raises(PermissionError):
        ptd.LabelStore("memory://bucket/labels")


# -- what a kill leaves -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deleted", [0, 1, 2])
def test_a_killed_compaction_counts_nothing_twice(path, monkeypatch, deleted):
    store = built(path, 8, with_text=True)
    store.add_texts(pd.DataFrame({"docno": ["new"], "text": ["x"]}))
    frame, usage, documents, texts = store.frame(), store.usage, store.documents, len(store.texts)
    remove, left = store.directory.remove, [deleted]

    def killed(name, folder):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        remove(name, folder)

    monkeypatch.setattr(store.directory, "remove", killed)
    with pytest.raises(KeyboardInterrupt):
        store.compact()
    for _ in range(3):
        again = ptd.LabelStore(path)
        assert again.usage == usage and again.documents == documents == again.describe().documents
        assert len(again) == 8 and len(again.texts) == texts and again.describe().usage == usage
        pd.testing.assert_frame_equal(again.frame(), frame)
        again.compact()
    assert (again.verify()["state"] == "ok").all() and len(again.directory.names()) == 1
    assert sum(again.verify()["queries"]) == 8 + texts


def test_a_kill_while_texts_are_compacted_leaves_no_copies(path, monkeypatch):
    store = built(path, 4, with_text=True)
    store.add_texts(pd.DataFrame({"docno": ["new"], "text": ["x"]}))
    remove = store.directory.remove

    def killed(name, folder):
        if folder == "texts":
            raise KeyboardInterrupt
        remove(name, folder)

    monkeypatch.setattr(store.directory, "remove", killed)
    with pytest.raises(KeyboardInterrupt):
        store.compact()
    again = ptd.LabelStore(path).compact()
    told = again.verify().set_index("shard")
    assert (told["state"] == "ok").all() and told.filter(like="texts/", axis=0)["queries"].tolist() == [7]


def test_damage_in_what_replaces_others_keeps_the_others(path, monkeypatch):
    store = built(path, 4)
    frame = store.frame()
    monkeypatch.setattr(store.directory, "remove", lambda name, folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        store.compact()
    joined = next(p for p in (path / "shards").iterdir() if p.name not in [n for n in store._shards])
    joined.write_bytes(joined.read_bytes()[:-30] + b"x" * 30)
    ptd.LabelStore(path).verify()
    pd.testing.assert_frame_equal(ptd.LabelStore(path).frame(), frame)


@pytest.mark.parametrize("after", [0, 1, 3, 5])
def test_beginning_anew_that_was_stopped_half_way_leaves_a_store(path, monkeypatch, after):
    store = built(path, with_text=True)
    victim = path / "shards" / store.directory.names()[0]
    victim.write_bytes(b"")
    store.verify()  # there is a folder of damaged shards, too
    unlink, left = os.unlink, [after]

    def stopped(name, *args, **kwargs):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        unlink(name, *args, **kwargs)

    monkeypatch.setattr(os, "unlink", stopped)
    with pytest.raises(KeyboardInterrupt):
        ptd.LabelStore(path).build(pipeline(Scorer(2.0)), topics(3), overwrite=True, verbose=False)
    monkeypatch.undo()
    again = ptd.LabelStore(path).build(pipeline(Scorer(2.0)), topics(3), overwrite=True, verbose=False)
    assert len(again) == 3 and (again.verify()["state"] == "ok").all()


@pytest.mark.parametrize("victim", ["all", "shards", "pt_meta.json", "manifest.json"])
@pytest.mark.parametrize("at", ["q2", "q5"])
def test_a_store_deleted_while_it_is_built_is_told(path, victim, at):
    class Deleting(Scorer):
        """Somebody deletes the store while the last batch is labelled."""

        def transform(self, inp):
            if at in set(inp["qid"]):
                target = path if victim == "all" else path / victim
                shutil.rmtree(target) if target.is_dir() else target.unlink()
            return super().transform(inp)

    with pytest.raises((FileNotFoundError, ptd.LabellingError), match="deleted") as caught:
        ptd.LabelStore(path).build(pipeline(Deleting()), topics(6), batch_size=2, verbose=False)
    if isinstance(caught.value, ptd.LabellingError):
        assert set(caught.value.labelled["qid"]) >= {at}


# -- what is refused --------------------------------------------------------------------------------------------------

VECTOR = np.ones(3, np.float32)


def changed(column, row, cell):
    """A labelled frame, one cell of it changed."""
    frame = pipeline(Lister())(topics(2))
    base = {"doc_vec": VECTOR, "teacher_logits": VECTOR[:2], "query_vec": VECTOR, "teacher_rank": 1, "label": 1}
    if column in base:
        frame[column] = pd.Series([base[column]] * len(frame), dtype=object)
    frame[column] = frame[column].astype(object)
    frame.at[row, column] = cell
    return frame


@pytest.mark.parametrize("row", [0, 4])
@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        ("teacher_score", None, "'teacher_score' cannot be stored"),
        ("teacher_score", float("inf"), "'teacher_score' cannot be stored"),
        ("teacher_score", "high", None),
        ("teacher_rank", None, "'teacher_rank' cannot be stored"),
        ("label", None, "'label' cannot be stored"),
        ("teacher_prefs", {"d1": 2.0}, "2.0 is no probability"),
        ("teacher_prefs", {"d1": float("nan")}, "nan is no probability"),
        ("teacher_prefs", {"d1": None}, "None is no probability"),
        ("teacher_prefs", {"d1": -0.1}, "-0.1 is no probability"),
        ("teacher_prefs", {None: 0.5}, "None is no docno"),
        ("teacher_prefs", None, "'teacher_prefs' cannot be stored"),
        ("doc_vec", np.array([1, np.nan, 1], np.float32), "'doc_vec' cannot be stored"),
        ("doc_vec", np.ones(4, np.float32), "'doc_vec' cannot be stored"),
        ("doc_vec", None, "'doc_vec' cannot be stored"),
        ("query_vec", np.array([1, np.inf, 1], np.float32), "'query_vec' cannot be stored"),
        ("teacher_logits", np.array([np.nan, 1], np.float32), "'teacher_logits' cannot be stored"),
        ("query", None, "'query' must hold text"),
        ("query", float("nan"), "'query' must hold text"),
        ("qid", None, "'qid' .* must hold ids"),
        ("docno", None, "'docno' .* must hold ids"),
        ("docno", 1.5, "'docno' .* must hold ids"),
    ],
)
def test_what_is_no_label_is_refused(path, row, column, cell, message):
    frame = changed(column, row, cell)
    if message is None and row == 0:  # text under a label's name is no label
        return
    with pytest.raises(ValueError, match=message or "cannot be stored"):
        ptd.LabelStore(path).add(frame)
    assert not path.exists() or len(ptd.LabelStore(path)) == 0


def test_topics_that_cannot_be_labelled_are_found_before_anything_is_paid(path):
    for column, cell in (("qid", None), ("qid", float("nan")), ("qid", 1.5), ("query", None)):
        teacher, asked = Scorer(), topics(3).astype(object)
        asked.at[2, column] = cell
        with pytest.raises(ValueError, match=column):
            ptd.LabelStore(path).build(pipeline(teacher), asked, batch_size=1, verbose=False)
        with pytest.raises(ValueError, match=column):
            ptd.LabelStore(path).add(pipeline(Scorer())(topics(2)), asked)
        assert teacher.usage.calls == 0
    with pytest.raises(ValueError, match="'q1', which is not among the topics"):
        ptd.LabelStore(path).add(pipeline(Scorer())(topics(2)), topics(1))


def test_texts_without_an_id_or_of_two_minds_are_refused(path):
    for docnos, texts, message in ((["a", None], ["x", "y"], "'docno'"), (["a", "a"], ["x", "y"], "has two texts")):
        with pytest.raises(ValueError, match=message):
            ptd.LabelStore(path).add_texts(pd.DataFrame({"docno": docnos, "text": texts}))


# -- what is written --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("qid", "docno", "tag"),
    [("topic 1", "d", "t"), ("1", "doc 1", "t"), ("1", "d\u00a01", "t"), ("1", "d\n", "t"), ("1", "d\0", "t"),
     ("1", "d", "my run"), ("1", "d", ""), ("1\t2", "d", "t")],
)  # fmt: skip
def test_a_run_holds_no_white_space(path, tmp_path, qid, docno, tag):
    frame = pd.DataFrame({"qid": ["0", qid], "query": "x", "docno": ["a", docno], "teacher_score": [1.0, 2.0]})
    store = ptd.LabelStore.from_frame(path, frame)
    (tmp_path / "run").write_text("before")
    with pytest.raises(ValueError, match="a TREC run cannot hold"):
        store.to_run(tmp_path / "run", tag=tag)
    assert (tmp_path / "run").read_text() == "before" and {"run"} == set(os.listdir(tmp_path)) - {path.name}


def mixed(path):
    """A store of which one query has scores, the other ranks."""
    store = ptd.LabelStore(path)
    store.add(pd.DataFrame({"qid": "q1", "query": "red", "docno": ["a", "b"], "teacher_score": [0.1 + 0.2, 0.3]}))
    return store.add(pd.DataFrame({"qid": "q2", "query": "blue", "docno": ["a", "b"], "teacher_rank": [1, 0]}))


def test_a_run_of_queries_with_other_labels(path, tmp_path):
    store = mixed(path)
    store.to_run(tmp_path / "run.gz")
    assert gzip.decompress((tmp_path / "run.gz").read_bytes()).decode().splitlines() == [
        "q1 Q0 a 1 0.30000000000000004 teacher",
        "q1 Q0 b 2 0.29999998211860657 teacher",  # as a 32-bit float, trec_eval's, 0.3 is tied with the first
        "q2 Q0 b 1 0 teacher",
        "q2 Q0 a 2 -1 teacher",
    ]
    for by in ("teacher_score", "teacher_rank"):
        with pytest.raises(ValueError, match=f"no number for each of its documents in {by}"):
            store.to_run(tmp_path / "other", label=by)
    assert not (tmp_path / "other").exists()
    with pytest.raises(ValueError, match="finite numbers"):
        store.to_hf_dataset(pd.DataFrame({"docno": ["a", "b"], "text": ["x", "y"]}))


def test_json_lines_of_queries_with_other_labels(path, tmp_path):
    mixed(path).to_jsonl(tmp_path / "labels.jsonl")
    written = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    assert [sorted(entry) for entry in written] == [
        ["docno", "qid", "query", "teacher_score"],
        ["docno", "qid", "query", "teacher_rank"],
    ]
    again = ptd.LabelStore.from_jsonl(tmp_path / "again", tmp_path / "labels.jsonl")
    pd.testing.assert_frame_equal(again.frame(), mixed(tmp_path / "twin").frame())
    for line, message in (
        ('["q3"]', "line 3 of .* is not a JSON object"),
        ('{"qid": "q3", "query": "x", "docno": ["a", "b"], "teacher_score": [1]}', "line 3: 'teacher_score' must be"),
        ('{"qid": "q3", "query": "x"}', "line 3: expected qid, query and a list of docno"),
    ):
        (tmp_path / "odd.jsonl").write_text((tmp_path / "labels.jsonl").read_text() + line)
        with pytest.raises(ValueError, match=message):
            ptd.LabelStore.from_jsonl(tmp_path / "odd", tmp_path / "odd.jsonl")


def test_what_labelling_here_took_is_measured(path, monkeypatch):
    clock = iter(range(0, 10_000, 9))
    monkeypatch.setattr("pyterrier_distill.labels.engines.time.monotonic", lambda: next(clock))

    class Local(Scorer):
        """A model of this machine tells no seconds."""

        def transform(self, inp):
            out = super().transform(inp)
            self.spent.seconds = 0.0
            return out

    store = ptd.LabelStore(path).build(pipeline(Local()), topics(4), batch_size=2, verbose=False)
    assert store.usage.seconds == store.describe().usage.seconds == 18 and ", 18 s" in repr(store.describe())
    by_hand = ptd.LabelStore.from_frame(path.parent / "hand", pipeline(Scorer())(topics(2)))
    assert " s\n" not in repr(by_hand.describe())  # nobody measured it


# -- damage and disks, told with a name -------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"x"', b"\xff"])
@pytest.mark.parametrize("name", ["pt_meta.json", "manifest.json"])
def test_damaged_descriptions_are_named(path, name, content):
    built(path)
    (path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is not .*Restore it"):
        ptd.LabelStore(path).manifest  # noqa: B018
    queries = path.parent / "queries"
    ptd.QueryStore(queries).cache(ptd.SyntheticQueryGen(Telling()))(docs("red"))
    (queries / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is not .*Restore it"):
        ptd.QueryStore(queries).manifest  # noqa: B018


def test_queries_of_others_are_named_by_line(tmp_path):
    store = ptd.QueryStore(tmp_path / "q")
    store.cache(ptd.SyntheticQueryGen(Telling()))(docs("red"))
    for content, message in (
        (b'{"usage": {"calls": 1, "later": 2}}\n{"docno": "x"}\n', "line 2 of .* is not an entry of a query store"),
        (b"[1]\n", "line 1 of .* is not a JSON object"),
    ):
        import hashlib

        name = f"{7:08d}-{hashlib.sha256(content).hexdigest()[:32]}.jsonl"
        (tmp_path / "q" / "queries" / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            ptd.QueryStore(tmp_path / "q").entries()
        (tmp_path / "q" / "queries" / name).unlink()
    assert ptd.QueryStore(tmp_path / "q").usage == store.usage


def test_a_full_disk_is_named(path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    for write in (
        lambda: ptd.LabelStore(path / "labels").add(pipeline(Scorer())(topics(1))),
        lambda: ptd.LabelStore(path / "texts").add_texts(pd.DataFrame({"docno": ["a"], "text": ["x"]})),
        lambda: ptd.QueryStore(path / "q").cache(ptd.SyntheticQueryGen(Telling()))(docs("red")),
    ):
        with pytest.raises(OSError, match=f"No space left on device.*{path.name}") as caught:
            write()
        assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("make", [ptd.LabelStore, ptd.QueryStore, ptd.MultiVectorIndex, ptd.bm25])
def test_an_empty_path_is_not_the_working_directory(make):
    for path in ("", " "):
        with pytest.raises(ValueError, match="the path is empty"):
            make(path, []) if make is ptd.bm25 else make(path)


# -- what unpacks to too much -----------------------------------------------------------------------------------------


def bombs():
    import pyarrow as pa

    few, many = pa.array([0, 1 << 24], pa.int32()), 1 << 24

    def shard(**columns):
        given = {"qid": pa.array(["x"]), "query": pa.array(["q"]), "docno": pa.array([["d"]])}
        return pa.table({**given, **columns})

    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(200, np.int32)), pa.array(["x" * (1 << 20)]))
    yield "a number again and again", shard(teacher_score=pa.ListArray.from_arrays(few, pa.array(np.zeros(many))))
    names = pa.DictionaryArray.from_arrays(pa.array(np.zeros(many, np.int32)), pa.array(["d"]))
    yield "an id again and again", shard(docno=pa.ListArray.from_arrays(few, names).cast(pa.list_(pa.string())))
    qids = pa.array([f"x{n}" for n in range(200)])
    columns = {"qid": qids, "query": text.dictionary_decode(), "docno": pa.array([["d"]] * 200)}
    yield "a long text again and again", pa.table(columns)
    yield "one long text", shard(query=pa.array(["x" * (1 << 28)]))


@pytest.mark.parametrize("table", [pytest.param(table, id=name) for name, table in bombs()])
def test_a_small_shard_cannot_unpack_to_a_gigabyte(path, table):
    import io

    import pyarrow.parquet as pq

    built(path)
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    content = sink.getvalue()
    assert len(content) < 200_000
    (path / "shards" / shards.name_of(content, 99)).write_bytes(content)
    with pytest.raises(shards.DamagedShard, match="would unpack to"):
        ptd.LabelStore(path).frame()
    told = ptd.LabelStore(path).verify()
    assert told["state"].str.contains("would unpack to").sum() == 1 and len(ptd.LabelStore(path)) == 6


def test_what_we_write_may_always_be_read(path, monkeypatch):
    monkeypatch.setattr(shards, "ALWAYS_UNPACKED", 0)
    monkeypatch.setattr(shards, "MOST_UNPACKED", 3)
    frame = pd.DataFrame({"qid": "q", "query": "same", "docno": [f"d{n}" for n in range(20_000)], "teacher_score": 1.0})
    store = ptd.LabelStore.from_frame(path, frame)
    assert len(ptd.LabelStore(path).frame()) == 20_000 and (store.verify()["state"] == "ok").all()


def test_strings_come_back_as_they_were(path):
    """Empty lists, lists that are missing, ids again and again, columns with a dot in their names."""
    frame = pipeline(Lister())(topics(12)).assign(**{"teacher_score_v1.5": 0.5})
    frame.at[0, "teacher_prefs"] = {"elsewhere": 0.5, "d1": 0.25}
    store = ptd.LabelStore(path).add(frame, topics(12))
    out = ptd.LabelStore(path).frame()
    assert out["teacher_prefs"].tolist() == frame["teacher_prefs"].tolist()
    assert out["docno"].tolist() == frame["docno"].tolist() and out["teacher_score_v1.5"].eq(0.5).all()
    assert ptd.LabelStore(path).topics()["qid"].tolist() == topics(12)["qid"].tolist()
    file = store.directory.open(store.directory.names()[0])
    assert file.read().schema.remove_metadata() == file.schema_arrow.remove_metadata()
    assert isinstance(file, directory.ShardFile)
