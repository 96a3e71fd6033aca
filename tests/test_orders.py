"""Preferences from several orders of one list."""

import itertools

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from pyterrier.measures import nDCG

import pyterrier_distill as ptd
from pyterrier_distill.sampling.samplers import PairSampler
from pyterrier_distill.teachers.orders import preferences

CANDIDATES = pd.DataFrame(
    {"qid": ["1"] * 3 + ["2"] * 2, "query": ["q"] * 3 + ["r"] * 2, "docno": list("abcab"), "rank": [0, 1, 2, 0, 1]}
)


def order(*lists, qids=("1", "2")):
    """A run: for each query its documents, best first."""
    rows = [(qid, docno, rank) for qid, docnos in zip(qids, lists) for rank, docno in enumerate(docnos)]
    return pd.DataFrame(rows, columns=["qid", "docno", "rank"])


def told(out, label="teacher_prefs"):
    """qid → (document, other) → P, in both directions."""
    found = {}
    for qid, docno, cell in zip(out["qid"], out["docno"], out[label]):
        for other, p in cell.items():
            found[qid, docno, other], found[qid, other, docno] = p, 1 - p
    return found


def test_the_share_of_orders_that_put_one_before_the_other():
    orders = [order("abc", "ab"), order("acb", "ba"), order("bac", "ab")]
    for prior in (0, 1, 2.5):
        prefs = told(ptd.OrdersTeacher(orders, prior)(CANDIDATES))
        for (qid, i, j), before in {
            ("1", "a", "b"): 2, ("1", "a", "c"): 3, ("1", "b", "c"): 2, ("2", "a", "b"): 2
        }.items():  # fmt: skip
            assert prefs[qid, i, j] == pytest.approx((before + prior / 2) / (3 + prior))
        assert len(prefs) == 8
    one = told(ptd.OrdersTeacher(orders[:1])(CANDIDATES))
    assert one["1", "a", "b"] == pytest.approx(0.75)  # one order alone is no certainty


def test_ties_count_half():
    tied = CANDIDATES[["qid", "docno"]].assign(teacher_rank=[0, 0, 1, 0, 0])
    prefs = told(ptd.OrdersTeacher([tied, order("bca", "ba")], prior=0)(CANDIDATES))
    assert prefs["1", "a", "b"] == pytest.approx(0.25)  # tied once, behind once
    assert prefs["1", "a", "c"] == pytest.approx(0.5) and prefs["1", "b", "c"] == 1
    by_score = ptd.RunTeacher(CANDIDATES.assign(score=[1.0, 1.0, 3.0, 2.0, 2.0]), by="score")
    scored = told(ptd.OrdersTeacher([by_score], prior=0)(CANDIDATES))
    assert scored["1", "a", "b"] == scored["2", "a", "b"] == 0.5 and scored["1", "c", "a"] == 1


def test_against_counting_by_hand():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, size=(7, 9)).astype(float)
    out = preferences(scores, prior=1.0)
    for i, j in itertools.product(range(9), repeat=2):
        votes = [1.0 if one[i] > one[j] else 0.5 if one[i] == one[j] else 0.0 for one in scores]
        assert out[i, j] == pytest.approx((sum(votes) + 0.5) / 8)
    np.testing.assert_allclose(out + out.T, 1)


def test_the_score_is_the_mean_preference_and_pairs_are_those_of_a_pairwise_teacher(results):
    frame = results.drop(columns="teacher_score")
    turned = frame.assign(rank=-frame["rank"])
    everything = ptd.OrdersTeacher([frame, frame, turned])(frame)
    assert everything["docno"].tolist() == frame["docno"].tolist()
    best = everything.sort_values(["qid", "rank"])["docno"].tolist()
    assert best == frame.sort_values(["qid", "rank"])["docno"].tolist()  # two of three say so
    some = ptd.OrdersTeacher([frame, turned, turned], n_pairs=4, delta=3, seed=7)(frame)
    for qid, rows in some.groupby("qid"):
        ordered = frame[frame["qid"] == qid].sort_values("rank")["docno"].tolist()
        drawn = PairSampler(4, 3, True, 7).draw(qid, len(ordered))
        expected = {frozenset((ordered[i], ordered[j])) for i, j in drawn}
        found = {frozenset((a, b)) for a, cell in zip(rows["docno"], rows["teacher_prefs"]) for b in cell}
        assert found == expected and len(found) == min(4, 2 * len(ordered) - 3)
        sums = {docno: [] for docno in ordered}
        for (_, i, _), p in told(rows).items():
            sums[i].append(p)
        for docno, score in zip(rows["docno"], rows["score"]):
            assert score == pytest.approx(np.mean(sums[docno] or [0.5]), abs=1e-6)


