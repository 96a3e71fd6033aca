"""InRanker (Laitz et al. 2024): a small re-ranker learns a teacher's two logits of pairs.

First of people's queries, then of written ones. ``--data``: ``train=`` judged queries; ``domain=`` collections for
whose documents queries are written, and which are measured on, too (in domain); and collections that nothing is
written for (out of domain).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt

import pyterrier_distill as ptd

from .claims import Claim
from .scales.inranker import Settings
from .site import Site, checkpoint, language_model, teacher_of
from .study import Study

BM25, TEACHER = "BM25", "teacher"
HARD, SOFT, INRANKER = "human hard", "human soft", "human soft, synthetic soft"
HARD_SYNTHETIC, REAL = "human hard, synthetic soft", "human soft, real queries soft"
DIFFERENCE = "teacher_score_difference"
TRUE_ONLY, KL = f"{INRANKER} (true logit alone)", f"{INRANKER} (KL)"


NEEDS = {"train": "judged queries", "domain": "collections for which queries are written"}
MAY: dict[str, str] = {}


def claims(study: Study, chosen: Settings) -> list[Claim]:
    """The paper's, in domain and out of it."""
    inside = tuple(study.called(name) for name in study.roles["domain"])
    outside = tuple(study.called(name) for name in study.tests if name not in study.roles["domain"])
    pairs = [
        ("soft labels of people's and of written queries are better than hard labels", INRANKER, HARD),
        ("a teacher's soft labels of people's queries are better than hard ones", SOFT, HARD),
        ("synthetic queries help beyond people's", INRANKER, SOFT),
        ("before synthetic queries, soft labels of people's are worth more than hard ones", INRANKER, HARD_SYNTHETIC),
    ]
    found = [
        Claim(f"{text}, {where}", "Table 4", better, worse, datasets)
        for text, better, worse in pairs
        for where, datasets in (("in domain", inside), ("out of domain", outside))
    ]
    found.append(Claim("real queries are an upper bound, in domain", "Table 5", REAL, INRANKER, inside))
    found.append(Claim("the student keeps 95% of its teacher", "Table 1 (93% and 97%)", INRANKER, TEACHER, share=0.95))
    for text, other in (("both logits teach more than the true one", TRUE_ONLY), ("MSE keeps what KL reaches", KL)):
        why = "" if chosen.ablations else "this scale leaves the losses of App. C out"
        found.append(Claim(text, "App. C", INRANKER, other, share=0.99 if other == KL else None, why_not=why))
    if chosen.kind != "t5":
        found.append(Claim("so it is for T5", "Table 1", why_not=f"this scale's student is a {chosen.kind} model"))
    return found


def run(study: Study, chosen: Settings) -> pd.DataFrame:
    """Train and measure; see the module."""
    train = study.the("train")
    if chosen.writer is None:
        language_model(None, study.work("writer"))  # before anything is trained
    teacher = _teacher(chosen)
    measured = list(dict.fromkeys([*study.roles["domain"], *study.tests]))
    for name in measured:
        first = study.site(name).first_stage % chosen.measured
        study.measure(name, {BM25: first, TEACHER: first >> study.site(name).text >> teacher})
    for seed in chosen.seeds:
        human = partial(_lists, study, chosen, train, None, teacher, seed)
        written = partial(_domain, study, chosen, teacher, seed, real=False)
        real = partial(_domain, study, chosen, teacher, seed, real=True)
        learn = partial(_trained, study, chosen, seed)
        hard, soft = _losses(chosen)
        made: dict[str, Any] = {}
        phases: list[tuple[str, str | None, ptd.Loss, Any]] = [
            (HARD, None, hard, human), (SOFT, None, soft, human),
            (INRANKER, SOFT, soft, written), (HARD_SYNTHETIC, HARD, soft, written),
            (REAL, SOFT, soft, real),
        ]  # fmt: skip
        if chosen.ablations:
            phases += [(TRUE_ONLY, SOFT, ptd.LogitMSE(only="true"), written), (KL, SOFT, ptd.LogitKL(), written)]
        for system, before, loss, lists in phases:
            start = None if before is None else made[before]
            made[system] = study.student(system, partial(learn, start, loss, lists), seed)
            for name in measured:
                study.measure(name, {system: made[system]}, seed=seed, depth=chosen.measured)
    return study.finish(claims(study, chosen), BM25)


