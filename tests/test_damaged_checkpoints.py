"""Whatever happened to a checkpoint, a training ends with the weights that an undisturbed one ends with."""

import json
import logging
import os
import shutil

import pytest
import torch

import pyterrier_distill as ptd
from pyterrier_distill.training import intact

FP32 = {"precision": "fp32", "device": "cpu"}
SETTINGS = {
    "precision": "fp32", "verbose": False, "learning_rate": 1e-3, "epochs": 3, "queries_per_batch": 2, "save_every": 1,
    "dropout": 0.1,
}  # fmt: skip


class Stop(Exception):
    pass


def bits(student):
    return torch.cat([p.detach().flatten() for p in student.model.parameters()])


def fitted(tiny, results, directory, *validation, after=None, **settings):
    student = ptd.CrossEncoder(tiny, **FP32)
    if after is not None:
        forward, calls = student.forward, []

        def counted(*args):
            calls.append(torch.is_grad_enabled())  # and not what looks at how far apart scores are
            if sum(calls) > after:
                raise Stop
            return forward(*args)

        student.forward = counted
    distiller = ptd.Distiller(student, ptd.KLDivergence(), checkpoints=directory, **{**SETTINGS, **settings})
    if after is None:
        distiller.fit(results, None, *validation)
        return bits(student)
    with pytest.raises(Stop):
        distiller.fit(results, None, *validation)
    return None


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return {}


@pytest.fixture
def stopped(tiny, results, tmp_path, undisturbed):
    """A directory with the checkpoints of steps 3 and 4 of 6, and the weights of an undisturbed training."""
    if not undisturbed:
        undisturbed["weights"] = fitted(tiny, results, None)
        undisturbed["directory"] = tmp_path / "c"
        fitted(tiny, results, tmp_path / "c", after=4)
    shutil.copytree(undisturbed["directory"], tmp_path / "copy")
    assert {path.name for path in (tmp_path / "copy").glob("checkpoint-*")} == {"checkpoint-3", "checkpoint-4"}
    return tmp_path / "copy", undisturbed["weights"]


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


def remove(path):
    path.unlink()


def garbage(path):
    path.write_bytes(b"{nonsense")


FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "digests.json")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("harm", [flip, truncate, remove, garbage])
def test_damage_is_seen_for_what_it_is(file, harm, stopped):
    directory, _ = stopped
    newest = directory / "checkpoint-4"
    assert intact.damage(newest) is None
    harm(newest / file)
    if (harm, file) == (remove, "digests.json"):
        assert intact.damage(newest) is None  # as an earlier version left it
    else:
        assert file in intact.damage(newest) or (harm, file) == (flip, "digests.json")


