"""A student that reads a translation of what its teacher has read (InRanker §4.2)."""

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
import torch
from test_order_of_data import bits

import pyterrier_distill as ptd

FP32 = {"precision": "fp32", "device": "cpu"}
SETTINGS = {"precision": "fp32", "verbose": False, "learning_rate": 1e-3, "epochs": 2, "dropout": 0.0}
TO_OTHER = str.maketrans("aeiou", "oieua")


def translated(text):
    return text.translate(TO_OTHER)


@pytest.fixture
def english(results):
    return results[["qid", "query", "docno", "text", "rank", "score", "teacher_score"]]


@pytest.fixture
def other(english):
    """What the student reads: queries and documents in the other language, and the labelled frame in it."""
    topics = english[["qid", "query"]].drop_duplicates()
    documents = english[["docno", "text"]].drop_duplicates()
    return {
        "topics": topics.assign(query=topics["query"].map(translated)),
        "text": documents.assign(text=documents["text"].map(translated)),
        "frame": english.assign(query=english["query"].map(translated), text=english["text"].map(translated)),
    }


def trained(tiny, *data, **where):
    student = ptd.CrossEncoder(tiny, **FP32)
    ptd.Distiller(student, ptd.KLDivergence(), **SETTINGS).fit(*data, **where)
    return student


@pytest.mark.parametrize("kept", ["frame", "store with texts", "store without"])
def test_the_labels_stay_and_the_student_reads_the_translation(kept, tiny, english, other, path):
    data = english if kept == "frame" else ptd.LabelStore.from_frame(path, english, with_text="without" not in kept)
    read = {"topics": other["topics"], "text": other["text"]}
    same = other["frame"]
    if kept != "frame":
        same = ptd.LabelStore.from_frame(path.parent / "translated", same, with_text=True)
    expected = trained(tiny, same)
    assert torch.equal(bits(trained(tiny, data, **read)), bits(expected))
    assert not torch.equal(bits(trained(tiny, english)), bits(expected))


def test_either_side_alone(tiny, english, other):
    by_query = english.assign(query=other["frame"]["query"])
    assert torch.equal(bits(trained(tiny, english, topics=other["topics"])), bits(trained(tiny, by_query)))
    by_text = english.assign(text=other["frame"]["text"])
    assert torch.equal(bits(trained(tiny, english, text=other["text"])), bits(trained(tiny, by_text)))


def test_the_teacher_reads_the_one_and_the_student_the_other_of_one_frame(tiny, other, english):
    """The same without a store: both languages side by side, each reader with fields of its own."""
    both = other["frame"].assign(query_en=english["query"], text_en=english["text"]).drop(columns="teacher_score")
    rename = pt.apply.generic(lambda f: f.assign(query=f["query_en"], text=f["text_en"]))
    teacher = ptd.PointwiseTeacher(ptd.BiEncoder(tiny, **FP32))
    labels = (rename >> teacher)(both)
    side_by_side = both.assign(teacher_score=labels["teacher_score"].to_numpy())
    read = {"topics": other["topics"], "text": other["text"]}
    assert torch.equal(bits(trained(tiny, side_by_side)), bits(trained(tiny, labels, **read)))


def test_validation_is_read_like_training(tiny, english, other, qrels, path):
    store = ptd.LabelStore.from_frame(path, english, with_text=True)
    read = {"topics": other["topics"], "text": other["text"]}

    def history(*data, **where):
        distiller = ptd.Distiller(ptd.CrossEncoder(tiny, **FP32), ptd.KLDivergence(), **SETTINGS).fit(*data, **where)
        return [{k: v for k, v in entry.items() if k.startswith("eval_") and k != "eval_runtime"}
                for entry in distiller.history]  # fmt: skip

    assert history(store, None, store, **read) == history(other["frame"], None, other["frame"])
    without = ptd.LabelStore.from_frame(path.parent / "without", english)
    assert history(store, None, without, qrels, **read) == history(other["frame"], None, other["frame"], qrels)


def test_a_translation_that_lacks_something_is_refused_before_anything_is_trained(tiny, english, other, path):
    student = ptd.CrossEncoder(tiny, **FP32)
    fit = ptd.Distiller(student, ptd.KLDivergence(), **SETTINGS).fit
    before = bits(student).clone()
    last = sorted(english["qid"].unique())[-1]
    for data in (english, ptd.LabelStore.from_frame(path, english, with_text=True)):
        with pytest.raises(ValueError, match=f"topics= holds no query '{last}' .1 such queries"):
            fit(data, topics=other["topics"][other["topics"]["qid"] != last], text=other["text"])
        gone = english["docno"].iloc[-1]
        with pytest.raises(ValueError, match=f"texts holds no document '{gone}'"):
            fit(data, topics=other["topics"], text=other["text"][other["text"]["docno"] != gone])
        for wrong, message in (
            (other["topics"].assign(query=np.nan), "must hold text"),
            (pd.concat([other["topics"], other["topics"].assign(query="x")]), "several queries in the topics"),
        ):
            with pytest.raises(ValueError, match=message):
                fit(data, topics=wrong, text=other["text"])
        with pytest.raises(ptd.MissingLabelError, match="topics= needs the column 'query'"):
            fit(data, topics=other["topics"][["qid"]])
        with pytest.raises(TypeError, match="topics must be a frame with qid and query"):
            fit(data, topics="irds:mmarco/pt/train")
    assert torch.equal(bits(student), before)


def test_a_store_is_looked_through_before_training(tiny, english, other, path, monkeypatch):
    """What lacks stands in the last block: hours into a training it would be too late."""
    from pyterrier_distill.training import streaming

    monkeypatch.setattr(streaming, "BLOCK", 1)
    student = ptd.CrossEncoder(tiny, **FP32)
    monkeypatch.setattr(type(student), "forward", lambda *_: pytest.fail("it trains"))
    store = ptd.LabelStore.from_frame(path, english, with_text=True)
    last = english[english["qid"] == sorted(english["qid"].unique())[-1]]
    gone = sorted(set(last["docno"]) - set(english[english["qid"] != last["qid"].iloc[0]]["docno"])) or [None]
    text = other["text"][~other["text"]["docno"].isin(gone)] if gone[0] else other["text"].iloc[1:]
    with pytest.raises(ValueError, match="texts holds no document"):
        ptd.Distiller(student, ptd.KLDivergence(), **SETTINGS).fit(store, topics=other["topics"], text=text)


def test_another_translation_is_another_training(tiny, english, other, tmp_path):
    settings = {**SETTINGS, "checkpoints": tmp_path / "c"}

    def fit(*data, **where):
        ptd.Distiller(ptd.CrossEncoder(tiny, **FP32), ptd.KLDivergence(), **settings).fit(*data, **where)

    fit(english, topics=other["topics"], text=other["text"])
    with pytest.raises(ValueError, match="are of another training: data was"):
        fit(english, text=other["text"])
    with pytest.raises(ValueError, match="are of another training: data was"):
        fit(english, topics=other["topics"].assign(query="x " + other["topics"]["query"]), text=other["text"])
