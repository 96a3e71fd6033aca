"""USTAD and EmbedDistill (Kim et al. 2024): one encoder with three modes, and small students of its embeddings.

Table 1: an encoder is trained in every subset of its modes. Tables 2 and 4: students of a USTAD and of a dual encoder,
in seven rows, each adding one thing. ``--data``: ``train=`` judged queries; and the collections that are measured on.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

import pyterrier_distill as ptd

from .claims import Claim
from .embed_distill import ALONE, ALONE_GENERATED, ROWS, inherits, learnt
from .scales.ustad import DE, SUBSETS, Settings
from .site import Site, checkpoint, teacher_of
from .study import Study

MODES = ("cross", "late", "dual")
MEASURES = ("nDCG@10", "RR@10")
NEEDS = {"train": "judged queries"}
MAY: dict[str, str] = {}


def claims(chosen: Settings) -> list[Claim]:
    """The paper's, for these teachers and sizes."""
    found = []
    whole = chosen.subsets[-1]
    for mode in MODES:
        if whole == SUBSETS[-1] and mode in chosen.subsets:
            text = f"trained in all modes, it ranks as well in {mode} mode as trained in that one alone"
            found.append(Claim(text, "Table 1", _mode(whole, mode), _mode(mode, mode), share=0.98))
    for teacher in chosen.teachers:
        for size in chosen.students:
            named = partial(_row, size, teacher)
            steps = zip(ROWS[:4], ROWS[1:5], strict=True)
            for before, after in [*steps, (ALONE, ALONE_GENERATED)]:
                text = f"{after.removeprefix('+ ')} helps ({_sized(size)}, from a {teacher})"
                found.append(Claim(text, "Table 4", named(after), named(before)))
            text = f"a query encoder of {_sized(size)} keeps 99% of the {teacher}"
            source = "this recipe's own aim; Table 4 has 98% and 89%"
            found.append(Claim(text, source, named(ALONE_GENERATED), teacher, share=0.99))
    return found


def run(study: Study, chosen: Settings) -> pd.DataFrame:
    """Train and measure; see the module."""
    train = study.the("train")
    for seed in chosen.seeds:
        unified = {}
        for subset in chosen.subsets:
            made = study.student(f"USTAD {subset}", partial(_unified, study, chosen, train, subset, seed), seed)
            unified[subset] = made
            for name in study.tests:
                modes = {_mode(subset, mode): made.in_mode(mode) for mode in MODES}
                study.measure(name, modes, seed=seed, depth=chosen.measured, measures=MEASURES)
        last = unified[chosen.subsets[-1]]
        for kind in chosen.teachers:
            teacher = teacher_of(chosen.dual) if kind == DE else last
            encoder = teacher if kind == DE else last.as_bi_encoder()
            for name in study.tests:
                study.measure(name, {kind: study.site(name).dense(encoder)}, seed=seed, measures=MEASURES)
            for size in chosen.students:
                for row in ROWS:
                    system = _row(size, kind, row)
                    learn = partial(learnt, study, chosen, train, teacher, encoder, size, row, seed)
                    student = study.student(system, learn, seed)
                    for name in study.tests:
                        found = study.site(name).dense(student, encoder if inherits(row) else None)
                        study.measure(name, {system: found}, seed=seed, measures=MEASURES)
    return study.finish(claims(chosen), chosen.teachers[0])


def _sized(size: Any) -> str:
    return size.rpartition("/")[2] if isinstance(size, str) else f"{len(size)} layers"


def _row(size: Any, teacher: str, row: str) -> str:
    return f"{_sized(size)}, {row} ({teacher})"


def _mode(subset: str, mode: str) -> str:
    return f"USTAD {subset}, ranking by {mode}"


def _unified(study: Study, chosen: Settings, train: Site, subset: str, seed: int, place: Path) -> Any:
    """A USTAD trained in some modes (Eq. 8)."""
    modes = tuple(subset.split("+"))
    query, whole = chosen.lengths
    student = ptd.USTAD(
        checkpoint(chosen.model), modes=modes, query_length=query, max_length=whole, scale={"late": chosen.scale}
    )
    wanted = chosen.steps[0] * chosen.batch[0]
    lists = train.lists(train.judged(wanted, seed), train.first_stage, chosen.depth, chosen.negatives, seed)
    loss: ptd.Loss = ptd.LocalizedContrastive()
    if len(modes) > 1:
        loss = loss + chosen.match * ptd.ScoreMatch()
    sampler = ptd.ListSampler(1 + chosen.negatives, strategy="with_positive", seed=seed)  # of several, one
    return study.fit(
        student, loss, lists, place, seed, sampler=sampler, steps=chosen.steps[0], queries_per_batch=chosen.batch[0],
        learning_rate=chosen.rate[0], warmup=min(1.0, chosen.warmup / chosen.steps[0]),
    )  # fmt: skip
