"""PairDistill (Huang and Chen 2024): a retriever learns a pointwise teacher's scores and a pairwise one's preferences.

A first stage's ranking is re-ranked by a pointwise teacher; pairs of its documents, fewer than ten ranks apart, are
compared by a pairwise one; the student learns InfoNCE + λ_KD · KL + λ_pair · PairwiseKL, and finds the candidates of
the next round itself. ``--data``: ``train=`` judged queries, and the collections that are measured on. Without
labels it learns L_ZS (§4.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt

import pyterrier_distill as ptd

from .claims import Claim
from .scales.pairdistill import CONTRASTIVE, LATE, NO_DELTA, NO_KD, NO_PAIR, OTHER, START, WHOLE, ZERO, Settings
from .site import Site, checkpoint, teacher_of
from .study import Study

NEEDS = {"train": "judged queries"}
MAY: dict[str, str] = {}
MEASURES = ("nDCG@10", "RR@10", "R@1000")  # of TREC DL and BEIR; the others of MS MARCO (§5.1)


def claims(chosen: Settings) -> list[Claim]:
    """The paper's, ablations compared with as many rounds."""
    alike = _called(WHOLE, chosen.alike, chosen.rounds)
    return [
        Claim("PairDistill is better than its initialisation", "Table 1", WHOLE, START),
        Claim("the pair loss helps", "Table 3", alike, NO_PAIR),
        Claim("the pointwise loss helps", "Table 3", alike, NO_KD),
        Claim("pairs of near ranks teach more", "Table 3", alike, NO_DELTA),
        Claim("it hardly matters what the student starts from", "Table 3", OTHER, alike, share=0.99),
        Claim("distillation is better than labels alone", "Table 3, DPR + L_KD + L_pair", alike, CONTRASTIVE),
        Claim("without labels, too, the student is better than before", "§6.2", ZERO, START),
        Claim("a second round helps", "Table 3", WHOLE, _called(WHOLE, 1, chosen.rounds)),
        Claim("a third round does not", "Table 3", _called(WHOLE, 3, chosen.rounds), WHOLE, no_better=True),
        Claim("λ_pair = 3 is better than 1", "Table 6", alike, f"{WHOLE}, λ_pair = 1"),
        Claim("late interaction is better than before, too", "Table 1", f"{WHOLE}, {LATE}", f"{START}, {LATE}"),
        Claim("a dense student is better than before, too", "Table 3", f"{WHOLE}, dense", f"{START}, dense"),
        Claim("in another domain, too, the pair loss helps", "Table 4", why_not="the recipe adapts to no other domain"),
    ]


def run(study: Study, chosen: Settings) -> pd.DataFrame:
    """Train and measure; see the module."""
    train = study.the("train")
    pointwise = ptd.PointwiseTeacher(chosen.pointwise or teacher_of(None))
    for name in study.tests:
        site = study.site(name)
        ranked = site.first_stage % chosen.depth >> site.text >> pointwise
        study.measure(name, {"BM25": site.first_stage % 1000, "pointwise teacher": ranked}, measures=MEASURES)
    for seed in chosen.seeds:
        pairwise = _pairwise(study, chosen, train, seed)
        for name in study.tests:
            site = study.site(name)
            best = site.first_stage % chosen.depth >> site.text >> pointwise % chosen.compared_first
            ranked = {f"pairwise teacher, top {chosen.compared_first}": best >> pairwise(None, None)}
            study.measure(name, ranked, seed=seed, measures=MEASURES)
        for system, given, kind in _systems(chosen):
            for number, student in _rounds(study, given, train, kind, pointwise, pairwise, system, seed):
                found = {_called(system, number, given.rounds): study.ranker(student)}
                for name in study.tests:
                    study.measure(name, found, seed=seed, measures=MEASURES)
    return study.finish(claims(chosen), START)


def _called(system: str, number: int, rounds: int) -> str:
    """A system's student of a round, as tables call it."""
    return system if number == rounds else f"{system}, round {number}"


def _systems(chosen: Settings) -> Iterator[tuple[str, Settings, str]]:
    """Name, settings and kind of each student; no rounds = before training."""
    main = chosen.students[0]
    kd, pair = chosen.weights
    for kind in chosen.students:
        suffix = "" if kind == main else f", {LATE if kind == 'late' else 'dense'}"
        yield START + suffix, replace(chosen, rounds=0, third=False), kind
        rounds = chosen.rounds if kind == main else chosen.alike
        yield WHOLE + suffix, replace(chosen, rounds=rounds, third=chosen.third and kind == main), kind
    alike = replace(chosen, rounds=chosen.alike, third=False)
    changed = {
        NO_PAIR: {"weights": (kd, 0.0)}, NO_KD: {"weights": (0.0, pair)}, NO_DELTA: {"delta": None},
        OTHER: {"model": chosen.other, "layers": None, "first": "BM25"},
        ZERO: {"labels": False}, CONTRASTIVE: {"weights": (0.0, 0.0)},
    }  # fmt: skip
    for name in chosen.ablations:
        if name != OTHER or chosen.other is not None:
            yield name, replace(alike, **changed[name]), main  # type: ignore[arg-type]
    for value in chosen.lambdas:
        yield f"{WHOLE}, λ_pair = {value:g}", replace(alike, weights=(kd, value)), main


