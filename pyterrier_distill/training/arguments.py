"""From a Distiller's settings to transformers.TrainingArguments."""

from __future__ import annotations

import math
from typing import Any

from transformers import TrainingArguments

from . import parallel


def training_arguments(distiller: Any, queries: int, precision: str, metric: str | None) -> TrainingArguments:
    """What the Trainer is told.

    Args:
        distiller: the Distiller whose settings they are; its ``args`` win over everything here.
        queries: number of training lists.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        metric: the evaluation's name in the log, such as ``eval_nDCG@10``; None = there is none.

    Raises:
        ValueError: if checkpoints cannot be had when asked for, or transformers refuses an argument.
    """
    given = dict(distiller.args or {})
    if "output_dir" in given:
        raise ValueError("args: output_dir is where training writes itself: name it as checkpoints=.")
    per_batch = given.get("per_device_train_batch_size", distiller.queries_per_batch)
    accumulation = given.get("gradient_accumulation_steps", distiller.accumulation)
    epochs = given.get("num_train_epochs", distiller.epochs)
    steps = given.get("max_steps", distiller.steps or -1)
    batches = math.ceil(queries / (per_batch * parallel.world()))
    total = steps if steps > 0 else max(1, math.ceil(batches / accumulation * epochs))
    every = distiller.eval_every or max(1, math.ceil(total / 10))
    save = distiller.save_every or every
    if metric is not None and save % every:
        raise ValueError(
            f"save_every={save} must be a multiple of eval_every={every}: the best checkpoint must have been evaluated."
        )
    device = distiller.student.model.device.type
    arguments: dict[str, Any] = {
        "output_dir": "unused",  # set when everything has been checked; nothing is created before
        "learning_rate": distiller.learning_rate,
        "warmup_steps": int(distiller.warmup * total),
        "lr_scheduler_type": distiller.schedule,
        "num_train_epochs": distiller.epochs,
        "max_steps": distiller.steps or -1,
        "per_device_train_batch_size": distiller.queries_per_batch,
        "gradient_accumulation_steps": distiller.accumulation,
        "weight_decay": distiller.weight_decay,
        "max_grad_norm": distiller.max_grad_norm,
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
        "use_cpu": device == "cpu",
        "seed": distiller.seed,
        "eval_strategy": "steps" if metric else "no",
        "eval_steps": every,
        "save_strategy": "steps" if metric or distiller.checkpoints is not None else "no",
        "save_steps": save,
        "save_total_limit": 2,
        "restore_callback_states_from_checkpoint": True,  # early stopping goes on counting
        "load_best_model_at_end": metric is not None,
        "metric_for_best_model": metric,
        "greater_is_better": None if metric is None else metric != "eval_loss",
        "logging_steps": max(1, min(50, math.ceil(total / 20))),
        "logging_nan_inf_filter": False,  # a loss that is no number shall be seen
        "report_to": "none",
        "remove_unused_columns": False,
        "dataloader_pin_memory": device == "cuda",
    }
    given = {name: value for name, value in given.items() if not name.startswith("torch_compile")}
    return TrainingArguments(**{**arguments, **given})  # compiling is ours: see trainer.compiled
