"""Arguments: old names of keywords still work, and say what they are called now; mistakes are told in one wording."""

import re

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from labelling import Scorer, pipeline, topics

import pyterrier_distill as ptd
from pyterrier_distill.backends.base import Backend
from pyterrier_distill.frames import arguments
from pyterrier_distill.identity.identity import difference, identity

NOTHING = pt.Transformer.from_df(pd.DataFrame({"qid": ["1"], "docno": ["d"], "score": [1.0]}))
RENAMED = {
    "column": ("label", lambda **given: ptd.FalseNegativeFilter(margin=0.1, **given), "teacher_score_b"),
    "k of a retriever": ("depth", lambda **given: ptd.ConsistencyFilter(NOTHING, **given), 5),
    "k of queries": ("n", lambda **given: ptd.TopQueries(**given), 5),
    "size": ("n", lambda **given: ptd.ListSampler(**given), 5),
    "how of fusing": ("strategy", lambda **given: ptd.fuse_teachers("a", "b", **given), "minmax"),
}


@pytest.mark.parametrize("wrong", [0, -1, float("inf"), float("nan"), "a", True])
def test_what_scales_scores_is_a_positive_finite_number(wrong, results):
    makes = {
        "temperature": [ptd.KLDivergence, ptd.InfoNCE, ptd.LocalizedContrastive, ptd.RankNet, ptd.PairwiseKL,
                        ptd.LogitKL],
        "student_temperature": [ptd.KLDivergence], "alpha": [ptd.ADRMSE, ptd.ApproxNDCG], "sigma": [ptd.LambdaLoss],
        "k": [lambda k: ptd.fuse_teachers("a", "b", k=k)],
    }  # fmt: skip
    for name, losses in makes.items():
        for make in losses:
            with pytest.raises(ValueError, match=f"^{name} must be (None or )?positive and finite, not {wrong!r}"):
                make(**{name: wrong})
    with pytest.raises(ValueError, match="^temperature must be positive"):
        ptd.pair_disagreement(results, temperature=wrong)


@pytest.mark.parametrize("wrong", ["x", 5, {"q1": {"d1": 1}}])
def test_judgements_are_a_frame(wrong, tiny, results):
    student, loss = ptd.BiEncoder(tiny), ptd.InfoNCE(0.05)
    makes = {
        "the qrels": [lambda: ptd.AddPositives(wrong), lambda: ptd.Distiller(student, loss).fit(results, wrong)],
        "exclude": [lambda: ptd.mine_negatives(student, exclude=wrong)],
    }
    for name, calls in makes.items():
        for call in calls:
            with pytest.raises(TypeError, match=f"{name} must be a frame of qid, docno and label, or a dataset"):
                call()
    with pytest.raises(TypeError, match="the qrels must be a frame"):
        ptd.AddPositives(None)
    with pytest.raises(ValueError, match="freeze_docs must be one of None, False, True, not 'no'"):
        ptd.BiEncoder(tiny, freeze_docs="no")


def test_prompts_and_answers_of_students(tiny):
    for kind in (ptd.CrossEncoder, ptd.CausalReranker, ptd.MonoT5):
        for wrong in (5, ["qwen3"]):
            with pytest.raises(ValueError, match=r"no prompt .*: give one of .*or a Template"):
                kind(tiny, prompt=wrong)
    with pytest.raises(ValueError, match="answers must be two different words"):
        ptd.CausalReranker(tiny, answers=5)


@pytest.mark.parametrize("wrong", [5, "", ("a", "b")])
def test_labels_of_losses_are_names_of_columns(wrong):
    said = f"label must be (None or )?the name of a column, not {re.escape(repr(wrong))}"
    for make in (ptd.MSE, ptd.MarginMSE, ptd.RankNet, ptd.InfoNCE, ptd.LambdaLoss, ptd.HiddenStateMatch, ptd.LogitKL,
                 ptd.ScoreMatch, ptd.BinaryCrossEntropy):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            make(label=wrong)
    with pytest.raises(ValueError, match="labels must name one column for each"):
        ptd.EmbeddingMatch(on=("query", "document"), labels=("vec", "vec"))
    with pytest.raises(ValueError, match="on must be"):
        ptd.EmbeddingMatch(on=("query", "query"))


