"""The commands ``evaluate`` and ``submit``: what they write, and what they refuse."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from test_suites import collection

import pyterrier_distill as ptd
from pyterrier_distill import cli
from pyterrier_distill.suites.cost import energy
from pyterrier_distill.tirex import check, package
from pyterrier_distill.tirex.run import Submission

RUNS = {"device": "cpu", "precision": "fp32"}
WRITTEN = ["table.md", "table.tex", "table.html", "results.csv", "per_query.csv", "costs.csv"]
PICTURES = ["quality_ms.png", "quality_parameters.png", "differences.png"]


@pytest.fixture
def students(tiny, tiny_cross, tmp_path):
    ptd.BiEncoder(tiny, **RUNS).save(tmp_path / "dense")
    ptd.CrossEncoder(tiny_cross, **RUNS).save(tmp_path / "cross")
    return tmp_path / "dense", tmp_path / "cross"


@pytest.fixture
def folders(tmp_path):
    return [collection(tmp_path / "one", 1), collection(tmp_path / "two", 2)]


def test_evaluate_writes_tables_and_pictures(students, folders, tiny, tmp_path, capsys):
    out = tmp_path / "out"
    told = [part for path in students for part in ("--student", str(path))]
    call = ["evaluate", *told, "--data", *folders, "--teacher", tiny, "--out", str(out), "--depth", "10"]
    assert cli.main([*call, "--measures", "nDCG@10", "RR@10"]) == 0
    printed = capsys.readouterr().out
    assert "mean" in printed and "not measured" in printed and "J a query" in printed
    for name in PICTURES:
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    results = pd.read_csv(out / "results.csv")
    assert set(results["name"]) == {"BM25", "teacher", "dense", "cross"}
    assert set(results["measure"]) == {"nDCG@10", "RR@10"}
    same = results[results["kind"] == "dataset"].pivot(index=["dataset", "measure"], columns="name", values="value")
    np.testing.assert_allclose(same["teacher"], same["dense"])  # the student is the teacher, untrained
    assert (pd.read_csv(out / "costs.csv")["parameters"] >= 0).all()
    assert all((out / name).stat().st_size for name in WRITTEN)


def test_evaluate_that_was_interrupted_asks_nothing_twice(students, folders, tmp_path, monkeypatch):
    out, asked = tmp_path / "out", []
    rank = ptd.CrossEncoder.transform
    monkeypatch.setattr(ptd.CrossEncoder, "transform", lambda self, inp: asked.extend(inp["qid"]) or rank(self, inp))
    call = ["evaluate", "--student", str(students[1]), "--data", *folders, "--out", str(out), "--depth", "5"]
    assert cli.main(call) == 0
    first = (out / "results.csv").read_bytes(), len(asked)
    assert cli.main(call) == 0
    assert (out / "results.csv").read_bytes() == first[0] and len(asked) == first[1]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--student", "DENSE", "--suite", "bear"], "no suite 'bear': give local, beir"),
        (["--student", "DENSE"], "--suite local needs --data"),
        (["--data", "folder:x"], "name a student: --student DIR"),
        (["--student", "nowhere", "--data", "FOLDER"], "nowhere: no such directory"),
        (["--student", "DENSE", "--student", "DENSE", "--data", "FOLDER"], "a student is named twice"),
        (["--student", "DENSE", "--data", "FOLDER", "--baseline", "none"], "baseline='none'"),
    ],
)
def test_evaluate_refuses(options, says, students, folders, tmp_path, capsys):
    names = {"DENSE": str(students[0]), "FOLDER": folders[0]}
    assert cli.main(["evaluate", *(names.get(o, o) for o in options), "--out", str(tmp_path / "out")]) == 2
    assert says in capsys.readouterr().err


def test_a_collection_that_changed_is_compared_anew(students, folders, tmp_path):
    """No index, candidates or run of the documents as they were."""
    told = [part for path in students for part in ("--student", str(path))]
    call = ["evaluate", *told, "--data", folders[0], "--depth", "10", "--out"]
    assert cli.main([*call, str(tmp_path / "out")]) == 0
    corpus = tmp_path / "one" / "corpus.jsonl"
    rows = [json.loads(line) for line in corpus.read_text().splitlines()]
    texts = [row["text"] for row in rows]
    turned = [{**row, "text": text} for row, text in zip(rows, texts[1:] + texts[:1])]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in turned))
    for out in ("out", "fresh"):
        assert cli.main([*call, str(tmp_path / out)]) == 0
    again, fresh = (pd.read_csv(tmp_path / out / "per_query.csv") for out in ("out", "fresh"))
    pd.testing.assert_frame_equal(again, fresh)


def test_names_with_any_character(students, folders, tiny_cross, tmp_path):
    for name in ("a$b_{$c", "_hidden"):
        ptd.CrossEncoder(tiny_cross, **RUNS).save(tmp_path / name)
    call = ["evaluate", "--student", str(tmp_path / "a$b_{$c"), "--student", str(tmp_path / "_hidden")]
    out = tmp_path / "out"
    measures = ["--measures", "nDCG@10", "nDCG@10", "--baseline", ""]  # one measure, no baseline
    assert cli.main([*call, "--data", folders[0], "--out", str(out), "--depth", "3", *measures]) == 0
    assert set(pd.read_csv(out / "results.csv")["name"]) == {"BM25", "a$b_{$c", "_hidden"}
    assert (out / "quality_ms.png").exists() and not (out / "differences.png").exists()
    assert cli.main(["evaluate", *call[1:3], *call[1:3], "--data", folders[0], "--out", str(out)]) == 2


def test_pictures_of_a_comparison(folders, tmp_path):
    suite = ptd.suites.Local(*folders)
    found = suite.compare(
        {"BM25": lambda c: c.first_stage, "cut": lambda c: c.first_stage % 3}, directory=tmp_path, baseline="BM25",
        cost=False, verbose=False,
    )  # fmt: skip
    assert len(found.plot_differences().axes[0].patches) == 2
    assert len(found.plot_over({"BM25": 1000, "cut": 3}, "depth").axes[0].lines) == 2
    with pytest.raises(ValueError, match="nothing was timed"):
        found.plot_cost()
    with pytest.raises(ValueError, match="the depth of 'cut' must be at least 0 and finite, not 'deep'"):
        found.plot_over({"BM25": 1000, "cut": "deep"}, "depth")
    with pytest.raises(ValueError, match="'other' is none of the systems"):
        found.plot_over({"other": 1}, "depth")
    found.baseline = None
    with pytest.raises(ValueError, match="there is no baseline"):
        found.plot_differences()


def test_energy_is_not_invented(monkeypatch):
    ran = []
    assert energy(lambda: ran.append(1)) is None or ran
    monkeypatch.setitem(sys.modules, "tirex_tracker", None)
    assert energy(lambda: ran.append(1)) is None and len(ran) == 2


@pytest.fixture
def rerank(results, tmp_path):
    folder = tmp_path / "rerank"
    folder.mkdir()
    rows = results[["qid", "query", "docno", "text", "rank", "score"]].to_dict("records")
    (folder / "rerank.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def submit(*options):
    return cli.main(["submit", "--dataset", "vaswani-20230107-training", "--team", "us", *map(str, options)])


@pytest.mark.slow
def test_submit_packs_tries_and_names_the_call(students, rerank, tmp_path, capsys):
    out = tmp_path / "out"
    options = ["--student", students[1], "--data", rerank, "--out", out, "--dry-run"]
    assert submit(*options) == 0
    *_, checked, call = capsys.readouterr().out.strip().splitlines()
    assert "checked, by tira, too" in checked
    assert call.startswith(f"tira-cli code-submission --path {out}/submission --task ir-benchmarks --dataset vaswani-")
    assert "--student /submission/student --team us --name cross" in call and call.endswith("--dry-run")
    folder = out / "submission"
    assert sorted(p.name for p in folder.iterdir()) == [
        "Dockerfile", "README.md", "install.sh", "package", "requirements.txt", "student"
    ]  # fmt: skip
    pins = dict(line.split("==") for line in (folder / "requirements.txt").read_text().split())
    assert {"torch", "transformers", "pyterrier", "pyterrier-pisa", "tirex-tracker"} <= set(pins)
    assert "+" not in pins["torch"] and "pytest" not in pins and "pyterrier-distill" not in pins
    assert "RUN sh install.sh" in (folder / "Dockerfile").read_text()
    check.check_output(out / "run")
    # what is packed ranks, with the package that is packed
    environment = {**os.environ, "PYTHONPATH": str(folder / "package")}
    run = [sys.executable, "-m", "pyterrier_distill.tirex", "--student", "student", "--input", rerank]
    done = subprocess.run([*map(str, run), "--output", str(tmp_path / "again")], env=environment, cwd=folder)
    assert done.returncode == 0
    assert (tmp_path / "again" / "run.txt.gz").exists()
    assert submit(*options) == 2 and "exists already" in capsys.readouterr().err
    (out / "run" / "notes.txt").write_text("mine")
    assert submit(*options, "--overwrite") == 0 and (out / "run" / "notes.txt").exists()
    assert submit("--student", students[0], "--out", students[0] / "out", "--dry-run") == 2
    assert "lies in the student's directory" in capsys.readouterr().err and not (students[0] / "out").exists()
    assert submit("--student", students[0], "--data", tmp_path / "no", "--out", tmp_path / "o", "--dry-run") == 2
    assert not (tmp_path / "o").exists()


def test_submit_merges_an_adapter(tiny_cross, rerank, tmp_path):
    student = ptd.CrossEncoder(tiny_cross, lora={"r": 2, "alpha": 4, "target_modules": ["query"]}, **RUNS)
    student.save(tmp_path / "adapter")
    with package.packed(Submission(student=str(tmp_path / "adapter"), dataset="x"), tmp_path / "out") as draft:
        assert not (draft / "student" / "adapter_config.json").exists() and not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "student" / "model.safetensors").exists()


def test_submit_refuses(students, rerank, tmp_path, capsys, monkeypatch):
    assert submit("--student", tmp_path / "nowhere", "--out", tmp_path / "out", "--dry-run") == 2
    assert "no such directory" in capsys.readouterr().err and not (tmp_path / "out" / "submission").exists()
    (tmp_path / "few").mkdir()
    row = {"qid": "1", "query": "q", "docno": "d", "text": "t", "rank": 1, "score": 1.0}
    (tmp_path / "few" / "rerank.jsonl").write_text(json.dumps(row) + "\n")
    assert submit("--student", students[1], "--data", tmp_path / "few", "--out", tmp_path / "o", "--dry-run") == 2
    assert "has only 1 queries; TIRA takes" in capsys.readouterr().err
    assert not (tmp_path / "o" / "submission").exists()  # a trial that failed leaves nothing
    assert not (tmp_path / "o" / "run").exists()
    for option in ("--team", "--dataset"):
        call = ["--student", students[1], "--data", rerank, "--out", tmp_path / "o", "--dry-run", option, " "]
        assert submit(*call) == 2 and f"{option} must be TIRA's name" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(tmp_path))
    assert submit("--student", students[1], "--out", tmp_path / "o2") == 2
    assert "tira-cli is not installed" in capsys.readouterr().err
