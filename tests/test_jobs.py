"""The commands label and train: what LabelStore.build and Distiller do in Python, from names and files."""

import json
import re

import pytest

import pyterrier_distill as ptd
from pyterrier_distill import cli
from pyterrier_distill.jobs import spoken


@pytest.fixture
def folder(known_items):
    return f"folder:{known_items}"


@pytest.fixture
def labels(folder, tiny, tmp_path, capsys):
    """A store that the command made, and what it printed."""
    out = str(tmp_path / "labels")
    teacher = f"vectors:{tiny}"
    assert cli.main(["label", "--json", "--data", folder, "--teacher", teacher, "--out", out, "--depth", "5"]) == 0
    return out, json.loads(capsys.readouterr().out)


def test_label_keeps_what_a_teacher_says(labels, folder, tiny, capsys):
    out, told = labels
    store = ptd.LabelStore(out)
    assert told["store"] == out and told["queries"] == len(store) == 6 and told["documents"] == store.documents == 30
    assert "query_vec" in told["columns"]
    again = ["label", "--data", folder, "--teacher", f"vectors:{tiny}", "--out", out, "--depth", "5"]
    assert cli.main(again) == 0 and "6 queries" in capsys.readouterr().out
    assert cli.main([*again[:-1], "6"]) == 2  # another pipeline is another store
    assert "was built otherwise" in capsys.readouterr().err


def test_label_reads_topics_and_runs_from_files(folder, tmp_path, capsys):
    topics = tmp_path / "topics.tsv"
    topics.write_text("a\tred dog\nb\tblue cat sings\n")
    run = tmp_path / "some.run"
    run.write_text("".join(f"{q} Q0 d{n} {n + 1} {9 - n} x\n" for q in "ab" for n in range(4)))
    out = str(tmp_path / "orders")
    options = ["--data", folder, "--topics", str(topics), "--teacher", f"run:{run}", "--with-text", "--out", out]
    assert cli.main(["label", *options]) == 0
    store = ptd.LabelStore(out)
    assert store.qids() == ["a", "b"] and store["b"]["teacher_rank"].tolist() == [0, 1, 2, 3]
    assert store.frame(with_text=True)["text"].str.contains("number").all()
    out = str(tmp_path / "over-a-run")
    options = ["--data", folder, "--topics", str(topics), "--candidates", str(run), "--depth", "3", "--out", out]
    assert cli.main(["label", *options, "--teacher", f"run:{run},by=score"]) == 0
    assert ptd.LabelStore(out)["a"]["docno"].tolist() == ["d0", "d1", "d2"]


def test_train_saves_the_student_that_python_trains(labels, folder, tiny, tmp_path, capsys):
    out = str(tmp_path / "student")
    student = f"bi-encoder:{tiny},layers=[0]"
    options = ["--labels", labels[0], "--student", student, "--loss", "EmbeddingMatch()", "--data", folder]
    settings = ["--set", "steps=3", "queries_per_batch=2", "learning_rate=1e-3", "precision=fp32"]
    assert cli.main(["train", "--json", *options, *settings, "--out", out]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["student"] == out and told["steps"] == 3 and told["history"][-1]["step"] == 3
    same = ptd.BiEncoder(tiny, layers=[0])
    how = dict(steps=3, queries_per_batch=2, learning_rate=1e-3, precision="fp32", verbose=False)
    ptd.Distiller(same, ptd.EmbeddingMatch(), **how).fit(ptd.LabelStore(labels[0]))
    given = ["red dog", "cat"]
    difference = ptd.BiEncoder(out, precision="fp32").encode_queries(given) - ptd.BiEncoder.encode_queries(same, given)
    assert abs(difference).max() < 2e-2
    assert cli.main(["train", *options, *settings, "--out", out]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert cli.main(["train", *options, *settings, "--out", out, "--overwrite"]) == 0
    assert "nothing was trained" in capsys.readouterr().err


def test_train_chooses_by_a_collection(labels, folder, tiny, tmp_path, capsys):
    out = str(tmp_path / "student")
    options = ["--labels", labels[0], "--student", f"bi-encoder:{tiny}", "--loss", "InfoNCE(temperature=0.05)"]
    how = ["--data", folder, "--validation", folder, "--depth", "4", "--set", "steps=2", "metric=RR@10"]
    assert cli.main(["train", "--json", *options, *how, "--out", out]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["best"]) == {"RR@10"} and told["history"][0]["eval_RR@10"] > 0


TRAIN = ["train", "--labels", "STORE", "--out", "x"]


@pytest.mark.parametrize(
    "options, said",
    [
        (["label", "--data", "FOLDER", "--out", "x"], "name a teacher"),
        (["label", "--data", "FOLDER", "--out", "x", "--teacher", "cross-encoder"], "must be KIND:NAME"),
        (["label", "--data", "FOLDER", "--out", "x", "--teacher", "pointwize:y"], "did you mean pointwise"),
        (["label", "--data", "FOLDER", "--out", "x", "--teacher", "pointwise:y,promt=z"], "did you mean prompt"),
        (["label", "--data", "folder:/nowhere", "--out", "x", "--teacher", "pointwise:y"], "nowhere"),
        (["train", "--labels", "no", "--student", "x:y", "--loss", "RankNet()", "--out", "x"], "no such label store"),
        ([*TRAIN, "--student", "bi:y", "--loss", "RankNet()"], "bi-encoder"),
        ([*TRAIN, "--student", "ustad:TINY", "--loss", "RankNet"], "RankNet()"),
        ([*TRAIN, "--student", "ustad:TINY", "--loss", "Ranknet()"], "RankNet?"),
        ([*TRAIN, "--student", "ustad:TINY", "--loss", "exit()"], "no loss 'exit'"),
        ([*TRAIN, "--student", "ustad:TINY", "--loss", "RankNet()", "--set", "lr=1"], "learning_rate"),
        ([*TRAIN, "--student", "ustad:TINY", "--loss", "RankNet()", "--set", "verbose=1"], "decides that itself"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(options, said, labels, folder, tiny, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    places = {"FOLDER": folder, "STORE": labels[0], "TINY": tiny}
    for name, place in places.items():
        options = [option.replace(name, place) for option in options]
    capsys.readouterr()
    assert cli.main(options) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pyterrier-distill")]
    assert len(lines) == 1 and said in lines[0]


def test_losses_are_read_as_they_print_themselves():
    for loss in (
        ptd.RankNet(), ptd.InfoNCE(temperature=0.05) + 3.0 * ptd.KLDivergence(),
        ptd.HiddenStateMatch(layers=(1, 2)) + 0.5 * ptd.EmbeddingMatch(),
    ):  # fmt: skip
        assert spoken.loss(repr(loss)) == loss
    for wrong in ("RankNet() - RankNet()", "__import__('os')", "RankNet(n=print)", "2", "RankNet("):
        with pytest.raises(ValueError):
            spoken.loss(wrong)


def test_every_command_has_help_worth_reading(capsys):
    for name in ("demo", "label", "train", "evaluate", "submit", "recipe"):
        with pytest.raises(SystemExit) as ended:
            cli.main([name, "--help"])
        text = capsys.readouterr().out
        assert ended.value.code == 0 and "examples:" in text and "--json" in text
        options = re.findall(r"^  (--[a-z-]+)", text, re.M)
        assert len(options) >= 4, text


