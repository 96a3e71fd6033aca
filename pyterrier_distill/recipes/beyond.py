"""A student that is better than its own teacher: BM25 and a dense encoder, fused, taught to the dense encoder.

No query and no judgement of the collection is read. Queries are made of its documents; both retrievers score the union
of what they find, z-scores of both are added, and the encoder of queries learns the resulting distribution over a wide
list. Documents keep the teacher's vectors. Its weights are then averaged with those that it started from (Wortsman et
al. 2022), which keeps what it knew where the fused teacher is no better. ``--data``: one or more collections, each on
its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

import pyterrier_distill as ptd

from .claims import Claim
from .scales.beyond import Settings
from .site import teacher_of
from .study import Study

BM25, DENSE, FUSED = "BM25", "dense teacher", "fused teacher"
SAME, SMALL = "student", "student, two layers"


NEEDS: dict[str, str] = {}
MAY: dict[str, str] = {}
BETTER = "a student of the same size is better than its dense teacher"
KEEPS = "a student of two layers keeps its dense teacher's quality"
CLAIMS = [Claim(BETTER, "this recipe", SAME, DENSE), Claim(KEEPS, "this recipe", SMALL, DENSE, share=1.0)]


def run(study: Study, chosen: Settings) -> pd.DataFrame:
    """Train both students on each collection and measure them; see the module."""
    called = [on(study, chosen, name) for name in study.tests]
    each = [replace(claim, text=f"{claim.text}, on {name}", datasets=(name,)) for name in called for claim in CLAIMS]
    return study.finish([*CLAIMS, *(each if len(called) > 1 else ())], DENSE)


def on(study: Study, chosen: Settings, name: str) -> str:
    """Train and measure on one collection; gives the name by which tables call it."""
    site, teacher = study.site(name), teacher_of(chosen.teacher, chosen.max_length)
    study.same(name, teacher=teacher.fingerprint())
    index, dense = site.index(teacher), site.dense(teacher)
    lexical = ptd.RetrieverTeacher(site.bm25, missing=0.0, label="teacher_score_bm25")
    vectors = ptd.PointwiseTeacher(teacher.query_encoder() >> index.np_scorer(), label="teacher_score_dense")
    fused = lexical >> vectors >> ptd.fuse_teachers("teacher_score_bm25", "teacher_score_dense")
    found = (site.bm25 % 100 | dense) >> fused
    called = study.measure(name, {BM25: site.bm25, DENSE: dense, FUSED: found})
    labelling = (site.bm25 % chosen.depth | dense % chosen.depth) >> fused % chosen.depth
    for seed in chosen.seeds:
        queries = site.queries(chosen.queries, seed, chosen.titles)[["qid", "query"]]

        def labelled(seed: int = seed, queries: pd.DataFrame = queries) -> pd.DataFrame:
            store = ptd.LabelStore(study.work(name, f"labels-{seed}"))
            return store.build(labelling, queries, verbose=study.verbose).frame()

        for small, system in enumerate((SAME, SMALL)):
            encoder = ptd.BiEncoder.truncated(teacher, list(chosen.layers)) if small else teacher
            fresh = ptd.BiEncoder(encoder, doc_encoder=teacher, freeze_docs=True, doc_index=index)
            train = partial(trained, study, chosen, teacher, fresh, labelled, small, seed)
            student = study.student(f"{system} on {called}", train, seed)
            study.measure(name, {system: site.dense(student, teacher)}, seed=seed)
    return called


def trained(
    study: Study, chosen: Settings, teacher: Any, student: Any, labelled: Callable[[], pd.DataFrame], small: int,
    seed: int, place: Path,
) -> Any:  # fmt: skip
    """A student of the teacher's size, or of two layers."""
    loss: ptd.Loss = ptd.KLDivergence(chosen.sharpness, student_temperature=chosen.temperature)
    frame = labelled()
    if small:  # what was cut learns again what the teacher says of a query
        frame = teacher.query_encoder()(frame)
        loss = loss + ptd.EmbeddingMatch()
    start, *_ = student.snapshot()
    ptd.Distiller(
        student, loss, learning_rate=chosen.rate[small], queries_per_batch=chosen.batch[small],
        steps=chosen.steps[small], seed=seed, dropout=0.0, checkpoints=place, verbose=study.verbose,
    ).fit(frame)  # fmt: skip
    if not small:
        student.model.load_state_dict(averaged(start, student.model.state_dict(), chosen.kept))
    return student


def averaged(start: dict[str, Any], end: dict[str, Any], kept: float) -> dict[str, Any]:
    """Weights between those of the start (0) and of the end (1); what was not trained stays as it is, to the bit."""
    mixed = {}
    for name, last in end.items():
        first = start[name].to(last)
        moved = last.is_floating_point()
        mixed[name] = (first + kept * (last - first)).where(last != first, last) if moved else last
    return mixed
