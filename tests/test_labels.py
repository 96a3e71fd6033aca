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
from labelling import Candidates, Lister, Scorer, Shared, pipeline, topics

import pyterrier_distill as ptd

pytest.importorskip("pyarrow")


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
from labelling import Scorer, pipeline, topics

class Slow(Scorer):
    def transform(self, inp):
        with open({log!r}, "a") as log:
            log.write("".join(qid + "\\n" for qid in inp["qid"].unique()))
        time.sleep({pause})
        return super().transform(inp)

Slow.__qualname__ = Slow.__name__ = "Scorer"
Slow.__module__ = "labelling"
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
    labelled = pipeline(Lister())(topics(8)).assign(teacher_logits=lambda f: [np.ones(2, np.float32)] * len(f))
    there = ptd.LabelStore.from_frame(tmp_path / "there", labelled)
    there.to_jsonl(tmp_path / "there.jsonl.gz")
    back = ptd.LabelStore.from_jsonl(tmp_path / "back", tmp_path / "there.jsonl.gz").frame()
    for column in ("qid", "query", "docno", "teacher_score", "teacher_prefs"):
        assert back[column].tolist() == there.frame()[column].tolist()
    assert np.array_equal(np.stack(back["teacher_logits"]), np.stack(there.frame()["teacher_logits"]))
    samples = collections / "bge_samples" / "nq.jsonl.gz"
    assert len(ptd.LabelStore.from_jsonl(tmp_path / "bge", samples)) == 10


def test_a_dataset_that_sentence_transformers_trains_on(path):
    pytest.importorskip("datasets")
    frame = (Shared() >> Scorer())(topics(6)).assign(teacher_rank=lambda f: f["rank"])
    store = ptd.LabelStore.from_frame(path, frame, with_text=True)
    texts = frame[["docno", "text"]].drop_duplicates("docno")
    for source in (None, texts):
        data = store.to_hf_dataset(source)
        assert data.column_names == ["query", "docs", "labels"] and len(data) == 6
        first = frame[frame["qid"] == "q0"]
        assert data[0] == {
            "query": "about 0",
            "docs": first["text"].tolist(),
            "labels": first["teacher_score"].tolist(),
        }
    ranks = store.to_hf_dataset(label="teacher_rank")[0]["labels"]
    assert ranks == (-first["teacher_rank"].astype(float)).tolist()  # higher is better


def test_an_attempt_that_failed_does_not_hold_the_path(path):
    class Failing(Scorer):
        def transform(self, inp):
            raise ValueError("no such model")

    with pytest.raises(ValueError, match="no such model"):
        ptd.LabelStore(path).build(pipeline(Failing()), topics(3))
    assert len(ptd.LabelStore(path)) == 0
    assert len(ptd.LabelStore(path).build(pipeline(Scorer()), topics(3))) == 3
