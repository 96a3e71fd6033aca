"""Rank-DistiLLM (Schlatt et al. 2025): a cross-encoder learns labels, then the orders in which an LLM ranks passages.

``--data``: ``train=`` judged queries, from which the first stage learns by LCE; ``orders=`` a folder whose stored runs
``teacher.<llm>.<first stage>`` are an LLM's orders, where the scale asks no LLM; ``valid=`` on which training stops;
and the collections that are measured on. What a folder's run ``bm25`` holds is re-ranked.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt

import pyterrier_distill as ptd

from .claims import Claim
from .scales.rank_distillm import Settings
from .site import Site, checkpoint, retriever_of
from .study import Study

BM25, LLM = "BM25", "LLM"
LABELS, ALONE = "labels (LCE)", "orders alone (RankNet)"
TWO, ADR, WEAK = "two stages (RankNet)", "two stages (ADR-MSE)", "two stages, orders of BM25's lists"
NEEDS = {"train": "judged queries", "valid": "judged queries to stop by"}
MAY = {"orders": "a folder with an LLM's stored orders", "other": "collections of other domains"}


def claims(study: Study, chosen: Settings) -> list[Claim]:
    """The paper's: of its own domain, and of others."""
    inside, outside = (tuple(study.called(n) for n in study.roles.get(role, [])) for role in ("test", "other"))
    alone = "the LLM's orders alone, trained as long as the second"
    found = [
        Claim("two stages re-rank better than BM25", "Table 1", TWO, BM25, inside),
        Claim("two stages are better than labels alone", "Table 1", TWO, LABELS, inside),
        Claim(f"two stages are better than {alone}", "Table 1", TWO, ALONE, inside),
        Claim("orders of a strong first stage's lists teach more than those of BM25's", "Table 1", TWO, WEAK, inside),
        Claim("the listwise ADR-MSE is no better than RankNet", "§4", ADR, TWO, inside, no_better=True),
        Claim("the student reaches its LLM", "Table 1", TWO, LLM, inside, share=0.99),
    ]
    text, why = "out of domain, too, two stages re-rank better than the first stage", "no collection was named (other=)"
    found.append(Claim(text, "Table 2", TWO, BM25, outside, why_not="" if outside else why))
    if {50, 100} <= set(chosen.grid[0]):
        fifty, hundred = (_depth(depth, max(chosen.grid[1])) for depth in (50, 100))
        text = "a hundred passages a query teach no more than fifty"
        found.append(Claim(text, "Figure 1", hundred, fifty, inside, no_better=True))
    return found


def run(study: Study, chosen: Settings) -> pd.DataFrame:
    """Train and measure; see the module."""
    if chosen.llm is None and "orders" not in study.roles:
        raise ValueError("rank_distillm needs stored orders of an LLM at this scale: --data orders=folder:PATH …")
    train = study.the("train")
    strong = train.found_by(retriever_of(chosen.retriever, late=chosen.late), chosen.depth)
    held = _held(study, chosen)
    orders = {name: _orders(study, chosen, train, first, name) for name, first in (("strong", strong), ("weak", None))}
    measured = [*study.tests, *study.roles.get("other", [])]
    for name in measured:
        _first(study, name, chosen)
    for seed in chosen.seeds:
        fit = partial(_second, study, chosen, held, seed)
        first = study.student(LABELS, partial(_labels, study, chosen, train, strong, seed), seed)
        made = {LABELS: first}
        made[ALONE] = study.student(ALONE, partial(fit, None, ptd.RankNet(), orders["strong"]), seed)
        for system, loss, which in ((TWO, ptd.RankNet(), "strong"), (ADR, ptd.ADRMSE(), "strong"),
                                    (WEAK, ptd.RankNet(), "weak")):  # fmt: skip
            made[system] = study.student(system, partial(fit, first, loss, orders[which]), seed)
        for depth, share, part in _grid(chosen, orders["strong"], seed):
            system = _depth(depth, share)
            deep = ptd.ListSampler(min(chosen.size, depth), depth=depth, order="first_stage", seed=seed)
            made[system] = study.student(system, partial(fit, first, ptd.RankNet(), part, sampler=deep), seed)
        for name in measured:
            study.measure(name, made, seed=seed, depth=chosen.measured, cost=name == study.tests[0])
    return study.finish(claims(study, chosen), BM25)


def _depth(depth: int, share: float) -> str:
    return f"two stages, first {depth}, {share:.0%} of the queries"


