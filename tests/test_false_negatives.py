"""What a teacher or an LLM finds as relevant as the positive goes, and is counted."""

import gzip
import json
import math

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest

import pyterrier_distill as ptd
from pyterrier_distill.frames import MissingLabelError


def frame(**lists):
    """qid → docno → (label, teacher_score)."""
    rows = [(qid, "q", docno, docno, *cells) for qid, listed in lists.items() for docno, cells in listed.items()]
    return pd.DataFrame(rows, columns=["qid", "query", "docno", "text", "label", "teacher_score"])


ONE = frame(a={"p": (1, 0.8), "c1": (0, 0.9), "c2": (0, 0.8), "c3": (0, 0.76), "c4": (0, 0.5), "c5": (0, -0.2)})


def left(filtered, inp=ONE, qid="a"):
    out = filtered(inp)
    return out[(out["qid"] == qid) & (out["label"] <= 0)]["docno"].tolist()


@pytest.mark.parametrize(
    "rules, expected",
    [
        ({"max_ratio": 1.0}, ["c2", "c3", "c4", "c5"]),  # what stands at the limit stays
        ({"max_ratio": 0.95}, ["c3", "c4", "c5"]),
        ({"max_ratio": 0.9}, ["c4", "c5"]),
        ({"max_ratio": 1.2}, ["c1", "c2", "c3", "c4", "c5"]),
        ({"margin": 0.0}, ["c2", "c3", "c4", "c5"]),
        ({"margin": 0.1}, ["c4", "c5"]),
        ({"margin": -0.2}, ["c1", "c2", "c3", "c4", "c5"]),
        ({"threshold": 0.5}, ["c4", "c5"]),
        ({"threshold": 0.8, "margin": 0.2}, ["c4", "c5"]),
        ({"threshold": 0.4, "max_ratio": 1.0}, ["c5"]),
    ],
)
def test_rules(rules, expected):
    a_filter = ptd.FalseNegativeFilter(**rules)
    assert left(a_filter) == expected
    assert a_filter.removed == 5 - len(expected)
    assert (a_filter.counts.candidates, a_filter.counts.unscored) == (5, 0)


def test_several_positives():
    inp = frame(a={"p1": (2, 0.5), "p2": (1, 0.9), "c1": (0, 0.7), "c2": (0, 0.4)})
    assert left(ptd.FalseNegativeFilter(max_ratio=0.95), inp) == ["c1", "c2"]
    assert left(ptd.FalseNegativeFilter(max_ratio=0.95, against="worst"), inp) == ["c2"]


def test_queries_are_judged_by_themselves_and_rows_keep_their_places():
    inp = frame(a={"p": (1, 0.9), "c": (0, 0.8)}, b={"p": (1, 0.1), "c": (0, 0.8)})
    inp = inp.iloc[[3, 0, 2, 1]].set_axis(["x", "y", "x", "z"]).assign(rank=[0, 0, 1, 1], score=[2.0, 1.0, 1.0, 0.0])
    out = ptd.FalseNegativeFilter(margin=0.0)(inp)
    assert out.index.tolist() == ["y", "x", "z"] and out["docno"].tolist() == ["p", "p", "c"]
    assert out["rank"].tolist() == [0, 0, 1] and out["score"].tolist() == [1.0, 1.0, 0.0]


def test_ranks_of_what_stays_say_what_the_ranking_said():
    inp = frame(a={"c": (0, 0.1), "d": (0, 0.2), "p": (1, 0.8), "e": (0, 0.3), "f": (0, 0.9)})
    inp = inp.assign(score=[1.0, 9.0, 5.0, 2.0, 8.0])
    for rank in (0, [3, 0, 1, 2, 0], [3, 0, 1, 2, float("nan")]):  # f goes
        out = ptd.FalseNegativeFilter(margin=0.0)(inp.assign(rank=rank))
        assert out["rank"].tolist() == [3, 0, 1, 2]


@pytest.mark.parametrize("positive", [0.0, -2.0])
def test_ratios_of_negative_scores_are_refused(positive):
    """0.95 times −2 is −1.9: a ratio would let through what scores above the positive."""
    inp = frame(a={"p": (1, positive), "c": (0, positive + 0.05)})
    with pytest.raises(ValueError, match="query 'a'.*use a margin"):
        ptd.FalseNegativeFilter(max_ratio=0.95)(inp)
    assert left(ptd.FalseNegativeFilter(margin=0.0), inp) == []


