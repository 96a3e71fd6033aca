"""Building a store: batches of queries through a pipeline, each committed when it is done, none labelled twice."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyterrier as pt

from .. import frames
from ..backends.base import Usage
from ..checkpoints import versions
from ..teachers.base import LabellingError
from . import directory as files
from .identity import difference, digest, identity, stable_repr

if TYPE_CHECKING:
    from .store import LabelStore


class Building:
    """The part of :class:`~pyterrier_distill.LabelStore` that labels."""

    def build(
        self,
        pipeline: pt.Transformer,
        topics: pd.DataFrame,
        *,
        batch_size: int = 64,
        shard: tuple[int, int] | None = None,
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
            shard: ``(k, n)``: only every n-th batch, from the k-th (0 ≤ k < n), for machines that share no files'
                locks.
            overwrite: begin anew where pipeline or queries differ from those that built the store.
            verbose: whether to show progress, with the time left.

        Returns:
            self.

        Raises:
            ValueError: if pipeline or query text differ from what the store was built with, naming the field; if topics
                have a query id twice.
            LabellingError: if a teacher failed; what it had finished is committed.
            OSError: if nothing can be written; what was committed is intact.
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be a whole number of at least 1, not {batch_size!r}.")
        if shard is not None and not 0 <= shard[0] < shard[1]:
            raise ValueError(f"shard=(k, n) needs 0 <= k < n, not {shard!r}.")
        pt.validate.query_frame(topics, ["query"])
        topics = topics.assign(qid=topics["qid"].astype(str)).reset_index(drop=True)
        frames.check_unique(topics[["qid"]])
        frames.check_text(topics, ["query"])
        self._agree(pipeline, topics, overwrite)
        self.directory.sweep()
        batches = [topics.iloc[n : n + batch_size] for n in range(0, len(topics), batch_size)]
        numbers = range(len(batches)) if shard is None else range(shard[0], len(batches), shard[1])
        total = sum(len(batches[n]) for n in numbers)
        with pt.tqdm(total=total, desc="Labelling", unit="q", disable=not verbose) as bar:
            waiting = self._pass(pipeline, batches, numbers, bar, wait=False)
            self._pass(pipeline, batches, waiting, bar, wait=True)
        return self

    def _agree(self, pipeline: pt.Transformer, topics: pd.DataFrame, overwrite: bool) -> None:
        """Create the store, or check that it was built from the same pipeline and queries."""
        described = identity(pipeline)
        before = self.manifest.get("pipeline")
        told = None if before is None else difference(before, described)
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
                    f"{self.path} was built otherwise: {told}. Take another path for the new labels, or pass"
                    " overwrite=True to begin anew."
                )
            shutil.rmtree(self.directory.path)
            self._places, self._seen = None, []
        manifest = {
            "pipeline": described,
            "reads": stable_repr(pipeline),
            "key": digest(described),
            "versions": versions(),
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        self._create(manifest)

    def _pass(
        self, pipeline: pt.Transformer, batches: Sequence[pd.DataFrame], numbers: Sequence[int], bar: Any, wait: bool
    ) -> list[int]:
        """Label the batches ``numbers``; gives those that another process holds."""
        held = []
        for number in numbers:
            batch = batches[number]
            if all(qid in self._index() for qid in batch["qid"]):
                bar.update(len(batch))
                continue
            key = digest([number, batch["qid"].tolist()])
            with self.directory.claimed(key, wait=wait) as mine:
                if not mine:
                    held.append(number)
                    continue
                todo = batch[~batch["qid"].isin(self._index().keys())]
                if len(todo):
                    self._label(pipeline, todo, int(todo.index[0]))
                bar.update(len(batch))
        return held

    def _label(self, pipeline: pt.Transformer, todo: pd.DataFrame, start: int) -> None:
        """Run the pipeline on one batch and commit it; of a teacher that fails, what it finished."""
        teachers = list(_teachers(pipeline))
        before = sum((teacher.usage for teacher in teachers), Usage())
        try:
            labelled, queries = pipeline(todo), todo
        except LabellingError as error:
            labelled = error.labelled
            queries = todo[todo["qid"].isin(labelled["qid"].unique())]
            if len(queries):
                self._checked(labelled, queries, start, sum((t.usage for t in teachers), Usage()) - before)
            raise
        self._checked(labelled, queries, start, sum((t.usage for t in teachers), Usage()) - before)

    def _checked(self, labelled: pd.DataFrame, queries: pd.DataFrame, start: int, usage: Usage) -> None:
        from . import shards

        frames.require_columns(labelled, ["qid", "query", "docno"], reader="LabelStore")
        if not shards.label_columns(labelled):
            raise ValueError(
                f"the pipeline leaves no label ({', '.join(labelled.columns)}): put a teacher at its end, such as"
                " PointwiseTeacher."
            )
        if len(labelled):
            frames.check_results(labelled)
        with self.directory.claimed("commit", wait=True):  # another partition of the queries may have been faster
            new = queries[~queries["qid"].isin(self._index().keys())][["qid", "query"]].reset_index(drop=True)
            if len(new):
                self._commit(labelled[labelled["qid"].isin(new["qid"])], new, start, usage)

    def verify(self, repair: bool = True) -> pd.DataFrame:
        """Check every shard: checksum, schema, no query twice.

        Args:
            repair: whether damaged shards are set aside, so that the next build labels their queries again.

        Returns:
            A row a shard: ``shard``, ``queries``, ``state`` (``ok`` or what is wrong) and ``advice``.
        """
        rows, seen = [], set()
        for name in self.directory.names():
            queries, state = 0, "ok"
            try:
                if not self.directory.intact(name):
                    state = "its bytes are not those that were written"
                else:
                    qids = self.directory.open(name).read(columns=["qid"]).column("qid").to_pylist()
                    queries = len(qids)
                    twice = seen & set(qids)
                    if twice or len(set(qids)) < queries:
                        state = f"{max(1, len(twice))} queries stand elsewhere, too; the first ones count"
                    seen |= set(qids)
            except ValueError as error:
                state = str(error)
            advice = ""
            if state != "ok" and "elsewhere" not in state:
                advice = "build again: its queries are labelled anew"
                if repair:
                    advice = f"moved to {files.DAMAGED}/; " + advice
                    self.directory.set_aside(name)
            rows.append((name, queries, state, advice))
        self._places, self._seen = None, []
        return pd.DataFrame(rows, columns=["shard", "queries", "state", "advice"])


def _teachers(transformer: Any) -> Iterator[Any]:
    """Teachers in a pipeline, each once."""
    if isinstance(getattr(transformer, "usage", None), Usage):
        yield transformer
        return
    for part in getattr(transformer, "_transformers", None) or pt.inspect.subtransformers(transformer).values():
        for one in part if isinstance(part, list) else [part]:
            yield from _teachers(one)
