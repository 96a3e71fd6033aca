"""How a training goes: its settings, checked, as one value that is handed down."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..engine import batching
from ..stores import redaction


@dataclass(frozen=True)
class Settings:
    """The settings of a training; what each means says :class:`~pyterrier_distill.Distiller`.

    Raises:
        ValueError, TypeError: for what cannot be meant, naming it.
    """

    learning_rate: float = 2e-5
    warmup: float = 0.1
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    schedule: str = "linear"
    epochs: float = 1
    steps: int | None = None
    queries_per_batch: int = 32
    accumulation: int = 1
    gradient_cache: bool = False
    micro_batch_tokens: int | None = None
    precision: str = "auto"
    dropout: float | None = None
    seed: int = 42
    metric: Any = "nDCG@10"
    eval_every: int | None = None
    early_stopping: int | None = None
    checkpoints: str | os.PathLike | None = None
    save_every: int | None = None
    verbose: bool = True
    args: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in ("queries_per_batch", "accumulation"):
            if not _whole(getattr(self, name)):
                raise ValueError(f"{name} must be a whole number of at least 1, not {getattr(self, name)!r}.")
        for name in ("steps", "eval_every", "early_stopping", "save_every", "micro_batch_tokens"):
            if getattr(self, name) is not None and not _whole(getattr(self, name)):
                raise ValueError(f"{name} must be None or a whole number of at least 1, not {getattr(self, name)!r}.")
        for name in ("learning_rate", "epochs", "warmup", "weight_decay", "max_grad_norm"):
            if isinstance(getattr(self, name), bool) or not isinstance(getattr(self, name), (int, float)):
                raise ValueError(f"{name} must be a number, not {getattr(self, name)!r}.")
        if self.args is not None and not isinstance(self.args, Mapping):
            raise TypeError(f"args must be a dict of further TrainingArguments, not {self.args!r}.")
        for name in ("learning_rate", "epochs"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be positive, not {getattr(self, name)!r}.")
        for name in ("weight_decay", "max_grad_norm"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)!r}.")
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"warmup is a share of all steps, between 0 and 1, not {self.warmup!r}.")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be None or a probability below 1, not {self.dropout!r}.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be between 0 and 2**32 - 1, not {self.seed!r}.")
        batching.check_precision(self.precision)

    @classmethod
    def of(cls, holder: Any) -> Settings:
        """The settings that an object keeps as attributes of these names."""
        return cls(**{field.name: getattr(holder, field.name) for field in dataclasses.fields(cls)})

    def told(self) -> dict[str, str]:
        """As text by name, without secrets, those that decide nothing by what they are left out.

        Which of the rest decide the outcome, so that a training does not go on with others, says ``compatibility``.
        """
        names = (
            "learning_rate", "warmup", "weight_decay", "max_grad_norm", "schedule", "epochs", "steps",
            "queries_per_batch", "accumulation", "precision", "dropout", "seed", "metric", "eval_every",
            "early_stopping", "args",
        )  # fmt: skip
        values = {name: getattr(self, name) for name in names}
        if self.args is not None:  # what is written down must not let anybody in
            values["args"] = redaction.redacted(dict(self.args))
        return {name: repr(value) for name, value in values.items()}


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
