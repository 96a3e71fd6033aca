"""Training has the process for itself, and leaves it as it found it."""

import logging
import os
import random
import threading
import time

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
import torch
import transformers

import pyterrier_distill as ptd
from pyterrier_distill.backends.base import Sampling
from pyterrier_distill.engine.locks import loading

FP32 = {"precision": "fp32", "device": "cpu"}
SETTINGS = {"precision": "fp32", "verbose": False, "learning_rate": 1e-3}


def draws():
    return random.random(), float(np.random.random()), float(torch.rand(()))


def seed(n):
    random.seed(n)
    np.random.seed(n)
    torch.manual_seed(n)


def accelerate_state():
    from accelerate.state import AcceleratorState, GradientState, PartialState

    return [dict(kind._shared_state) for kind in (PartialState, AcceleratorState, GradientState)]


def everything():
    levels = {name: one.level for name, one in logging.root.manager.loggerDict.items() if hasattr(one, "level")}
    return {
        "draws": draws(),
        "environment": dict(os.environ),
        "accelerate": accelerate_state(),
        "level": logging.root.level,
        "verbosity": transformers.utils.logging.get_verbosity(),
        "accelerate's logger": levels.get("accelerate", 0),
        "bars": transformers.utils.logging.is_progress_bar_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn": (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark),
        "matmul": torch.get_float32_matmul_precision(),
        "dtype": torch.get_default_dtype(),
    }


def distiller(student, loss=None, **settings):
    return ptd.Distiller(student, loss or ptd.RankNet("teacher_score"), **{**SETTINGS, **settings})


DETERMINISTIC = {"full_determinism": True, "log_level": "error", "disable_tqdm": True}


@pytest.mark.parametrize(
    "settings",
    [{}, {"precision": "bf16"}, {"args": DETERMINISTIC}, {"seed": 1, "gradient_cache": True}, {"sampler": True}],
    ids=["fp32", "bf16", "deterministic", "cached", "sampled"],
)
def test_a_training_leaves_the_process_as_it_was(settings, tiny, results):
    settings = {**settings, **({"sampler": ptd.ListSampler(2)} if "sampler" in settings else {})}
    student = ptd.CrossEncoder(tiny, **FP32)
    seed(7)
    expected = everything()
    seed(7)
    distiller(student, **settings).fit(results)
    assert everything() == expected


def test_also_one_that_fails_and_one_that_is_interrupted(tiny, results):
    for error in (RuntimeError, KeyboardInterrupt):
        student = ptd.CrossEncoder(tiny, **FP32)

        def failing(*_, error=error):
            raise error

        seed(3)
        expected = everything()
        seed(3)
        student.forward = failing
        with pytest.raises(error):
            distiller(student, precision="bf16", args={"full_determinism": True}).fit(results)
        assert everything() == expected


def test_validation_and_resuming_leave_it_too(tiny, results, qrels, tmp_path):
    for _ in range(2):  # the second one finds a finished training
        seed(5)
        expected = draws()
        seed(5)
        student = ptd.BiEncoder(tiny, **FP32)
        distiller(student, ptd.InfoNCE(), checkpoints=tmp_path / "c").fit(results, qrels, results, qrels)
        assert draws() == expected


@pytest.mark.parametrize("kind", ["PairwiseTeacher", "adapt", "IterativeDistiller"])
def test_whatever_trains_leaves_it(kind, tiny, tiny_cross, documents, results, qrels, tmp_path):
    teacher = ptd.PointwiseTeacher(tiny_cross, **FP32)

    def run():
        if kind == "PairwiseTeacher":
            ptd.PairwiseTeacher(tiny_cross, kind="classifier", precision="bf16", device="cpu").fit(results, qrels)
        elif kind == "adapt":
            ptd.adapt(ptd.CrossEncoder(tiny, **FP32), teacher, documents, tmp_path, depth=3, **SETTINGS)
        else:
            text = pt.apply.generic(lambda found: found.merge(documents, on="docno"))
            candidates = ptd.bm25(tmp_path / "i", documents.to_dict("records")) >> text
            rounds = ptd.IterativeDistiller(
                candidates % 3, teacher, distiller(ptd.CrossEncoder(tiny, **FP32)), tmp_path
            )
            rounds.fit(results[["qid", "query"]].drop_duplicates())

    seed(11)
    expected = everything()
    seed(11)
    run()
    assert everything() == expected


