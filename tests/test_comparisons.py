"""Comparisons that say what they measured: relevance levels, parts, systems that changed, names, costs."""

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
import torch
from ir_measures import RBP, RR, nDCG
from test_suites import Random, collection

import pyterrier_distill as ptd
from pyterrier_distill.suites import Comparison, Suite, layout
from pyterrier_distill.suites.averages import Average
from pyterrier_distill.suites.cost import Costs, parameters
from pyterrier_distill.suites.keys import key_of
from pyterrier_distill.suites.member import Member


@pytest.fixture
def folders(tmp_path):
    return [collection(tmp_path / "one", 1), collection(tmp_path / "two", 2)]


def compared(suite, systems, directory, **settings):
    return suite.compare(systems, directory=directory, cost=False, verbose=False, **settings)


# -- what is measured -------------------------------------------------------------------------------------------------


def test_a_table_is_of_one_measure_and_its_mean_is_that_of_its_column(folders, tmp_path):
    """A dataset's own relevance level is part of what is measured, not of what is reported."""
    suite = ptd.suites.Local(*folders, measures=["RR@10", "nDCG@10"], binary_from={"one": 2})
    systems = {"a": lambda _: Random(1), "b": lambda _: Random(2)}
    for found in (compared(suite, systems, tmp_path), compared(suite, systems, tmp_path, measures=["RR@10"])):
        table = found.table()
        assert found.measure == "RR@10" and list(table.index) == ["one", "two", "mean"]
        np.testing.assert_allclose(table.loc["mean"], table.loc[["one", "two"]].mean())
        dataset = pt.get_dataset(folders[0])
        run = Random(1)(dataset.get_topics())
        told = pt.Experiment([run], dataset.get_topics(), dataset.get_qrels(), [RR(rel=2) @ 10])
        assert table.loc["one", "a"] == pytest.approx(told.iloc[0]["RR(rel=2)@10"])
        assert "RR@10 of one is RR(rel=2)@10." in found.to_markdown() and "| RR@10 |" in found.to_markdown()
        assert set(found.frame.loc[found.frame["dataset"] == "one", "measured"]) <= {"RR(rel=2)@10", "nDCG@10"}
        assert "RR@10" in repr(found) and "RR@10" in found.to_latex() and "<th>RR@10</th>" in found.to_html()


def test_graded_measures_stay_graded():
    member = Member("x", None, binary_from=2)
    assert str(member.measured(RR @ 10)) == "RR(rel=2)@10" and member.measured(nDCG @ 10) == nDCG @ 10
    assert member.measured(RR(rel=1)).params == {"rel": 1} and member.measured(RBP) == RBP


def test_datasets_without_the_measure_are_named(folders, tmp_path):
    members = tuple(Member(n, f, m) for n, f, m in zip("AB", folders, [(nDCG @ 10,), (RR @ 10,)], strict=True))
    found = compared(Suite("Two", members), {"a": lambda _: Random(1)}, tmp_path)
    assert list(found.table().index) == ["A"] and "B was not measured by nDCG@10, but by RR@10." in repr(found)
    assert list(found.table("RR@10").index) == ["B"]


def test_a_whole_of_which_parts_are_left_out_has_no_value():
    beir = ptd.suites.BEIR()
    some = beir.only("CQADupStack android", "NQ")
    rows = [(name, "s", "q1", "nDCG@10", 0.5) for name in ("CQADupStack android", "NQ")]
    found = Comparison(some, pd.DataFrame(rows, columns=["dataset", "name", "qid", "measure", "value"]))
    whole = found.frame[(found.frame["dataset"] == "CQADupStack")].iloc[0]
    assert whole["of"] == "1 of 12" and np.isnan(whole["value"])
    assert "CQADupStack has no value: 1 of 12 of its datasets are there." in repr(found)
    assert len(beir.only("CQADupStack").members) == 12


def test_averages_with_ms_marco_and_with_capped_recall():
    beir = ptd.suites.BEIR(msmarco=True)
    names = [member.name for member in beir.members]
    rows = [(name, "s", "q1", measure, 0.5) for name in names for measure in ("nDCG@10", "R@100")]
    frame = Comparison(beir, pd.DataFrame(rows, columns=["dataset", "name", "qid", "measure", "value"])).frame
    there = frame[(frame["kind"] == "average") & frame["value"].notna()]
    assert {"USTAD-14", "BEIR-13 + MS MARCO"} <= set(there.loc[there["measure"] == "R@100", "dataset"])


def test_a_measure_deeper_than_the_rankings_is_refused(folders, tmp_path):
    with pytest.raises(ValueError, match="R@15 looks deeper than num_results=5"):
        compared(ptd.suites.Local(*folders), {"a": lambda _: Random(1)}, tmp_path, measures=["R@15"], num_results=5)


