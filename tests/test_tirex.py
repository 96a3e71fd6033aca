"""Runs for TIREx: collections in TIRA's layout in, a run with metadata out, or one line that says what is wrong."""

import gzip
import json
import os
import re
import subprocess
import sys

import pandas as pd
import pyterrier as pt
import pytest
from pyterrier.measures import AP, nDCG
from tira.check_format import _fmt, check_format

import pyterrier_distill as ptd
from pyterrier_distill.tirex import check, metadata, ranking
from pyterrier_distill.tirex.__main__ import main

RUNS = {"device": "cpu", "precision": "fp32"}
VARIABLES = ("inputDataset", "outputDir", "TIRA_INPUT_DATASET", "TIRA_OUTPUT_DIR", "TIRA_DATASET_ID")


def lines(path, rows):
    opened = gzip.open(path, "wt") if path.suffix == ".gz" else open(path, "w")
    with opened as file:
        file.writelines(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)


@pytest.fixture
def full(documents, results, tmp_path):
    """Full-rank: documents whose docnos are whole numbers, queries, and the id in ir_datasets."""
    folder = tmp_path / "full"
    folder.mkdir()
    rows = [{"docno": int(d[1:]), "text": t, "original_document": {}} for d, t in documents.to_numpy()]
    lines(folder / "documents.jsonl.gz", rows)
    topics = results[["qid", "query"]].drop_duplicates()
    lines(folder / "queries.jsonl", [{"qid": q, "query": t, "original_query": {}} for q, t in topics.to_numpy()])
    lines(folder / "metadata.json", [{"ir_datasets_id": "msmarco-passage/trec-dl-2019/judged"}])
    return folder


@pytest.fixture
def rerank(results, tmp_path):
    """Re-rank: candidates with their texts and nothing else."""
    folder = tmp_path / "rerank"
    folder.mkdir()
    rows = [
        {"qid": r.qid, "query": r.query, "original_query": {}, "docno": int(r.docno[1:]), "text": r.text,
         "original_document": {}, "rank": r.rank + 1, "score": r.score}
        for r in results.itertuples()
    ]  # fmt: skip
    lines(folder / "rerank.jsonl.gz", rows)
    return folder


@pytest.fixture
def dense(tiny, tmp_path):
    ptd.BiEncoder(tiny, **RUNS).save(tmp_path / "dense")
    return tmp_path / "dense"


@pytest.fixture
def cross(tiny_cross, tmp_path):
    ptd.CrossEncoder(tiny_cross, **RUNS).save(tmp_path / "cross")
    return tmp_path / "cross"


@pytest.fixture
def tira(monkeypatch, tmp_path):
    """Sets what TIRA's sandbox sets; gives where the run goes."""

    def enter(folder):
        out = tmp_path / "out"
        for name, value in zip(VARIABLES, (folder, out, folder, out, "id")):
            monkeypatch.setenv(name, str(value))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        return out

    return enter


def told(capsys):
    """The one line of an error."""
    found = capsys.readouterr().err.strip().splitlines()
    assert len(found) == 1, found
    return found[0]


def of(out):
    found = pt.io.read_results(str(out / "run.txt.gz"))
    return found.assign(rank=found["rank"] - 1)  # a run's ranks count from 1


def plain(run):
    return run[["qid", "docno", "rank"]].sort_values(["qid", "rank"]).reset_index(drop=True)


