"""Measures of papers: answers in passages as DPR finds them, capped recall, success."""

import itertools
import random
import unicodedata

import ir_measures
import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from pyterrier.measures import Success

import pyterrier_distill as ptd


def simple_tokens(text):
    """DrQA's SimpleTokenizer by a loop over Unicode's categories, without patterns."""
    tokens, run = [], ""
    for letter in unicodedata.normalize("NFD", text):
        kind = unicodedata.category(letter)[0]
        if kind in "LNM":
            run += letter
            continue
        tokens += [run] * bool(run)
        run = ""
        tokens += [letter] * (kind not in "ZC")
    return [token.lower() for token in tokens + [run] * bool(run)]


def naive(text, answers):
    """DPR's has_answer: each answer's words at each place of the text."""
    words = simple_tokens(text)
    places = range(len(words))
    return any(words[n : n + len(a)] == a for a in map(simple_tokens, answers) for n in places)


@pytest.mark.parametrize(
    ("text", "answers", "held"),
    [
        ("It opened in Paris.", ["Paris"], True),
        ("It opened in PARIS", ["paris"], True),
        ("It opened in Parisian style", ["Paris"], False),
        ("the café (open)", ["café"], True),
        ("the cafe\u0301 (open)", ["caf\u00e9"], True),  # composed or not
        ("the cafe", ["café"], False),  # accents stay
        ("a well-known man", ["well-known"], True),
        ("a well-known man", ["well"], True),
        ("a well - known man", ["well-known"], True),
        ("a well known man", ["well-known"], False),
        ("U.S. troops", ["U.S."], True),
        ("US troops", ["U.S."], False),
        ("the U. S. Army", ["U.S."], True),
        ("O'Neill's", ["O'Neill"], True),
        ("O’Neill", ["O'Neill"], False),  # another apostrophe
        ("it cost 1,000 dollars", ["1,000"], True),
        ("it cost 1000 dollars", ["1,000"], False),
        ("it was 21.5 m", ["1.5"], False),
        ("it was 1.5m", ["1.5"], False),  # "5m" is one word
        ("in 1889 and 1890", ["1890"], True),
        ("H₂O", ["h₂o"], True),
        ("STRASSE", ["straße"], False),  # lower case, not case folding
        ("Two\nlines\tof text", ["lines of"], True),
        ("zero\u200bwidth", ["zero width"], True),  # what is not seen separates words
        ("東京都", ["東京"], False),  # a run of letters is one word
        ("A B A C", ["a c"], True),
        ("a a b", ["a b"], True),
        ("the answer is nowhere", ["x", "is", "y"], True),  # any of several
        ("short", ["short and longer"], False),
        ("", ["x"], False),
    ],
)
def test_answers_stand_where_dpr_finds_them(text, answers, held):
    assert naive(text, answers) is held
    assert ptd.has_answer(text, answers) is held
    assert ptd.has_answer(text, answers[-1]) is naive(text, answers[-1:])


def test_a_search_for_all_is_each_answers_own():
    rng = random.Random(0)
    letters = "aAbé\u0301e1½²-.'’$ \t\n\u00a0\u200b東ßİ_"
    found = []
    for _ in range(3000):
        text = "".join(rng.choices(letters, k=rng.randint(0, 14)))
        answers = ["".join(rng.choices(letters, k=rng.randint(1, 4))) for _ in range(3)]
        answers = [answer for answer in answers if simple_tokens(answer)]
        if answers:
            found.append(naive(text, answers))
            assert ptd.has_answer(text, answers) is found[-1], (text, answers)
    assert 0.1 < np.mean(found) < 0.9


def test_patterns_search_the_whole_text():
    assert ptd.has_answer("On Dec. 7, 1941", [r"Dec(ember|\.)? 7"], match="regex")
    assert ptd.has_answer("the CAFÉ", "café", match="regex")
    assert ptd.has_answer("a\nfirst line", "^first", match="regex")
    assert ptd.has_answer("Parisian", "paris", match="regex") and not ptd.has_answer("Rome", "paris", match="regex")
    with pytest.raises(ValueError, match=r"'\(' is no pattern"):
        ptd.has_answer("(", "(", match="regex")


@pytest.fixture
def passages():
    texts = ["Paris is in France.", "Lyon is in France", "Rome is in Italy", "nothing", "Paris, Texas"]
    return pd.DataFrame({"docno": [f"d{n}" for n in range(5)], "text": texts})


@pytest.fixture
def answers():
    rows = [("q1", ["Paris", "Lyon"]), ("q2", "Rome"), ("q3", np.array(["Berlin"], dtype=object))]
    return pd.DataFrame(rows, columns=["qid", "gold_answer"])