def test_queries_that_find_nothing_count_as_nothing_found(folders, tmp_path):
    empty = pd.DataFrame(columns=["qid", "query", "docno", "score", "rank"])
    systems = {"a": lambda _: Random(1), "none": lambda _: pt.apply.generic(lambda _: empty)}
    measures = ["nDCG@10", "NumRel", "NumRet"]
    found = compared(ptd.suites.Local(*folders), systems, tmp_path, measures=measures, baseline="a")
    assert (found.table("NumRet")["none"] == 0).all() and (found.table("NumRet")["a"] == 10).all()
    assert (found.table()["none"] == 0).all() and found.table().shape == (3, 2)
    counts = found.per_query[found.per_query["measure"] == "NumRel"].pivot(index="qid", columns="name", values="value")
    assert (counts["none"] == counts["a"]).all() and counts["a"].max() > 0


def test_re_rankers_of_queries_that_are_documents_re_rank_as_many(tmp_path):
    folder = collection(tmp_path / "docs", 1, queries=4)
    path = tmp_path / "docs" / "queries.jsonl"
    path.write_text(path.read_text().replace('"1q', '"d'))
    qrels = tmp_path / "docs" / "qrels" / "test.tsv"
    qrels.write_text(qrels.read_text().replace("1q", "d"))
    seen = {}

    def ranked(inp):
        seen.update(inp.groupby("qid")["docno"].agg(list))
        return inp.assign(score=1.0, rank=0)

    rows = [(f"d{q}", f"d{n}", -n, n) for q in range(4) for n in range(6)]
    run = pd.DataFrame(rows, columns=["qid", "docno", "score", "rank"])
    context = ptd.suites.Context(pt.get_dataset(folder), tmp_path, "docs")
    context.__dict__["first_stage"] = pt.Transformer.from_df(run)
    from pyterrier_distill.suites.serving import pipeline_for

    pipeline = pipeline_for("x", pt.apply.generic(ranked), context, 3, drop_self=True)
    pipeline(pd.DataFrame([(f"d{q}", "w1") for q in range(4)], columns=["qid", "query"]))
    assert {qid: len(docnos) for qid, docnos in seen.items()} == {f"d{q}": 3 for q in range(4)}
    assert all(qid not in docnos for qid, docnos in seen.items())


class Together(Random):
    """Scores depend on what is asked together, as in half precision; is killed at a query."""

    _killed_at = None

    def transform(self, inp):
        if self._killed_at in set(inp["qid"]):
            raise KeyboardInterrupt
        found = super().transform(inp)
        moved = 0.3 * len(inp) * found["docno"].str[1:].astype(int) % 3
        return pt.model.add_ranks(found.assign(score=found["score"] * (1 + moved)))


def test_a_run_that_was_interrupted_asks_the_same_together(tmp_path):
    suite = ptd.suites.Local(collection(tmp_path / "many", 3, queries=45))
    calm = compared(suite, {"a": Together(1)}, tmp_path / "calm")
    system = Together(1)
    for stop in ("3q0", "3q20", "3q20", "3q44"):
        system._killed_at = stop
        with pytest.raises(KeyboardInterrupt):
            compared(suite, {"a": system}, tmp_path / "rough")
    system._killed_at = None
    pd.testing.assert_frame_equal(compared(suite, {"a": system}, tmp_path / "rough").per_query, calm.per_query)
    assert len(system._asked) == len(set(system._asked)) == 45


# -- systems that changed ---------------------------------------------------------------------------------------------


def made(body, **names):
    """A class as a notebook's cell makes it, of a module that is no package's."""
    source = "class Own(pt.Transformer):\n" + "".join(f"    {line}\n" for line in body.split("\n"))
    space = {"pt": pt, "torch": torch, "__name__": "own", **names}
    exec(source, space)
    return space["Own"]


def test_a_class_whose_code_changed_is_another_system():
    one = "def transform(self, inp):\n    return inp.assign(score=1.0)"
    assert key_of(made(one)()) == key_of(made(one)()) != key_of(made(one.replace("1.0", "2.0"))())
    helped = "def transform(self, inp):\n    return helper(inp)"
    keys = [key_of(made(helped, helper=helper)()) for helper in (lambda inp: inp, lambda inp: inp.head(1))]
    assert keys[0] != keys[1]
    wrapped = [key_of(pt.apply.query(lambda row: row.query) >> made(one.replace("1.0", v))()) for v in ("1.0", "2.0")]
    assert wrapped[0] != wrapped[1]


def test_an_object_whose_attributes_changed_is_another_system():
    kind = made(
        "def __init__(self):\n    self.net = torch.nn.Linear(2, 1)\n    self.weight = 1.0\n    self.calls = 0\n"
        "    self._memory = []\ndef transform(self, inp):\n    return inp.assign(score=self.weight)"
    )
    torch.manual_seed(0)
    system = kind()
    before = key_of(system)
    system.calls, system._memory = 5, [1]
    assert key_of(system) == before  # what working leaves behind
    system.weight = 2.0
    assert key_of(system) != before
    system.weight = 1.0
    system.net.weight.data += 1
    assert key_of(system) != before
    torch.manual_seed(0)
    assert key_of(kind()) == before