def _pairwise(study: Study, chosen: Settings, train: Site, seed: int) -> Callable[..., pt.Transformer]:
    """What makes a pairwise teacher that compares so many pairs."""
    if chosen.pairwise is not None:
        return lambda pairs, delta: ptd.PairwiseTeacher(chosen.pairwise, pairs, delta, seed=seed)
    place, longest = study.work(f"pairwise-{seed}"), chosen.lengths[0] + 2 * chosen.lengths[1]
    if not (place / "config.json").exists():
        queries, pairs, rate = chosen.compared
        study.say("training the pairwise teacher")
        training = ptd.PairTraining(learning_rate=rate, pairs_per_query=pairs, batch_size=16, dropout=0.0)
        teacher = ptd.PairwiseTeacher(
            checkpoint(chosen.model), kind="classifier", max_length=longest, training=training, seed=seed,
            verbose=study.verbose,
        )  # fmt: skip
        others = train.judged(queries, seed, skip=chosen.queries or 0)  # not those that students learn
        if others.empty:
            raise ValueError(f"{train.name} has no judged queries left for the pairwise teacher: take fewer queries.")
        lists = train.lists(others, train.first_stage, chosen.depth, pairs, seed)
        teacher.fit(lists.drop(columns="label"), train.qrels)
        teacher.save(place, overwrite=True)
    # both orders of half as many pairs: what it says of a pair must not depend on which stands first
    return lambda pairs, delta: ptd.PairwiseTeacher(
        str(place), pairs and pairs // 2, delta, both_orders=True, seed=seed, max_length=longest
    )


def _rounds(
    study: Study, given: Settings, train: Site, kind: str, pointwise: Any, pairwise: Any, system: str, seed: int
) -> Iterator[tuple[int, Any]]:
    """The student of each round; of none, the one that training starts from."""
    start = "x".join(map(str, given.layers or ())) or "whole"
    student = study.student(f"start {kind} {Path(checkpoint(given.model)).name} {start}", partial(_start, given, kind))
    if not given.rounds:
        yield 0, student
    teacher = ptd.LabelStore(study.work(f"answers-{seed}")).cache(pointwise) >> ptd.LabelStore(
        study.work(f"preferences-{seed}")
    ).cache(pairwise(given.pairs, given.delta))
    for number in range(1, given.rounds + given.third + 1):
        learn = partial(_round, study, given, train, kind, teacher, student, system, number, seed)
        student = study.student(f"{system}, round {number}", learn, seed)
        yield number, student


def _start(given: Settings, kind: str, place: Path) -> Any:
    """The student before training."""
    layers = None if given.layers is None else list(given.layers)
    query, passage = given.lengths
    if kind == "late":
        return ptd.LateInteraction(
            checkpoint(given.model), layers=layers, query_length=query, document_length=passage
        )
    return ptd.BiEncoder(
        checkpoint(given.model), layers=layers, max_length=passage, similarity=given.similarity, pooling=given.pooling
    )


def _round(
    study: Study, given: Settings, train: Site, kind: str, teacher: Any, student: Any, system: str,
    number: int, seed: int, place: Path,
) -> Any:  # fmt: skip
    """One round: what the student finds is labelled, and it learns from that (§4.3)."""
    topics = (train.judged if given.judged else train.drawn)(given.queries, seed)
    first = number == 1 and given.first == "BM25"
    found = (train.first_stage % given.depth if first else train.found_by(student, given.depth)) >> train.text
    if given.labels:  # one of a query's, so that lists stay as they were found
        one = train.qrels[train.qrels["label"] > 0].drop_duplicates("qid")
        found = found >> ptd.AddPositives(one, text=train.documents)
    store = ptd.LabelStore(study.work("labels", f"{system}-{number}-{seed}"))
    store.build(found >> teacher, topics, with_text=True, verbose=study.verbose)
    temperature = given.temperatures[kind == "late"]
    kd, pair = given.weights
    loss = kd * ptd.KLDivergence(given.tau, student_temperature=temperature)
    loss = loss + pair * ptd.PairwiseKL(temperature=temperature)  # of weight 0, too: all learn the same lists
    if given.labels:
        loss = ptd.InfoNCE(temperature) + loss
    sampler = ptd.ListSampler(given.size, strategy="with_pairs", seed=seed)
    return study.fit(
        student, loss, store, place, seed, qrels=train.qrels if given.labels else None, steps=given.steps,
        queries_per_batch=given.batch, learning_rate=given.rate, sampler=sampler,
    )  # fmt: skip
