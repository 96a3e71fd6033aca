"""Queries without a language model, and frames from generated queries."""

import math

import numpy as np
import pandas as pd
import pytest
from generating import docs

import pyterrier_distill as ptd
from pyterrier_distill.generation.keyphrases import DocumentFrequencies
from pyterrier_distill.generation.spans import LogUniform, Mixture, Phrasings, Uniform


def test_spans_are_consecutive_words_of_their_document(documents):
    out = ptd.SpanQueries(n=20, lengths=Uniform(2, 5))(documents)
    for text, spans in zip(out["text"], out["querygen"]):
        lines = spans.split("\n")
        assert len(lines) == 20
        for line in lines:
            assert f" {line} " in f" {text} "
            assert min(2, len(text.split())) <= len(line.split()) <= 5


def test_spans_depend_on_seed_docno_and_text_alone(documents):
    whole = ptd.SpanQueries(n=5)(documents).set_index("docno")["querygen"]
    alone = ptd.SpanQueries(n=5)(documents.sample(frac=1, random_state=1).head(4)).set_index("docno")["querygen"]
    assert alone.to_dict() == whole[alone.index].to_dict()
    assert (ptd.SpanQueries(n=5, seed=7)(documents)["querygen"].to_numpy() != whole.to_numpy()).any()


def test_lengths_follow_the_distribution():
    text = pd.DataFrame([("d", " ".join(["word"] * 200))], columns=["docno", "text"])
    lengths = [
        len(s.split()) for s in ptd.SpanQueries(n=4000, lengths=LogUniform(1, 31))(text)["querygen"][0].split("\n")
    ]
    octaves = np.histogram(lengths, bins=[1, 2, 4, 8, 16, 32])[0] / len(lengths)
    assert set(lengths) >= set(range(1, 32)) and max(lengths) == 31
    assert np.allclose(octaves, 0.2, atol=0.03)  # every octave alike
    uniform = [len(s.split()) for s in ptd.SpanQueries(n=4000, lengths=Uniform(3, 20))(text)["querygen"][0].split("\n")]
    assert min(uniform) == 3 and max(uniform) == 20 and abs(np.mean(uniform) - 11.5) < 0.3


def test_mixtures_draw_from_each_part():
    text = pd.DataFrame([("d", " ".join(["word"] * 200))], columns=["docno", "text"])
    queries = ptd.SpanQueries(n=2000, lengths=Mixture((Uniform(1, 1), Uniform(9, 9))))(text)["querygen"][0].split("\n")
    lengths = [len(query.split()) for query in queries]
    assert set(lengths) == {1, 9} and abs(lengths.count(1) / 2000 - 0.5) < 0.05


def test_phrasings_frame_their_share_of_the_spans(documents):
    phrasings = Phrasings(share=0.25, question_mark=0.5, lengths=Uniform(2, 2), frames=("who has {}", "{} versus {}"))
    lines = ptd.SpanQueries(n=300, lengths=Uniform(3, 3), phrasings=phrasings)(documents)["querygen"].str.cat(sep="\n")
    lines = lines.split("\n")
    framed = [line for line in lines if line.startswith("who has ") or " versus " in line]
    assert abs(len(framed) / len(lines) - 0.25) < 0.03
    assert abs(sum(line.endswith("?") for line in framed) / len(framed) - 0.5) < 0.06
    assert not any(line.endswith("?") for line in set(lines) - set(framed))
    assert {len(line.rstrip("?").split()) for line in framed} == {4, 5}
    with pytest.raises(ValueError, match="one or two"):
        Phrasings(frames=("no place",))
    with pytest.raises(ValueError, match="between 0 and 1"):
        Phrasings(share=2)
    assert ptd.SpanQueries(phrasings=phrasings) != ptd.SpanQueries(phrasings=Phrasings(share=0.25))


def test_documents_without_words_give_no_queries():
    documents = pd.DataFrame([("a", ""), ("b", "  \n "), ("c", "one two")], columns=["docno", "text"])
    out = (ptd.SpanQueries(n=3) >> ptd.explode_queries())(documents)
    assert set(out["docno"]) == {"c"} and len(out) == 3


def test_fields_are_joined(documents):
    frame = documents.assign(title="only here")
    spans = ptd.SpanQueries(n=200, text_field=["title", "text"])(frame)["querygen"].str.cat(sep="\n")
    assert "only" in spans and frame["text"].iloc[0].split()[0] in spans


def test_exploded_rows_keep_their_document():
    documents = pd.DataFrame(
        [("a", "x", "first\n\nsecond"), ("b", "y", ""), ("c", "z", "third")], columns=["docno", "url", "querygen"]
    ).set_index(pd.Index([7, 7, 9]))
    out = ptd.explode_queries()(documents)
    assert out[["qid", "query", "docno", "url"]].to_numpy().tolist() == [
        ["a-0", "first", "a", "x"],
        ["a-2", "second", "a", "x"],
        ["c-0", "third", "c", "z"],
    ]


