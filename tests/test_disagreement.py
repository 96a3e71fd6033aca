"""Where student and teacher disagree, by hand; and samplers that look there."""

import math
from collections import Counter

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest

import pyterrier_distill as ptd
from pyterrier_distill.frames import MissingLabelError
from pyterrier_distill.frames.ranking import rerank
from pyterrier_distill.sampling.samplers import PairSampler


def frame(student, teacher, column="teacher_score", qid="q"):
    docnos = [f"d{n}" for n in range(len(student))]
    return pd.DataFrame({"qid": qid, "docno": docnos, "score": student, column: teacher})


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_documents_by_hand():
    both = pd.concat([frame([4.0, 3.0, 2.0, 1.0], [0.1, 0.9, 0.5, 0.3]), frame([1.0, 2.0], [5, 7], qid="r")])
    # student's ranks 1 2 3 4, teacher's 4 1 2 3; the second query agrees
    np.testing.assert_array_equal(ptd.disagreement(both), [3, 1, 1, 1, 0, 0])
    shuffled = both.sample(frac=1, random_state=0)
    expected = {("q", "d0"): 3, ("q", "d1"): 1, ("q", "d2"): 1, ("q", "d3"): 1, ("r", "d0"): 0, ("r", "d1"): 0}
    assert dict(zip(zip(shuffled["qid"], shuffled["docno"]), ptd.disagreement(shuffled))) == expected


def test_ties_are_averaged_and_ranks_count_from_the_best():
    # student's ranks 1.5 1.5 3, teacher's 1 2 3
    np.testing.assert_array_equal(ptd.disagreement(frame([2, 2, 1], [0.9, 0.5, 0.1])), [0.5, 0.5, 0])
    np.testing.assert_array_equal(ptd.disagreement(frame([2, 2, 2], [1, 1, 1])), [0, 0, 0])
    ranked = frame([3, 2, 1], [2, 0, 1], "teacher_rank")
    np.testing.assert_array_equal(ptd.disagreement(ranked, teacher="teacher_rank"), [2, 1, 1])
    np.testing.assert_array_equal(ptd.disagreement(frame([1.0], [2.0])), [0])
    assert len(ptd.disagreement(frame([], []))) == 0


@pytest.mark.parametrize("score", [0.0, 0.37, -12.5])
def test_how_a_ranking_breaks_ties_is_no_disagreement(score):
    tied = frame([score] * 4, [1.0] * 4).assign(rank=range(4)).drop(columns="score")
    broken = rerank(tied, np.full(4, score))
    assert broken["score"].is_unique
    for column in ("score", "score_student"):
        shuffled = broken.rename(columns={"score": column}).iloc[[2, 0, 3, 1]]
        np.testing.assert_array_equal(ptd.disagreement(shuffled, column), np.zeros(4))
        for how in ("inversion", "preference"):
            assert not ptd.pair_disagreement(shuffled, column, strategy=how)["q"].any()
    # student's ranks 3 3 1 3, teacher's 2.5 throughout
    other = rerank(tied, np.array([score, score, 1.0 + score, score]))
    np.testing.assert_array_equal(ptd.disagreement(other.sort_values("docno")), [0.5, 0.5, 1.5, 0.5])


def test_the_scale_of_scores_does_not_matter():
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=20), rng.normal(size=20)
    np.testing.assert_array_equal(
        ptd.disagreement(frame(student, teacher)), ptd.disagreement(frame(np.exp(student), 100 * teacher - 7))
    )


def test_pairs_by_hand():
    told = [{"d1": 0.9}, {"d0": 0.3, "d2": 0.2}, {}]  # P(d0 ≻ d1): 0.9 and 1 − 0.3, mean 0.8
    weights = ptd.pair_disagreement(frame([3.0, 2.0, 0.5], told, "teacher_prefs"), teacher="teacher_prefs")["q"]
    a, b = abs(sigmoid(1.0) - 0.8), abs(sigmoid(1.5) - 0.2)
    np.testing.assert_allclose(weights, [[0, a, 0], [a, 0, b], [0, b, 0]], atol=1e-12)
    inverted = ptd.pair_disagreement(frame([3.0, 2.0, 0.5], told, "teacher_prefs"), teacher="teacher_prefs",
                                     strategy="inversion")["q"]  # fmt: skip
    np.testing.assert_array_equal(inverted, [[0, 0, 0], [0, 0, 1], [0, 1, 0]])


