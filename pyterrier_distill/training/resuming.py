"""The directory a training writes itself to, and where it goes on from."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..engine.checkpoints import write_json
from ..stores import redaction
from . import compatibility, intact

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)

#: How the data of a training begin that takes rows by what they say.
BY_CONTENT = "content-"
#: Settings that earlier versions did not write down, as they had them.
_BEFORE = {"weight_decay": "0.01", "max_grad_norm": "1.0"}
_FINISHED, _WEIGHTS = "finished.json", "finished.safetensors"


def open_directory(checkpoints: str | os.PathLike | None, settings: Mapping[str, Any], validated: bool = True) -> Path:
    """A directory for the checkpoints of the training that ``settings`` describe.

    Args:
        checkpoints: as asked for; None = a temporary one.
        settings: how the training goes, by name; :mod:`.compatibility` says which of them decide the outcome.
        validated: whether a validation frame chooses the best checkpoint.

    Raises:
        ValueError: if the directory belongs to a training with another outcome, naming the first setting that differs.
    """
    if checkpoints is None:
        return Path(tempfile.mkdtemp(prefix="pyterrier-distill-"))
    directory = Path(checkpoints)
    record = directory / "training.json"
    begun = bool(intact.checkpoints_in(directory)) or (directory / _FINISHED).exists()
    if record.exists() and begun:
        try:
            earlier = json.loads(record.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{record} is damaged ({error}): delete {directory} to start again.") from error
        if str(settings.get("data")).startswith(BY_CONTENT) and not str(earlier.get("data")).startswith(BY_CONTENT):
            raise ValueError(
                f"the checkpoints in {directory} are of an earlier version, which trained on rows in the order in which"
                " they came: this one takes them by what they say, and would go on with others. Delete that directory"
                " to start again, or name another as checkpoints=."
            )
        told = compatibility.changed({**_BEFORE, **earlier}, settings, validated=validated)
        if told is not None:
            raise ValueError(
                f"the checkpoints in {directory} are of another training: {redaction.text(told)}. Delete that directory"
                " to start again, or name another as checkpoints=."
            )
        return directory
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "training.json.part", redaction.redacted(settings))
    (directory / "training.json.part").rename(record)
    return directory


def finish(directory: Path, module: nn.Module, record: Mapping[str, Any]) -> None:
    """Keep the final weights of ``module``, so that running the same training again gives them at once."""
    from safetensors.torch import save_file

    draft = directory / f"{_WEIGHTS}.part"
    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, draft)
    told = {**record, "digest": intact.digest(draft)}
    draft.rename(directory / _WEIGHTS)
    write_json(directory / f"{_FINISHED}.part", redaction.redacted(told))
    (directory / f"{_FINISHED}.part").rename(directory / _FINISHED)


def already(
    checkpoints: str | os.PathLike | None, module: nn.Module, settings: Mapping[str, Any], validated: bool = True
) -> dict[str, Any] | None:
    """What :func:`finish` recorded, if the student is the one that the training ended with: the same call again.

    Args:
        checkpoints: as asked for.
        module: holds the student's weights as they are.
        settings: as for :func:`open_directory`; of the student its weights alone are compared.
        validated: as for :func:`open_directory`.
    """
    if checkpoints is None or not (Path(checkpoints) / _FINISHED).exists():
        return None
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    directory = Path(checkpoints)
    try:
        earlier = json.loads((directory / "training.json").read_text(encoding="utf-8"))
        record = json.loads((directory / _FINISHED).read_text(encoding="utf-8"))
        kept = load_file(directory / _WEIGHTS)
        record["history"]  # noqa: B018 - a record without one is no record
    except (OSError, ValueError, KeyError, SafetensorError):
        return None  # told of when it is opened
    weights = module.state_dict()
    if weights.keys() != kept.keys() or not all(kept[name].equal(weights[name].cpu()) for name in kept):
        return None
    before = {name: earlier.get(name) for name in ("student", "described", "weights")}
    if compatibility.changed({**_BEFORE, **earlier}, {**settings, **before}, validated=validated) is not None:
        return None
    return record


def finished(directory: Path, module: nn.Module) -> dict[str, Any] | None:
    """What :func:`finish` recorded, its weights put into ``module``; None for a training that goes on.

    Of weights or a record that are not what was written, there is a warning, and the training goes on from its
    checkpoints.
    """
    if not (directory / _FINISHED).exists():
        return None
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        record = json.loads((directory / _FINISHED).read_text(encoding="utf-8"))
        expected = {"digest": record.get("digest"), "manifest": record["manifest"], "history": record["history"]}
        if expected["digest"] not in (None, intact.digest(directory / _WEIGHTS)):
            raise ValueError(f"{_WEIGHTS} is not what was written")
        weights = load_file(directory / _WEIGHTS)
        wanted = {name: tensor.shape for name, tensor in module.state_dict().items()}
        if wanted != {name: tensor.shape for name, tensor in weights.items()}:
            raise ValueError(f"{_WEIGHTS} holds the weights of another model")
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        logger.warning(
            "the training in %s had ended, but what it left is damaged (%s): it ends again, from its checkpoints where"
            " there are any.", directory, error,
        )  # fmt: skip
        return None
    module.load_state_dict(weights)
    return record


def last_checkpoint(directory: Path) -> Path | None:
    """The newest checkpoint that was written to its end: the Trainer writes its state file last.

    Args:
        directory: where checkpoints are; need not exist.
    """
    found = []
    for path in directory.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        try:
            step = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))["global_step"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if path.name == f"{PREFIX_CHECKPOINT_DIR}-{step}":
            found.append((step, path))
    return max(found)[1] if found else None
