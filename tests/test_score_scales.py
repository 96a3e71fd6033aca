"""What scale a student's scores are on, and which losses fit."""

import pickle

import numpy as np
import pytest
import torch

import pyterrier_distill as ptd
from pyterrier_distill.losses import base

FP32 = {"precision": "fp32", "device": "cpu"}


@pytest.fixture(scope="module")
def dot(tiny, tmp_path_factory):
    """A bi-encoder that compares by dot products."""
    from sentence_transformers import SentenceTransformer

    source = SentenceTransformer(tiny, device="cpu")
    path = str(tmp_path_factory.mktemp("dot") / "st")
    model = SentenceTransformer(modules=list(source)[:2], device="cpu", similarity_fn_name="dot")
    model.save_pretrained(path, create_model_card=False)
    return path


@pytest.fixture
def students(tiny, tiny_cross, tiny_t5, dot):
    return {
        "logit": ptd.CrossEncoder(tiny_cross, **FP32),
        "log-probability": ptd.MonoT5(tiny_t5, **FP32),
        "cosine": ptd.BiEncoder(tiny, **FP32),
        "dot product": ptd.BiEncoder(dot, **FP32),
        "sum of maximum similarities": ptd.LateInteraction(tiny, **FP32),
    }


def test_every_student_declares_its_scale_and_means_it(students, tiny, results):
    for scale, student in students.items():
        assert student.score_scale == scale and scale in base.SCALES
        scores = student(results)["score"].to_numpy()
        if scale == "log-probability":
            assert (scores <= 0).all() and (np.exp(scores) <= 1).all()
        if scale == "cosine":
            assert (np.abs(scores) <= 1 + 1e-5).all()
        if scale == "sum of maximum similarities":
            assert (scores > 1).all()
    assert ptd.USTAD(tiny, **FP32).score_scale == "dot product"
    assert ptd.USTAD(tiny, modes=("dual", "late"), **FP32).score_scale == "sum of maximum similarities"


def test_sigmoids_of_what_is_no_logit_are_refused_when_built_naming_what_fits(students, tiny):
    for loss in (ptd.BinaryCrossEntropy(), ptd.KLDivergence() + 0.5 * ptd.BinaryCrossEntropy(label="teacher_score")):
        with pytest.raises(ValueError, match=r"MonoT5, whose score is a log-probability.*at most 0\.5.*LogitMSE"):
            ptd.Distiller(students["log-probability"], loss)
        with pytest.raises(ValueError, match=r"between 0\.27 and 0\.73.*InfoNCE\(temperature=0\.05\)"):
            ptd.Distiller(students["cosine"], loss)
        with pytest.raises(ValueError, match="nearly 1 for any document.*LocalizedContrastive"):
            ptd.Distiller(students["sum of maximum similarities"], loss)
        with pytest.raises(ValueError, match="nearly 1 for any document"):
            ptd.Distiller(ptd.USTAD(tiny, modes="late", **FP32), loss)
        for scale in ("logit", "dot product"):
            ptd.Distiller(students[scale], loss)
    assert all(student._weights.model is None for student in students.values())  # nothing was loaded for it


def test_what_only_the_model_tells_is_refused_before_training(tiny, results, qrels, monkeypatch):
    student = ptd.BiEncoder(tiny, **FP32)
    monkeypatch.setattr(ptd.BiEncoder, "known_scale", lambda self: None)  # as of a name on the hub
    distiller = ptd.Distiller(student, ptd.BinaryCrossEntropy(), verbose=False)
    with pytest.raises(ValueError, match="BinaryCrossEntropy.*cosine"):
        distiller.fit(results, qrels)


def test_the_scale_of_a_bi_encoder_is_that_of_its_document_side(tiny, dot):
    teacher = ptd.BiEncoder(dot, **FP32)
    student = ptd.BiEncoder(ptd.BiEncoder.truncated(teacher, 2), doc_encoder=teacher, **FP32)
    assert student.known_scale() in (None, "dot product") and student.score_scale == "dot product"
    assert student.known_scale() == "dot product"
    assert ptd.BiEncoder("nobody/has-this-model").known_scale() is None
    assert pickle.loads(pickle.dumps(ptd.BiEncoder(tiny, **FP32))).known_scale() == "cosine"


