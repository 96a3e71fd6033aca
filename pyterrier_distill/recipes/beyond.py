"""A student that is better than its own teacher: BM25 and a dense encoder, fused, taught to the dense encoder.

No query and no judgement of the collection is read. Queries are made of its documents; both retrievers score the union
of what they find, z-scores of both are added, and the encoder of queries learns the resulting distribution over a wide
list. Documents keep the teacher's vectors. Its weights are then averaged with those that it started from (Wortsman et
al. 2022), which keeps what it knew where the fused teacher is no better. An encoder of two layers then learns its
vectors of many more queries. ``--data``: one or more collections, each on its own.
"""

from __future__ import annotations

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
        made = partial(site.queries, seed=seed, titles=chosen.titles)  # only when there is something to train
        parts = (teacher, ptd.BiEncoder.truncated(teacher, list(chosen.layers)))
        same, small = (
            ptd.BiEncoder(part, doc_encoder=teacher, freeze_docs=True, doc_index=index) for part in parts
        )
        student = study.student(
            f"{SAME} on {called}", partial(_same, study, chosen, same, labelling, made, name, seed), seed
        )
        study.measure(name, {SAME: site.dense(student, teacher)}, seed=seed)
        little = study.student(
            f"{SMALL} on {called}", partial(_small, study, chosen, small, student, made, seed), seed
        )
        study.measure(name, {SMALL: site.dense(little, teacher)}, seed=seed)
    return called


def _same(
    study: Study, chosen: Settings, student: Any, labelling: Any, made: Any, name: str, seed: int, place: Path
) -> Any:  # fmt: skip
    """A student of the teacher's size, of the fused scores."""
    queries = made(chosen.queries[0])[["qid", "query"]]
    store = ptd.LabelStore(study.work(name, f"labels-{seed}")).build(labelling, queries, verbose=study.verbose)
    start, *_ = student.snapshot()
    loss = ptd.KLDivergence(chosen.sharpness, student_temperature=chosen.temperature)
    study.fit(student, loss, store.frame(), place, seed, **_settings(chosen, 0))
    student.model.load_state_dict(averaged(start, student.model.state_dict(), chosen.kept))
    return student


def _small(
    study: Study, chosen: Settings, student: Any, teacher: Any, made: Any, seed: int, place: Path
) -> Any:
    """A student of two layers, of that student's vectors of many queries."""
    queries = teacher.query_encoder()(made(chosen.queries[1])[["qid", "query"]])
    return study.fit(student, ptd.EmbeddingMatch(), queries, place, seed, **_settings(chosen, 1))


def _settings(chosen: Settings, which: int) -> dict[str, Any]:
    return {
        "learning_rate": chosen.rate[which], "queries_per_batch": chosen.batch[which], "steps": chosen.steps[which],
        "dropout": 0.0,
    }  # fmt: skip


def averaged(start: dict[str, Any], end: dict[str, Any], kept: float) -> dict[str, Any]:
    """Weights between those of the start (0) and of the end (1); what was not trained stays as it is, to the bit."""
    mixed = {}
    for name, last in end.items():
        first = start[name].to(last)
        moved = last.is_floating_point()
        mixed[name] = (first + kept * (last - first)).where(last != first, last) if moved else last
    return mixed
