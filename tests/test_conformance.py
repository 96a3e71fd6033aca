"""What every public transformer must do, beyond PyTerrier's own two tests."""

import pickle
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from pyterrier.measures import nDCG

import pyterrier_distill as ptd
from pyterrier_distill.corpora.text_loader import InMemoryDataset, TextLoader
from pyterrier_distill.frames import join_qrels


class Documents(InMemoryDataset):
    """A dataset of a frame."""

    def __init__(self, frame):
        self.frame = frame

    def text_fields(self):
        return ["text"]

    def get_corpus_iter(self, *, verbose=True):
        return iter(self.frame.to_dict("records"))

    def __repr__(self):
        return "Documents()"


def bi_encoder(env):
    return ptd.BiEncoder(env["tiny"], precision="fp32", device="cpu")


def asymmetric(env):
    return ptd.BiEncoder(
        ptd.BiEncoder.truncated(bi_encoder(env), 2),
        doc_encoder=bi_encoder(env),
        freeze_docs=True,
        precision="fp32",
        device="cpu",
    )


def late_interaction(env):
    return ptd.LateInteraction(env["tiny"], precision="fp32", device="cpu")


def token_index(env):
    index = ptd.MultiVectorIndex(env["path"] / "docs.mvi")
    return index if index.built() else (late_interaction(env) >> index).index(env["records"])


class FirstWins:
    """Generates for listwise teachers: the order as it is shown, reversed."""

    def generate(self, prompts):
        return [SimpleNamespace(text=" > ".join(f"[{i}]" for i in range(6, 0, -1))) for _ in prompts]

    def __repr__(self):
        return "FirstWins()"


def teacher(kind, model, **settings):
    return lambda env: kind(env[model], precision="fp32", device="cpu", **settings)


def ustad_bi_encoder(env):
    return ptd.USTAD(env["tiny"], query_length=16, precision="fp32", device="cpu").as_bi_encoder()


def cached_queries(env):
    generator = teacher(ptd.SyntheticQueryGen, "plain_llm", max_new_tokens=6)(env)
    return ptd.QueryStore(env["path"] / "queries").cache(generator, batch_size=5)


def lexical(env):
    return ptd.bm25(env["path"] / "bm25s", env["records"], engine="bm25s")


def stored(env):
    return ptd.RunTeacher(env["results"].assign(teacher_score=env["results"]["teacher_score"]))


def miner(**settings):
    def make(env):
        bm25 = ptd.bm25(env["path"] / "bm25s", env["records"], engine="bm25s")
        return ptd.mine_negatives(bm25, 10, 2, exclude=env["qrels"], text=env["documents"], **settings)

    return make


def several(env):
    bm25 = ptd.bm25(env["path"] / "bm25s", env["records"], engine="bm25s")
    judge = ptd.FalseNegativeFilter(teacher(ptd.PointwiseTeacher, "tiny_cross")(env), margin=0.0)
    settings = {"mix": "equal", "text": TextLoader(Documents(env["documents"])), "false_negatives": judge}
    return ptd.mine_negatives({"whole": bm25, "top": bm25 % 3}, n=4, **settings)


def judged_by(kind, model, **rule):
    return lambda env: ptd.FalseNegativeFilter(kind(env[model], precision="fp32", device="cpu"), **rule)


