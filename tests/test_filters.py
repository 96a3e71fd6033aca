"""Filters of generated queries: what they keep, what they count, and that ids stay."""

import logging

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest

import pyterrier_distill as ptd


def queries(*rows):
    """R frame: (query, docno, query_score)."""
    frame = pd.DataFrame(rows, columns=["query", "docno", "query_score"])
    return frame.assign(qid=[f"{docno}-{n}" for n, docno in enumerate(frame["docno"])])


FRAME = queries(
    ("what is a red dog", "a", -1.0),
    ("red", "a", -0.2),
    ("où est le chat", "b", -2.0),
    ("что такое дом", "b", -0.5),
    ("blue bird sings " * 20, "c", float("nan")),
)


def nested(frame):
    """The same as a D frame."""
    rows = [(d, "\n".join(r["query"].str.strip()), r["query_score"].to_numpy()) for d, r in frame.groupby("docno")]
    return pd.DataFrame(rows, columns=["docno", "querygen", "querygen_score"])


def test_top_queries_by_score():
    top = ptd.TopQueries(2)
    assert top(FRAME)["query_score"].tolist() == [-0.2, -0.5] and (top.seen, top.removed) == (5, 3)
    assert ptd.TopQueries(100)(FRAME)["query_score"].tolist() == [-1.0, -0.2, -2.0, -0.5]  # none without a number
    by_teacher = FRAME.assign(teacher_score=[1.0, 5.0, 5.0, 5.0, 9.0])
    assert ptd.TopQueries(3, by="teacher_score")(by_teacher)["qid"].tolist() == ["a-1", "b-2", "c-4"]  # ties by qid
    shuffled = by_teacher.sample(frac=1, random_state=0)
    assert set(ptd.TopQueries(3, by="teacher_score")(shuffled)["qid"]) == {"a-1", "b-2", "c-4"}
    with pytest.raises(ValueError, match="no query has a number"):
        ptd.TopQueries(2)(FRAME.assign(query_score=np.nan))
    with pytest.raises(pt.validate.InputValidationError):
        ptd.TopQueries(2, by="teacher_score")(FRAME)
    with pytest.raises(ValueError, match="several documents"):
        ptd.TopQueries(2)(pd.concat([FRAME, FRAME]))
    with pytest.raises(ValueError, match="n must be"):
        ptd.TopQueries(0)


def test_length_filter_counts_and_logs(caplog):
    by_length = ptd.LengthFilter(3, 10)
    with caplog.at_level(logging.INFO):
        out = by_length(FRAME.set_index(pd.Index([4, 4, 2, 1, 0])))
    assert out["qid"].tolist() == ["a-0", "b-2", "b-3"] and out.index.tolist() == [4, 2, 1]
    assert (by_length.seen, by_length.removed) == (5, 2) and "removed 2 of 5" in caplog.text
    by_length(FRAME.iloc[:2])
    assert (by_length.seen, by_length.removed) == (7, 3)  # since it was made
    assert len(ptd.LengthFilter(1, None)(FRAME)) == 5
    for wrong in ((0, 5), (5, 3)):
        with pytest.raises(ValueError, match="words"):
            ptd.LengthFilter(*wrong)


def test_language_filter():
    latin = ptd.LanguageFilter()
    assert latin(FRAME)["qid"].tolist() == ["a-0", "a-1", "b-2", "c-4"]
    assert ptd.LanguageFilter(["CYRILLIC"])(FRAME)["qid"].tolist() == ["b-3"]
    assert len(ptd.LanguageFilter(["CYRILLIC", "LATIN"])(FRAME)) == 5
    mixed = queries(("дом abcd", "a", 0.0), ("12 + 3", "a", 0.0))
    assert len(ptd.LanguageFilter(share=0.5)(mixed)) == 2 and len(ptd.LanguageFilter(share=0.6)(mixed)) == 1
    english = ptd.LanguageFilter(languages=["en"], detect=lambda text: "fr" if "où" in text else "en")
    assert english(FRAME)["qid"].tolist() == ["a-0", "a-1", "c-4"] and english.removed == 2
    assert english(queries(("12 + 3", "a", 0.0)))["query"].tolist() == ["12 + 3"]  # detectors fail on such

    def fails(text):
        raise RuntimeError("No features in text.")

    assert len(ptd.LanguageFilter(languages=["en"], detect=fails)(queries(("12 + 3", "a", 0.0)))) == 1
    for wrong in ({"scripts": "LATIN"}, {"scripts": ["LATEN"]}, {"share": 2}, {"languages": ["en"]}):
        with pytest.raises(ValueError, match=next(iter(wrong))[:5] if "scripts" not in wrong else "LAT"):
            ptd.LanguageFilter(**wrong)


@pytest.mark.parametrize(
    "make", [lambda: ptd.TopQueries(2), lambda: ptd.LengthFilter(3, 10), lambda: ptd.LanguageFilter()]
)
def test_documents_lose_queries_as_exploded_ones_do(make):
    documents = nested(FRAME).assign(url="u").set_index(pd.Index([5, 5, 5]))
    before = documents.copy(deep=True)
    by_document, by_query = make(), make()
    out = by_document(documents)
    pd.testing.assert_frame_equal(documents, before)
    assert out["docno"].tolist() == ["a", "b", "c"] and (out["url"] == "u").all() and out.index.tolist() == [5, 5, 5]
    one, other = ptd.explode_queries()(out), by_query(ptd.explode_queries()(documents)).reset_index(drop=True)
    pd.testing.assert_frame_equal(one, other[one.columns])  # the same qids, too
    assert (by_document.seen, by_document.removed) == (by_query.seen, by_query.removed)
    for cell, scores in zip(out["querygen"], out["querygen_score"]):
        assert len(cell.split("\n")) == len(scores)


