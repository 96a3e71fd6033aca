"""A teacher that reads other columns than the student: the query and the passage in another language."""

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest

import pyterrier_distill as ptd
from pyterrier_distill.identity.identity import identity

FP32 = {"precision": "fp32", "device": "cpu"}
FIELDS = {"query_field": "query_en", "text_field": "text_en"}
TEACHERS = {
    "cross-encoder": lambda m, **more: ptd.PointwiseTeacher(m["tiny_cross"], **FP32, **more),
    "monoT5": lambda m, **more: ptd.PointwiseTeacher(m["tiny_t5"], **FP32, **more),
    "likelihood": lambda m, **more: ptd.PointwiseTeacher(m["tiny_llm"], kind="query_likelihood", **FP32, **more),
    "pairs": lambda m, **more: ptd.PairwiseTeacher(m["tiny_t5"], n_pairs=3, **FP32, **more),
    "orders": lambda m, **more: ptd.ListwiseLLMTeacher(m["tiny_llm"], constrained=True, **FP32, **more),
    "sets": lambda m, **more: ptd.SetwiseTeacher(m["tiny_llm"], k=2, **FP32, **more),
}


@pytest.fixture
def models(tiny_cross, tiny_t5, tiny_llm):
    return {"tiny_cross": tiny_cross, "tiny_t5": tiny_t5, "tiny_llm": tiny_llm}


@pytest.fixture
def both(results):
    """The translation, which the student reads, beside the English."""
    results = results.drop(columns="teacher_score")
    english = {"query_en": results["query"], "text_en": results["text"]}
    return results.assign(query="rojo", text=results["text"].str[::-1], **english)


@pytest.mark.parametrize("kind", TEACHERS)
def test_labels_are_those_of_the_english_and_the_translation_stays(kind, models, results, both):
    results = results.drop(columns="teacher_score")
    expected, out = TEACHERS[kind](models)(results), TEACHERS[kind](models, **FIELDS)(both)
    pd.testing.assert_frame_equal(out[both.columns.drop(["score", "rank"])], both.drop(columns=["score", "rank"]))
    np.testing.assert_allclose(out["score"], expected["score"], rtol=1e-5)
    assert set(out.columns) == {*expected.columns, *FIELDS.values()}


@pytest.mark.parametrize("kind", TEACHERS)
def test_a_frame_without_the_translation_is_labelled_too(kind, models, both):
    out = TEACHERS[kind](models, **FIELDS)(both.drop(columns=["query", "text"]))
    np.testing.assert_allclose(out["score"], TEACHERS[kind](models, **FIELDS)(both)["score"], rtol=1e-5)


@pytest.mark.parametrize("kind", TEACHERS)
def test_a_teacher_without_it_is_the_teacher_that_it_was(kind, models):
    plain, named = TEACHERS[kind](models), TEACHERS[kind](models, query_field="query")
    assert "query_field" not in repr(plain) + str(identity(plain)) and identity(plain) == identity(named)
    assert "query_field='query_en'" in repr(TEACHERS[kind](models, **FIELDS))


def test_a_cache_answers_what_the_teacher_reads(models, both, path):
    teacher = TEACHERS["monoT5"](models, **FIELDS)
    cached = ptd.LabelStore(path).cache(teacher)
    expected = teacher(both)
    for frame in (both, both.assign(query="azul")):
        np.testing.assert_allclose(cached(frame)["teacher_score"], expected["teacher_score"], rtol=1e-5)
    assert cached.usage.calls == teacher.usage.calls
    turned = both.assign(query_en=both["query_en"].to_numpy()[::-1])
    np.testing.assert_allclose(cached(turned)["teacher_score"], teacher(turned)["teacher_score"], rtol=1e-5)


def test_what_is_missing_is_named(models, results, tiny):
    with pytest.raises(pt.validate.InputValidationError, match="query_en"):
        TEACHERS["monoT5"](models, **FIELDS)(results)
    with pytest.raises(ValueError, match="the column 'query_en' must hold text"):
        TEACHERS["monoT5"](models, query_field="query_en")(results.assign(query_en=1))
    with pytest.raises(ValueError, match="rename them before it"):
        ptd.PointwiseTeacher(ptd.BiEncoder(tiny), query_field="query_en")


def test_an_error_names_the_query_that_was_asked(models, both, monkeypatch):
    teacher = TEACHERS["orders"](models, **FIELDS)

    def fails(*args, **settings):
        raise ptd.teachers.base.BackendError("gone")

    monkeypatch.setattr(teacher.llm, "generate", fails)
    with pytest.raises(ptd.LabellingError, match="red dog"):
        teacher(both.drop(columns=["query", "text"]))
