"""What every public transformer must do, beyond PyTerrier's own two tests."""

import importlib
import pickle
import pkgutil

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from pyterrier.measures import AP, RR, nDCG
from registry import POINTWISE, RANKING, RE_RANKERS, TEACHERS, TRANSFORMERS

import pyterrier_distill
from pyterrier_distill.frames import join_qrels
from pyterrier_distill.mining.negatives import NegativeMiner


@pytest.fixture
def env(tiny, tiny_cross, tiny_t5, tiny_llm, plain_llm, documents, results, qrels, tmp_path):
    models = {"tiny": tiny, "tiny_cross": tiny_cross, "tiny_t5": tiny_t5, "tiny_llm": tiny_llm, "plain_llm": plain_llm}
    records = documents.to_dict("records")
    return {**models, "documents": documents, "results": results, "qrels": qrels, "records": records, "path": tmp_path}


@pytest.fixture
def frames(results, qrels, documents):
    queries = results[["qid", "query"]].drop_duplicates()
    tokens = {qid: np.random.default_rng(n).normal(size=(n + 2, 128)) for n, qid in enumerate(queries["qid"])}
    return {
        "Q+tokens": queries.assign(query_embs=queries["qid"].map(tokens)),
        "R+tokens": results.assign(query_embs=results["qid"].map(tokens)),
        "R": results,
        "R+label": join_qrels(results, qrels),
        "R-text": results.drop(columns="text"),
        "Q": results[["qid", "query"]].drop_duplicates().assign(qextra=1.5),
        "D": documents.assign(url="u"),
        "R+queries": queries.rename(columns={"qid": "docno"}).assign(
            docno=["d0", "d1", "d2", "d3"], qid=["d0-0", "d1-0", "d2-0", "d3-1"], query_score=[-1.0, -2.0, -3.0, -0.5]
        ),
        "D+querygen": documents.assign(
            querygen=["red dog\ntree"] * 11 + [""],
            querygen_score=[np.array([-1.0, -0.5])] * 11 + [np.array([np.nan])],
        ),
    }


@pytest.fixture(params=TRANSFORMERS)
def case(request, env, frames):
    make, kind, _ = TRANSFORMERS[request.param]
    return make(env), frames[kind], kind


def comparable(frame):
    """Rows as plain values, vectors rounded, for comparing whole frames."""
    out = frame.reset_index(drop=True).copy()
    for column in out.columns:
        if len(out) and isinstance(out[column].iloc[0], np.ndarray):
            out[column] = [tuple(np.round(np.ravel(v).astype(float), 2) + 0.0) for v in out[column]]
        elif len(out) and isinstance(out[column].iloc[0], dict):
            out[column] = [tuple(sorted((k, round(p, 4)) for k, p in v.items())) for v in out[column]]
    return out


def assert_same(a, b):
    pd.testing.assert_frame_equal(comparable(a), comparable(b)[list(a.columns)], check_dtype=False, atol=1e-4)


#: Those that read other teachers' labels.
READ_LABELS = ("fuse_teachers", "pairs of disagreement")


def test_pyterriers_own_tests(case):
    transformer, *_ = case
    suite = pt.testing.transformer_test_class(lambda: transformer)
    suite.setUpClass()
    for name in ("test_inspect_io", "test_schematic"):
        getattr(suite(name), name)()
    suite.tearDownClass()
    assert len(pt.schematic.transformer_schematic(transformer)["label"]) <= 20
    assert pt.schematic.draw(transformer)


def test_empty_frames_of_every_mode(case):
    transformer, *_ = case
    for columns in pt.inspect.transformer_inputs(transformer):
        empty = pd.DataFrame(columns=columns)
        out = transformer(empty)
        assert len(out) == 0 and list(out.columns) == pt.inspect.transformer_outputs(transformer, columns)


