"""Which datasets a paper's average is taken over, and the 31 tasks of TIREx.

A name stands for one collection with its queries, as the papers print it: ``NFCorpus`` is BEIR's, ``TIREx/NFCorpus``
holds the 325 queries of ir_datasets' ``nfcorpus/test``. :func:`canonical` knows other spellings.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

_FORUMS = (
    "android", "english", "gaming", "gis", "mathematica", "physics", "programmers", "stats", "tex", "unix",
    "webmasters", "wordpress",
)  # fmt: skip

#: Dataset → the ir_datasets ids of it: one, the twelve forums of CQADupStack, or none where ir_datasets lacks it.
DATASETS: dict[str, tuple[str, ...]] = {
    "TREC-COVID": ("beir/trec-covid",),
    "NFCorpus": ("beir/nfcorpus/test",),
    "FiQA": ("beir/fiqa/test",),
    "ArguAna": ("beir/arguana",),
    "Touché": ("beir/webis-touche2020/v2",),
    "SCIDOCS": ("beir/scidocs",),
    "SciFact": ("beir/scifact/test",),
    "HotpotQA": ("beir/hotpotqa/test",),
    "DBPedia": ("beir/dbpedia-entity/test",),
    "FEVER": ("beir/fever/test",),
    "Climate-FEVER": ("beir/climate-fever",),
    "Quora": ("beir/quora/test",),
    "NQ": ("beir/nq",),
    "CQADupStack": tuple(f"beir/cqadupstack/{forum}" for forum in _FORUMS),
    "Robust04": (),
    "Signal-1M": (),
    "TREC-NEWS": (),
    "BioASQ": (),
    "MS MARCO dev": ("msmarco-passage/dev/small",),
    "DL19": ("msmarco-passage/trec-dl-2019/judged",),
    "DL20": ("msmarco-passage/trec-dl-2020/judged",),
    "LoTTE search": ("lotte/pooled/test/search",),
    "LoTTE forum": ("lotte/pooled/test/forum",),
}

#: Other spellings of them, in papers and in BEIR's own files.
_SPELLINGS = {
    "FiQA-2018": "FiQA",
    "Touché-2020": "Touché",
    "webis-touche2020": "Touché",
    "DBPedia-entity": "DBPedia",
    "MS MARCO": "MS MARCO dev",
    "beir/msmarco/dev": "MS MARCO dev",
    "DL2019": "DL19",
    "DL2020": "DL20",
    "TREC DL 2019": "DL19",
    "TREC DL 2020": "DL20",
    "BEIR-13 w/o Quora": "BEIR-13 without Quora",
}


class Task(NamedTuple):
    """One task of TIREx.

    Args:
        corpus: the corpus whose tasks are averaged together, e.g. ``"GOV2"``.
        dataset: the ir_datasets id.
        queries: how many queries it has, which is its weight in the corpus' average over queries.
        frozen: the day of which TIREx's copy is, as in its name there, e.g. ``"20230107"``.
    """

    corpus: str
    dataset: str
    queries: int
    frozen: str

    @property
    def tirex_id(self) -> str:
        """The name by which TIREx knows it, e.g. ``"gov2-trec-tb-2004-20230209-training"``."""
        dataset = self.dataset.replace("argsme/2020-04-01/", "argsme/")  # TIREx leaves the day of the crawl out
        return f"{dataset.replace('/', '-')}-{self.frozen}-training"


#: The 31 tasks over 14 corpora on which Rank-DistiLLM (Table 3) reports, corpora in its order.
TIREX = (
    Task("Antique", "antique/test", 200, "20230107"),
    Task("Args.me", "argsme/2020-04-01/touche-2020-task-1", 49, "20230209"),
    Task("Args.me", "argsme/2020-04-01/touche-2021-task-1", 50, "20230209"),
    Task("ClueWeb09", "clueweb09/en/trec-web-2009", 50, "20230107"),
    Task("ClueWeb09", "clueweb09/en/trec-web-2010", 50, "20230107"),
    Task("ClueWeb09", "clueweb09/en/trec-web-2011", 50, "20230107"),
    Task("ClueWeb09", "clueweb09/en/trec-web-2012", 50, "20230107"),
    Task("ClueWeb12", "clueweb12/trec-web-2013", 50, "20230107"),
    Task("ClueWeb12", "clueweb12/trec-web-2014", 50, "20230107"),
    Task("ClueWeb12", "clueweb12/touche-2020-task-2", 50, "20230209"),
    Task("ClueWeb12", "clueweb12/touche-2021-task-2", 50, "20230209"),
    Task("CORD-19", "cord19/fulltext/trec-covid", 50, "20230107"),
    Task("Cranfield", "cranfield", 225, "20230107"),
    Task("Disks4+5", "disks45/nocr/trec7", 50, "20230209"),
    Task("Disks4+5", "disks45/nocr/trec8", 50, "20230209"),
    Task("Disks4+5", "disks45/nocr/trec-robust-2004", 250, "20230209"),
    Task("GOV", "gov/trec-web-2002", 50, "20230209"),
    Task("GOV", "gov/trec-web-2003", 50, "20230209"),
    Task("GOV", "gov/trec-web-2004", 225, "20230209"),
    Task("GOV2", "gov2/trec-tb-2004", 50, "20230209"),
    Task("GOV2", "gov2/trec-tb-2005", 50, "20230209"),
    Task("GOV2", "gov2/trec-tb-2006", 50, "20230209"),
    Task("MEDLINE", "medline/2004/trec-genomics-2004", 50, "20230107"),
    Task("MEDLINE", "medline/2004/trec-genomics-2005", 50, "20230107"),
    Task("MEDLINE", "medline/2017/trec-pm-2017", 30, "20230211"),
    Task("MEDLINE", "medline/2017/trec-pm-2018", 50, "20230211"),
    Task("MS MARCO", "msmarco-passage/trec-dl-2019/judged", 43, "20230107"),
    Task("MS MARCO", "msmarco-passage/trec-dl-2020/judged", 54, "20230107"),
    Task("NFCorpus", "nfcorpus/test", 325, "20230107"),
    Task("Vaswani", "vaswani", 93, "20230107"),
    Task("WaPo", "wapo/v2/trec-core-2018", 50, "20230107"),
)

#: TIREx's corpora, each a dataset of its own: ``"TIREx/<corpus>"``.
TIREX_CORPORA = tuple(dict.fromkeys(f"TIREx/{task.corpus}" for task in TIREX))

_PTR11 = (
    "TREC-COVID", "NFCorpus", "FiQA", "ArguAna", "Touché", "SCIDOCS", "SciFact", "HotpotQA", "DBPedia", "FEVER",
    "Climate-FEVER",
)  # fmt: skip
_BEIR13 = (*_PTR11, "Quora", "NQ")
_ALL18 = (*_BEIR13, "CQADupStack", "Robust04", "Signal-1M", "TREC-NEWS", "BioASQ")
_INRANKER16 = tuple(name for name in _ALL18 if name not in ("FEVER", "CQADupStack"))
_SET1 = ("NFCorpus", "NQ", "HotpotQA", "DBPedia", "Quora", "SCIDOCS", "FiQA", "Signal-1M")
_SET2 = ("TREC-COVID", "BioASQ", "NQ", "HotpotQA", "Robust04", "SCIDOCS", "SciFact", "FiQA")


def _without(members: tuple[str, ...], *names: str) -> tuple[str, ...]:
    return tuple(name for name in members if name not in names)


#: An average's name → the datasets whose arithmetic mean it is. ``"TIREx RMS"`` is the root of the mean square: what
#: Rank-DistiLLM's Table 2 prints as a geometric mean.
AVERAGES: dict[str, tuple[str, ...]] = {
    "PTR-11": _PTR11,
    "BEIR-13": _BEIR13,
    "BEIR-13 without Quora": _without(_BEIR13, "Quora"),
    "BEIR-13 + MS MARCO": (*_BEIR13, "MS MARCO dev"),
    "BEIR-13 + MS MARCO without Quora": (*_without(_BEIR13, "Quora"), "MS MARCO dev"),
    "All-18": _ALL18,
    "USTAD-14": (*_BEIR13, "CQADupStack"),
    "InRanker-16": _INRANKER16,
    "InRanker-10": _without(_PTR11, "FEVER"),  # its Table 2: where Promptagator has results
    "InRanker set 1": _SET1,
    "InRanker beyond set 1": _without(_INRANKER16, *_SET1),
    "InRanker set 2": _SET2,
    "InRanker beyond set 2": _without(_INRANKER16, *_SET2),
    "TIREx mean": TIREX_CORPORA,
    "TIREx RMS": TIREX_CORPORA,
}


def _key(name: str) -> str:
    """What spellings of one name share: no accents, case, punctuation; the slashes of ids and their pluses stay."""
    plain = unicodedata.normalize("NFKD", name.strip().removeprefix("irds:"))
    return re.sub(r"[^a-z0-9/+]", "", plain.casefold())


def _spellings() -> dict[str, str]:
    known = {_key(name): name for name in (*DATASETS, *TIREX_CORPORA, *AVERAGES)}
    known |= {_key(other): name for other, name in _SPELLINGS.items()}
    known |= {_key(ids[0]): name for name, ids in DATASETS.items() if len(ids) == 1}
    for corpus in TIREX_CORPORA:
        tasks = [task for task in TIREX if f"TIREx/{task.corpus}" == corpus]
        if len(tasks) == 1:  # an id is the whole corpus
            known |= {_key(id_): corpus for id_ in (tasks[0].dataset, tasks[0].tirex_id)}
    return known


_KNOWN = _spellings()


def canonical(name: str) -> str | None:
    """The name here of a dataset or an average, or None if it is not known.

    Args:
        name: in any case, accents and punctuation, as papers print it (``"Touche-2020"``), or an ir_datasets id that is
            the whole dataset (``"irds:beir/scifact/test"``). A TIREx corpus needs its ``TIREx/``, since other
            collections share some of those names.
    """
    return _KNOWN.get(_key(name))
