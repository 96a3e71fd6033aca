"""The directory a training writes itself to, and where it goes on from."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .. import redaction
from ..checkpoints import write_json
from . import deciding

if TYPE_CHECKING:
    from torch import nn

_FINISHED, _WEIGHTS = "finished.json", "finished.safetensors"


def open_directory(
    checkpoints: str | Path | None, settings: Mapping[str, Any], validated: bool = True
) -> tuple[Path, Path | None]:
    """A directory for the checkpoints of the training that ``settings`` describe.

    Args:
        checkpoints: as asked for; None = a temporary one.
        settings: how the training goes, by name; :mod:`.deciding` says which of them decide the outcome.
        validated: whether a validation frame chooses the best checkpoint.

    Returns:
        ``(directory, checkpoint)``: the checkpoint to go on from, or None to start.

    Raises:
        ValueError: if the directory belongs to a training with another outcome, naming the first setting that differs.
    """
    if checkpoints is None:
        return Path(tempfile.mkdtemp(prefix="pyterrier-distill-")), None
    directory = Path(checkpoints)
    record = directory / "training.json"
    begun = last_checkpoint(directory) is not None or (directory / _FINISHED).exists()
    if record.exists() and begun:
        try:
            earlier = json.loads(record.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{record} is damaged ({error}): delete {directory} to start again.") from error
        told = deciding.changed(earlier, settings, validated=validated)
        if told is not None:
            raise ValueError(
                f"the checkpoints in {directory} are of another training: {redaction.text(told)}. Delete that directory"
                " to start again, or name another as checkpoints=."
            )
        return directory, last_checkpoint(directory)
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "training.json.part", redaction.redacted(settings))
    (directory / "training.json.part").rename(record)
    return directory, None


def finish(directory: Path, module: nn.Module, record: Mapping[str, Any]) -> None:
    """Keep the final weights of ``module``, so that running the same training again gives them at once."""
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, directory / _WEIGHTS)
    write_json(directory / f"{_FINISHED}.part", redaction.redacted(record))
    (directory / f"{_FINISHED}.part").rename(directory / _FINISHED)


def finished(directory: Path, module: nn.Module) -> dict[str, Any] | None:
    """What :func:`finish` recorded, its weights put into ``module``; None for a training that goes on."""
    if not (directory / _FINISHED).exists():
        return None
    from safetensors.torch import load_file

    module.load_state_dict(load_file(directory / _WEIGHTS))
    return json.loads((directory / _FINISHED).read_text(encoding="utf-8"))


def last_checkpoint(directory: Path) -> Path | None:
    """The newest checkpoint that was written to its end: the Trainer writes its state file last.

    Args:
        directory: where checkpoints are; need not exist.
    """
    found = []
    for path in directory.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        try:
            step = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))["global_step"]
        except (OSError, ValueError, KeyError):
            continue
        if path.name == f"{PREFIX_CHECKPOINT_DIR}-{step}":
            found.append((step, path))
    return max(found)[1] if found else None
