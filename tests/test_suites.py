"""Systems compared over several datasets: runs that resume, averages, tests, tables."""

import json
import math

import numpy as np
import pandas as pd
import pyterrier as pt
import pyterrier_dr
import pytest
from ir_measures import RR, nDCG
from scipy.stats import ttest_rel
from statsmodels.stats.multitest import multipletests

import pyterrier_distill as ptd
from pyterrier_distill.suites import Context, serving, significance
from pyterrier_distill.suites.averages import Average
from pyterrier_distill.suites.cost import parameters
from pyterrier_distill.suites.member import Member
from pyterrier_distill.suites.runs import Runs, file_name
from pyterrier_distill.suites.suite import Suite


def collection(path, seed, queries=12, documents=30):
    """A directory in BEIR layout with random words, titles, and judgements."""
    rng = np.random.default_rng(seed)
    words = [f"w{n}" for n in range(25)]
    (path / "qrels").mkdir(parents=True)
    rows = [
        {"_id": f"d{n}", "title": f"title{n}", "text": " ".join(rng.choice(words, 8))} for n in range(documents)
    ]
    (path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = [{"_id": f"{seed}q{n}", "text": " ".join(rng.choice(words, 2))} for n in range(queries)]
    (path / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    lines = ["query-id\tcorpus-id\tscore"]
    for row in asked:
        for docno in rng.choice([r["_id"] for r in rows], 3, replace=False):
            lines.append(f"{row['_id']}\t{docno}\t{rng.integers(0, 3)}")
    (path / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    return f"folder:{path}"


class Random(pt.Transformer):
    """Ten documents a query, scored by a generator of their own; counts what it is asked, and may stop."""

    def __init__(self, seed, docnos=30):
        self.seed = seed
        self.docnos = docnos
        self._asked = []
        self._stop_at = None

    def transform(self, inp):
        rows = []
        for qid, query in zip(inp["qid"], inp["query"]):
            if self._stop_at is not None and len(self._asked) >= self._stop_at:
                raise KeyboardInterrupt
            self._asked.append(qid)
            rng = np.random.default_rng([self.seed, *map(ord, qid)])
            chosen = rng.choice(self.docnos, 10, replace=False)
            rows += [(qid, query, f"d{n}", score) for n, score in zip(chosen, rng.normal(size=10))]
        return pt.model.add_ranks(pd.DataFrame(rows, columns=["qid", "query", "docno", "score"]))

    def __repr__(self):
        return f"Random({self.seed})"


@pytest.fixture
def suite(tmp_path):
    members = [
        Member(f"Set {n}", collection(tmp_path / f"set-{n}", n), (nDCG @ 10, RR(rel=2) @ 10)) for n in range(3)
    ]
    return Suite("Three", tuple(members), (Average("all", ("Set 0", "Set 1", "Set 2")),))


def compared(suite, systems, directory, **settings):
    return suite.compare(systems, directory=directory, cost=False, verbose=False, **settings)


def test_values_and_tests_are_those_of_an_experiment(suite, tmp_path):
    systems = {name: Random(n) for n, name in enumerate(("one", "two >> three", "four"))}
    made = {name: lambda context, system=system: system for name, system in systems.items()}
    found = compared(suite, made, tmp_path / "out", baseline="one")
    for member in suite.members:
        dataset = pt.get_dataset(member.dataset)
        expected = pt.Experiment(
            systems, dataset.get_topics(), dataset.get_qrels(), list(member.measures), baseline="one", correction="holm"
        ).set_index("name")
        for measure in map(str, member.measures):
            rows = found.frame[(found.frame["dataset"] == member.name) & (found.frame["measure"] == measure)]
            rows = rows.set_index("name")
            np.testing.assert_allclose(rows["value"], expected[measure].loc[rows.index], atol=1e-9)
            told = expected[f"{measure} p-value corrected"].loc[["two >> three", "four"]].astype(float)
            np.testing.assert_allclose(rows["p"].loc[told.index], told, atol=1e-9)


def test_averages_are_means_of_datasets_and_tests_pool_their_queries(suite, tmp_path):
    systems = {"one": lambda c: Random(1), "two": lambda c: Random(2)}
    found = compared(suite, systems, tmp_path, baseline="one")
    table = found.per_query[found.per_query["measure"] == "nDCG@10"]
    means = table.groupby(["name", "dataset"])["value"].mean().groupby("name").mean()
    rows = found.frame[(found.frame["dataset"] == "all") & (found.frame["measure"] == "nDCG@10")].set_index("name")
    np.testing.assert_allclose(rows["value"], means.loc[rows.index])
    pivot = table.pivot(index=["dataset", "qid"], columns="name", values="value")
    assert rows.loc["two", "p"] == pytest.approx(ttest_rel(pivot["two"], pivot["one"]).pvalue)
    assert rows.loc["one", "queries"] == len(pivot) and rows.loc["one", "of"] == "3 of 3"


def test_an_interrupted_comparison_goes_on_and_repeats_nothing(suite, tmp_path):
    whole = compared(suite, {"one": lambda c: Random(1), "two": lambda c: Random(2)}, tmp_path / "undisturbed")
    system = Random(1)
    for stop in (3, 9, 20):
        system._stop_at = stop
        with pytest.raises(KeyboardInterrupt):
            compared(suite, {"one": lambda c: system}, tmp_path / "out")
    system._stop_at = None
    found = compared(suite, {"one": lambda c: system, "two": lambda c: Random(2)}, tmp_path / "out")
    pd.testing.assert_frame_equal(found.frame, whole.frame)
    again = Random(1)
    pd.testing.assert_frame_equal(compared(suite, {"one": lambda c: again}, tmp_path / "out").per_query,
                                  found.per_query[found.per_query["name"] == "one"].reset_index(drop=True))  # fmt: skip
    assert not again._asked
    other = Random(7)
    compared(suite, {"one": lambda c: other}, tmp_path / "out")
    assert len(other._asked) == 36  # another system of the same name


def test_a_dataset_that_is_not_there_is_named_and_its_averages_have_no_value(suite, tmp_path):
    gone = Member("Gone | 100%", "folder:/nowhere/at/all")
    wider = Suite("Four", (*suite.members, gone), (*suite.averages, Average("with gone", ("Set 0", "Gone | 100%"))))
    assert list(wider.missing()) == ["Gone | 100%"]
    found = compared(wider, {"one": lambda c: Random(1)}, tmp_path / "out")
    assert "Gone | 100%" in found.missing and math.isnan(found.table().loc["with gone", "one"])
    assert not math.isnan(found.table().loc["all", "one"])
    for text in (found.to_markdown(), found.to_latex(), found.to_html(), repr(found)):
        assert "Gone" in text and "1 of 2" in text
    with pytest.raises(ValueError, match="none of the datasets"):
        compared(Suite("None", (gone,)), {"one": lambda c: Random(1)}, tmp_path / "out")


def test_parts_count_as_one_dataset(suite, tmp_path):
    parts = tuple(Member(m.name, m.dataset, m.measures, part_of="Both" if n else None)
                  for n, m in enumerate(suite.members))  # fmt: skip
    joined = Suite("Parts", parts, (Average("all", ("Set 0", "Both")),))
    found = compared(joined, {"one": lambda c: Random(1)}, tmp_path / "out").table()["one"]
    apart = compared(suite, {"one": lambda c: Random(1)}, tmp_path / "out").table()["one"]
    assert list(found.index) == ["Set 0", "Both", "all"]
    assert found["Both"] == pytest.approx((apart["Set 1"] + apart["Set 2"]) / 2)
    assert found["all"] == pytest.approx((found["Set 0"] + found["Both"]) / 2)


def test_the_document_that_is_the_query_is_left_out(tmp_path):
    found = pd.DataFrame([("d1", "d1", 2.0, 0), ("d1", "d2", 1.0, 1)], columns=["qid", "docno", "score", "rank"])
    topics = pd.DataFrame([("d1", "a query")], columns=["qid", "query"])
    runs = Runs(tmp_path)
    settings = {"key": "of the run"}
    assert runs.get("x", pt.Transformer.from_df(found), "set", topics, **settings)["docno"].tolist() == ["d1", "d2"]
    kept = runs.get("x", pt.Transformer.from_df(found), "set", topics, drop_self=True, **settings)
    assert kept["docno"].tolist() == ["d2"] and kept["rank"].tolist() == [0]


def test_re_rankers_re_rank_the_first_stage(suite, tmp_path, tiny_cross, tiny):
    student = ptd.CrossEncoder(tiny_cross, precision="fp32", device="cpu")
    found = suite.compare({"BM25": lambda c: c.first_stage, "student": student}, directory=tmp_path, depth=5,
                          verbose=False)  # fmt: skip
    runs = sorted((tmp_path / "runs" / file_name("Set 0")).glob("student-*.txt.gz"))
    lists = pt.io.read_results(str(runs[0])).groupby("qid").size()
    assert lists.max() == 5
    costs = found.costs.set_index(["dataset", "name"])
    assert costs.loc[("Set 0", "student"), "parameters"] == student.num_parameters()
    assert (costs["ms a query"] > 0).all() and costs.loc[("Set 0", "BM25"), "parameters"] == 0
    encoder = ptd.BiEncoder(tiny, precision="fp32", device="cpu")
    assert parameters(encoder.query_encoder() >> pt.Transformer.identity() >> encoder) == encoder.num_parameters()
    with pytest.raises(TypeError, match="give a function"):
        compared(suite, {"one": Random(1)}, tmp_path)


def test_a_pipeline_whose_end_fails_without_rows_retrieves(suite, tmp_path):
    """Its first stage says so: it is no re-ranker of another first stage."""

    def doubled(results):
        return results if results["qid"].iloc[0] else results

    systems = {"mine": lambda context: context.first_stage % 3 >> pt.apply.generic(doubled)}
    found = suite.compare(systems, directory=tmp_path, cost=False, verbose=False, measures=["NumRet"])
    assert found.per_query["value"].max() <= 3
    with pytest.raises(TypeError, match=r"'mine' ranks neither queries \(asked about none: IndexError"):
        suite.compare({"mine": pt.apply.generic(doubled)}, directory=tmp_path, cost=False, verbose=False)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # files that pyterrier-dr had open
@pytest.mark.parametrize("kind", [ptd.BiEncoder, ptd.LateInteraction])
def test_an_index_that_was_interrupted_goes_on(kind, tiny, tmp_path, monkeypatch):
    """No document is encoded twice, and the index is that of an undisturbed build."""
    dataset = pt.get_dataset(collection(tmp_path / "docs", 1))
    student = kind(tiny, device="cpu", precision="fp32")
    monkeypatch.setattr(serving.encoded, "__defaults__", (8, None))
    undisturbed = serving.served(student, Context(dataset, tmp_path / "calm", "docs"), 30)
    if kind is ptd.BiEncoder:  # what anybody would build by hand
        index = pyterrier_dr.FlexIndex(str(tmp_path / "own"), verbose=False)
        (student >> index).index(Context(dataset, tmp_path, "docs").get_corpus_iter())
        own = (student.query_encoder() >> index.np_retriever(num_results=30))(dataset.get_topics())
        pd.testing.assert_frame_equal(undisturbed(dataset.get_topics()), own)
    encoder = type(student.doc_encoder())
    seen, encode = [], encoder.transform

    def counted(self, inp):
        if len(seen) == 16 and "stopped" not in state:
            state.add("stopped")
            raise KeyboardInterrupt
        seen.extend(inp["docno"])
        return encode(self, inp)

    state = set()
    monkeypatch.setattr(encoder, "transform", counted)
    with pytest.raises(KeyboardInterrupt):
        serving.served(student, Context(dataset, tmp_path / "rough", "docs"), 30)
    resumed = serving.served(student, Context(dataset, tmp_path / "rough", "docs"), 30)
    assert len(seen) == len(set(seen)) == 30
    topics = dataset.get_topics()
    pd.testing.assert_frame_equal(resumed(topics), undisturbed(topics))
    assert not list((tmp_path / "rough").glob("*-parts"))


def test_titles_are_joined(suite, tmp_path):
    seen = {}

    def look(context):
        seen["iter"] = next(iter(context.get_corpus_iter()))["text"]
        seen["loader"] = context.text_loader()(pd.DataFrame({"qid": ["1"], "docno": ["d0"]}))["text"][0]
        return Random(1)

    compared(suite.only("Set 1"), {"one": look}, tmp_path)
    assert seen["iter"] == seen["loader"] and seen["iter"].startswith("title0 w")


@pytest.mark.parametrize(
    "settings, error",
    [
        ({"systems": {}}, "at least one system"),
        ({"systems": {"a": 5}}, "must be a transformer"),
        ({"systems": {"a": lambda c: 5}}, "must return a pipeline"),
        ({"systems": {"a": lambda c: Random(1)}, "baseline": "b"}, "none of the systems"),
        ({"systems": {"a": lambda c: Random(1)}, "measures": ["nGCD"]}, "unknown measure"),
        ({"systems": {"a": lambda c: Random(1)}, "depth": 0}, "depth"),
    ],
)
def test_bad_input(settings, error, suite, tmp_path):
    with pytest.raises((ValueError, TypeError), match=error):
        compared(suite, settings.pop("systems"), tmp_path, **settings)


@pytest.mark.parametrize(
    "rows, error",
    [
        ([("other", "d1", 1.0, 0)], "not asked"),
        ([("q", "d1", 1.0, 0), ("q", "d1", 0.5, 1)], "twice"),
        ([("q", "d1", float("nan"), 0)], "no score"),
    ],
)
def test_results_that_are_none(rows, error, tmp_path):
    topics = pd.DataFrame([("q", "a")], columns=["qid", "query"])
    found = pt.apply.generic(lambda inp: pd.DataFrame(rows, columns=["qid", "docno", "score", "rank"]))
    with pytest.raises(ValueError, match=error):
        Runs(tmp_path).get("x", found, "set", topics, key="of the run")


def test_corrections_and_means_are_those_of_others():
    rng = np.random.default_rng(0)
    p = {str(n): float(value) for n, value in enumerate(rng.uniform(size=9) ** 3)}
    np.testing.assert_allclose(list(significance.holm(p).values()), multipletests(list(p.values()), method="holm")[1])
    assert math.isnan(significance.holm({"a": float("nan"), "b": 0.01})["a"])
    assert significance.holm({"a": float("nan"), "b": 0.01})["b"] == 0.01
    values = {"a": 0.2, "b": 0.8}
    assert Average("x", ("a", "b")).of(values) == 0.5
    assert Average("x", ("a", "b"), "geometric").of(values) == pytest.approx(0.4)
    assert Average("x", ("a", "b"), "root mean square").of(values) == pytest.approx(math.sqrt(0.34))
    assert math.isnan(Average("x", ("a", "c")).of(values))
    with pytest.raises(ValueError, match="mean must be one of"):
        Average("x", ("a",), "median")


def test_tables_mark_the_best_and_the_second():
    from pyterrier_distill.suites import layout

    table = pd.DataFrame({"a_1": [0.5, 0.1], "b|c": [0.5, 0.3], "d": [0.4, np.nan]}, index=["x&y", "z"])
    marks = table == 0.3
    text = layout.markdown(table, marks, ["a note"])
    assert "| x&y | **0.5000** | **0.5000** | <u>0.4000</u> |" in text and "**0.3000**†" in text and "b\\|c" in text
    assert r"x\&y & \textbf{0.5000}" in layout.latex(table, marks, []) and r"a\_1" in layout.latex(table, marks, [])
    assert "<b>0.5000</b>" in layout.html(table, marks, []) and "x&amp;y" in layout.html(table, marks, [])


# -- suites of the papers ---------------------------------------------------------------------------------------------


def test_every_dataset_is_known_to_ir_datasets_and_measured_as_it_is_reported():
    import ir_datasets

    for suite in (ptd.suites.BEIR(msmarco=True), ptd.suites.NanoBEIR(), ptd.suites.TRECDL(), ptd.suites.LoTTE(),
                  ptd.suites.LoTTE("dev"), ptd.suites.TIREx()):  # fmt: skip
        for member in suite.members:
            kind, _, name = (member.dataset or "").partition(":")
            assert kind == "irds" and name in ir_datasets.registry._registered or not kind
    beir = {member.name: member for member in ptd.suites.BEIR().members}
    assert [name for name, member in beir.items() if member.drop_self] == ["ArguAna", "Quora"]
    assert [name for name, member in beir.items() if not member.dataset] == [
        "Robust04", "Signal-1M", "TREC-NEWS", "BioASQ",
    ]  # fmt: skip
    assert "'BioASQ': PATH" in ptd.suites.BEIR().only("BioASQ").missing()["BioASQ"]
    assert sum(member.part_of == "CQADupStack" for member in beir.values()) == 12
    covid = beir["TREC-COVID"]
    assert str(covid.measures[1]) == "R@100" and str(covid.measured(covid.measures[1])) == "CappedRecall@100"
    assert all(str(m.measures[0]) == "Success@5" for m in ptd.suites.LoTTE().members)
    dl20 = ptd.suites.TRECDL(2020).members[0]
    assert [str(dl20.measured(m)) for m in dl20.measures][1:] == [
        "RR(rel=2)@10", "AP(rel=2)", "R(rel=2)@1000",
    ]  # fmt: skip
    for average in (a for s in (ptd.suites.BEIR(), ptd.suites.TIREx()) for a in s.averages):
        assert average.mean == {"TIREx RMS": "root mean square", "TIREx geometric mean": "geometric"}.get(
            average.name, "arithmetic"
        )


def test_micro_averages_count_queries_and_means_count_corpora(suite, tmp_path):
    from pyterrier_distill.suites import Comparison

    rng = np.random.default_rng(0)
    parts = [("A one", "A"), ("A two", "A"), ("B", None)]
    members = tuple(Member(name, "unused", part_of=whole) for name, whole in parts)
    pooled = Suite("TIREx", members, (Average("mean", ("A", "B")),), pooled=True)
    sizes = {"A one": 3, "A two": 7, "B": 5}
    rows = [(name, "s", f"q{n}", "nDCG@10", rng.uniform()) for name, size in sizes.items() for n in range(size)]
    table = pd.DataFrame(rows, columns=["dataset", "name", "qid", "measure", "value"])
    found = Comparison(pooled, table).table()["s"]
    micro = table[table["dataset"].str.startswith("A")]["value"].mean()
    assert found["A"] == pytest.approx(micro)
    assert found["mean"] == pytest.approx((micro + table[table["dataset"] == "B"]["value"].mean()) / 2)


@pytest.mark.parametrize(
    "make, error",
    [
        (lambda: ptd.suites.BEIR({"NoSuch": "/data"}), "BEIR has no dataset"),
        (lambda: ptd.suites.TRECDL(2018), "no passage task of 2018"),
        (lambda: ptd.suites.LoTTE("train"), "split must be"),
        (lambda: ptd.suites.Local(), "no datasets"),
        (lambda: ptd.suites.Local("irds:vaswani", "irds:vaswani"), "once"),
        (lambda: ptd.suites.Local("irds:vaswani", binary_from={"dl19": 2}), "binary_from names 'dl19'"),
        (lambda: ptd.suites.Local("irds:vaswani", measures=["nGCD@10"]), "unknown measure"),
        (lambda: ptd.suites.BEIR().only("Vaswani"), "has no dataset 'Vaswani'"),
    ],
)
def test_suites_that_are_none(make, error):
    with pytest.raises(ValueError, match=error):
        make()
