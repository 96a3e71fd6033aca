"""Training files of other projects, streamed into a LabelStore: what comes out, in any order of rows, after kills."""

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

import pyterrier_distill as ptd
from pyterrier_distill.labels import intake, spool
from pyterrier_distill.stores import entries, rows

pa = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402


def read(path, files, *args, **kwargs):
    return ptd.LabelStore.from_files(path, files, *args, verbose=False, **kwargs)


# -- PairDistill's, InRanker's: tables without texts ------------------------------------------------------------------


def pair_distill(folder, queries=20, documents=12, pairs=8, seed=0, order="grouped"):
    """Two files of random labels, the topics, and what they say, kept in dicts."""
    rng = random.Random(seed)
    points, compared = {}, {}
    for n in range(queries):
        docnos = rng.sample(range(9999), documents)
        points |= {(f"{n}", f"{d}"): (rng.uniform(-5, 5), rng.uniform(-5, 5)) for d in docnos}
        both = rng.sample([(a, b) for a in docnos for b in docnos if a != b], pairs)
        compared |= {(f"{n}", f"{a}", f"{b}"): (rng.uniform(-5, 5), rng.uniform(-5, 5)) for a, b in both}
    told = [list(points.items()), list(compared.items())]
    if order == "shuffled":
        for one in told:
            rng.shuffle(one)
    for name, one in zip(("points.tsv", "pairs.tsv"), told, strict=True):
        lines = ("\t".join([*key, *(f"{x:.5f}" for x in logits)]) for key, logits in one)
        (folder / name).write_text("\n".join(lines) + "\n")
    topics = pd.DataFrame({"qid": [f"{n}" for n in range(queries + 3)]}).assign(query=lambda f: "about " + f["qid"])
    return [folder / "points.tsv", folder / "pairs.tsv"], topics, points, compared


