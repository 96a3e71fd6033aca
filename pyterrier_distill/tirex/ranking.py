"""The run of a pipeline over a collection in TIRA's layout."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..corpora.folder import FolderDataset
from ..corpora.loading import read_topics
from ..frames.ids import check_ids
from ..frames.ranking import carried
from ..suites.context import Context
from ..suites.runs import check_answers
from ..suites.serving import pipeline_for
from . import check, collection

logger = logging.getLogger(__name__)

#: Documents of a query that TIREx measures.
DEPTH = 1000


def ranked(
    system: Any, dataset: FolderDataset, indexes: str | os.PathLike, name: str, depth: int = DEPTH
) -> pd.DataFrame:
    """Rank all queries of a collection.

    Args:
        system: as for ``Suite.compare``: a re-ranker, a pipeline, or a function of a ``Context`` that makes either.
        dataset: of :func:`~.collection.collection`.
        indexes: a directory for what is built of the collection.
        name: of the system, for messages.
        depth: documents of a query that are re-ranked, and that are kept.

    Returns:
        ``qid``, ``docno``, ``score``, ``rank`` from 0, in that order, queries as they come. Equal scores are in
        descending order of docno, as trec_eval puts them, and then made to fall from rank to rank.

    Raises:
        ValueError: naming file and line of bad input; if the pipeline's answers are none; if nothing is found at all.
    """
    topics = read_topics(dataset)
    check_ids(topics, ["qid"], f"the queries of {dataset!r}")
    topics = topics.assign(qid=topics["qid"].astype(str))
    collection.check_input(dataset, topics)
    pipeline = pipeline_for(name, system, Context(dataset, Path(indexes), name), depth)
    found = check_answers(pipeline(topics), topics, name)
    answered = set(found["qid"])
    unanswered = [qid for qid in topics["qid"] if qid not in answered]
    if len(unanswered) == len(topics):
        raise ValueError(f"{name} found no document for any of the {len(topics)} queries of {dataset.path}.")
    if unanswered:
        where = dataset.place_of_query(unanswered[0])
        logger.warning("%d queries find no document, such as %r (%s).", len(unanswered), unanswered[0], where)
    run = ordered(found, topics["qid"], depth)
    check.check_size(run["qid"], f"the run of {name}")
    return run


def ordered(found: pd.DataFrame, qids: pd.Series, depth: int = DEPTH) -> pd.DataFrame:
    """Rankings by score, as trec_eval reads it: a 32-bit float, equal ones in descending order of docno.

    Args:
        found: ``qid``, ``docno``, ``score``.
        qids: queries in the order of the run.
        depth: documents of a query that are kept.

    Raises:
        ValueError: for a score that is no finite number.
    """
    with np.errstate(over="ignore"):
        scores = found["score"].to_numpy(dtype=float).astype(np.float32).astype(float)
    if not np.isfinite(scores).all():
        row = found.iloc[int((~np.isfinite(scores)).argmax())]
        raise ValueError(f"document {row['docno']!r} of query {row['qid']!r} has no finite score: {row['score']}.")
    descending = -pd.factorize(found["docno"], sort=True)[0]
    scores, ranks = carried(found["qid"].to_numpy(), scores, descending)
    place = {qid: n for n, qid in enumerate(qids)}
    run = found[["qid", "docno"]].assign(score=scores, rank=ranks, place=found["qid"].map(place))
    run = run[run["rank"] < depth].sort_values(["place", "rank"], kind="stable")
    return run.drop(columns="place").reset_index(drop=True)
