"""LabelStore: nothing lost, nothing twice, whatever happens in between."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest

import pyterrier_distill as ptd
from pyterrier_distill.backends.base import Usage
from pyterrier_distill.labels import shards
from pyterrier_distill.labels.identity import difference, identity
from pyterrier_distill.teachers.base import Teacher, rerank

pytest.importorskip("pyarrow")


class Scorer(Teacher):
    """A pointwise teacher that counts its calls; a document's label depends on query and text."""

    unique = False

    def __init__(self, factor=1.0):
        self.factor = factor
        self.spent = Usage()

    @property
    def usage(self):
        return self.spent

    def transform(self, inp):
        self._check(inp)
        self.spent.add(len(inp), 10 * len(inp), len(inp), 0.5)
        scores = [self.factor * (hash_of(q + t) % 1000) / 1000 for q, t in zip(inp["query"], inp["text"])]
        return rerank(inp, scores, teacher_score=np.array(scores, dtype=float))


class Lister(Scorer):
    """A teacher of whole lists: preferences of each document over the next in the incoming order."""

    unique = True

    def transform(self, inp):
        out = super().transform(inp)
        cells = []
        for _, rows in inp.groupby("qid", sort=False):
            docnos = rows["docno"].tolist()
            cells += [{b: 0.25 + 0.5 * (a < b)} for a, b in zip(docnos, docnos[1:] + docnos[:1])]
        return out.assign(teacher_prefs=cells if len(inp) else [])


def hash_of(text):
    return int.from_bytes(text.encode()[-8:], "big") * 2654435761 % 2**32


def topics(n):
    return pd.DataFrame({"qid": [f"q{i}" for i in range(n)], "query": [f"about {i}" for i in range(n)]})


class Shared(pt.Transformer):
    """Six documents whose texts are the same for all queries; none for every tenth query."""

    def transform(self, inp):
        frame = Candidates()(inp)
        return frame.assign(text="text of " + frame["docno"])

    def __repr__(self):
        return "Shared()"


class Candidates(pt.Transformer):
    """Four to six documents a query; none for every tenth."""

    def transform(self, inp):
        pt.validate.query_frame(inp, ["query"])
        rows = []
        for qid, query in zip(inp["qid"], inp["query"]):
            number = int(qid[1:])
            for rank in range(0 if number % 10 == 9 else 4 + number % 3):
                rows.append((qid, query, f"d{rank}", f"text {rank} of {number}", float(-rank), rank))
        return pd.DataFrame(rows, columns=["qid", "query", "docno", "text", "score", "rank"])

    def __repr__(self):
        return "Candidates()"


def pipeline(teacher):
    return Candidates() >> teacher


@pytest.fixture
def path(tmp_path):
    return tmp_path / "labels"


def test_what_goes_in_comes_out(path):
    frame = pipeline(Lister())(topics(20))
    frame["teacher_logits"] = list(np.random.default_rng(0).normal(size=(len(frame), 2)).astype(np.float32))
    frame["teacher_rank"] = frame["rank"]
    frame["doc_vec"] = list(np.random.default_rng(1).normal(size=(len(frame), 5)).astype(np.float32))
    vectors = {qid: np.full(3, n, dtype=np.float32) for n, qid in enumerate(frame["qid"].unique())}
    frame["query_vec"] = [vectors[qid] for qid in frame["qid"]]
    frame.at[0, "teacher_prefs"] = {"d1": 0.5, "somewhere else": 0.125}
    store = ptd.LabelStore(path).add(frame, topics(20))
    out = store.frame()
    assert len(store) == 20 and "q9" in store and "q20" not in store
    pd.testing.assert_frame_equal(out[["qid", "query", "docno"]], frame[["qid", "query", "docno"]], check_dtype=False)
    for column in ("teacher_score", "teacher_rank", "score", "rank"):
        assert (out[column] == frame[column]).all() and out[column].dtype == frame[column].dtype
    for column in ("teacher_logits", "doc_vec", "query_vec"):
        np.testing.assert_array_equal(np.stack(out[column]), np.stack(frame[column]))
        assert out[column].iloc[0].dtype == np.float32
    assert list(out["teacher_prefs"]) == list(frame["teacher_prefs"])
    pd.testing.assert_frame_equal(store.topics(), topics(20), check_dtype=False)
    some = store.frame(["q3", "q1"], columns=["teacher_score"])
    assert list(some["qid"].unique()) == ["q1", "q3"] and "teacher_prefs" not in some.columns


def test_build_resumes_and_never_labels_twice(path):
    first, second = Scorer(), Scorer()
    ptd.LabelStore(path).build(pipeline(first), topics(30), batch_size=4, verbose=False)
    store = ptd.LabelStore(path).build(pipeline(second), topics(50), batch_size=4, verbose=False)
    assert second.usage.calls == len(Candidates()(topics(50))) - first.usage.calls
    whole = pipeline(Scorer())(topics(50))
    pd.testing.assert_frame_equal(
        store.frame(columns=["teacher_score"]), whole[["qid", "query", "docno", "teacher_score"]], check_dtype=False
    )
    assert len(store) == 50 and store.usage.calls == len(whole) and store.usage.prompt_tokens == 10 * len(whole)


