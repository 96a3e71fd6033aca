"""Which documents of a list a training sees: members of preference pairs, and rankings that a list is cut by."""

import logging
import re

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from test_disagreeing import FP32, SETTINGS, seen  # noqa: F401 - a fixture

import pyterrier_distill as ptd
from pyterrier_distill.sampling.samplers import PairSampler
from pyterrier_distill.training import contents

DOCS = [f"d{n}" for n in range(8)]


def kept(sampler, pairs, depth=100, **given):
    """How many of the pairs a draw keeps."""
    drawn = set(sampler.draw("q", range(depth), pairs=pairs, **given))
    assert len(drawn) == min(sampler.n, depth)
    return sum(drawn.issuperset(pair) for pair in pairs)


# -- pairs ------------------------------------------------------------------------------------------------------------


def test_sixty_four_documents_hold_nearly_all_of_fifty_pairs():
    """PairDistill: 50 pairs with |i - j| < 10 among 100 documents, of which a random draw of 64 keeps two fifths."""
    drawn = {"random": [], "with_pairs": []}
    for n in range(100):
        pairs = PairSampler(50, delta=10, seed=n).draw("q", 100)
        for strategy, counts in drawn.items():
            counts.append(kept(ptd.ListSampler(64, strategy=strategy, seed=n), pairs))
    assert 18 < np.mean(drawn["random"]) < 23
    assert np.mean(drawn["with_pairs"]) > 47.5 and min(drawn["with_pairs"]) > 40


def test_pairs_come_whole_and_all_as_often():
    pairs = [(0, 1), (2, 3), (4, 5), (6, 7)]
    sampler, counts = ptd.ListSampler(4, strategy="with_pairs"), dict.fromkeys(pairs, 0)
    for epoch in range(2000):
        drawn = sampler.draw("q", range(20), epoch=epoch, pairs=pairs)
        whole = [pair for pair in pairs if set(pair) <= set(drawn)]
        assert len(whole) == 2 and drawn == sorted(drawn)
        for pair in whole:
            counts[pair] += 1
    assert all(abs(count - 1000) < 100 for count in counts.values())
    one, turned = (sampler.draw("q", range(20), epoch=3, pairs=given) for given in (pairs, pairs[::-1]))
    assert one == turned


def test_places_that_pairs_leave_are_drawn_uniformly_within_the_depth():
    sampler = ptd.ListSampler(4, depth=6, strategy="with_pairs")
    drawn = [n for e in range(600) for n in sampler.draw("q", range(20), epoch=e, pairs=[(2, 0), (1, 9)])]
    counts = np.bincount(drawn, minlength=20)
    assert counts[0] == counts[2] == 600
    assert counts[[1, 3, 4, 5]].sum() == 1200 and (counts[[1, 3, 4, 5]] > 250).all()  # (1, 9) is beyond the depth


def test_one_relevant_document_comes_with_the_pairs():
    sampler = ptd.ListSampler(3, depth=6, strategy="with_pairs")
    for epoch in range(20):
        drawn = sampler.draw("q", range(20), relevant=[15], epoch=epoch, pairs=[(0, 1), (2, 15)])
        assert 15 in drawn and len(drawn) == 3 and ({0, 1} < set(drawn) or 2 in drawn)
    assert 15 not in sampler.draw("q", range(20), relevant=[], pairs=[(2, 15)])


def preferring(pairs):
    """Two queries with eight documents each, and preferences about some pairs."""
    rows = []
    for qid, query in (("q1", "red dog"), ("q2", "blue bird")):
        for n, docno in enumerate(DOCS):
            cell = {DOCS[j]: 0.75 for i, j in pairs if i == n}
            rows.append((qid, query, docno, f"word {docno} {n}", n, float(-n), cell))
    return pd.DataFrame(rows, columns=["qid", "query", "docno", "text", "rank", "teacher_score", "teacher_prefs"])


@pytest.mark.parametrize("stored", [False, True])
def test_a_training_draws_the_members_of_pairs(stored, tiny, seen, path, caplog):  # noqa: F811
    data = preferring([(1, 6), (3, 6)])
    data = ptd.LabelStore(path).add(data, with_text=True) if stored else data
    student = ptd.CrossEncoder(tiny, **FP32)
    sampler = ptd.ListSampler(3, strategy="with_pairs")
    ptd.Distiller(seen(student), ptd.PairwiseKL(), sampler=sampler, epochs=4, **SETTINGS).fit(data)
    assert set(seen.drawn) == {frozenset({"d1", "d3", "d6"})} and "leaves out" not in caplog.text
    assert student.manifest["pairs"] == {"queries": 2, "pairs": 4, "left_out": 0}


