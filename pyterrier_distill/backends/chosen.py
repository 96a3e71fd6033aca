"""Which backend answers: one that is given, or one that runs a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from .base import Backend, as_backend


def checked_backend(model: Any, settings: Mapping[str, Any], needs: str, engine: str = "hf") -> Backend:
    """``model`` as a backend: one that it is already, anything that generates, or a checkpoint.

    Args:
        model: what the user gave.
        settings: for the checkpoint, as :class:`~pyterrier_distill.HF` takes them.
        needs: the teacher, for the message.
        engine: what runs a checkpoint: ``"hf"`` or ``"vllm"``.

    Raises:
        TypeError: if it is none of these.
        ValueError: for another engine.
    """
    backend = as_backend(model)
    if backend is not None:
        return backend
    if not isinstance(model, (str, os.PathLike)):
        raise TypeError(
            f"{needs} needs the name or directory of a checkpoint, or a backend (HF, VLLM, OpenAI, or anything with"
            f" generate(prompts)), not {model!r}."
        )
    if engine == "hf":
        from .hf import HF

        return HF(model, **settings)
    if engine == "vllm":
        from .vllm import VLLM

        names = ("max_length", "revision", "trust_remote_code", "precision")
        return VLLM(os.fspath(model), **{name: settings[name] for name in names if name in settings})
    raise ValueError(f"backend must be 'hf', 'vllm', or a backend such as OpenAI(...), not {engine!r}.")


def one_model(model: Any, backend: Any, needs: str) -> Any:
    """What a teacher asks: ``model``, or the backend that is given instead of one.

    Raises:
        ValueError: if both are given, neither is, or a backend that runs names has none to run.
    """
    if not isinstance(backend, str):
        if model is not None:
            raise ValueError(f"{needs} takes a backend as backend= with model=None, or as model, not both.")
        return backend
    if backend not in ("hf", "vllm"):
        raise ValueError(f"backend must be 'hf', 'vllm', or a backend such as OpenAI(...), not {backend!r}.")
    if model is None:
        raise ValueError(f"{needs} needs a model: a name, a directory, or a backend.")
    if backend != "hf" and not isinstance(model, (str, os.PathLike)):
        raise ValueError(f"backend={backend!r} runs the checkpoint of a name or directory, not {model!r}.")
    return os.fspath(model) if isinstance(model, os.PathLike) else model
