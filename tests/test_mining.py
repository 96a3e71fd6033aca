"""Hard negatives: never a positive, held to limits, drawn as asked, whatever the retrievers are."""

import math

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from mined import TEN, negatives, positives, run, topics

import pyterrier_distill as ptd
from pyterrier_distill.corpora.loading import load_collection


def check_lists(out, relevant, n):
    """Every list is what a list must be."""
    for qid, rows in out.groupby("qid"):
        assert rows["rank"].tolist() == list(range(len(rows))) and rows["score"].is_monotonic_decreasing
        assert rows["docno"].is_unique and rows["query"].nunique() == 1
        assert (rows["label"] > 0).any() and (rows["label"] == 0).sum() <= n
        assert rows["label"].gt(0).astype(int).is_monotonic_decreasing  # positives first
        assert not set(rows.loc[rows["label"] == 0, "docno"]) & relevant[qid]


# -- real collections -------------------------------------------------------------------------------------------------

SPLITS = ["irds:vaswani", "irds:beir/nfcorpus/test", "irds:beir/scifact/test", "medline", "cacm"]
WHOLE = ["irds:beir/nfcorpus/dev", "irds:beir/nfcorpus/train", "irds:beir/scifact/train"]
WHOLE += ["msmarco_dev_sample/train", "msmarco_dev_sample/test"]


@pytest.mark.parametrize("name", [*SPLITS, *(pytest.param(name, marks=pytest.mark.slow) for name in WHOLE)])
def test_positives_are_never_negatives(name, irds, collections, tmp_path):
    collection = load_collection(name if ":" in name else f"folder:{collections / name}")
    bm25 = ptd.bm25(tmp_path / "index", collection.documents.to_dict("records"), num_results=100)
    asked = collection.topics[collection.topics["qid"].isin(collection.qrels["qid"])]
    asked = asked.head(40) if name in SPLITS else asked
    judged = collection.qrels[collection.qrels["label"] > 0]
    relevant = judged.groupby("qid")["docno"].agg(set)
    found = bm25(asked)
    assert any(set(rows["docno"]) & relevant[qid] for qid, rows in found.groupby("qid"))  # there is what to leave out
    texts = dict(zip(collection.documents["docno"], collection.documents["text"].str.strip()))
    given = judged[judged["qid"].isin(asked["qid"])].merge(asked, on="qid").drop(columns="label")
    inputs = ((asked, collection.qrels), (given, None), (given.groupby("qid").head(1), collection.qrels))
    for strategy in ("top", "random"):
        mine = ptd.mine_negatives(bm25, 100, 100, strategy, text=collection.documents)
        for inp, exclude in inputs:
            miner = pt.inspect.transformer_apply_attributes(mine, exclude=exclude)
            out = miner(inp)
            check_lists(out, relevant, 100)
            assert set(out["qid"]) == set(asked["qid"]) and out["text"].map(type).eq(str).all()
            candidates = found[[docno not in relevant[qid] for qid, docno in zip(found["qid"], found["docno"])]]
            copies = [
                texts[docno] in {texts[one] for one in relevant[qid]}
                for qid, docno in zip(candidates["qid"], candidates["docno"])
            ]
            candidates = candidates[~np.array(copies)]
            assert miner.counts.negatives == (out["label"] == 0).sum() == len(candidates)


@pytest.mark.parametrize("name", ["dl19", "dl20"])
def test_positives_are_never_negatives_of_stored_runs(name, collections):
    folder = collections / name
    qrels = pt.get_dataset(f"folder:{folder}").get_qrels()
    asked = pt.get_dataset(f"folder:{folder}").get_topics()
    bm25 = pt.Transformer.from_df(pt.io.read_results(str(folder / "runs" / "bm25.txt.gz")))
    tasb = ptd.RunTeacher(folder / "runs" / "tasb.txt.gz")
    out = ptd.mine_negatives({"bm25": bm25, "tasb": tasb}, 100, 20, exclude=qrels, mix="equal")(asked)
    check_lists(out, qrels[qrels["label"] > 0].groupby("qid")["docno"].agg(set), 20)
    assert set(out["qid"]) == set(asked["qid"])
    full = out[out["label"] == 0].groupby("qid").filter(lambda rows: len(rows) == 20)
    shares = full.groupby(["qid", "source"]).size().unstack()
    apart = (shares["bm25"] - shares["tasb"]).abs()
    assert len(shares) >= 40 and (apart <= 2).mean() > 0.9  # the rest have too few that nobody judged relevant


