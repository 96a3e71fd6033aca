"""The students of USTAD's Tables 2 and 4: seven ways to learn a teacher's scores and embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

import pyterrier_distill as ptd

from .site import Site
from .study import Study

ROWS = (
    "trained directly", "+ distilled", "+ inherits documents", "+ query embedding matching", "+ query generation",
    "matching alone", "matching alone + query generation",
)  # fmt: skip
DIRECT, DISTILLED, INHERITS, MATCHED, GENERATED, ALONE, ALONE_GENERATED = ROWS


def inherits(row: str) -> bool:
    """Whether a student's documents are the teacher's vectors."""
    return row not in (DIRECT, DISTILLED)


def student_of(
    size: tuple[int, ...] | str, teacher: Any, row: str, index: Any, width: int
) -> ptd.BiEncoder:
    """An untrained student.

    Args:
        size: layers that are kept of the teacher's checkpoint, or a checkpoint.
        teacher: a BiEncoder, or a USTAD.
        row: one of :data:`ROWS`.
        index: a FlexIndex of the teacher's vectors.
        width: of these.
    """
    unified = isinstance(teacher, ptd.USTAD)
    start: Any
    settings: dict[str, Any] = {"similarity": "dot" if unified else teacher.similarity}
    if isinstance(size, str):  # a narrower model's vectors become as wide as the teacher's
        start, settings = size, {**settings, "projection": width, "pooling": "cls"}
    elif unified:
        start, settings = teacher.name_or_path, {**settings, "layers": list(size), "pooling": teacher.pooling}
    else:
        start, settings = ptd.BiEncoder.truncated(teacher, list(size)), {}
    if not inherits(row):
        return ptd.BiEncoder(start, **settings)
    return ptd.BiEncoder(start, doc_encoder=teacher, freeze_docs=True, doc_index=index, **settings)


def loss_of(row: str, temperature: float, weight: float) -> ptd.Loss:
    """What a row learns by: one-hot labels (Eq. 14), in-batch distillation (Eq. 16), embedding matching (Eq. 10)."""
    if row == DIRECT:
        return ptd.InfoNCE(temperature)
    if row in (ALONE, ALONE_GENERATED):
        return ptd.EmbeddingMatch()
    distilled = ptd.KLDivergence(temperature, in_batch=True)
    return distilled + weight * ptd.EmbeddingMatch() if row in (MATCHED, GENERATED) else distilled


def generated(chosen: Any, site: Site, topics: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Q: further queries: perturbed ones (App. C), or spans of documents where no encoder-decoder is named.

    Beside lists two stand for each judged query, as in the paper; alone all do.
    """
    if chosen.writer is None:
        return site.queries(chosen.generated, seed)[["qid", "query"]]
    little, much = (
        ptd.QueryPerturbation(chosen.writer, noise=noise, n=1, keep_original=False, suffix=suffix, seed=seed)
        for noise, suffix in ((0.1, "little"), (0.2, "much"))
    )
    return pd.concat([little(topics), much(topics)], ignore_index=True)[["qid", "query"]]


def learnt(
    study: Study, chosen: Any, site: Site, teacher: Any, encoder: Any, size: Any, row: str, seed: int, place: Path
) -> ptd.BiEncoder:
    """A trained student.

    Args:
        study: whose run it is.
        chosen: settings of the recipe.
        site: with judged queries.
        teacher: a BiEncoder, or a USTAD.
        encoder: the teacher as a bi-encoder.
        size: of the student.
        row: one of :data:`ROWS`.
        seed: of draws and training.
        place: a directory for checkpoints.
    """
    index = site.index(encoder)
    topics = site.judged(chosen.queries, seed)
    frame = encoder.query_encoder()(topics if row in (ALONE, ALONE_GENERATED) else site.pairs(topics, seed))
    if "docno" in frame.columns:
        frame = frame.merge(_vectors(index, frame["docno"]), on="docno")
    queries = None
    if row in (GENERATED, ALONE_GENERATED):
        made = generated(chosen, site, topics, seed)
        queries = encoder.query_encoder()(made if row == ALONE_GENERATED else made.head(2 * len(topics)))
    if row == ALONE_GENERATED:
        frame, queries = pd.concat([frame[["qid", "query", "query_vec"]], queries], ignore_index=True), None
    which = 2 if inherits(row) else 1
    steps = chosen.steps[3 if row == ALONE_GENERATED else which]
    rate = chosen.rate[which + 2 if isinstance(teacher, ptd.USTAD) else which]
    temperature = chosen.temperatures[isinstance(teacher, ptd.USTAD)]
    student = student_of(size, teacher, row, index, len(frame["query_vec"].iloc[0]))
    return study.fit(
        student, loss_of(row, temperature, chosen.weight), frame, place, seed, queries=queries,
        steps=steps, queries_per_batch=chosen.batch[which], learning_rate=rate, warmup=min(1.0, chosen.warmup / steps),
        dropout=0.0,
    )  # fmt: skip


def _vectors(index: Any, docnos: pd.Series) -> pd.DataFrame:
    """``docno``, ``doc_vec`` of documents of an index."""
    wanted = pd.DataFrame({"docno": docnos.drop_duplicates()})
    return index.vec_loader()(wanted)[["docno", "doc_vec"]]