def test_without_a_positive_candidates_stay_and_are_counted(caplog):
    inp = frame(a={"c1": (0, 0.9), "c2": (0, 0.5)}, b={"p": (1, 0.6), "c": (0, 0.9)})
    by_ratio = ptd.FalseNegativeFilter(max_ratio=0.9)
    assert left(by_ratio, inp) == ["c1", "c2"] and left(by_ratio, inp, "b") == []
    assert (by_ratio.counts.unscored, by_ratio.counts.without_positive, by_ratio.removed) == (4, 2, 2)  # asked twice
    assert "2 of 3 candidates" in caplog.text
    by_threshold = ptd.FalseNegativeFilter(threshold=0.6)
    assert left(by_threshold, inp) == ["c2"] and by_threshold.counts.unscored == 0


def test_ranks_are_labels_too():
    inp = frame(a={"p": (1, 0), "c1": (0, 0), "c2": (0, 0)}).assign(teacher_rank=[1, 0, 2])
    assert left(ptd.FalseNegativeFilter(margin=0, label="teacher_rank"), inp) == ["c2"]
    with pytest.raises(ValueError, match="ranks"):
        ptd.FalseNegativeFilter(max_ratio=0.9, label="teacher_rank")


# -- teachers ---------------------------------------------------------------------------------------------------------


def test_a_teacher_is_asked_and_its_labels_stay(tiny_cross, results, qrels):
    teacher = ptd.PointwiseTeacher(tiny_cross, precision="fp32", device="cpu")
    inp = ptd.frames.join_qrels(results, qrels)
    scores = teacher(inp.drop(columns="teacher_score")).set_index(["qid", "docno"])["teacher_score"]
    out = ptd.FalseNegativeFilter(teacher, margin=0.01)(inp)
    for qid, rows in inp.groupby("qid"):
        positives = rows[rows["label"] > 0]["docno"]
        limit = max((scores[qid, docno] for docno in positives), default=math.inf) - 0.01
        expected = [d for d, label in zip(rows["docno"], rows["label"]) if label > 0 or scores[qid, d] <= limit]
        assert out[out["qid"] == qid]["docno"].tolist() == expected
    np.testing.assert_allclose(out["teacher_score"], [scores[key] for key in zip(out["qid"], out["docno"])])
    assert 0 < len(out) < len(inp) and set(out.columns) == set(inp.columns)


def test_a_re_ranker_is_a_teacher(tiny, results, qrels):
    encoder = ptd.BiEncoder(tiny, precision="fp32", device="cpu")
    inp = ptd.frames.join_qrels(results, qrels).drop(columns=["teacher_score"])
    out = ptd.FalseNegativeFilter(ptd.PointwiseTeacher(encoder), max_ratio=0.99)(inp)
    assert "teacher_score" in out.columns and len(out) < len(inp)


def test_rows_that_a_teacher_drops_stay_and_are_counted():
    stored = ptd.RunTeacher(ONE[ONE["docno"] != "c1"][["qid", "docno", "teacher_score"]], missing="drop")
    a_filter = ptd.FalseNegativeFilter(stored, max_ratio=0.9)
    assert left(a_filter, ONE.drop(columns="teacher_score")) == ["c1", "c4", "c5"]
    assert (a_filter.removed, a_filter.counts.unscored) == (2, 1)


class Pairs(pt.Transformer):
    """A pairwise teacher of stored preferences, in the order that it is asked; it keeps what it was asked."""

    def __init__(self, wins, one_order=False):
        self.wins = wins
        self.one_order = one_order
        self.asked = []

    def transform(self, inp):
        pt.validate.result_frame(inp, ["query", "text"])
        cells = []
        for qid, docno in zip(inp["qid"], inp["docno"]):
            others = [d for d in inp[inp["qid"] == qid]["docno"] if d != docno]
            self.asked += [(qid, docno, other) for other in others]
            cells.append({o: self.wins[docno, o] for o in others if not self.one_order or docno > o})
        return inp.assign(teacher_prefs=pd.Series(cells, index=inp.index, dtype=object))

    def __repr__(self):
        return "Pairs()"