FITTING = [
    ptd.KLDivergence(), ptd.ListNet(), ptd.RankNet(), ptd.ListMLE(), ptd.ADRMSE(), ptd.PairwiseKL(), ptd.LambdaLoss(),
    ptd.ApproxNDCG(), ptd.LocalizedContrastive(), ptd.LocalizedContrastive(positives="each_alone"), ptd.MSE(),
    ptd.MarginMSE(), ptd.ScoreMatch(label="teacher_score"),
]  # fmt: skip


@pytest.mark.parametrize("loss", FITTING, ids=repr)
def test_losses_over_differences_and_softmaxes_fit_every_scale(loss, students):
    for student in students.values():
        ptd.Distiller(student, loss)
    for loss in (ptd.LogitMSE(), ptd.LogitKL(), ptd.LogitCrossEntropy()):  # read logits, whatever the score is
        ptd.Distiller(students["log-probability"], loss)
    for scale in ("cosine", "dot product", "sum of maximum similarities"):
        for loss in (ptd.KLDivergence(in_batch=True), ptd.ListNet(in_batch=True)):
            ptd.Distiller(students[scale], loss)


def test_a_loss_of_ones_own_may_ask(students):
    class Log(ptd.MSE):
        """Takes the logarithm of a probability."""

        scales = frozenset({base.LOG_PROBABILITY})

    ptd.Distiller(students["log-probability"], Log())
    with pytest.raises(ValueError, match="takes scores that are log-probability"):
        ptd.Distiller(students["logit"], 2.0 * Log())


def test_the_reason_is_true(tiny_t5, results):
    """σ of MonoT5's score cannot be more than a half, and σ of log p is p / (1 + p)."""
    scores = torch.tensor(ptd.MonoT5(tiny_t5, **FP32)(results)["score"].to_numpy())
    p = scores.exp()
    torch.testing.assert_close(torch.sigmoid(scores), p / (1 + p))
    assert (torch.sigmoid(scores) <= 0.5).all()


# -- the optimiser ----------------------------------------------------------------------------------------------------


def test_weight_decay_and_clipping_are_arguments_that_decide_the_outcome(tiny, results, tmp_path):
    from pyterrier_distill.training.arguments import training_arguments
    from pyterrier_distill.training.settings import Settings

    student = ptd.CrossEncoder(tiny, **FP32)
    cpu = torch.device("cpu")
    told = training_arguments(Settings.of(ptd.Distiller(student, ptd.KLDivergence())), 4, "fp32", cpu, None)
    assert (told.weight_decay, told.max_grad_norm, told.adam_beta1, told.adam_beta2) == (0.01, 1.0, 0.9, 0.999)
    other = ptd.Distiller(student, ptd.KLDivergence(), weight_decay=0.0, max_grad_norm=0.1)
    told = training_arguments(Settings.of(other), 4, "fp32", cpu, None)
    assert (told.weight_decay, told.max_grad_norm) == (0.0, 0.1)
    settings = {"precision": "fp32", "verbose": False, "learning_rate": 1e-2, "epochs": 2, "dropout": 0.0}

    def trained(**changed):
        one = ptd.CrossEncoder(tiny, **FP32)
        ptd.Distiller(one, ptd.KLDivergence(), **{**settings, **changed}).fit(results)
        return torch.cat([p.detach().flatten() for p in one.model.parameters()])

    plain = trained()
    assert torch.equal(plain, trained(weight_decay=0.01, max_grad_norm=1.0))
    assert not torch.equal(plain, trained(weight_decay=0.5))
    assert not torch.equal(plain, trained(max_grad_norm=1e-9))
    trained(checkpoints=tmp_path / "c")
    for name, value in (("weight_decay", 0.5), ("max_grad_norm", 0.5)):
        with pytest.raises(ValueError, match=f"another training: {name} was"):
            trained(checkpoints=tmp_path / "c", **{name: value})
        for wrong in (-1, float("nan"), "much", True):
            with pytest.raises(ValueError, match=name):
                ptd.Distiller(student, ptd.KLDivergence(), **{name: wrong})
