"""``pt.get_dataset("folder:PATH")``: a directory in BEIR or TIRA layout as a PyTerrier dataset."""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt

from ..ranking import agreed
from .text_loader import InMemoryDataset

_CORPUS = ("corpus.jsonl.gz", "corpus.jsonl", "documents.jsonl.gz", "documents.jsonl")
_SPLITS = ("test", "dev", "train")


class FolderDataset(InMemoryDataset):
    """A collection in a directory.

    BEIR layout: ``corpus.jsonl[.gz]`` (``_id``, ``title``, ``text``), ``queries.jsonl[.gz]`` (``_id``, ``text``) or
    ``queries.tsv``, ``qrels/<split>.tsv``, and ``runs/<name>.txt[.gz]`` (TREC runs). TIRA layout:
    ``documents.jsonl[.gz]`` or ``corpus.jsonl[.gz]`` (``docno``, ``text``), ``queries.jsonl`` (``qid``, ``query``),
    ``qrels.txt``, ``rerank.jsonl[.gz]``. Any part may be missing; asking for it says so.

    Args:
        path: the directory, or ``directory/split`` for one split of it, as ir_datasets names them.

    Raises:
        FileNotFoundError: if there is no such directory or split, or it holds no part of a collection.
    """

    def __init__(self, path: str | os.PathLike):
        directory, split = Path(path).expanduser(), None
        if not directory.is_dir() and directory.name in _named(directory.parent / "qrels", "tsv"):
            directory, split = directory.parent, directory.name
        if not directory.is_dir():
            raise FileNotFoundError(
                f"{path}: no such directory, nor a split of one (expected {directory}/ or .../qrels/<split>.tsv)"
            )
        self.path = directory
        self.split = split
        if not any(self._find(name) for name in (*_CORPUS, "queries.jsonl", "queries.tsv", "rerank.jsonl")):
            raise FileNotFoundError(
                f"{path}: the directory holds neither a corpus (corpus.jsonl, documents.jsonl) nor queries"
            )

    def __repr__(self) -> str:
        return f"FolderDataset({str(self.path / self.split if self.split else self.path)!r})"

    def _find(self, name: str) -> Path | None:
        for candidate in (self.path / name, self.path / f"{name}.gz"):
            if candidate.is_file():
                return candidate
        return None

    def _part(self, what: str, *names: str) -> Path:
        found = next((path for name in names if (path := self._find(name))), None)
        if found is None:
            raise FileNotFoundError(f"{self!r} has no {what}: expected {' or '.join(names)} in {self.path}.")
        return found

    def splits(self) -> list[str]:
        """The names of the files in ``qrels/``."""
        return _named(self.path / "qrels", "tsv")

    def runs(self) -> list[str]:
        """The names of the stored rankings in ``runs/``."""
        return _named(self.path / "runs", "txt")

    # -- documents ----------------------------------------------------------------------------------------------------

    def text_fields(self) -> list[str]:
        """``text``, and ``title`` where the first document has one."""
        first = next(iter(self.get_corpus_iter(verbose=False)), {})
        return [field for field in ("title", "text") if field in first] or ["text"]

    def get_corpus_iter(self, *, verbose: bool = True) -> Iterator[dict[str, str]]:
        """Documents as dicts of ``docno``, ``text`` and, in BEIR layout, ``title``."""
        path = self._part("corpus", *_CORPUS)
        lines = _read_jsonl(path)
        for row in pt.tqdm(lines, desc=f"{self.path.name} documents", unit="d") if verbose else lines:
            document = {"docno": str(_key(row, path, "_id", "docno", "docid"))}
            for field in ("text", "title"):
                if field == "text" or field in row:
                    document[field] = row.get(field) or ""
                    if not isinstance(document[field], str):
                        raise ValueError(f"{path}: the {field} of document {document['docno']!r} is no string.")
            yield document

    # -- topics and judgements ----------------------------------------------------------------------------------------

    def _split(self, variant: str | None) -> str | None:
        """The split meant: as asked, as in the path, or the first of test, dev, train, ... that is there."""
        splits = self.splits()
        wanted = variant or self.split
        if wanted is not None:
            if wanted not in splits:
                raise ValueError(f"{self!r} has no split {wanted!r}, only: {', '.join(splits) or 'none'}.")
            return wanted
        return next((split for split in _SPLITS if split in splits), splits[0] if splits else None)

    def get_topics(self, variant: str | None = None) -> pd.DataFrame:
        """Queries of a split (those with judgements in it); all of them where there are no splits.

        Args:
            variant: the split; None = that of the path, else test, dev or train, whichever is there first.
        """
        topics = self._queries()
        split = self._split(variant)
        if split is not None:
            topics = topics[topics["qid"].isin(set(self.get_qrels(split)["qid"]))].reset_index(drop=True)
        return topics

    def _queries(self) -> pd.DataFrame:
        """The queries of all splits."""
        path = self._part("queries", "queries.jsonl", "queries.tsv", "rerank.jsonl")
        if ".tsv" in path.name:
            topics = pd.read_csv(path, sep="\t", names=["qid", "query"], dtype=str, quoting=3, keep_default_na=False)
        else:
            rows = [(str(_key(row, path, "_id", "qid")), _key(row, path, "query", "text")) for row in _read_jsonl(path)]
            topics = pd.DataFrame(rows, columns=["qid", "query"]).drop_duplicates("qid", ignore_index=True)
        bad = [qid for qid, query in zip(topics["qid"], topics["query"], strict=True) if not isinstance(query, str)]
        if bad:
            raise ValueError(f"{path}: the text of query {bad[0]!r} is no string.")
        return topics

    def get_qrels(self, variant: str | None = None) -> pd.DataFrame:
        """Judgements of a split: ``qid``, ``docno``, ``label`` (int)."""
        split = self._split(variant)
        if split is not None:
            path = self._part(f"qrels of {split!r}", f"qrels/{split}.tsv")
            qrels = pd.read_csv(path, sep="\t", header=None, dtype=str, quoting=3, keep_default_na=False)
            if qrels.shape[1] != 3:
                raise ValueError(f"{path} must have three tab-separated columns: query-id, corpus-id, score.")
            if pd.to_numeric(qrels.iloc[:1, 2], errors="coerce").isna().all():  # a header
                qrels = qrels.iloc[1:].reset_index(drop=True)
        else:
            path = self._part("qrels", "qrels.txt", "qrels.tsv")
            qrels = pd.read_csv(path, sep=r"\s+", header=None, dtype=str, quoting=3, keep_default_na=False)
            if qrels.shape[1] != 4:
                raise ValueError(f"{path} must have four columns, as TREC's: query, iteration, document, label.")
            qrels = qrels.iloc[:, [0, 2, 3]]
        qrels.columns = ["qid", "docno", "label"]
        labels = pd.to_numeric(qrels["label"], errors="coerce")
        if not (labels % 1 == 0).all():
            raise ValueError(f"{path}: {qrels['label'][~(labels % 1 == 0)].iloc[0]!r} is no whole-number label.")
        return qrels.assign(label=labels.astype(int))

    def get_results(self, variant: str | None = None) -> pd.DataFrame:
        """A stored ranking as an R frame, queries included; ``rank`` counts from 0, and ``score`` says the same.

        The order is that of the ranks, or, where they are all the same, of the scores, or of the rows. Tied scores
        carry it; scores that contradict it (an LLM's order beside a retriever's scores) are replaced by −``rank``.

        Args:
            variant: a name in ``runs/``; None = TIRA's ``rerank.jsonl`` (with its text).
        """
        if variant is None:
            path = self._part("ranking", "rerank.jsonl")
            results = pd.DataFrame(list(_read_jsonl(path)))
            return agreed(results.astype({"qid": str, "docno": str}))
        if variant not in self.runs():
            raise ValueError(f"{self!r} has no run {variant!r}, only: {', '.join(self.runs()) or 'none'}.")
        results = pt.io.read_results(str(self._part("run", f"runs/{variant}.txt")), format="trec")
        return agreed(results).merge(self._queries(), on="qid", how="inner")

    def _describe_component(self, component: str) -> bool | list[str] | None:
        return {"topics": self.splits() or None, "qrels": self.splits() or None, "corpus": True}.get(component)


class FolderProvider(pt.datasets.DatasetProvider):
    """Gives ``pt.get_dataset("folder:PATH")``."""

    def get_dataset(self, name: str) -> FolderDataset:
        """The collection in the directory ``name``."""
        return FolderDataset(name)


def _named(directory: Path, ending: str) -> list[str]:
    """The names of ``NAME.ending`` and ``NAME.ending.gz`` in a directory."""
    found = (re.fullmatch(rf"(.+)\.{ending}(\.gz)?", path.name) for path in directory.glob("*"))
    return sorted({match[1] for match in found if match})


def _key(row: dict[str, Any], path: Path, *names: str) -> Any:
    for name in names:
        if name in row:
            return row[name]
    raise ValueError(f"a line of {path} has none of the fields {', '.join(names)}; it has {', '.join(row)}.")


def _read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise ValueError(f"line {number} of {path} is not JSON: {error}") from error