@pytest.mark.parametrize("kind", ["head", "lora", "projection", "late", "pairs", "teacher", "llm", "ustad"])
def test_loading_a_model_draws_nothing_of_the_callers(kind, tiny, tiny_cross, tiny_t5, tiny_llm):
    if kind == "lora":
        pytest.importorskip("peft")
    made = {
        "head": lambda: ptd.CrossEncoder(tiny, **FP32).model,
        "lora": lambda: ptd.CrossEncoder(tiny, lora={"r": 2}, **FP32).model,
        "projection": lambda: ptd.BiEncoder(tiny, projection=8, **FP32).model,
        "late": lambda: ptd.LateInteraction(tiny, **FP32).model,
        "pairs": lambda: ptd.PairwiseTeacher(tiny, kind="classifier", **FP32).model,
        "teacher": lambda: ptd.PointwiseTeacher(tiny_t5, **FP32)(
            pd.DataFrame([("1", "red", "d", "red dog")], columns=["qid", "query", "docno", "text"])
        ),
        "llm": lambda: ptd.HF(tiny_llm, **FP32).complete(
            ["red dog"], max_new_tokens=3, sampling=Sampling(temperature=1.0), seeds=[1]
        ),
        "ustad": lambda: ptd.USTAD(tiny, **FP32).model,
    }[kind]
    seed(2)
    expected = draws()
    seed(2)
    made()
    assert draws() == expected


def test_the_callers_accelerator_survives_and_does_not_decide_our_precision(tiny, results):
    from accelerate import Accelerator

    mine = Accelerator(mixed_precision="bf16", cpu=True)
    plain, beside = ptd.CrossEncoder(tiny, **FP32), ptd.CrossEncoder(tiny, **FP32)
    distiller(plain, epochs=2).fit(results)
    assert mine.mixed_precision == "bf16" and mine.device.type == "cpu"
    assert Accelerator(cpu=True).mixed_precision == "bf16"
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    distiller(beside, epochs=2).fit(results)
    np.testing.assert_array_equal(plain(results)["score"], beside(results)["score"])
    distiller(ptd.CrossEncoder(tiny, **FP32), precision="bf16").fit(results)
    assert Accelerator().mixed_precision == "no"
    AcceleratorState._reset_state(reset_partial_state=True)


def test_two_distillers_in_two_threads_train_as_they_would_alone(tiny, results):
    def trained(seed):
        student = ptd.CrossEncoder(tiny, **FP32)
        distiller(student, seed=seed, epochs=3, queries_per_batch=2, dropout=0.3).fit(results)
        return student(results)["score"].to_numpy()

    alone = {n: trained(n) for n in (1, 2, 3)}
    together = {}
    threads = [threading.Thread(target=lambda n=n: together.update({n: trained(n)})) for n in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n in alone:
        np.testing.assert_array_equal(alone[n], together[n])
    assert not np.array_equal(alone[1], alone[2])


def test_models_that_are_loaded_beside_a_training_change_nothing_of_it(tiny, results):
    def trained(at_step=None):
        student = ptd.CrossEncoder(tiny, **FP32)
        forward = student.forward

        def stepping(*given):
            if at_step is not None:
                at_step()
            return forward(*given)

        student.forward = stepping
        distiller(student, epochs=10, queries_per_batch=2, dropout=0.3).fit(results)
        return student(results)["score"].to_numpy()

    alone, over, begun, during = trained(), threading.Event(), threading.Event(), []

    def load():
        while not over.is_set():
            with loading():
                torch.rand(3)
                time.sleep(0.02)
            ptd.BiEncoder(tiny, **FP32).model  # noqa: B018
            if begun.is_set() and not over.is_set():
                during.append(1)

    beside = threading.Thread(target=load)
    beside.start()
    try:
        scores = trained(begun.set)
    finally:
        over.set()
        beside.join()
    np.testing.assert_array_equal(scores, alone)
    assert len(during) > 1  # and they did not have to wait for its end


def test_only_one_training_runs_at_a_time(tiny, results):
    inside, most, lock = [0], [0], threading.Lock()
    students = [ptd.CrossEncoder(tiny, **FP32) for _ in range(3)]
    for student in students:
        forward = student.forward

        def counted(*args, forward=forward):
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            try:
                return forward(*args)
            finally:
                with lock:
                    inside[0] -= 1

        student.forward = counted
        student.model  # noqa: B018
    threads = [threading.Thread(target=lambda s=s: distiller(s, epochs=3).fit(results)) for s in students]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_forked_while_its_parent_trains_may_train():
    from pyterrier_distill.training import process

    with process._LOCK:
        child = os.fork()
        if child == 0:
            done = []
            thread = threading.Thread(target=lambda: done.append(process._LOCK.acquire(timeout=5)))
            thread.start()
            thread.join()
            os._exit(0 if done == [True] else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