class Sampled(pt.Transformer):
    """A re-ranker whose order depends on its seed, and which leaves the first stage's scores beside it."""

    def __init__(self, seed):
        self.seed = seed

    def transform(self, inp):
        rng = np.random.default_rng(self.seed)
        return inp.assign(rank=inp.groupby("qid")["docno"].transform(lambda d: rng.permutation(len(d))).astype(int))


def test_orders_may_be_sampled():
    """By any re-ranker; where rank and score disagree, the rank is the order."""
    candidates = CANDIDATES.assign(score=[9.0, 8.0, 7.0, 6.0, 5.0])
    rankers = [Sampled(seed) for seed in range(6)]
    prefs = told(ptd.OrdersTeacher(rankers, prior=0)(candidates))
    outs = [one(candidates).set_index(["qid", "docno"])["rank"] for one in rankers]
    for (qid, i, j), p in prefs.items():
        assert p == pytest.approx(np.mean([out[qid, i] < out[qid, j] for out in outs]))


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4], [4, 2, 0, 3, 1]])
def test_a_re_ranker_may_tie_all(rows):
    """Its ranks are those that a frame needs; those of a stored run, or in a new order, are an order."""
    candidates = CANDIDATES.assign(score=[3.0, 2.0, 1.0, 2.0, 1.0], text="x").iloc[rows]
    one = pt.apply.doc_score(lambda row: 1.0)
    for order in (one, pt.apply.doc_score(lambda row: 2.0) >> one, ptd.PointwiseTeacher(one)):
        prefs = told(ptd.OrdersTeacher([order], prior=0)(candidates))
        assert len(prefs) == 8 and set(prefs.values()) == {0.5}
    some = told(ptd.OrdersTeacher([pt.apply.doc_score(lambda row: row["docno"] != "c")], prior=0)(candidates))
    assert some["1", "a", "b"] == some["2", "a", "b"] == 0.5 and some["1", "b", "c"] == 1
    half = told(ptd.OrdersTeacher([one, order_of_ranks()], prior=0)(candidates))
    assert half["1", "b", "a"] == 0.75
    turned = pt.apply.generic(lambda frame: frame.assign(score=1.0, rank=(frame["docno"] == "a").astype(int)))
    stored = pt.Transformer.from_df(CANDIDATES.assign(score=1.0))
    assert told(ptd.OrdersTeacher([turned], prior=0)(candidates))["1", "b", "a"] == 1
    topics = candidates[["qid", "query"]].drop_duplicates()
    assert told(ptd.OrdersTeacher([stored], prior=0)(topics))["1", "a", "b"] == 1


def order_of_ranks():
    return order("bac", "ab")


def test_costs_add_up(tiny_cross, tiny_t5, results):
    teachers = [ptd.PointwiseTeacher(name, precision="fp32", device="cpu") for name in (tiny_cross, tiny_t5)]
    several = ptd.OrdersTeacher([*teachers, results[["qid", "docno", "rank"]]])
    assert several.estimate(results).calls == 2 * len(results) and several.usage.calls == 0
    out = several(results)
    assert several.usage.calls == 2 * len(results)
    assert "teacher_logits" not in out.columns and (out["teacher_score"] == results["teacher_score"]).all()


def test_orders_of_different_lists_are_refused():
    whole = order("abc", "ab")
    for other, message in (
        (order("ab", "ab"), r"order 2, RunTeacher.*1 of 5 candidates have no stored label.*take orders of the same"),
        (ptd.RunTeacher(order("ab", "ab"), missing="drop"), "lacks document 'c' of query '1' .1 such"),
        (pt.apply.generic(lambda f: pd.concat([f, f.head(1).assign(docno="z")])), "adds document 'z' of query '1'"),
    ):
        with pytest.raises(ValueError, match=f"the orders are not of one list: .*{message}"):
            ptd.OrdersTeacher([whole, other])(CANDIDATES.assign(score=0.0))
    topics = CANDIDATES[["qid", "query"]].drop_duplicates()
    assert len(ptd.OrdersTeacher([whole, order("cab", "ba")])(topics)) == 5
    for other in (order("ab", "ab"), order("abcd", "ab"), order("abd", "ab"), order("abc", qids="1")):
        with pytest.raises(ValueError, match="the orders are not of one list: order 2"):
            ptd.OrdersTeacher([whole, other])(topics)