def test_output_columns_are_as_announced(case):
    transformer, frame, _ = case
    assert set(transformer(frame).columns) == set(pt.inspect.transformer_outputs(transformer, list(frame.columns)))


def test_frame_list_and_iterator_agree(case):
    transformer, frame, _ = case
    expected = transformer(frame)
    records = frame.to_dict("records")
    assert_same(expected, pd.DataFrame(transformer(records)))
    assert_same(expected, pd.DataFrame(list(transformer(iter(records)))))


def test_input_is_not_changed_and_extra_columns_stay(case):
    transformer, frame, kind = case
    frame = frame.assign(extra=[f"x{i}" for i in range(len(frame))])
    before = frame.copy(deep=True)
    out = transformer(frame)
    pd.testing.assert_frame_equal(frame, before)
    assert "extra" in out.columns
    for key in ("url", "qextra"):
        assert (key in frame.columns) <= (key in out.columns)


@pytest.mark.parametrize("index", ["shuffled", "repeated", "text"])
def test_any_index_will_do(case, index):
    transformer, frame, _ = case
    expected = transformer(frame)
    n = len(frame)
    labels = {
        "shuffled": np.random.default_rng(0).permutation(n),
        "repeated": [0] * n,
        "text": [f"i{i}" for i in range(n)],
    }
    assert_same(expected, transformer(frame.set_index(pd.Index(labels[index]))))


def test_row_order_does_not_matter(case):
    transformer, frame, kind = case
    keys = [c for c in ("qid", "docno", "query") if c in transformer(frame).columns]
    a = transformer(frame).sort_values(keys).reset_index(drop=True)
    b = transformer(frame.sample(frac=1, random_state=5)).sort_values(keys).reset_index(drop=True)
    assert_same(a, b)


def test_parts_give_what_the_whole_gives(case):
    """Scores do not depend on frame size: queries one at a time, documents one at a time."""
    transformer, frame, kind = case
    key = "docno" if kind.startswith("D") else "qid"
    parts = pd.concat([transformer(rows) for _, rows in frame.groupby(key, sort=False)])
    keys = [c for c in ("qid", "docno", "query") if c in parts.columns]
    assert_same(transformer(frame).sort_values(keys), parts.sort_values(keys))


def test_survives_pickling(case):
    transformer, frame, _ = case
    again = pickle.loads(pickle.dumps(transformer))
    assert again == transformer and hash(again) == hash(transformer)
    assert_same(transformer(frame), again(frame))


def test_equality_hash_repr(case, env):
    transformer, frame, _ = case
    copy = pt.inspect.transformer_apply_attributes(transformer)
    assert copy == transformer and hash(copy) == hash(transformer) and repr(copy) == repr(transformer)
    assert transformer != pt.Transformer.identity()
    assert_same(transformer(frame), copy(frame))


def test_compiles_to_the_same(case):
    transformer, frame, kind = case
    assert_same(transformer(frame), transformer.compile()(frame))
    if kind == "R":
        assert_same((transformer % 2)(frame), (transformer % 2).compile()(frame))


def test_the_list_is_whole(env):
    """Every class of transformer in the package is in the list, and whatever ranks is known to rank."""
    for module in pkgutil.walk_packages(pyterrier_distill.__path__, "pyterrier_distill."):
        importlib.import_module(module.name)
    classes, new = set(), [pt.Transformer]
    while new:
        new = [c for one in new for c in one.__subclasses__() if c not in classes]
        classes.update(new)
    ours = {c for c in classes if c.__module__.startswith("pyterrier_distill.")}
    leaves = {c for c in ours if not c.__subclasses__()}
    # a part of IterativeDistiller; writes an index and transforms nothing; PISA's own retriever, put in order
    aside = {"Found", "MultiVectorIndexer", "AnyScript"}
    listed = {type(entry.make(env)) for entry in TRANSFORMERS.values()}
    assert {c.__name__ for c in leaves - listed} == aside