# -- lists ------------------------------------------------------------------------------------------------------------


def test_positives_of_the_frame_and_of_the_judgements_are_left_out():
    qrels = pd.DataFrame({"qid": ["a", "a", "a"], "docno": ["d1", "d2", "d3"], "label": [2, 1, 0]})
    miner = ptd.mine_negatives(run({"a": TEN}), n=20, strategy="top", exclude=qrels)
    out = miner(positives(a=["d0"]))
    assert negatives(out) == [f"d{n}" for n in range(3, 10)]
    assert out[["docno", "label"]].iloc[0].tolist() == ["d0", 1]
    assert miner.counts.relevant == 3 and miner.counts.short == 1
    out = miner(topics("a"))
    assert out["docno"].tolist()[:2] == ["d1", "d2"] and out["label"].tolist()[:3] == [2, 1, 0]
    assert miner(topics("a").assign(label=7, score=1.0)).equals(out)


def test_labels_of_the_frame_decide_what_is_positive():
    frame = positives(a=["d0", "d1", "d2"], b=["d5"]).assign(label=[3, 0, -1, 0])
    miner = ptd.mine_negatives(run({"a": TEN, "b": TEN}), n=3, strategy="top")
    out = miner(frame)
    assert out["docno"].tolist() == ["d0", "d1", "d2", "d3"] and out["label"].tolist() == [3, 0, 0, 0]
    assert miner.counts.without_positive == 1
    qrels = pd.DataFrame({"qid": ["a"] * 2, "docno": ["d0", "d1"], "label": [2, 0]})
    out = ptd.mine_negatives(run({"a": TEN}), n=1, strategy="top", exclude=qrels)(frame.drop(columns="label").head(3))
    assert out["docno"].tolist() == ["d0", "d2", "d1"] and out["label"].tolist() == [2, 1, 0]


@pytest.mark.parametrize("kind", ["frame", "retriever", "qrels", "all"])
def test_ids_may_be_numbers(kind):
    scores = {"1": {str(n): float(-n) for n in range(6)}}
    frame, found = positives(**{"1": ["0"]}), run(scores).df
    qrels = pd.DataFrame({"qid": ["1"], "docno": ["2"], "label": [1]})
    as_numbers = {"qid": int, "docno": int}
    if kind in ("frame", "all"):
        frame = frame.astype(as_numbers)
    if kind in ("retriever", "all"):
        found = found.astype(as_numbers if kind == "all" else {"docno": int})
    if kind in ("qrels", "all"):
        qrels = qrels.astype(as_numbers)
    if kind == "frame":
        frame = frame.astype({"qid": str})
    out = ptd.mine_negatives(pt.Transformer.from_df(found), n=9, strategy="top", exclude=qrels)(frame)
    assert out["docno"].tolist() == ["0", "1", "3", "4", "5"] and out["qid"].tolist() == ["1"] * 5


def test_few_candidates_or_none_are_counted(caplog):
    miner = ptd.mine_negatives(run({"a": TEN, "b": {"d0": 1.0, "x": 0.5}}), n=4, strategy="top")
    out = miner(positives(a=["d0"], b=["d0"], c=["d0"]))
    assert out.groupby("qid").size().to_dict() == {"a": 5, "b": 2, "c": 1}
    assert out[out["qid"] == "c"]["label"].tolist() == [1]
    counts = miner.counts
    assert (counts.queries, counts.negatives, counts.short, counts.nothing_retrieved) == (3, 5, 2, 1)
    assert "short 2" in caplog.text


def test_depth_and_skip():
    mine = ptd.mine_negatives(run({"a": TEN}), depth=6, n=9, strategy="top", skip=2)
    assert negatives(mine(positives(a=["d3"]))) == ["d2", "d4", "d5"]
    unranked = pt.Transformer.from_df(run({"a": TEN}).df.drop(columns="rank").sample(frac=1, random_state=1))
    assert negatives(ptd.mine_negatives(unranked, 4, 9, "top")(positives(a=["d3"]))) == ["d0", "d1", "d2"]


def test_where_a_negative_comes_from():
    out = ptd.mine_negatives({"run": run({"a": TEN})}, n=2, strategy="top")(positives(a=["d1"]))
    assert out["source"].tolist() == ["", "run", "run"]
    assert out["source_score"].tolist()[1:] == [10.0, 8.0] and out["source_rank"].tolist()[1:] == [0.0, 2.0]
    assert np.isnan(out["source_score"].iloc[0])