def test_pairs_of_scores():
    rows = frame([2.0, 1.0, 1.0], [0.0, 3.0, 0.0])
    weights = ptd.pair_disagreement(rows, temperature=2.0)["q"]
    assert weights[0, 1] == pytest.approx(sigmoid(0.5) - sigmoid(-1.5)) and weights[0, 1] == weights[1, 0]
    assert weights[0, 2] == pytest.approx(sigmoid(0.5) - 0.5) and weights[1, 2] == pytest.approx(sigmoid(1.5) - 0.5)
    inverted = ptd.pair_disagreement(rows, strategy="inversion")["q"]
    np.testing.assert_array_equal(inverted, [[0, 1, 0.5], [1, 0, 0.5], [0.5, 0.5, 0]])
    order = rows.assign(teacher_rank=[1, 0, 2])
    ranked = ptd.pair_disagreement(order, teacher="teacher_rank", strategy="inversion")["q"]
    np.testing.assert_array_equal(ranked, [[0, 1, 0], [1, 0, 0.5], [0, 0.5, 0]])


def test_pairs_count_as_the_teacher_counts_them():
    """Position 0 is the first of the incoming ranking, whatever row it stands in."""
    rows = frame([1.0, 2.0, 3.0], [9.0, 5.0, 1.0]).assign(rank=[2, 0, 1])
    weights = ptd.pair_disagreement(rows)["q"]
    by_docno = {("d1", "d2"): (0, 1), ("d2", "d0"): (1, 2), ("d1", "d0"): (0, 2)}
    scores = rows.set_index("docno")
    for (a, b), place in by_docno.items():
        s, t = (scores.loc[a, c] - scores.loc[b, c] for c in ("score", "teacher_score"))
        assert weights[place] == pytest.approx(abs(sigmoid(s) - sigmoid(t)))
    assert set(ptd.pair_disagreement(pd.concat([rows, rows.assign(qid=7)]))) == {"q", "7"}


def test_bad_input():
    rows = frame([1.0, 2.0], [1.0, 2.0])
    with pytest.raises(MissingLabelError, match="teacher_prefs"):
        ptd.pair_disagreement(rows, teacher="teacher_prefs")
    with pytest.raises(MissingLabelError, match="teacher_score"):
        ptd.disagreement(rows.drop(columns="teacher_score"))
    with pytest.raises(ValueError, match="finite"):
        ptd.disagreement(frame([1.0, np.nan], [1, 2]))
    with pytest.raises(ValueError, match="inversion"):
        ptd.pair_disagreement(rows.assign(teacher_rank=0), teacher="teacher_rank")
    with pytest.raises(ValueError, match="strategy must"):
        ptd.pair_disagreement(rows, strategy="x")
    with pytest.raises(ValueError, match="temperature"):
        ptd.pair_disagreement(rows, temperature=0)
    with pytest.raises(ValueError, match="unique"):
        ptd.disagreement(pd.concat([rows, rows]))


# -- samplers ---------------------------------------------------------------------------------------------------------


def test_documents_are_drawn_by_their_weights():
    weights = [0.0, 3.0, 1.0, 0.0]
    drawn = Counter(
        ptd.ListSampler(1, strategy="disagreement").draw(f"q{n}", range(4), weights=weights)[0] for n in range(4000)
    )
    assert drawn[0] == drawn[3] == 0 and drawn[1] / 4000 == pytest.approx(0.75, abs=0.03)
    sampler = ptd.ListSampler(3, strategy="disagreement")
    thirds = Counter(tuple(sampler.draw(f"q{n}", range(4), weights=weights)) for n in range(1000))
    assert set(thirds) == {(0, 1, 2), (1, 2, 3)} and min(thirds.values()) > 400  # then the others, uniformly
    assert sampler.draw("q", range(4), weights=weights) == sampler.draw("q", range(4), weights=weights)
    equal = Counter(n for q in range(2000) for n in ptd.ListSampler(2, strategy="disagreement").draw(
        str(q), range(4), weights=[0] * 4))  # fmt: skip
    assert all(count == pytest.approx(1000, abs=100) for count in equal.values())


def test_weights_go_by_position_and_depth_by_ranking():
    sampler = ptd.ListSampler(1, depth=2, strategy="disagreement")
    assert sampler.draw("q", [3, 2, 1, 0], weights=[9, 9, 0, 1]) == [3]
    assert sampler.reads_weights and not ptd.ListSampler(1).reads_weights