@pytest.mark.parametrize(
    ("file", "harm"),
    [
        ("optimizer.pt", remove), ("scheduler.pt", remove), ("rng_state.pth", remove), ("model.safetensors", flip),
        ("optimizer.pt", truncate), ("trainer_state.json", garbage),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)  # fmt: skip
def test_a_damaged_checkpoint_is_told_and_the_older_one_goes_on(file, harm, tiny, results, stopped, caplog):
    directory, expected = stopped
    harm(directory / "checkpoint-4" / file)
    with caplog.at_level(logging.WARNING, "pyterrier_distill"):
        assert torch.equal(fitted(tiny, results, directory), expected)
    told = [record.getMessage() for record in caplog.records if "damaged" in record.getMessage()]
    assert len(told) == 1 and str(directory / "checkpoint-4") in told[0] and file in told[0]
    assert "goes on from the older checkpoint-3" in told[0] and (directory / "damaged-checkpoint-4").is_dir()


def test_where_none_is_whole_the_training_begins_anew_and_says_so(tiny, results, stopped, caplog):
    directory, expected = stopped
    for name in ("checkpoint-3", "checkpoint-4"):
        flip(directory / name / "optimizer.pt")
    with caplog.at_level(logging.WARNING, "pyterrier_distill"):
        assert torch.equal(fitted(tiny, results, directory), expected)
    assert sum("begins anew" in record.getMessage() for record in caplog.records) == 2


def test_checkpoints_of_before_there_were_digests_go_on_if_they_are_whole(tiny, results, stopped, caplog):
    directory, expected = stopped
    for name in ("checkpoint-3", "checkpoint-4"):
        (directory / name / "digests.json").unlink()
    record = json.loads((directory / "training.json").read_text())
    earlier = {name: value for name, value in record.items() if name not in ("weight_decay", "max_grad_norm")}
    assert len(earlier) == len(record) - 2
    (directory / "training.json").write_text(json.dumps(earlier))
    with caplog.at_level(logging.WARNING, "pyterrier_distill"):
        assert torch.equal(fitted(tiny, results, directory), expected)
    assert not [record for record in caplog.records if "damaged" in record.getMessage()]


@pytest.mark.parametrize("file", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_also_without_digests_nothing_may_be_missing(file, tiny, results, stopped, caplog):
    directory, expected = stopped
    (directory / "checkpoint-4" / "digests.json").unlink()
    (directory / "checkpoint-4" / file).unlink()
    with caplog.at_level(logging.WARNING, "pyterrier_distill"):
        assert torch.equal(fitted(tiny, results, directory), expected)
    assert f"{file} is missing" in caplog.text


def test_other_settings_are_refused_though_the_checkpoints_are_damaged(tiny, results, stopped):
    directory, _ = stopped
    for name in ("checkpoint-3", "checkpoint-4"):
        flip(directory / name / "optimizer.pt")
    with pytest.raises(ValueError, match="another training: learning_rate"):
        fitted(tiny, results, directory, learning_rate=2e-3)
    assert len(list(directory.glob("checkpoint-*"))) == 2


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads everything")
def test_what_may_not_be_read_is_not_damaged(tiny, results, stopped):
    directory, _ = stopped
    (directory / "checkpoint-4" / "optimizer.pt").chmod(0)
    with pytest.raises(PermissionError, match="optimizer.pt"):
        fitted(tiny, results, directory)
    assert (directory / "checkpoint-4").is_dir()


def test_an_unreadable_file_moves_nothing(stopped, monkeypatch):
    directory, _ = stopped

    def full(path):
        raise OSError(24, "Too many open files", str(path))

    monkeypatch.setattr(intact, "digest", full)
    with pytest.raises(OSError, match="Too many open files"):
        intact.newest_whole(directory)
    assert len(list(directory.glob("checkpoint-*"))) == 2


# -- the best one -----------------------------------------------------------------------------------------------------

BEST = {"eval_every": 1, "learning_rate": 5e-2, "epochs": 4}


def best_and_newest(directory):
    newest = intact.checkpoints_in(directory)[0]
    return intact.state_of(newest)["best_model_checkpoint"], newest


def test_the_best_checkpoint_is_checked_too_and_found_where_the_directory_is_now(tiny, results, tmp_path, caplog):
    expected = fitted(tiny, results, None, results, **BEST)
    fitted(tiny, results, tmp_path / "c", results, after=6, **BEST)
    best, newest = best_and_newest(tmp_path / "c")
    assert best is not None
    shutil.copytree(tmp_path / "c", tmp_path / "damaged")
    (tmp_path / "c").rename(tmp_path / "moved")
    assert torch.equal(fitted(tiny, results, tmp_path / "moved", results, **BEST), expected)
    flip(tmp_path / "damaged" / os.path.basename(best) / "model.safetensors")
    with caplog.at_level(logging.WARNING, "pyterrier_distill"):
        assert torch.equal(fitted(tiny, results, tmp_path / "damaged", results, **BEST), expected)
    assert "model.safetensors is not what was written" in caplog.text


# -- finished trainings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "harm"),
    [("finished.safetensors", flip), ("finished.safetensors", truncate), ("finished.safetensors", remove),
     ("finished.json", garbage), ("finished.json", truncate)],
    ids=lambda value: getattr(value, "__name__", value),
)  # fmt: skip
def test_a_finished_training_that_is_damaged_ends_again(file, harm, tiny, results, stopped, caplog):
    directory, expected = stopped
    assert torch.equal(fitted(tiny, results, directory), expected)
    harm(directory / file)
    with caplog.at_level(logging.WARNING, "pyterrier_distill"):
        assert torch.equal(fitted(tiny, results, directory), expected)
    assert f"the training in {directory} had ended" in caplog.text
    caplog.clear()
    assert torch.equal(fitted(tiny, results, directory), expected) and "damaged" not in caplog.text


def test_finished_trainings_of_before_there_were_digests_are_taken(tiny, results, stopped):
    directory, expected = stopped
    fitted(tiny, results, directory)
    record = json.loads((directory / "finished.json").read_text())
    del record["digest"]
    (directory / "finished.json").write_text(json.dumps(record))
    shutil.rmtree(intact.checkpoints_in(directory)[0])
    assert torch.equal(fitted(tiny, results, directory), expected)