def test_ids_survive_any_order_of_filters():
    documents = nested(FRAME)
    pipelines = [
        ptd.LengthFilter(3, 10) >> ptd.LanguageFilter() >> ptd.explode_queries(),
        ptd.explode_queries() >> ptd.LanguageFilter() >> ptd.LengthFilter(3, 10),
        ptd.LanguageFilter() >> ptd.explode_queries() >> ptd.LengthFilter(3, 10),
    ]
    for pipeline in pipelines:
        out = pipeline(documents)
        assert dict(zip(out["qid"], out["query"])) == {"a-0": "what is a red dog", "b-0": "où est le chat"}
        assert ptd.positives(out)["docno"].tolist() == ["a", "b"]


def test_documents_whose_queries_are_all_gone_stay():
    out = ptd.LengthFilter(9, 10)(nested(FRAME))
    assert out["querygen"].tolist() == ["", "", ""] and all(len(cell) == 1 for cell in out["querygen_score"])
    assert len(ptd.explode_queries()(out)) == 0 and len(ptd.LengthFilter()(out)) == 3


@pytest.fixture(scope="module")
def vaswani(irds, tmp_path_factory):
    pytest.importorskip("pyterrier_pisa")
    dataset = pt.get_dataset("irds:vaswani")
    documents = pd.DataFrame(dataset.get_corpus_iter(verbose=False))
    path = tmp_path_factory.mktemp("vaswani") / "bm25"
    return documents, ptd.bm25(path, documents.to_dict("records"))


def test_consistent_queries_find_their_document(vaswani):
    documents, bm25 = vaswani
    some = documents.sample(150, random_state=0)
    generated = (ptd.SpanQueries(n=2) >> ptd.explode_queries())(some)
    consistent = ptd.ConsistencyFilter(bm25, depth=5, batch_size=64)
    out = consistent(generated)
    expected = []
    for row in generated.itertuples():  # one at a time
        results = bm25.search(row.query)
        expected.append(row.docno in set(results.loc[results["rank"] < 5, "docno"]))
    assert out["qid"].tolist() == generated.loc[expected, "qid"].tolist()
    assert consistent.removed == len(generated) - len(out) and 0.2 < len(out) / len(generated) < 0.95
    depths = [len(ptd.ConsistencyFilter(bm25, k)(generated)) for k in (1, 5, 50)]
    assert depths == sorted(depths) and depths[1] == len(out)
    # Queries of other documents are not consistent with these.
    strangers = generated.assign(docno=np.roll(generated["docno"], 10))
    assert len(consistent(strangers)) < 0.1 * len(generated)


def test_consistency_is_by_the_rankings_own_order():
    generated = queries(("red dog", "a", 0.0), ("blue bird", "c", 0.0)).assign(qid=["a-1", "c-1"])
    rows = [(qid, docno, score) for qid in "01" for docno, score in (("c", 1.0), ("a", 3.0), ("b", 2.0))]
    found = pd.DataFrame(rows, columns=["qid", "docno", "score"])
    for results in (found, found.assign(rank=0), found.assign(rank=1), found.assign(rank=[2, 0, 1] * 2)):
        retriever = pt.Transformer.from_df(results)
        for k, kept in ((1, ["a"]), (2, ["a"]), (3, ["a", "c"])):
            assert ptd.ConsistencyFilter(retriever, k)(generated)["docno"].tolist() == kept
    with pytest.raises(ValueError, match="no rank and no score"):
        ptd.ConsistencyFilter(pt.Transformer.from_df(found[["qid", "docno"]]))(generated)


def test_a_chain_of_filters_on_real_documents(vaswani):
    documents, bm25 = vaswani
    some = documents.sample(100, random_state=1)
    length, language, consistent = ptd.LengthFilter(2, 10), ptd.LanguageFilter(), ptd.ConsistencyFilter(bm25, 20)
    scored = ptd.explode_queries() >> length >> language >> consistent
    generated = ptd.KeyphraseQueries(n=4)(some)
    out = scored(generated)
    assert length.removed > 0 and consistent.removed > 0 and consistent.seen == length.seen - length.removed
    assert length.seen == generated["querygen"].str.split("\n").map(len).sum()
    assert len(out) == consistent.seen - consistent.removed
    texts = dict(zip(some["docno"], some["text"]))
    for row in out.itertuples():
        assert row.query in " ".join(texts[row.docno].lower().split()) and row.qid.startswith(f"{row.docno}-")
    longest = pt.apply.doc_score(lambda row: len(row["query"])) >> ptd.TopQueries(10, by="score")
    assert sorted(longest(out)["query"].map(len)) == sorted(out["query"].map(len))[-10:]


def test_examples_come_from_a_dataset(vaswani):
    documents, _ = vaswani
    dataset = pt.get_dataset("irds:vaswani")
    few = ptd.FewShot(dataset.get_topics(), dataset.get_qrels(), dataset, n=8)
    texts, qrels = dict(zip(documents["docno"], documents["text"].str.strip())), dataset.get_qrels()
    assert len(set(few.example_qids)) == 8
    for qid, example in zip(few.example_qids, few.examples):
        assert example.document in {texts[docno] for docno in qrels.loc[qrels["qid"] == qid, "docno"]}
        assert example.query == dataset.get_topics().set_index("qid")["query"][qid]