def test_another_pipeline_or_text_is_refused_by_name(path):
    ptd.LabelStore(path).build(pipeline(Scorer()), topics(4), verbose=False)
    with pytest.raises(ValueError, match=r"built otherwise: stages\[1\].factor was 1.0 and is 2.0.*overwrite=True"):
        ptd.LabelStore(path).build(pipeline(Scorer(2.0)), topics(4), verbose=False)
    changed = topics(4).assign(query=["other", *topics(4)["query"][1:]])
    with pytest.raises(ValueError, match="text of query 'q0' was 'about 0' and is 'other'"):
        ptd.LabelStore(path).build(pipeline(Scorer()), changed, verbose=False)
    store = ptd.LabelStore(path).build(pipeline(Scorer(2.0)), changed, overwrite=True, verbose=False)
    assert store.topics()["query"][0] == "other" and store.manifest["pipeline"]["stages"][1]["factor"] == 2.0


def test_a_teacher_that_fails_loses_nothing(path):
    class Failing(Scorer):
        """Fails at the sixth query."""

        def transform(self, inp):
            if "q5" in set(inp["qid"]):
                done = inp[inp["qid"] < "q5"]
                raise ptd.LabellingError("the server went away", Scorer.transform(self, done))
            return super().transform(inp)

    with pytest.raises(ptd.LabellingError):
        ptd.LabelStore(path).build(pipeline(Failing()), topics(8), batch_size=4, verbose=False)
    store = ptd.LabelStore(path)
    assert store.qids() == ["q0", "q1", "q2", "q3", "q4"]