@pytest.mark.parametrize("order", ["grouped", "shuffled"])
@pytest.mark.parametrize("parts", [1, 7])
def test_pointwise_and_pairwise_labels_are_joined(tmp_path, monkeypatch, order, parts):
    files, topics, points, compared = pair_distill(tmp_path, order=order)
    if parts > 1:
        monkeypatch.setattr(spool, "PART", sum(f.stat().st_size for f in files) // (parts - 1) - 1)
    monkeypatch.setattr(rows, "BLOCK", 37)
    monkeypatch.setattr(intake, "_QUERIES", 3)
    frame = read(tmp_path / "store", files, topics=topics).frame()
    assert len(frame) == len(points) and frame["qid"].nunique() == 20
    seen = 0
    for row in frame.itertuples():
        true, false = points[row.qid, row.docno]
        np.testing.assert_allclose(row.teacher_logits, [false, true], atol=1e-5)
        assert row.teacher_score == pytest.approx(-np.log1p(np.exp(false - true)), abs=1e-5)
        expected = {b: (t, f) for (q, a, b), (t, f) in compared.items() if (q, a) == (row.qid, row.docno)}
        assert row.teacher_prefs.keys() == expected.keys() and row.query == f"about {row.qid}"
        for other, (t, f) in expected.items():
            assert row.teacher_prefs[other] == pytest.approx(1 / (1 + np.exp(f - t)), abs=1e-5)
        seen += len(expected)
    assert seen == len(compared) == 160
    assert not list(tmp_path.glob(".*.reading"))


def test_it_agrees_with_what_a_run_teacher_reads(tmp_path):
    files, topics, *_ = pair_distill(tmp_path, queries=6)
    stored = read(tmp_path / "store", files, topics=topics).frame().set_index(["qid", "docno"])
    given = ptd.RunTeacher([os.fspath(f) for f in files])(topics[:6]).set_index(["qid", "docno"])
    given = given.loc[stored.index]
    assert given["teacher_prefs"].map(sorted).tolist() == stored["teacher_prefs"].map(sorted).tolist()
    np.testing.assert_allclose(np.stack(given["teacher_logits"]), np.stack(stored["teacher_logits"]))
    np.testing.assert_allclose(given["teacher_score"], stored["teacher_score"], rtol=1e-6)


def test_outputs_of_a_cross_encoder_stay_scores(tmp_path):
    """PairDistill writes them with 0.0 behind; the first block alone would not tell."""
    (tmp_path / "single").write_text("1\ta\t7.5\t0.0\n1\tb\t-2.5\t0.0\n2\ta\t0.5\t0.0\n")
    topics = pd.DataFrame({"qid": ["1", "2"], "query": ["x", "y"]})
    store = read(tmp_path / "store", tmp_path / "single", "pairdistill", topics=topics)
    assert store.columns() == ["teacher_score"] and store.frame()["teacher_score"].tolist() == [7.5, -2.5, 0.5]
    (tmp_path / "mixed").write_text("1\ta\t7.5\t0.0\n1\tb\t-2.5\t0.0\n2\ta\t0.5\t1.0\n")
    with pytest.raises(ValueError, match="mixed holds two kinds of labels: of query '1'"):
        read(tmp_path / "other", tmp_path / "mixed", topics=topics)


def test_inranker_with_a_file_of_topics(tmp_path):
    (tmp_path / "labels.tsv.gz").write_bytes(gzip.compress(b"1.5\t-1.0\t7\tc\n0.5\t-0.5\t8\ta\n-2.0\t2.0\t7\tb\n"))
    (tmp_path / "topics.tsv").write_text("7\tseven\n8\teight\n9\tnine\n")
    frame = read(tmp_path / "store", tmp_path / "labels.tsv.gz", topics=tmp_path / "topics.tsv").frame()
    assert frame[["qid", "query", "docno"]].to_numpy().tolist() == [
        ["7", "seven", "c"], ["7", "seven", "b"], ["8", "eight", "a"],
    ]  # fmt: skip
    np.testing.assert_allclose(np.stack(frame["teacher_logits"]), [[-1, 1.5], [2, -2], [-0.5, 0.5]])


def test_colbert_lines_of_one_query_are_joined(tmp_path):
    lines = [[3, [10, 2.0, [[1, -0.5]]], [11, 1.0, []]], [4, [10, 0.5]], [3, [11, 1.0, [[1, -1.0]]], [12, 0.0, []]]]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    topics = pd.DataFrame({"qid": ["3", "4"], "query": ["x", "y"]})
    frame = read(tmp_path / "store", tmp_path / "train.jsonl", topics=topics).frame()
    assert frame[["qid", "docno", "teacher_score"]].to_numpy().tolist() == [
        ["3", "10", 2.0], ["3", "11", 1.0], ["3", "12", 0.0], ["4", "10", 0.5],
    ]  # fmt: skip
    assert frame["teacher_prefs"].tolist() == [
        {"11": pytest.approx(np.exp(-0.5))}, {"12": pytest.approx(np.exp(-1))}, {}, {},
    ]  # fmt: skip


# -- entries with texts -----------------------------------------------------------------------------------------------

PASSAGES = [{"docid": f"d{n}", "title": "" if n % 2 else f"Title {n}", "text": f"text {n}"} for n in range(6)]
TEVATRON = [
    {"query_id": "a", "query": "first", "positive_passages": PASSAGES[:1], "negative_passages": PASSAGES[1:3],
     "subset": "fiqa"},
    {"query_id": "b", "query": "second", "positive_passages": PASSAGES[2:4], "negative_passages": PASSAGES[4:],
     "subset": "msmarco"},
]  # fmt: skip
DPR = [
    {"question": e["query"], "answers": [e["query_id"], "é"], "negative_ctxs": PASSAGES[5:],
     "positive_ctxs": [{"passage_id": p["docid"], "title": p["title"], "text": p["text"]}
                       for p in e["positive_passages"]],
     "hard_negative_ctxs": [{"title": p["title"], "text": p["text"]} for p in e["negative_passages"]]}
    for e in TEVATRON
]  # fmt: skip


def stored_as(folder, content, how):
    """Entries in each container that their formats come in."""
    if how == "parquet":
        parquet.write_table(pa.Table.from_pylist(content), folder / "train.parquet")
        return folder / "train.parquet"
    text = "\n".join(map(json.dumps, content)) if how == "lines" else json.dumps(content, indent=how == "indented")
    (folder / "train.gz").write_bytes(gzip.compress(text.encode()))
    return folder / "train.gz"


@pytest.mark.parametrize("how", ["lines", "list", "indented", "parquet"])
def test_tevatron_and_rlhn_keep_the_subset(tmp_path, how):
    store = read(tmp_path / "store", stored_as(tmp_path, TEVATRON, how))
    assert store.topics().to_numpy().tolist() == [["a", "first", "fiqa"], ["b", "second", "msmarco"]]
    frame = store.frame(with_text=True)
    assert frame["label"].tolist() == [1, 0, 0, 1, 1, 0, 0]
    assert frame["docno"].tolist() == ["d0", "d1", "d2", "d2", "d3", "d4", "d5"]
    assert frame["text"].tolist()[:2] == ["Title 0 text 0", "text 1"] and len(store.texts) == 6
    only = store.topics().query("subset == 'msmarco'")["qid"]
    assert store.frame(only)["qid"].unique().tolist() == ["b"]
    assert (store.verify()["state"] == "ok").all()


@pytest.mark.parametrize("how", ["lines", "list", "indented", "parquet"])
def test_dpr_and_ar2_keep_the_answers(tmp_path, how):
    file = stored_as(tmp_path, DPR, how)
    store = read(tmp_path / "store", file)
    assert store.topics()["answers"].tolist() == [["a", "é"], ["b", "é"]]
    frame = store.frame(with_text=True)
    assert frame["label"].tolist() == [1, 0, 0, 1, 1, 0, 0] and frame["docno"].iloc[0] == "d0"
    assert len(set(frame["docno"])) == 7 and frame["query"].tolist() == ["first"] * 3 + ["second"] * 4
    assert len(read(tmp_path / "all", file, "dpr-all").frame()) == 9
    by_text = read(tmp_path / "by_text", file, ids="text").frame(with_text=True)
    assert by_text.groupby("text")["docno"].nunique().max() == 1 and by_text["docno"].nunique() == 6


def test_real_verdicts_and_triples(tmp_path, collections):
    with gzip.open(collections / "rlhn_sample" / "fiqa.stage2_gpt-4o.jsonl.gz", "rt") as file:
        given = [json.loads(line) for line in file]
    for entry in given:
        entry |= {"query_id": entry["qid"], "positive_passages": entry["pos"], "negative_passages": entry["neg"]}
    kept = ("query_id", "query", "positive_passages", "negative_passages")
    (tmp_path / "rlhn.jsonl").write_text("\n".join(json.dumps({k: e[k] for k in kept}) for e in given))
    store = read(tmp_path / "rlhn", tmp_path / "rlhn.jsonl")
    first = store.frame([given[0]["qid"]], with_text=True)
    assert first["text"].tolist() == [p["text"] for p in given[0]["pos"] + given[0]["neg"]]
    assert len(store) == len(given) and first["label"].sum() == len(given[0]["pos"])
    file = collections / "msmarco_triples_sample" / "triples.tsv.gz"
    triples = read(tmp_path / "triples", file).frame(with_text=True)
    assert len(triples) == 200 and triples["qid"].nunique() == 100 and triples["label"].tolist() == [1, 0] * 100


def ranked(entries):
    return [
        {"query": e["query"], "positive_passages": e["positive_passages"],
         "retrieved_passages": e["negative_passages"] + e["positive_passages"][:1]}
        for e in entries
    ]  # fmt: skip


def test_rankgpt_with_its_permutations(tmp_path, caplog):
    entries = ranked([*TEVATRON, {**TEVATRON[0], "query": "third"}])
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, entries)))
    answers = ["[3] > [1] > [2]", "The best is [2] > [2] > [9]", "I cannot tell."]
    (tmp_path / "orders.json").write_text(json.dumps(answers))
    store = read(tmp_path / "store", tmp_path / "train.jsonl", permutations=tmp_path / "orders.json")
    frame = store.frame()
    assert frame["docno"].tolist() == ["d0", "d1", "d2", "d5", "d4", "d2"]
    assert frame["teacher_rank"].tolist() == [0, 1, 2] * 2 and frame["label"].tolist() == [1, 0, 0, 0, 0, 1]
    assert "1 answers name no passage" in caplog.text and "1 name some" in caplog.text
    (tmp_path / "orders.json").write_text(json.dumps(answers[:2]))
    with pytest.raises(ValueError, match="train.jsonl, entry 3: .* must have as many entries"):
        read(tmp_path / "short", tmp_path / "train.jsonl", permutations=tmp_path / "orders.json")
    with pytest.raises(ValueError, match="pass permutations=.*; or format='twolar'"):
        read(tmp_path / "none", tmp_path / "train.jsonl")


