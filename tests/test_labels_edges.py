"""LabelStore at its edges: failing teachers, odd columns, odd cells, stores in the making."""

import os
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from labelling import Candidates, Lister, Scorer, Shared, hash_of, pipeline, topics

import pyterrier_distill as ptd
from pyterrier_distill.identity.identity import difference, identity
from pyterrier_distill.labels import shards
from pyterrier_distill.teachers.base import Teacher

pytest.importorskip("pyarrow")


class Second(Scorer):
    """A teacher with a column of its own."""

    def transform(self, inp):
        out = super().transform(inp)
        return out.rename(columns={"teacher_score": "teacher_score_b"}).assign(teacher_score=inp["teacher_score"])


class Failing(Scorer):
    """Fails at one query, until it is mended."""

    broken = True

    def transform(self, inp):
        if Failing.broken and "q3" in set(inp["qid"]):
            done = inp[inp["qid"] < "q3"]
            raise ptd.LabellingError("the server went away", super().transform(done))
        return super().transform(inp)

    def __repr__(self):
        return "Failing()"


def test_what_was_finished_before_an_error_goes_through_the_later_stages(path, monkeypatch):
    chain = Candidates() >> Failing() >> Second()
    with pytest.raises(ptd.LabellingError):
        ptd.LabelStore(path).build(chain, topics(6), batch_size=6, verbose=False)
    assert ptd.LabelStore(path).qids() == ["q0", "q1", "q2"]
    monkeypatch.setattr(Failing, "broken", False)
    store = ptd.LabelStore(path).build(Candidates() >> Failing() >> Second(), topics(6), batch_size=6, verbose=False)
    assert store.frame()[["teacher_score", "teacher_score_b"]].notna().all().all() and len(store) == 6


def test_a_cache_that_fails_hands_on_whole_queries(path, monkeypatch):
    cache = ptd.LabelStore(path / "cache")
    frame = Candidates()(topics(6))
    monkeypatch.setattr(Failing, "broken", False)
    cache.cache(Failing())(frame[frame["docno"].isin(["d0", "d1"])])
    monkeypatch.setattr(Failing, "broken", True)
    with pytest.raises(ptd.LabellingError) as caught:
        cache.cache(Failing())(frame)
    done = frame[frame["qid"] < "q3"]
    assert sorted(zip(caught.value.labelled["qid"], caught.value.labelled["docno"])) == sorted(
        zip(done["qid"], done["docno"])
    )


class Sorting(pt.Transformer):
    """A re-ranker that returns its rows sorted, as most do."""

    def transform(self, inp):
        pt.validate.result_frame(inp, ["query"])
        out = inp.assign(score=[float(hash_of(q + d) % 997) for q, d in zip(inp["query"], inp["docno"])])
        return pt.model.add_ranks(out).sort_values(["qid", "rank"], ignore_index=True)

    def __repr__(self):
        return "Sorting()"


def test_a_cached_re_ranker_may_sort_but_not_drop(path):
    frame = Candidates()(topics(5).iloc[::-1])
    for teacher in (Sorting(), ptd.PointwiseTeacher(Sorting())):
        for _ in range(2):
            out = ptd.LabelStore(path / type(teacher).__name__).cache(teacher)(frame)
            expected = [float(hash_of(q + d) % 997) for q, d in zip(frame["query"], frame["docno"])]
            assert out["score"].tolist() == out["teacher_score"].tolist() == expected
    cached = ptd.LabelStore(path / "cut").cache(ptd.PointwiseTeacher(Sorting() % 2))
    with pytest.raises(ValueError, match="must return the rows that it is given"):
        cached(frame)
    assert len(ptd.LabelStore(path / "cut")) == 0
    import pickle

    assert pickle.loads(pickle.dumps(cached)) == cached and cached.usage.calls == 0


