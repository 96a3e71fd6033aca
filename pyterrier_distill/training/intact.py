"""Checkpoints that are what was written: digests of their files, written last, and read before anything is loaded."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zipfile
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

logger = logging.getLogger(__name__)

#: The file of a checkpoint that holds its digests.
DIGESTS = "digests.json"
_STATE = "trainer_state.json"
#: What a checkpoint of one process has without digests, too; without any of them the Trainer goes on with others.
_NEEDED = (_STATE, "optimizer.pt", "scheduler.pt", "rng_state.pth")


def seal(checkpoint: Path) -> None:
    """Write the digests of a checkpoint's files, whole or not at all: a checkpoint that has them is finished."""
    draft = checkpoint / f"{DIGESTS}.part"
    with open(draft, "w", encoding="utf-8") as file:
        json.dump({name: digest(checkpoint / name) for name in _files(checkpoint)}, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(checkpoint / DIGESTS)


def unseal(checkpoint: Path) -> None:
    """Before a checkpoint is written over: what is there now is no longer what its digests say."""
    (checkpoint / DIGESTS).unlink(missing_ok=True)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            found.update(chunk)
    return found.hexdigest()


def _files(checkpoint: Path) -> list[str]:
    paths = (path for path in sorted(checkpoint.rglob("*")) if path.is_file())
    return [str(path.relative_to(checkpoint)) for path in paths if path.name not in (DIGESTS, f"{DIGESTS}.part")]


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, in a few words; None for one that is whole.

    One without digests, of an earlier version, is whole if nothing that the Trainer reads is missing or cannot be read.

    Raises:
        OSError: naming a file that is there and may not be read; that is no damage.
    """
    sealed = checkpoint / DIGESTS
    if not sealed.exists():
        return _damage_unsealed(checkpoint)
    try:
        told = json.loads(sealed.read_text(encoding="utf-8"))
        wanted = dict(told)
    except (ValueError, TypeError):
        return f"{DIGESTS} cannot be read"
    for name, expected in wanted.items():
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
        if digest(checkpoint / name) != expected:
            return f"{name} is not what was written"
    return None if _STATE in wanted else f"{_STATE} is missing"


def _damage_unsealed(checkpoint: Path) -> str | None:
    if state_of(checkpoint) is None:
        return f"{_STATE} cannot be read"
    names = _files(checkpoint)
    if any(Path(name).suffix == ".safetensors" for name in names):  # else another layout: DeepSpeed's, FSDP's
        needed = [name for name in _NEEDED if name != "rng_state.pth" or "rng_state_0.pth" not in names]
        if missing := [name for name in needed if name not in names]:
            return f"{missing[0]} is missing"
    for name in names:
        if Path(name).suffix in (".pt", ".pth") and not _zip_is_whole(checkpoint / name):
            return f"{name} cannot be read"
        if Path(name).suffix == ".safetensors" and not _tensors_are_whole(checkpoint / name):
            return f"{name} cannot be read"
    return None


def _zip_is_whole(path: Path) -> bool:
    """torch's files are zips, whose members have checksums."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError, RuntimeError):
        return False


def _tensors_are_whole(path: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return bool(file.keys())
    except SafetensorError:
        return False


def state_of(checkpoint: Path) -> dict | None:
    """The Trainer's state of a checkpoint, if it is the checkpoint's; None where it cannot be read."""
    try:
        state = json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
        return state if checkpoint.name == f"{PREFIX_CHECKPOINT_DIR}-{state['global_step']}" else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def checkpoints_in(directory: Path) -> list[Path]:
    """The checkpoints of a training, the newest first, whole or not."""
    found = (path for path in directory.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.is_dir())
    numbered = [(step, path) for path in found if (step := path.name.rpartition("-")[2]).isdigit()]
    return [path for _, path in sorted(numbered, key=lambda one: int(one[0]), reverse=True)]


def newest_whole(directory: Path) -> Path | None:
    """The newest checkpoint to go on from; None to start. Damaged ones are moved aside, and a warning says so.

    A checkpoint whose best one so far is damaged is left aside, too: it would end with another student.

    Args:
        directory: of the training.
    """
    wrong: dict[str, str | None] = {path.name: damage(path) for path in checkpoints_in(directory)}
    chosen = None
    for path in checkpoints_in(directory):
        reason = wrong[path.name]
        if reason is None:
            best = Path((state_of(path) or {}).get("best_model_checkpoint") or path).name
            if best != path.name and wrong.get(best, "it is missing") is not None:
                reason = f"{best}, its best so far, is damaged ({wrong.get(best, 'it is missing')})"
        if reason is None:
            chosen = path
            break
        wrong[path.name] = reason
    for path in checkpoints_in(directory):
        if path == chosen:
            break
        aside = _aside(path)
        path.rename(aside)
        logger.warning(
            "the checkpoint %s is damaged, or was never finished (%s): training %s. It was moved to %s.",
            path,
            wrong[path.name],
            f"goes on from the older {chosen.name}" if chosen else "begins anew, as no other is whole",
            aside.name,
        )
    return chosen


def _aside(path: Path) -> Path:
    for n in range(1, 1000):
        aside = path.with_name(f"damaged-{path.name}" + (f"-{n}" if n > 1 else ""))
        if not aside.exists():
            return aside
    raise FileExistsError(f"{path.parent} holds a thousand damaged checkpoints: delete them.")
