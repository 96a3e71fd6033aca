"""One training, from lists to a trained student."""

from __future__ import annotations

import functools
import logging
import shutil
import time
from typing import TYPE_CHECKING, Any

import torch

from .. import checkpoints, scoring
from . import arguments, evaluation, intact, memory, micro_batches, parallel, resuming, trainer
from . import lists as training_lists
from .sampled import SampledLists

if TYPE_CHECKING:
    from ..distiller import Distiller

logger = logging.getLogger(__name__)


def train(
    distiller: Distiller, lists: Any, validation: Any, qrels_va: Any, measure: Any, data: str
) -> list[dict[str, Any]]:
    """Train the Distiller's student in place.

    Args:
        distiller: says how.
        lists: what is learnt: a list of lists, or a dataset of them.
        validation: a checked R frame where there is a ``measure``; else lists, or None.
        qrels_va: judgements of the validation frame.
        measure: what is measured, or None.
        data: fingerprint of all of these.

    Returns:
        The log: a dict an entry.

    Raises:
        ValueError: for settings that this machine cannot do, or checkpoints of another training.
        FloatingPointError: if the loss is no number any more.
    """
    started = time.monotonic()
    student, loss, needs = distiller.student, distiller.loss, distiller.loss.needs
    device = student.model.device
    parallel.start(device)
    precision = scoring.resolve_precision(distiller.precision, device)
    if precision == "fp16" and device.type == "cpu":
        raise ValueError("training in fp16 needs a GPU: take precision='bf16' or 'fp32' on this CPU.")
    settings = {
        **distiller.settings(),
        "processes": parallel.world(),
        "data": data,
        "weights": checkpoints.fingerprint(student.model),
    }
    from ..labels.identity import identity

    record = {**settings, "described": identity(student), "computed": precision}
    torch.manual_seed(distiller.seed)
    module = trainer.TrainingModule(student, loss)
    evaluate = None
    if measure is not None:
        evaluate = evaluation.by_measure(student, student.prepare_frame(validation), qrels_va, measure)
    elif validation is not None:
        student.prepare_lists(validation, needs)
        evaluate = evaluation.by_loss(
            module, student, loss, validation, distiller.queries_per_batch * parallel.world(),
            lambda: scoring.autocast(precision, device),
        )  # fmt: skip
    name = f"eval_{measure}" if measure is not None else "eval_loss"
    told = arguments.training_arguments(distiller, len(lists), precision, name if evaluate else None)
    directory = parallel.from_main(lambda: resuming.open_directory(distiller.checkpoints, record, evaluate is not None))
    finished = resuming.finished(directory, module)
    if finished is not None:
        student.mark_trained(finished["manifest"])
        return finished["history"]
    resume = parallel.from_main(lambda: intact.newest_whole(directory))
    told.output_dir = str(directory)
    told.eval_on_start = evaluate is not None and resume is None  # what the training starts from
    try:
        prepare = functools.partial(student.prepare_lists, needs=needs)
        if isinstance(lists, list):
            prepare(lists)
        else:
            lists.prepare_with(prepare)
        callbacks = []
        if distiller.early_stopping is not None and evaluate is not None:
            from transformers import EarlyStoppingCallback

            callbacks.append(EarlyStoppingCallback(distiller.early_stopping))
        cut = micro_batches.MicroBatches(distiller.micro_batch_tokens, distiller.gradient_cache)
        with (
            memory.kept(device.type == "cpu"),
            micro_batches.cut(cut),
            trainer.dropout(module.trained, distiller.dropout),
            trainer.compiled(module.trained, distiller.args or {}),
        ):
            run = trainer.Trainer(
                model=module,
                args=told,
                train_dataset=lists if distiller.sampler is None else SampledLists(lists, distiller.sampler, loss),
                data_collator=training_lists.Collator(student, loss),
                evaluation=evaluate,
                callbacks=callbacks,
                show=distiller.verbose,
            )
            if resume is not None:
                logger.info("going on from %s", resume)
            run.train(resume_from_checkpoint=None if resume is None else str(resume))
            parallel.wait()
    finally:
        module.gradient_checkpointing_disable()
        if distiller.checkpoints is None and parallel.rank() == 0:
            shutil.rmtree(directory, ignore_errors=True)
    history = list(run.state.log_history)
    manifest = {
        **settings,
        "precision": precision,
        "device": str(device),
        "queries": len(lists),
        "documents": sum(len(one.docnos) for one in lists) if isinstance(lists, list) else lists.documents,
        "steps_taken": run.state.global_step,
        "best": None if evaluate is None else {name.removeprefix("eval_"): run.state.best_metric},
        "columns": list(loss.columns()),
        "labels": None if isinstance(lists, list) else lists.store.manifest,
        "seconds": round(time.monotonic() - started, 1),
        "versions": checkpoints.versions(),
    }
    if distiller.checkpoints is not None:
        parallel.from_main(lambda: resuming.finish(directory, module, {"manifest": manifest, "history": history}))
    student.mark_trained(manifest)
    return history