@pytest.mark.parametrize(
    "one, other",
    [
        (lambda: ptd.RunTeacher(_run(0)), lambda: ptd.RunTeacher(_run(1))),
        (lambda: pt.Transformer.from_df(_run(0)), lambda: pt.Transformer.from_df(_run(1))),
        (lambda: pt.apply.doc_score(lambda row: 1.0), lambda: pt.apply.doc_score(lambda row: 2.0)),
        (lambda: pt.apply.doc_score(_adding(1)), lambda: pt.apply.doc_score(_adding(2))),
    ],
)
def test_identity_sees_frames_and_functions(one, other):
    assert difference(identity(one()), identity(one())) is None
    assert difference(identity(one()), identity(other())) is not None


def _run(changed):
    frame = pd.DataFrame({"qid": "q", "docno": [f"d{n}" for n in range(100)], "rank": range(100), "score": 0.0})
    frame.loc[50, "docno"] = f"other {changed}"
    return frame.assign(score=-frame["rank"].astype(float))


def _adding(n):
    return lambda row: row["score"] + n


def test_identity_sees_training_fields_and_backends(tiny, tiny_llm, documents, tmp_path):
    import shutil

    teacher = ptd.BiEncoder(tiny, precision="fp32", device="cpu")
    student = ptd.BiEncoder(tiny, precision="fp32", device="cpu")
    before = identity(ptd.PointwiseTeacher(student))
    frame = (ptd.SpanQueries(n=2) >> ptd.explode_queries() >> teacher.query_encoder())(documents)
    ptd.Distiller(student, ptd.EmbeddingMatch(), verbose=False, learning_rate=1e-2).fit(frame)
    assert difference(before, identity(ptd.PointwiseTeacher(student))) is not None
    one, two = (ptd.PointwiseTeacher(student, text_field=field) for field in ("title", "body"))
    assert "text_field was 'title' and is 'body'" in difference(identity(one), identity(two))
    shutil.copytree(tiny_llm, tmp_path / "llm")
    before = identity(ptd.ListwiseLLMTeacher(ptd.HF(tmp_path / "llm")))
    assert before == identity(ptd.ListwiseLLMTeacher(ptd.HF(tmp_path / "llm", batch_size=3)))
    weights = next((tmp_path / "llm").glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(bytes(content))
    assert difference(before, identity(ptd.ListwiseLLMTeacher(ptd.HF(tmp_path / "llm")))) is not None


def test_a_store_of_other_labels_is_not_built_upon(path):
    store = ptd.LabelStore(path / "texts")
    store.add_texts(Shared()(topics(2)))
    store.build(pipeline(Scorer(1.0)), topics(2), verbose=False)
    with pytest.raises(ValueError, match="factor was 1.0 and is 5.0"):
        store.build(pipeline(Scorer(5.0)), topics(4), verbose=False)
    by_hand = ptd.LabelStore.from_frame(path / "hand", pipeline(Scorer())(topics(2)))
    with pytest.raises(ValueError, match="nothing says what made them"):
        by_hand.build(pipeline(Scorer()), topics(4), verbose=False)
    cache = ptd.LabelStore(path / "cache")
    cache.cache(Scorer())(Candidates()(topics(2)))
    with pytest.raises(ValueError, match="cache of a teacher"):
        cache.build(pipeline(Scorer()), topics(4), verbose=False)
    assert cache.usage.calls == 9  # what answering cost


def test_pipelines_that_change_query_ids_are_refused(path):
    numbers = pd.DataFrame({"qid": ["1", "2"], "query": ["a", "b"]})

    class Numbered(Candidates):
        def transform(self, inp):
            return (
                super().transform(inp.assign(qid="q" + inp["qid"])).assign(qid=lambda f: f["qid"].str[1:].astype(int))
            )

    store = ptd.LabelStore(path / "int").build(Numbered() >> Scorer(), numbers, verbose=False)
    assert store.frame()["qid"].unique().tolist() == ["1", "2"]
    other = pipeline(Scorer()) >> pt.apply.qid(lambda row: "x" + row["qid"])
    with pytest.raises(ptd.LabellingError, match="rows of query 'xq0', which it was not asked about") as caught:
        ptd.LabelStore(path / "other").build(other, topics(2), verbose=False)
    assert len(caught.value.labelled) == 9


@pytest.mark.parametrize(
    "column, cells, message",
    [
        ("teacher_score", lambda n: [float("nan")] * n, "finite numbers"),
        ("teacher_logits", lambda n: [None] + [np.zeros(2)] * (n - 1), "'teacher_logits' cannot be stored"),
        ("teacher_prefs", lambda n: [{"d1": "much"}] * n, "'teacher_prefs' cannot be stored"),
        ("teacher_score_x", lambda n: [b"bytes"] * n, "'teacher_score_x' cannot be stored"),
    ],
)
def test_labels_that_cannot_be_stored_are_not_lost(path, column, cells, message):
    class Odd(Scorer):
        def transform(self, inp):
            out = super().transform(inp)
            return out.assign(**{column: cells(len(out))})

    with pytest.raises(ptd.LabellingError, match=message) as caught:
        ptd.LabelStore(path).build(pipeline(Odd()), topics(2), verbose=False)
    assert len(caught.value.labelled) == 9 and len(ptd.LabelStore(path)) == 0


def test_odd_columns_come_back(path):
    frame = pipeline(Lister())(topics(4))
    frame["teacher_prefs"] = [{1: 0.5, "d0" if docno != "d0" else "d1": 0.25} for docno in frame["docno"]]
    frame = frame.assign(label=True, label_source="llm", teacher_prefs_count=3, query_vec_norm=0.5)
    frame[3] = 1
    out = ptd.LabelStore.from_frame(path, frame).frame()
    assert out["label"].tolist() == [1] * len(frame) and "label_source" not in out.columns
    assert out["teacher_prefs_count"].tolist() == [3] * len(frame) and out["query_vec_norm"].eq(0.5).all()
    for docno, prefs in zip(out["docno"], out["teacher_prefs"]):
        assert prefs == {"1": 0.5, "d0" if docno != "d0" else "d1": 0.25}


def test_shards_of_other_columns_stay_apart(path):
    store = ptd.LabelStore(path)
    frame = pipeline(Lister())(topics(8))
    first, second = frame[frame["qid"] < "q4"], frame[frame["qid"] >= "q4"]
    store.add(first.drop(columns=["teacher_prefs", "score"]).astype({"teacher_score": "float32"}))
    store.add(second.assign(teacher_rank=second["rank"]))
    store.add(pd.DataFrame(columns=frame.columns).astype(frame.dtypes), pd.DataFrame({"qid": ["none"], "query": ["x"]}))
    for _ in range(2):
        streamed = pd.concat(store.lists(seed=1)).sort_values(["qid", "docno"], ignore_index=True)
        assert np.allclose(streamed["teacher_score"], frame.sort_values(["qid", "docno"])["teacher_score"])
        assert len(store) == 9 and store.describe().queries == 9 and len(store.frame()) == len(frame)
        store.compact()
    store = ptd.LabelStore(path.parent / "states")
    for n, shape in enumerate([(2, 2, 3), (2, 3, 2)]):
        cell = np.arange(12, dtype=np.float16).reshape(shape)
        rows = pipeline(Scorer())(topics(2).iloc[[n]])
        store.add(rows.assign(query_states=[cell] * len(rows)))
    for data in (store.frame(), pd.concat(store.lists()), store.compact().frame()):
        assert sorted({cell.shape for cell in data["query_states"]}) == [(2, 2, 3), (2, 3, 2)]


def test_a_store_in_the_making_is_one(path):
    (path / "shards").mkdir(parents=True)
    (path / "manifest.json").write_text("{}")
    (path / ".pt_meta.json.host-1").write_text("{")
    assert len(ptd.LabelStore(path).build(pipeline(Scorer()), topics(2), verbose=False)) == 2


def test_a_flipped_bit_is_found_when_it_is_read(path):
    store = ptd.LabelStore(path).build(pipeline(Lister()), topics(40), verbose=False)
    (name,) = store.directory.names()
    good = (path / "shards" / name).read_bytes()
    before, silent = store.frame(), 0
    rng = np.random.default_rng(0)
    footer = int.from_bytes(good[-8:-4], "little") + 8  # pages have checksums; the footer is verify()'s
    for place in rng.integers(4, len(good) - footer, size=60):
        content = bytearray(good)
        content[place] ^= 1 << int(rng.integers(8))
        (path / "shards" / name).write_bytes(bytes(content))
        try:
            same = ptd.LabelStore(path).frame().equals(before)
        except shards.DamagedShard as error:
            assert "verify()" in str(error)
        else:
            silent += not same
    assert silent == 0


def test_texts_of_a_query_are_told(path):
    frame = pipeline(Scorer())(topics(4))
    with pytest.raises(ValueError, match="document 'd0' has two texts"):
        ptd.LabelStore(path).add(frame, with_text=True)
    with pytest.raises(ValueError, match="query 'q0' has two texts"):
        ptd.LabelStore(path).add(frame.assign(query=["a", *frame["query"][1:]]))


def test_labels_of_queries_alone(path, tiny, documents):
    teacher = ptd.BiEncoder(tiny, precision="fp32", device="cpu")
    queries = (ptd.SpanQueries(n=5) >> ptd.explode_queries())(documents)[["qid", "query"]]
    labelled = teacher.query_encoder(states=[1, 2])(queries)
    store = ptd.LabelStore(path).build(teacher.query_encoder(states=[1, 2]), queries, batch_size=16, verbose=False)
    out = store.frame()
    assert "docno" not in out.columns and out["qid"].tolist() == queries["qid"].tolist()
    np.testing.assert_allclose(np.stack(out["query_vec"]), np.stack(labelled["query_vec"]), atol=1e-6)
    assert all(a.shape == b.shape for a, b in zip(out["query_states"], labelled["query_states"]))
    vectors = []
    for data in (labelled, store, store.compact()):
        student = ptd.BiEncoder(ptd.BiEncoder.truncated(teacher, 1), precision="fp32", device="cpu")
        settings = {"precision": "fp32", "verbose": False, "learning_rate": 1e-3, "queries_per_batch": 100, "epochs": 3}
        ptd.Distiller(student, ptd.EmbeddingMatch(), dropout=0.0, **settings).fit(data)
        vectors.append(student.encode_queries(["red dog"]))
    np.testing.assert_allclose(vectors[1], vectors[0], atol=1e-5)
    np.testing.assert_allclose(vectors[2], vectors[0], atol=1e-5)


def test_published_names_run_no_scripts(path):
    frame = pipeline(Scorer())(topics(3))
    frame["teacher_score_<img src=x onerror=alert(1)>"] = 1.0
    shown = ptd.LabelStore.from_frame(path, frame).describe()._repr_html_()
    assert "<img" not in shown and "&lt;img" in shown


def test_small_comforts(path, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    store = ptd.LabelStore("~/labels").build(pipeline(Scorer()), topics(3), verbose=False)
    assert (tmp_path / "labels" / "pt_meta.json").is_file()
    assert store.frame("q1", "teacher_score").columns.tolist() == ["qid", "query", "docno", "teacher_score"]
    assert sum(map(len, store)) == len(store.frame())
    os.symlink(tmp_path / "labels", tmp_path / "link")
    assert (
        len(ptd.LabelStore(tmp_path / "link").build(pipeline(Scorer(2.0)), topics(1), overwrite=True, verbose=False))
        == 1
    )


class Gone:
    """A language model that reverses each list, and is gone after some."""

    batch_size = 2

    def __init__(self, answers=99):
        self.answers = answers

    def generate(self, prompts):
        self.answers -= len(prompts)
        if self.answers < 0:
            raise ConnectionError("gone")
        return [SimpleNamespace(text=" > ".join(f"[{i}]" for i in range(6, 0, -1))) for _ in prompts]

    def __repr__(self):
        return "LLM()"


def reversing(answers=99):
    return ptd.ListwiseLLMTeacher(Gone(answers))


class Numbers(pt.Transformer):
    """Scores documents by their numbers."""

    def transform(self, inp):
        return pt.model.add_ranks(inp.assign(score=10.0 * inp["docno"].str[1:].astype(float)).drop(columns="rank"))

    def __repr__(self):
        return "Numbers()"


class Mine(pt.Transformer):
    """Somebody's transformer that makes another label of a teacher's."""

    def __init__(self, teacher):
        self.teacher = teacher

    def transform(self, inp):
        out = self.teacher(inp)
        return out.assign(teacher_score=1 / (1 + out["teacher_rank"])).drop(columns="teacher_rank")

    def __repr__(self):
        return "Mine()"


class MineAsTeacher(Mine, Teacher):
    """The same, as a teacher."""


@pytest.mark.parametrize(
    "stage",
    [
        lambda teacher: teacher + Numbers(),
        lambda teacher: 0.5 * teacher,
        lambda teacher: Numbers() + 2 * teacher,
        Mine,
        MineAsTeacher,
        ptd.PointwiseTeacher,
    ],
)
@pytest.mark.parametrize("cached", [False, True])
def test_what_a_teacher_had_finished_is_not_taken_for_the_result_of_what_it_is_in(stage, cached, tmp_path):
    def built(teacher, where):
        labels = stage(teacher)
        if cached:
            labels = ptd.LabelStore(tmp_path / f"{where}.cache").cache(labels)
        store = ptd.LabelStore(tmp_path / where).build(Candidates() >> labels, topics(6), verbose=False)
        return store.frame().sort_values(["qid", "docno"], ignore_index=True)

    with pytest.raises(ptd.LabellingError, match="gone"):
        built(reversing(4), "stopped")
    whole = built(reversing(), "whole")
    pd.testing.assert_frame_equal(built(reversing(), "stopped"), whole, check_like=True)


def bug(inp):
    raise ZeroDivisionError("a bug of mine")


def test_an_error_behind_a_teacher_loses_no_label(path):
    with pytest.raises(ptd.LabellingError, match="ZeroDivisionError: a bug of mine.*not stored") as caught:
        ptd.LabelStore(path).build(Candidates() >> reversing() >> pt.apply.generic(bug), topics(6), verbose=False)
    labelled = (Candidates() >> reversing())(topics(6))
    pd.testing.assert_frame_equal(caught.value.labelled, labelled)
    assert isinstance(caught.value.__cause__, ZeroDivisionError) and len(ptd.LabelStore(path)) == 0


def test_an_error_behind_a_teacher_that_stopped_does_not_hide_it(path):
    with pytest.raises(ptd.LabellingError, match="(?s)gone.*ZeroDivisionError: a bug of mine") as caught:
        ptd.LabelStore(path).build(Candidates() >> reversing(4) >> pt.apply.generic(bug), topics(6), verbose=False)
    assert caught.value.labelled["qid"].nunique() == 4 and len(ptd.LabelStore(path)) == 0
    with pytest.raises(ptd.LabellingError, match="gone") as caught:  # nothing was finished: no stage is asked
        ptd.LabelStore(path).build(Candidates() >> reversing(0) >> pt.apply.generic(bug), topics(6), verbose=False)
    assert "ZeroDivisionError" not in str(caught.value) and len(caught.value.labelled) == 0


def test_an_error_before_any_label_stays_what_it_is(path):
    with pytest.raises(ZeroDivisionError):
        ptd.LabelStore(path).build(Candidates() >> pt.apply.generic(bug) >> reversing(), topics(6), verbose=False)


def test_frames_that_carry_an_array_beside_their_rows_are_stored(path):
    labelled = pipeline(Scorer())(topics(3))
    labelled.attrs["vector"] = np.arange(3)
    store = ptd.LabelStore(path)
    store.add(labelled)
    assert len(store) == 3
