"""Who labels the batches of a build: this process, or Ray actors that each hold the pipeline."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyterrier as pt

from ..backends.usage import Usage
from ..stores.pipelines import through
from ..teachers.base import LabellingError, hands_on
from .tables import label_columns

logger = logging.getLogger(__name__)

#: How often a batch is given to another actor after one has died over it.
ATTEMPTS = 3


@dataclass
class Labelled:
    """What became of a batch.

    Attributes:
        frame: the labelled rows.
        queries: the queries that are labelled completely.
        usage: what they have cost. Its seconds are those that the batch took, or those that the teachers report where
            these are more.
        error: what stopped the teacher before it had finished, if something did.
    """

    frame: pd.DataFrame
    queries: pd.DataFrame
    usage: Usage
    error: LabellingError | None = None


#: Jobs with ``todo``, a Q frame → (job, what became of it), in any order.
Engine = Callable[[Iterable[Any]], Iterator[tuple[Any, Labelled]]]


def label(pipeline: pt.Transformer, todo: pd.DataFrame) -> Labelled:
    """Run the pipeline on one batch; of a teacher that fails, keep what it finished.

    Raises:
        Exception: what another stage raised; a LabellingError where labels were at hand: it carries them.
    """
    teachers = list(_teachers(pipeline))
    before = sum((teacher.usage for teacher in teachers), Usage())
    began = time.monotonic()
    frame, stopped = through(pipeline, todo, LabellingError, "labelled", hands_on, _of_teachers)
    queries = todo if stopped is None else todo[todo["qid"].isin(frame["qid"].astype(str).unique())]
    usage = sum((teacher.usage for teacher in teachers), Usage()) - before
    usage.seconds = max(usage.seconds, time.monotonic() - began)  # models that run here report none
    return Labelled(frame, queries, usage, stopped)


def _of_teachers(frame: pd.DataFrame) -> list[str]:
    """The labels that teachers wrote: vectors by which a retriever searches are none."""
    return [column for column in label_columns(frame) if column.startswith("teacher_")]


def here(pipeline: pt.Transformer) -> Engine:
    """Batches one after another, in this process."""

    def run(jobs: Iterable[Any]) -> Iterator[tuple[Any, Labelled]]:
        for job in jobs:
            yield job, label(pipeline, job.todo)

    return run


def on_ray(pipeline: pt.Transformer, workers: int, options: Mapping[str, Any]) -> Engine:
    """Batches side by side on Ray actors; one that dies is replaced and its batch given to another.

    Args:
        pipeline: sent to each actor once; models are loaded there.
        workers: actors.
        options: what an actor needs, as ``ray.remote`` takes it: ``{"num_gpus": 1}``.

    Raises:
        ModuleNotFoundError: without ray.
    """
    try:
        import ray
    except ModuleNotFoundError:
        raise ModuleNotFoundError('engine="ray" needs ray: pip install "pyterrier-distill[ray]".') from None

    class Worker:
        """An actor."""

        def __init__(self, pickled: bytes):
            self.pickled = pickled
            self.pipeline: pt.Transformer | None = None

        def label(self, todo: pd.DataFrame) -> Labelled:
            """Label one batch."""
            if self.pipeline is None:  # not in the constructor: what fails here is raised to whoever builds
                self.pipeline = ray.cloudpickle.loads(self.pickled)
            return label(self.pipeline, todo)

    def run(jobs: Iterable[Any]) -> Iterator[tuple[Any, Labelled]]:
        started = not ray.is_initialized()
        if started:
            with _python_path():
                ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        actor = ray.remote(**{"num_cpus": 1, **options})(Worker) if options else ray.remote(Worker)
        shipped = ray.put(ray.cloudpickle.dumps(pipeline))
        idle = [actor.remote(shipped) for _ in range(workers)]
        busy: dict[Any, tuple[Any, Any, int]] = {}
        waiting = iter(jobs)
        try:
            again: list[tuple[Any, int]] = []
            while True:
                while idle:
                    job, attempt = again.pop() if again else (next(waiting, None), 1)
                    if job is None:
                        break
                    worker = idle.pop()
                    busy[worker.label.remote(job.todo)] = (worker, job, attempt)
                if not busy:
                    return
                (done,), _ = ray.wait(list(busy), num_returns=1)
                worker, job, attempt = busy.pop(done)
                try:
                    labelled = ray.get(done)
                except ray.exceptions.RayActorError as error:
                    if attempt == ATTEMPTS:
                        raise RuntimeError(
                            f"{ATTEMPTS} Ray actors died over the batch of query {job.todo['qid'].iloc[0]!r}"
                            f" ({error}): give each more memory (ray_options), or take a smaller batch_size."
                        ) from error
                    logger.warning(
                        "a Ray actor died; query %s and its batch are labelled again", job.todo["qid"].iloc[0]
                    )
                    idle.append(actor.remote(shipped))
                    again.append((job, attempt + 1))
                    continue
                idle.append(worker)
                yield job, labelled
        finally:
            for worker in [*idle, *(worker for worker, _, _ in busy.values())]:
                ray.kill(worker)
            if started:
                ray.shutdown()

    return run


@contextmanager
def _python_path() -> Iterator[None]:
    """Processes that start within the block find the modules that this one finds."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _teachers(transformer: Any) -> Iterator[Any]:
    """Teachers in a pipeline, each once."""
    if isinstance(getattr(transformer, "usage", None), Usage):
        yield transformer
        return
    for part in getattr(transformer, "_transformers", None) or pt.inspect.subtransformers(transformer).values():
        for one in part if isinstance(part, list) else [part]:
            yield from _teachers(one)