def test_twolar_is_in_the_teachers_order(tmp_path):
    entries = [{"query_id": "7", "query": "x", "retrieved_passages": PASSAGES[::-1]}]
    frame = read(tmp_path / "store", stored_as(tmp_path, entries, "parquet"), "twolar").frame()
    assert frame["docno"].tolist() == ["d5", "d4", "d3", "d2", "d1", "d0"] and set(frame["qid"]) == {"7"}
    assert frame["teacher_rank"].tolist() == list(range(6)) and "label" not in frame


def test_a_query_in_several_entries(tmp_path):
    """Its lists become one, a document that is relevant in one of them is relevant."""
    again = {**TEVATRON[0], "positive_passages": PASSAGES[1:2], "negative_passages": PASSAGES[2:4]}
    store = read(tmp_path / "store", stored_as(tmp_path, [*TEVATRON, again], "lines"))
    frame = store.frame(["a"])
    assert dict(zip(frame["docno"], frame["label"], strict=True)) == {"d0": 1, "d1": 1, "d2": 0, "d3": 0}


def test_two_orders_of_one_query_are_no_list(tmp_path):
    """Neither of entries without ids whose question is the same, nor of two runs; the same order twice is one."""
    one, other = ({"query": "q", "retrieved_passages": PASSAGES[n : n + 2]} for n in (0, 2))
    file = stored_as(tmp_path, [one, other], "lines")
    message = "entry 2: it orders documents of query .*, which .* entry 1 orders already"
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "two", file, "twolar")
    with pytest.raises(ValueError, match=message):
        ptd.RunTeacher(file, format="twolar")(pd.DataFrame({"qid": ["1"], "query": ["q"], "docno": ["d0"]}))
    runs = [{"query": {"text": "q", "qid": 1}, "candidates": [{"docid": d} for d in ids]} for ids in ("ab", "cd")]
    for n, run in enumerate(runs):
        (tmp_path / f"run{n}").write_text(json.dumps(run))
    with pytest.raises(ValueError, match="run1, entry 1: it orders documents of query '1', which .*run0, entry 1"):
        read(tmp_path / "runs", [tmp_path / "run0", tmp_path / "run1"])
    same = read(tmp_path / "same", stored_as(tmp_path, [one, one], "lines"), "twolar").frame()
    assert same["teacher_rank"].tolist() == [0, 1]


