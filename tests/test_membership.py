"""Which datasets averages are taken over, TIREx's tasks, and other spellings of names."""

from __future__ import annotations

import re

import pytest

from pyterrier_distill.suites.membership import AVERAGES, DATASETS, TIREX, TIREX_CORPORA, canonical

#: Rank-DistiLLM, Table 3: corpus → (tasks, queries).
TABLE_3 = {
    "Antique": (1, 200), "Args.me": (2, 99), "ClueWeb09": (4, 200), "ClueWeb12": (4, 200), "CORD-19": (1, 50),
    "Cranfield": (1, 225), "Disks4+5": (3, 350), "GOV": (3, 325), "GOV2": (3, 150), "MEDLINE": (4, 180),
    "MS MARCO": (2, 97), "NFCorpus": (1, 325), "Vaswani": (1, 93), "WaPo": (1, 50),
}  # fmt: skip


def test_averages_have_as_many_members_as_their_names_say():
    for name, members in AVERAGES.items():
        assert len(set(members)) == len(members)
        assert set(members) <= {*DATASETS, *TIREX_CORPORA}, name
        if number := re.search(r"-(\d+)$", name):
            assert len(members) == int(number[1]), name


def test_averages_that_hold_each_other():
    sets = {name: set(members) for name, members in AVERAGES.items()}
    assert sets["PTR-11"] < sets["BEIR-13"] < sets["USTAD-14"] < sets["All-18"]
    assert sets["BEIR-13"] - sets["PTR-11"] == {"Quora", "NQ"}
    assert sets["BEIR-13"] - sets["BEIR-13 without Quora"] == {"Quora"}
    assert sets["USTAD-14"] - sets["BEIR-13"] == {"CQADupStack"}
    assert sets["All-18"] - sets["USTAD-14"] == {"Robust04", "Signal-1M", "TREC-NEWS", "BioASQ"}
    assert sets["All-18"] - sets["InRanker-16"] == {"FEVER", "CQADupStack"}
    for number in "12":  # InRanker, Appendix B: the sets divide the sixteen, and four datasets are in neither
        assert sets[f"InRanker set {number}"] ^ sets[f"InRanker beyond set {number}"] == sets["InRanker-16"]
    neither = sets["InRanker beyond set 1"] & sets["InRanker beyond set 2"]
    assert neither == {"Climate-FEVER", "TREC-NEWS", "ArguAna", "Touché"}


def test_tirex_tasks_are_those_of_the_paper():
    found = {}
    for task in TIREX:
        tasks, queries = found.get(task.corpus, (0, 0))
        found[task.corpus] = tasks + 1, queries + task.queries
    assert found == TABLE_3 and list(found) == list(TABLE_3)
    assert len(TIREX) == len({task.dataset for task in TIREX}) == len({task.tirex_id for task in TIREX}) == 31
    assert TIREX_CORPORA == tuple(f"TIREx/{corpus}" for corpus in TABLE_3)


def test_ir_datasets_knows_every_id_and_counts_the_same_queries():
    ir_datasets = pytest.importorskip("ir_datasets")
    for id_ in (id_ for ids in DATASETS.values() for id_ in ids):
        assert id_ in ir_datasets.registry, id_
    for task in TIREX:
        assert ir_datasets.load(task.dataset).metadata()["queries"]["count"] == task.queries, task


def test_tirex_ids_are_those_that_tira_redirects_to():
    redirects = pytest.importorskip("tira.tira_redirects")
    with open(redirects.__file__, encoding="utf-8") as source:
        known = set(re.findall(r"[a-z0-9-]+-\d{8}-training", source.read()))
    ids = {task.tirex_id for task in TIREX}
    assert "argsme-touche-2020-task-1-20230209-training" in ids  # without the day of the crawl
    assert ids <= known


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("TREC-COVID", "TREC-COVID"), ("trec-covid", "TREC-COVID"), ("beir/trec-covid", "TREC-COVID"),
        ("irds:beir/nfcorpus/test", "NFCorpus"), ("nfcorpus", "NFCorpus"),
        ("irds:nfcorpus/test", "TIREx/NFCorpus"),
        ("Touche-2020", "Touché"), ("Touché-2020", "Touché"), ("beir/webis-touche2020/v2", "Touché"),
        ("FiQA-2018", "FiQA"), ("Arguana", "ArguAna"), ("MSMARCO", "MS MARCO dev"), ("dl19", "DL19"),
        ("TIREx/MS MARCO", "TIREx/MS MARCO"), ("msmarco-passage/trec-dl-2020/judged", "DL20"),
        ("vaswani", "TIREx/Vaswani"),
        ("antique-test-20230107-training", "TIREx/Antique"), ("beir-13", "BEIR-13"),
        ("all-18", "All-18"),
        ("GOV2", None), ("medline", None), ("gov2/trec-tb-2004", None), ("beir/nfcorpus/train", None), ("mine", None),
    ],
)  # fmt: skip
def test_other_spellings(spelling, name):
    assert canonical(spelling) == name
