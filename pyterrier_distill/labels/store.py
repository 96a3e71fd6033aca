"""LabelStore: an artifact that keeps teacher labels."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
import pyterrier as pt

from .. import frames
from ..backends.usage import Usage
from ..frames import validate
from ..frames.ids import check_ids
from ..stores.storage import CLAIMS, is_remote, local
from . import checks, convert, intake, shards, tables, upkeep
from . import directory as files
from .build import Build
from .cache import cached
from .stored_labels import StoredLabels
from .texts import check_one_text


class LabelStore(StoredLabels, pt.Artifact):
    """Labels of whole queries on disk: resumable to build, streaming to read, an artifact to publish.

    A directory with ``pt_meta.json``, ``manifest.json`` (what made the labels, for people), ``shards/``: parquet files
    of whole queries, and ``texts/``, where texts are kept: each document once. A shard is written beside, synced and
    renamed in; what is not renamed in does not exist. Queries come in the order of their places in the topics
    that they were built from.

    Args:
        path: a directory, or an address that fsspec knows (``s3://bucket/labels``, with its package installed); one
            that is not there is made by the first thing written.

    Raises:
        ValueError: if the directory is something else.
        ModuleNotFoundError: without pyarrow, or without the package of the address.

    Example::

        store = ptd.LabelStore("msmarco.labels").build(candidates >> teacher, topics)
        ptd.Distiller(student, ptd.KLDivergence()).fit(store, None, text=dataset)
    """

    ARTIFACT_TYPE = "label_store"
    ARTIFACT_FORMAT = "parquet"
    ARTIFACT_PACKAGE_HINT = "pyterrier-distill"

    def __init__(self, path: str | os.PathLike):
        shards.arrow()
        pt.Artifact.__init__(self, pt.Artifact.NO_PATH if is_remote(path) else str(local(path)))
        StoredLabels.__init__(self, files.Directory(path))
        if self.directory.is_foreign():
            raise ValueError(f"{self.directory} exists and is not a label store: choose another path.")
        meta = self.directory.json(files.META)
        if meta:
            if (meta.get("type"), meta.get("format")) != (self.ARTIFACT_TYPE, self.ARTIFACT_FORMAT):
                raise ValueError(f"{self.directory} is an artifact of type {meta.get('type')!r}, not a label store.")

    def add_texts(self, documents: pd.DataFrame) -> int:
        """Store texts of documents that have none here yet.

        Args:
            documents: ``docno``, ``text``.

        Returns:
            How many were new.

        Raises:
            ValueError: for an id or a text that is missing, or a document with two texts, one of them
                perhaps stored.
        """
        validate.columns(documents, includes=["docno", "text"])
        check_ids(documents, ["docno"], "the documents")
        frames.check_text(documents, ["text"])
        check_one_text(documents)
        self._create({})
        with self.directory.claimed("commit", wait=True):
            return self.texts.add(documents)

    # -- made by a pipeline, a file or a frame ------------------------------------------------------------------------

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
        job = Build(self, pipeline, batch_size=batch_size, with_text=with_text, shard=shard)
        job.run(topics, engine, workers, ray_options or {}, overwrite, verbose)
        return self

    def cache(self, teacher: pt.Transformer, batch_size: int = 64) -> pt.Transformer:
        """``teacher``, answered from this store where it was asked before; its labels are the same.

        Args:
            teacher: a teacher; any re-ranker: its score is then the label ``teacher_score``, and further columns that
                it writes are left out (a teacher names all that it writes); or a pipeline. Of a pipeline each teacher
                is cached by itself, by what it reads, and the other stages run as they are: wrap a costly re-ranker
                among them in a ``PointwiseTeacher``.
            batch_size: queries of one commit: what is lost when a process is killed.

        Returns:
            A :class:`CachedTeacher`; of a pipeline, a pipeline.

        Raises:
            ValueError: if this store was built from topics: labels of queries and answers of a teacher do not mix;
                or if the teacher does not say what decides its answers: by settings under the names of its
                constructor's arguments, a ``__repr__``, or ``decided_by``.
        """
        return cached(self, teacher, batch_size)

    @classmethod
    def from_frame(cls, path: str | os.PathLike, labelled: pd.DataFrame, *, with_text: bool = False) -> LabelStore:
        """A new store of a labelled R frame, with its texts on demand."""
        return cls(path).add(labelled, with_text=with_text)

    @classmethod
    def from_run(
        cls, path: str | os.PathLike, run: str | os.PathLike, topics: pd.DataFrame, *, by: str = "rank", **options: Any
    ) -> LabelStore:
        """A new store of a stored ranking, as :class:`~pyterrier_distill.RunTeacher` reads it.

        Args:
            path: of the store.
            run: a TREC run, or another file that RunTeacher reads.
            topics: texts of its queries.
            by: what of a TREC run is the label, ``"rank"`` or ``"score"``.
            **options: as for RunTeacher.
        """
        from ..teachers.run import RunTeacher

        return cls(path).build(RunTeacher(run, by=by, **options), topics, batch_size=10_000, verbose=False)

    @classmethod
    def from_jsonl(cls, path: str | os.PathLike, file: str | os.PathLike, format: str | None = None) -> LabelStore:
        """A new store of what :meth:`to_jsonl` wrote; or of a file of others, as :meth:`from_files` reads it."""
        own = convert.read_own(file) if format is None else None
        if own is None:
            return cls.from_files(path, file, format, verbose=False)
        store = cls(path)
        for frame in own:
            store.add(frame)
        return store

    @classmethod
    def from_files(
        cls,
        path: str | os.PathLike,
        files: str | os.PathLike | Sequence[str | os.PathLike],
        format: str | None = None,
        *,
        topics: pd.DataFrame | str | os.PathLike | None = None,
        permutations: str | os.PathLike | None = None,
        missing: str = "error",
        ids: str = "file",
        with_text: bool = True,
        verbose: bool = True,
    ) -> LabelStore:
        """A new store of training files of others, in any order of rows and in little memory.

        Rows of one query and document are joined, whichever file they are in: PairDistill's pointwise and pairwise
        labels make one list. They wait, parted by query, in a hidden directory beside the store; one part is in memory
        at a time. Run again after a kill, it goes on, and the store comes out the same.

        Args:
            path: of the store.
            files: one or several, as text, JSON or parquet, gzipped or not.
            format: ``pairdistill``, ``pairdistill-pairs``, ``inranker``, ``inranker-jsonl``, ``rankgpt-train``,
                ``twolar``, ``tevatron`` (RLHN's, too), ``dpr`` (AR2's, too), ``dpr-all``, ``flag``, ``colbert``,
                ``triples``, ``rank_llm``, ``rankgpt``; None = recognised, file by file. What is said of a query,
                ``subset`` or ``answers``, is in :meth:`topics`.
            topics: texts of queries, where files have none, or others: a frame, or a file of qid TAB query.
            permutations: of RankGPT's training data, what ChatGPT said: a JSON list.
            missing: what becomes of documents that lack a label which others of their query have: ``"error"``, or
                ``"drop"``. Without a judgement, in a query that has some, they are not relevant.
            ids: ``"text"``: documents are named by digests of their texts, as those without ids are anyway.
            with_text: whether texts that the files hold are stored.
            verbose: whether to show progress.

        Raises:
            FileNotFoundError: if a file is not there.
            ValueError: naming file and line (or entry), for what is not of its format, labels that disagree or are
                missing, a query without a text, with two orders or of two subsets; if the store holds other labels; if
                a document has two texts; if the topics hold none of the queries.
        """
        store = cls(path)
        intake.Intake(store, files, format, topics, permutations, missing, ids, with_text).run(verbose)
        return store

    # -- putting in ---------------------------------------------------------------------------------------------------

    def add(
        self,
        labelled: pd.DataFrame,
        topics: pd.DataFrame | None = None,
        *,
        start: int | None = None,
        with_text: bool = False,
    ) -> LabelStore:
        """Commit a labelled frame.

        Args:
            labelled: R frame with ``query`` and label columns, whole queries.
            topics: all queries that were labelled, those without documents, too; None = those of ``labelled``.
            start: position of the first one among all; None = behind what is in.
            with_text: whether to store the frame's ``text``, too, each document once.

        Raises:
            ValueError: if a query is in already, a document stands twice in a list, there is no label, or an id, a
                query's text or a label is missing, not finite, or no probability where it must be one; if a document
                has another text than the one that is stored, whether ``with_text`` or not: its labels would be taken
                for the stored text's; with_text, if a document has two texts in the frame.
        """
        if {"qid", "query"} <= set(labelled.columns):
            texts = labelled[["qid", "query"]].dropna().drop_duplicates()  # texts are checked elsewhere
            if texts["qid"].duplicated().any():
                qid = texts.loc[texts["qid"].duplicated().to_numpy(), "qid"].iloc[0]
                raise ValueError(f"query {qid!r} has two texts in this frame: give each query its own qid.")
        checks.check_frame(labelled, "the frame holds", with_text)
        given = labelled if topics is None else topics
        if topics is not None:
            frames.require_columns(topics, ["qid", "query"], reader="LabelStore.add(topics=...)")
            validate.frame(topics, "the topics")
            frames.check_text(topics, ["query"])
            strangers = set(labelled["qid"].astype(str)) - set(topics["qid"].astype(str))
            if strangers:
                raise ValueError(f"the frame labels query {min(strangers)!r}, which is not among the topics.")
        queries = given[["qid", "query"]].assign(qid=given["qid"].astype(str)).drop_duplicates("qid", ignore_index=True)
        self._create({})
        with self.directory.claimed("commit", wait=True):
            index = self._index()
            twice = [qid for qid in queries["qid"] if qid in index]
            if twice:
                raise ValueError(f"{len(twice)} queries are in {self.directory} already, such as {twice[0]!r}.")
            if not with_text and {"docno", "text"} <= set(labelled.columns):
                self.texts.check_labelled(labelled)
            self._commit(labelled, queries, len(index) if start is None else start, Usage(), with_text)
        return self


    def _create(self, manifest: dict[str, Any]) -> None:
        hint = {"package_hint": self.ARTIFACT_PACKAGE_HINT}
        self.directory.create({"type": self.ARTIFACT_TYPE, "format": self.ARTIFACT_FORMAT, **hint}, manifest)

    def _commit(
        self, labelled: pd.DataFrame, queries: pd.DataFrame, start: int, usage: Usage, with_text: bool = False
    ) -> None:
        """Write labels, after the texts of their documents."""
        table = tables.to_table(labelled.assign(qid=labelled["qid"].astype(str)), queries, {"usage": usage.as_dict()})
        if with_text and len(labelled):
            self.texts.add(labelled)
        self.directory.write(table, start)

    def _check_there(self) -> None:
        """Check that nobody has deleted or moved the store since it was made sure of.

        Raises:
            FileNotFoundError: if its descriptions are gone.
        """
        gone = [name for name in (files.META, files.MANIFEST) if not self.directory.files.is_file(name)]
        if gone:
            raise FileNotFoundError(
                f"{self.directory.files.where(gone[0])} is gone: the store was deleted or moved while it was built or"
                " filled, and what was committed with it. Bring it back, or build again."
            )

    def _package_files(self) -> Iterator[tuple[str, Any]]:
        """What is published: neither locks nor what was set aside."""
        for name, file in super()._package_files():
            if name.split(os.sep)[0] not in (CLAIMS, files.DAMAGED):
                yield name, file

    # -- upkeep -------------------------------------------------------------------------------------------------------

    def verify(self, repair: bool = True) -> pd.DataFrame:
        """Check every shard: checksum, schema, that it can be read, no query or document twice.

        Damaged is a shard whose bytes are not those that were written, or that is no shard by its schema. Whatever else
        keeps it from being read (permissions, too many open files, memory, a newer version's format) is reported, and
        nothing is moved.

        Args:
            repair: whether damaged shards are set aside, so that the next build labels their queries again.

        Returns:
            A row a shard: ``shard``, ``queries`` (or texts), ``state`` (``ok`` or what is wrong) and ``advice``.
        """
        return upkeep.verify(self, repair)

    def compact(self, queries: int = 10_000) -> LabelStore:
        """Join small shards into larger ones, which open and stream faster; texts likewise.

        Only shards of the same columns are joined. Nothing is lost, or counted twice, when it is killed: a joined shard
        is in before those it was made of go, and says which they are. Nobody else may read or build the store then.

        Args:
            queries: of one shard, at least.

        Returns:
            self.
        """
        upkeep.compact(self, queries)
        return self
