"""A student for a collection that has no judgements, in one call."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt

from ..corpora.first_stage import bm25
from ..corpora.loading import read_documents
from ..corpora.on_disk import DocumentsOnDisk
from ..distiller import Distiller
from ..frames import LABEL, given, validate
from ..generation.queries import explode_queries, positives
from ..generation.spans import SpanQueries
from ..generation.store import QueryStore
from ..generation.synthetic import SyntheticQueryGen
from ..identity.identity import hash_frame
from ..labels.store import LabelStore
from ..losses import Loss, RankNet
from ..stores.pipelines import stages_of
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

    No judgement is read: losses and samplers that need some take each generated query's own document as relevant to it.
    Run again after whatever stopped it, it goes on: a language model's queries and the labels are stored, training
    resumes.

    Args:
        student: what is trained, in place.
        teacher: R → R with label columns; any other re-ranker's scores become ``teacher_score``.
        dataset: the collection: a PyTerrier dataset, its name, or dicts with ``docno`` and ``text`` (and ``title``),
            of which no more than 8,192 are in memory at once; or a D frame with ``docno`` and ``text``.
        path: a directory for documents, index, queries, labels and checkpoints.
        topics: unlabelled queries of the domain, Q frame; None = queries are generated.
        generator: D → D with ``querygen``; None = five spans of every document. What a
            :class:`~pyterrier_distill.SyntheticQueryGen`, or a pipeline with one, writes is kept in a store in
            ``path``; any other generator writes anew each time, unless it is a
            :meth:`~pyterrier_distill.QueryStore.cache`. One that looks at all documents at once, such as
            ``KeyphraseQueries`` without ``frequencies=``, gets them all.
        filters: R → R (or Q → Q) behind the generated queries, which get all of them at once, with their documents.
        candidates: Q → R with text; None = BM25's first ``depth`` documents.
        depth: documents that the teacher sees of a query.
        loss: None = :class:`~pyterrier_distill.RankNet`, which any teacher and any student can use, with a temperature
            of 0.05 for students whose scores are cosines.
        **settings: of the :class:`~pyterrier_distill.Distiller`.

    Returns:
        ``student``.

    Raises:
        ValueError: for a collection without texts, settings of generated queries beside given ones, filters that leave
            no queries, or queries that find nothing.

    Example::

        ptd.adapt(student, teacher, "irds:beir/scifact/test", "adapted", loss=ptd.KLDivergence(temperature=0.05))
    """
    if topics is not None and (generator is not None or filters is not None):
        raise ValueError("with topics= no queries are generated: leave generator= and filters= out.")
    if topics is not None:
        topics = given.topics(topics)
        validate.query_frame(topics, ["query"])
    path = Path(path)
    collection, documents = _read(dataset, path)
    if loss is None:
        loss = RankNet(temperature=0.05) if getattr(student, "scores_cosines", False) else RankNet()
    qrels = None
    if topics is None:
        generator = generator or SpanQueries(n=5)
        if any(isinstance(stage, SyntheticQueryGen) for stage in stages_of(generator)):
            generator = QueryStore(path / "queries").cache(generator)
        generated = _generated(generator, collection, documents, with_text=filters is not None)
        left = filters(generated) if filters is not None else generated
        if not len(left):
            raise ValueError(f"no queries to train on: {len(generated)} were generated, and the filters leave none.")
        topics = left[["qid", "query"]]
        if LABEL in loss.columns() or getattr(settings.get("sampler"), "reads_judgements", False):
            qrels = positives(generated[generated["qid"].isin(topics["qid"])])
    if candidates is None and collection is not None:
        first = bm25(path / f"bm25-{collection.content}", collection.records(), num_results=depth)
        candidates = first >> collection.text_loader()
    elif candidates is None:
        content = hash_frame(documents[["docno", "text"]])  # other documents, another index
        records = documents[["docno", "text"]].to_dict("records")
        first = bm25(path / f"bm25-{content}", records, num_results=depth)
        candidates = first >> pt.apply.generic(
            lambda found: found.merge(documents[["docno", "text"]], on="docno", how="left"), required_columns=["docno"]
        )
    labels = LabelStore(path / "labels")
    cached = LabelStore(path / "answers").cache(teacher)
    chosen: Mapping[str, Any] = {"checkpoints": path / "training", **settings}
    distiller = Distiller(student, loss, **chosen)
    verbose = bool(settings.get("verbose", True))
    pipeline = labelling(candidates % depth, cached, distiller)
    labels.build(pipeline, topics, with_text=True, batch_size=1024, verbose=verbose)
    if not labels.documents:
        raise ValueError(f"none of {len(topics)} queries finds a document: check topics and candidates.")
    distiller.fit(labels, qrels)
    return student


def _read(dataset: Any, path: Path) -> tuple[DocumentsOnDisk | None, pd.DataFrame]:
    """The collection on disk, and no documents in memory; or a frame of them all, where it was given so."""
    if isinstance(dataset, pd.DataFrame):
        return None, read_documents(dataset)
    new = not (path / "documents").exists()
    collection = DocumentsOnDisk.write(path / "documents", dataset)
    if not new or not (path / f"bm25-{collection.content}").exists():
        return collection, pd.DataFrame()
    # Begun by a version that read collections whole, whose labels name the frame as the place of the texts.
    documents = pd.concat(collection.blocks(), ignore_index=True)
    shutil.rmtree(collection.path)
    return None, documents


def _generated(
    generator: pt.Transformer, collection: DocumentsOnDisk | None, documents: pd.DataFrame, *, with_text: bool
) -> pd.DataFrame:
    """The queries of all documents, written block by block where the generator does not look at all at once."""
    blocks = collection.blocks() if collection is not None else iter([documents])
    if any(getattr(stage, "reads_whole_frame", False) for stage in stages_of(generator)):
        blocks = iter([pd.concat(blocks, ignore_index=True)])
    kept = []
    for block in blocks:
        rows = explode_queries()(generator(block))
        kept.append(rows if with_text else rows[["docno", "qid", "query"]])
    return pd.concat(kept, ignore_index=True)