@pytest.mark.parametrize(
    "wrong, error, message",
    [
        ({"orders": []}, TypeError, "orders must be a list"),
        ({"orders": "run.gz"}, TypeError, "orders must be a list"),
        ({"orders": [7]}, TypeError, "an order must be a run, a frame, or a transformer"),
        ({"orders": ["nowhere.gz"]}, FileNotFoundError, "no file of labels at nowhere.gz"),
        ({"prior": -1}, ValueError, "prior must be a number of orders"), ({"prior": True}, ValueError, "prior must be"),
        ({"n_pairs": 0}, ValueError, "n_pairs must be"), ({"delta": 1}, ValueError, "delta must be"),
        ({"label": "teacher_rank"}, ValueError, "label must be"),
    ],
)  # fmt: skip
def test_bad_settings(wrong, error, message):
    with pytest.raises(error, match=message):
        ptd.OrdersTeacher(**{"orders": [order("abc", "ab")], **wrong})


def test_a_student_learns_the_order_that_most_have(tiny, ten, path):
    turned = ten.assign(teacher_rank=2 - ten["teacher_rank"])
    orders = [frame[["qid", "docno", "teacher_rank"]] for frame in (ten, ten, turned)]
    candidates = ten.drop(columns="teacher_rank")
    teacher, topics = ptd.OrdersTeacher(orders), ten[["qid", "query"]].drop_duplicates()
    pipeline = pt.Transformer.from_df(candidates) >> teacher
    store = ptd.LabelStore(path).build(pipeline, topics, with_text=True, verbose=False)
    kept, made = (frame.sort_values(["qid", "docno"]) for frame in (store.frame(), teacher(candidates)))
    for one, other in zip(kept["teacher_prefs"], made["teacher_prefs"]):
        assert one == pytest.approx(other)
    student = ptd.CrossEncoder(tiny, precision="fp32", device="cpu")
    settings = {"precision": "fp32", "verbose": False, "dropout": 0.0, "learning_rate": 4e-3, "epochs": 60}
    ptd.Distiller(student, ptd.PairwiseKL(), queries_per_batch=10, **settings).fit(store)
    right = student(candidates).merge(ten[["qid", "docno", "teacher_rank"]], on=["qid", "docno"])
    assert (right["rank"] == right["teacher_rank"]).mean() > 0.8


@pytest.mark.parametrize("name", ["dl19", "dl20"])
def test_real_orders_of_llms(name, collections):
    """Five runs of RankGPT-3.5 and one of RankVicuna over BM25's first 100."""
    folder = collections / name
    bm25 = pt.io.read_results(str(folder / "runs" / "bm25.txt.gz"))
    qrels = pt.get_dataset(f"folder:{folder}").get_qrels()
    runs = [folder / "runs" / f"teacher.rankgpt35.bm25.{n}.txt.gz" for n in range(1, 6)]
    runs.append(folder / "runs" / "teacher.rankvicuna.bm25.txt.gz")
    out = ptd.OrdersTeacher(runs, prior=1)(bm25)
    assert len(out) == len(bm25) and sum(map(len, out["teacher_prefs"])) == 4950 * bm25["qid"].nunique()
    values = np.unique([round(p * 14) for cell in out["teacher_prefs"] for p in cell.values()])
    assert values.tolist() == [1, 3, 5, 7, 9, 11, 13]  # (k + 1/2) / 7
    ranks = [pt.io.read_results(str(run)).set_index(["qid", "docno"])["rank"] for run in runs]
    qid = out["qid"].iloc[0]
    for (_, i, j), p in list(told(out[out["qid"] == qid]).items())[:200]:
        assert p == pytest.approx((sum(r[qid, i] < r[qid, j] for r in ranks) + 0.5) / 7)
    alone = [pt.Evaluate(ptd.RunTeacher(run)(bm25), qrels, [nDCG @ 10])["nDCG@10"] for run in runs]
    assert pt.Evaluate(out, qrels, [nDCG @ 10])["nDCG@10"] > np.mean(alone) - 0.01
    fifty = ptd.OrdersTeacher(runs, n_pairs=50, delta=10)(bm25)
    assert sum(map(len, fifty["teacher_prefs"])) == 50 * bm25["qid"].nunique()
    with pytest.raises(ValueError, match="the orders are not of one list: order 2.*rankvicuna.tasb"):
        ptd.OrdersTeacher([runs[0], folder / "runs" / "teacher.rankvicuna.tasb.txt.gz"])(bm25)
