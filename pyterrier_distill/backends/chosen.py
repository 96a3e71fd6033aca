"""Which backend answers: one that is given, or one that runs a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from .base import Backend, as_backend

#: What runs a checkpoint by its name, as ``backend=`` names it.
ENGINES = ("hf", "vllm")
_UNKNOWN = f"backend must be {', '.join(map(repr, ENGINES))}, or a backend such as ptd.OpenAI(...), not {{!r}}."


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
    raise ValueError(_UNKNOWN.format(engine))


def one_model(model: Any, backend: Any, needs: str) -> Any:
    """What a teacher asks: ``model``, or the backend that is given instead of one.

    Raises:
        ValueError: if both are given, neither is, or a backend that runs names has none to run.
    """
    if not isinstance(backend, str):
        if model is not None:
            raise ValueError(f"{needs} takes a backend as backend= with model=None, or as model, not both.")
        return backend
    if backend not in ENGINES:
        raise ValueError(_UNKNOWN.format(backend))
    if model is None:
        raise ValueError(f"{needs} needs a model: a name, a directory, or a backend.")
    if backend != "hf" and not isinstance(model, (str, os.PathLike)):
        raise ValueError(f"backend={backend!r} runs the checkpoint of a name or directory, not {model!r}.")
    return os.fspath(model) if isinstance(model, os.PathLike) else model


def check_engine(model: Any, backend: Any) -> None:
    """Check that a model and what runs it go together.

    Raises:
        ValueError: if neither or both are given, or the word for the engine is unknown.
    """
    if isinstance(backend, str):
        if model is None:
            raise ValueError("name a model, or pass a backend.")
        if backend == "openai":
            raise ValueError("a server has an address: pass backend=ptd.OpenAI(model, base_url=...), and no model.")
        if backend not in ENGINES:
            raise ValueError(_UNKNOWN.format(backend))
    elif model is not None:
        raise ValueError(f"model={model!r} and backend={backend!r} both say what answers: pass one of them.")
