"""From a Distiller's settings to transformers.TrainingArguments."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from transformers import TrainingArguments

from ..engine import processes
from .settings import Settings

if TYPE_CHECKING:
    import torch


def training_arguments(
    settings: Settings, examples: int, precision: str, device: torch.device, metric: str | None
) -> TrainingArguments:
    """The Trainer's arguments.

    Args:
        settings: of the training; its ``args`` win over everything here.
        examples: number of training lists, or whatever else it learns from.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        device: where the model is.
        metric: the evaluation's name in the log, such as ``eval_nDCG@10``; None = there is none.

    Raises:
        ValueError: if checkpoints cannot be had when asked for, or transformers refuses an argument.
    """
    given = dict(settings.args or {})
    if "output_dir" in given:
        raise ValueError("args: output_dir is where training writes itself: name it as checkpoints=.")
    per_batch = given.get("per_device_train_batch_size", settings.queries_per_batch)
    accumulation = given.get("gradient_accumulation_steps", settings.accumulation)
    epochs = given.get("num_train_epochs", settings.epochs)
    steps = given.get("max_steps", settings.steps or -1)
    batches = math.ceil(examples / (per_batch * processes.world()))
    total = steps if steps > 0 else max(1, math.ceil(batches / accumulation * epochs))
    every = settings.eval_every or max(1, math.ceil(total / 10))
    save = settings.save_every or every
    if metric is not None and save % every:
        raise ValueError(
            f"save_every={save} must be a multiple of eval_every={every}: the best checkpoint must have been evaluated."
        )
    arguments: dict[str, Any] = {
        "output_dir": "unused",  # set when everything has been checked; nothing is created before
        "learning_rate": settings.learning_rate,
        "warmup_steps": int(settings.warmup * total),
        "lr_scheduler_type": settings.schedule,
        "num_train_epochs": settings.epochs,
        "max_steps": settings.steps or -1,
        "per_device_train_batch_size": settings.queries_per_batch,
        "gradient_accumulation_steps": settings.accumulation,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
        "use_cpu": device.type == "cpu",
        "seed": settings.seed,
        "eval_strategy": "steps" if metric else "no",
        "eval_steps": every,
        "save_strategy": "steps" if metric or settings.checkpoints is not None else "no",
        "save_steps": save,
        "save_total_limit": 2,
        "restore_callback_states_from_checkpoint": True,  # early stopping goes on counting
        "load_best_model_at_end": metric is not None,
        "metric_for_best_model": metric,
        "greater_is_better": None if metric is None else metric != "eval_loss",
        "logging_steps": max(1, min(50, math.ceil(total / 20))),
        "logging_nan_inf_filter": False,  # a loss that is NaN shall be seen
        "report_to": "none",
        "remove_unused_columns": False,
        "dataloader_pin_memory": device.type == "cuda",
    }
    given = {name: value for name, value in given.items() if not name.startswith("torch_compile")}
    return TrainingArguments(**{**arguments, **given})  # compiling is ours: see trainer.compiled
