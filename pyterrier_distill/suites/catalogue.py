"""The suites that papers report: which datasets, which measures, which averages."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ir_measures import AP, RR, R, Success, nDCG

from ..measures.capped import CappedRecall
from .averages import Average
from .member import Member
from .membership import AVERAGES, DATASETS, TIREX, TIREX_CORPORA, canonical
from .suite import Suite

#: Collections whose queries are documents, too: a query's own document is no answer to it.
QUERIES_ARE_DOCUMENTS = ("ArguAna", "Quora")
_ROOT_MEAN_SQUARE = "TIREx RMS"
_BEIR = (nDCG @ 10, R @ 100)


def BEIR(folders: Mapping[str, str | os.PathLike] | None = None, *, msmarco: bool = False) -> Suite:
    """BEIR (Thakur et al. 2021): nDCG@10 and recall at 100, with the averages of all papers that report on it.

    Recall of TREC-COVID is capped (USTAD's Table 8, BEIR's App. G).

    CQADupStack is the mean of its twelve forums. The query itself is left out of rankings of ArguAna and Quora, as
    BEIR's own code does.

    Args:
        folders: name → directory in BEIR layout, for datasets that ir_datasets does not have (``Robust04``,
            ``Signal-1M``, ``TREC-NEWS``, ``BioASQ``), or that you have elsewhere.
        msmarco: whether MS MARCO's dev queries are among them, with MRR@10 and recall at 1000 besides.

    Raises:
        ValueError: for a folder of a dataset that is not BEIR's.
    """
    names = [name for name in AVERAGES["All-18"]]
    folders = dict(folders or {})
    if strange := [name for name in folders if name not in names]:
        raise ValueError(f"BEIR has no dataset {strange[0]!r}, only: {', '.join(names)}.")
    members = []
    for name in names:
        places: list[str | None] = [f"irds:{dataset}" for dataset in DATASETS[name]]
        if name in folders:
            places = [f"folder:{os.fspath(folders[name])}"]
        for place in places or [None]:
            whole = len(places) <= 1
            called = name if whole else f"{name} {Path(place or '').name}"
            itself = name in QUERIES_ARE_DOCUMENTS
            instead = {"R@100": CappedRecall @ 100} if name == "TREC-COVID" else {}
            part = None if whole else name
            members.append(Member(called, place, _BEIR, instead=instead, part_of=part, drop_self=itself))
    if msmarco:
        names.append("MS MARCO dev")
        members.append(Member("MS MARCO dev", "irds:msmarco-passage/dev/small", (*_BEIR, RR @ 10, R @ 1000)))
    return Suite("BEIR", tuple(members), _averages(names))


def NanoBEIR() -> Suite:
    """NanoBEIR: thirteen samples of BEIR, 50 queries each: nDCG@10."""
    names = {
        "ArguAna": "arguana", "Climate-FEVER": "climate-fever", "DBPedia": "dbpedia-entity", "FEVER": "fever",
        "FiQA": "fiqa", "HotpotQA": "hotpotqa", "MS MARCO": "msmarco", "NFCorpus": "nfcorpus", "NQ": "nq",
        "Quora": "quora", "SCIDOCS": "scidocs", "SciFact": "scifact", "Touché": "webis-touche2020",
    }  # fmt: skip
    members = tuple(
        Member(name, f"irds:nano-beir/{dataset}", (nDCG @ 10,), drop_self=name in QUERIES_ARE_DOCUMENTS)
        for name, dataset in names.items()
    )
    return Suite("NanoBEIR", members, (Average("NanoBEIR-13", tuple(names)),))


def TRECDL(*years: int) -> Suite:
    """The passage ranking tasks of TREC Deep Learning, judged queries: nDCG@10; MRR@10, AP and recall from grade 2.

    Args:
        *years: of 2019 to 2023; none = all.

    Raises:
        ValueError: for another year.
    """
    known = {2019: "msmarco-passage", 2020: "msmarco-passage"} | dict.fromkeys((2021, 2022, 2023), "msmarco-passage-v2")
    if strange := [year for year in years if year not in known]:
        raise ValueError(f"TREC DL has no passage task of {strange[0]!r}, only of: {', '.join(map(str, known))}.")
    measures = (nDCG @ 10, RR @ 10, AP, R @ 1000)
    chosen = sorted(set(years)) or list(known)
    members = tuple(
        Member(f"DL{year % 100}", f"irds:{known[year]}/trec-dl-{year}/judged", measures, binary_from=2)
        for year in chosen
    )
    return Suite("TREC DL", members, (Average("TREC DL", tuple(member.name for member in members)),))


def LoTTE(split: str = "test") -> Suite:
    """LoTTE (Santhanam et al. 2022): Success@5, search and forum queries apart, pooled and by topic.

    Args:
        split: ``"test"`` or ``"dev"``.

    Raises:
        ValueError: for another split.
    """
    if split not in ("test", "dev"):
        raise ValueError(f"split must be 'test' or 'dev', not {split!r}.")
    topics = ("pooled", "writing", "recreation", "science", "technology", "lifestyle")
    members = tuple(
        Member(f"LoTTE {kind}" if topic == "pooled" else f"LoTTE {topic} {kind}", f"irds:lotte/{topic}/{split}/{kind}",
               (Success @ 5,))
        for kind in ("search", "forum")
        for topic in topics
    )  # fmt: skip
    return Suite("LoTTE", members)


def TIREx() -> Suite:
    """The 31 tasks over 14 corpora on which Rank-DistiLLM reports (Fröbe et al. 2023): nDCG@10.

    A corpus is the mean over the queries of its tasks. ``TIREx mean`` and ``TIREx geometric mean`` are over the 14
    corpora; ``TIREx RMS`` is the root of their mean square, which Rank-DistiLLM's Table 2 prints as a geometric mean.
    Its Cranfield column is not comparable: TIREx froze that collection with query ids that ir_datasets mended later.
    """
    several = {corpus for corpus in TIREX_CORPORA if sum(f"TIREx/{task.corpus}" == corpus for task in TIREX) > 1}
    members = []
    for task in TIREX:
        corpus = f"TIREx/{task.corpus}"
        called, part = (f"{corpus} {task.dataset}", corpus) if corpus in several else (corpus, None)
        members.append(Member(called, f"irds:{task.dataset}", (nDCG @ 10,), part_of=part))
    averages = (*_averages(TIREX_CORPORA), Average("TIREx geometric mean", TIREX_CORPORA, "geometric"))
    return Suite("TIREx", tuple(members), averages, pooled=True)


def Local(
    *datasets: str, measures: Sequence[Any] = (nDCG @ 10,), binary_from: Mapping[str, int] | None = None, **named: str
) -> Suite:
    """Any collections: directories (``folder:PATH``) and datasets of ir_datasets (``irds:ID``), and their mean.

    Args:
        *datasets: their names. Tables call those that papers report on as they do (``NFCorpus``), and others by the
            last part of their name, where that tells them apart.
        measures: what is measured on all of them.
        binary_from: dataset → the grade from which a document is relevant to measures that know no grades, such as
            ``{"dl19": 2}``; a measure that names its own ``rel`` keeps it.
        **named: name → dataset.

    Raises:
        ValueError: for no dataset, one twice, or an unknown measure or name.
    """
    from ..training.evaluation import parse_measure

    short = _shortened(datasets)
    called = dict(zip(short if len(set(short)) == len(short) else datasets, datasets, strict=True)) | named
    if len(called) != len(datasets) + len(named):
        raise ValueError("name every dataset once.")
    grades = dict(binary_from or {})
    if strange := [name for name in grades if name not in called]:
        raise ValueError(f"binary_from names {strange[0]!r}, which is none of: {', '.join(called)}.")
    parsed = tuple(parse_measure(measure) for measure in measures)
    members = tuple(Member(name, dataset, parsed, binary_from=grades.get(name)) for name, dataset in called.items())
    averages = (Average("mean", tuple(called)),) if len(called) > 1 else ()
    return Suite("Local", members, averages)


def _shortened(datasets: Sequence[str]) -> list[str]:
    """Names for tables, which mean to the papers' tables what the datasets are."""
    paths = [Path(name.partition(":")[2] or name) for name in datasets]
    paths = [path.resolve() if full.startswith("folder:") else path for full, path in zip(datasets, paths, strict=True)]
    last = [path.name for path in paths]
    split = ("test", "dev", "train", "judged")
    short = ["/".join(p.parts[-2:]) if p.name in split or last.count(p.name) > 1 else p.name for p in paths]
    out = []
    for full, name in zip(datasets, short, strict=True):
        known = canonical(full) if full.startswith("irds:") else None
        if known in DATASETS:
            name = known
        elif full.startswith("irds:") and canonical(name) != known:  # another collection has that name
            name = full.partition(":")[2]
        out.append(name)
    return out


def _averages(names: Sequence[str]) -> tuple[Average, ...]:
    """The averages over some of these datasets alone."""
    return tuple(
        Average(name, tuple(over), "root mean square" if name == _ROOT_MEAN_SQUARE else "arithmetic")
        for name, over in AVERAGES.items()
        if set(over) <= set(names)
    )