# -- names ------------------------------------------------------------------------------------------------------------


def test_names_that_are_none(folders, tmp_path):
    for name in ("two\nlines", "", "\x00", 5):
        with pytest.raises(ValueError, match="a system's name must be a text of one line"):
            compared(ptd.suites.Local(*folders), {name: lambda _: Random(1)}, tmp_path)
    with pytest.raises(ValueError, match="two datasets or averages called 'mean'"):
        ptd.suites.Local(folders[0], mean=folders[1])
    with pytest.raises(ValueError, match="called 'A'"):
        Suite("x", (Member("A", None), Member("B", None, part_of="A")), (Average("all", ("A",)),))


def test_names_are_escaped():
    table = pd.DataFrame({"a >> <b>|*c*_": [0.5]}, index=["[z]"]).rename_axis(index="nDCG@10")
    marks = table.isna()
    assert "\n\np < 0.05 &amp;lt;" in layout.markdown(table, marks, ["p < 0.05 &lt;"])
    assert r"a >> &lt;b>\|\*c\*\_" in layout.markdown(table, marks, [])
    latex = layout.latex(table, marks, ["two\nlines"])
    assert r"a \textgreater{}\textgreater{} \textless{}b\textgreater{}\textbar{}{*}c{*}\_" in latex
    assert "\n{[}z] &" in latex and "% two lines\n" in latex


def test_local_names_mean_what_the_papers_report(tmp_path, monkeypatch, folders):
    names = [m.name for m in ptd.suites.Local("irds:beir/nfcorpus/test", "irds:vaswani", folders[0]).members]
    assert names == ["NFCorpus", "vaswani", "one"]
    monkeypatch.chdir(tmp_path / "one")
    assert ptd.suites.Local("folder:.").members[0].name == "one"
    assert [m.name for m in ptd.suites.Local("irds:nfcorpus/test").members] == ["nfcorpus/test"]  # TIREx's
    own = pd.DataFrame({"name": ["mine"], "NFCorpus": [0.3]})
    assert 0.331 not in ptd.published.beside(own)["NFCorpus"].tolist()
    assert len(ptd.published.beside(own)) > 20


def test_one_pipeline_serves_datasets_of_one_collection(tmp_path):
    folder = collection(tmp_path / "docs", 1)
    qrels = tmp_path / "docs" / "qrels"
    (qrels / "dev.tsv").write_text((qrels / "test.tsv").read_text())
    suite = ptd.suites.Local(f"{folder}/test", f"{folder}/dev")
    assert compared(suite, {"a": Random(1)}, tmp_path / "out").table().shape == (3, 1)
    assert Member("DL19", "irds:msmarco-passage/trec-dl-2019/judged").collection == "irds:msmarco-passage"
    with pytest.raises(TypeError, match="retrieves from one collection"):
        compared(ptd.suites.Local(folder, collection(tmp_path / "more", 2)), {"a": Random(1)}, tmp_path / "out")


def test_a_folder_with_two_corpora_is_refused(tmp_path):
    collection(tmp_path / "docs", 1)
    (tmp_path / "docs" / "corpus.jsonl.gz").write_bytes(b"")
    with pytest.raises(ValueError, match="holds both corpus.jsonl and corpus.jsonl.gz"):
        pt.get_dataset(f"folder:{tmp_path / 'docs'}")


# -- costs ------------------------------------------------------------------------------------------------------------


class Holding(Random):
    """Holds what it is given, and so many MiB while it works."""

    def __init__(self, seed, held=None, mebibytes=0):
        super().__init__(seed)
        self.held = held
        self.mebibytes = mebibytes

    def transform(self, inp):
        working = np.ones((self.mebibytes, 1 << 17))
        return super().transform(inp).assign(used=len(working)).drop(columns="used")


def test_weights_of_anybodys_models_are_counted():
    net = torch.nn.Linear(100, 10)
    assert parameters(Holding(1, net) >> Holding(2, [net])) == 1010
    assert parameters(Random(1)) == 0
    remote = ptd.OpenAI("gpt", base_url="http://localhost:1")
    assert parameters(Holding(1, remote)) is None


def test_memory_of_one_system_is_not_told_as_that_of_the_next(tmp_path):
    costs = Costs(tmp_path)
    topics = pd.DataFrame([("q1", "a"), ("q2", "b")], columns=["qid", "query"])
    for name, size in (("large", 500), ("small", 0)):
        costs.measure(name, Holding(1, None, size), "set", topics, key=name)
    peaks = costs.frame().set_index("name")["peak memory (MiB)"]
    assert peaks.isna().all() or peaks["large"] > peaks["small"] + 300