def test_columns_of_the_query_go_to_all_rows():
    frame = positives(a=["d0"], b=["d1"]).assign(query_vec=[np.ones(2), np.zeros(2)], url=["u", "v"])
    out = ptd.mine_negatives(run({"a": TEN, "b": TEN}), n=2)(frame)
    assert [v.tolist() for v in out["query_vec"]] == [[1, 1]] * 3 + [[0, 0]] * 3
    assert out["url"].fillna("").tolist() == ["u", "", "", "v", "", ""]


# -- texts ------------------------------------------------------------------------------------------------------------


def test_texts_come_from_a_frame_or_the_retriever():
    texts = pd.DataFrame({"docno": list(TEN), "text": [f"text of {docno}" for docno in TEN]})
    expected = "text of " + pd.Series(["d0", "d1", "d2"])
    out = ptd.mine_negatives(run({"a": TEN}), n=2, strategy="top", text=texts)(positives(a=["d0"]))
    assert out["text"].tolist() == expected.tolist()
    told = pt.Transformer.from_df(run({"a": TEN}).df.merge(texts, on="docno"))
    out = ptd.mine_negatives(told, n=2, strategy="top")(positives(a=["d0"]).assign(text="text of d0"))
    assert out["text"].tolist() == expected.tolist()
    for retriever, frame in ((told, positives(a=["d0"])), (run({"a": TEN}), positives(a=["d0"]).assign(text="x"))):
        with pytest.raises(ValueError, match="text=dataset"):
            ptd.mine_negatives(retriever, n=2)(frame)


# -- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "limit, left",
    [
        ({"max_score_ratio": 0.75}, [f"d{n}" for n in range(4, 10)]),  # the positive d2 has 8: 6 stays
        ({"margin": 1.0}, [f"d{n}" for n in range(3, 10)]),
        ({"margin": -1.0}, ["d1", *(f"d{n}" for n in range(3, 10))]),
        ({"max_score": 9.0}, ["d1", *(f"d{n}" for n in range(3, 10))]),
        ({"margin": 0.0, "max_score": 5.0}, [f"d{n}" for n in range(5, 10)]),
    ],
)
def test_limits_against_the_positive(limit, left):
    miner = ptd.mine_negatives(run({"a": TEN}), n=20, strategy="top", **limit)
    assert negatives(miner(positives(a=["d2"]))) == left
    assert miner.counts.near_positive == 9 - len(left) and miner.counts.unscored == 0


def test_the_best_positive_counts():
    out = ptd.mine_negatives(run({"a": TEN}), n=20, strategy="top", margin=0.0)(positives(a=["d5", "d2", "gone"]))
    assert negatives(out) == ["d3", "d4", "d6", "d7", "d8", "d9"]


class Scores(pt.Transformer):
    """A re-ranker that knows the scores of two documents."""

    def transform(self, inp):
        pt.validate.result_frame(inp, ["query"])
        return inp.assign(score=inp["docno"].map({"far": 4.0, "near": 6.0}), rank=0)

    def __repr__(self):
        return "Scores()"


def test_positives_that_were_not_found(caplog):
    frame = positives(a=["far", "near"])
    mine = {how: ptd.mine_negatives(run({"a": TEN}), n=20, strategy="top", margin=1, unscored=how)
            for how in ("keep", "drop")}  # fmt: skip
    assert len(negatives(mine["keep"](frame))) == 10 and mine["keep"].counts.unscored == 1
    assert "unscored 1" in caplog.text
    assert negatives(mine["drop"](frame)) == [] and mine["drop"].counts.short == 1
    with pytest.raises(ValueError, match="no scorer"):
        ptd.mine_negatives(run({"a": TEN}), n=20, margin=1, unscored="error")(frame)
    scored = ptd.mine_negatives(run({"a": TEN}), n=20, strategy="top", margin=1, scorer=Scores(), unscored="error")
    assert negatives(scored(frame)) == ["d5", "d6", "d7", "d8", "d9"]
    with pytest.raises(ValueError, match="finite"):
        scored(positives(a=["unknown"]))


