"""One training of a student, from lists to a trained student."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any

import torch

from ..engine import batching, checkpoints, processes, progress, runtimes
from ..losses.base import check_batches
from . import arguments, evaluation, resuming, shown, trainer
from . import lists as training_lists
from .run import run
from .sampled import SampledLists, tell_of_pairs

if TYPE_CHECKING:
    from ..losses import Loss
    from ..sampling.samplers import ListSampler
    from ..students.base import Student
    from .settings import Settings


def train(
    student: Student,
    loss: Loss,
    sampler: ListSampler | None,
    settings: Settings,
    lists: Any,
    validation: Any,
    qrels_va: Any,
    measure: Any,
    data: str,
) -> list[dict[str, Any]]:
    """Train a student in place.

    Args:
        student: what is trained.
        loss: what it minimises.
        sampler: draws documents of the lists, or None.
        settings: how the training goes.
        lists: what is learnt: a list of lists, or a dataset of them.
        validation: a checked R frame where there is a ``measure``; else lists, or None.
        qrels_va: judgements of the validation frame.
        measure: what is measured, or None.
        data: fingerprint of all of these.

    Returns:
        The log: a dict an entry.

    Raises:
        ValueError: for settings that this machine cannot do, or checkpoints of another training.
        FloatingPointError: if the loss becomes NaN or infinite.
    """
    started = time.monotonic()
    if getattr(student, "served", None) is not None or runtimes.serve(student.trainable(loss.needs)):
        raise ValueError(
            f"{student!r} was exported for serving, and is not trained on: train the student that it was made of, and"
            " export that again."
        )
    device = student.model.device
    processes.start(device)
    alone = isinstance(lists, list) and all(len(one.docnos) < 2 for one in lists)
    check_batches(loss, settings.queries_per_batch * processes.world(), alone)
    precision = batching.resolve_precision(settings.precision, device)
    if precision == "fp16" and device.type == "cpu":
        raise ValueError("training in fp16 needs a GPU: take precision='bf16' or 'fp32' on this CPU.")
    told = {
        "student": repr(student), "loss": repr(loss), "sampler": repr(sampler), **settings.told(),
        "processes": processes.world(), "data": data, "weights": checkpoints.fingerprint(student.model),
    }  # fmt: skip
    from ..identity.identity import identity

    record = {**told, "described": identity(student), "computed": precision}
    torch.manual_seed(settings.seed)
    module = trainer.TrainingModule(student, loss)
    evaluate = None
    if measure is not None:
        evaluate = evaluation.by_measure(student, student.prepare_frame(validation), qrels_va, measure)
    elif validation is not None:
        student.prepare_lists(validation, loss.needs)
        evaluate = evaluation.by_loss(
            module, student, loss, validation, settings.queries_per_batch * processes.world(),
            lambda: batching.autocast(precision, device),
        )  # fmt: skip
    name = f"eval_{measure}" if measure is not None else "eval_loss"
    asked = arguments.training_arguments(settings, len(lists), precision, device, name if evaluate else None)
    again = resuming.already(settings.checkpoints, module, record, evaluate is not None)
    if again is not None:
        said = f"The student is what the training in {settings.checkpoints} made; nothing was trained."
        progress.say(said, settings.verbose)
        return shown.history(again["history"])
    directory = processes.from_main(lambda: resuming.open_directory(settings.checkpoints, record, evaluate is not None))
    finished = resuming.finished(directory, module)
    if finished is not None:
        progress.say(f"Loaded the finished training in {directory}; nothing was trained.", settings.verbose)
        student.mark_trained(finished["manifest"])
        return shown.history(finished["history"])
    prepare = functools.partial(student.prepare_lists, needs=loss.needs)
    drawn = None if sampler is None else SampledLists(lists, sampler, loss)
    pairs = None if drawn is None else drawn.pairs_left_out()
    if sampler is not None and processes.rank() == 0:
        tell_of_pairs(pairs, sampler)
    try:
        state = run(
            module,
            lists if drawn is None else drawn,
            training_lists.Collator(student, loss),
            settings=settings,
            arguments=asked,
            device=device,
            directory=directory,
            evaluate=evaluate,
            prepare=lambda: prepare(lists) if isinstance(lists, list) else lists.prepare_with(prepare),
        )
    finally:
        module.gradient_checkpointing_disable()
    history = shown.history(state.log_history)
    manifest = {
        **told,
        "precision": precision,
        "device": str(device),
        "queries": len(lists),
        "documents": sum(len(one.docnos) for one in lists) if isinstance(lists, list) else lists.documents,
        "steps_taken": state.global_step,
        "best": None if evaluate is None else {name.removeprefix("eval_"): state.best_metric},
        "columns": list(loss.columns()),
        "labels": None if isinstance(lists, list) else lists.made_by,
        **({} if pairs is None else {"pairs": pairs}),
        "seconds": round(time.monotonic() - started, 1),
        "totals": shown.totals(state.log_history),
        "versions": checkpoints.versions(),
    }
    if settings.checkpoints is not None:
        processes.from_main(lambda: resuming.finish(directory, module, {"manifest": manifest, "history": history}))
    student.mark_trained(manifest)
    return history