@pytest.fixture
def topics():
    return pd.DataFrame({"qid": ["q1", "q2", "q3"], "query": ["french city", "italian city", "german city"]})


@pytest.fixture
def run(topics, passages):
    """All passages for each query, in an order of its own."""
    frame = topics.merge(passages, how="cross")
    orders = {"q1": [3, 2, 0, 1, 4], "q2": [0, 1, 3, 2, 4], "q3": [0, 1, 2, 3, 4]}
    ranks = [orders[qid].index(int(docno[1:])) for qid, docno in zip(frame["qid"], frame["docno"], strict=True)]
    return frame.assign(rank=ranks, score=[-float(rank) for rank in ranks]).sample(frac=1, random_state=0)


def test_relaxed_recall_is_success_by_judgements_from_answers(answers, topics, passages, run):
    measures = [ptd.RelaxedRecall @ k for k in (1, 2, 3, 4, 5)]
    relaxed = pt.Experiment([pt.Transformer.from_df(run)], topics, answers, measures, validate="error")
    first = {1: 0, 2: 0, 3: 1 / 3, 4: 2 / 3, 5: 2 / 3}

    def values(table, name):
        return [table[f"{name}@{k}"][0] for k in first]

    assert values(relaxed, "RelaxedRecall") == pytest.approx(list(first.values()))
    exploded = answers.explode("gold_answer")
    again = pt.Experiment([pt.Transformer.from_df(run)], topics, exploded, measures, batch_size=1)
    dpr = answers.rename(columns={"gold_answer": "answers"})
    assert pt.Evaluate(run, dpr, [ptd.RelaxedRecall @ 3])["RelaxedRecall@3"] == pytest.approx(1 / 3)
    assert values(again, "RelaxedRecall") == pytest.approx(list(first.values()))
    bare = pt.Transformer.from_df(run.drop(columns="text"))
    for source in (run, passages, passages.to_dict("records"), iter(passages.to_dict("records"))):
        qrels = ptd.answer_qrels(answers, source)
        strict = pt.Experiment([bare], topics, qrels, [Success @ k for k in first])
        assert values(strict, "Success") == pytest.approx(list(first.values()))


def test_judgements_from_answers(answers, passages, run):
    qrels = ptd.answer_qrels(answers, passages)
    assert [tuple(row) for row in qrels.to_numpy()] == [
        ("q1", "d0", 1), ("q1", "d1", 1), ("q2", "d2", 1), ("q1", "d4", 1), ("q3", "d0", 0),
    ]  # fmt: skip
    pooled = ptd.answer_qrels(answers, pd.concat([run, run.head(4)]))
    assert len(pooled) == 15 and (pooled["docno"] == run["docno"].to_numpy()).all()
    assert set(map(tuple, pooled[pooled["label"] == 1][["qid", "docno"]].to_numpy())) == {
        ("q1", "d0"), ("q1", "d1"), ("q1", "d4"), ("q2", "d2"),
    }  # fmt: skip
    left = ptd.answer_qrels(answers, run[run["qid"] == "q1"])  # nothing was retrieved for q2 and q3
    assert left.groupby("qid")["label"].max().to_dict() == {"q1": 1, "q2": 0, "q3": 0}


def test_a_dataset_is_read_passage_by_passage(answers, passages):
    class Dataset:
        def get_corpus_iter(self, verbose=True):
            assert verbose is False
            yield from passages.rename(columns={"text": "body"}).to_dict("records")

    qrels = ptd.answer_qrels(answers, Dataset(), text_field="body")
    pd.testing.assert_frame_equal(qrels, ptd.answer_qrels(answers, passages))


def test_queries_that_a_run_lacks_count(answers, topics, run):
    some = run[run["qid"] != "q2"]
    value = pt.Evaluate(some, answers, [ptd.RelaxedRecall @ 5])["RelaxedRecall@5"]
    assert value == pytest.approx(1 / 3)
    qrels = pd.DataFrame({"qid": ["q1", "q2"], "docno": ["d3", "d2"], "label": [1, 1]})
    assert pt.Evaluate(some, qrels, [ptd.CappedRecall @ 1])["CappedRecall@1"] == pytest.approx(0.5)


def beir_capped(qrels, run, k, rel=1):
    """BEIR's recall_cap, query by query."""
    values = []
    for qid, judged in qrels.groupby("qid"):
        relevant = set(judged.loc[judged["label"] >= rel, "docno"])
        top = run[run["qid"] == qid].sort_values("score", ascending=False)["docno"].head(k)
        values.append(len(relevant & set(top)) / min(len(relevant), k) if relevant else 0.0)
    return np.mean(values)


