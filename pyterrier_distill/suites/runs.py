"""What pipelines found, kept: a TREC run for each pipeline and dataset, and what there is of it while it is made."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt

from ..engine import progress
from ..frames import validate
from ..frames.ids import check_ids
from ..frames.ranking import agreed
from ..identity.identity import digest, hash_frame
from ..stores.files import json_lines, written
from ..stores.formats import whole_run
from ..stores.runs import write_lines

logger = logging.getLogger(__name__)

#: Queries asked and written down at once: as many are asked again after a kill, at most.
BLOCK = 16
COLUMNS = ["qid", "docno", "score", "rank"]


class Runs:
    """A directory of runs.

    A run has the name of its system and a key: what decides the pipeline's answers, the topics, and how deep it is cut.
    It is written query by query, so that one that was interrupted goes on where it stopped, and is moved to its place
    when it is whole.

    Args:
        directory: where they are; made when first needed.
    """

    def __init__(self, directory: str | os.PathLike):
        self.directory = Path(directory)

    def get(
        self,
        system: str,
        pipeline: pt.Transformer,
        dataset: str,
        topics: pd.DataFrame,
        *,
        key: str,
        depth: int = 1000,
        drop_self: bool = False,
        verbose: bool = False,
    ) -> pd.DataFrame:
        """The run of a pipeline, from disk or made now.

        Args:
            system: its name.
            pipeline: Q → R.
            dataset: a name.
            topics: Q.
            key: of the pipeline, by :func:`~.keys.key_of`.
            depth: documents of a query that are kept.
            drop_self: whether a document that has the query's id is left out.
            verbose: whether to show progress.

        Returns:
            R: ``qid``, ``docno``, ``score``, ``rank`` from 0; ``score`` says the order of ``rank``.

        Raises:
            ValueError: if the pipeline gives other queries, a document twice, or no score.
        """
        told = {"pipeline": key, "topics": hash_frame(topics), "depth": depth, "drop_self": drop_self}
        place = self.directory / file_name(dataset) / f"{file_name(system)}-{digest(told)[:12]}"
        whole = place.with_name(place.name + ".txt.gz")
        if not whole.exists():
            place.mkdir(parents=True, exist_ok=True)
            found = self._made(place, system, pipeline, dataset, topics, depth, drop_self, verbose)
            _write(found, whole, system)
            shutil.rmtree(place, ignore_errors=True)
        return _read(whole)

    def _made(
        self,
        place: Path,
        system: str,
        pipeline: pt.Transformer,
        dataset: str,
        topics: pd.DataFrame,
        depth: int,
        drop_self: bool,
        verbose: bool,
    ) -> pd.DataFrame:
        """Ask about the topics that are not answered yet, a few at a time, and write down each few."""
        answered: dict[str, dict[str, Any]] = {}
        parts = sorted(place.glob("*.jsonl.gz"))
        for part in parts:
            answered.update((row["qid"], row) for _, row in json_lines(part))
        left = set(topics["qid"]) - set(answered)
        with (
            progress.quiet_openings(),
            progress.bar(total=len(left), desc=f"{system} on {dataset}", unit="q", verbose=verbose) as bar,
        ):
            for number, (start, end) in enumerate(_blocks(len(topics))):
                some = topics.iloc[start:end]
                some = some[some["qid"].isin(left)].reset_index(drop=True)
                if not len(some):
                    continue
                rows = _answers(pipeline(some), some, system, depth, drop_self)
                with written(place / f"{number:06d}-{os.getpid()}.jsonl.gz") as file:
                    file.writelines(json.dumps(row) + "\n" for row in rows)
                answered.update((row["qid"], row) for row in rows)
                bar.update(len(some))
        ranked = [
            (qid, docno, score, rank)
            for qid in topics["qid"]
            for rank, (docno, score) in enumerate(zip(answered[qid]["docnos"], answered[qid]["scores"], strict=True))
        ]
        return pd.DataFrame(ranked, columns=COLUMNS)


def _blocks(count: int) -> Iterator[tuple[int, int]]:
    """Where blocks of queries begin and end: small ones first, and the same however often a run is interrupted.

    In half precision a score depends, in its last digits, on what is computed with it.
    """
    start, size = 0, 1
    while start < count:
        end = min(count, start + size)
        yield start, end
        start, size = end, min(BLOCK, end)


def check_answers(found: pd.DataFrame, topics: pd.DataFrame, system: str) -> pd.DataFrame:
    """What a pipeline found, checked: ``qid``, ``docno``, ``score``, ``rank``, ids as strings.

    Args:
        found: R.
        topics: Q that it was asked.
        system: its name, for messages.

    Raises:
        ValueError: for results of another query, a document twice, an id that is missing, or no score.
    """
    validate.columns(found, includes=COLUMNS)
    found = found[COLUMNS]
    if len(found):
        check_ids(found, ["qid", "docno"], f"the results of {system!r}")
    found = found.astype({"qid": str, "docno": str})
    if strange := sorted(set(found["qid"]) - set(topics["qid"])):
        raise ValueError(f"{system!r} gave results of a query that it was not asked, {strange[0]!r}.")
    if (twice := found.duplicated(["qid", "docno"])).any():
        row = found[twice].iloc[0]
        raise ValueError(f"{system!r} gave document {row['docno']!r} twice for query {row['qid']!r}.")
    if found["score"].isna().any():
        row = found[found["score"].isna()].iloc[0]
        raise ValueError(f"{system!r} gave document {row['docno']!r} of query {row['qid']!r} no score (NaN).")
    return found


def _answers(
    found: pd.DataFrame, topics: pd.DataFrame, system: str, depth: int, drop_self: bool
) -> list[dict[str, Any]]:
    """One row a topic: its documents, best first, and their scores.

    Raises:
        ValueError: if these are no answers to the topics.
    """
    found = check_answers(found, topics, system)
    if drop_self:
        found = found[found["qid"] != found["docno"]]
    found = agreed(found).sort_values(["qid", "rank"], kind="stable")
    found = found[found["rank"] < depth]
    lists = {qid: rows for qid, rows in found.groupby("qid", sort=False)}
    empty = found.iloc[:0]
    return [
        {"qid": qid, "docnos": (rows := lists.get(qid, empty))["docno"].tolist(), "scores": rows["score"].tolist()}
        for qid in topics["qid"]
    ]


def _write(found: pd.DataFrame, path: Path, system: str) -> None:
    tag = re.sub(r"\s+", "_", system) or "run"
    with written(path) as file:
        write_lines(file, found, tag)


def _read(path: Path) -> pd.DataFrame:
    found = whole_run(path).rename(columns={"run_rank": "rank", "run_score": "score"})
    return found.assign(rank=found["rank"].astype(int) - 1)[COLUMNS]


def file_name(name: str) -> str:
    """A file's name for any name: letters, digits, and what tells apart names that look alike without the rest."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:60]
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
