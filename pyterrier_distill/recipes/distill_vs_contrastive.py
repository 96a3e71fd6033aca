"""Distillation versus Contrastive Learning (Xu et al. 2025): the same re-rankers from labels and from a teacher.

A retriever finds hard negatives; a teacher learns them by InfoNCE over each pair's own list; students of several sizes
learn the same lists, once by InfoNCE and once by KL towards the teacher's scores. ``--data``: ``train=`` judged
queries; collections of the same domain to measure on; ``other=`` those of other domains, ``symmetric=`` one whose
queries are like its documents (Quora).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

import pyterrier_distill as ptd

from .claims import Claim
from .scales.distill_vs_contrastive import Settings
from .site import Site, checkpoint, retriever_of
from .study import Study

FIRST = "first stage"


NEEDS = {"train": "judged queries"}
MAY = {"other": "collections of other domains", "symmetric": "a collection whose queries are like its documents"}


def claims(study: Study, chosen: Settings) -> list[Claim]:
    """The paper's, for these sizes and collections."""
    inside, outside = (tuple(study.called(n) for n in study.roles.get(role, [])) for role in ("test", "other"))
    found = []
    for size in chosen.sizes:
        own = size == chosen.teacher
        for where, datasets, source in (("in domain", inside, "Table 1"), ("out of domain", outside, "Table 2")):
            if own:
                text = f"a student of its teacher's size is no better than by contrastive learning {where}"
                found.append(Claim(text, source, _kd(size), _cl(size), datasets, no_better=True))
            elif where == "out of domain" and size == chosen.sizes[0]:  # 53.1 and 53.3
                text = f"distilled, the student of {_named(size)} is no better than by contrastive learning {where}"
                found.append(Claim(text, source, _kd(size), _cl(size), datasets, no_better=True))
            else:
                text = f"distilled, the student of {_named(size)} is better than by contrastive learning {where}"
                found.append(Claim(text, source, _kd(size), _cl(size), datasets))
            if not datasets:
                found[-1] = Claim(text, source, why_not="no collection of another domain was named (other=)")
    if "symmetric" not in study.roles:
        text = "out of domain, averages depend on one symmetric task"
        found.append(Claim(text, "§5.1", why_not="no such collection was named (symmetric=)"))
    else:
        symmetric, best = tuple(study.called(n) for n in study.roles["symmetric"]), _kd(_below(chosen)[-1])
        text = "a student is better than its teacher out of domain"
        found.append(Claim(f"{text} with the symmetric task", "§5.1", best, _cl(chosen.teacher), outside + symmetric))
        found.append(Claim(f"{text} without: not", "§5.1", best, _cl(chosen.teacher), outside, no_better=True))
    for share in chosen.shares:
        text = f"of {share:.0%} of the data, too, distillation learns more"
        found.append(Claim(text, "Figure 2", _part(_kd, chosen, share), _part(_cl, chosen, share), inside))
    return found


def run(study: Study, chosen: Settings) -> pd.DataFrame:
    """Train and measure; see the module."""
    train = study.the("train")
    retriever = _retriever(study, chosen, train)
    strong = train.found_by(retriever, chosen.depth)
    firsts = {}
    for name in (name for role in ("test", "other", "symmetric") for name in study.roles.get(role, [])):
        site = study.site(name)
        own = chosen.reranked == "BM25" or "bm25" in site.runs  # a folder that says what is re-ranked
        firsts[name] = (site.first_stage if own else site.found_by(retriever, chosen.measured)) % chosen.measured
        study.measure(name, {FIRST: firsts[name]})
    for seed in chosen.seeds:
        lists = partial(_lists, chosen, train, strong, seed)
        fit = partial(_trained, study, chosen, seed)
        sizes = dict.fromkeys([chosen.teacher, *chosen.sizes])
        made = {_cl(size): study.student(_cl(size), partial(fit, size, lists, None), seed) for size in sizes}
        teacher = ptd.PointwiseTeacher(made[_cl(chosen.teacher)])
        for size in chosen.sizes:
            made[_kd(size)] = study.student(_kd(size), partial(fit, size, lists, teacher), seed)
        for share in chosen.shares:
            for taught in (None, teacher):
                system = _part(_kd if taught else _cl, chosen, share)
                part = partial(lists, share=share)
                made[system] = study.student(system, partial(fit, chosen.sizes[0], part, taught), seed)
        for name, first in firsts.items():
            text = study.site(name).text
            study.measure(name, {system: first >> text >> one for system, one in made.items()}, seed=seed)
    return study.finish(claims(study, chosen), FIRST)


def _named(size: int | str) -> str:
    return f"{size} layers" if isinstance(size, int) else size.rpartition("/")[2]


def _cl(size: int | str) -> str:
    return f"{_named(size)}, contrastive"


def _kd(size: int | str) -> str:
    return f"{_named(size)}, distilled"


def _part(kind: Any, chosen: Settings, share: float) -> str:
    return f"{kind(chosen.sizes[0])}, {share:.0%} of the pairs"


def _below(chosen: Settings) -> list[int | str]:
    """Sizes that are not the teacher's."""
    return [size for size in chosen.sizes if size != chosen.teacher]


def _lists(chosen: Settings, train: Site, strong: Any, seed: int, share: float = 1.0) -> pd.DataFrame:
    """The lists that all learn: one for each pair of a query and a relevant document."""
    topics = train.judged(chosen.queries, seed)
    if share < 1:
        topics = topics.sample(frac=share, random_state=seed).reset_index(drop=True)
    return train.lists(topics, strong, chosen.depth, chosen.negatives, seed, per="pair")


def _trained(
    study: Study, chosen: Settings, seed: int, size: int | str, lists: Any, teacher: Any, place: Path
) -> Any:  # fmt: skip
    """A re-ranker of a size: from labels, or from a teacher's scores."""
    name, layers = (checkpoint(chosen.model), size) if isinstance(size, int) else (size, None)
    query, document = chosen.lengths or (None, None)
    student = ptd.CrossEncoder(
        name, layers=layers, lora=None if chosen.lora is None else dict(chosen.lora), query_length=query,
        document_length=document,
    )  # fmt: skip
    frame = lists()
    loss: ptd.Loss = ptd.LocalizedContrastive(temperature=chosen.temperature)
    if teacher is not None:
        frame = ptd.LabelStore(study.work(f"answers-{seed}")).cache(teacher)(frame)
        loss = ptd.KLDivergence(chosen.temperature)
    settings = {"epochs": chosen.epochs, "queries_per_batch": chosen.batch, "learning_rate": chosen.rate}
    return study.fit(student, loss, frame, place, seed, **settings)


def _retriever(study: Study, chosen: Settings, train: Site) -> Any:
    """The first stage; trained as RepLlama is (Ma et al. 2023) where the scale says so."""
    if not chosen.trained or chosen.retriever is None:
        return retriever_of(chosen.retriever)

    def learn(place: Path) -> Any:
        prompts = {"query": "query: ", "document": "passage: "}
        student = ptd.BiEncoder(
            str(chosen.retriever), pooling="lasttoken", append_eos=True, prompts=prompts, lora=dict(chosen.lora or ())
        )
        lists = train.lists(train.judged(None, 1), train.first_stage, chosen.depth, chosen.negatives, 1, per="pair")
        settings = {"epochs": chosen.epochs, "queries_per_batch": chosen.batch, "learning_rate": chosen.rate}
        return study.fit(student, ptd.InfoNCE(0.01), lists, place, 1, gradient_cache=True, **settings)

    return study.student("retriever", learn)
