"""Collections and rankings of the commands: pipelines of candidates with text, topics, judgements."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt

from ..corpora.first_stage import bm25
from ..corpora.loading import dataset_named, read_topics
from ..frames.document_text import JoinedText, joined_texts

_LINES = {".tsv": "\t", ".csv": ","}


def collection(name: str) -> Any:
    """A dataset by the name that the command line takes: ``irds:ID``, ``folder:PATH`` or ``pydocs``."""
    return dataset_named(name)


def topics(dataset: Any, file: str | os.PathLike | None = None) -> pd.DataFrame:
    """The queries of a collection, or those of a file.

    Args:
        dataset: a PyTerrier dataset.
        file: lines of qid TAB query (``.csv``: comma); ``.jsonl``: objects with ``qid`` (or ``_id``) and ``query`` (or
            ``text``); None = the collection's.

    Raises:
        FileNotFoundError: if the file is not there.
        ValueError: if it holds no queries.
    """
    if file is None:
        return read_topics(dataset)
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give one of lines qid TAB query.")
    if path.suffix in (".jsonl", ".json"):
        found = pd.read_json(path, lines=True, dtype=str).rename(columns={"_id": "qid", "text": "query"})
    else:
        found = pd.read_csv(path, sep=_LINES.get(path.suffix, "\t"), header=None, dtype=str, quoting=3)
        found = found.iloc[:, :2].set_axis(["qid", "query"][: found.shape[1]], axis=1)
    if "query" not in found.columns or not len(found):
        raise ValueError(f"{path} holds no queries: give lines of qid TAB query, or JSON lines with qid and query.")
    return found[["qid", "query"]]


def candidates(dataset: Any, index: str | os.PathLike, depth: int, run: str | os.PathLike | None = None) -> Any:
    """Q → R with text: BM25's first documents, or those of a stored run.

    Args:
        dataset: a PyTerrier dataset.
        index: directory of BM25's index, which is made there if it is not.
        depth: documents of a query.
        run: a TREC run; None = BM25.
    """
    if run is not None:
        from ..teachers.run import RunTeacher

        first = RunTeacher(run, by="rank") >> pt.apply.generic(_as_ranked, required_columns=["qid", "query", "docno"])
    else:
        records = ({"docno": docno, "text": text} for docno, text, _ in joined_texts(dataset))
        first = bm25(index, records, num_results=depth)
    return first % depth >> JoinedText(dataset)


def _as_ranked(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.drop(columns="teacher_rank")
