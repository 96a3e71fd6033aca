"""Losses on the two logits [false, true]: closed forms, PyTorch's own functions, and students that learn by them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import pyterrier_distill as ptd
from pyterrier_distill.losses import Outputs, functional


@pytest.fixture
def logits():
    torch.manual_seed(0)
    return torch.randn(6, 2) * 3, torch.randn(6, 2) * 3


def outputs(student, mask):
    """Six rows as lists of three and two documents; NaN in the padding."""
    return Outputs(mask=mask, logits=student.new_full((*mask.shape, 2), float("nan")).masked_scatter(
        mask.unsqueeze(-1), student[: mask.sum()]
    ))  # fmt: skip


MASK = torch.tensor([[True, True, True], [True, True, False]])


def test_the_logit_of_true_alone(logits):
    student, teacher = logits
    centred = teacher - teacher.mean(dim=-1, keepdim=True)
    value = functional.logit_mse(student, teacher, only="true")
    assert float(value) == pytest.approx(float(F.mse_loss(student[:, 1], centred[:, 1])), rel=1e-5)
    assert float(functional.logit_mse(student[:0], teacher[:0], only="true")) == 0.0
    student.requires_grad_()
    functional.logit_mse(student, teacher, only="true").backward()
    assert (student.grad[:, 0] == 0).all() and (student.grad[:, 1] != 0).all()


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_kl_over_the_pair_of_logits(logits, temperature):
    student, teacher = logits
    log_s, log_t = (F.log_softmax(x / temperature, dim=-1) for x in logits)
    expected = F.kl_div(log_s, log_t, reduction="batchmean", log_target=True)
    assert float(functional.logit_kl(student, teacher, temperature)) == pytest.approx(float(expected), rel=1e-5)
    p, q = (torch.sigmoid((x[:, 1] - x[:, 0]) / temperature).double() for x in (teacher, student))
    by_hand = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    assert float(functional.logit_kl(student, teacher + 7, temperature)) == pytest.approx(float(by_hand), rel=1e-4)
    assert float(functional.logit_kl(student, student, temperature)) == pytest.approx(0.0, abs=1e-6)
    sure = torch.tensor([[-500.0, 500.0]])
    assert torch.isfinite(functional.logit_kl(sure, -sure, temperature))


def test_cross_entropy_of_the_two_answers_is_eq_3_and_pytorchs(logits):
    student, _ = logits
    labels = torch.tensor([1.0, 0.0, 2.0, -1.0, 0.0, 1.0])
    value = functional.logit_cross_entropy(student, labels)
    assert float(value) == pytest.approx(float(F.cross_entropy(student, (labels > 0).long())), rel=1e-5)
    p = torch.softmax(student[:2].double(), dim=-1)  # of one relevant and one other document
    eq3 = -p[0, 1].log() - p[1, 0].log()
    assert 2 * float(functional.logit_cross_entropy(student[:2], labels[:2])) == pytest.approx(float(eq3), rel=1e-5)
    difference = (student[:, 1] - student[:, 0]).unsqueeze(0)
    assert float(value) == pytest.approx(float(functional.binary_cross_entropy(difference, labels.unsqueeze(0))))
    half = functional.logit_cross_entropy(student, torch.full((6,), 0.5))
    assert float(half) == pytest.approx(float(-F.log_softmax(student, dim=-1).mean()), rel=1e-5)
    for wrong in (torch.zeros(5), torch.zeros(6, 2)):
        with pytest.raises(ValueError, match="logits must be"):
            functional.logit_cross_entropy(student, wrong)


def test_classes_leave_padding_and_unjudged_lists_out(logits):
    student, teacher = logits
    given = outputs(student, MASK)
    labels = {
        "teacher_logits": outputs(teacher, MASK).logits,
        "label": torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, float("nan")]]),
    }
    for loss, expected in (
        (ptd.LogitMSE(only="true"), functional.logit_mse(student[:5], teacher[:5], "true")),
        (ptd.LogitKL(2.0), functional.logit_kl(student[:5], teacher[:5], 2.0)),
        (ptd.LogitCrossEntropy(), F.cross_entropy(student[:3], torch.tensor([0, 1, 0]))),
    ):
        assert float(loss(given, labels)) == pytest.approx(float(expected), rel=1e-5), loss
    nobody = {**labels, "label": torch.zeros(2, 3)}
    assert float(ptd.LogitCrossEntropy()(given, nobody)) == 0.0


@pytest.mark.parametrize("loss", [ptd.LogitMSE(only="true"), ptd.LogitKL(), ptd.LogitCrossEntropy()], ids=repr)
def test_a_mono_t5_learns_by_each(loss, tiny_t5, results, qrels):
    rng = np.random.default_rng(0)
    labelled = results.assign(teacher_logits=list(rng.normal(size=(len(results), 2)).astype(np.float32)))
    student = ptd.MonoT5(tiny_t5, precision="fp32", device="cpu")
    settings = {"epochs": 15, "learning_rate": 3e-3, "dropout": 0.0, "precision": "fp32", "verbose": False}
    distiller = ptd.Distiller(student, loss, args={"logging_steps": 1}, **settings).fit(labelled, qrels)
    found = [entry["loss"] for entry in distiller.history if "loss" in entry]
    assert found[-1] < 0.8 * found[0]


def test_students_of_one_score_are_refused(tiny_cross):
    student = ptd.CrossEncoder(tiny_cross, device="cpu")
    for loss in (ptd.LogitKL(), ptd.LogitCrossEntropy()):
        with pytest.raises(ValueError, match="needs logits, which CrossEncoder does not give"):
            ptd.Distiller(student, loss)