def test_what_ranks_is_known_to_rank(case, request):
    transformer, frame, _ = case
    read = {column for mode in pt.inspect.transformer_inputs(transformer) for column in mode}
    out = transformer(frame.drop(columns={"score", "rank"} - read, errors="ignore"))
    assert ({"score", "rank"} <= set(out.columns)) == (request.node.callspec.params["case"] in RANKING)


@pytest.mark.parametrize("name", RANKING)
def test_ranks_count_from_zero_in_every_query_and_scores_say_the_same(name, env, frames):
    transformer, takes = TRANSFORMERS[name].make(env), TRANSFORMERS[name].takes
    frame = frames[takes].sample(frac=1, random_state=0)  # a query's rows are not together
    check_ranking(transformer(frame))


def check_ranking(out):
    """Ranks from 0, and scores that trec_eval, which holds them as 32-bit floats, puts into the same order."""
    assert len(out)
    for _, rows in out.groupby("qid"):
        assert sorted(rows["rank"]) == list(range(len(rows)))
        assert (np.diff(rows.sort_values("rank")["score"].to_numpy().astype(np.float32)) < 0).all()


@pytest.mark.parametrize("name", [n for n in RE_RANKERS + TEACHERS if n != "RetrieverTeacher"])  # it reads no text
def test_equal_documents_keep_their_incoming_order_as_measured_too(name, env, frames):
    """trec_eval would put documents of one score into descending order of docno, ir_measures' RR@k into ascending."""
    frame = frames["R"].assign(text="red dog", teacher_score=0.0, score=0.0, query_vec=None, doc_vec=None)
    frame = frame.drop(columns=["query_vec", "doc_vec"])
    env = {**env, "results": frame}
    transformer = TRANSFORMERS[name].make(env)
    out = transformer(frame)
    check_ranking(out)
    lists = name.startswith(("ListwiseLLM", "Setwise")) or "Pairwise" in name or name == "pairs of disagreement"
    if not lists:  # those see positions
        assert (out["rank"].to_numpy() == frame["rank"].to_numpy()).all()
    for place in (0, 1, 2):
        qrels = out[out["rank"] == place][["qid", "docno"]].assign(label=1)
        found = pt.Evaluate(out, qrels, [RR, RR @ 10, AP])
        assert list(found.values()) == pytest.approx([1 / (1 + place)] * 3)


@pytest.mark.parametrize("name", [n for n in RE_RANKERS + TEACHERS if n not in READ_LABELS])
def test_stands_in_an_experiment(name, env, frames, qrels):
    transformer = TRANSFORMERS[name].make(env)
    first = pt.Transformer.from_df(frames["R"][["qid", "docno", "text", "score", "rank"]])
    topics = frames["Q"][["qid", "query"]]
    table = pt.Experiment(
        {"first": first, "student": first >> transformer, "top": first >> TRANSFORMERS[name].make(env) % 10},
        topics, qrels, [nDCG @ 10], validate="error", plan="tree",
    )  # fmt: skip
    values = table.set_index("name")["nDCG@10"]
    assert values["student"] == pytest.approx(values["top"]) and 0 < values["student"] <= 1


def test_wrong_frames_are_refused_with_pyterriers_error(case):
    transformer, *_ = case
    with pytest.raises(pt.validate.InputValidationError) as caught:
        transformer(pd.DataFrame([{"nothing": 1}]))
    assert caught.value.modes


@pytest.mark.parametrize("name", POINTWISE)
def test_works_in_a_scorer_cache(name, env, frames):
    caching = pytest.importorskip("pyterrier_caching")
    transformer = TRANSFORMERS[name].make(env)
    with caching.ScorerCache(str(env["path"] / "cache"), transformer) as cache:
        expected = transformer(frames["R"])["score"].to_numpy()
        for _ in range(2):
            np.testing.assert_allclose(cache(frames["R"])["score"].to_numpy(dtype=float), expected, atol=1e-5)