def test_positive_passages_are_known_by_their_texts_where_they_have_no_ids(tmp_path):
    passage = {"docid": "d", "text": "tb"}
    for retrieved, positive, labels in (
        (["ta", "tb"], ["ta"], [1, 0]),
        (["ta", passage], ["tb"], [0, 1]),
        (["ta", "tb"], [passage], [0, 1]),
        (["ta", {"docid": "e", "text": "tb"}], [passage], [0, 0]),  # ids tell them apart
    ):
        entry = {"query": "q", "retrieved_passages": retrieved, "positive_passages": positive}
        store = read(tmp_path / f"{retrieved}{positive}", stored_as(tmp_path, [entry], "lines"), "twolar")
        assert store.frame()["label"].tolist() == labels


def test_what_entries_say_of_one_question_is_united(tmp_path):
    again = {**DPR[0], "answers": ["é", "new"], "positive_ctxs": DPR[1]["positive_ctxs"], "hard_negative_ctxs": []}
    store = read(tmp_path / "store", stored_as(tmp_path, [*DPR, again], "lines"))
    assert store.topics()["answers"].tolist() == [["a", "é", "new"], ["b", "é"]]
    assert store.frame(store.topics()["qid"].head(1))["label"].sum() == 3
    told = [{**TEVATRON[0], "subset": None}, TEVATRON[0]]
    assert read(tmp_path / "told", stored_as(tmp_path, told, "lines")).topics()["subset"].tolist() == ["fiqa"]