@pytest.mark.parametrize("layout", ["full", "rerank"])
@pytest.mark.parametrize("kind", ["dense", "cross"])
def test_a_student_ranks_what_tira_hands_over(kind, layout, tira, results, documents, qrels, request):
    student, folder = request.getfixturevalue(kind), request.getfixturevalue(layout)
    out = tira(folder)
    assert main(["--student", str(student)]) == 0
    for name in ("run.txt", "run-with-metadata"):
        assert check_format(out, name)[0] == _fmt.OK, check_format(out, name)
    check.check_output(out, set(results["qid"]))
    about = metadata.read(out / "ir-metadata.yml")
    expected = "msmarco-passage-trec-dl-2019-judged-20230107-training" if layout == "full" else "rerank"
    assert about["data"]["test collection"]["name"] == expected
    assert about["resources"]["runtime"]["wallclock"] and about["implementation"]["executable"]["cmd"]
    assert about["method"]["name"] == student.name and about["tag"] == student.name
    assert re.fullmatch(r"a (bi|cross)-encoder: [^/]*; [\d,]+ parameters", about["method"]["description"])
    # the same ranking by hand, and the same measures
    ranker = pt.Artifact.load(str(student))
    topics = results[["qid", "query"]].drop_duplicates()
    if layout == "rerank":
        mine = ranker(results[["qid", "query", "docno", "text", "score", "rank"]])
    elif kind == "dense":
        every = topics.merge(documents, how="cross")
        mine = ranker(every)
    else:
        candidates = ptd.bm25(folder.parent / "bm25", documents.to_dict("records"), num_results=1000)(topics)
        mine = ranker(candidates.merge(documents, on="docno"))
    mine = mine.assign(docno=mine["docno"].str[1:])
    pd.testing.assert_frame_equal(plain(of(out)), plain(mine), check_dtype=False)
    judged = qrels.assign(docno=qrels["docno"].str[1:])
    table = pt.Experiment([of(out), mine], topics, judged, [nDCG @ 10, AP])
    assert table.iloc[0, 1:].tolist() == pytest.approx(table.iloc[1, 1:].tolist(), abs=1e-6)
    assert sorted(p.name for p in out.iterdir()) == [".tirex-tracker", "ir-metadata.yml", "run.txt.gz"]
    assert main(["--student", str(student)]) == 0  # once more: it replaces what it wrote


def test_token_vectors_retrieve_from_their_own_index(full, tiny, tira, tmp_path):
    ptd.LateInteraction(tiny, **RUNS).save(tmp_path / "tokens")
    out = tira(full)
    assert main(["--student", str(tmp_path / "tokens"), "--depth", "3"]) == 0
    assert of(out).groupby("qid").size().tolist() == [3] * 4


@pytest.mark.slow
def test_a_sandbox_without_a_network(rerank, cross, tmp_path):
    out = tmp_path / "out"
    values = dict(zip(VARIABLES, map(str, (rerank, out, rerank, out, "id"))))
    environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"} | values
    alone = ["unshare", "-n"] if subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode == 0 else []
    run = [*alone, sys.executable, "-m", "pyterrier_distill.tirex", "--student", str(cross)]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "18 documents of 4 queries; energy:" in done.stdout
    assert check_format(out, "run-with-metadata")[0] == _fmt.OK


def test_a_pipeline_of_ones_own(full, tira, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import pyterrier as pt\nimport pyterrier_distill as ptd\n\n\n"
        "def lexical(context):\n    'BM25, cut.'\n"
        "    return ptd.bm25(context.path + '/mine', context.get_corpus_iter()) % 2\n\n\n"
        "longest = pt.apply.doc_score(lambda row: len(row['text']))\nword = 'no pipeline'\n"
    )
    monkeypatch.chdir(tmp_path)
    out = tira(full)
    assert main(["--pipeline", "mine:lexical", "--team", "us", "--name", "my system", "--dataset", "theirs"]) == 0
    about = metadata.read(out / "ir-metadata.yml")
    assert (about["actor"]["team"], about["tag"], about["method"]["description"]) == ("us", "my-system", "BM25, cut.")
    assert about["data"]["test collection"]["name"] == "theirs" and of(out).groupby("qid").size().max() == 2
    assert main(["--pipeline", "mine:longest"]) == 0  # a re-ranker: BM25's first documents with their texts
    assert main(["--pipeline", "mine:word"]) == 2 and main(["--pipeline", "mine:nothing"]) == 2
    assert main(["--pipeline", "no_such_module:x"]) == 2