def test_labels_are_needed(path):
    with pytest.raises(ValueError, match="the pipeline leaves no label"):
        ptd.LabelStore(path).build(Candidates(), topics(3), verbose=False)
    with pytest.raises(ValueError, match="holds no label"):
        ptd.LabelStore(path).add(Candidates()(topics(3)))
    for settings in ({"batch_size": 0}, {"shard": (2, 2)}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            ptd.LabelStore(path).build(pipeline(Scorer()), topics(3), **settings)
    with pytest.raises(ValueError, match="must be unique"):
        ptd.LabelStore(path).build(pipeline(Scorer()), pd.concat([topics(3)] * 2), verbose=False)


BUILD = """
import sys, time
sys.path.insert(0, {tests!r})
import pyterrier_distill as ptd
from test_labels import Scorer, pipeline, topics

class Slow(Scorer):
    def transform(self, inp):
        with open({log!r}, "a") as log:
            log.write("".join(qid + "\\n" for qid in inp["qid"].unique()))
        time.sleep({pause})
        return super().transform(inp)

Slow.__qualname__ = Slow.__name__ = "Scorer"
Slow.__module__ = "test_labels"
print("ready", flush=True)
ptd.LabelStore({path!r}).build(pipeline(Slow()), topics({n}), batch_size=2, verbose=False{extra})
"""


def builder(path, tmp_path, n=40, pause=0.01, extra="", log="log"):
    code = BUILD.format(
        tests=os.path.dirname(__file__), log=str(tmp_path / log), path=str(path), n=n, pause=pause, extra=extra
    )
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.stdout.close()
    return process


def test_kill_9_at_random_moments(path, tmp_path):
    """After each kill the committed queries stay; at the end the store is that of an undisturbed run."""
    rng = np.random.default_rng(0)
    committed: set[str] = set()
    for _ in range(4):
        process = builder(path, tmp_path)
        time.sleep(float(rng.uniform(0.0, 0.25)))
        process.send_signal(signal.SIGKILL)
        process.wait()
        before, committed = committed, set(ptd.LabelStore(path).qids()) if path.exists() else set()
        assert before <= committed
    process = builder(path, tmp_path, pause=0)
    assert process.wait() == 0
    store = ptd.LabelStore(path)
    undisturbed = ptd.LabelStore(tmp_path / "other").build(pipeline(Scorer()), topics(40), batch_size=2, verbose=False)
    pd.testing.assert_frame_equal(store.frame(), undisturbed.frame())
    assert (store.verify()["state"] == "ok").all()
    asked = (tmp_path / "log").read_text().split()
    for qid in set(asked):  # at most once for each process that was killed while it asked
        assert asked.count(qid) <= 5
    again = len(asked) - len(set(asked))
    assert again <= 4 * 2  # a kill costs one batch of two queries at most
    assert not list((path / "shards").glob(".*"))


def test_two_processes_build_one_store(path, tmp_path):
    processes = [builder(path, tmp_path, n=30, log=f"log{i}") for i in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    store = ptd.LabelStore(path)
    asked = [(tmp_path / f"log{i}").read_text().split() for i in range(2) if (tmp_path / f"log{i}").exists()]
    everything = [qid for log in asked for qid in log]
    assert len(everything) == len(set(everything)) and len(store) == 30
    assert store.qids() == topics(30)["qid"].tolist() and (store.verify()["state"] == "ok").all()


def test_parts_of_a_build_make_the_whole(path):
    for k in (2, 0, 1):
        ptd.LabelStore(path).build(pipeline(Scorer()), topics(31), batch_size=3, shard=(k, 3), verbose=False)
    assert ptd.LabelStore(path).qids() == topics(31)["qid"].tolist()


@pytest.fixture
def ordinary_user():
    """Whoever runs the tests; where that is root, somebody who may not write everywhere."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)


@pytest.mark.skipif(os.name != "posix", reason="permissions of other systems")
def test_a_read_only_directory(ordinary_user):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "labels"
        store = ptd.LabelStore(path).build(pipeline(Scorer()), topics(4), verbose=False)
        for part in ("claims", "shards"):
            (path / part).chmod(0o555)
            with pytest.raises(OSError, match="is intact: make room or allow writing"):
                store.build(pipeline(Scorer()), topics(8), verbose=False)
            store.build(pipeline(Scorer()), topics(4), verbose=False)  # nothing to write is no mistake
            (path / part).chmod(0o755)
        assert len(ptd.LabelStore(path)) == 4 and len(ptd.LabelStore(path).frame()) == len(store.frame())


def test_a_full_disk(path, monkeypatch):
    store = ptd.LabelStore(path).build(pipeline(Scorer()), topics(4), batch_size=2, verbose=False)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device.*is intact: make room"):
        store.build(pipeline(Scorer()), topics(8), batch_size=2, verbose=False)
    monkeypatch.undo()
    assert ptd.LabelStore(path).qids() == ["q0", "q1", "q2", "q3"] and not list((path / "shards").glob(".*"))
    assert len(store.build(pipeline(Scorer()), topics(8), batch_size=2, verbose=False)) == 8


def test_damage_is_found_set_aside_and_mended(path):
    store = ptd.LabelStore(path).build(pipeline(Scorer()), topics(12), batch_size=4, verbose=False)
    whole = store.frame()
    victim = path / "shards" / store.directory.names()[1]
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 255
    victim.write_bytes(bytes(content))
    told = store.verify()
    assert (told["state"] != "ok").sum() == 1 and "build again" in told["advice"][1]
    assert len(ptd.LabelStore(path)) == 8 and len(list((path / "damaged").iterdir())) == 1
    teacher = Scorer()
    again = ptd.LabelStore(path).build(pipeline(teacher), topics(12), batch_size=4, verbose=False)
    pd.testing.assert_frame_equal(again.frame(), whole)
    assert teacher.usage.calls == (whole["qid"].isin(["q4", "q5", "q6", "q7"])).sum()


# -- what others made -------------------------------------------------------------------------------------------------


def planted(path, table):
    """A store into which somebody put a table as a shard of a right name."""
    store = ptd.LabelStore(path).build(pipeline(Scorer()), topics(2), verbose=False)
    content = shards.to_bytes(table)
    (path / "shards" / shards.name_of(content, 99)).write_bytes(content)
    return store


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"qid": ["x"], "query": ["q"]}, "its column 'docno' must be"),
        ({"qid": [1], "query": ["q"], "docno": [["d"]]}, "its column 'qid' must be string"),
        ({"qid": ["x"], "query": ["q"], "docno": [["d"]], "teacher_score": [[b"pickle"]]}, "'teacher_score' is list"),
        ({"qid": ["x"], "query": ["q"], "docno": [["d"]], "teacher_score": [b"pickle"]}, "'teacher_score' is binary"),
    ],
)
def test_foreign_tables_are_refused(path, columns, message):
    import pyarrow as pa

    planted(path, pa.table(columns))
    with pytest.raises(shards.DamagedShard, match=message):
        ptd.LabelStore(path).frame()
    assert (ptd.LabelStore(path).verify()["state"] == "ok").sum() == 1 and len(ptd.LabelStore(path)) == 2


def test_names_cannot_lead_elsewhere(path, tmp_path):
    store = ptd.LabelStore(path).build(pipeline(Scorer()), topics(2), verbose=False)
    outside = tmp_path / "outside.parquet"
    outside.write_bytes((path / "shards" / store.directory.names()[0]).read_bytes())
    os.symlink(outside, path / "shards" / ("0000000009-" + "a" * 32 + ".parquet"))
    (path / "shards" / "..evil.parquet").write_bytes(outside.read_bytes())
    assert len(ptd.LabelStore(path)) == 2 and len(ptd.LabelStore(path).directory.names()) == 1


def test_other_directories_are_left_alone(tmp_path):
    (tmp_path / "thing").mkdir()
    (tmp_path / "thing" / "file").write_text("x")
    with pytest.raises(ValueError, match="is no label store"):
        ptd.LabelStore(tmp_path / "thing")
    (tmp_path / "thing" / "pt_meta.json").write_text(json.dumps({"type": "sparse_index", "format": "x"}))
    with pytest.raises(ValueError, match="'sparse_index'"):
        ptd.LabelStore(tmp_path / "thing")


def test_it_is_an_artifact(path):
    store = ptd.LabelStore(path).build(pipeline(Scorer()), topics(5), verbose=False)
    again = pt.Artifact.load(str(path))
    assert isinstance(again, ptd.LabelStore)
    pd.testing.assert_frame_equal(again.frame(), store.frame())
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["pipeline"]["stages"][1]["class"] == "test_labels.Scorer" and manifest["versions"]["python"]


# -- reading ----------------------------------------------------------------------------------------------------------


def test_streaming_gives_every_query_once_in_a_seeded_order(path):
    store = ptd.LabelStore(path).build(pipeline(Scorer()), topics(60), batch_size=7, verbose=False)
    whole = store.frame()
    order = lambda **how: list(dict.fromkeys(q for frame in store.lists(buffer=2, **how) for q in frame["qid"]))  # noqa: E731
    assert order(seed=None) == list(whole["qid"].unique())
    shuffled = order(seed=1)
    assert sorted(shuffled) == sorted(order(seed=None)) and shuffled != order(seed=None)
    assert shuffled == order(seed=1) != order(seed=2)
    parts = [order(seed=1, rank=r, world=3) for r in range(3)]
    assert sorted(sum(parts, [])) == sorted(shuffled)
    again = pd.concat(store.lists(seed=3)).sort_values(["qid", "docno"], ignore_index=True)
    pd.testing.assert_frame_equal(again, whole.sort_values(["qid", "docno"], ignore_index=True))


def test_what_is_not_there_is_named(path):
    store = ptd.LabelStore(path).build(pipeline(Scorer()), topics(3), verbose=False)
    with pytest.raises(KeyError, match="'q7'"):
        store.frame(["q1", "q7"])
    with pytest.raises(ptd.MissingLabelError, match="teacher_rank"):
        store.frame(columns=["teacher_rank"])


def test_description(path):
    store = ptd.LabelStore(path).build(pipeline(Lister()), topics(30), verbose=False)
    told = store.describe()
    assert told.queries == 30 and set(told.table["label"]) == {"teacher_score", "teacher_prefs"}
    assert told.histograms["teacher_score"].sum() == len(store.frame()) == told.documents
    assert "Lister" in told._repr_html_() and "calls" in repr(told)


# -- the cache --------------------------------------------------------------------------------------------------------


def test_a_pointwise_teacher_is_asked_about_each_document_once(path):
    teacher = Scorer()
    cached = ptd.LabelStore(path).cache(teacher)
    frame = Candidates()(topics(8))
    expected = Scorer()(frame)
    some = frame[frame["docno"] != "d1"]
    cached(some)
    out = cached(frame.sample(frac=1, random_state=0))
    assert teacher.usage.calls == len(frame)
    pd.testing.assert_frame_equal(out.sort_index(), expected, check_dtype=False)
    again = Scorer()
    pd.testing.assert_frame_equal(ptd.LabelStore(path).cache(again)(frame), expected, check_dtype=False)
    assert again.usage.calls == 0 and ptd.LabelStore(path).cache(again).estimate is not None


def test_other_teachers_texts_and_lists_never_hit(path):
    store = ptd.LabelStore(path)
    frame = Candidates()(topics(6))
    store.cache(Scorer())(frame)
    for teacher, asked in ((Scorer(2.0), frame), (Scorer(), frame.assign(text=frame["text"] + "!"))):
        store.cache(teacher)(asked)
        assert teacher.usage.calls == len(frame)
    lister = Lister()
    store.cache(lister)(frame)
    store.cache(lister)(frame)
    assert lister.usage.calls == len(frame)
    one_less = frame[~((frame["qid"] == "q0") & (frame["docno"] == "d2"))]  # another list: another answer
    out = store.cache(lister)(one_less)
    assert lister.usage.calls == len(frame) + (one_less["qid"] == "q0").sum()
    assert (out["teacher_score"] == Scorer()(one_less)["teacher_score"]).all()
    assert list(out["teacher_prefs"]) == list(Lister()(one_less)["teacher_prefs"])


def test_a_store_of_topics_is_no_cache(path):
    store = ptd.LabelStore(path).build(pipeline(Scorer()), topics(2), verbose=False)
    with pytest.raises(ValueError, match="a path of its own"):
        store.cache(Scorer())


def test_identity_covers_what_decides_the_answer(tiny_t5, tiny_cross):
    teacher = ptd.PointwiseTeacher(tiny_t5)
    same = ptd.PointwiseTeacher(tiny_t5, batch_size=3, verbose=True, device="cpu")
    assert identity(teacher) == identity(same)
    for other in (
        ptd.PointwiseTeacher(tiny_t5, precision="fp16"),
        ptd.PointwiseTeacher(tiny_t5, prompt="yes_no"),
        ptd.PointwiseTeacher(tiny_t5, revision="main"),
        ptd.PointwiseTeacher(tiny_cross),
    ):
        assert difference(identity(teacher), identity(other)) is not None
    window = ptd.ListwiseLLMTeacher(tiny_t5, window_size=10)
    told = difference(identity(window), identity(ptd.ListwiseLLMTeacher(tiny_t5, window_size=12)))
    assert told == "window_size was 10 and is 12"


# -- other formats ----------------------------------------------------------------------------------------------------


def test_runs_and_json_lines(path, tmp_path, collections):
    run = collections / "dl20" / "runs" / "teacher.rankvicuna.bm25.txt.gz"
    queries = pt.get_dataset(f"folder:{collections / 'dl20'}").get_topics()
    store = ptd.LabelStore.from_run(path, run, queries)
    assert len(store) == 54 and len(store.frame()) == 5400
    store.to_run(tmp_path / "again.txt.gz")
    again = ptd.RunTeacher(tmp_path / "again.txt.gz")(queries)
    stored = ptd.RunTeacher(run)(queries)
    keys = ["qid", "docno", "teacher_rank"]
    pd.testing.assert_frame_equal(
        again[keys].sort_values(keys, ignore_index=True), stored[keys].sort_values(keys, ignore_index=True)
    )
    store.to_jsonl(tmp_path / "labels.jsonl")
    first = json.loads((tmp_path / "labels.jsonl").read_text().splitlines()[0])
    assert len(first["docno"]) == len(first["teacher_rank"]) == 100
    samples = collections / "bge_samples" / "nq.jsonl.gz"
    assert len(ptd.LabelStore.from_jsonl(tmp_path / "bge", samples)) == 10


# -- texts, states, other file systems, other engines -----------------------------------------------------------------


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
    with pytest.raises(ValueError, match="is no label store"):
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


@pytest.mark.parametrize(
    "prefs, message",
    [
        ([{"i": 0, "j": 9, "p": 0.5}], "documents that it lacks"),
        ([{"i": -1, "j": 0, "p": 0.5}], "documents that it lacks"),
    ],
)
def test_preferences_about_nobody_are_refused(path, prefs, message):
    import pyarrow as pa

    kind = pa.list_(shards.preference())
    columns = {
        "qid": ["x"], "query": ["q"], "docno": [["d"]], "teacher_prefs": pa.array([prefs], kind),
        "teacher_prefs:outside": pa.array([[]], pa.list_(pa.string())),
    }  # fmt: skip
    planted(path, pa.table(columns))
    with pytest.raises(shards.DamagedShard, match=message):
        ptd.LabelStore(path).frame()


def test_more_labels_than_documents_are_refused(path):
    import pyarrow as pa

    planted(path, pa.table({"qid": ["x"], "query": ["q"], "docno": [["d"]], "teacher_score": [[1.0, 2.0]]}))
    with pytest.raises(shards.DamagedShard, match="other numbers of 'teacher_score'"):
        ptd.LabelStore(path).frame()


def served(package):
    """The artifact in a package, fetched over HTTP from this machine."""
    import functools
    import http.server
    import threading

    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=os.path.dirname(package))
    handler.func.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        artifact = pt.Artifact.from_url(f"http://127.0.0.1:{server.server_port}/{os.path.basename(package)}")
        server.shutdown()
    return artifact


def test_packages_travel(path, tmp_path, monkeypatch):
    """What to_hf and to_zenodo upload, and from_hf downloads."""
    monkeypatch.setattr(pt.io, "pyterrier_home", lambda: str(tmp_path / "home"))
    store = ptd.LabelStore(path).build((Shared() >> Lister()), topics(9), with_text=True, verbose=False)
    package = store.build_package(str(tmp_path / "labels.tar.lz4"), verbose=False)
    again = served(package)
    assert not (again.path / "claims").exists()
    assert isinstance(again, ptd.LabelStore) and again.path != store.path
    pd.testing.assert_frame_equal(again.frame(with_text=True), store.frame(with_text=True))
    assert again.manifest == store.manifest and (again.verify()["state"] == "ok").all()


def test_a_package_cannot_write_elsewhere(tmp_path, monkeypatch):
    import io
    import tarfile

    import lz4.frame

    monkeypatch.setattr(pt.io, "pyterrier_home", lambda: str(tmp_path / "home"))
    meta = json.dumps({"type": "label_store", "format": "parquet"}).encode()
    with lz4.frame.open(tmp_path / "evil.tar.lz4", "wb") as out, tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in (("../../../escaped", b"x"), ("/tmp/escaped-too", b"x"), ("pt_meta.json", meta)):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    store = served(tmp_path / "evil.tar.lz4")
    assert len(store) == 0 and not list(tmp_path.rglob("escaped*")) and not os.path.exists("/tmp/escaped-too")


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


# -- what a reader found ----------------------------------------------------------------------------------------------


class Second(Scorer):
    """A teacher with a column of its own."""

    def transform(self, inp):
        out = super().transform(inp)
        return out.rename(columns={"teacher_score": "teacher_score_b"}).assign(teacher_score=inp["teacher_score"])


class Failing(Scorer):
    """Fails at one query, until it is mended."""

    broken = True

    def transform(self, inp):
        if Failing.broken and "q3" in set(inp["qid"]):
            done = inp[inp["qid"] < "q3"]
            raise ptd.LabellingError("the server went away", super().transform(done))
        return super().transform(inp)

    def __repr__(self):
        return "Failing()"


def test_what_was_finished_before_an_error_goes_through_the_later_stages(path, monkeypatch):
    chain = Candidates() >> Failing() >> Second()
    with pytest.raises(ptd.LabellingError):
        ptd.LabelStore(path).build(chain, topics(6), batch_size=6, verbose=False)
    assert ptd.LabelStore(path).qids() == ["q0", "q1", "q2"]
    monkeypatch.setattr(Failing, "broken", False)
    store = ptd.LabelStore(path).build(Candidates() >> Failing() >> Second(), topics(6), batch_size=6, verbose=False)
    assert store.frame()[["teacher_score", "teacher_score_b"]].notna().all().all() and len(store) == 6


def test_a_cache_that_fails_hands_on_whole_queries(path, monkeypatch):
    cache = ptd.LabelStore(path / "cache")
    frame = Candidates()(topics(6))
    monkeypatch.setattr(Failing, "broken", False)
    cache.cache(Failing())(frame[frame["docno"].isin(["d0", "d1"])])
    monkeypatch.setattr(Failing, "broken", True)
    with pytest.raises(ptd.LabellingError) as caught:
        cache.cache(Failing())(frame)
    done = frame[frame["qid"] < "q3"]
    assert sorted(zip(caught.value.labelled["qid"], caught.value.labelled["docno"])) == sorted(
        zip(done["qid"], done["docno"])
    )


class Sorting(pt.Transformer):
    """A re-ranker that returns its rows sorted, as most do."""

    def transform(self, inp):
        pt.validate.result_frame(inp, ["query"])
        out = inp.assign(score=[float(hash_of(q + d) % 997) for q, d in zip(inp["query"], inp["docno"])])
        return pt.model.add_ranks(out).sort_values(["qid", "rank"], ignore_index=True)

    def __repr__(self):
        return "Sorting()"


def test_a_cached_re_ranker_may_sort_but_not_drop(path):
    frame = Candidates()(topics(5).iloc[::-1])
    for teacher in (Sorting(), ptd.PointwiseTeacher(Sorting())):
        for _ in range(2):
            out = ptd.LabelStore(path / type(teacher).__name__).cache(teacher)(frame)
            expected = [float(hash_of(q + d) % 997) for q, d in zip(frame["query"], frame["docno"])]
            assert out["score"].tolist() == out["teacher_score"].tolist() == expected
    cached = ptd.LabelStore(path / "cut").cache(ptd.PointwiseTeacher(Sorting() % 2))
    with pytest.raises(ValueError, match="must return the rows that it is given"):
        cached(frame)
    assert len(ptd.LabelStore(path / "cut")) == 0
    import pickle

    assert pickle.loads(pickle.dumps(cached)) == cached and cached.usage.calls == 0


@pytest.mark.parametrize(
    "one, other",
    [
        (lambda: ptd.RunTeacher(_run(0)), lambda: ptd.RunTeacher(_run(1))),
        (lambda: pt.Transformer.from_df(_run(0)), lambda: pt.Transformer.from_df(_run(1))),
        (lambda: pt.apply.doc_score(lambda row: 1.0), lambda: pt.apply.doc_score(lambda row: 2.0)),
        (lambda: pt.apply.doc_score(_adding(1)), lambda: pt.apply.doc_score(_adding(2))),
    ],
)
def test_identity_sees_frames_and_functions(one, other):
    assert difference(identity(one()), identity(one())) is None
    assert difference(identity(one()), identity(other())) is not None


def _run(changed):
    frame = pd.DataFrame({"qid": "q", "docno": [f"d{n}" for n in range(100)], "rank": range(100), "score": 0.0})
    frame.loc[50, "docno"] = f"other {changed}"
    return frame.assign(score=-frame["rank"].astype(float))


def _adding(n):
    return lambda row: row["score"] + n


def test_identity_sees_training_fields_and_backends(tiny, tiny_llm, documents, tmp_path):
    import shutil

    teacher = ptd.BiEncoder(tiny, precision="fp32", device="cpu")
    student = ptd.BiEncoder(tiny, precision="fp32", device="cpu")
    before = identity(ptd.PointwiseTeacher(student))
    frame = (ptd.SpanQueries(n=2) >> ptd.explode_queries() >> teacher.query_encoder())(documents)
    ptd.Distiller(student, ptd.EmbeddingMatch(), verbose=False, learning_rate=1e-2).fit(frame)
    assert difference(before, identity(ptd.PointwiseTeacher(student))) is not None
    one, two = (ptd.PointwiseTeacher(student, text_field=field) for field in ("title", "body"))
    assert "text_field was 'title' and is 'body'" in difference(identity(one), identity(two))
    shutil.copytree(tiny_llm, tmp_path / "llm")
    before = identity(ptd.ListwiseLLMTeacher(ptd.HF(tmp_path / "llm")))
    assert before == identity(ptd.ListwiseLLMTeacher(ptd.HF(tmp_path / "llm", batch_size=3)))
    weights = next((tmp_path / "llm").glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(bytes(content))
    assert difference(before, identity(ptd.ListwiseLLMTeacher(ptd.HF(tmp_path / "llm")))) is not None


def test_a_store_of_other_labels_is_not_built_upon(path):
    store = ptd.LabelStore(path / "texts")
    store.add_texts(Shared()(topics(2)))
    store.build(pipeline(Scorer(1.0)), topics(2), verbose=False)
    with pytest.raises(ValueError, match="factor was 1.0 and is 5.0"):
        store.build(pipeline(Scorer(5.0)), topics(4), verbose=False)
    by_hand = ptd.LabelStore.from_frame(path / "hand", pipeline(Scorer())(topics(2)))
    with pytest.raises(ValueError, match="nothing says what made them"):
        by_hand.build(pipeline(Scorer()), topics(4), verbose=False)
    cache = ptd.LabelStore(path / "cache")
    cache.cache(Scorer())(Candidates()(topics(2)))
    with pytest.raises(ValueError, match="cache of a teacher"):
        cache.build(pipeline(Scorer()), topics(4), verbose=False)
    assert cache.usage.calls == 9  # what answering cost


def test_pipelines_that_change_query_ids_are_refused(path):
    numbers = pd.DataFrame({"qid": ["1", "2"], "query": ["a", "b"]})

    class Numbered(Candidates):
        def transform(self, inp):
            return (
                super().transform(inp.assign(qid="q" + inp["qid"])).assign(qid=lambda f: f["qid"].str[1:].astype(int))
            )

    store = ptd.LabelStore(path / "int").build(Numbered() >> Scorer(), numbers, verbose=False)
    assert store.frame()["qid"].unique().tolist() == ["1", "2"]
    other = pipeline(Scorer()) >> pt.apply.qid(lambda row: "x" + row["qid"])
    with pytest.raises(ptd.LabellingError, match="rows of query 'xq0', which it was not asked about") as caught:
        ptd.LabelStore(path / "other").build(other, topics(2), verbose=False)
    assert len(caught.value.labelled) == 9


@pytest.mark.parametrize(
    "column, cells, message",
    [
        ("teacher_score", lambda n: [float("nan")] * n, "finite numbers"),
        ("teacher_logits", lambda n: [None] + [np.zeros(2)] * (n - 1), "'teacher_logits' cannot be stored"),
        ("teacher_prefs", lambda n: [{"d1": "much"}] * n, "'teacher_prefs' cannot be stored"),
        ("teacher_score_x", lambda n: [b"bytes"] * n, "'teacher_score_x' cannot be stored"),
    ],
)
def test_labels_that_cannot_be_stored_are_not_lost(path, column, cells, message):
    class Odd(Scorer):
        def transform(self, inp):
            out = super().transform(inp)
            return out.assign(**{column: cells(len(out))})

    with pytest.raises(ptd.LabellingError, match=message) as caught:
        ptd.LabelStore(path).build(pipeline(Odd()), topics(2), verbose=False)
    assert len(caught.value.labelled) == 9 and len(ptd.LabelStore(path)) == 0


def test_odd_columns_come_back(path):
    frame = pipeline(Lister())(topics(4))
    frame["teacher_prefs"] = [{1: 0.5, "d0": 0.25} for _ in range(len(frame))]
    frame = frame.assign(label=True, label_source="llm", teacher_prefs_count=3, query_vec_norm=0.5)
    frame[3] = 1
    out = ptd.LabelStore.from_frame(path, frame).frame()
    assert out["label"].tolist() == [1] * len(frame) and "label_source" not in out.columns
    assert out["teacher_prefs_count"].tolist() == [3] * len(frame) and out["query_vec_norm"].eq(0.5).all()
    assert out["teacher_prefs"].iloc[0] == {"1": 0.5, "d0": 0.25}


def test_shards_of_other_columns_stay_apart(path):
    store = ptd.LabelStore(path)
    frame = pipeline(Lister())(topics(8))
    first, second = frame[frame["qid"] < "q4"], frame[frame["qid"] >= "q4"]
    store.add(first.drop(columns=["teacher_prefs", "score"]).astype({"teacher_score": "float32"}))
    store.add(second.assign(teacher_rank=second["rank"]))
    store.add(pd.DataFrame(columns=frame.columns).astype(frame.dtypes), pd.DataFrame({"qid": ["none"], "query": ["x"]}))
    for _ in range(2):
        streamed = pd.concat(store.lists(seed=1)).sort_values(["qid", "docno"], ignore_index=True)
        assert np.allclose(streamed["teacher_score"], frame.sort_values(["qid", "docno"])["teacher_score"])
        assert len(store) == 9 and store.describe().queries == 9 and len(store.frame()) == len(frame)
        store.compact()
    store = ptd.LabelStore(path.parent / "states")
    for n, shape in enumerate([(2, 2, 3), (2, 3, 2)]):
        cell = np.arange(12, dtype=np.float16).reshape(shape)
        rows = pipeline(Scorer())(topics(2).iloc[[n]])
        store.add(rows.assign(query_states=[cell] * len(rows)))
    for data in (store.frame(), pd.concat(store.lists()), store.compact().frame()):
        assert sorted({cell.shape for cell in data["query_states"]}) == [(2, 2, 3), (2, 3, 2)]


def test_a_store_in_the_making_is_one(path):
    (path / "shards").mkdir(parents=True)
    (path / "manifest.json").write_text("{}")
    (path / ".pt_meta.json.host-1").write_text("{")
    assert len(ptd.LabelStore(path).build(pipeline(Scorer()), topics(2), verbose=False)) == 2


def test_a_flipped_bit_is_found_when_it_is_read(path):
    store = ptd.LabelStore(path).build(pipeline(Lister()), topics(40), verbose=False)
    (name,) = store.directory.names()
    good = (path / "shards" / name).read_bytes()
    before, silent = store.frame(), 0
    rng = np.random.default_rng(0)
    footer = int.from_bytes(good[-8:-4], "little") + 8  # pages have checksums; the footer is verify()'s
    for place in rng.integers(4, len(good) - footer, size=60):
        content = bytearray(good)
        content[place] ^= 1 << int(rng.integers(8))
        (path / "shards" / name).write_bytes(bytes(content))
        try:
            same = ptd.LabelStore(path).frame().equals(before)
        except shards.DamagedShard as error:
            assert "verify()" in str(error)
        else:
            silent += not same
    assert silent == 0


def test_texts_of_a_query_are_told(path):
    frame = pipeline(Scorer())(topics(4))
    with pytest.raises(ValueError, match="document 'd0' has two texts"):
        ptd.LabelStore(path).add(frame, with_text=True)
    with pytest.raises(ValueError, match="query 'q0' has two texts"):
        ptd.LabelStore(path).add(frame.assign(query=["a", *frame["query"][1:]]))


def test_labels_of_queries_alone(path, tiny, documents):
    teacher = ptd.BiEncoder(tiny, precision="fp32", device="cpu")
    queries = (ptd.SpanQueries(n=5) >> ptd.explode_queries())(documents)[["qid", "query"]]
    labelled = teacher.query_encoder(states=[1, 2])(queries)
    store = ptd.LabelStore(path).build(teacher.query_encoder(states=[1, 2]), queries, batch_size=16, verbose=False)
    out = store.frame()
    assert "docno" not in out.columns and out["qid"].tolist() == queries["qid"].tolist()
    np.testing.assert_allclose(np.stack(out["query_vec"]), np.stack(labelled["query_vec"]), atol=1e-6)
    assert all(a.shape == b.shape for a, b in zip(out["query_states"], labelled["query_states"]))
    vectors = []
    for data in (labelled, store, store.compact()):
        student = ptd.BiEncoder(ptd.BiEncoder.truncated(teacher, 1), precision="fp32", device="cpu")
        settings = {"precision": "fp32", "verbose": False, "learning_rate": 1e-3, "queries_per_batch": 100, "epochs": 3}
        ptd.Distiller(student, ptd.EmbeddingMatch(), dropout=0.0, **settings).fit(data)
        vectors.append(student.encode_queries(["red dog"]))
    np.testing.assert_allclose(vectors[1], vectors[0], atol=1e-5)
    np.testing.assert_allclose(vectors[2], vectors[0], atol=1e-5)


def test_published_names_run_no_scripts(path):
    frame = pipeline(Scorer())(topics(3))
    frame["teacher_score_<img src=x onerror=alert(1)>"] = 1.0
    shown = ptd.LabelStore.from_frame(path, frame).describe()._repr_html_()
    assert "<img" not in shown and "&lt;img" in shown


def test_small_comforts(path, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    store = ptd.LabelStore("~/labels").build(pipeline(Scorer()), topics(3), verbose=False)
    assert (tmp_path / "labels" / "pt_meta.json").is_file()
    assert store.frame("q1", "teacher_score").columns.tolist() == ["qid", "query", "docno", "teacher_score"]
    assert sum(map(len, store)) == len(store.frame())
    os.symlink(tmp_path / "labels", tmp_path / "link")
    assert (
        len(ptd.LabelStore(tmp_path / "link").build(pipeline(Scorer(2.0)), topics(1), overwrite=True, verbose=False))
        == 1
    )