def _losses(chosen: Settings) -> tuple[ptd.Loss, ptd.Loss]:
    """Of hard labels (Eq. 3) and of soft ones (Eq. 2)."""
    if chosen.kind == "cross-encoder":
        return ptd.BinaryCrossEntropy(), ptd.MSE(DIFFERENCE)
    return ptd.LogitCrossEntropy(), ptd.LogitMSE()


def _teacher(chosen: Settings) -> pt.Transformer:
    """R → R with ``teacher_logits`` of [false, true], and their difference."""
    spread, shift = chosen.spread

    def difference(row: Any) -> float:
        false, true = row["teacher_logits"]
        return float(true - false)

    def logits(row: Any) -> np.ndarray:
        half = (spread * row["teacher_score"] - shift) / 2
        return np.array([-half, half], dtype=np.float32)

    teacher = ptd.PointwiseTeacher(chosen.teacher or teacher_of(None))
    if chosen.teacher is None:
        teacher = teacher >> pt.apply.teacher_logits(logits)
    return teacher >> pt.apply.generic(lambda found: found.assign(**{DIFFERENCE: found.apply(difference, axis=1)}))


def _lists(study: Study, chosen: Settings, site: Site, made: Any, teacher: Any, seed: int) -> pd.DataFrame:
    """R with ``label`` and ``teacher_logits``: relevant documents and negatives, of people's queries or given ones."""
    topics, qrels = (site.judged(chosen.queries, seed), None) if made is None else (made, ptd.positives(made))
    lists = site.lists(topics, site.first_stage, chosen.depth, chosen.negatives, seed, qrels=qrels)
    return ptd.LabelStore(study.work(site.name, "answers")).cache(teacher)(lists)


def _domain(study: Study, chosen: Settings, teacher: Any, seed: int, real: bool) -> pd.DataFrame:
    """The same of all collections of the domain: of queries written for its documents, or of its own queries."""
    parts = []
    for number, name in enumerate(study.roles["domain"]):
        site, made = study.site(name), None
        if not real:
            model = language_model(chosen.writer, study.work("writer"))
            writer = ptd.QueryStore(study.work(name, f"queries-{seed}")).cache(ptd.SyntheticQueryGen(model, "inpars"))
            some = site.documents.sample(n=min(chosen.synthetic, len(site.documents)), random_state=seed)
            made = (writer >> ptd.explode_queries())(some)
            if made.empty:
                raise ValueError(f"{model} wrote no query for {len(some)} documents of {name}: name another writer.")
        lists = _lists(study, chosen, site, made, teacher, seed)
        parts.append(lists.assign(qid=f"{number}-" + lists["qid"], docno=f"{number}-" + lists["docno"]))
    return pd.concat(parts, ignore_index=True)


def _trained(study: Study, chosen: Settings, seed: int, start: Any, loss: ptd.Loss, lists: Any, place: Path) -> Any:
    """A student, new or of the phase before."""
    lora = None if chosen.lora is None or start is not None else dict(chosen.lora)
    name = None if start is None else str(start.path)  # of the phase before
    student: Any
    if chosen.kind == "cross-encoder":
        student = ptd.CrossEncoder(name or checkpoint(chosen.student), max_length=chosen.max_length, lora=lora)
    elif chosen.kind == "causal":
        name = name or language_model(chosen.student, study.work("writer"))
        student = ptd.CausalReranker(name, max_length=chosen.max_length, lora=lora)
    else:
        student = ptd.MonoT5(str(name or chosen.student), max_length=chosen.max_length, lora=lora)
    frame = lists()
    if "label" in loss.columns():  # a relevant document and another one
        two = ptd.ListSampler(2, strategy="with_positive", seed=seed)
        passes = chosen.epochs * len(frame) / (2 * frame["qid"].nunique())  # as many pairs as the soft phase reads
        settings = {"sampler": two, "queries_per_batch": chosen.batch // 2, "epochs": passes}
    else:  # each pair by itself
        frame = frame.assign(qid=frame["qid"] + "/" + frame["docno"])
        settings = {"epochs": chosen.epochs, "queries_per_batch": chosen.batch}
    return study.fit(student, loss, frame, place, seed, learning_rate=chosen.rate, **settings)
