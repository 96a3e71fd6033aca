"""Low-rank adapters: a joint student that trains beside a base that stays as it is."""

from __future__ import annotations

import copy
import importlib.util
import os
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engine.checkpoints import told
from ..engine.state import keep_what_trains

if TYPE_CHECKING:
    from torch import nn

    from .joint import JointStudent

_OURS = {"r": 16, "alpha": None, "dropout": 0.0, "target_modules": None}
#: What the student itself knows.
_SETTLED = {"task_type", "peft_type", "inference_mode", "base_model_name_or_path", "lora_alpha", "lora_dropout"}
CONFIG = "adapter_config.json"
TWO_ADAPTERS = (
    "{!r} has an adapter already, which further training trains: leave lora= out, or save it with merge=True and put a"
    " new adapter on that."
)


def check_installed() -> None:
    """Check that peft is there.

    Raises:
        ModuleNotFoundError: saying how to install it.
    """
    if importlib.util.find_spec("peft") is None:
        raise ModuleNotFoundError('LoRA needs peft: pip install "pyterrier-distill[lora]".')


def checked(lora: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A copy of ``lora``, if an adapter can be made of it.

    Args:
        lora: ``r`` (rank; 16), ``alpha`` (scale, as alpha / r; 2 r), ``dropout`` (0), ``target_modules`` (None = peft's
            own for the architecture; ``"all-linear"``), and whatever else ``peft.LoraConfig`` takes; or None.

    Raises:
        TypeError: if it is no mapping.
        ValueError: for a key or a value that cannot be meant.
        ModuleNotFoundError: without peft.
    """
    if lora is None:
        return None
    if not isinstance(lora, Mapping):
        raise TypeError(f"lora must be a dict, such as dict(r=16, alpha=32), not {lora!r}.")
    check_installed()
    settings = {**_OURS, **lora}
    r, alpha, dropout = settings["r"], settings["alpha"], settings["dropout"]
    if isinstance(r, bool) or not isinstance(r, int) or r < 1:
        raise ValueError(f"lora: r must be a whole number of at least 1, not {r!r}.")
    if alpha is not None and (isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not alpha > 0):
        raise ValueError(f"lora: alpha must be a positive number, not {alpha!r}.")
    if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
        raise ValueError(f"lora: dropout must be a probability below 1, not {dropout!r}.")
    others = set(lora) - set(_OURS)
    if others:
        from peft import LoraConfig

        unknown = sorted(map(str, others - {f.name for f in fields(LoraConfig)} | others & _SETTLED))
        if unknown:
            raise ValueError(
                f"lora: {', '.join(unknown)} cannot be set: it takes {', '.join(_OURS)}, and what peft.LoraConfig takes"
                " besides."
            )
    return dict(lora)


def base_of(name: str) -> str | None:
    """The base of an adapter; None for a checkpoint that is none.

    Raises:
        FileNotFoundError: if the base is a directory that is not here.
        ValueError: if the adapter does not say what it was made for.
    """
    config = told(name, CONFIG)
    if not config:
        return None
    base = config.get("base_model_name_or_path")
    if not base:
        raise ValueError(f"{name!r} is an adapter that does not say its base: add base_model_name_or_path to {CONFIG}.")
    if (os.path.isabs(base) or base.startswith(".")) and not os.path.isdir(base):
        raise FileNotFoundError(
            f"{name!r} is an adapter of {base!r}, which is not here: put the base there, or set base_model_name_or_path"
            f" in {os.path.join(name, CONFIG)}."
        )
    return base


def _head(model: nn.Module) -> list[str]:
    """Names of the modules that turn states into a score: what is outside the base model, and its pooler.

    A checkpoint may lack any of them; then they start at random, and are worth keeping.
    """
    inside = model.base_model
    names = [n for n, child in model.named_children() if child is not inside and any(True for _ in child.parameters())]
    return names + [n for n, child in inside.named_children() if n == "pooler" and child is not None]


def attach(model: nn.Module, lora: Mapping[str, Any]) -> Any:
    """Put a new adapter into a transformers model, in place.

    Args:
        model: a sequence classifier, whose head will train as well, or an encoder-decoder.
        lora: as :func:`checked`.

    Returns:
        The ``PeftModel`` around ``model``.

    Raises:
        ValueError: if peft does not know which modules of this architecture to adapt.
    """
    from peft import LoraConfig, get_peft_model

    settings = {**_OURS, **lora}
    r, alpha, dropout = settings.pop("r"), settings.pop("alpha"), settings.pop("dropout")
    generates = bool(model.config.is_encoder_decoder)
    head = [] if generates else _head(model)
    besides = [*head, *(settings.pop("modules_to_save", None) or [])]
    excluded = settings.pop("exclude_modules", None)
    if settings["target_modules"] == "all-linear" and excluded is None and head:
        excluded = rf"(.*\.)?({'|'.join(head)})(\..*)?"  # what trains whole needs no adapter
    config = LoraConfig(
        task_type="SEQ_2_SEQ_LM" if generates else "SEQ_CLS",
        r=r,
        lora_alpha=2 * r if alpha is None else alpha,
        lora_dropout=dropout,
        modules_to_save=besides or None,
        exclude_modules=excluded,
        **settings,
    )
    try:
        adapter = get_peft_model(model, config)
    except ValueError as error:
        raise ValueError(
            f"no adapter fits {type(model).__name__}: {str(error).rstrip('. ')}. Name its modules, as in"
            ' lora=dict(target_modules=["q_proj", "v_proj"]), or say target_modules="all-linear".'
        ) from error
    if config.modules_to_save is not None:  # peft adds the usual names of heads
        config.modules_to_save = list(dict.fromkeys(config.modules_to_save))
    return adapter


def load(model: nn.Module, name: str) -> Any:
    """Put a saved adapter into its base, in place, ready to train on; gives the ``PeftModel`` around it.

    Raises:
        ValueError: if it does not fit.
    """
    check_installed()
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, name, is_trainable=True)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"the adapter {name!r} does not fit its base: {str(error).strip().splitlines()[0]}") from error


def write(student: JointStudent, draft: Path) -> None:
    """Write a student's adapter as peft does, with its tokenizer."""
    adapter, base = student._weights.adapter, student.base
    for config in adapter.peft_config.values():
        config.base_model_name_or_path = os.path.abspath(base) if os.path.isdir(base) else base
    # peft would ask the hub whether the base's vocabulary has grown; ours never does.
    adapter.save_pretrained(str(draft), save_embedding_layers=False)
    student.tokenizer.save_pretrained(str(draft))


def merged(student: JointStudent) -> JointStudent:
    """A copy whose adapter is added to its base: an ordinary model. The student stays as it is."""
    model, adapter = copy.deepcopy((student.model, student._weights.adapter))
    adapter.merge_and_unload()
    whole = object.__new__(type(student))
    whole.__dict__.update(student.__dict__)
    whole._weights = replace(student._weights, model=model, adapter=None, state=None)
    return whole


def only_trained(model: nn.Module) -> nn.Module:
    """``model`` in a module whose state holds nothing but what trains."""
    from torch import nn

    return keep_what_trains(nn.ModuleDict({"model": model}))