def test_mistakes_are_told():
    for wrong in (0, 2.5, True, "3"):
        with pytest.raises(ValueError, match="at least 1"):
            ptd.SpanQueries(n=wrong)
    with pytest.raises(ValueError, match="low <= high"):
        LogUniform(5, 2)
    with pytest.raises(ValueError, match="'text' must hold text.*'d1'"):
        ptd.SpanQueries()(pd.DataFrame([("d0", "a"), ("d1", None)], columns=["docno", "text"]))


def test_titles_and_first_sentences():
    frame = docs("First one, e.g. this. Second.", "What is it? It is.", "", "一句话。另一句。", "no end at all")
    frame = frame.assign(title=["A Title.", "", "", "", "  "])
    out = ptd.TitleQueries()(frame)["querygen"].tolist()
    assert out == ["A Title", "What is it?", "", "一句话。", "no end at all"]
    bare = ptd.TitleQueries(None, max_words=3)(frame.drop(columns="title"))["querygen"].tolist()
    assert bare == ["First one, e.g", "What is it?", "", "一句话。", "no end at"]
    with pytest.raises(ValueError, match="max_words"):
        ptd.TitleQueries(max_words=0)


def test_keyphrases_weigh_by_tf_idf():
    frame = docs("Deep sea fish live in the deep sea. Fish eat.", "Fish and chips, fish and 12 chips", "the of and", "")
    frequencies = DocumentFrequencies({"fish": 9, "sea": 1, "deep": 1, "chips": 3, "live": 5, "eat": 6}, 10)
    idf = {word: math.log(11 / (df + 1)) + 1 for word, df in frequencies.counts.items()}
    out = ptd.KeyphraseQueries(2, max_words=2, frequencies=frequencies)(frame)["querygen"].tolist()
    assert out[0].split("\n")[0] == "deep sea" and 2 * (idf["deep"] + idf["sea"]) > idf["sea"] + idf["fish"]
    assert out[1].split("\n")[0] == "chips" and out[2:] == ["", ""]
    assert 2 * idf["chips"] > max(2 * idf["fish"], idf["chips"] + idf["fish"])
    for cell in out:
        words = [set(line.split()) for line in cell.split("\n")]
        assert all(not later <= set().union(*words[:i]) for i, later in enumerate(words) if later)
    counted = DocumentFrequencies.of(frame.to_dict("records"))
    assert counted.documents == 4 and counted.counts["fish"] == 2
    assert ptd.KeyphraseQueries(2, frequencies=counted)(frame).equals(ptd.KeyphraseQueries(2)(frame))
    assert ptd.KeyphraseQueries(stop_words=["sea"])(frame)["querygen"][0].count("sea") == 0
    with pytest.raises(ValueError, match="n must be"):
        ptd.KeyphraseQueries(0)


def test_exploded_queries_keep_ids_and_scores():
    frame = docs("x", "y", "z").assign(querygen=["one\n\nthree", "", "\nfour"])
    frame["querygen_score"] = [np.array([-1.0, np.nan, -3.0]), np.array([np.nan]), np.array([np.nan, -4.0])]
    out = ptd.explode_queries()(frame)
    assert out[["qid", "query", "docno", "query_score"]].to_numpy().tolist() == [
        ["d0-0", "one", "d0", -1.0], ["d0-2", "three", "d0", -3.0], ["d2-1", "four", "d2", -4.0],
    ]  # fmt: skip
    qrels = ptd.positives(out)
    assert qrels.to_dict("list") == {"qid": ["d0-0", "d0-2", "d2-1"], "docno": ["d0", "d0", "d2"], "label": [1, 1, 1]}
    with pytest.raises(ValueError, match="several documents"):
        ptd.positives(pd.concat([out, out]))
    with pytest.raises(ValueError, match="3 lines .* 1 numbers"):
        ptd.explode_queries()(frame.assign(querygen_score=[np.array([-1.0])] * 3))


def test_two_queries_never_have_one_id():
    frame = docs("a", "b").assign(querygen="x")
    with pytest.raises(ValueError, match="'d0' stands in the frame more than once"):
        ptd.explode_queries()(pd.concat([frame, frame.iloc[[0]].assign(querygen="another")]))
    with pytest.raises(ValueError, match="more than once"):
        ptd.explode_queries()(frame.assign(docno=pd.Series([1, "1"], dtype=object)))
    for missing in ([None, "b"], [float("nan"), 2], [1.5, 2.5]):
        with pytest.raises(ValueError, match="'docno' of the frame must hold ids"):
            ptd.explode_queries()(frame.assign(docno=missing))
    assert ptd.explode_queries()(frame.assign(docno=[7, 8]))["qid"].tolist() == ["7-0", "8-0"]


@pytest.mark.parametrize("writer", [ptd.SpanQueries(2), ptd.TitleQueries(None), ptd.KeyphraseQueries(2)])
def test_scores_of_other_queries_do_not_stay(writer):
    scored = docs("red dogs run").assign(querygen="old", querygen_score=[np.array([-1.0])])
    out = (writer >> ptd.explode_queries())(scored)
    assert len(out) and "old" not in out["query"].tolist() and "query_score" not in out.columns


def test_titles_without_words_are_no_titles():
    frame = docs("First. Second.", "...", "What?").assign(title=["...", "--", "_"])
    assert ptd.TitleQueries()(frame)["querygen"].tolist() == ["First", "", "What?"]