@pytest.mark.parametrize("old", RENAMED)
def test_old_names_work_and_say_the_new_one(old):
    new, make, value = RENAMED[old]
    name = old.split()[0]
    with pytest.warns(DeprecationWarning, match=f"{name}= is called {new}= now"):
        made = make(**{name: value})
    assert repr(made) == repr(make(**{new: value}))
    with pytest.raises(TypeError, match=f"{name}= is the old name of {new}="):
        make(**{name: value, new: value})


def test_old_names_of_functions_and_methods_work(results, tmp_path):
    frame = results.assign(teacher_rank=results["rank"])
    with pytest.warns(DeprecationWarning, match="how= is called strategy= now"):
        found = ptd.pair_disagreement(frame, how="inversion")
    assert {q: w.sum() for q, w in found.items()} == {
        q: w.sum() for q, w in ptd.pair_disagreement(frame, strategy="inversion").items()
    }
    store = ptd.LabelStore(tmp_path / "s").build(pipeline(Scorer()), topics(3), verbose=False)
    store.to_run(tmp_path / "new", label="teacher_score")
    with pytest.warns(DeprecationWarning, match="by= is called label= now"):
        store.to_run(tmp_path / "old", by="teacher_score")
    assert (tmp_path / "old").read_text() == (tmp_path / "new").read_text()


@pytest.mark.parametrize(
    "made, old",
    [
        (ptd.FalseNegativeFilter(margin=0.1, label="teacher_score_b"), {"column": "teacher_score_b", "label": None}),
        (ptd.ConsistencyFilter(NOTHING, 5), {"k": 5, "depth": None}),
        (ptd.TopQueries(7), {"k": 7, "n": None}),
    ],
)
def test_manifests_with_old_names_are_those_of_the_same_transformer(made, old):
    told = identity(made)
    before = {name: value for name, value in {**told, **old}.items() if value is not None}
    assert difference(before, told) is None
    changed = {name: "other" if name in ("column", "k") else value for name, value in before.items()}
    assert difference(changed, told) is not None


def test_whole_numbers_and_choices():
    assert arguments.whole(3, "n") == 3 and arguments.whole(None, "n", absent=True) is None
    for wrong in (0, 1.0, True, "1", None):
        with pytest.raises(ValueError, match="n must be a whole number of at least 1, not"):
            arguments.whole(wrong, "n")
    with pytest.raises(ValueError, match="n must be None or a whole number of at least 2, not 1"):
        arguments.whole(1, "n", 2, absent=True)
    assert arguments.choice("a", "how", ("a", "b")) == "a"
    with pytest.raises(ValueError, match="how must be one of a, b, not 'c'"):
        arguments.choice("c", "how", ("a", "b"))


def test_every_teacher_that_asks_a_language_model_takes_a_backend(results):
    class Yes(Backend):
        def choose(self, prompts, options, *, spaced=True):
            self.usage.add(len(prompts))
            return np.log(np.tile([0.25, 0.75], (len(prompts), 1))).astype(np.float32)

        def __repr__(self):
            return "Yes()"

    for kind in (ptd.PointwiseTeacher, ptd.PairwiseTeacher):
        given, named = kind(Yes()), kind(backend=Yes())
        pd.testing.assert_frame_equal(named(results), given(results))
        assert identity(named) == identity(given)
        with pytest.raises(ValueError, match="not both"):
            kind("model", backend=Yes())
        with pytest.raises(ValueError, match="backend must be 'hf', 'vllm', or a backend"):
            kind("model", backend="x")
        with pytest.raises(ValueError, match="needs a model"):
            kind()
        with pytest.raises(ValueError, match="runs the checkpoint of a name"):
            kind(Yes(), backend="vllm")
    vllm = ptd.PointwiseTeacher("owner/model", backend="vllm")
    assert isinstance(vllm._scorer.backend, ptd.VLLM) and vllm._scorer.backend.name_or_path == "owner/model"
