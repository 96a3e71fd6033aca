"""Which candidates become negatives: strategies, seeds, several retrievers, filters, and settings that cannot be."""

import hashlib
import math
import random
from collections import Counter

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from mined import TEN, negatives, positives, run, topics

import pyterrier_distill as ptd
from pyterrier_distill.mining.candidates import Candidate, drawing_order

# -- drawing ----------------------------------------------------------------------------------------------------------


def drawn(strategy, seed, depth=100, n=1):
    many = [Candidate(f"d{rank}", "r", -rank, rank, None) for rank in range(depth)]
    return [c.rank for c in drawing_order([many], strategy, "round_robin", random.Random(seed))[:n]]


def test_strategies():
    ranks = {name: np.array([drawn(name, seed)[0] for seed in range(4000)]) for name in ("random", "log_random")}
    ranks["log_uniform"] = np.array([drawn("log_uniform", seed)[0] for seed in range(4000)])
    weights = {
        "random": np.ones(100),
        "log_random": 1 / np.log2(np.arange(2, 102)),
        "log_uniform": 1 / np.arange(1, 101),
    }
    for name, weight in weights.items():
        expected = (weight[:10] / weight.sum()).sum()
        assert (ranks[name] < 10).mean() == pytest.approx(expected, abs=0.03), name
    assert drawn("top", 0, n=5) == [0, 1, 2, 3, 4]
    assert sorted(drawn("log_uniform", 0, n=100)) == list(range(100))


def test_draws_depend_on_seed_and_query_alone():
    found = run({qid: {f"d{n}": -float(n) for n in range(100)} for qid in "abc"})
    frame = positives(a=["x"], b=["x"], c=["x"])
    mine = ptd.mine_negatives(found, n=5, seed=1)
    out = mine(frame)
    lists = out.groupby("qid")["docno"].agg(list)
    assert lists["a"] != lists["b"] != lists["c"]
    pd.testing.assert_frame_equal(out, mine(frame))
    for batch_size in (1, 2):
        again = ptd.mine_negatives(found, n=5, seed=1, batch_size=batch_size)
        pd.testing.assert_frame_equal(out, again(frame))
    alone = mine(frame[frame["qid"] == "b"])
    pd.testing.assert_frame_equal(out[out["qid"] == "b"].reset_index(drop=True), alone)
    assert ptd.mine_negatives(found, n=5, seed=2)(frame)["docno"].tolist() != out["docno"].tolist()


A = {"x": 9.0, "a1": 8.0, "both": 7.0, "a2": 6.0, "a3": 5.0}
B = {"b1": 0.9, "both": 0.8, "b2": 0.7, "x": 0.6, "b3": 0.5}


def test_retrievers_are_merged_in_turns():
    mine = ptd.mine_negatives({"A": run({"a": A}), "B": run({"a": B})}, n=9, strategy="top")
    out = mine(positives(a=["x"]))
    assert negatives(out) == ["a1", "b1", "both", "a2", "b2", "a3", "b3"]
    assert dict(zip(out["docno"], out["source"]))["both"] == "A"
    assert mine.counts.relevant == 1


def test_equal_shares():
    many = {"A": run({"a": {f"a{n}": -float(n) for n in range(90)}}), "B": run({"a": {f"b{n}": 1.0 for n in range(9)}})}
    for n, shares in ((8, {"A": 4, "B": 4}), (7, {"A": 4, "B": 3}), (40, {"A": 31, "B": 9})):
        out = ptd.mine_negatives(many, n=n, mix="equal")(positives(a=["x"]))
        assert Counter(out["source"]) == {"": 1, **shares}
    out = ptd.mine_negatives(list(many.values()), n=40)(positives(a=["x"]))
    assert Counter(out["source"])["0"] > 31  # of the merged 99, drawn uniformly


def test_what_one_retriever_rules_out_is_out():
    """``skip`` and limits hold in every list, each on its own scale."""
    both = [run({"a": A}), run({"a": B})]
    out = ptd.mine_negatives(both, n=9, strategy="top", skip=2)(positives(a=["x"]))
    assert negatives(out) == ["a2", "b2", "a3", "b3"]  # "both" is the second of B
    miner = ptd.mine_negatives(both, n=9, strategy="top", max_score_ratio=0.9)
    assert negatives(miner(positives(a=["x"]))) == ["a1", "b3", "a2", "a3"]  # x has 9 in A, and 0.6 in B
    assert miner.counts.near_positive == 3


# -- with a filter ----------------------------------------------------------------------------------------------------


class Judge(pt.Transformer):
    """A teacher that likes documents of even number, and counts what it is asked."""

    def __init__(self):
        self.asked = 0

    def transform(self, inp):
        pt.validate.result_frame(inp, ["query"])
        self.asked += len(inp)
        likes = [1.0 if docno == "x" or int(docno[1:]) % 2 == 0 else 0.1 for docno in inp["docno"]]
        logits = pd.Series([np.array([0.0, like]) for like in likes], index=inp.index, dtype=object)
        return inp.assign(teacher_score=np.array(likes, dtype=float), teacher_logits=logits)

    def __repr__(self):
        return "Judge()"


