"""One run of the Trainer: over lists for a student, over pairs for a pair classifier."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engine import memory, micro_batches, processes, progress
from . import intact, trainer

if TYPE_CHECKING:
    import torch
    from transformers import TrainerState, TrainingArguments

    from .settings import Settings


def run(
    module: Any,
    examples: Any,
    collate: Callable[[list[Any]], dict[str, Any]],
    *,
    settings: Settings,
    arguments: TrainingArguments,
    device: torch.device,
    directory: Path,
    evaluate: Callable[[], dict[str, float]] | None = None,
    prepare: Callable[[], None] | None = None,
) -> TrainerState:
    """Train in place; goes on from the newest whole checkpoint of ``directory``.

    Args:
        module: its forward pass gives the loss of a batch; ``module.trained`` is what changes.
        examples: what is learnt from, by number or with an order of its own.
        collate: examples → batch.
        settings: of the training.
        arguments: what these became, see :func:`~.arguments.training_arguments`.
        device: where the model is.
        directory: where checkpoints go; deleted at the end where ``settings`` name none.
        evaluate: gives the metrics of the module as it stands, or None.
        prepare: called before the first step, once it is known that there will be one.

    Returns:
        The Trainer's state: its log and its steps.

    Raises:
        FloatingPointError: if the loss becomes NaN or infinite.
    """
    resume = processes.from_main(lambda: intact.newest_whole(directory))
    arguments.output_dir = str(directory)
    arguments.eval_on_start = evaluate is not None and resume is None  # what the training starts from
    callbacks = []
    if settings.early_stopping is not None and evaluate is not None:
        from transformers import EarlyStoppingCallback

        callbacks.append(EarlyStoppingCallback(settings.early_stopping))
    cut = micro_batches.MicroBatches(settings.micro_batch_tokens, settings.gradient_cache)
    try:
        if prepare is not None:
            prepare()
        with (
            memory.kept(device.type == "cpu"),
            micro_batches.cut(cut),
            trainer.dropout(module.trained, settings.dropout),
            trainer.compiled(module.trained, settings.args or {}) as compiles,
        ):
            running = trainer.Trainer(
                model=module,
                args=arguments,
                train_dataset=examples,
                data_collator=collate,
                evaluation=evaluate,
                callbacks=callbacks,
                show=settings.verbose,
                compiles=compiles,
            )
            if resume is not None:
                progress.say(f"Going on from {resume}.", settings.verbose)
            try:
                running.train(resume_from_checkpoint=None if resume is None else str(resume))
            finally:
                running.progress.close()
            processes.wait()
    finally:
        if settings.checkpoints is None and processes.rank() == 0:
            shutil.rmtree(directory, ignore_errors=True)
    return running.state