def test_equal_scores_stand_as_trec_eval_puts_them():
    found = pd.DataFrame(
        [("q1", "a", 1.0), ("q1", "c", 1.0), ("q1", "b", 1.0 + 1e-12), ("q1", "z", 2.0), ("q2", "10", 0.0)],
        columns=["qid", "docno", "score"],
    )
    run = ranking.ordered(found, pd.Series(["q2", "q1"]))
    assert run["docno"].tolist() == ["10", "z", "c", "b", "a"] and run["rank"].tolist() == [0, 0, 1, 2, 3]
    scores = run["score"].to_numpy("float32")[1:]
    assert (scores[:-1] > scores[1:]).all() and scores[0] == 2
    assert ranking.ordered(found, pd.Series(["q1", "q2"]), depth=2)["docno"].tolist() == ["z", "c", "10"]
    with pytest.raises(ValueError, match="document 'a' of query 'q1' has no finite score: inf"):
        ranking.ordered(found.assign(score=[float("inf"), 1, 2, 3, 4]), pd.Series(["q1", "q2"]))


def without(row, name):
    return {key: value for key, value in row.items() if key != name}


def broken(rows, **changed):
    return [rows[0], {**rows[1], **changed}, *rows[2:]]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda rows: [], "rerank has no queries"),
        (lambda rows: [*rows[:1], "{broken", *rows[1:]], "line 2 of .*rerank.jsonl"),
        (lambda rows: [{**rows[0], "text": 5}, *rows[1:]], "line 1: document .* has no text: 5"),
        (lambda rows: [without(rows[0], "text"), *rows[1:]], "line 1 of .* has none of .*text"),
        (lambda rows: [*rows[:2], without(rows[2], "docno"), *rows[3:]], "line 3 of .* has none of the fields docno"),
        (lambda rows: broken(rows, text=None), "line 2: document .* has no text"),
        (lambda rows: broken(rows, docno=1.5), "line 2.*docno"),
        (lambda rows: broken(rows, score="high"), "line 2: the score must be a number"),
        (lambda rows: broken(rows, docno=rows[0]["docno"]), "line 2: document .* has another text than before"),
        (lambda rows: [rows[0], *rows], "line 2: ranks .* more than once"),
        (lambda rows: broken(rows, docno="a b"), "jsonl.gz, line 2: a run cannot hold the docno 'a b'"),
        (lambda rows: broken(rows, qid="a b"), "jsonl.gz, line 2: a run cannot hold the qid 'a b'"),
        (lambda rows: rows[:1], "has only 1 queries; TIRA takes runs of at least 3"),
    ],
)
def test_candidates_that_are_none(change, says, rerank, cross, tira, capsys):
    with gzip.open(rerank / "rerank.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    lines(rerank / "rerank.jsonl.gz", change(rows))
    out = tira(rerank)
    assert main(["--student", str(cross)]) == 2
    assert re.search(says, told(capsys))
    assert not out.exists() or not list(out.iterdir())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda rows: [*rows, rows[0]], r"line \d+: document .* is there already, see .*jsonl.gz, line 1\."),
        (lambda rows: broken(rows, docno="a b"), "jsonl.gz, line 2: a run cannot hold the docno 'a b'"),
        (lambda rows: [{**row, "text": " "} for row in rows], r"none of the \d+ documents of .*full has a word"),
    ],
)
def test_documents_that_are_none(change, says, full, dense, tira, capsys):
    with gzip.open(full / "documents.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    lines(full / "documents.jsonl.gz", change(rows))
    out = tira(full)
    assert main(["--student", str(dense)]) == 2
    assert re.search(says, told(capsys))
    assert not out.exists() or not list(out.iterdir())


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def ranker(:", r"'wrong' cannot be imported: SyntaxError: .*wrong.py, line 1\)"),
        ("\n1 / 0", r"ZeroDivisionError: division by zero \(.*wrong.py, line 2\)"),
        ("import none_such", r"No module named 'none_such' \(.*wrong.py, line 1\)"),
        ("ranker = 5", "wrong has no 'ranker'"),
        (
            "import pyterrier as pt\nranker = pt.apply.generic(lambda df: df.iloc[0])",
            r"ranks neither queries \(asked about none: IndexError.*columns for a frame without rows",
        ),
    ],
)
def test_pipelines_that_are_none(source, says, full, tira, tmp_path, monkeypatch, capsys):
    (tmp_path / "wrong.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "wrong", None)  # so that it is forgotten afterwards
    del sys.modules["wrong"]
    out = tira(full)
    assert main(["--pipeline", "wrong:ranker"]) == 2
    assert re.search(says, told(capsys))
    assert not out.exists() or not list(out.iterdir())


def test_a_damaged_adapter_is_named(full, tiny_cross, tira, tmp_path, capsys):
    place = tmp_path / "adapter"
    ptd.CrossEncoder(tiny_cross, lora={"r": 2, "target_modules": ["query"]}, **RUNS).save(place)
    weights = place / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    tira(full)
    assert main(["--student", str(place)]) == 2
    assert f"{weights} is not what was saved" in told(capsys)
    (place / "pt_meta.json").write_text(
        json.dumps({k: v for k, v in json.loads((place / "pt_meta.json").read_text()).items() if k != "digests"})
    )
    assert main(["--student", str(place)]) == 2
    assert "is damaged, or does not fit its base" in told(capsys)


@pytest.mark.slow
def test_a_sandbox_that_stops_leaves_nothing(full, tmp_path):
    slow = "import os, signal\ndef ranker(context):\n    os.kill(os.getpid(), signal.SIGTERM)\n"
    (tmp_path / "slow.py").write_text(slow)
    call = [sys.executable, "-m", "pyterrier_distill.tirex", "--pipeline", "slow:ranker", "--input", str(full)]
    done = subprocess.run([*call, "--output", "out"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 130 and "stopped; nothing was written" in done.stderr
    assert not (tmp_path / "out").exists()


def test_directories_that_are_none(full, cross, tira, tmp_path, capsys, monkeypatch):
    empty = tmp_path / "empty"
    empty.mkdir()
    out = tira(empty)
    wrong = ((empty, "holds no collection in TIRA's layout: .* found nothing"), (tmp_path / "no", "no such directory"))
    for given, says in wrong:
        assert main(["--student", str(cross), "--input", str(given)]) == 2
        assert re.search(says, told(capsys))
    tira(full)
    assert main(["--student", str(empty)]) == 2 and "holds no saved student" in told(capsys)
    assert main(["--student", str(tmp_path / "no")]) == 2 and "no such directory" in told(capsys)
    (tmp_path / "file").write_text("")
    assert main(["--student", str(cross), "--output", str(tmp_path / "file")]) == 2
    assert "nothing can be written there" in told(capsys)
    out.mkdir(exist_ok=True)
    (out / "run.txt").write_text("")
    assert main(["--student", str(cross)]) == 2 and "holds run.txt" in told(capsys)
    for name in VARIABLES:
        monkeypatch.delenv(name)
    assert main(["--student", str(cross)]) == 2 and "$inputDataset" in told(capsys)


def test_queries_without_candidates_are_named(rerank, cross, tira, results, caplog):
    topics = [*results[["qid", "query"]].drop_duplicates().to_numpy().tolist(), ["q9", "of nothing"]]
    lines(rerank / "queries.jsonl", [{"qid": q, "query": t} for q, t in topics])
    out = tira(rerank)
    assert main(["--student", str(cross)]) == 0
    assert "1 queries find no document, such as 'q9'" in caplog.text and "queries.jsonl, line 5" in caplog.text
    assert set(of(out)["qid"]) == set(results["qid"])


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("q1 Q0 d2 2 nan x", "line 2: the score nan is no finite number"),
        ("q1 Q0 d2 0 0.5 x", "line 2: rank 0 of query 'q1' must be 2"),
        ("q1 Q0 d2 2 1.5 x", "line 2: the score 1.5 is not below"),
        ("q1 Q0 d2 2 1.0 x", "line 2: the score 1.0 is not below"),
        ("q1 Q0 d1 2 0.5 x", "line 2: document 'd1' stands twice"),
        ("q9 Q0 d2 1 0.5 x", "line 2: there is no query 'q9'"),
        ("q1 Q0 d2 2 0.5", "line 2: expected qid Q0 docno rank score tag, found 5 fields"),
        ("q1 Q0 d2 two 0.5 x", "line 2: the rank 'two' is no number"),
        ("", "line 2: it is blank"),
    ],
)
def test_the_checker_is_stricter_than_tiras(line, says, tmp_path):
    rest = [f"q{n} Q0 d{n} 1 0.5 x" for n in range(2, 6)]
    path = tmp_path / "run.txt"
    lines(path, ["q1 Q0 d1 1 1.0 x", line, *rest])
    with pytest.raises(ValueError, match=says):
        check.check_run(path, {f"q{n}" for n in range(1, 6)})
    lines(path, ["q1 Q0 d1 1 1.0 x", "q1 Q0 d2 2 0.5 x", *rest])
    check.check_run(path)
    with pytest.raises(FileNotFoundError, match="no ir-metadata.yml"):
        check.check_output(tmp_path)
    (tmp_path / "ir-metadata.yml").write_text("actor: {team: us}\n")
    with pytest.raises(ValueError, match="lacks implementation.source.repository, data.test collection.name, method"):
        check.check_output(tmp_path)


def test_the_recorded_repository_stays(rerank, cross, tira, tmp_path, monkeypatch):
    """The commit that tirex-tracker records is one of that repository."""
    monkeypatch.chdir(tmp_path)
    out = tira(rerank)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for call in (["init", "-q"], ["remote", "add", "origin", "https://example.org/ours.git"], ["add", "rerank"],
                 [*identity, "commit", "-qm", "first"]):  # fmt: skip
        subprocess.run(["git", *call], check=True, cwd=tmp_path)
    (out / ".draft-old").mkdir(parents=True)  # what a killed process left
    assert main(["--student", str(cross)]) == 0
    source = metadata.read(out / "ir-metadata.yml")["implementation"]["source"]
    assert source["repository"] == "https://example.org/ours.git" and not (out / ".draft-old").exists()
    assert main(["--student", str(cross), "--repository", "https://example.org/theirs"]) == 0
    source = metadata.read(out / "ir-metadata.yml")["implementation"]["source"]
    assert source["repository"] == "https://example.org/theirs"


def test_an_adapter_of_a_retriever_is_a_student(full, tiny, tira, tmp_path):
    student = ptd.BiEncoder(tiny, lora={"r": 2, "alpha": 4, "target_modules": ["query"]}, **RUNS)
    student.save(tmp_path / "adapter")
    out = tira(full)
    assert main(["--student", str(tmp_path / "adapter")]) == 0 and len(of(out)) == 48


def test_metadata_keep_what_was_recorded(tmp_path):
    recorded = {"implementation": {"source": {"repository": None, "commit": "abc"}}, "schema version": 0.2}
    mine = {"implementation": {"source": {"repository": "ours"}}, "method": {"name": None}}
    assert metadata.merged(recorded, mine) == {
        "implementation": {"source": {"repository": "ours", "commit": "abc"}}, "schema version": 0.2, "method": {}
    }  # fmt: skip
    (tmp_path / "m.yml").write_text("runtime: {start: 2026-11-30T10:11:51.479350312+0000}\n")
    assert metadata.read(tmp_path / "m.yml")["runtime"]["start"] == "2026-11-30T10:11:51.479350312+0000"
    with pytest.raises(ValueError, match="would lack actor.team, .*which TIRA requires"):
        metadata.write(tmp_path / "m.yml", {})
    joules = {"resources": {"cpu": {"energy used system": "12.4 J"}, "gpu": {"energy used system": "null J"}}}
    assert metadata.energy(joules) == "cpu 12 J" and metadata.energy({}) == "not measured"