def test_judged_documents_come_too_where_the_loss_reads_judgements(tiny, seen):  # noqa: F811
    qrels = pd.DataFrame({"qid": ["q1", "q2"], "docno": ["d7", "d0"], "label": 1})
    sampler, loss = ptd.ListSampler(3, strategy="with_pairs"), ptd.LocalizedContrastive() + ptd.PairwiseKL()
    distiller = ptd.Distiller(seen(ptd.CrossEncoder(tiny, **FP32)), loss, sampler=sampler, epochs=3, **SETTINGS)
    distiller.fit(preferring([(1, 2)]), qrels)
    assert set(seen.drawn) == {frozenset({"d1", "d2", "d7"}), frozenset({"d0", "d1", "d2"})}


def test_a_training_that_drops_pairs_says_how_many(tiny, caplog):
    every = [(i, j) for i in range(8) for j in range(i + 1, 8)]
    for strategy, advice in (("random", 'strategy="with_pairs" draws'), ("with_pairs", "a larger n= holds more")):
        caplog.clear()
        student = ptd.CrossEncoder(tiny, **FP32)
        sampler = ptd.ListSampler(4, strategy=strategy)
        with caplog.at_level(logging.WARNING):
            ptd.Distiller(student, ptd.PairwiseKL(), sampler=sampler, **SETTINGS).fit(preferring(every))
        told = [record.getMessage() for record in caplog.records if "preferences" in record.getMessage()]
        assert len(told) == 1 and "leaves out 22.0 of the 28.0 preferences" in told[0] and advice in told[0]
        assert student.manifest["pairs"] == {"queries": 2, "pairs": 56, "left_out": 44}


@pytest.mark.parametrize(
    ("pairs", "n", "advice"),
    [
        ([(0, 6), (1, 7)], 4, ": a larger depth= lets the documents of 100.0% of these in."),
        ([(0, 1), (2, 3), (0, 6), (1, 7)], 3, "depth= .* of 66.7% of these in, a larger n= holds more of them."),
    ],
)
def test_pairs_behind_the_depth_are_told_as_such(tiny, caplog, pairs, n, advice):
    sampler = ptd.ListSampler(n, depth=4, strategy="with_pairs")
    distiller = ptd.Distiller(ptd.CrossEncoder(tiny, **FP32), ptd.PairwiseKL(), sampler=sampler, **SETTINGS)
    with caplog.at_level(logging.WARNING):
        distiller.fit(preferring(pairs))
    told = [record.getMessage() for record in caplog.records if "preferences" in record.getMessage()]
    assert len(told) == 1 and re.search(advice, told[0])


def test_losses_without_preferences_are_refused(tiny):
    student = ptd.CrossEncoder(tiny, **FP32)
    with pytest.raises(ValueError, match=r"reads no preferences.*PairwiseKL\(\)"):
        ptd.Distiller(student, ptd.KLDivergence(), sampler=ptd.ListSampler(4, strategy="with_pairs"))
    with pytest.raises(ValueError, match="pass pairs="):
        ptd.ListSampler(4, strategy="with_pairs").draw("q", range(9))


# -- rankings ---------------------------------------------------------------------------------------------------------


class Reverses(pt.Transformer):
    """A teacher that turns the list round."""

    def transform(self, inp):
        scores = inp["rank"].astype(float)
        return pt.model.add_ranks(inp.assign(score=scores, teacher_score=scores))


@pytest.fixture
def ranked():
    """The first stage says d0, d1, ...; the teacher, and the frame behind it, d7, d6, ...; rows come in any order."""
    first = preferring([]).drop(columns=["teacher_prefs", "teacher_score"])
    frame = (ptd.first_stage_rank() >> Reverses())(first)
    return frame.sample(frac=1, random_state=3)


