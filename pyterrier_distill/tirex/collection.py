"""What TIRA hands a submission: a directory with a collection, and a place for the run."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ..corpora.folder import FolderDataset
from ..stores.files import read_object
from ..stores.runs import NO_FIELD, holds
from ..suites.membership import TIREX
from . import check

logger = logging.getLogger(__name__)


def named(given: str | None, variables: tuple[str, ...], option: str, environment: Mapping[str, str]) -> str:
    """A directory that an option or an environment variable names.

    Args:
        given: by the option; None = it was not.
        variables: names of environment variables, the first that is there counts.
        option: its name, for the message.
        environment: the process's.

    Raises:
        ValueError: if nothing names it.
    """
    found = next((environment[name] for name in variables if environment.get(name)), None) if given is None else given
    if not found:
        raise ValueError(f"name a directory: with {option}, or as TIRA does, in ${' or $'.join(variables)}.")
    return found


def collection(path: str | os.PathLike) -> FolderDataset:
    """The collection in TIRA's layout, full-rank or re-rank.

    Raises:
        FileNotFoundError: if there is no such directory, or nothing to rank in it.
    """
    if not Path(path).is_dir():
        raise FileNotFoundError(f"{path}: no such directory; it must hold a collection in TIRA's layout.")
    try:
        dataset = FolderDataset(path)
    except FileNotFoundError:
        dataset = None
    if dataset is None or not (dataset.has_candidates() or dataset.has_corpus()):
        there = ", ".join(sorted(found.name for found in Path(path).iterdir())[:8]) or "nothing"
        raise FileNotFoundError(
            f"{path} holds no collection in TIRA's layout: expected rerank.jsonl (re-rank), or documents.jsonl or"
            f" corpus.jsonl and queries.jsonl (full-rank), gzipped or not; found {there}."
        )
    return dataset


def check_input(dataset: FolderDataset, topics: pd.DataFrame) -> None:
    """Check what ranking would find out late, or not at all, of a collection.

    Args:
        dataset: of :func:`collection`.
        topics: its queries, Q.

    Raises:
        ValueError: naming file and line of a document that is there twice, or of an id that a run cannot hold; for
            fewer queries than TIRA takes, or documents without a single word.
    """
    for qid in topics["qid"]:
        if not holds(qid):
            raise ValueError(f"{dataset.place_of_query(qid)}: a run cannot hold the qid {qid!r}: {NO_FIELD}.")
    candidates = dataset.has_candidates()
    docnos, words = set(), candidates
    for document in dataset.documents().values() if candidates else dataset.get_corpus_iter(verbose=False):
        docno = document["docno"]
        if docno in docnos:
            first, again = (dataset.place_of_document(docno, nth) for nth in (0, 1))
            raise ValueError(f"{again}: document {docno!r} is there already, see {first}.")
        if not holds(docno):
            where = dataset.place_of_document(docno)
            raise ValueError(f"{where}: a run cannot hold the docno {docno!r}: {NO_FIELD}.")
        docnos.add(docno)
        words = words or any(document.get(field, "").strip() for field in ("title", "text"))
    if not words:
        raise ValueError(f"none of the {len(docnos)} documents of {dataset.path} has a word.")
    if len(topics) < check.FEWEST_QUERIES:
        few = f"only {len(topics)}" if len(topics) else "no"
        raise ValueError(f"{dataset.path} has {few} queries; TIRA takes runs of at least {check.FEWEST_QUERIES}.")


def dataset_id(path: str | os.PathLike, given: str | None, environment: Mapping[str, Any]) -> str:
    """What TIRA calls the collection: as given, as its sandbox tells, or by the ir_datasets id in ``metadata.json``.

    Args:
        path: of the collection.
        given: a name, or None.
        environment: the process's; ``TIRA_DATASET_ID`` counts unless it is ``id``, which is what local runs tell.
    """
    told = environment.get("TIRA_DATASET_ID")
    if given or (told and told != "id"):
        return str(given or told)
    metadata = Path(path) / "metadata.json"
    known = read_object(metadata).get("ir_datasets_id") if metadata.is_file() else None
    if not isinstance(known, str) or not known:
        logger.warning("nothing says what TIRA calls the collection in %s: it is called %r.", path, Path(path).name)
        return Path(path).resolve().name
    frozen = {task.dataset: task.tirex_id for task in TIREX}
    return frozen.get(known, known.replace("/", "-"))