def test_capped_recall_is_beirs():
    rng = np.random.default_rng(0)
    pairs = list(itertools.product([f"q{n}" for n in range(6)], [f"d{n}" for n in range(60)]))
    qrels = pd.DataFrame(pairs, columns=["qid", "docno"]).assign(label=rng.integers(0, 3, len(pairs)))
    qrels.loc[qrels["qid"] == "q5", "label"] = 0
    run = qrels[["qid", "docno"]].assign(score=rng.normal(size=len(pairs))).sample(frac=0.7, random_state=1)
    run["rank"] = run.groupby("qid")["score"].rank(ascending=False).astype(int) - 1
    measures = [ptd.CappedRecall @ 5, ptd.CappedRecall @ 30, ptd.CappedRecall(rel=2) @ 30, ptd.CappedRecall @ 100]
    found = pt.Evaluate(run, qrels, [*measures, ir_measures.R @ 5, ir_measures.R @ 100])
    for measure in measures:
        expected = beir_capped(qrels, run, measure["cutoff"], measure["rel"])
        assert found[str(measure)] == pytest.approx(expected)
    assert found["CappedRecall@100"] == pytest.approx(found["R@100"]) and found["CappedRecall@5"] > found["R@5"]


def test_success_at_5_is_lottes(run, topics):
    """A query counts if one of its answers is among the first five (ColBERTv2 §4); ties do not matter here."""
    qrels = pd.DataFrame({"qid": ["q1", "q2", "q3"], "docno": ["d1", "d9", "d4"], "label": 1})
    table = pt.Experiment([pt.Transformer.from_df(run)], topics, qrels, [Success @ 4, Success @ 5])
    assert [table[f"Success@{k}"][0] for k in (4, 5)] == pytest.approx([1 / 3, 2 / 3])


def test_measures_are_known_by_name():
    from pyterrier_distill.training.evaluation import parse_measure

    assert parse_measure("CappedRecall(rel=2)@100") == ptd.CappedRecall(rel=2) @ 100
    assert ir_measures.parse_measure("RelaxedRecall@20") == ptd.RelaxedRecall @ 20
    assert str(ptd.RelaxedRecall(match="regex") @ 5) == "RelaxedRecall(match='regex')@5"


def test_what_cannot_be_judged_is_told(answers, run, passages):
    for bad, error, message in (
        ("", ValueError, "'' has no word"),
        (" \t", ValueError, "has no word"),
        ([], ValueError, "without answers"),
        ([12], TypeError, "answers must be texts, not 12"),
        (None, TypeError, "not None"),
        (float("nan"), TypeError, "not nan"),
    ):
        with pytest.raises(error, match=message):
            ptd.has_answer("text", bad)
        with pytest.raises(error, match=message):
            ptd.answer_qrels(pd.DataFrame({"qid": ["q1"], "gold_answer": [bad]}), passages)
    with pytest.raises(ValueError, match="match must be 'string' or 'regex', not 'exact'"):
        ptd.answer_qrels(answers, passages, match="exact")
    with pytest.raises(ValueError, match="no passages"):
        ptd.answer_qrels(answers, passages.head(0))
    with pytest.raises(ValueError, match="'d7' has no text"):
        ptd.answer_qrels(answers, [{"docno": "d7", "title": "x"}])
    with pytest.raises(TypeError, match="passages must be"):
        ptd.answer_qrels(answers, 3)
    with pytest.raises(ValueError, match=r"gold_answer \(or answers\), not one with qid, query"):
        ptd.answer_qrels(pd.DataFrame({"qid": ["q1"], "query": ["a"]}), passages)
    with pytest.raises(ValueError, match="frame is empty"):
        ptd.answer_qrels(answers.head(0), passages)
    with pytest.raises(ValueError, match="reads the passages' text"):
        pt.Evaluate(run.drop(columns="text"), answers, [ptd.RelaxedRecall @ 5])
    for gone in (None, float("nan")):
        holes = run.astype({"text": object}).copy()
        holes.at[holes.index[0], "text"] = gone
        qid, docno = holes.iloc[0][["qid", "docno"]]
        with pytest.raises(ValueError, match=f"document '{docno}' of query '{qid}' has none, but {gone}"):
            pt.Evaluate(holes, answers, [ptd.RelaxedRecall @ 100])
    with pytest.raises(ValueError, match="a frame with qid and gold_answer"):
        pt.Evaluate(run, run[["qid", "docno"]].assign(label=1), [ptd.RelaxedRecall @ 5])
