"""The Distiller: labelled frames in, a trained student out."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyterrier as pt

from .engine import progress
from .frames.arguments import Named
from .losses import Loss
from .losses.base import QUERY_SIDE, check_scale, lacking, vectors_to_match
from .losses.temperature import warn_of_cosines
from .sampling.samplers import ListSampler
from .training import process
from .training.settings import Settings
from .training.teacher_order import check_disagreement, check_sampler

if TYPE_CHECKING:
    from .labels.store import LabelStore


class Distiller(Named, pt.Estimator):
    """Trains a student on labelled lists; ranks with it afterwards.

    ``fit`` changes the student itself, so the object in your pipelines is the trained one. Stands last in a pipeline
    that is fitted: ``(candidates >> teacher >> distiller).fit(topics, qrels)``.

    What is trained depends on what the rows say, not on where they stand: queries are taken by qid, documents by docno,
    or by ``rank``, else ``score``, where a loss or a sampler reads which comes first. Relabelled, shuffled or sorted,
    the same rows train the same student, and a stopped training goes on with them.

    The optimiser is AdamW (betas 0.9 and 0.999), its rate climbing from 0 over the first 10% of the steps and falling
    linearly to 0, with a weight decay of 0.01 and gradients clipped to a norm of 1: customary values, but no paper's.
    To repeat one, give what it says: ``learning_rate``, ``warmup``, ``schedule``, ``weight_decay``, ``max_grad_norm``.

    A training has the process for itself, and leaves it as it was found: random generators, deterministic switches,
    environment variables, accelerate's state, loggers. While one thread trains, ``fit`` in another waits.

    Args:
        student: a student, such as :class:`~pyterrier_distill.BiEncoder`.
        loss: a loss or a sum: ``InfoNCE() + 3.0 * KLDivergence()``. It must fit the scale of the student's scores.
        sampler: a :class:`~pyterrier_distill.ListSampler` that draws documents of each list anew every epoch; None =
            all of them, every time.
        learning_rate: peak of the schedule. 2e-5 suits whole pre-trained encoders; a student cut to a few layers wants
            up to 6e-4.
        warmup: share of all steps in which the rate climbs from 0.
        weight_decay: AdamW's, on all weights but biases and norms.
        max_grad_norm: gradients are clipped to this norm; 0 = never.
        schedule: ``linear``, ``cosine``, ``constant_with_warmup``, or any other name transformers knows.
        epochs: passes over the lists.
        steps: optimiser steps; replaces ``epochs``.
        queries_per_batch: lists of one forward pass on each device.
        accumulation: forward passes of one optimiser step, whose losses are averaged, each a mean over the lists of
            its pass. In-batch negatives come from one pass.
        gradient_cache: compute each micro-batch again in the backward pass instead of keeping its activations (Gao et
            al. 2021): the memory of one micro-batch however many queries a batch has, for about a third more time.
        micro_batch_tokens: tokens, padding included, that go through the model at once; None = by device. It changes
            speed and memory only.
        precision: ``auto`` | ``fp32`` | ``bf16`` | ``fp16``; weights stay float32.
        dropout: probability while training; None = the checkpoint's own. Matching embeddings wants 0.
        seed: of data order, dropout and everything else that is random.
        metric: what is measured on a validation frame with qrels: an ir_measures measure or its name.
        eval_every: optimiser steps between evaluations; None = ten evaluations a training.
        early_stopping: stop after this many evaluations without a better one; None = never.
        checkpoints: a directory. Training writes itself there and, run again after whatever stopped it, goes on from
            there; with other settings only if they change no outcome, such as ``verbose``, the student's
            ``batch_size`` and ``device``, or what ``args`` say of logging. A checkpoint whose files are not what was
            written is moved aside with a warning, and the one before it taken. None = nothing is kept, and nothing can
            be resumed.
        save_every: optimiser steps between checkpoints; None = as ``eval_every``.
        verbose: whether to show progress.
        args: any further ``transformers.TrainingArguments`` (loggers, ``torch_compile``, ...); they win over those
            above. DeepSpeed and FSDP are among them, but nobody has trained a student of this library with either:
            several processes were run as torchrun starts them (DistributedDataParallel).

    Started by ``torchrun`` or ``accelerate launch``, the processes share each batch: ``queries_per_batch`` is that of
    one process, and every loss sees the lists of all of them, in-batch negatives too, so that n processes train as one
    with n times the batch. Validation runs in the first of them.

    With a validation frame the best checkpoint is the one kept: best by ``metric``, or by the loss where there are no
    validation qrels.

    Attributes:
        history: after ``fit``, one dict a logged step: ``step``, ``epoch``, ``loss``, ``learning_rate``, ``eval_…``;
            ``pd.DataFrame(distiller.history)`` is a table. Totals are in ``student.manifest``.

    References:
        USTAD App. E.1 for the kind of optimiser (AdamW, linear decay, short warm-up, 128 queries a batch).

    Example::

        distiller = ptd.Distiller(student, ptd.InfoNCE() + 3.0 * ptd.KLDivergence(), epochs=3)
        distiller.fit(labelled, qrels, validation, validation_qrels)
        pt.Experiment([bm25, candidates >> student], topics, qrels, [nDCG @ 10])
    """

    def __init__(
        self,
        student: Any,
        loss: Loss,
        *,
        sampler: ListSampler | None = None,
        learning_rate: float = 2e-5,
        warmup: float = 0.1,
        weight_decay: float = 0.01,
        max_grad_norm: float = 1.0,
        schedule: str = "linear",
        epochs: float = 1,
        steps: int | None = None,
        queries_per_batch: int = 32,
        accumulation: int = 1,
        gradient_cache: bool = False,
        micro_batch_tokens: int | None = None,
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
            raise ValueError(lacking(loss, student))
        scale = student.known_scale() if hasattr(student, "known_scale") else None
        check_scale(loss, student, scale)
        self._warned = warn_of_cosines(loss, student, scale)
        if sampler is not None and not isinstance(sampler, ListSampler):
            raise TypeError(f"sampler must be a ListSampler, such as ListSampler(8, depth=200), not {sampler!r}.")
        if sampler is not None and not loss.needs - QUERY_SIDE:
            raise ValueError(f"{loss!r} reads queries alone: there is nothing to sample; leave sampler= out.")
        if sampler is not None and sampler.n < loss.min_documents:
            raise ValueError(f"{loss!r} compares documents: sampler={sampler!r} must leave it {loss.min_documents}.")
        if sampler is not None:
            check_sampler(sampler, loss)
        self.student = student
        self.loss = loss
        self.sampler = sampler
        self.learning_rate = learning_rate
        self.warmup = warmup
        self.weight_decay = weight_decay
        self.max_grad_norm = max_grad_norm
        self.schedule = schedule
        self.epochs = epochs
        self.steps = steps
        self.queries_per_batch = queries_per_batch
        self.accumulation = accumulation
        self.gradient_cache = gradient_cache
        self.micro_batch_tokens = micro_batch_tokens
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
        Settings.of(self)  # refuses what cannot be meant

    # -- ranking ------------------------------------------------------------------------------------------------------

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Rank with the student."""
        return self.student.transform(inp)

    def schematic(self, *, input_columns: Sequence[str] | None) -> dict[str, Any]:
        """The box in PyTerrier's drawings: the loss on it, the student in it."""
        inner = [pt.schematic.transformer_schematic(self.student)]
        told = {name: value for name, value in self.settings().items() if name != "student"}
        return {
            "label": "Distiller", "settings": told, "inner_pipelines": inner, "inner_pipelines_mode": "unlinked",
            "inner_pipelines_labels": [f"student, by {self.loss.named()}"],
        }  # fmt: skip

    def _repr_html_(self) -> str | None:
        from .training import shown

        drawn = super()._repr_html_()
        return None if drawn is None else f"{drawn}{shown.settings(self.settings())}{shown.curve(self.history)}"

    def __repr__(self) -> str:
        return f"Distiller({self.student!r}, {self.loss!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Distiller) and self.settings() == other.settings()

    def __hash__(self) -> int:
        return hash(repr(self))

    # -- training -----------------------------------------------------------------------------------------------------

    def fit(
        self,
        res: pd.DataFrame | LabelStore | Sequence[pd.DataFrame | LabelStore],
        qrels: pd.DataFrame | Sequence[pd.DataFrame | None] | None = None,
        res_va: pd.DataFrame | LabelStore | None = None,
        qrels_va: pd.DataFrame | None = None,
        *,
        text: Any = None,
        topics: pd.DataFrame | Sequence[pd.DataFrame | None] | None = None,
        proportions: Sequence[float] | None = None,
        queries: pd.DataFrame | None = None,
    ) -> Distiller:
        """Train the student.

        Args:
            res: the labelled frame: R with ``query``, document text and the columns the loss names. Losses on queries
                alone (EmbeddingMatch) read ``qid``, ``query`` and ``query_vec`` only; a Q frame will do. Or a
                :class:`~pyterrier_distill.LabelStore`, which is streamed: memory does not grow with it. Or a list of
                frames and stores, one a collection, with the same label columns: one student learns from all of them.
                An id means another document or query in each, so ``qrels``, ``text`` and ``topics`` are then lists,
                too, with None for collections that have none.
            qrels: judgements, joined as the column ``label``; None where the loss reads none or the frame has it.
                Where a loss or a sampler reads them, a copy of a relevant document of the same query's list (the same
                text, white space at its ends aside) is as relevant: all copies get their highest label.
            res_va: validation frame: candidates with text where ``qrels_va`` is given; else labelled like ``res``.
            qrels_va: judgements of the validation queries.
            text: where the documents' texts are, if the labels come without: a dataset, a frame with ``docno`` and
                text, or a transformer that adds it; None = in the frame, or in the store (``with_text=True``). They
                are what the student reads, whatever the teacher read: a translation will do.
            topics: the queries as the student shall read them, ``qid`` and ``query``; None = as the teacher read them.
                With the labels' qids; those of a validation store, or of a validation frame without ``qrels_va``, too.
            proportions: how often lists of each collection come, of any unit: ``[1, 1]`` = as many of the one as of the
                other, however many each has. An epoch has as many lists as there are; of a collection that is smaller
                than its share lists come again, once all others have, and of one that is larger the next epoch has
                others. None = every list once an epoch.
            queries: further queries, without documents: a Q frame with what the terms of a sum that read queries alone
                read (``query_vec`` for EmbeddingMatch), such as generated ones (USTAD §5.2). They are mixed among the
                lists; the other terms' means are over the lists that these read.

        Returns:
            self. The student is trained; after an error, or an interruption, it is as it was before.

        Raises:
            MissingLabelError: if a frame lacks a column, naming it and the teacher that writes it.
            ValueError: for an empty frame, one query, (qid, docno) twice, missing text or labels that are no numbers;
                for teacher vectors of another dimension; for collections with different label columns; for documents
                or queries that ``text`` or ``topics`` lack; for checkpoints of a different training.
            FloatingPointError: if the loss becomes NaN or infinite.

        References:
            InRanker (Laitz et al. 2024) §4.1 (16 collections), §4.2 (a Portuguese student of an English teacher).

        Example::

            # many collections, as much of each
            distiller.fit([fiqa, scidocs], text=[fiqa_dataset, scidocs_dataset], proportions=[1, 1])

            # two languages: the teacher has read English, the student reads the translation of the same ids
            english = ptd.LabelStore("msmarco.labels").build(candidates >> monot5, topics)
            ptd.Distiller(ptt5, ptd.LogitMSE()).fit(english, topics=topics_pt, text=documents_pt)
        """
        from .training import sources, validation

        given = sources.sources(res, qrels, text, topics, proportions)
        chosen = sources.reading(self.loss, given)
        if chosen != self.loss:  # a loss that takes what labels there are: train with those at hand
            this = copy.copy(self)
            this.loss = chosen
            this.fit(
                res, qrels, res_va, qrels_va, text=text, topics=topics, proportions=proportions, queries=queries
            )
            self.history = this.history
            return self
        with progress.stopping(self._stopped), progress.quiet_openings():
            held = validation.held(res_va, given, self.student.text_field)
            lists = sources.read(given, self.student, self.loss, self, self.sampler, proportions)
            if self.sampler is not None and self.sampler.reads_weights:
                check_disagreement((lists[n] for n in range(len(lists))), self.loss)
            if queries is not None:
                from .training.queries import mixed

                lists, queries = mixed(queries, lists, self.student, self.loss, self)
            held, checked, qrels_va, measure = validation.read(held, res_va, qrels_va, given, self)
            if held is None and self.early_stopping is not None:
                raise ValueError("early_stopping needs a validation frame: fit(res, qrels, res_va, qrels_va).")
            read = {c: lists[0].labels[c].shape[-1] for c, kind in self.loss.reads().items() if kind.is_vector}
            for _, term in self.loss.terms():
                term.check_vectors(read)
            vectors = {c: read[c] for c in vectors_to_match(self.loss)}
            with process.training():
                reads = (self.loss, self.sampler, self.student.text_field)
                data = sources.fingerprint(given, (held, qrels_va), queries, proportions, reads)
                self._train(lists, checked, qrels_va, measure, vectors, data)
        return self

    def _stopped(self) -> str:
        """What is said after Ctrl+C: what is kept, and how to go on."""
        from .training import intact

        before = "the student is as it was before the training"
        if self.checkpoints is None:
            return f"stopped: {before}, and nothing is kept; with checkpoints='DIRECTORY' the same call would go on."
        newest = intact.newest_whole(Path(self.checkpoints))
        if newest is None:
            return f"stopped before the first checkpoint: {before}; the same call starts again."
        step = newest.name.rsplit("-", 1)[-1]
        return f"stopped: {before}; {self.checkpoints} keeps it as of step {step}: the same call goes on from there."

    def _train(
        self, lists: Any, validation: Any, qrels_va: Any, measure: Any, vectors: dict[str, int], data: str
    ) -> None:
        """Train on what was read; after an error the student is as it was."""
        from .training import fitting
        from .training.resuming import BY_CONTENT

        self.student.check_training(self.loss.needs, vectors)
        scale = getattr(self.student, "score_scale", None)
        check_scale(self.loss, self.student, scale)
        self._warned = self._warned or warn_of_cosines(self.loss, self.student, scale)
        moving = self.student.trainable(self.loss.needs)
        before = {name: tensor.detach().cpu().clone() for name, tensor in moving.state_dict().items()}
        recorded = self.student.recorded()
        try:
            self.history = fitting.train(
                self.student, self.loss, self.sampler, Settings.of(self), lists, validation, qrels_va, measure,
                BY_CONTENT + data,
            )  # fmt: skip
        except BaseException:
            moving.load_state_dict(before)
            self.student.recall(recorded)
            raise
        finally:
            self.student.settle()

    def settings(self) -> dict[str, str]:
        """How it trains, as text by name, without secrets; the student as it is before training.

        Which of these decide the outcome, so that a training does not go on with others, says
        ``training.compatibility``.
        """
        told = {"student": repr(self.student), "loss": repr(self.loss), "sampler": repr(self.sampler)}
        return {**told, **Settings.of(self).told()}
