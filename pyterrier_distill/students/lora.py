"""Low-rank adapters: a joint student that trains beside a base that stays as it is."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engine.adapters import CONFIG, base_of, check_installed, load
from ..engine.state import keep_what_trains
from ..frames import arguments

if TYPE_CHECKING:
    from torch import nn

    from .joint import JointStudent

_OURS = {"r": 16, "alpha": None, "dropout": 0.0, "target_modules": None}
#: What the student itself knows.
_SETTLED = {"task_type", "peft_type", "inference_mode", "base_model_name_or_path", "lora_alpha", "lora_dropout"}
#: Layers whose weights an architecture's GPU kernels take as they are, past any adapter. peft refuses the first two; an
#: adapter of the others would count on a CPU and not on a GPU.
_READ_RAW = {
    **dict.fromkeys(("mamba2", "falcon_h1", "nemotron_h"), ("out_proj", "conv1d")),
    **dict.fromkeys(("mamba", "falcon_mamba"), ("out_proj", "conv1d", "x_proj", "dt_proj")),
}
__all__ = [
    "CONFIG", "NO_ADAPTER", "TWO_ADAPTERS", "attach", "base_of", "check_installed", "checked", "head_modules",
    "heads", "load", "merged", "only_trained", "write",
]  # fmt: skip

NO_ADAPTER = (
    "base_dtype={!r} keeps the weights below an adapter, which this student does not have: add lora=, or leave"
    " base_dtype out (all weights train in float32)."
)
TWO_ADAPTERS = (
    "{!r} has an adapter already, which further training trains: leave lora= out, or save it with merge=True and put a"
    " new adapter on that."
)


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
    arguments.positive(alpha, "lora: alpha", absent=True)
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


def heads(model: nn.Module) -> list[str]:
    """Names of the modules that turn states into a score: what is outside the base model, and its pooler.

    A checkpoint may lack any of them; then they start at random, and are worth keeping.
    """
    inside = model.base_model
    names = [n for n, child in model.named_children() if child is not inside and any(True for _ in child.parameters())]
    return names + [n for n, child in inside.named_children() if n == "pooler" and child is not None]


def head_modules(model: nn.Module) -> list[nn.Module]:
    """The modules that :func:`heads` names."""
    return [getattr(model if hasattr(model, name) else model.base_model, name) for name in heads(model)]


def attach(model: nn.Module, lora: Mapping[str, Any], task: str = "SEQ_CLS") -> Any:
    """Put a new adapter into a transformers model, in place.

    Args:
        model: a sequence classifier, whose head will train as well, or a language model.
        lora: as :func:`checked`.
        task: peft's name of what the model does: ``SEQ_CLS``, ``SEQ_2_SEQ_LM``, ``CAUSAL_LM``.

    Returns:
        The ``PeftModel`` around ``model``.

    Raises:
        ValueError: if peft does not know which modules of this architecture to adapt.
    """
    from peft import LoraConfig, get_peft_model

    settings = {**_OURS, **lora}
    r, alpha, dropout = settings.pop("r"), settings.pop("alpha"), settings.pop("dropout")
    head = heads(model) if task == "SEQ_CLS" else []
    besides = [*head, *(settings.pop("modules_to_save", None) or [])]
    excluded = settings.pop("exclude_modules", None)
    everywhere = settings["target_modules"] == "all-linear"
    aside = [*head, *_READ_RAW.get(getattr(model.config, "model_type", ""), ())]
    if everywhere and excluded is None and aside:
        excluded = rf"(.*\.)?({'|'.join(aside)})(\..*)?"  # what trains whole needs no adapter
    config = LoraConfig(
        task_type=task,
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
        names = _linear(model, aside)
        if not names:
            raise ValueError(f"no adapter fits {type(model).__name__}, which has no linear layers: {error}") from error
        all_of_them = "" if everywhere else ', or say target_modules="all-linear"'
        raise ValueError(
            f"no adapter fits {type(model).__name__}: {str(error).rstrip('. ')}. Name some of its linear layers, which"
            f" are called {', '.join(names)}, as in lora=dict(target_modules={json.dumps(names[:2])}){all_of_them}."
        ) from error
    if config.modules_to_save is not None:  # peft adds the usual names of heads
        config.modules_to_save = list(dict.fromkeys(config.modules_to_save))
    return adapter


def _linear(model: nn.Module, aside: list[str]) -> list[str]:
    """What the linear layers of a model are called, those ``aside`` left out."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    kinds = (nn.Linear, Conv1D)
    parts = {name.split(".")[-1]: name for name, module in model.named_modules() if isinstance(module, kinds)}
    return [last for last, name in parts.items() if not set(name.split(".")) & set(aside)]


def write(student: JointStudent, draft: Path) -> None:
    """Write a student's adapter as peft does, with its tokenizer, and a head that is no part of the base's class."""
    adapter, base = student._weights.adapter, student.base
    for config in adapter.peft_config.values():
        config.base_model_name_or_path = os.path.abspath(base) if os.path.isdir(base) else base
    student._write_adapter(draft)


def merged(student: JointStudent) -> JointStudent:
    """A copy whose adapter is added to its base, in float32: an ordinary model. The student stays as it is."""
    model, adapter = copy.deepcopy((student.model, student._weights.adapter))
    model.float()  # the adapter is: half precision would round what it adds
    adapter.merge_and_unload()
    whole = object.__new__(type(student))
    whole.__dict__.update(student.__dict__)
    whole._weights = replace(student._weights, model=model, adapter=None, state=None)
    return whole


def only_trained(model: nn.Module) -> nn.Module:
    """``model`` in a module whose state holds nothing but what trains."""
    from torch import nn

    return keep_what_trains(nn.ModuleDict({"model": model}))