def test_the_first_stages_ranks_stay_behind_teachers_and_in_stores(ranked, path):
    assert (ranked["first_stage_rank"] == 7 - ranked["rank"]).all()
    store = ptd.LabelStore.from_frame(path, ranked)
    back = store.frame().merge(ranked, on=["qid", "docno"], suffixes=("", "_before"))
    assert (back["first_stage_rank"] == back["first_stage_rank_before"]).all() and len(back) == 16
    assert "first_stage_rank" in store.columns()
    differ = ptd.disagreement(ranked, student="first_stage_rank", teacher="rank")
    assert sorted(differ)[:4] == [1, 1, 1, 1]  # both are ranks, lower = better
    with pytest.raises(ValueError, match="no label"):
        ptd.LabelStore(path.parent / "none").add(ranked.drop(columns="teacher_score"))


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("order, expected", [("first_stage", "d0 d1"), ("frame", "d6 d7"), ("teacher", "d3 d4")])
def test_lists_are_cut_by_the_ranking_that_is_named(order, expected, stored, tiny, ranked, seen, path):  # noqa: F811
    ranked = ranked.assign(teacher_score=[9.0 - abs(int(docno[1:]) - 3.6) for docno in ranked["docno"]])
    data = ptd.LabelStore(path).add(ranked, with_text=True) if stored else ranked
    for sampler in (ptd.ListSampler(2, strategy="top", order=order), ptd.ListSampler(2, depth=2, order=order)):
        seen.drawn.clear()
        student = ptd.CrossEncoder(tiny, **FP32)
        ptd.Distiller(seen(student), ptd.KLDivergence(), sampler=sampler, epochs=2, **SETTINGS).fit(data)
        assert {" ".join(sorted(docnos)) for docnos in seen.drawn} == {expected}


def test_a_frames_rank_need_not_be_there_where_another_ranking_is_read(tiny, ranked):
    bare = ranked.drop(columns=["rank", "score"])
    student = ptd.CrossEncoder(tiny, **FP32)
    for order in ("first_stage", "teacher"):
        sampler = ptd.ListSampler(3, depth=4, order=order)
        ptd.Distiller(student, ptd.KLDivergence(), sampler=sampler, **SETTINGS).fit(bare)
    with pytest.raises(ptd.MissingLabelError, match=r"needs the column 'first_stage_rank'.*ptd.first_stage_rank\(\)"):
        sampler = ptd.ListSampler(3, depth=4, order="first_stage")
        ptd.Distiller(student, ptd.KLDivergence(), sampler=sampler, **SETTINGS).fit(
            ranked.drop(columns="first_stage_rank")
        )


def test_what_a_list_is_cut_by_is_part_of_the_data(ranked):
    by_first = ptd.ListSampler(3, depth=4, order="first_stage")
    turned = ranked.assign(first_stage_rank=7 - ranked["first_stage_rank"])
    prints = [
        contents.fingerprint(frame, ptd.KLDivergence(), sampler, "text")
        for sampler in (by_first, ptd.ListSampler(3, depth=4)) for frame in (ranked, turned)
    ]  # fmt: skip
    assert prints[0] != prints[1] and prints[2] == prints[3]


def test_samplers_tell_and_check_their_settings(tiny):
    assert repr(ptd.ListSampler(8)) == "ListSampler(n=8, depth=None, strategy='random', seed=42)"  # as before
    assert repr(ptd.ListSampler(8, 9, order="teacher")).endswith("seed=42, order='teacher')")
    assert ptd.ListSampler(8, 9) != ptd.ListSampler(8, 9, order="teacher")
    for wrong, message in (
        ({"order": "first"}, "order must be one of frame, first_stage, teacher"),
        ({"order": "teacher"}, 'depth=, "top" and "log_random"'),
        ({"order": "first_stage", "depth": 3, "strategy": "disagreement"}, "leave order= out"),
    ):
        with pytest.raises(ValueError, match=message):
            ptd.ListSampler(3, **wrong)
    with pytest.raises(ValueError, match="reads no order of a teacher's"):
        sampler = ptd.ListSampler(3, depth=4, order="teacher")
        ptd.Distiller(ptd.CrossEncoder(tiny, **FP32), ptd.LocalizedContrastive(), sampler=sampler)


def test_real_lists_are_cut_by_bm25(collections):
    """Rank-DistiLLM's Figure 1 with RankVicuna in RankZephyr's place: the first 25 of BM25, and not of the LLM."""
    folder = collections / "dl19"
    bm25 = pt.io.read_results(str(folder / "runs" / "bm25.txt.gz"))
    teacher = ptd.RunTeacher(folder / "runs" / "teacher.rankvicuna.bm25.txt.gz")
    labelled = (ptd.first_stage_rank() >> teacher)(bm25)
    first = labelled[labelled["first_stage_rank"] < 25]
    expected = bm25[bm25.groupby("qid")["rank"].rank() <= 25]
    assert set(zip(first["qid"], first["docno"])) == set(zip(expected["qid"], expected["docno"]))
    assert len(first) == 43 * 25 and (labelled["teacher_rank"] != labelled["first_stage_rank"]).mean() > 0.9
