"""Loading, cutting and saving checkpoints, shared by all students."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import nn


def check_name(name: str) -> str:
    """``name`` with ``~`` expanded, if it can be a checkpoint.

    Raises:
        FileNotFoundError: if it is written as a path (``/…``, ``./…``, ``~…``) and is no directory.
    """
    path = os.path.expanduser(name)
    if (os.path.isabs(path) or name.startswith((".", "~"))) and not os.path.isdir(path):
        raise FileNotFoundError(
            f"no model at {path!r}: give a directory with a checkpoint, or the name of one on the hub."
        )
    return path


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bar for reading a file of weights from disk."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_sentence_transformer(name: str, **kwargs: Any) -> SentenceTransformer:
    """Load a sentence-transformers or transformers checkpoint.

    Raises:
        FileNotFoundError: in one line, if ``name`` is neither a directory nor to be had from the hub.
    """
    from sentence_transformers import SentenceTransformer

    try:
        with quiet():
            return SentenceTransformer(name, **kwargs)
    except (OSError, ValueError) as error:
        if os.path.isdir(name):
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"{name!r} holds no model that sentence-transformers can load: {reason}") from error
        raise FileNotFoundError(
            f"no model {name!r}: it is no directory here, and the hub did not give it (wrong name, or no network?)."
        ) from error


def cut_layers(model: nn.Module, layers: int | Sequence[int]) -> list[int]:
    """Keep only some layers of a transformers encoder or decoder, in place.

    Args:
        model: the transformers model.
        layers: which ones, from 0; or how many, then spread evenly from the first to the last.

    Returns:
        The layers kept.

    Raises:
        ValueError: if the model has no such layers.
    """
    from torch import nn

    total = model.config.num_hidden_layers
    if isinstance(layers, int):
        if not 1 <= layers <= total:
            raise ValueError(f"layers={layers} is impossible: this model has {total} layers.")
        keep = sorted({round(position) for position in np.linspace(0, total - 1, layers)}) if layers > 1 else [0]
    else:
        keep = list(layers)
        if not keep or any(not 0 <= layer < total for layer in keep):
            raise ValueError(f"layers={keep} is impossible: this model has layers 0 to {total - 1}.")
    stacks = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == total]
    if len(stacks) != 1:
        raise ValueError(
            f"cannot tell the layers of {type(model).__name__} from its other modules: cut the checkpoint yourself."
        )
    kept = [stacks[0][layer] for layer in keep]
    del stacks[0][:]
    stacks[0].extend(kept)
    model.config.num_hidden_layers = len(keep)
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [model.config.layer_types[layer] for layer in keep]
    return keep


def fingerprint(model: nn.Module) -> str:
    """Eight hexadecimal digits that change when any weight does."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:8]


@contextmanager
def written_whole(path: str | os.PathLike, *, overwrite: bool = False) -> Iterator[Path]:
    """A directory that appears at ``path`` only when the block ends without an error.

    Args:
        path: where it shall stand.
        overwrite: whether a directory that is there may be replaced.

    Raises:
        FileExistsError: if ``path`` exists and may not be replaced.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists already: choose another path, or pass overwrite=True to replace it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield draft
        draft.chmod(0o755)
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}-old-", dir=path.parent))
            path.rename(old / path.name)
            draft.rename(path)
            shutil.rmtree(old)
        else:
            draft.rename(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def remove(path: Path) -> None:
    """Delete a directory that is no longer needed."""
    shutil.rmtree(path, ignore_errors=True)


def write_json(path: Path, content: Any) -> None:
    """Write readable JSON; what JSON does not know is written as its repr."""
    path.write_text(json.dumps(content, indent=2, default=repr) + "\n", encoding="utf-8")


def versions() -> dict[str, str]:
    """Versions of everything that can change a number."""
    import platform
    from importlib.metadata import version

    packages = (
        "pyterrier", "pyterrier-dr", "torch", "transformers", "sentence-transformers",
        "accelerate", "numpy", "pandas", "ir-measures", "ir-datasets",
    )  # fmt: skip
    from .._version import __version__

    return {"pyterrier-distill": __version__, "python": platform.python_version(), **{p: version(p) for p in packages}}
