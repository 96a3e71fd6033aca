"""Building a store: batches of queries through a pipeline, each committed when it is done, none labelled twice."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyterrier as pt

from .. import frames
from ..engine import progress
from ..engine.checkpoints import versions
from ..frames import arguments, given, validate
from ..frames.ids import check_ids
from ..identity.identity import difference, digest, identity, silent, stable_repr
from ..stores import redaction
from ..teachers.base import LabellingError
from . import checks, engines, tables
from .directory import META

if TYPE_CHECKING:
    from .store import LabelStore

logger = logging.getLogger(__name__)


@dataclass
class _Job:
    """A batch that this process has claimed."""

    batch: pd.DataFrame
    todo: pd.DataFrame
    claim: ExitStack


class Build:
    """One run of a pipeline over topics, into a store; see :meth:`~pyterrier_distill.LabelStore.build`.

    Args:
        store: where labels go.
        pipeline: labels.
        batch_size: queries of one commit.
        with_text: whether texts are stored, too.
        shard: which of the batches, for several machines; None = all.
    """

    def __init__(
        self,
        store: LabelStore,
        pipeline: pt.Transformer,
        *,
        batch_size: int,
        with_text: bool,
        shard: tuple[int, int] | None,
    ):
        arguments.whole(batch_size, "batch_size")
        if shard is not None and not 0 <= shard[0] < shard[1]:
            raise ValueError(f"shard=(k, n) needs 0 <= k < n, not {shard!r}.")
        self.store = store
        self.pipeline = pipeline
        self.batch_size = batch_size
        self.with_text = with_text
        self.shard = shard

    def run(
        self,
        topics: pd.DataFrame,
        engine: str,
        workers: int,
        ray_options: Mapping[str, Any],
        overwrite: bool,
        verbose: bool,
    ) -> None:
        """Label ``topics``; arguments and errors as of ``LabelStore.build``."""
        if engine not in ("local", "ray"):
            raise ValueError(f"engine must be 'local' or 'ray', not {engine!r}.")
        arguments.whole(workers, "workers")
        topics = given.topics(topics)
        validate.query_frame(topics, ["query"])
        check_ids(topics, ["qid"], "the topics")
        topics = topics.assign(qid=topics["qid"].astype(str)).reset_index(drop=True)
        frames.check_unique(topics[["qid"]])
        frames.check_text(topics, ["query"])
        self._agree(topics, overwrite)
        self.store.directory.sweep()
        batches = [topics.iloc[n : n + self.batch_size] for n in range(0, len(topics), self.batch_size)]
        first, step = self.shard or (0, 1)
        numbers = range(first, len(batches), step)
        total = sum(len(batches[n]) for n in numbers)
        run = engines.here(self.pipeline) if engine == "local" else engines.on_ray(self.pipeline, workers, ray_options)
        if not set(topics["qid"]) <= set(self.store._index()):
            self.store.directory.note_asked(len(topics))
        with (
            progress.stopping(lambda: self._stopped(len(topics))),
            progress.quiet_openings(),
            progress.bar(total=total, desc="Labelling", unit="q", verbose=verbose) as bar,
        ):
            waiting = self._pass(run, batches, numbers, bar, wait=False)
            if waiting:  # held by other processes: whatever they leave undone is done here
                self._pass(run, batches, waiting, bar, wait=True)
        self.store._check_there()
        index = self.store._index()
        gone = [qid for n in numbers for qid in batches[n]["qid"] if qid not in index]
        if gone:
            raise FileNotFoundError(
                f"{len(gone)} of {total} queries, such as {gone[0]!r}, were labelled and are no longer in"
                f" {self.store.directory}: it was deleted, moved or written over while it was built. Build again."
            )

    def _stopped(self, queries: int) -> str:
        """What is said after Ctrl+C."""
        kept = f"{len(self.store)} of {queries} queries are labelled and kept in {self.store.directory}"
        return f"stopped: {kept}; the same call goes on from there."

    def _agree(self, topics: pd.DataFrame, overwrite: bool) -> None:
        """Create the store, or check that it was built from the same pipeline and queries."""
        described = identity(self.pipeline)
        for name, kept_back in silent(self.pipeline).items():
            logger.warning(
                "%s does not keep %s of its constructor under the same name, nor has it a __repr__ or decided_by: this"
                " store would go on being built by one with other settings.", name, kept_back
            )  # fmt: skip
        manifest = self.store.manifest
        told = None if "pipeline" not in manifest else difference(manifest["pipeline"], described)
        if "cache of" in manifest:
            told = "it is the cache of a teacher"
        elif "pipeline" not in manifest and len(self.store):
            told = "its labels were added by hand or come from a file, so nothing says what made them"
        if told is None and len(self.store):
            stored = self.store.topics().set_index("qid")["query"]
            both = topics[topics["qid"].isin(stored.index)]
            other = both[both["query"].to_numpy() != stored.reindex(both["qid"]).to_numpy()]
            if len(other):
                qid, query = other[["qid", "query"]].iloc[0]
                told = f"the text of query {qid!r} was {stored[qid]!r} and is {query!r}"
        if told is not None:
            if not overwrite and (len(self.store) or "cache of" in manifest):  # an attempt that failed holds nothing
                raise ValueError(
                    f"{self.store.directory} was built otherwise: {told}. Take another path for the new labels:"
                    f" overwrite=True would delete the labels of {len(self.store)} queries that are here."
                )
            self.store.directory.files.clear(keep=META)
            self.store._forget()
            self.store.__dict__.pop("texts", None)
        manifest = {
            "pipeline": described,
            "reads": redaction.text(stable_repr(self.pipeline)),
            "key": digest(described),
            "versions": versions(),
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        self.store._create(manifest)

    def _pass(
        self,
        run: engines.Engine,
        batches: Sequence[pd.DataFrame],
        numbers: Sequence[int],
        bar: Any,
        wait: bool,
    ) -> list[int]:
        """Label the batches ``numbers``; gives those that another process holds."""
        held: list[int] = []
        claims = ExitStack()

        done = set(self.store._index())

        def jobs() -> Iterator[_Job]:
            for number in numbers:
                batch = batches[number]
                if done.issuperset(batch["qid"]):
                    bar.update(len(batch))
                    continue
                claim = claims.enter_context(ExitStack())
                key = digest([number, batch["qid"].tolist()])
                if not claim.enter_context(self.store.directory.claimed(key, wait=wait)):
                    held.append(number)
                    continue
                todo = self._todo(batch)  # another process may have finished it before it let go
                if todo.empty:
                    bar.update(len(batch))
                    claim.close()
                    continue
                yield _Job(batch, todo, claim)

        if not all(done.issuperset(batches[number]["qid"]) for number in numbers):
            self.store.directory.check_writable()
        with claims:
            for job, labelled in run(jobs()):
                if len(labelled.queries) or labelled.error is None:
                    self._keep(labelled)
                if labelled.error is not None:
                    raise labelled.error
                bar.update(len(job.batch))
                job.claim.close()
        return held

    def _todo(self, batch: pd.DataFrame) -> pd.DataFrame:
        """The queries of a batch that are not in yet."""
        index = self.store._index()
        return batch[[qid not in index for qid in batch["qid"]]]

    def _keep(self, labelled: engines.Labelled) -> None:
        """Commit a batch.

        Raises:
            LabellingError: if it cannot be stored; it carries the labels, which are paid for.
        """
        frame, queries = labelled.frame, labelled.queries
        try:
            checks.check_frame(frame, "the pipeline leaves", self.with_text)
            frame = frame.assign(qid=frame["qid"].astype(str)) if "qid" in frame.columns else frame
            strangers = set(frame["qid"]) - set(queries["qid"])
            if strangers:
                raise ValueError(
                    f"the pipeline gives rows of query {min(strangers)!r}, which it was not asked about: its qids must"
                    " be those of the topics."
                )
            # another partition of the queries may have been faster
            with self.store.directory.claimed("commit", wait=True):
                self.store._check_there()
                new = self._todo(queries)
                if len(new):
                    rows = frame[frame["qid"].isin(new["qid"])]
                    topics = new[["qid", "query"]].reset_index(drop=True)
                    self.store._commit(rows, topics, int(new.index[0]), labelled.usage, self.with_text)
        except (ValueError, TypeError, OSError) as error:
            if not tables.label_columns(frame):
                raise
            raise LabellingError(f"{error} These labels are in this error's .labelled.", frame) from error