# -- at the door ------------------------------------------------------------------------------------------------------


def spoilt(frame, column, cell):
    """The frame with one cell of another kind."""
    cells = frame[column].astype(object).tolist()
    cells[-1] = cell
    return frame.assign(**{column: pd.Series(cells, index=frame.index, dtype=object)})


def numbered(frame, column):
    """The frame with ids that pandas made fractions, as it does where one is missing."""
    return frame.assign(**{column: np.arange(len(frame), dtype=float)})


def two_queries(frame):
    """The frame with a second text of its first query."""
    more = frame.iloc[[0]].assign(query="another one")
    return pd.concat([frame, more.assign(docno="d99") if "docno" in frame.columns else more])


BAD_IDS = {
    "nan": lambda frame, column: spoilt(frame, column, float("nan")),
    "none": lambda frame, column: spoilt(frame, column, None),
    "na": lambda frame, column: spoilt(frame, column, pd.NA),
    "fraction": lambda frame, column: spoilt(frame, column, 3.0),
    "float column": numbered,
    "truth": lambda frame, column: spoilt(frame, column, True),
    "list": lambda frame, column: spoilt(frame, column, ["q1"]),
}


def test_what_is_no_id_is_refused(case):
    transformer, frame, _ = case
    for column in {"qid", "docno"} & set(frame.columns):
        for kind, spoil in BAD_IDS.items():
            with pytest.raises(ValueError, match=f"the column '{column}' of .* must hold ids, text or whole numbers"):
                transformer(spoil(frame, column))
                pytest.fail(f"{kind} is taken for a {column}")
        if not isinstance(transformer, NegativeMiner):  # which compares ids by how they are spelt
            with pytest.raises(ValueError, match="the id '7' more than once, as text and as a number"):
                transformer(spoilt(spoilt(frame, column, 7).iloc[::-1], column, "7"))
    if {"qid", "query"} <= set(frame.columns):
        with pytest.raises(ValueError, match=r"the qid '.*' has several queries"):
            transformer(two_queries(frame))


#: They know the ids of the fixtures only.
FIXED = {"RunTeacher", "RetrieverTeacher", "OrdersTeacher", "LabelStore.cache", "MultiVectorIndex scorer"}


@pytest.mark.parametrize("name", [n for n in RE_RANKERS + TEACHERS if n not in FIXED])
def test_whole_numbers_and_text_are_ids(name, env, frames):
    transformer, frame = TRANSFORMERS[name].make(env), frames["R"]
    expected = transformer(frame)
    for dtype in ("int64", "Int64", "object", "category", "str"):
        numbers = {column: frame[column].str[1:].astype(int).astype(dtype) for column in ("qid", "docno")}
        out = transformer(frame.assign(**numbers))
        assert out["qid"].astype(str).tolist() == expected["qid"].str[1:].tolist()
        check_ranking(out)
        if not name.startswith(("Pairwise", "pairs")):  # those draw their pairs by qid
            np.testing.assert_allclose(out["score"].to_numpy(float), expected["score"].to_numpy(float), atol=1e-4)


def test_frames_of_uncommon_shapes(case):
    """Two columns of one name are refused; an index called like a column, and columns that are numbers, will do."""
    transformer, frame, _ = case
    expected = transformer(frame)
    for name in ("qid", "docno", "rank"):
        assert_same(expected, transformer(frame.set_index(pd.Index(np.arange(len(frame))[::-1], name=name))))
    out = transformer(frame.assign(numbered="u").rename(columns={"numbered": 0}))
    assert_same(expected, out[list(expected.columns)].set_axis(expected.columns, axis=1))
    for column in ("qid" if "qid" in frame.columns else "docno", frame.columns[-1]):
        twice = pd.concat([frame, frame[[column]]], axis=1)
        with pytest.raises(ValueError, match=f"several columns of the name '{column}'"):
            transformer(twice)