def _held(study: Study, chosen: Settings) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Candidates with text and judgements of what decides when to stop: BM25's ranking, of all such collections."""
    queries, depth = chosen.validated
    sites = [study.site(name) for name in study.roles["valid"]]
    found = [(site.first_stage % depth >> site.text)(site.judged(queries, seed=1)) for site in sites]
    return pd.concat(found, ignore_index=True), pd.concat([site.qrels for site in sites], ignore_index=True)


def _student(chosen: Settings, start: Any = None) -> ptd.CrossEncoder:
    query, document = chosen.lengths
    name = checkpoint(chosen.model) if start is None else str(start.path)
    return ptd.CrossEncoder(name, query_length=query, document_length=document)


def _labels(study: Study, chosen: Settings, train: Site, retriever: Any, seed: int, place: Path) -> Any:
    """The first stage: LCE on judged queries and hard negatives."""
    lists = train.lists(train.judged(chosen.queries, seed), retriever, chosen.depth, chosen.negatives, seed)
    return study.fit(
        _student(chosen), ptd.LocalizedContrastive(), lists, place, seed, steps=chosen.steps[0],
        queries_per_batch=chosen.batch[0], learning_rate=chosen.rate[0],
        sampler=ptd.ListSampler(1 + chosen.negatives, strategy="with_positive", seed=seed),
    )  # fmt: skip


def _second(
    study: Study, chosen: Settings, valid: Any, seed: int, start: Any, loss: ptd.Loss, orders: pd.DataFrame,
    place: Path, sampler: Any = None,
) -> Any:  # fmt: skip
    """The second stage: an LLM's orders, until the validation's nDCG@10 no longer rises."""
    patience, every = chosen.patience
    return study.fit(
        _student(chosen, start), loss, orders, place, seed, steps=chosen.steps[1], queries_per_batch=chosen.batch[1],
        learning_rate=chosen.rate[1], sampler=sampler or ptd.ListSampler(chosen.size, seed=seed), valid=valid,
        eval_every=every, early_stopping=max(1, patience // every), schedule=chosen.schedule[0],
        warmup=chosen.schedule[1],
    )  # fmt: skip


def _orders(study: Study, chosen: Settings, train: Site, retriever: Any, name: str) -> pd.DataFrame:
    """R with ``teacher_rank`` and ``first_stage_rank``: stored orders, or those that the LLM is asked for."""
    if chosen.llm is not None:
        teacher = ptd.ListwiseLLMTeacher(chosen.llm, chosen.prompt)
        first = (retriever or train.first_stage) % 100 >> train.text >> ptd.first_stage_rank()
        store = ptd.LabelStore(study.work(train.name, f"orders-{name}"))
        asked = train.judged(chosen.ordered, seed=1)
        return store.build(first >> teacher, asked, with_text=True, verbose=study.verbose).frame(with_text=True)
    site = study.the("orders")
    parts = []
    for one in getattr(chosen, name):
        ranked = site.run(f"teacher.{one}").assign(teacher_rank=lambda found: found["rank"])
        stage = site.run(one.split(".", 1)[1])[["qid", "docno", "rank"]].rename(columns={"rank": "first_stage_rank"})
        joined = ranked.merge(stage, on=["qid", "docno"])  # what the LLM and its first stage both rank
        parts.append(joined.assign(qid=joined["qid"] + f"/{one}"))  # several orders of a query are several lists
    return pd.concat(parts, ignore_index=True)


def _grid(chosen: Settings, orders: pd.DataFrame, seed: int) -> Iterator[tuple[int, float, pd.DataFrame]]:
    """Figure 1: each depth and share of the queries."""
    qids = orders["qid"].drop_duplicates()
    for share in chosen.grid[1]:
        part = orders[orders["qid"].isin(set(qids.sample(frac=share, random_state=seed)))]
        yield from ((depth, share, part.reset_index(drop=True)) for depth in chosen.grid[0])


def _first(study: Study, name: str, chosen: Settings) -> None:
    """BM25, and an LLM's order of its list where that is stored."""
    site = study.site(name)
    systems = {BM25: site.first_stage % chosen.measured}
    if chosen.llm is not None:
        asked = ptd.ListwiseLLMTeacher(chosen.llm, chosen.prompt)
        systems[LLM] = site.first_stage % chosen.measured >> site.text >> asked
    elif f"teacher.{chosen.weak[0]}" in site.runs:
        systems[LLM] = pt.Transformer.from_df(site.run(f"teacher.{chosen.weak[0]}"))
    study.measure(name, systems, depth=chosen.measured)