#: name → (how to make one, the kind of frame it takes, how many input modes it has at least)
TRANSFORMERS = {
    "BiEncoder on results": (bi_encoder, "R"),
    "BiEncoder on queries": (bi_encoder, "Q"),
    "BiEncoder on documents": (bi_encoder, "D"),
    "asymmetric BiEncoder": (asymmetric, "R"),
    "query encoder": (lambda env: bi_encoder(env).query_encoder(), "Q"),
    "query encoder with states": (lambda env: bi_encoder(env).query_encoder(states=[2, -1]), "Q"),
    "document encoder": (lambda env: bi_encoder(env).doc_encoder(), "D"),
    "scorer": (lambda env: bi_encoder(env).text_scorer(), "R"),
    "Distiller": (lambda env: ptd.Distiller(bi_encoder(env), ptd.KLDivergence()), "R"),
    "CrossEncoder": (teacher(ptd.CrossEncoder, "tiny"), "R"),
    "CrossEncoder (decoder)": (teacher(ptd.CrossEncoder, "tiny_llm"), "R"),
    "CrossEncoder (adapter)": (teacher(ptd.CrossEncoder, "tiny_llm", lora={"r": 4}), "R"),
    "MonoT5": (teacher(ptd.MonoT5, "tiny_t5"), "R"),
    "USTAD (cross)": (teacher(ptd.USTAD, "tiny", mode="cross", query_length=16), "R"),
    "USTAD (dual)": (teacher(ptd.USTAD, "tiny", mode="dual", query_length=16), "R"),
    "USTAD (late)": (teacher(ptd.USTAD, "tiny", mode="late", query_length=16), "R"),
    "USTAD as bi-encoder on results": (ustad_bi_encoder, "R"),
    "USTAD as bi-encoder on queries": (ustad_bi_encoder, "Q"),
    "USTAD as bi-encoder on documents": (ustad_bi_encoder, "D"),
    "LateInteraction on results": (late_interaction, "R"),
    "LateInteraction on queries": (late_interaction, "Q"),
    "LateInteraction on documents": (late_interaction, "D"),
    "token query encoder": (lambda env: late_interaction(env).query_encoder(), "Q"),
    "token document encoder": (lambda env: late_interaction(env).doc_encoder(), "D"),
    "MaxSim scorer": (lambda env: late_interaction(env).text_scorer(), "R"),
    "MultiVectorIndex": (token_index, "Q+tokens"),
    "MultiVectorIndex retriever": (lambda env: token_index(env).retriever(num_results=5, device="cpu"), "Q+tokens"),
    "MultiVectorIndex scorer": (lambda env: token_index(env).scorer(device="cpu"), "R+tokens"),
    "PointwiseTeacher (cross-encoder)": (teacher(ptd.PointwiseTeacher, "tiny_cross"), "R"),
    "PointwiseTeacher (monoT5)": (teacher(ptd.PointwiseTeacher, "tiny_t5"), "R"),
    "PointwiseTeacher (LLM)": (teacher(ptd.PointwiseTeacher, "tiny_llm"), "R"),
    "PointwiseTeacher (re-ranker)": (lambda env: ptd.PointwiseTeacher(bi_encoder(env)), "R"),
    "PairwiseTeacher (duoT5)": (teacher(ptd.PairwiseTeacher, "tiny_t5", n_pairs=6), "R"),
    "PairwiseTeacher (LLM)": (teacher(ptd.PairwiseTeacher, "tiny_llm", both_orders=True), "R"),
    "pairs of disagreement": (teacher(ptd.PairwiseTeacher, "tiny_t5", n_pairs=2, disagreement={}), "R"),
    "PairwiseTeacher (classifier)": (teacher(ptd.PairwiseTeacher, "tiny_cross"), "R"),
    "ListwiseLLMTeacher": (teacher(ptd.ListwiseLLMTeacher, "tiny_llm", window_size=3, stride=2, max_words=5), "R"),
    "ListwiseLLMTeacher (any)": (lambda env: ptd.ListwiseLLMTeacher(FirstWins(), n_permutations=2), "R"),
    "SetwiseTeacher": (teacher(ptd.SetwiseTeacher, "tiny_llm", k=2, set_size=3), "R"),
    "RunTeacher": (stored, "R"),
    "RunTeacher on queries": (stored, "Q"),
    "fuse_teachers": (lambda env: ptd.fuse_teachers("score", "teacher_score"), "R"),
    "NegativeMiner on positives": (miner(), "R"),
    "NegativeMiner on queries": (miner(strategy="top", max_score=9.0), "Q"),
    "NegativeMiner of several": (lambda env: several(env), "R"),
    "FalseNegativeFilter": (lambda env: ptd.FalseNegativeFilter(margin=0.0), "R+label"),
    "FalseNegativeFilter (scores)": (judged_by(ptd.PointwiseTeacher, "tiny_cross", margin=0.0), "R+label"),
    "FalseNegativeFilter (verdicts)": (judged_by(ptd.PairwiseTeacher, "tiny_t5", preference=0.5), "R+label"),
    "SpanQueries": (lambda env: ptd.SpanQueries(n=3), "D"),
    "SyntheticQueryGen": (teacher(ptd.SyntheticQueryGen, "plain_llm", max_new_tokens=6), "D"),
    "SyntheticQueryGen (several)": (
        teacher(ptd.SyntheticQueryGen, "tiny_t5", prompt="doc2query", n=2, max_new_tokens=6),
        "D",
    ),
    "QueryStore": (cached_queries, "D"),
    "TitleQueries": (lambda env: ptd.TitleQueries(None), "D"),
    "KeyphraseQueries": (
        lambda env: ptd.KeyphraseQueries(frequencies=ptd.KeyphraseQueries.frequencies_of(env["records"])),
        "D",
    ),
    "TopQueries": (lambda env: ptd.TopQueries(100), "R+queries"),
    "TopQueries on documents": (lambda env: ptd.TopQueries(100), "D+querygen"),
    "ConsistencyFilter": (lambda env: ptd.ConsistencyFilter(lexical(env), k=3), "R+queries"),
    "ConsistencyFilter on documents": (lambda env: ptd.ConsistencyFilter(lexical(env), k=3), "D+querygen"),
    "LengthFilter": (lambda env: ptd.LengthFilter(2, 3), "R+queries"),
    "LanguageFilter on documents": (lambda env: ptd.LanguageFilter(), "D+querygen"),
    "QueryPerturbation": (teacher(ptd.QueryPerturbation, "tiny_t5", noise=0.5, max_length=8), "Q"),
    "explode_queries": (lambda env: ptd.explode_queries(), "D+querygen"),
    "TextLoader": (lambda env: TextLoader(Documents(env["documents"])), "R-text"),
    "BM25 (bm25s)": (lambda env: lexical(env), "Q"),
}
RE_RANKERS = ["BiEncoder on results", "asymmetric BiEncoder", "scorer", "Distiller"]
RE_RANKERS += ["USTAD (cross)", "USTAD (dual)", "USTAD (late)", "USTAD as bi-encoder on results"]
RE_RANKERS = [
    "BiEncoder on results", "asymmetric BiEncoder", "scorer", "Distiller", "LateInteraction on results",
    "MaxSim scorer",
]  # fmt: skip
TEACHERS = [name for name in TRANSFORMERS if "Teacher" in name and "queries" not in name] + ["fuse_teachers"]
#: Those whose score of a document depends on nothing but the query and the document.
POINTWISE = RE_RANKERS + [name for name in TEACHERS if name.startswith("PointwiseTeacher")]


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
    make, kind = TRANSFORMERS[request.param]
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


