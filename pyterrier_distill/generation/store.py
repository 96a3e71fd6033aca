"""QueryStore: an artifact that keeps generated queries, so that no document is asked about twice."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyterrier as pt

from ..backends.usage import Usage
from ..engine.checkpoints import versions
from ..engine.locks import using
from ..identity.identity import difference
from ..stores import redaction
from ..stores.files import parse_object
from ..stores.pipelines import stages_of
from ..stores.storage import CLAIMS, check_writable, is_remote, local, storage
from .queries import lines_of, written

if TYPE_CHECKING:
    from .cache import CachedQueryGen

META = "pt_meta.json"
MANIFEST = "manifest.json"
QUERIES = "queries"
_NAME = re.compile(r"(\d{8})-([0-9a-f]{32})\.jsonl")
#: The text's digest, the queries (``""`` where one was filtered out), and their scores (None where not known).
_Entry = tuple[str, list[str], list[float | None]]


class QueryStore(pt.Artifact):
    """Generated queries on disk: resumable to make, an artifact to publish.

    A directory with ``pt_meta.json``, ``manifest.json`` (what made the queries, for people) and ``queries/``: JSON
    lines, a document each. A file is written beside, synced and renamed in; what is not renamed in does not exist. The
    queries of one store have one maker. What is in is held in memory: about 1 kB a document.

    Args:
        path: a directory, or an address that fsspec knows; made when first written to.

    Raises:
        ValueError: if something else is there.

    Example::

        generator = ptd.QueryStore("scifact.queries").cache(ptd.SyntheticQueryGen("google/gemma-3-1b-pt"))
        queries = (generator >> ptd.explode_queries())(documents)  # killed? run it again
        ptd.explode_queries()(ptd.QueryStore("scifact.queries").frame())  # without the model, and without the texts
    """

    ARTIFACT_TYPE = "query_store"
    ARTIFACT_FORMAT = "jsonl"
    ARTIFACT_PACKAGE_HINT = "pyterrier-distill"

    def __init__(self, path: str | os.PathLike):
        super().__init__(pt.Artifact.NO_PATH if is_remote(path) else str(local(path)))
        self.files = storage(path)
        meta = self._json(META)
        ours = {META, MANIFEST, QUERIES, CLAIMS}
        other = sorted(name for name in self.files.entries() if name not in ours and name[:1] != ".")
        if meta and (meta.get("type"), meta.get("format")) != (self.ARTIFACT_TYPE, self.ARTIFACT_FORMAT):
            raise ValueError(f"{self.files} is an artifact of type {meta.get('type')!r}, no query store.")
        if not meta and other:
            raise ValueError(f"{self.files} exists and is not a query store: choose another path.")
        self._entries: dict[str, _Entry] = {}
        self._read: set[str] = set()
        self._spent = Usage()

    def _json(self, name: str) -> dict[str, Any]:
        if not self.files.is_file(name):
            return {}
        advice = f" Restore it from a copy; the queries in {QUERIES}/ do not depend on it."
        return parse_object(self.files.read(name), self.files.where(name), advice)

    @property
    def manifest(self) -> dict[str, Any]:
        """What made the queries: generator, model, prompt, versions, the query ids of its examples."""
        return self._json(MANIFEST)

    def __len__(self) -> int:
        """Documents that are in, those that no query could be made for included."""
        return len(self.entries())

    def entries(self) -> dict[str, _Entry]:
        """docno → digest of its text, queries, scores; with what other processes have written since.

        To be looked into, not gone through: other threads add to it.

        Raises:
            ValueError: naming the file, if one is damaged or none of ours.
            OSError: if one cannot be read, which says nothing about it.
        """
        with using(self):
            self._read_new()
            return self._entries

    def _read_new(self) -> None:
        for name in sorted(set(self.files.names(QUERIES)) - self._read):
            match = _NAME.fullmatch(name)
            if match is None:
                continue
            content = self.files.read(f"{QUERIES}/{name}")
            if hashlib.sha256(content).hexdigest()[:32] != match.group(2):
                raise ValueError(
                    f"{self.files.where(f'{QUERIES}/{name}')} is damaged: delete it, and its documents will be asked"
                    " about again."
                )
            spent, entries = _parsed(content, self.files.where(f"{QUERIES}/{name}"))
            self._spent += spent
            self._entries.update(entries)
            self._read.add(name)

    @property
    def usage(self) -> Usage:
        """What all queries together have cost: calls, tokens, seconds."""
        with using(self):
            self._read_new()
            return self._spent

    def frame(self) -> pd.DataFrame:
        """All that is in: ``docno``, ``querygen``, ``querygen_score``, in the order in which they were made."""
        with using(self):
            entries = dict(self.entries())
        inp = pd.DataFrame({"docno": pd.Series(list(entries), dtype=object)})
        return written(inp, [entry[1:] for entry in entries.values()])

    def cache(self, generator: pt.Transformer, batch_size: int = 64) -> CachedQueryGen:
        """``generator``, asked only about documents that are not in; each batch is kept when it is done.

        Args:
            generator: D → D with ``querygen``: a :class:`SyntheticQueryGen`, or any other, such as Doc2Query.
            batch_size: documents of one commit: what is lost when a process is killed.

        Raises:
            ValueError: if the store's queries were made by another one, naming the setting; for an impossible size; or
                for a generator that needs all documents at once, such as ``TopQueries``.
        """
        from .cache import CachedQueryGen

        return CachedQueryGen(self, generator, batch_size)

    def sweep(self) -> None:
        """Remove drafts of processes that are gone."""
        for folder in ("", QUERIES):
            self.files.sweep(folder)

    def agree(self, described: Any) -> None:
        """Check that the store's queries come from a generator, or may.

        Args:
            described: the generator's identity.

        Raises:
            ValueError: naming the setting that differs.
        """
        manifest = self.manifest
        if manifest and "generator" not in manifest:
            raise ValueError(
                f"{self.files.where(MANIFEST)} says no 'generator': it is damaged. Restore it from a copy; the queries"
                f" in {QUERIES}/ do not depend on it."
            )
        told = difference(manifest["generator"], described) if manifest else None
        if told is not None:
            raise ValueError(f"{self.files} was made by another generator: {told}. Give this one a path of its own.")

    def begin(self, generator: pt.Transformer, described: Any) -> None:
        """Make sure of the place before anything is asked.

        Args:
            generator: for the manifest.
            described: its identity before it was asked anything: some generators count.

        Raises:
            ValueError: if the store's queries come from another generator.
            OSError: if nothing can be written.
        """
        with self.files.claimed("commit", wait=True):
            self._create(generator, described)
        check_writable(self.files, QUERIES)

    def check_there(self) -> None:
        """Check that nobody has deleted or moved the store since it was made sure of.

        Raises:
            FileNotFoundError: if its descriptions are gone.
        """
        gone = [name for name in (META, MANIFEST) if not self.files.is_file(name)]
        if gone:
            raise FileNotFoundError(
                f"{self.files.where(gone[0])} is gone: the store was deleted or moved while it was filled, and what was"
                " committed with it. Bring it back, or ask again."
            )

    def commit(self, described: Any, made: pd.DataFrame, digests: Sequence[str], usage: Usage) -> None:
        """Keep what a generator made.

        Args:
            described: its identity, as the store was begun with.
            made: D frame with ``querygen``, whole documents.
            digests: of their texts.
            usage: what they have cost.
        """
        lines = lines_of(made)
        scores = lines["query_score"] if "query_score" in lines.columns else np.full(len(lines), np.nan)
        queries: list[list[str]] = [[] for _ in range(len(made))]
        values: list[list[float | None]] = [[] for _ in range(len(made))]
        for row, line, query, score in zip(lines["row"], lines["line"], lines["query"], scores, strict=True):
            empty = line - len(queries[row])  # places of queries that were filtered out: they count in others' qids
            queries[row] += [""] * empty + [query]
            values[row] += [None] * empty + [float(score) if math.isfinite(score) else None]
        rows: list[dict[str, Any]] = [{"usage": usage.as_dict()}]
        rows += [
            {"docno": str(docno), "text": digest, "queries": q, "scores": v}
            for docno, digest, q, v in zip(made["docno"], digests, queries, values, strict=True)
        ]
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
        with self.files.claimed("commit", wait=True):
            self.check_there()
            self.agree(described)
            number = 1 + max((int(name[:8]) for name in self.files.names(QUERIES) if _NAME.fullmatch(name)), default=-1)
            name = f"{number:08d}-{hashlib.sha256(content).hexdigest()[:32]}.jsonl"
            self.files.write(f"{QUERIES}/{name}", content)

    def _create(self, generator: pt.Transformer, described: Any) -> None:
        """Write the two descriptions, if they are not there. The meta file says that this is a store: last."""
        self.agree(described)
        about = {
            "generator": described,
            "reads": redaction.text(repr(generator)),
            "example_qids": [qid for stage in stages_of(generator) for qid in getattr(stage, "example_qids", [])],
            "versions": versions(),
        }
        hint = {"package_hint": self.ARTIFACT_PACKAGE_HINT}
        meta = {"type": self.ARTIFACT_TYPE, "format": self.ARTIFACT_FORMAT, **hint}
        for name, content in ((MANIFEST, about), (META, meta)):
            if not self.files.is_file(name):
                self.files.write(name, json.dumps(redaction.redacted(content), indent=2, default=repr).encode())

    def _package_files(self) -> Iterator[tuple[str, Any]]:
        """What is published: no locks."""
        for name, file in super()._package_files():
            if name.split(os.sep)[0] != CLAIMS:
                yield name, file

    def __repr__(self) -> str:
        return f"QueryStore({str(self.files)!r})"


def _parsed(content: bytes, where: str) -> tuple[Usage, dict[str, _Entry]]:
    """What a file of queries holds: what they have cost, and docno → entry.

    Raises:
        ValueError: naming the line that is none of ours.
    """
    spent, entries = Usage(), {}
    for number, line in enumerate(content.decode("utf-8", "surrogatepass").split("\n"), 1):
        if not line:
            continue
        row = parse_object(line, f"line {number} of {where}")
        if isinstance(usage := row.get("usage"), dict):  # what a newer version counts besides is left out
            spent += Usage(**{name: usage[name] for name in Usage().as_dict() if name in usage})
        elif [type(row.get(name)) for name in ("docno", "text", "queries", "scores")] == [str, str, list, list]:
            entries[row["docno"]] = (row["text"], row["queries"], row["scores"])
        else:
            raise ValueError(f"line {number} of {where} is not an entry of a query store: it has {', '.join(row)}.")
    return spent, entries


def _plain(described: Any) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(described, default=repr))