@pytest.mark.parametrize("query", ["first", "another"])
@pytest.mark.parametrize("topics", [None, pd.DataFrame({"qid": ["a", "b"], "query": ["x", "y"]})])
def test_a_query_of_two_subsets_is_refused(tmp_path, query, topics):
    file = stored_as(tmp_path, [*TEVATRON, {**TEVATRON[0], "query": query, "subset": "nq"}], "lines")
    with pytest.raises(ValueError, match="entry 3: query 'a' is of subset 'nq', and in .*entry 1 of 'fiqa'.*ids of th"):
        read(tmp_path / "store", file, topics=topics)


def test_topics_must_be_those_of_the_files(tmp_path, caplog):
    file = stored_as(tmp_path, TEVATRON, "lines")
    (tmp_path / "topics.tsv").write_text("1\teins\n")
    for topics in (pd.DataFrame({"qid": ["1"], "query": ["eins"]}), tmp_path / "topics.tsv"):
        with pytest.raises(ValueError, match="topics hold none of the queries of the files, such as 'a'"):
            read(tmp_path / "store", file, topics=topics)
    assert not caplog.text
    store = read(tmp_path / "some", file, topics=pd.DataFrame({"qid": ["b", "c"], "query": ["zwei", "drei"]}))
    assert "1 of 2 queries are not among the topics" in caplog.text
    assert store.topics()["query"].tolist() == ["first", "zwei"]


def test_entries_without_documents_are_counted_and_null_is_no_passage(tmp_path, caplog):
    empty = {**TEVATRON[0], "query_id": "c", "positive_passages": [], "negative_passages": None}
    store = read(tmp_path / "store", stored_as(tmp_path, [*TEVATRON, empty], "lines"))
    assert store.topics()["qid"].tolist() == ["a", "b"] and "1 entries hold no documents" in caplog.text
    alone = {**TEVATRON[0], "negative_passages": None}
    frame = read(tmp_path / "alone", stored_as(tmp_path, [alone], "lines")).frame()
    assert frame["docno"].tolist() == ["d0"]


def test_a_store_that_was_read_trains(tmp_path, tiny_cross):
    store = read(tmp_path / "store", stored_as(tmp_path, TEVATRON, "lines"))
    student = ptd.CrossEncoder(tiny_cross, device="cpu")
    distiller = ptd.Distiller(student, ptd.LocalizedContrastive(), epochs=1, queries_per_batch=2)
    distiller.fit(store, None)
    assert distiller.history


# -- kills, and being run again ---------------------------------------------------------------------------------------


