"""Span queries, and frames from generated queries."""

import numpy as np
import pandas as pd
import pytest

import pyterrier_distill as ptd
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
        ["a-1", "second", "a", "x"],
        ["c-0", "third", "c", "z"],
    ]


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="at least 1"):
        ptd.SpanQueries(n=0)
    with pytest.raises(ValueError, match="low <= high"):
        LogUniform(5, 2)
    with pytest.raises(ValueError, match="'text' must hold text.*'d1'"):
        ptd.SpanQueries()(pd.DataFrame([("d0", "a"), ("d1", None)], columns=["docno", "text"]))