def test_pairs_are_drawn_by_their_weights():
    weights = np.zeros((3, 3))
    weights[0, 1] = weights[1, 0] = 3.0
    weights[1, 2] = weights[2, 1] = 1.0
    drawn = Counter(PairSampler(1, strategy="disagreement").draw(f"q{n}", 3, weights)[0] for n in range(4000))
    assert {frozenset(pair) for pair in drawn} == {frozenset((0, 1)), frozenset((1, 2))}
    assert (drawn[0, 1] + drawn[1, 0]) / 4000 == pytest.approx(0.75, abs=0.03)
    assert drawn[0, 1] / 4000 == pytest.approx(0.375, abs=0.03)
    both = PairSampler(1, both_orders=True, strategy="disagreement").draw("q", 3, weights)
    assert len(both) == 2 and both[0] == both[1][::-1] and set(both[0]) != {0, 2}
    near = PairSampler(None, delta=2, strategy="disagreement").draw("q", 3, np.ones((3, 3)))
    assert sorted(near) == [(0, 1), (1, 0), (1, 2), (2, 1)]


def test_samplers_say_what_they_lack():
    with pytest.raises(ValueError, match="ptd.disagreement"):
        ptd.ListSampler(1, strategy="disagreement").draw("q", range(3))
    with pytest.raises(ValueError, match="3 x 3 for query 'q'"):
        PairSampler(1, strategy="disagreement").draw("q", 3)
    with pytest.raises(ValueError, match="3 x 3"):
        PairSampler(1, strategy="disagreement").draw("q", 3, np.ones((2, 2)))
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="at least 0"):
            ptd.ListSampler(1, strategy="disagreement").draw("q", range(2), weights=[1.0, bad])
    with pytest.raises(ValueError, match="strategy must be"):
        PairSampler(1, strategy="x")


def test_uniform_draws_are_what_they_were():
    """Seeds of stored labels must go on meaning the same pairs."""
    assert PairSampler(3).draw("q1", 5) == [(4, 0), (2, 4), (1, 3)]
    assert PairSampler(2, 3, True, 7).draw("q1", 6) == [(0, 2), (2, 0), (3, 5), (5, 3)]
    assert ptd.ListSampler(4, strategy="log_random").draw("x", range(20)) == [3, 8, 9, 14]
    assert ptd.ListSampler(4).draw("x", range(20), epoch=3) == [1, 8, 11, 18]


# -- asking a teacher about such pairs --------------------------------------------------------------------------------


def asked(teacher, inp):
    """The unordered pairs that a teacher compared, as (qid, docno, docno)."""
    out = teacher(inp)
    cells = zip(out["qid"], out["docno"], out["teacher_prefs"])
    return {(qid, *sorted((docno, other))) for qid, docno, cell in cells for other in cell}


def test_a_pairwise_teacher_asks_where_student_and_teacher_disagree(tiny_t5, results):
    inp = results.assign(score_student=results["score"])
    how = {"student": "score_student", "how": "inversion"}
    teacher = ptd.PairwiseTeacher(tiny_t5, n_pairs=1, both_orders=True, disagreement=how, device="cpu")
    wrong = set()
    for qid, rows in inp.groupby("qid"):
        cells = list(zip(rows["docno"], rows["score"], rows["teacher_score"]))
        wrong |= {(qid, *sorted((a, b))) for a, s, t in cells for b, u, v in cells if (s - u) * (t - v) < 0}
    pairs = asked(teacher, inp)
    by_query = {qid for qid, *_ in wrong}
    assert len(pairs) == 4 and {pair for pair in pairs if pair[0] in by_query} <= wrong and by_query
    everything = ptd.PairwiseTeacher(tiny_t5, disagreement=how, device="cpu")
    uniform = ptd.PairwiseTeacher(tiny_t5, device="cpu")
    assert asked(everything, inp) == asked(uniform, inp) and everything != uniform
    assert teacher.estimate(inp).calls <= 8 < everything.estimate(inp).calls


def test_such_a_teacher_says_what_it_lacks(tiny_t5, results):
    with pytest.raises(ValueError, match="strategy must"):
        ptd.PairwiseTeacher(tiny_t5, disagreement={"how": "x"})
    with pytest.raises(TypeError, match="depth"):
        ptd.PairwiseTeacher(tiny_t5, disagreement={"depth": 3})
    teacher = ptd.PairwiseTeacher(tiny_t5, disagreement={"student": "score_student"})
    with pytest.raises(pt.validate.InputValidationError, match="score_student"):
        teacher(results)


def test_the_ranking_counts_from_the_best():
    ranked = pt.model.add_ranks(frame([3.0, 2.0, 1.0], [3.0, 1.0, 2.0]))
    assert ptd.disagreement(ranked, student="rank").tolist() == ptd.disagreement(ranked).tolist() == [0, 1, 1]
    by_rank = ptd.pair_disagreement(ranked, student="rank", strategy="inversion")["q"]
    assert (by_rank == ptd.pair_disagreement(ranked, strategy="inversion")["q"]).all() and by_rank.sum() == 2
    with pytest.raises(ValueError, match="ranks tell no preferences"):
        ptd.pair_disagreement(ranked, student="rank")