def test_every_stop_is_gone_on_from(tmp_path, monkeypatch):
    """An error at the n-th file written, for each n; the store is that of a run without a stop."""
    files, topics, *_ = pair_distill(tmp_path, queries=8, documents=6, pairs=4, order="shuffled")
    monkeypatch.setattr(intake, "_QUERIES", 3)
    monkeypatch.setattr(intake, "_CHARACTERS", 20)
    monkeypatch.setattr(spool, "PART", 1500)
    texts = stored_as(tmp_path, TEVATRON, "lines")
    whole = {"pairs": read(tmp_path / "whole", files, topics=topics), "texts": read(tmp_path / "texts", texts)}
    from pyterrier_distill.stores.storage import LocalFiles

    write = LocalFiles.write
    for name, arguments in (("pairs", (files,)), ("texts", (texts,))):
        for stop in range(1, 40):
            left = stop

            def failing(self, *args):
                nonlocal left
                left -= 1
                if not left:
                    raise KeyboardInterrupt
                write(self, *args)

            monkeypatch.setattr(LocalFiles, "write", failing)
            path = tmp_path / f"{name}{stop}"
            given = {"topics": topics} if name == "pairs" else {}
            try:
                read(path, *arguments, **given)
            except KeyboardInterrupt:
                monkeypatch.setattr(LocalFiles, "write", write)
                store = read(path, *arguments, **given)
                assert store.fingerprint == whole[name].fingerprint and store.manifest == whole[name].manifest
                pd.testing.assert_frame_equal(store.topics(), whole[name].topics())
            else:
                break
        assert stop > 4
    monkeypatch.setattr(LocalFiles, "write", lambda *_: pytest.fail("it is all in"))
    assert read(tmp_path / "whole", files, topics=topics).fingerprint == whole["pairs"].fingerprint


@pytest.mark.slow
def test_kills_at_any_moment(tmp_path):
    files, topics, *_ = pair_distill(tmp_path, queries=3000, order="shuffled")
    topics.to_csv(tmp_path / "topics.tsv", sep="\t", index=False, header=False)
    code = (
        "import sys, pyterrier_distill as ptd; from pyterrier_distill.labels import intake, spool;"
        "intake._QUERIES = 100; spool.PART = 1 << 18;"
        "ptd.LabelStore.from_files(sys.argv[1], sys.argv[2:4], topics=sys.argv[4], verbose=False)"
    )
    command = [sys.executable, "-c", code]
    given = [*map(str, files), str(tmp_path / "topics.tsv")]
    started = time.monotonic()
    subprocess.run([*command, str(tmp_path / "whole"), *given], check=True)
    took = time.monotonic() - started
    kills, process = 0, None
    for n in range(100):  # later each time, however busy the machine is
        process = subprocess.Popen([*command, str(tmp_path / "killed"), *given])
        try:
            process.wait(took * (0.3 + 0.05 * n))
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    assert process is not None and process.returncode == 0 and kills
    assert ptd.LabelStore(tmp_path / "killed").fingerprint == ptd.LabelStore(tmp_path / "whole").fingerprint


def test_shards_that_were_damaged_are_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(intake, "_QUERIES", 4)
    files, topics, *_ = pair_distill(tmp_path, queries=12)
    store = read(tmp_path / "store", files, topics=topics)
    before = store.frame()
    damaged = sorted((tmp_path / "store" / "shards").iterdir())[1]
    damaged.write_bytes(damaged.read_bytes()[:-9])
    store.verify()
    assert len(ptd.LabelStore(tmp_path / "store")) == 8
    after = read(tmp_path / "store", files, topics=topics).frame()
    pd.testing.assert_frame_equal(after.sort_values(["qid", "docno"], ignore_index=True),
                                  before.sort_values(["qid", "docno"], ignore_index=True))  # fmt: skip


# -- what is refused --------------------------------------------------------------------------------------------------

TOPICS = pd.DataFrame({"qid": ["1"], "query": ["x"]})


