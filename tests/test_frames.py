"""Label columns: validation that says what to do, joining, padding."""

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
import torch

import pyterrier_distill as ptd
from pyterrier_distill import LABEL_COLUMNS, MissingLabelError, frames
from pyterrier_distill.frames.ids import check_queries


def test_every_label_column_says_what_it_holds_and_who_writes_it():
    assert list(LABEL_COLUMNS) == [
        "teacher_score", "teacher_logits", "teacher_rank", "teacher_prefs", "query_vec", "query_states",
        "doc_vec", "label",
    ]  # fmt: skip
    for column in LABEL_COLUMNS.values():
        assert column.cell and column.source
        assert column.per_query == column.name.startswith("q")  # PyTerrier's rule


def test_missing_label_names_column_reader_and_teacher(results):
    with pytest.raises(MissingLabelError) as caught:
        frames.require_columns(results.drop(columns="teacher_score"), ["teacher_score"], reader="KLDivergence()")
    message = str(caught.value)
    assert "'teacher_score'" in message and "KLDivergence()" in message and "PointwiseTeacher" in message
    assert "\n" not in message
    assert isinstance(caught.value, pt.validate.InputValidationError)  # so that inspection understands it
    assert caught.value.modes[0].missing_columns == ["teacher_score"]


def test_a_second_teachers_column_is_explained_like_the_first():
    assert frames.label_source("teacher_score_minilm") == LABEL_COLUMNS["teacher_score"].source


@pytest.mark.parametrize("bad", [None, np.nan, 3.0])
def test_missing_text_is_found_and_located(results, bad):
    frame = results.assign(text=results["text"].astype(object))
    frame.loc[frame.index[2], "text"] = bad
    with pytest.raises(ValueError, match=f"docno '{frame['docno'].iloc[2]}'"):
        frames.check_text(frame, ["text"])
    frames.check_text(results, ["text", "query"])


def test_pandas_own_string_type_is_checked_too(results):
    frame = results.assign(text=results["text"].astype("str"))
    frames.check_text(frame, ["text"])
    frame.loc[frame.index[0], "text"] = None
    with pytest.raises(ValueError, match="'text'"):
        frames.check_text(frame, ["text"])


def test_empty_and_duplicate_frames_are_refused(results):
    with pytest.raises(ValueError, match="empty"):
        frames.check_results(results.head(0))
    doubled = pd.concat([results, results.iloc[[4]]])
    with pytest.raises(ValueError, match="more than once") as caught:
        frames.check_results(doubled)
    assert results["docno"].iloc[4] in str(caught.value)


@pytest.mark.parametrize("cell", [np.nan, np.inf])
def test_labels_that_are_no_numbers_are_refused(results, cell):
    frame = results.copy()
    frame.loc[frame.index[1], "teacher_score"] = cell
    with pytest.raises(ValueError, match="'teacher_score'.*finite"):
        frames.check_numbers(frame, "teacher_score")


def test_vectors_are_checked_by_element(results):
    vectors = [np.ones(3, dtype=np.float32) for _ in range(len(results))]
    frames.check_numbers(results.assign(doc_vec=vectors), "doc_vec")
    vectors[2] = np.array([1.0, np.nan, 0.0])
    with pytest.raises(ValueError, match="'doc_vec'"):
        frames.check_numbers(results.assign(doc_vec=vectors), "doc_vec")
    vectors[2] = None
    with pytest.raises(ValueError, match="'doc_vec'"):
        frames.check_numbers(results.assign(doc_vec=vectors), "doc_vec")


def test_qrels_join_keeps_rows_order_and_index(results, qrels):
    frame = results.sample(frac=1, random_state=3)
    joined = frames.join_qrels(frame, qrels)
    pd.testing.assert_frame_equal(joined.drop(columns="label"), frame)
    expected = {(q, d): label for q, d, label in qrels.itertuples(index=False)}
    assert [expected.get(key, 0) for key in zip(frame["qid"], frame["docno"])] == joined["label"].tolist()
    assert joined["label"].dtype.kind == "i"


def test_qrels_that_cannot_be_meant_are_refused(results, qrels):
    with pytest.raises(ValueError, match="'label' is missing"):
        frames.join_qrels(results, qrels.drop(columns="label"))
    with pytest.raises(ValueError, match="more than once"):
        frames.join_qrels(results, pd.concat([qrels, qrels]))
    with pytest.raises(ValueError, match="judge none"):
        frames.join_qrels(results, qrels.assign(qid="other-" + qrels["qid"]))


def test_pad_lists():
    values, mask = frames.pad_lists([[1.0, 2.0, 3.0], [], [4.0]])
    assert values.tolist() == [[1, 2, 3], [0, 0, 0], [4, 0, 0]]
    assert mask.tolist() == [[True] * 3, [False] * 3, [True, False, False]]
    assert values.dtype == torch.float32 and mask.dtype == torch.bool
    assert frames.pad_lists([])[0].shape == (0, 0)


def test_labels_as_text_are_refused_by_name(tiny_cross):
    frame = pd.DataFrame({"qid": ["1", "1", "2", "2"], "query": "q", "docno": list("abab"), "text": list("abcd")})
    frame = frame.assign(label=["1", "0", "1", "0"], teacher_score=[1.0, 0.0] * 2)
    student = ptd.CrossEncoder(tiny_cross, precision="fp32", device="cpu")
    nothing = pt.Transformer.from_df(frame[["qid", "docno"]].assign(score=1.0))
    for read in (
        ptd.Distiller(student, ptd.BinaryCrossEntropy()).fit,
        ptd.mine_negatives(nothing, text=frame.drop_duplicates("docno")),
        ptd.FalseNegativeFilter(margin=0.0),
    ):
        with pytest.raises(ValueError, match="'label' must hold finite numbers, but holds the text '1' at qid '1'"):
            read(frame)


def test_a_missing_query_hides_no_query_with_several_texts():
    frame = pd.DataFrame({"qid": ["a", "a", "b"], "query": ["one", "another", None]})
    with pytest.raises(ValueError, match="the qid 'a' has several queries"):
        check_queries(frame)
    check_queries(frame.iloc[1:])
    check_queries(frame.iloc[2:])
