"""``pt.get_dataset("folder:PATH")``: a directory in BEIR or TIRA layout as a PyTerrier dataset."""

from __future__ import annotations

import itertools
import logging
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt

from ..engine import progress
from ..frames.ranking import agreed
from ..stores.files import (
    DOCUMENT_TEXTS,
    QUERY_IDS,
    QUERY_TEXTS,
    as_number,
    fields,
    json_lines,
    lines,
    once,
    plain_identifier,
    plain_name,
)
from ..stores.formats import whole_run
from .text_loader import InMemoryDataset

logger = logging.getLogger(__name__)

_CORPUS = ("corpus.jsonl", "documents.jsonl")
_SPLITS = ("test", "dev", "train")


class FolderDataset(InMemoryDataset):
    """A collection in a directory.

    BEIR layout: ``corpus.jsonl[.gz]`` (``_id``, ``title``, ``text``), ``queries.jsonl[.gz]`` (``_id``, ``text``) or
    ``queries.tsv``, ``qrels/<split>.tsv``, and ``runs/<name>.txt[.gz]`` (TREC runs). TIRA layout:
    ``documents.jsonl[.gz]`` or ``corpus.jsonl[.gz]`` (``docno``, ``text``), ``queries.jsonl`` (``qid``, ``query``),
    ``qrels.txt``, ``rerank.jsonl[.gz]``. Any part may be missing; asking for it says so. Where documents have no
    ``text``, it is their ``contents``, ``content``, ``segment``, ``body`` or ``passage``.

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

    def decided_by(self) -> dict[str, Any]:
        """What decides the texts of its documents."""
        found = next((path for name in _CORPUS if (path := self._find(name))), None)
        return {"path": self.path} if found is None else {"corpus": found}

    def _find(self, name: str) -> Path | None:
        found = [path for path in (self.path / name, self.path / f"{name}.gz") if path.is_file()]
        if len(found) > 1:
            raise ValueError(f"{self.path} holds both {name} and {name}.gz: remove one of them.")
        return found[0] if found else None

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

    def has_corpus(self) -> bool:
        """Whether there are documents, beyond those of ``rerank.jsonl``."""
        return any(self._find(name) for name in _CORPUS)

    def has_candidates(self) -> bool:
        """Whether there is a TIRA ``rerank.jsonl``, which ``get_results()`` reads."""
        return self._find("rerank.jsonl") is not None

    # -- documents ----------------------------------------------------------------------------------------------------

    def text_fields(self) -> list[str]:
        """``text``, and ``title`` where the first document has one."""
        first = next(iter(self.get_corpus_iter(verbose=False)), {})
        return [field for field in ("title", "text") if field in first] or ["text"]

    def get_corpus_iter(self, *, verbose: bool = True) -> Iterator[dict[str, str]]:
        """Documents as dicts of ``docno``, ``text`` and, in BEIR layout, ``title``."""
        path = self._part("corpus", *_CORPUS)
        rows = json_lines(path)
        for number, row in progress.bar(rows, verbose=verbose, desc=f"{self.path.name} documents", unit="d"):
            docno = _key(row, path, number, "_id", "docno", "docid")
            document = {"docno": plain_identifier(docno, path, number, "id of a document")}
            named = [name for name in DOCUMENT_TEXTS if row.get(name) is not None]
            if not named and "title" not in row:
                _key(row, path, number, *DOCUMENT_TEXTS)  # null is a text, no field is none
            for field, name in (("text", named[0] if named else "text"), ("title", "title")):
                if field == "title" and "title" not in row:
                    continue
                document[field] = "" if row.get(name) is None else row[name]
                if not isinstance(document[field], str):
                    raise ValueError(
                        f"{path}, line {number}: the {field} of document {document['docno']!r} is not a string."
                    )
            yield document

    def documents(self) -> dict[str, dict[str, str]]:
        """docno → document, read once; where there is no corpus, those of ``rerank.jsonl``.

        Raises:
            ValueError: naming the line of a document without text, or with another one than before.
        """
        if self._documents is None and not self.has_corpus() and self.has_candidates():
            path = self._part("ranking", "rerank.jsonl")
            found: dict[str, dict[str, str]] = {}
            for number, row in json_lines(path):
                docno = plain_identifier(_key(row, path, number, "docno"), path, number, "docno")
                text = _key(row, path, number, *DOCUMENT_TEXTS)
                if not isinstance(text, str):
                    raise ValueError(f"{path}, line {number}: document {docno!r} has no text: {text!r} is no string.")
                if found.setdefault(docno, {"docno": docno, "text": text})["text"] != text:
                    raise ValueError(f"{path}, line {number}: document {docno!r} has another text than before.")
            self._documents = found
        return super().documents()

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
            judged = set(self.get_qrels(split)["qid"])
            chosen = topics[topics["qid"].isin(judged)].reset_index(drop=True)
            if len(topics) and judged and not len(chosen):
                raise ValueError(
                    f"{self!r}: none of its {len(topics)} queries is judged in {split!r}: their ids, such as"
                    f" {topics['qid'].iloc[0]!r}, are other ones than those of the judgements, such as {min(judged)!r}."
                )
            self._tell_lost(judged - set(chosen["qid"]), f"the judgements of {split!r}")
            topics = chosen
        return topics

    def _tell_lost(self, qids: set[str], where: str) -> None:
        """Say which queries have no text, for they are left out."""
        if qids:
            logger.warning(
                "%r: %d queries of %s have no text and are left out, such as %r", self, len(qids), where, min(qids)
            )

    def _queries(self) -> pd.DataFrame:
        """The queries of all splits."""
        path, rows = self._query_lines()
        return pd.DataFrame(list(once(rows, path, "query")), columns=["qid", "query"])

    def _query_lines(self) -> tuple[Path, Iterator[tuple[int, str, str]]]:
        path = self._part("queries", "queries.jsonl", "queries.tsv", "rerank.jsonl")
        return path, _queries_of_tsv(path) if ".tsv" in path.name else _queries_of_jsonl(path)

    def place_of_query(self, qid: str) -> str:
        """File and line at which a query stands, for messages."""
        path, rows = self._query_lines()
        return next((f"{path}, line {number}" for number, other, _ in rows if other == qid), str(path))

    def place_of_document(self, docno: str, nth: int = 0) -> str:
        """File and line at which a document, or its ``nth`` copy, stands, for messages."""
        path = self._part("documents", *_CORPUS, "rerank.jsonl")
        ids = ((number, _key(row, path, number, "_id", "docno", "docid")) for number, row in json_lines(path))
        found = (f"{path}, line {number}" for number, other in ids if str(other) == docno)
        return next(itertools.islice(found, nth, None), str(path))

    def get_qrels(self, variant: str | None = None) -> pd.DataFrame:
        """Judgements of a split: ``qid``, ``docno``, ``label`` (int).

        Raises:
            ValueError: naming the line that has more or fewer columns than its format, a label that is no whole number,
                or judges a document again, otherwise.
        """
        split = self._split(variant)
        if split is not None:
            path = self._part(f"qrels of {split!r}", f"qrels/{split}.tsv")
            rows = _judgements(path, ("query-id", "corpus-id", "score"), "\t")
        else:
            path = self._part("qrels", "qrels.txt", "qrels.tsv")
            rows = _judgements(path, ("query", "iteration", "document", "label"), None)
        found = [(*pair, label) for pair, label in once(rows, path, "the pair of query and document")]
        return pd.DataFrame(found, columns=["qid", "docno", "label"]).astype({"label": int})

    def get_results(self, variant: str | None = None) -> pd.DataFrame:
        """A stored ranking as an R frame, queries as the topics stand; ``rank`` counts from 0, ``score`` agrees.

        The order is that of the ranks, or, where they are all the same, of the scores, or of the rows. Tied scores
        carry it; scores that contradict it (an LLM's order beside a retriever's scores) are replaced by −``rank``.

        Args:
            variant: a name in ``runs/``; None = TIRA's ``rerank.jsonl`` (with its text).

        Raises:
            ValueError: naming the line that is not of the format, or if a document stands twice in a list.
        """
        if variant is None:
            path = self._part("ranking", "rerank.jsonl")
            ranked = {number: _ranked(row, path, number) for number, row in json_lines(path)}
            results = pd.DataFrame(ranked.values())
            _check_once(results, path, list(ranked))
            return self._in_order(agreed(results))
        if variant not in self.runs():
            raise ValueError(f"{self!r} has no run {variant!r}, only: {', '.join(self.runs()) or 'none'}.")
        path = self._part("run", f"runs/{variant}.txt")
        results = whole_run(path).rename(columns={"run_rank": "rank", "run_score": "score"})
        _check_once(results, path)
        queries = self._queries()
        self._tell_lost(set(results["qid"]) - set(queries["qid"]), f"the run {variant!r}")
        return self._in_order(agreed(results).merge(queries, on="qid", how="inner"))

    def _in_order(self, results: pd.DataFrame) -> pd.DataFrame:
        """Results by query, as the topics stand, and by rank: a file may hold them in any order."""
        place = {qid: n for n, qid in enumerate(self._queries()["qid"])}
        keys = pd.DataFrame({"query": results["qid"].map(place).to_numpy(), "rank": results["rank"].to_numpy()})
        return results.iloc[keys.sort_values(["query", "rank"], kind="stable").index].reset_index(drop=True)

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


def _check_once(results: pd.DataFrame, path: Path, numbers: Sequence[int] | None = None) -> None:
    """Check that no document stands twice in a query's list; ``numbers`` are the lines, where they are known."""
    if not len(results):
        raise ValueError(f"{path} holds no ranking.")
    twice = results.duplicated(["qid", "docno"]).to_numpy()
    if twice.any():
        pair = tuple(results.loc[twice, ["qid", "docno"]].iloc[0])
        where = f"{path}" if numbers is None else f"{path}, line {numbers[int(twice.argmax())]}:"
        raise ValueError(f"{where} ranks (qid, docno) {pair} more than once ({int(twice.sum())} such).")