@pytest.mark.parametrize("name", RE_RANKERS + TEACHERS)
def test_ranks_count_from_zero_in_every_query(name, env, frames):
    transformer = TRANSFORMERS[name][0](env)
    frame = frames["R"].sample(frac=1, random_state=0)  # a query's rows are not together
    for _, rows in transformer(frame).groupby("qid"):
        assert sorted(rows["rank"]) == list(range(len(rows)))
        assert rows.sort_values("rank")["score"].is_monotonic_decreasing


@pytest.mark.parametrize("name", [n for n in RE_RANKERS + TEACHERS if n != "fuse_teachers"])
def test_stands_in_an_experiment(name, env, frames, qrels):
    transformer = TRANSFORMERS[name][0](env)
    first = pt.Transformer.from_df(frames["R"][["qid", "docno", "text", "score", "rank"]])
    topics = frames["Q"][["qid", "query"]]
    table = pt.Experiment(
        {"first": first, "student": first >> transformer, "top": first >> TRANSFORMERS[name][0](env) % 10},
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
    transformer = TRANSFORMERS[name][0](env)
    with caching.ScorerCache(str(env["path"] / "cache"), transformer) as cache:
        expected = transformer(frames["R"])["score"].to_numpy()
        for _ in range(2):
            np.testing.assert_allclose(cache(frames["R"])["score"].to_numpy(dtype=float), expected, atol=1e-5)
