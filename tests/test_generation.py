"""Span queries, and frames from generated queries."""

import numpy as np
import pandas as pd
import pytest

import pyterrier_distill as ptd
from pyterrier_distill.generation.spans import LogUniform, Uniform


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
