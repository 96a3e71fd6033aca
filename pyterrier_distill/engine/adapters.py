"""Low-rank adapters and their bases: reading what peft wrote, and how the weights of a base are kept."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..stores import seals
from . import batching
from .checkpoints import told

if TYPE_CHECKING:
    from torch import nn

CONFIG = "adapter_config.json"
#: peft's names of tasks → kinds of models.
_KINDS = {"SEQ_CLS": "cross-encoder", "SEQ_2_SEQ_LM": "seq2seq", "CAUSAL_LM": "causal"}

#: How the weights of a base that stays as it is may be kept under an adapter.
BASE_DTYPES = ("fp32", "bf16")


def check_installed() -> None:
    """Check that peft is there.

    Raises:
        ModuleNotFoundError: saying how to install it.
    """
    if importlib.util.find_spec("peft") is None:
        raise ModuleNotFoundError('LoRA needs peft: pip install "pyterrier-distill[lora]".')


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


def kind_of(name: str) -> str | None:
    """What an adapter was trained for: ``"cross-encoder"``, ``"seq2seq"``, ``"causal"``; None if it does not say."""
    return _KINDS.get(told(name, CONFIG).get("task_type") or "")


def load(model: nn.Module, name: str, *, trains: bool = True) -> Any:
    """Put a saved adapter into its base, in place; gives the ``PeftModel`` around it.

    Args:
        model: the base.
        name: the adapter's directory or hub name.
        trains: whether it shall be trained on.

    Raises:
        ValueError: if it does not fit.
    """
    check_installed()
    from peft import PeftModel

    if os.path.isdir(name):
        seals.check(name)
    try:
        return PeftModel.from_pretrained(model, name, is_trainable=trains)
    except Exception as error:
        if batching.out_of_memory(error) or isinstance(error, ImportError):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"the adapter {name!r} is damaged, or does not fit its base: {reason}") from error


def check_base_dtype(base_dtype: str | None) -> str | None:
    """``base_dtype``, if there is such a one here.

    Raises:
        ValueError: naming those there are.
    """
    if base_dtype not in (None, *BASE_DTYPES):
        raise ValueError(f"base_dtype must be None, 'fp32' or 'bf16', not {base_dtype!r}.")
    return base_dtype


def model_settings(base_dtype: str | None, attn_implementation: str | None) -> dict[str, Any]:
    """What ``from_pretrained`` takes for a base of that kind, besides its name.

    Args:
        base_dtype: ``"bf16"``; None = float32.
        attn_implementation: of transformers; None = its own choice.
    """
    import torch

    told: dict[str, Any] = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    return told if base_dtype is None else {**told, "dtype": torch.bfloat16}


def keep_in_float32(modules: Iterable[nn.Module]) -> None:
    """Keep modules over a base of fewer bits in float32, in place."""
    for module in modules:
        module.float()
        module.register_forward_pre_hook(_widened)


def _widened(module: nn.Module, inputs: tuple) -> tuple:
    """Inputs in float32, as the module's weights are."""
    import torch

    return tuple(x.float() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in inputs)
