"""The Distiller: labelled frames in, a trained student out."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt

from . import frames, scoring
from .losses import Loss
from .losses import base as losses
from .students import checkpoints
from .training import lists as training_lists

logger = logging.getLogger(__name__)


class Distiller(pt.Estimator):
    """Trains a student on labelled lists; ranks with it afterwards.

    ``fit`` changes the student itself, so the object in your pipelines is the trained one. Stands last in a pipeline
    that is fitted: ``(candidates >> teacher >> distiller).fit(topics, qrels)``.

    Args:
        student: a student, such as :class:`~pyterrier_distill.BiEncoder`.
        loss: a loss or a sum: ``InfoNCE() + 3.0 * KLDivergence()``.
        learning_rate: peak of the schedule. 2e-5 suits whole pre-trained encoders; a student cut to a few layers wants
            up to 6e-4.
        warmup: share of all steps in which the rate climbs from 0.
        schedule: ``linear``, ``cosine``, ``constant_with_warmup``, or any other name transformers knows.
        epochs: passes over the lists.
        steps: optimiser steps; replaces ``epochs``.
        queries_per_batch: lists of one forward pass on each device.
        accumulation: forward passes of one optimiser step.
        precision: ``auto`` | ``fp32`` | ``bf16`` | ``fp16``; weights stay float32.
        dropout: probability while training; None = the checkpoint's own. Matching embeddings wants 0.
        seed: of data order, dropout and everything else that is random.
        metric: what is measured on a validation frame with qrels: an ir_measures measure or its name.
        eval_every: optimiser steps between evaluations; None = ten evaluations a training.
        early_stopping: stop after this many evaluations without a better one; None = never.
        checkpoints: a directory. Training writes itself there and, run again after whatever stopped it, goes on from
            there. None = nothing is kept, and nothing can be resumed.
        save_every: optimiser steps between checkpoints; None = as ``eval_every``.
        verbose: whether to show progress.
        args: any further ``transformers.TrainingArguments`` (loggers, DeepSpeed, ...); they win over those above.

    With a validation frame the best checkpoint is the one kept: best by ``metric``, or by the loss where there are no
    validation qrels.

    Attributes:
        history: after ``fit``, one dict a log entry: ``step``, ``epoch``, ``loss``, ``learning_rate``, ``eval_…``.

    References:
        USTAD App. E.1 for the optimiser (AdamW, linear decay, short warm-up, 128 queries a batch).

    Example::

        distiller = ptd.Distiller(student, ptd.InfoNCE() + 3.0 * ptd.KLDivergence(), epochs=3)
        distiller.fit(labelled, qrels, validation, validation_qrels)
        pt.Experiment([bm25, candidates >> student], topics, qrels, ["nDCG@10"])
    """

    schematic = {"label": "Distiller", "inner_pipelines_mode": "unlinked"}

    def __init__(
        self,
        student: Any,
        loss: Loss,
        *,
        learning_rate: float = 2e-5,
        warmup: float = 0.1,
        schedule: str = "linear",
        epochs: float = 1,
        steps: int | None = None,
        queries_per_batch: int = 32,
        accumulation: int = 1,
        precision: str = "auto",
        dropout: float | None = None,
        seed: int = 42,
        metric: Any = "nDCG@10",
        eval_every: int | None = None,
        early_stopping: int | None = None,
        checkpoints: str | os.PathLike | None = None,
        save_every: int | None = None,
        verbose: bool = True,
        args: Mapping[str, Any] | None = None,
    ):
        if not isinstance(loss, Loss):
            raise TypeError(f"loss must be a loss of pyterrier_distill, such as KLDivergence(), not {loss!r}.")
        gives = getattr(student, "gives", None)
        if gives is None:
            raise TypeError(f"student must be a student of pyterrier_distill, such as BiEncoder(...), not {student!r}.")
        if not loss.needs <= gives:
            raise ValueError(
                f"{loss!r} needs {', '.join(sorted(loss.needs - gives))}, which {type(student).__name__} does not give."
            )
        self.student = student
        self.loss = loss
        self.learning_rate = learning_rate
        self.warmup = warmup
        self.schedule = schedule
        self.epochs = epochs
        self.steps = steps
        self.queries_per_batch = queries_per_batch
        self.accumulation = accumulation
        self.precision = precision
        self.dropout = dropout
        self.seed = seed
        self.metric = metric
        self.eval_every = eval_every
        self.early_stopping = early_stopping
        self.checkpoints = checkpoints
        self.save_every = save_every
        self.verbose = verbose
        self.args = args
        self.history: list[dict[str, float]] = []

    # -- ranking ------------------------------------------------------------------------------------------------------

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Rank with the student."""
        return self.student.transform(inp)

    def __repr__(self) -> str:
        return f"Distiller({self.student!r}, {self.loss!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Distiller) and self._settings() == other._settings()

    def __hash__(self) -> int:
        return hash(repr(self))

    # -- training -----------------------------------------------------------------------------------------------------

    def fit(
        self,
        res: pd.DataFrame,
        qrels: pd.DataFrame | None = None,
        res_va: pd.DataFrame | None = None,
        qrels_va: pd.DataFrame | None = None,
    ) -> Distiller:
        """Train the student.

        Args:
            res: the labelled frame: R with ``query``, document text and the columns the loss names. Losses on queries
                alone (EmbeddingMatch) read ``qid``, ``query`` and ``query_vec`` only; a Q frame will do.
            qrels: judgements, joined as the column ``label``; None where the loss reads none or the frame has it.
            res_va: validation frame: candidates with text where ``qrels_va`` is given; else labelled like ``res``.
            qrels_va: judgements of the validation queries.

        Returns:
            self. The student is trained; after an error, or an interruption, it is as it was before.

        Raises:
            MissingLabelError: if a frame lacks a column, naming it and the teacher that writes it.
            ValueError: for an empty frame, one query, (qid, docno) twice, missing text or labels that are no numbers;
                for teacher vectors of another dimension; for checkpoints of a different training.
            FloatingPointError: if the loss is no number any more.
        """
        lists = self._read(res, qrels)
        columns = [c for c in self._columns() if c != frames.LABEL or c in res.columns]
        columns += [
            c
            for c in ("docno", self.student.text_field)
            if c in res.columns and c not in columns and len(lists[0].docnos)
        ]
        data = training_lists.fingerprint(res, columns)
        if qrels is not None and frames.LABEL in self.loss.columns():
            data += "+" + training_lists.fingerprint(qrels, ["qid", "docno", "label"])
        measure = None
        validation: Any = None
        if res_va is not None and qrels_va is not None:
            from .training import evaluation

            measure = evaluation.parse_measure(self.metric)
            if len(res_va) == 0:
                raise ValueError("the validation frame is empty: check that its topics match, or leave it out.")
            pt.inspect.transformer_outputs(self.student, list(res_va.columns))
            validation = res_va
        elif res_va is not None:
            validation = self._read(res_va, None)
        elif qrels_va is not None:
            raise ValueError("qrels_va without res_va: pass the validation candidates too.")

        self.student.check_labels({name: lists[0].labels[name] for name in self.loss.columns()})
        before = {name: tensor.detach().cpu().clone() for name, tensor in self.student.model.state_dict().items()}
        try:
            self._train(lists, validation, qrels_va, measure, data)
        except BaseException:
            self.student.model.load_state_dict(before)
            raise
        finally:
            self.student.model.eval()
        return self

    def _columns(self) -> list[str]:
        return list(dict.fromkeys((*self.student.training_columns(self.loss.needs), *self.loss.columns())))

    def _read(self, res: pd.DataFrame, qrels: pd.DataFrame | None) -> list[training_lists.QueryList]:
        """Check a frame, cheapest checks first, and group it."""
        needed = self.student.training_columns(self.loss.needs)
        frames.require_columns(res, needed, reader=repr(self.student), context=self)
        on_queries = not self.loss.needs - {losses.QUERY_VECTORS}
        joins = frames.LABEL in self.loss.columns() and qrels is not None
        for _, term in self.loss.terms():
            wanted = [c for c in term.columns() if not (joins and c == frames.LABEL)]
            frames.require_columns(res, wanted, reader=repr(term), context=self)
        frames.check_results(res if not on_queries or "docno" in res.columns else res[["qid"]])
        if on_queries:
            res = res.drop_duplicates("qid")
        if joins:
            res = frames.join_qrels(res, qrels)
        frames.check_text(res, [c for c in needed if c in ("query", self.student.text_field)])
        for column in self.loss.columns():
            frames.check_numbers(res, column)
        lists = training_lists.read_lists(res, self.loss, self.student.text_field)
        training_lists.check_lists(lists, self.loss)
        return lists

    def _settings(self) -> dict[str, str]:
        """Everything that decides the outcome, by name; the student as it is before training."""
        names = (
            "learning_rate", "warmup", "schedule", "epochs", "steps", "queries_per_batch", "accumulation", "precision",
            "dropout", "seed", "metric", "eval_every", "early_stopping", "args",
        )  # fmt: skip
        return {"student": repr(self.student), "loss": repr(self.loss), **{n: repr(getattr(self, n)) for n in names}}

    def _train(self, lists: list, validation: Any, qrels_va: Any, measure: Any, data: str) -> None:
        import torch

        from .training import evaluation, trainer

        started = time.monotonic()
        needs = self.loss.needs
        device = self.student.model.device
        precision = scoring.resolve_precision(self.precision, device)
        settings = {**self._settings(), "data": data, "weights": checkpoints.fingerprint(self.student.model)}
        directory, resume = self._directory(settings)
        try:
            torch.manual_seed(self.seed)
            module = trainer.TrainingModule(self.student, self.loss)
            self.student.prepare_lists(lists, needs)
            evaluate = None
            if measure is not None:
                evaluate = evaluation.by_measure(
                    self.student, self.student.prepare_frame(validation), qrels_va, measure
                )
            elif validation is not None:
                self.student.prepare_lists(validation, needs)
                evaluate = evaluation.by_loss(
                    module, self.student, self.loss, validation, self.queries_per_batch,
                    lambda: scoring.autocast(precision, device),
                )  # fmt: skip
            name = f"eval_{measure}" if measure is not None else "eval_loss"
            arguments = self._arguments(directory, len(lists), precision, name if evaluate else None)
            callbacks = []
            if self.early_stopping is not None and evaluate is not None:
                from transformers import EarlyStoppingCallback

                callbacks.append(EarlyStoppingCallback(self.early_stopping))
            with _dropout(module.trained, self.dropout):
                run = trainer.Trainer(
                    model=module,
                    args=arguments,
                    train_dataset=lists,
                    data_collator=training_lists.Collator(self.student, self.loss),
                    evaluation=evaluate,
                    callbacks=callbacks,
                    show=self.verbose,
                )
                if resume is not None:
                    logger.info("going on from %s", resume)
                run.train(resume_from_checkpoint=None if resume is None else str(resume))
        finally:
            if self.checkpoints is None:
                shutil.rmtree(directory, ignore_errors=True)
        self.history = list(run.state.log_history)
        self.student.mark_trained(
            {
                **settings,
                "precision": precision,
                "device": str(device),
                "queries": len(lists),
                "documents": sum(len(one.docnos) for one in lists),
                "steps_taken": run.state.global_step,
                "best": None if evaluate is None else {name.removeprefix("eval_"): run.state.best_metric},
                "seconds": round(time.monotonic() - started, 1),
                "versions": checkpoints.versions(),
            }
        )

    def _directory(self, settings: dict[str, str]) -> tuple[Path, Path | None]:
        """Where checkpoints go, and the one to go on from. Refuses those of another training."""
        import json

        from .training import trainer

        if self.checkpoints is None:
            return Path(tempfile.mkdtemp(prefix="pyterrier-distill-")), None
        directory = Path(self.checkpoints)
        record = directory / "training.json"
        if record.exists():
            earlier = json.loads(record.read_text(encoding="utf-8"))
            for name, value in settings.items():
                if earlier.get(name) != value:
                    raise ValueError(
                        f"the checkpoints in {directory} are of another training: {name} was {earlier.get(name)} and is"
                        f" now {value}. Delete that directory to start again, or name another as checkpoints=."
                    )
            return directory, trainer.last_checkpoint(directory)
        directory.mkdir(parents=True, exist_ok=True)
        checkpoints.write_json(directory / "training.json.part", settings)
        (directory / "training.json.part").rename(record)
        return directory, None

    def _arguments(self, directory: Path, queries: int, precision: str, metric: str | None) -> Any:
        import math

        from transformers import TrainingArguments

        batches = math.ceil(queries / self.queries_per_batch)
        total = self.steps or max(1, math.ceil(batches / self.accumulation * self.epochs))
        every = self.eval_every or max(1, math.ceil(total / 10))
        save = "steps" if metric or self.checkpoints is not None else "no"
        arguments: dict[str, Any] = {
            "output_dir": str(directory),
            "learning_rate": self.learning_rate,
            "warmup_steps": int(self.warmup * total),
            "lr_scheduler_type": self.schedule,
            "num_train_epochs": self.epochs,
            "max_steps": self.steps or -1,
            "per_device_train_batch_size": self.queries_per_batch,
            "gradient_accumulation_steps": self.accumulation,
            "weight_decay": 0.01,
            "bf16": precision == "bf16",
            "fp16": precision == "fp16",
            "use_cpu": self.student.model.device.type == "cpu",
            "seed": self.seed,
            "eval_strategy": "steps" if metric else "no",
            "eval_steps": every,
            "save_strategy": save,
            "save_steps": every if metric else (self.save_every or every),
            "save_total_limit": 2,
            "load_best_model_at_end": metric is not None,
            "metric_for_best_model": metric,
            "greater_is_better": None if metric is None else metric != "eval_loss",
            "logging_steps": max(1, min(50, math.ceil(total / 20))),
            "logging_nan_inf_filter": False,  # a loss that is no number shall be seen
            "report_to": "none",
            "remove_unused_columns": False,
            "dataloader_pin_memory": self.student.model.device.type == "cuda",
        }
        return TrainingArguments(**{**arguments, **(self.args or {})})


class _dropout:
    """Sets the probability of every dropout layer for a while."""

    def __init__(self, module: Any, probability: float | None):
        from torch import nn

        self.layers = [] if probability is None else [m for m in module.modules() if isinstance(m, nn.Dropout)]
        self.before = [layer.p for layer in self.layers]
        self.probability = probability

    def __enter__(self) -> None:
        for layer in self.layers:
            layer.p = self.probability

    def __exit__(self, *_: object) -> None:
        for layer, p in zip(self.layers, self.before, strict=True):
            layer.p = p
