"""What TIRA hands a submission: a directory with a collection, and a place for the run."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..corpora.folder import FolderDataset
from ..stores.files import read_object
from ..suites.membership import TIREX

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
