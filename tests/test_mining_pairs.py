"""One mined list for each pair of a query and a positive."""

import pandas as pd
import pytest
from mined import TEN, negatives, positives, run, topics

import pyterrier_distill as ptd

QRELS = pd.DataFrame({"qid": ["1", "1", "1", "2"], "docno": ["d0", "x", "d3", "d9"], "label": [1, 2, 1, 1]})


def mine(retriever=None, n=3, **settings):
    return ptd.mine_negatives(retriever or run({"1": TEN, "2": TEN}), 10, n, exclude=QRELS, per="pair", **settings)


def test_a_list_for_each_positive_without_the_others():
    miner = mine()
    out = miner(topics("2", "1"))
    assert out["qid"].drop_duplicates().tolist() == ["2+d9", "1+x", "1+d0", "1+d3"]  # the most relevant first
    assert out.drop_duplicates("qid")["qid_of_query"].tolist() == ["2", "1", "1", "1"]
    for qid, rows in out.groupby("qid"):
        own, positive = qid.split("+")
        assert rows["docno"].tolist()[0] == positive and rows["label"].tolist() == [rows["label"].iloc[0], 0, 0, 0]
        assert rows["rank"].tolist() == [0, 1, 2, 3] and set(rows["query"]) == {f"query {own}"}
        assert not set(negatives(rows)) & set(QRELS.loc[QRELS["qid"] == own, "docno"])
    assert out.loc[out["docno"] == "x", "label"].tolist() == [2]
    assert (miner.counts.queries, miner.counts.negatives) == (4, 12)
    drawn = [tuple(negatives(out, qid)) for qid in ("1+x", "1+d0", "1+d3")]
    assert len(set(drawn)) > 1  # each pair draws its own
    again = mine()(topics("1"))
    assert negatives(again, "1+d0") == negatives(out, "1+d0")  # whatever other queries there are


def test_lists_and_queries_are_told_apart_in_the_log(caplog):
    mine(n=9)(topics("1", "2", "3"))  # of three queries four lists, and one query of which nobody knows a positive
    assert caplog.messages == ["of 3 queries: without_positive 1; of 4 lists: short 3."]


def test_one_positive_a_query_is_as_per_query_but_for_the_name_and_the_draw():
    given = positives(**{"1": ["d0"], "2": ["d9"]})
    retriever = run({"1": TEN, "2": TEN})
    whole = ptd.mine_negatives(retriever, 10, 4, "top")(given)
    pairs = ptd.mine_negatives(retriever, 10, 4, "top", per="pair")(given)
    pd.testing.assert_frame_equal(
        pairs.drop(columns="qid").rename(columns={"qid_of_query": "qid"}), whole, check_like=True
    )


def test_limits_refer_to_the_lists_own_positive():
    """Scores are 10, 9, ... of d0, d1, ...: 0.75 of that of d3, which is 7, is 5.25; of that of d0 7.5."""
    out = mine(strategy="top", n=9, max_score_ratio=0.75)(topics("1"))
    assert negatives(out, "1+d3") == ["d5", "d6", "d7", "d8", "d9"]
    assert negatives(out, "1+d0") == ["d4", "d5", "d6", "d7", "d8", "d9"]  # d3, at 7, is relevant itself
    assert len(negatives(out, "1+x")) == 8  # its own score is not known


def test_the_query_keeps_its_id_for_retrievers_and_filters():
    given = pd.DataFrame({"qid": ["d5", "d5"], "query": "query d5", "docno": ["d0", "d1"]})
    seen = []

    class Filter(ptd.FalseNegativeFilter):
        def transform(self, inp):
            seen.extend(inp["qid"])
            return inp

    miner = ptd.mine_negatives(run({"d5": TEN}), 10, 20, per="pair", drop_self=True, false_negatives=Filter(margin=0.0))
    out = miner(given)
    assert "d5" not in negatives(out) and len(negatives(out, "d5+d0")) == 7 and set(seen) == {"d5"}


def test_nothing_to_mine_and_what_cannot_be():
    out = mine()(topics("7"))
    assert len(out) == 0 and {"qid", "qid_of_query", "docno", "label"} <= set(out.columns)
    with pytest.raises(ValueError, match="per must be one of query, pair"):
        ptd.mine_negatives(run({"1": TEN}), per="positive")
    twice = pd.DataFrame({"qid": ["1", "1+a"], "query": ["one", "two"], "docno": ["a+b", "b"]})
    with pytest.raises(ValueError, match=r"would both be called '1\+a\+b'"):
        ptd.mine_negatives(run({"1": TEN}), 10, per="pair")(twice)


def test_what_was_mined_before_is_known_again():
    from pyterrier_distill.identity.identity import identity

    retriever = run({"1": TEN})
    assert "per" not in identity(ptd.mine_negatives(retriever, 10)) and "per" not in repr(ptd.mine_negatives(retriever))
    assert identity(ptd.mine_negatives(retriever, 10, per="pair"))["per"] == "pair"
    assert "per='pair'" in repr(ptd.mine_negatives(retriever, per="pair"))


def test_what_is_mined_trains(tiny, documents):
    docs = documents["docno"].tolist()
    retriever = run({q: {d: 10.0 - n for n, d in enumerate(docs[:8])} for q in ("1", "2")})
    qrels = pd.DataFrame({"qid": ["1", "1", "2"], "docno": [docs[0], docs[1], docs[2]], "label": 1})
    mined = ptd.mine_negatives(retriever, 8, 3, exclude=qrels, per="pair", text=documents)(topics("1", "2"))
    student = ptd.BiEncoder(tiny, precision="fp32", device="cpu")
    distiller = ptd.Distiller(student, ptd.InfoNCE() + ptd.LocalizedContrastive(), steps=2, verbose=False).fit(mined)
    assert student.manifest["queries"] == 3 and len(distiller.history)