WINS = {("c1", "p"): 0.9, ("p", "c1"): 0.3, ("c2", "p"): 0.9, ("p", "c2"): 0.95, ("c3", "p"): 0.4, ("p", "c3"): 0.4}
CANDIDATES = frame(a={"p": (1, 0), "c1": (0, 0), "c2": (0, 0), "c3": (0, 0)}).drop(columns="teacher_score")


def test_verdicts_of_both_orders_are_averaged():
    teacher = Pairs(WINS)
    a_filter = ptd.FalseNegativeFilter(teacher, preference=0.5)
    out = a_filter(CANDIDATES)  # (0.9 + 0.7) / 2 = 0.8, (0.9 + 0.05) / 2 = 0.475, (0.4 + 0.6) / 2 = 0.5
    assert out["docno"].tolist() == ["p", "c2"] and a_filter.removed == 2
    assert out["teacher_prefs"].tolist() == [{}, {"p": pytest.approx(0.475)}]
    assert sorted(teacher.asked) == sorted(("a", *pair) for pair in WINS)  # candidates with positives, no more
    one_order = ptd.FalseNegativeFilter(Pairs(WINS, one_order=True), preference=0.5)  # P(p ≻ c): 0.3, 0.95, 0.4
    assert left(one_order, CANDIDATES) == ["c2"] and one_order.removed == 2


def test_verdicts_against_several_positives():
    inp = frame(a={"p1": (1, 0), "p2": (1, 0), "c": (0, 0)}).drop(columns="teacher_score")
    wins = {("c", "p1"): 0.9, ("p1", "c"): 0.1, ("c", "p2"): 0.2, ("p2", "c"): 0.8}
    assert left(ptd.FalseNegativeFilter(Pairs(wins), preference=0.5), inp) == ["c"]
    assert left(ptd.FalseNegativeFilter(Pairs(wins), preference=0.5, against="worst"), inp) == []


def test_stored_verdicts():
    cells = [{"c1": 0.1, "x": 0.5}, {"x": 1.0}, {"p": 0.4}, {}]
    inp = CANDIDATES.assign(teacher_prefs=cells)
    a_filter = ptd.FalseNegativeFilter(preference=0.5)
    assert left(a_filter, inp) == ["c2", "c3"] and a_filter.counts.unscored == 1
    stored = ptd.RunTeacher(inp[["qid", "docno", "teacher_prefs"]])
    assert left(ptd.FalseNegativeFilter(stored, preference=0.5), CANDIDATES) == ["c2", "c3"]