@pytest.mark.parametrize(
    "contents, settings, message",
    [
        (["1\ta\t1.5\t0.5\n1\tb\tx\t0.5\n"], {"format": "pairdistill"}, "f0, line 2: first must be a number, not 'x'"),
        (["1\ta\t1.5\t0.5\n1\tb\t0.5\n"], {}, "f0, line 2: expected qid docno"),
        (["1\ta\t1.5\t0.5\n\n1\ta\t2.5\t0.5\n"], {}, r"f0, line 3: it labels \('1', 'a'\) .* 1.5 \(.*f0, line 1\)"),
        (["1\ta\t1.5\t0.5\n9\tb\t0.5\t0.5\n"], {}, "f0, line 2: the text of query '9' is in none of the files"),
        (["1\ta\ta\t1.5\t0.5\n"], {}, "f0, line 1: document 'a' is compared with itself"),
        (["1\ta\t1.5\t0.5\n", "1\ta\tb\t1.5\t0.5\n"], {}, "f1, line 1: document 'b' of query '1' lacks a label"),
        (["1\ta\t1.5\t0.5\n", "1.5\t0.25\t1\ta\n"], {}, r"f1, line 1: it labels \('1', 'a'\) more than once: false"),
        (["1\ta\tb\t1.5\t0.5\n1\ta\tb\t2.5\t0.5\n"], {}, r"f0, line 2: it labels \('1', 'a', 'b'\) more than once: p"),
        (['[1, ["a", 1.0, [[1, NaN]]], ["b", 0.5, []]]'], {}, "f0, line 1: .*nan is not the logarithm"),
        (['[1, ["a", 1.0, [[1, 0.5]]], ["b", 0.5, []]]'], {}, "f0, line 1: .*0.5 is not the logarithm"),
        (['[1, ["a", NaN]]'], {}, "f0, line 1: .*nan is not a finite number"),
        (['{"query": "q", "positive_passages": "t", "negative_passages": []}'], {"topics": None}, "must be a list"),
        (["1\ta\t1.5\t0.5\n"], {"topics": None}, "f0 holds no texts of queries: pass topics="),
        (["1\ta\t1.5\t0.5\n"], {"ids": "text"}, "f0 holds no texts of documents"),
        (["1\ta\t1.5\t0.5\n"], {"missing": "keep"}, "missing must be 'error' or 'drop'"),
        (["1\ta\t1.5\t0.5\n"], {"format": "tsv"}, "format must be one of rank_llm, "),
        (["1 Q0 a 1 0.5 x\n"], {}, "looks like a file of format 'trec'"),
        ([], {}, "files must be a file or a list of some"),
        (['{"query": "q", "what": 1}\n'], {}, "f0 from its first entry, which holds query, what"),
        (['[{"question": "q", "positive_ctxs": [{"text": "t"}]},\n{"question": 7}]'], {}, "f0, entry 2: TypeError"),
        (['[{"question": "q", "positive_ctxs": [{"text": "t"}]},\n{"question" 7}]'], {}, r"f0, entry 2 \(line 2\)"),
        (['[{"question": "q", "positive_ctxs": [{"title": "t"}]}]'], {}, "entry 1: ValueError a passage has neither"),
        (['[{"question": "q", "positive_ctxs": [], "answers": "a"}]'], {}, "entry 1: TypeError answers must be a list"),
        (
            [f'{{"query_id": 1, "query": "{q}", "positive_passages": ["{q}"], "negative_passages": []}}' for q in "ab"],
            {"topics": None}, "f1, entry 1: query '1' has another text than in .*f0, entry 1: pass topics=",
        ),
        (
            [json.dumps({"query": q, "positive_passages": [{"docid": "d", "text": q}], "negative_passages": []})
             for q in "ab"],
            {}, r"document 'd' has two texts.*Pass ids='text'",
        ),
        (
            [json.dumps({"query_id": 1, "query": "x", "retrieved_passages": [{"docid": d, "text": d} for d in order]})
             for order in ("ab", "ba")],
            {"format": "twolar"}, r"f1, entry 1: it labels \('1', 'a'\) more than once: teacher_rank",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said(tmp_path, contents, settings, message):
    for n, content in enumerate(contents):
        (tmp_path / f"f{n}").write_text(content)
    given = {"topics": TOPICS, **settings}
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path / "store", [tmp_path / f"f{n}" for n in range(len(contents))], **given)
    assert "\n" not in str(caught.value)


def test_documents_without_a_label_are_left_out_if_told(tmp_path, caplog):
    (tmp_path / "points").write_text("1\ta\t1.5\t0.5\n")
    (tmp_path / "pairs").write_text("1\ta\tb\t1.5\t0.5\n1\tb\ta\t1.5\t0.5\n")
    files = [tmp_path / "points", tmp_path / "pairs"]
    with pytest.raises(ValueError, match="missing='drop'"):
        read(tmp_path / "store", files, topics=TOPICS)
    frame = read(tmp_path / "store", files, topics=TOPICS, missing="drop").frame()  # it goes on with the same rows
    assert frame["docno"].tolist() == ["a"] and list(frame["teacher_prefs"].iloc[0]) == ["b"]
    assert "1 documents that lack a label are left out, such as b" in caplog.text


def test_other_labels_are_not_mixed_in(tmp_path):
    files, topics, *_ = pair_distill(tmp_path, queries=3)
    store = read(tmp_path / "store", files, topics=topics)
    with pytest.raises(ValueError, match="holds 3 queries that were not read from these files so: .*Take another path"):
        read(tmp_path / "store", files[:1], topics=topics)
    ptd.LabelStore.from_frame(tmp_path / "own", store.frame())
    with pytest.raises(ValueError, match="its labels come from elsewhere"):
        read(tmp_path / "own", files, topics=topics)
    (tmp_path / ".new.reading").mkdir()
    (tmp_path / ".new.reading" / "diary").write_text("mine")
    with pytest.raises(ValueError, match="holds something else: move it"):
        read(tmp_path / "new", files, topics=topics)
    assert (tmp_path / ".new.reading" / "diary").read_text() == "mine"
    for missing in ({"topics": tmp_path / "no"}, {"topics": topics, "permutations": tmp_path / "no"}):
        with pytest.raises((FileNotFoundError, ValueError), match="no file of topics|permutations= orders one file"):
            read(tmp_path / "other", files, **missing)


# -- lists of gigabytes -----------------------------------------------------------------------------------------------


def value(rng, depth=0):
    """Any JSON value."""
    if depth > 2 or rng.random() < 0.3:
        return rng.choice([None, True, 1.5, -3, 'a"\\é\n\u2028ü', 10**20, 1e-7, "", "\U0001f600"])
    if rng.random() < 0.5:
        return [value(rng, depth + 1) for _ in range(rng.randint(0, 4))]
    return {f"{n}€": value(rng, depth + 1) for n in range(rng.randint(0, 4))}


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_entries_of_a_list_are_those_of_the_whole(tmp_path, monkeypatch, block):
    monkeypatch.setattr(entries, "BLOCK", block)
    rng, path = random.Random(block), tmp_path / "list"
    for _ in range(150):
        content = [value(rng) for _ in range(rng.randint(0, 6))]
        text = json.dumps(content, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 2]))
        path.write_bytes(rng.choice([b"", b"\xef\xbb\xbf", b" \n"]) + text.encode() + rng.choice([b"", b"\n\n"]))
        found = list(entries.list_entries(path))
        assert [one for _, one in found] == content and [n for n, _ in found] == list(range(1, len(content) + 1))
        path.write_bytes(text.encode()[: rng.randrange(len(text.encode()))])
        with pytest.raises(ValueError, match="list: no UTF-8 text|no JSON"):
            list(entries.list_entries(path))


def test_a_list_is_read_as_far_as_it_is_asked_for(tmp_path):
    """A broken entry far behind is no error of the first; and one window is in memory."""
    path = tmp_path / "list"
    path.write_text('[{"a": 1},' + '{"b": 2},' * 300_000 + "broken]")
    found = entries.list_entries(path)
    assert next(found) == (1, {"a": 1})
    with pytest.raises(ValueError, match=r"entry 300002 \(line 1\): no JSON: Expecting value"):
        for _ in found:
            pass


@pytest.mark.parametrize(
    "text, message",
    [
        ("[1,]", "a comma before the end"), ("[1 2]", "expected , or ], found '2'"), ("[1", "the list does not end"),
        ("[1] x", "behind the end"), ('["\\ud800"]', "lone surrogate"), ("[" * 100_000, "nested too deeply"),
    ],
)  # fmt: skip
def test_odd_lists_are_refused(tmp_path, text, message):
    (tmp_path / "list").write_text(text)
    with pytest.raises(ValueError, match=message):
        list(entries.list_entries(tmp_path / "list"))
