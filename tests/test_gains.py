"""Losses with gains 2^label − 1: right at every label, not only where 2^label is a float32."""

from __future__ import annotations

import pytest
import torch

import pyterrier_distill as ptd
from pyterrier_distill.losses import Outputs, functional

LABELS = [3, 24, 30, 127, 128, 129, 1000, 10**6]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("label", LABELS)
def test_one_relevant_document_counts_the_same_at_every_label(label, dtype):
    student = torch.tensor([[1.0, 3.0, 2.0]], dtype=dtype, requires_grad=True)
    labels, mask = torch.tensor([[0.0, float("nan"), label]]), torch.tensor([[True, False, True]])
    found = {
        "ndcg": functional.approx_ndcg(student, labels, mask),
        "lambda": functional.lambda_loss(student, labels, mask),
    }
    assert found["ndcg"].item() == pytest.approx(0.153990, abs=1e-6)
    assert found["lambda"].item() == pytest.approx(1.834778, abs=1e-6)
    sum(found.values()).backward()
    assert torch.isfinite(student.grad).all() and student.grad[0, 2] < 0 < student.grad[0, 0]


def _exact(scores, labels, k=None):
    """The two losses by their definitions, in double precision and with Python's unbounded whole numbers."""
    from fractions import Fraction
    from math import exp, log2

    gains = [2**label - 1 for label in labels]
    n = len(scores)
    ideal = [Fraction(gain) / Fraction(log2(1 + r)) for r, gain in enumerate(sorted(gains, reverse=True), 1)]
    smooth = [1 + sum(1 / (1 + exp(scores[i] - scores[j])) for j in range(n) if j != i) for i in range(n)]
    found = sum(Fraction(gain) / Fraction(log2(1 + rank)) for gain, rank in zip(gains, smooth, strict=True))
    ndcg = 1 - float(found / sum(ideal))
    order = sorted(range(n), key=lambda i: -scores[i])
    rank = {i: r for r, i in enumerate(order, 1)}
    best, total, pairs = sum(ideal[:k]), 0.0, 0
    for i in range(n):
        for j in range(n):
            if labels[i] > labels[j] and (k is None or min(rank[i], rank[j]) <= k):
                apart = abs(rank[i] - rank[j])
                first = abs(1 / log2(1 + rank[i]) - 1 / log2(1 + rank[j]))
                second = 1 / log2(1 + apart) - 1 / log2(2 + apart)
                weight = float(Fraction(gains[i] - gains[j]) / best) * (first + 10 * second)
                total += weight * log2(1 + exp(scores[j] - scores[i]))
                pairs += 1
    return ndcg, total / pairs


@pytest.mark.parametrize("k", [None, 1, 2])
@pytest.mark.parametrize(
    "labels", [[0, 1, 2, 3], [0, 1, 5, 1000], [1000, 1001, 1002, 1003], [300, 0, 299, 1], [128, 127, 0, 128]]
)
def test_mixed_labels_equal_the_definition_in_whole_numbers(labels, k):
    scores = [3.0, 2.0, 1.0, 0.0]
    ndcg, pairwise = _exact(scores, labels, k)
    student, given = torch.tensor([scores]), torch.tensor([labels], dtype=torch.float32)
    assert functional.approx_ndcg(student, given).item() == pytest.approx(ndcg, rel=1e-5)
    assert functional.lambda_loss(student, given, k=k).item() == pytest.approx(pairwise, rel=1e-5)


def test_a_high_label_in_one_list_does_not_touch_another():
    scores, low, high = [3.0, 1.0, 2.0], [0, 1, 2], [0, 1, 900]
    for loss in (ptd.ApproxNDCG(), ptd.LambdaLoss(), ptd.LambdaLoss(k=2)):
        values = []
        for labels in ([low], [high], [low, high]):
            student = torch.tensor([scores] * len(labels))
            outputs = Outputs(mask=torch.ones_like(student, dtype=torch.bool), scores=student)
            values.append(loss(outputs, {"label": torch.tensor(labels, dtype=torch.float32)}).item())
        assert values[2] == pytest.approx((values[0] + values[1]) / 2, rel=1e-6)


def test_small_labels_give_the_bits_they_always_gave():
    torch.manual_seed(0)
    student, labels = torch.randn(16, 10), torch.randint(0, 5, (16, 10)).float()
    gains = 2**labels - 1
    ideal = (gains.sort(dim=-1, descending=True).values / torch.log2(torch.arange(2, 12))).sum(dim=-1)
    ahead = torch.sigmoid(student[:, None, :] - student[:, :, None])
    ranks = 1 + ahead.sum(dim=-1) - ahead.diagonal(dim1=1, dim2=2)
    expected = (1 - (gains / torch.log2(1 + ranks)).sum(dim=-1) / ideal).mean()
    assert functional.approx_ndcg(student, labels).item() == expected.item()