def test_a_real_pairwise_teacher(tiny_t5, results, qrels):
    """Its own comparisons of whole lists give the same verdicts."""
    inp = ptd.frames.join_qrels(results, qrels)
    teacher = ptd.PairwiseTeacher(tiny_t5, both_orders=True, precision="fp32", device="cpu")
    whole = teacher(inp)
    prefs = {(q, d): cell for q, d, cell in zip(whole["qid"], whole["docno"], whole["teacher_prefs"])}
    p = sorted(
        prefs[q, d][o]
        for q, d, label in zip(inp["qid"], inp["docno"], inp["label"]) if label == 0
        for o in inp[(inp["qid"] == q) & (inp["label"] > 0)]["docno"]
    )  # fmt: skip
    limit = p[len(p) // 2] - 1e-4
    asked, stored = ptd.FalseNegativeFilter(teacher, preference=limit), ptd.FalseNegativeFilter(preference=limit)
    out = asked(inp)
    assert out["docno"].tolist() == stored(whole)["docno"].tolist() and 0 < asked.removed < len(p)
    assert asked.removed == stored.removed


def test_labels_of_an_earlier_teacher_are_replaced(tiny_t5, results, qrels):
    """Scores of one model beside logits of another would teach nonsense."""
    inp = ptd.frames.join_qrels(results, qrels).assign(teacher_score=5.0)
    inp["teacher_logits"] = [np.zeros(2, dtype=np.float32)] * len(inp)
    out = ptd.FalseNegativeFilter(ptd.PointwiseTeacher(tiny_t5, device="cpu", precision="fp32"), margin=-99.0)(inp)
    assert len(out) == len(inp)
    for score, logits in zip(out["teacher_score"], out["teacher_logits"]):
        assert score == pytest.approx(-np.logaddexp(0, logits[0] - logits[1]), abs=1e-5)


# -- real verdicts ----------------------------------------------------------------------------------------------------


def test_verdicts_of_llms(collections):
    """Stored as a score, 1 = a false negative: a threshold removes exactly those."""
    rows = []
    for path in sorted((collections / "rlhn_sample").glob("*.jsonl.gz")):
        for line in map(json.loads, gzip.open(path, "rt")):
            qid = f"{path.name}/{line['qid']}"
            bad = {*line["llm_better_than_pos"], *line["llm_relevant_but_worse"]}
            rows += [(qid, line["query"], d["docno"], 1, 1.0) for d in line["pos"]]
            rows += [(qid, line["query"], d["docno"], 0, float(n in bad)) for n, d in enumerate(line["neg"], 1)]
    verdicts = pd.DataFrame(rows, columns=["qid", "query", "docno", "label", "teacher_score"])
    by_verdict = ptd.FalseNegativeFilter(ptd.RunTeacher(verdicts[["qid", "docno", "teacher_score"]]), threshold=0.5)
    out = by_verdict(verdicts.drop(columns="teacher_score"))
    assert (by_verdict.removed, by_verdict.counts.candidates) == (226, 1730)
    assert (out["label"] > 0).sum() == (verdicts["label"] > 0).sum()
    assert not (out[out["label"] == 0]["teacher_score"] > 0).any()
    candidates = pt.Transformer.from_df(pt.model.add_ranks(verdicts[verdicts["label"] == 0].drop(columns=["label",
                                        "teacher_score"]).assign(score=0.0)))  # fmt: skip
    positives = verdicts[verdicts["label"] > 0].drop(columns="teacher_score")
    mine = ptd.mine_negatives(candidates, n=25, false_negatives=by_verdict)
    mined = mine(positives)
    assert (mine.counts.false_negatives, mine.counts.negatives) == (226, 1730 - 226)
    assert (mined.loc[mined["label"] == 0, "teacher_score"] == 0).all()


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, message",
    [
        ({}, "give max_ratio"), ({"margin": 0.1, "preference": 0.5}, "one filter behind the other"),
        ({"max_ratio": 0}, "positive"), ({"margin": math.inf}, "finite"), ({"threshold": "x"}, "finite"),
        ({"preference": 0}, "above 0"), ({"preference": 1.5}, "at most 1"), ({"margin": 0, "against": "x"}, "against"),
        ({"margin": 0, "teacher": pt.Transformer.identity(), "column": "score"}, "label column"),
    ],
)  # fmt: skip
def test_impossible_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        ptd.FalseNegativeFilter(**settings)


def test_bad_frames():
    with pytest.raises(TypeError, match="transformer"):
        ptd.FalseNegativeFilter("a model", margin=0)
    with pytest.raises(ValueError, match="finite"):
        ptd.FalseNegativeFilter(margin=0)(ONE.assign(teacher_score=[0.1, np.nan, 0, 0, 0, 0]))
    with pytest.raises(ValueError, match="unique"):
        ptd.FalseNegativeFilter(margin=0)(pd.concat([ONE, ONE]))
    with pytest.raises(pt.validate.InputValidationError):
        ptd.FalseNegativeFilter(margin=0)(ONE.drop(columns="label"))
    with pytest.raises(MissingLabelError, match="teacher_score"):
        ptd.FalseNegativeFilter(pt.Transformer.identity(), margin=0)(ONE)
    with pytest.raises(ValueError, match="must hold a dict"):
        ptd.FalseNegativeFilter(preference=0.5)(CANDIDATES.assign(teacher_prefs=[1, 2, 3, 4]))


def test_the_ranking_counts_as_ranks():
    ranked = ONE.assign(rank=range(len(ONE)))
    by_rank = ptd.FalseNegativeFilter(margin=0, label="rank")(ranked)
    same = ptd.FalseNegativeFilter(margin=0, label="teacher_rank")(ranked.assign(teacher_rank=ranked["rank"]))
    assert by_rank["docno"].tolist() == same["docno"].tolist()
    with pytest.raises(ValueError, match="holds ranks"):
        ptd.FalseNegativeFilter(max_ratio=0.95, label="rank")
    with pytest.raises(ValueError, match="must hold ids"):
        ptd.FalseNegativeFilter(margin=0)(ONE.assign(qid=[None, *ONE["qid"][1:]]))
