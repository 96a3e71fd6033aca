"""LabelStore: an artifact that keeps teacher labels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import pandas as pd
import pyterrier as pt

from .. import frames
from ..backends.base import Usage
from ..frames import validate
from ..frames.ids import check_ids
from ..identity.identity import digest
from ..stores.storage import CLAIMS, is_remote, local
from . import checks, shards, tables
from . import directory as files
from .building import Building
from .caching import Caching
from .converting import Converting
from .describing import Describing
from .reading import Reading
from .texts import StoredText, Texts, check_one_text
from .upkeep import Upkeep


class LabelStore(Reading, Building, Caching, Converting, Describing, Upkeep, pt.Artifact):
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
        super().__init__(pt.Artifact.NO_PATH if is_remote(path) else str(local(path)))
        self.directory = files.Directory(path)
        if self.directory.is_foreign():
            raise ValueError(f"{self.directory} exists and is no label store: choose another path.")
        meta = self.directory.json(files.META)
        if meta:
            if (meta.get("type"), meta.get("format")) != (self.ARTIFACT_TYPE, self.ARTIFACT_FORMAT):
                raise ValueError(f"{self.directory} is an artifact of type {meta.get('type')!r}, no label store.")
        self._forget()

    @property
    def manifest(self) -> dict[str, Any]:
        """What made the labels: pipeline, models, prompts, versions; empty before anything was built."""
        return self.directory.json(files.MANIFEST)

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits of all labels and texts: shards are named by their content."""
        return digest([self.directory.names(folder) for folder in (files.SHARDS, files.TEXTS)])

    # -- texts --------------------------------------------------------------------------------------------------------

    @cached_property
    def texts(self) -> Texts:
        """The documents' texts that are stored."""
        return Texts(self.directory)

    def text_loader(self, field: str = "text") -> StoredText:
        """R → R: adds the documents' texts that are stored.

        Args:
            field: the column to write.
        """
        return StoredText(self, field)

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
                query's text or a label is missing, not finite, or no probability where it must be one; with_text, if a
                document has two texts, one of them perhaps stored.
        """
        if {"qid", "query"} <= set(labelled.columns):
            texts = labelled[["qid", "query"]].dropna().drop_duplicates()  # what is no text is told by who checks texts
            if texts["qid"].duplicated().any():
                qid = texts.loc[texts["qid"].duplicated().to_numpy(), "qid"].iloc[0]
                raise ValueError(f"query {qid!r} has two texts in this frame: give each query its own qid.")
        self._check_labelled(labelled, "the frame holds", with_text)
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
            self._commit(labelled, queries, len(index) if start is None else start, Usage(), with_text)
        return self

    def _check_labelled(self, labelled: pd.DataFrame, what: str, with_text: bool) -> None:
        """Check that a frame can go in.

        Raises:
            ValueError: naming what is wrong with it.
        """
        columns = tables.label_columns(labelled)
        of_queries = bool(columns) and all(frames.kind_of(column).per_query for column in columns)
        wanted = ["qid", "query", *([] if of_queries else ["docno"]), *(["text"] if with_text else [])]
        frames.require_columns(labelled, wanted, reader=f"LabelStore(with_text={with_text})")
        if not columns and (texts := checks.text_labels(labelled)):
            raise ValueError(
                f"{what} no label: its column {texts[0]!r} holds text, such as {labelled[texts[0]].iloc[0]!r}, and must"
                " hold numbers."
            )
        if not columns:
            raise ValueError(
                f"{what} no label ({', '.join(map(str, labelled.columns))}): put a teacher at the end of the pipeline."
            )
        if not len(labelled):
            return
        ids = ["qid", *(["docno"] if "docno" in labelled.columns else [])]
        validate.frame(labelled, "the labelled frame")
        for name in ids:
            if (labelled[name].astype(str) == "").any():
                raise ValueError(f"the labelled frame has rows with an empty {name!r}: every row needs an id.")
        frames.check_results(labelled[ids].astype(str))
        frames.check_text(labelled, ["query"])
        checks.check_labels(labelled)
        if with_text:
            frames.check_text(labelled, ["text"])
            check_one_text(labelled)

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

    def _package_files(self) -> Iterator[tuple[str, Any]]:
        """What is published: neither locks nor what was set aside."""
        for name, file in super()._package_files():
            if name.split(os.sep)[0] not in (CLAIMS, files.DAMAGED):
                yield name, file

    def __repr__(self) -> str:
        return f"LabelStore({str(self.directory)!r})"
