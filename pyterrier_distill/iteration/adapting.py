"""A student for a collection that has no judgements, in one call."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt

from ..corpora.first_stage import bm25
from ..corpora.loading import read_documents
from ..distiller import Distiller
from ..generation.queries import explode_queries
from ..generation.spans import SpanQueries
from ..labels.store import LabelStore
from ..losses import Loss, RankNet
from .iterative import labelling


def adapt(
    student: Any,
    teacher: pt.Transformer,
    dataset: Any,
    path: str | os.PathLike,
    *,
    topics: pd.DataFrame | None = None,
    generator: pt.Transformer | None = None,
    filters: pt.Transformer | None = None,
    candidates: pt.Transformer | None = None,
    depth: int = 50,
    loss: Loss | None = None,
    **settings: Any,
) -> Any:
    """Train a student for a collection: queries, candidates, labels, training (InRanker §3; PairDistill §6.2).

    No judgement is read. Run again after whatever stopped it, it goes on: labels are stored, training resumes.

    Args:
        student: what is trained, in place.
        teacher: R → R with label columns; any other re-ranker's scores become ``teacher_score``.
        dataset: the collection: a PyTerrier dataset, its name, or a D frame with ``docno`` and ``text``.
        path: a directory for index, labels and checkpoints.
        topics: unlabelled queries of the domain, Q frame; None = queries are generated.
        generator: D → D with ``querygen``; None = five spans of every document.
        filters: R → R (or Q → Q) behind the generated queries.
        candidates: Q → R with text; None = BM25's first ``depth`` documents.
        depth: documents that the teacher sees of a query.
        loss: None = :class:`~pyterrier_distill.RankNet`, which any teacher and any student can use, with a temperature
            of 0.05 for students whose scores are cosines.
        **settings: of the :class:`~pyterrier_distill.Distiller`.

    Returns:
        ``student``.

    Raises:
        ValueError: for a collection without texts, or queries that find nothing.
    """
    path = Path(path)
    documents = read_documents(dataset)
    if topics is None:
        generated = explode_queries()((generator or SpanQueries(n=5))(documents))
        topics = (filters(generated) if filters is not None else generated)[["qid", "query"]]
    if candidates is None:
        first = bm25(path / "bm25", documents.to_dict("records"), num_results=depth)
        candidates = first >> pt.apply.generic(
            lambda found: found.merge(documents[["docno", "text"]], on="docno", how="left"), required_columns=["docno"]
        )
    labels = LabelStore(path / "labels")
    cached = LabelStore(path / "answers").cache(teacher)
    chosen: Mapping[str, Any] = {"checkpoints": path / "training", **settings}
    if loss is None:
        loss = RankNet(temperature=0.05) if getattr(student, "scores_cosines", False) else RankNet()
    distiller = Distiller(student, loss, **chosen)
    labels.build(labelling(candidates % depth, cached, distiller), topics, with_text=True, batch_size=1024)
    distiller.fit(labels)
    return student