def test_ratios_of_negative_scores_are_refused():
    logits = run({"a": {docno: score - 9 for docno, score in TEN.items()}})
    with pytest.raises(ValueError, match="use a margin"):
        ptd.mine_negatives(logits, max_score_ratio=0.95)(positives(a=["d4"]))
    assert negatives(ptd.mine_negatives(logits, 200, 9, "top", margin=0.0)(positives(a=["d8"]))) == ["d9"]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_that_are_no_numbers(bad):
    found = run({"a": TEN}).df
    found.loc[3, "score"] = bad
    with pytest.raises(ValueError, match="'score' must hold finite numbers"):
        ptd.mine_negatives(pt.Transformer.from_df(found))(positives(a=["d0"]))


def test_labels_of_mined_lists_are_stored(path, documents):
    """A store knows a miner by its settings, and keeps what is positive."""
    from labelling import Scorer

    qrels = pd.DataFrame({"qid": ["a", "b"], "docno": ["d0", "d1"], "label": [2, 1]})
    found = run({"a": TEN, "b": TEN})
    mine = ptd.mine_negatives(found, n=2, exclude=qrels, text=documents)
    store = ptd.LabelStore(path).build(mine >> Scorer(), topics("a", "b"))
    kept = store.frame()
    assert kept.groupby("qid").size().tolist() == [3, 3] and kept["teacher_score"].notna().all()
    assert kept[kept["label"] > 0][["qid", "docno", "label"]].values.tolist() == [["a", "d0", 2], ["b", "d1", 1]]
    other = ptd.mine_negatives(found, n=3, exclude=qrels, text=documents)
    with pytest.raises(ValueError, match="n was 2 and is 3"):
        ptd.LabelStore(path).build(other >> Scorer(), topics("a", "b"))


# -- ids and labels that match nothing --------------------------------------------------------------------------------


def test_ids_that_would_match_nothing_are_refused():
    scores = {"1": {str(n): float(-n) for n in range(6)}}
    known = pd.DataFrame({"qid": ["1"], "docno": ["2"], "label": [1]})
    with pytest.raises(ValueError, match="'docno' of exclude must hold ids.*2.0"):
        ptd.mine_negatives(run(scores), exclude=known.assign(docno=[2.0]))
    with pytest.raises(ValueError, match="'qid' of exclude must hold ids"):
        ptd.mine_negatives(run(scores), exclude=known.assign(qid=[None]))
    for wrong in ({"docno": [0.0]}, {"docno": [None]}, {"qid": [np.nan]}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))!r} of the frame must hold ids"):
            ptd.mine_negatives(run(scores))(positives(**{"1": ["0"]}).assign(**wrong))
    found = run(scores).df.astype({"docno": float})
    with pytest.raises(ValueError, match="'docno' of the results of .* must hold ids"):
        ptd.mine_negatives(pt.Transformer.from_df(found))(positives(**{"1": ["0"]}))


def test_judgements_of_other_queries_are_told(caplog):
    qrels = pd.DataFrame({"qid": ["Q-a"], "docno": ["d1"], "label": [1]})
    ptd.mine_negatives(run({"a": TEN}), n=9, exclude=qrels)(positives(a=["d0"]))
    assert "exclude judges none of 1 queries, such as 'a' (it judges 'Q-a')" in caplog.text
    caplog.clear()
    ptd.mine_negatives(run({"a": TEN}), n=9, exclude=qrels.assign(qid="a"))(positives(a=["d0"], b=["d1"]))
    assert "judges none" not in caplog.text


def test_a_query_has_one_text_and_whole_labels():
    frame = positives(a=["d0", "d1"])
    with pytest.raises(ValueError, match="'a' has several queries"):
        ptd.mine_negatives(run({"a": TEN}))(frame.assign(query=["one", "another"]))
    with pytest.raises(ValueError, match="whole numbers, but holds 0.5"):
        ptd.mine_negatives(run({"a": TEN}))(frame.assign(label=[0.5, 1.0]))
    mixed = frame.assign(qid=pd.Series([1, "1"], dtype=object), query="one")
    out = ptd.mine_negatives(run({1: TEN}), n=20)(mixed)  # retrievers see ids as they were given
    assert out["label"].tolist() == [1, 1, *[0] * 8] and out["qid"].unique().tolist() == ["1"]


def test_what_a_frame_carries_beside_its_rows_is_in_nobodys_way():
    frame, expected = positives(a=["d0"], b=["d1"]), positives(a=["d0"], b=["d1"])
    frame.attrs["vector"] = np.arange(3)
    miner = ptd.mine_negatives(run({"a": TEN, "b": TEN}), n=2)
    pd.testing.assert_frame_equal(miner(frame), miner(expected))