@pytest.mark.parametrize("strategy", ["top", "random"])
def test_false_negatives_are_replaced(strategy):
    found = run({qid: {f"d{n}": -float(n) for n in range(100)} for qid in "abc"})
    frame = positives(a=["x"], b=["x"], c=["x"])
    judge = Judge()
    mine = ptd.mine_negatives(found, 100, 6, strategy, false_negatives=ptd.FalseNegativeFilter(judge, max_ratio=0.9))
    out = mine(frame)
    everything = ptd.mine_negatives(found, 100, 100, strategy)
    odd = {qid: [d for d in _in_drawing_order(everything, qid, strategy) if int(d[1:]) % 2][:6] for qid in "abc"}
    for qid in "abc":
        assert sorted(negatives(out, qid)) == sorted(odd[qid])
    assert mine.counts.false_negatives == mine.false_negatives.removed > 0 and judge.asked < 100
    assert (out.loc[out["label"] == 0, "teacher_score"] == 0.1).all() and out["teacher_score"].notna().all()
    assert [cell[1] for cell in out["teacher_logits"]] == out["teacher_score"].tolist()  # of later draws, too


def _in_drawing_order(miner, qid, strategy):
    many = [Candidate(f"d{n}", "0", -float(n), n, None) for n in range(100)]
    rng = random.Random(hashlib.sha256(f"{miner.seed}\0{qid}".encode()).digest())
    return [c.docno for c in drawing_order([many], strategy, "round_robin", rng)]


def test_two_filters_and_a_broken_one():
    found = run({"a": {f"d{n}": -float(n) for n in range(9)}})
    first, second = ptd.FalseNegativeFilter(Judge(), margin=0.5), ptd.FalseNegativeFilter(threshold=0.01, margin=-9)
    mine = ptd.mine_negatives(found, 9, 9, "top", false_negatives=first >> second)
    assert negatives(mine(positives(a=["x"]))) == [] and mine.counts.false_negatives == 9
    assert (first.removed, second.removed) == (5, 4)
    nothing = pt.apply.generic(lambda inp: inp.iloc[:0])
    with pytest.raises(ValueError, match="negatives only"):
        ptd.mine_negatives(found, false_negatives=nothing)(positives(a=["x"]))
    for more in (lambda inp: inp.assign(docno="new-" + inp["docno"]), lambda inp: pd.concat([inp, inp])):
        with pytest.raises(ValueError, match="must remove rows only, but gave new ones"):
            ptd.mine_negatives(found, false_negatives=pt.apply.generic(more))(positives(a=["x"]))


# -- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"n": 0}, "n must be"), ({"depth": 5, "skip": 5}, "nothing is left"), ({"strategy": "hard"}, "log_uniform"),
        ({"mix": "x"}, "round_robin"), ({"unscored": "x"}, "keep"), ({"max_score_ratio": -0.9}, "positive number"),
        ({"margin": math.nan}, "finite"), ({"max_score": True}, "finite"), ({"scorer": [None, None]}, "1 scorers"),
        ({"exclude": pd.DataFrame({"qid": ["a"]})}, "docno"),
    ],
)  # fmt: skip
def test_impossible_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        ptd.mine_negatives(run({"a": TEN}), **settings)


@pytest.mark.parametrize("settings", [{"retriever": "bm25"}, {"retriever": ["bm25"]}, {"text": 3}, {"scorer": 3},
                                      {"false_negatives": 0.95}])  # fmt: skip
def test_wrong_kinds(settings):
    with pytest.raises(TypeError):
        ptd.NegativeMiner(**{"retriever": run({"a": TEN}), **settings})


def test_queries_need_judgements():
    with pytest.raises(pt.validate.InputValidationError):
        ptd.mine_negatives(run({"a": TEN}))(topics("a"))
    qrels = pd.DataFrame({"qid": ["a"], "docno": ["d0"], "label": [1]})
    miner = ptd.mine_negatives(run({"a": TEN, "b": TEN}), exclude=qrels)
    assert set(miner(topics("a", "b"))["qid"]) == {"a"} and miner.counts.without_positive == 1
    with pytest.raises(ValueError, match="gives no docno"):
        ptd.mine_negatives(pt.Transformer.identity(), exclude=qrels)(topics("a"))


def test_trains_a_student(tiny, documents, tmp_path):
    """What is mined is what a Distiller reads."""
    bm25 = ptd.bm25(tmp_path / "index", documents.to_dict("records"))
    frame = positives(a=["d0"], b=["d1"]).assign(query=["red dog", "cat house"])
    mined = ptd.mine_negatives(bm25, n=2, text=documents)(frame)
    student = ptd.BiEncoder(tiny, precision="fp32", device="cpu")
    distiller = ptd.Distiller(student, ptd.InfoNCE(), steps=2, queries_per_batch=2)
    distiller.fit(mined)
    assert np.isfinite([entry["loss"] for entry in distiller.history if "loss" in entry]).all()
