"""Settings of a training, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import scoring


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse numbers that cannot be meant, naming them.

    Raises:
        ValueError, TypeError: saying what the setting must be.
    """

    def whole(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 1

    for name in ("queries_per_batch", "accumulation"):
        if not whole(settings[name]):
            raise ValueError(f"{name} must be a whole number of at least 1, not {settings[name]!r}.")
    for name in ("steps", "eval_every", "early_stopping", "save_every", "micro_batch_tokens"):
        if settings[name] is not None and not whole(settings[name]):
            raise ValueError(f"{name} must be None or a whole number of at least 1, not {settings[name]!r}.")
    for name in ("learning_rate", "epochs", "warmup", "weight_decay", "max_grad_norm"):
        if isinstance(settings[name], bool) or not isinstance(settings[name], (int, float)):
            raise ValueError(f"{name} must be a number, not {settings[name]!r}.")
    if settings["args"] is not None and not isinstance(settings["args"], Mapping):
        raise TypeError(f"args must be a dict of further TrainingArguments, not {settings['args']!r}.")
    for name in ("learning_rate", "epochs"):
        if not 0 < settings[name] < float("inf"):
            raise ValueError(f"{name} must be positive, not {settings[name]!r}.")
    for name in ("weight_decay", "max_grad_norm"):
        if not 0 <= settings[name] < float("inf"):
            raise ValueError(f"{name} must be at least 0, not {settings[name]!r}.")
    if not 0 <= settings["warmup"] <= 1:
        raise ValueError(f"warmup is a share of all steps, between 0 and 1, not {settings['warmup']!r}.")
    if settings["dropout"] is not None and not 0 <= settings["dropout"] < 1:
        raise ValueError(f"dropout must be None or a probability below 1, not {settings['dropout']!r}.")
    if not 0 <= settings["seed"] < 2**32:
        raise ValueError(f"seed must be between 0 and 2**32 - 1, not {settings['seed']!r}.")
    scoring.check_precision(settings["precision"])
