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
from ..engine.checkpoints import versions
from ..frames import validate
from ..frames.ids import check_ids
from ..identity.identity import difference, digest, identity, silent, stable_repr
from ..stores import redaction
from ..teachers.base import LabellingError
from . import engines, tables
from .directory import MANIFEST, META

if TYPE_CHECKING:
    from .store import LabelStore

logger = logging.getLogger(__name__)


@dataclass
class _Job:
    """A batch that this process has claimed."""

    batch: pd.DataFrame
    todo: pd.DataFrame
    claim: ExitStack


class Building:
    """The part of :class:`~pyterrier_distill.LabelStore` that labels."""

    def build(
        self,
        pipeline: pt.Transformer,
        topics: pd.DataFrame,
        *,
        batch_size: int = 64,
        with_text: bool = False,
        shard: tuple[int, int] | None = None,
        engine: str = "local",
        workers: int = 2,
        ray_options: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        verbose: bool = True,
    ) -> LabelStore:
        """Run a pipeline on batches of queries and commit each batch's labels.

        Run again after whatever stopped it, it goes on behind the last commit; queries that are in are not labelled
        again. Several processes may build one store at once: each takes batches that no other has taken.

        Args:
            pipeline: Q → R with label columns: candidates, then teachers.
            topics: Q frame.
            batch_size: queries of one commit, and of one call of the pipeline. What is lost when a process is killed.
                One size for all processes that build at once: claims are by batch.
            with_text: whether to store the pipeline's ``text``, too, each document once.
            shard: ``(k, n)``: only every n-th batch, from the k-th (0 ≤ k < n), for machines that share no files'
                locks, or a remote store.
            engine: ``"local"``: in this process; ``"ray"``: batches side by side on Ray actors that each hold the
                pipeline. One that dies is replaced and its batch labelled by another.
            workers: Ray actors.
            ray_options: what each needs, as ``ray.remote`` takes it: ``{"num_gpus": 1}``; None = one CPU.
            overwrite: begin anew where pipeline or queries differ from those that built the store.
            verbose: whether to show progress, with the time left.

        Returns:
            self.

        Raises:
            ValueError: if pipeline or query text differ from what the store was built with, naming the field; if topics
                have a query id twice.
            LabellingError: if a teacher failed; what it had finished is committed.
            OSError: if nothing can be written, before anything is asked; what was committed is intact. If that happens
                later, or somebody deletes the store meanwhile, it is a LabellingError with the labels at hand.
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be a whole number of at least 1, not {batch_size!r}.")
        if shard is not None and not 0 <= shard[0] < shard[1]:
            raise ValueError(f"shard=(k, n) needs 0 <= k < n, not {shard!r}.")
        if engine not in ("local", "ray"):
            raise ValueError(f"engine must be 'local' or 'ray', not {engine!r}.")
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
            raise ValueError(f"workers must be a whole number of at least 1, not {workers!r}.")
        validate.query_frame(topics, ["query"])
        check_ids(topics, ["qid"], "the topics")
        topics = topics.assign(qid=topics["qid"].astype(str)).reset_index(drop=True)
        frames.check_unique(topics[["qid"]])
        frames.check_text(topics, ["query"])
        self._agree(pipeline, topics, overwrite)
        self.directory.sweep()
        batches = [topics.iloc[n : n + batch_size] for n in range(0, len(topics), batch_size)]
        numbers = range(len(batches)) if shard is None else range(shard[0], len(batches), shard[1])
        total = sum(len(batches[n]) for n in numbers)
        run = engines.here(pipeline) if engine == "local" else engines.on_ray(pipeline, workers, ray_options or {})
        with pt.tqdm(total=total, desc="Labelling", unit="q", disable=not verbose) as bar:
            waiting = self._pass(run, batches, numbers, bar, with_text, wait=False)
            if waiting:  # held by other processes: whatever they leave undone is done here
                self._pass(run, batches, waiting, bar, with_text, wait=True)
        self._check_there()
        index = self._index()
        gone = [qid for n in numbers for qid in batches[n]["qid"] if qid not in index]
        if gone:
            raise FileNotFoundError(
                f"{len(gone)} of {total} queries, such as {gone[0]!r}, were labelled and are no longer in"
                f" {self.directory}: it was deleted, moved or written over while it was built. Build again."
            )
        return self

    def _check_there(self) -> None:
        """Check that nobody has deleted or moved the store since it was made sure of.

        Raises:
            FileNotFoundError: if its descriptions are gone.
        """
        gone = [name for name in (META, MANIFEST) if not self.directory.files.is_file(name)]
        if gone:
            raise FileNotFoundError(
                f"{self.directory.files.where(gone[0])} is gone: the store was deleted or moved while it was built or"
                " filled, and what was committed with it. Bring it back, or build again."
            )

    def _agree(self, pipeline: pt.Transformer, topics: pd.DataFrame, overwrite: bool) -> None:
        """Create the store, or check that it was built from the same pipeline and queries."""
        described = identity(pipeline)
        for name, kept_back in silent(pipeline).items():
            logger.warning(
                "%s does not keep %s of its constructor under the same name, nor has it a __repr__ or decided_by: this"
                " store would go on being built by one with other settings.", name, kept_back
            )  # fmt: skip
        manifest = self.manifest
        told = None if "pipeline" not in manifest else difference(manifest["pipeline"], described)
        if "cache of" in manifest:
            told = "it is the cache of a teacher"
        elif "pipeline" not in manifest and len(self):
            told = "its labels were added by hand or come from a file, so nothing says what made them"
        if told is None and len(self):
            stored = self.topics().set_index("qid")["query"]
            both = topics[topics["qid"].isin(stored.index)]
            other = both[both["query"].to_numpy() != stored.reindex(both["qid"]).to_numpy()]
            if len(other):
                qid, query = other[["qid", "query"]].iloc[0]
                told = f"the text of query {qid!r} was {stored[qid]!r} and is {query!r}"
        if told is not None:
            if not overwrite:
                raise ValueError(
                    f"{self.directory} was built otherwise: {told}. Take another path for the new labels:"
                    f" overwrite=True would delete the labels of {len(self)} queries that are here."
                )
            self.directory.files.clear(keep=META)
            self._forget()
            self.__dict__.pop("texts", None)
        manifest = {
            "pipeline": described,
            "reads": redaction.text(stable_repr(pipeline)),
            "key": digest(described),
            "versions": versions(),
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        self._create(manifest)

    def _pass(
        self,
        run: engines.Engine,
        batches: Sequence[pd.DataFrame],
        numbers: Sequence[int],
        bar: Any,
        with_text: bool,
        wait: bool,
    ) -> list[int]:
        """Label the batches ``numbers``; gives those that another process holds."""
        held: list[int] = []
        claims = ExitStack()

        done = set(self._index())

        def jobs() -> Iterator[_Job]:
            for number in numbers:
                batch = batches[number]
                if done.issuperset(batch["qid"]):
                    bar.update(len(batch))
                    continue
                claim = claims.enter_context(ExitStack())
                if not claim.enter_context(self.directory.claimed(digest([number, batch["qid"].tolist()]), wait=wait)):
                    held.append(number)
                    continue
                todo = self._todo(batch)  # another process may have finished it before it let go
                if todo.empty:
                    bar.update(len(batch))
                    claim.close()
                    continue
                yield _Job(batch, todo, claim)

        if not all(done.issuperset(batches[number]["qid"]) for number in numbers):
            self.directory.check_writable()
        with claims:
            for job, labelled in run(jobs()):
                if len(labelled.queries) or labelled.error is None:
                    self._keep(labelled, with_text)
                if labelled.error is not None:
                    raise labelled.error
                bar.update(len(job.batch))
                job.claim.close()
        return held

    def _todo(self, batch: pd.DataFrame) -> pd.DataFrame:
        """The queries of a batch that are not in yet."""
        index = self._index()
        return batch[[qid not in index for qid in batch["qid"]]]

    def _keep(self, labelled: engines.Labelled, with_text: bool) -> None:
        """Commit a batch.

        Raises:
            LabellingError: if it cannot be stored; it carries the labels, which are paid for.
        """
        frame, queries = labelled.frame, labelled.queries
        try:
            validate.frame(frame, "what the pipeline gives")
            frame = frame.assign(qid=frame["qid"].astype(str)) if "qid" in frame.columns else frame
            self._check_labelled(frame, "the pipeline leaves", with_text)
            strangers = set(frame["qid"]) - set(queries["qid"])
            if strangers:
                raise ValueError(
                    f"the pipeline gives rows of query {min(strangers)!r}, which it was not asked about: its qids must"
                    " be those of the topics."
                )
            with self.directory.claimed("commit", wait=True):  # another partition of the queries may have been faster
                self._check_there()
                new = self._todo(queries)
                if len(new):
                    rows = frame[frame["qid"].isin(new["qid"])]
                    topics = new[["qid", "query"]].reset_index(drop=True)
                    self._commit(rows, topics, int(new.index[0]), labelled.usage, with_text)
        except (ValueError, TypeError, OSError) as error:
            if not tables.label_columns(frame):
                raise
            raise LabellingError(f"{error} These labels are in this error's .labelled.", frame) from error
