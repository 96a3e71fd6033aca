"""The command line: the whole demo on a small collection, and mistakes told in one line."""

import json
import os
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from pyterrier_distill import cli
from pyterrier_distill.demo import distil


@pytest.fixture
def folder(known_items):
    return known_items


@pytest.fixture
def run(folder, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(distil, "QUERIES", 200)

    def run(*options):
        common = ["demo", "--dataset", f"folder:{folder}", "--teacher", tiny, "--out", str(tmp_path / "out")]
        return cli.main([*common, *options])

    return run


def test_demo_writes_what_it_promises(run, tmp_path, capsys):
    assert run("--seed", "7") == 0
    out = tmp_path / "out"
    table = pd.read_csv(out / "table.csv").set_index("name")
    assert list(table.index) == ["BM25", "teacher", "student before", "student"]
    assert {"nDCG@10", "RR@10", "R@100", "mrt", "nDCG@10 p-value"} <= set(table.columns)
    assert table["share"]["teacher"] == 1 and table["parameters"]["student"] < table["parameters"]["teacher"]
    for name in ("plot.png", "curve.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    record = json.loads((out / "run.json").read_text())
    assert record["settings"]["seed"] == 7 and record["versions"]["torch"] and record["seconds"]["train"] > 0
    assert [entry["step"] for entry in record["history"] if "loss" in entry]
    printed = capsys.readouterr().out
    assert "student before" in printed and "nDCG@10" in printed and "keeps" in printed

    import pyterrier as pt

    import pyterrier_distill as ptd

    assert isinstance(pt.Artifact.load(str(out / "student")), ptd.BiEncoder)


def test_a_second_run_uses_what_is_there(run, tmp_path, monkeypatch):
    assert run() == 0
    first = pd.read_csv(tmp_path / "out" / "table.csv")
    import pyterrier_distill as ptd

    def forbidden(*_, **__):
        raise AssertionError("a second run must not label, index or train again")

    monkeypatch.setattr(ptd.Distiller, "fit", forbidden)
    monkeypatch.setattr(ptd.BiEncoder, "encode_docs", forbidden)
    assert run() == 0
    second = pd.read_csv(tmp_path / "out" / "table.csv")
    columns = ["name", "nDCG@10", "RR@10", "R@100"]
    pd.testing.assert_frame_equal(first[columns], second[columns])


@pytest.mark.slow
def test_another_seed_is_another_student(run, tmp_path):
    from pyterrier_distill import BiEncoder

    assert run() == 0
    one = BiEncoder(tmp_path / "out" / "student").encode_queries(["red dog"])
    assert run("--seed", "1") == 0
    assert (BiEncoder(tmp_path / "out" / "student").encode_queries(["red dog"]) != one).any()


@pytest.mark.slow
def test_minutes_are_measured_once_and_kept(run, tmp_path):
    assert run("--minutes", "0.02", "--layers", "0,3") == 0
    queries = json.loads((tmp_path / "out" / "run.json").read_text())["settings"]["queries"]
    assert queries >= 1000
    assert run("--minutes", "0.02", "--layers", "0,3") == 0
    assert json.loads((tmp_path / "out" / "run.json").read_text())["settings"]["queries"] == queries


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "irds:no/such/thing"], "no dataset 'irds:no/such/thing'"),
        (["--dataset", "folder:/no/such/place"], "no such directory"),
        (["--teacher", "/no/such/model"], "no model at '/no/such/model'"),
        (["--teacher", "nobody/nothing"], "no model 'nobody/nothing'"),
        (["--minutes", "-3"], "minutes must be positive"),
        (["--layers", "9"], "layers"),
        (["--layers", "0,0"], "each to be kept once"),
        (["--seed", "-1"], "seed must be"),
        (["--seed", str(2**32)], "seed must be a whole number from 0 to 4294967295"),
        (["--minutes", "inf"], "minutes must be positive"),
        (["--queries", "100", "--minutes", "1"], "not both"),
        (["--max-length", "0"], "max_length must be"),
        (["--queries", "0"], "queries must be"),
        (["--data", "vaswani"], "no dataset 'vaswani'"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(run, options, message, tmp_path, capsys):
    assert run(*options) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("pyterrier-distill: error: ") and message in error
    assert not (tmp_path / "out" / "student").exists() and not (tmp_path / "out" / "table.csv").exists()


def test_what_is_in_the_way_is_told_and_left_alone(run, tmp_path, capsys):
    (tmp_path / "out" / "student").mkdir(parents=True)
    (tmp_path / "out" / "student" / "thesis.tex").write_text("work")
    assert run() == 2
    assert "was not made by this program" in capsys.readouterr().err
    assert (tmp_path / "out" / "student" / "thesis.tex").read_text() == "work"
    (tmp_path / "file").write_text("")
    assert run("--out", str(tmp_path / "file")) == 2
    assert "is a file" in capsys.readouterr().err


def test_a_query_without_any_hit_does_not_end_the_demo(run, folder, tmp_path):
    with open(folder / "queries.jsonl", "a") as out:
        out.write(json.dumps({"_id": "77", "text": "zzzz qqqq"}) + "\n")
    with open(folder / "qrels" / "test.tsv", "a") as out:
        out.write("77\td1\t1\n")
    assert run() == 0
    assert len(pd.read_csv(tmp_path / "out" / "table.csv")) == 4


def test_layers_must_be_numbers(capsys):
    with pytest.raises(SystemExit):
        cli.main(["demo", "--layers", "many"])
    assert "neither a number nor a list" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--out", ""], ["--out", " "], ["--minutes", "nan"], ["--layers", "0"]])
def test_bad_values_are_told_before_anything_heavy_is_imported(options, tmp_path):
    code = (
        "import sys; from pyterrier_distill import cli; status = cli.main(sys.argv[1:]);"
        " print(status, [m for m in ('torch', 'pyterrier_dr', 'transformers') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, "demo", *options]
    told = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "LC_ALL": "C"})
    assert told.stdout.strip() == "2 []" and len(told.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_truncated_weights_are_told_in_one_line(run, tiny, tmp_path, capsys):
    shutil.copytree(tiny, tmp_path / "cut")
    weights = next((tmp_path / "cut").rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    assert run("--teacher", str(tmp_path / "cut")) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("pyterrier-distill: error: ")


@pytest.mark.parametrize("line", ['["d1", "text"]', '{"_id": "d1", "text": "one"}\n{"_id": "d1", "text": "two"}'])
def test_bad_documents_are_told_in_one_line(run, folder, line, capsys):
    (folder / "corpus.jsonl").write_text(line + "\n")
    assert run() == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("pyterrier-distill: error: ") and ("line 1" in error or "d1" in error)
