"""Teachers whose model fails while it runs: what it had answered is handed on, and kept."""

import numpy as np
import pandas as pd
import pytest

import pyterrier_distill as ptd
from pyterrier_distill.backends.base import Backend
from pyterrier_distill.engine import batching

FP32 = {"precision": "fp32", "device": "cpu"}
LOCAL = {
    "cross-encoder": lambda models: ptd.PointwiseTeacher(models["tiny_cross"], batch_size=2, **FP32),
    "cross-encoder of two outputs": lambda models: ptd.PointwiseTeacher(models["tiny_cross2"], batch_size=2, **FP32),
    "monoT5": lambda models: ptd.PointwiseTeacher(models["tiny_t5"], batch_size=2, **FP32),
    "causal": lambda models: ptd.PointwiseTeacher(models["tiny_llm"], batch_size=2, **FP32),
    "duoT5": lambda models: ptd.PairwiseTeacher(models["tiny_t5"], n_pairs=4, batch_size=2, **FP32),
    "pair classifier": lambda models: ptd.PairwiseTeacher(
        models["tiny_cross"], kind="classifier", n_pairs=4, batch_size=2, **FP32
    ),
    "setwise": lambda models: ptd.SetwiseTeacher(models["tiny_llm"], k=2, set_size=3, batch_size=2, **FP32),
}


@pytest.fixture
def models(tiny_cross, tiny_cross2, tiny_t5, tiny_llm):
    return {"tiny_cross": tiny_cross, "tiny_cross2": tiny_cross2, "tiny_t5": tiny_t5, "tiny_llm": tiny_llm}


@pytest.fixture
def breaks(monkeypatch):
    """Lets a model of this process fail from a batch on, which it counts; 0 = never."""
    batches, forward = [0, 0], batching._forward

    def failing(features, run):
        batches[0] += 1
        if batches[1] and batches[0] >= batches[1]:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return forward(features, run)

    monkeypatch.setattr(batching, "_forward", failing)
    return batches


@pytest.mark.parametrize("kind", LOCAL)
def test_a_model_of_this_process_that_fails_loses_no_finished_query(kind, models, results, breaks):
    whole = LOCAL[kind](models)(results)
    breaks[:] = 0, breaks[0]  # the last batch fails
    with pytest.raises(ptd.LabellingError, match="illegal memory access") as caught:
        LOCAL[kind](models)(results)
    labelled = caught.value.labelled
    assert 0 < labelled["qid"].nunique() < whole["qid"].nunique()
    expected = whole[whole["qid"].isin(labelled["qid"])]
    pd.testing.assert_frame_equal(labelled, expected.loc[labelled.index], check_dtype=False, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [kind for kind in LOCAL if kind != "setwise"])
def test_a_cache_keeps_every_answer_of_a_model_that_fails(kind, models, results, breaks, tmp_path):
    pytest.importorskip("pyarrow")
    LOCAL[kind](models)(results)
    breaks[:] = 0, breaks[0]
    with pytest.raises(ptd.LabellingError, match="illegal memory access"):
        ptd.LabelStore(tmp_path / "cache").cache(LOCAL[kind](models))(results)
    breaks[:] = 0, 0
    cached = ptd.LabelStore(tmp_path / "cache").cache(LOCAL[kind](models))
    left = cached.estimate(results).calls
    assert 0 < left <= 2  # those of the batch that failed
    cached(results)
    assert cached.usage.calls == left


def test_a_model_that_fails_at_once_says_so_itself(models, results, breaks):
    breaks[:] = 0, 1
    with pytest.raises(RuntimeError, match="^CUDA error: an illegal memory access"):
        LOCAL["monoT5"](models)(results)


def test_a_cache_of_somebodys_own_backend_hands_on_what_is_known(results, tmp_path):
    pytest.importorskip("pyarrow")

    class Breaking(Backend):
        calls = 0

        def choose(self, prompts, options, *, spaced=True):
            Breaking.calls += 1
            if Breaking.calls > 2:
                raise ZeroDivisionError("nobody thought of this")
            return np.log(np.full((len(prompts), len(options)), 0.5, dtype=np.float32))

        def __repr__(self):
            return "Breaking()"

    cached = ptd.LabelStore(tmp_path / "cache").cache(ptd.PointwiseTeacher(Breaking()), batch_size=1)
    with pytest.raises(ptd.LabellingError, match="nobody thought of this") as caught:
        cached(results)
    assert caught.value.labelled["qid"].nunique() == 2