def _key(row: dict[str, Any], path: Path, number: int, *names: str) -> Any:
    for name in names:
        if name in row:
            return row[name]
    raise ValueError(f"line {number} of {path} has none of the fields {', '.join(names)}; it has {', '.join(row)}.")


def _ranked(row: dict[str, Any], path: Path, number: int) -> dict[str, Any]:
    """A line of ``rerank.jsonl``, checked."""
    ids = {name: plain_identifier(_key(row, path, number, name), path, number, name) for name in ("qid", "docno")}
    for name in ("rank", "score"):
        value = row.get(name, None if name == "rank" else 0.0)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"{path}, line {number}: the {name} must be a number, not {value!r}.")
    return {**row, **ids}


def _queries_of_jsonl(path: Path) -> Iterator[tuple[int, str, str]]:
    """Line, qid and text of each query."""
    for number, row in json_lines(path):
        qid = plain_identifier(_key(row, path, number, "_id", "qid"), path, number, "id of a query")
        query = _key(row, path, number, "query", "text")
        if not isinstance(query, str):
            raise ValueError(f"{path}, line {number}: the text of query {qid!r} is not a string.")
        yield number, qid, query


def _queries_of_tsv(path: Path) -> Iterator[tuple[int, str, str]]:
    """Line, qid and text of each query: two columns, or those that a first line of headings names."""
    first = next(lines(path), (0, ""))
    headings = first[1].split("\t")
    plain = [plain_name(heading) for heading in headings]
    ids = sorted((n for n, name in enumerate(plain) if name in QUERY_IDS), key=lambda n: plain[n] in QUERY_TEXTS)
    texts = [n for n, name in enumerate(plain) if name in QUERY_TEXTS and n not in ids[:1]]
    headed = len(plain) > 1 and bool(ids and texts)
    names, qid, query = (headings, ids[0], texts[0]) if headed else (["qid", "query"], 0, 1)
    for number, row in fields(path, names, "\t"):
        if not (headed and number == first[0]):
            yield number, plain_identifier(row[qid], path, number, "id of a query"), row[query]


def _judgements(
    path: Path, names: tuple[str, ...], separator: str | None
) -> Iterator[tuple[int, tuple[str, str], int]]:
    """Line, (qid, docno) and label of each judgement; a first line of headings is left out."""
    first = True
    for number, row in fields(path, names, separator):
        qid, docno, label = row[0], row[-2], row[-1]
        heading, first = first and plain_name(qid) in QUERY_IDS, False
        try:
            value = as_number(label)
        except ValueError:
            value = math.nan
        if value.is_integer():
            ids = (plain_identifier(cell, path, number, "id") for cell in (qid, docno))
            yield number, (next(ids), next(ids)), int(value)
        elif not (heading and math.isnan(value)):
            raise ValueError(f"{path}, line {number}: {label!r} is not a whole-number label.")
