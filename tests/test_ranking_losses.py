"""Losses over orders, pairs, judgements and logits: closed forms in plain Python, and sentence-transformers' own."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from test_losses import CASES, Stub, mean, padded

import pyterrier_distill as ptd
from pyterrier_distill.losses import Outputs, functional

GRADED = {
    "random": ([[0.3, -1.2, 2.0, 0.7]], [[3.0, 0.0, 1.0, 2.0]]),
    "ragged": ([[0.3, -1.2, 2.0], [0.1, 0.9], [5.0]], [[1.0, 0.0, 2.0], [0.0, 1.0], [1.0]]),
    "ties": ([[0.3, -1.2, 2.0, 0.3], [0.5, 0.5, 0.5]], [[1.0, 1.0, 0.0, 0.0], [2.0, 2.0, 2.0]]),
    "extreme": ([[80.0, -90.0, 0.0], [1e-6, -1e-6, 0.0]], [[0.0, 3.0, 1.0], [1.0, 0.0, 0.0]]),
}


def sigma(x):
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def pairs(t):
    return [(i, j) for i in range(len(t)) for j in range(len(t)) if t[i] > t[j]]


def lse(values):
    top = max(values)
    return top + math.log(sum(math.exp(v - top) for v in values))


def ranknet(S, T):
    return mean(softplus(s[j] - s[i]) for s, t in zip(S, T) for i, j in pairs(t))


def list_mle(S, T):
    return mean(
        sum(lse([s[i], *(s[j] for j in range(len(s)) if t[j] < t[i])]) - s[i] for i in range(len(s)))
        for s, t in zip(S, T)
    )


def smooth(s, i, alpha):
    return 1 + sum(sigma(alpha * (s[j] - s[i])) for j in range(len(s)) if j != i)


def adr_mse(S, T, alpha=1.0, log=True):
    values = []
    for s, t in zip(S, T):
        for i in range(len(s)):
            rank = sum(x > t[i] for x in t) + (sum(x == t[i] for x in t) + 1) / 2
            values.append((rank - smooth(s, i, alpha)) ** 2 / (math.log2(1 + rank) if log else 1))
    return mean(values)


def dcg(gains):
    return sum(g / math.log2(n + 2) for n, g in enumerate(gains))


def lambda_loss(S, T, k=None, mu=10.0):
    values = []
    for s, t in zip(S, T):
        order = sorted(range(len(s)), key=lambda i: (-s[i], t[i]))
        place = {i: n + 1 for n, i in enumerate(order)}
        ideal = dcg(sorted((2**x - 1 for x in t), reverse=True)[:k])
        for i, j in pairs(t):
            if k is not None and min(place[i], place[j]) > k:
                continue
            gain = (2 ** t[i] - 2 ** t[j]) / max(ideal, 1e-10)
            rho = abs(1 / math.log2(1 + place[i]) - 1 / math.log2(1 + place[j]))
            apart = abs(place[i] - place[j])
            delta = abs(1 / math.log2(1 + apart) - 1 / math.log2(2 + apart))
            values.append(gain * (rho + mu * delta) * softplus(s[j] - s[i]) / math.log(2))
    return mean(values)


def approx_ndcg(S, T, alpha=1.0, k=None):
    values = []
    for s, t in zip(S, T):
        if len(set(t)) > 1:
            found = sum((2 ** t[i] - 1) / math.log2(1 + smooth(s, i, alpha)) for i in range(len(s)))
            values.append(1 - found / dcg(sorted((2**x - 1 for x in t), reverse=True)[:k]))
    return mean(values)


def bce(S, T):
    return mean(softplus(x) - min(max(y, 0), 1) * x for s, t in zip(S, T) for x, y in zip(s, t))


ORDER = {
    "ranknet": (functional.ranknet, ranknet, {}),
    "list_mle": (functional.list_mle, list_mle, {}),
    "adr_mse": (functional.adr_mse, adr_mse, {}),
    "adr_mse alpha": (functional.adr_mse, lambda S, T: adr_mse(S, T, 3.0), {"alpha": 3.0}),
    "adr_mse flat": (functional.adr_mse, lambda S, T: adr_mse(S, T, log=False), {"discount": None}),
}
JUDGED = {
    "lambda": (functional.lambda_loss, lambda_loss, {}),
    "lambda k": (functional.lambda_loss, lambda S, T: lambda_loss(S, T, 2), {"k": 2}),
    "lambda mu": (functional.lambda_loss, lambda S, T: lambda_loss(S, T, mu=0.5), {"mu": 0.5}),
    "approx": (functional.approx_ndcg, approx_ndcg, {}),
    "approx alpha": (functional.approx_ndcg, lambda S, T: approx_ndcg(S, T, 4.0), {"alpha": 4.0}),
    "bce": (functional.binary_cross_entropy, bce, {}),
}
ALL = {**ORDER, **JUDGED}


@pytest.mark.parametrize("case", GRADED)
@pytest.mark.parametrize("name", ALL)
def test_closed_form_with_nan_in_the_padding(name, case):
    function, expected, settings = ALL[name]
    sets = [GRADED[case]] + ([CASES[case]] if name in ORDER else [])
    for student, labels in sets:
        s, mask = padded(student)
        value = float(function(s, padded(labels)[0], mask, **settings))
        assert value == pytest.approx(expected(student, labels), rel=2e-5, abs=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_padding_gradients_order_and_half_precision(name):
    function, _, settings = ALL[name]
    student, labels = GRADED["ragged"]
    s, mask = padded(student)
    s.requires_grad_()
    t = padded(labels)[0]
    value = function(s, t, mask, **settings)
    value.backward()
    assert torch.isfinite(s.grad[mask]).all() and (s.grad[~mask] == 0).all()
    wide = [torch.nn.functional.pad(x.detach(), (0, 3), value=9.0) for x in (s, t)]
    wide_mask = torch.nn.functional.pad(mask, (0, 3), value=False)
    assert float(function(*wide, wide_mask, **settings)) == pytest.approx(float(value.detach()), abs=1e-6)
    torch.manual_seed(0)
    scores, grades = torch.randn(3, 6).round(decimals=0), torch.randint(0, 3, (3, 6)).float()  # with ties on both sides
    order = torch.randperm(6)
    shuffled = float(function(scores[:, order], grades[:, order], **settings))
    assert float(function(scores, grades, **settings)) == pytest.approx(shuffled, rel=1e-5, abs=1e-6)
    half = function(scores.bfloat16(), grades.bfloat16(), **settings)
    assert half.dtype == torch.float32 and float(half) == pytest.approx(float(function(scores, grades, **settings)))


@pytest.mark.parametrize("name", ALL)
def test_nothing_to_learn_gives_zero(name):
    function, _, settings = ALL[name]
    scores = torch.randn(2, 3)
    assert float(function(scores, torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.bool), **settings)) == 0.0
    if name != "bce":
        tied = torch.zeros(2, 3) if name.startswith("adr") else scores
        for label in (0.0, 2.0):
            assert float(function(tied, torch.full((2, 3), label), **settings)) == pytest.approx(0.0, abs=1e-6)
        one = torch.tensor([[True, False, False]] * 2)
        assert float(function(scores, torch.ones(2, 3), one, **settings)) == pytest.approx(0.0, abs=1e-6)


def test_a_perfect_student_of_an_order_has_nearly_no_loss():
    teacher = torch.tensor([[3.0, 1.0, 2.0, 0.0]])
    for function in (functional.ranknet, functional.list_mle, functional.adr_mse, functional.lambda_loss):
        assert float(function(40 * teacher, teacher)) < 1e-4 < float(function(-teacher, teacher))


def test_pairwise_kl_in_closed_form():
    student = torch.tensor([[1.0, -0.5, 2.0], [0.0, 0.3, 9.0]], requires_grad=True)
    index = torch.tensor([[0, 0, 1], [0, 2, 0], [1, 1, 0], [1, 0, 1]])
    probs = [0.9, 0.25, 1.0, 0.0]
    expected = 0.0
    for (b, i, j), p in zip(index.tolist(), probs):
        q = sigma(float((student[b, i] - student[b, j]).detach()))
        expected += sum(x * math.log(x / y) for x, y in ((p, q), (1 - p, 1 - q)) if x > 0)
    value = functional.pairwise_kl(student, index, torch.tensor(probs))
    assert float(value.detach()) == pytest.approx(expected / 4, rel=1e-5)
    value.backward()
    assert student.grad[1, 2] == 0 and torch.isfinite(student.grad).all()
    assert float(functional.pairwise_kl(student.detach(), torch.zeros(0, 3), torch.zeros(0))) == 0.0
    sure = functional.pairwise_kl(
        torch.tensor([[500.0, -500.0]]), torch.tensor([[0, 0, 1], [0, 1, 0]]), torch.tensor([1.0, 0.5])
    )
    assert torch.isfinite(sure.detach())
    with pytest.raises(ValueError, match="index must be"):
        functional.pairwise_kl(student, torch.zeros(2, 2), torch.zeros(2))


@pytest.mark.parametrize("loss", [ptd.RankNet, ptd.PairwiseKL, ptd.LocalizedContrastive])
def test_temperatures_divide_the_students_scores(loss):
    cosines = torch.tensor([[0.9, 0.7, 0.1], [0.2, 0.4, -0.3]])
    mask = torch.ones(2, 3, dtype=torch.bool)
    labels = {
        "teacher_rank": torch.tensor([[0.0, 2.0, 1.0], [1.0, 0.0, 2.0]]),
        "teacher_prefs": torch.tensor([[0.0, 0.0, 1.0, 0.9], [1.0, 2.0, 0.0, 0.3]]),
        "label": torch.tensor([[0, 1, 0], [1, 0, 0]]),
    }
    outputs = [Outputs(scores=scores, mask=mask) for scores in (cosines, cosines / 0.05)]
    assert torch.equal(loss(temperature=0.05)(outputs[0], labels), loss()(outputs[1], labels))
    assert repr(loss(temperature=0.05)) == f"{loss.__name__}(temperature=0.05)" and repr(loss()) == f"{loss.__name__}()"
    with pytest.raises(ValueError, match="temperature must be positive"):
        loss(temperature=0)


def test_pairwise_kl_at_the_teachers_logit_is_zero():
    student = torch.tensor([[1.5, 0.0]])
    p = torch.sigmoid(torch.tensor([1.5]))
    assert float(functional.pairwise_kl(student, torch.tensor([[0, 0, 1]]), p)) == pytest.approx(0.0, abs=1e-6)


def test_logit_mse_in_closed_form():
    student = torch.tensor([[0.5, 1.0], [-1.0, 2.0]])
    teacher = torch.tensor([[-3.0, 5.0], [10.0, 12.0]])
    expected = mean([(0.5 + 4) ** 2 + (1.0 - 4) ** 2, (-1.0 + 1) ** 2 + (2.0 - 1) ** 2])
    assert float(functional.logit_mse(student, teacher)) == pytest.approx(expected)
    assert float(functional.logit_mse(student, teacher + 100)) == pytest.approx(expected, rel=1e-4)
    assert float(functional.logit_mse(student[:0], teacher[:0])) == 0.0
    with pytest.raises(ValueError, match="logits must be"):
        functional.logit_mse(student[:, 0], teacher[:, 0])


# -- independent implementations --------------------------------------------------------------------------------------


def theirs(name, student, labels, **attributes):
    """A sentence-transformers cross-encoder loss over given scores."""
    from sentence_transformers.cross_encoder import losses

    kind = getattr(losses, name)
    loss = kind.__new__(kind)
    torch.nn.Module.__init__(loss)
    loss.model, loss.mini_batch_size = Stub(scores=torch.tensor([x for row in student for x in row])), -1
    loss.activation_fn = torch.nn.Identity()
    for attribute, value in attributes.items():
        setattr(loss, attribute, value)
    inputs = ([f"q{i}" for i in range(len(student))], [["d"] * len(row) for row in student])
    return float(loss(inputs, [torch.tensor(row) for row in labels]))


@pytest.mark.parametrize("case", ["random", "ragged", "extreme"])
def test_equal_to_sentence_transformers(case):
    from sentence_transformers.cross_encoder.losses.lambda_loss import NDCGLoss2PPScheme, NoWeightingScheme

    student, labels = GRADED[case]
    s, mask = padded(student)
    t = padded(labels)[0]
    weights = {
        "sigma": 1.0,
        "eps": 1e-10,
        "reduction_log": "natural",
        "k": None,
        "weighting_scheme": NoWeightingScheme(),
    }
    assert float(functional.ranknet(s, t, mask)) == pytest.approx(
        theirs("RankNetLoss", student, labels, **weights), rel=1e-5
    )
    for k in (None, 2):
        plus = {**weights, "reduction_log": "binary", "k": k, "weighting_scheme": NDCGLoss2PPScheme()}
        value = theirs("LambdaLoss", student, labels, **plus)
        assert float(functional.lambda_loss(s, t, mask, k=k)) == pytest.approx(value, rel=1e-4, abs=1e-6)
    assert float(functional.adr_mse(s, t, mask)) == pytest.approx(
        theirs("ADRMSELoss", student, labels, alpha=1.0), rel=1e-5
    )


def test_list_mle_equals_sentence_transformers_where_nothing_is_tied():
    torch.manual_seed(1)
    student, labels = torch.randn(3, 5).tolist(), torch.randn(3, 5).tolist()
    value = theirs("ListMLELoss", student, labels, lambda_weight=None, respect_input_order=False, eps=1e-10)
    assert float(functional.list_mle(torch.tensor(student), torch.tensor(labels))) == pytest.approx(value, rel=1e-5)


def test_binary_cross_entropy_equals_sentence_transformers():
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss

    student, labels = torch.randn(6), torch.tensor([1.0, 0.0, 1.0, 0.0, 0.3, 1.0])
    loss = BinaryCrossEntropyLoss.__new__(BinaryCrossEntropyLoss)
    torch.nn.Module.__init__(loss)
    loss.model, loss.activation_fn = Stub(scores=student), torch.nn.Identity()
    loss.bce_with_logits_loss = torch.nn.BCEWithLogitsLoss()
    value = float(loss([["q"] * 6, ["d"] * 6], labels))
    ours = functional.binary_cross_entropy(student.reshape(2, 3), labels.reshape(2, 3))
    assert float(ours) == pytest.approx(value, rel=1e-6)


# -- classes and columns ----------------------------------------------------------------------------------------------


def outputs(scores, **more):
    return Outputs(mask=torch.ones(scores.shape[:2], dtype=torch.bool), scores=scores, **more)


def test_orders_come_from_ranks_or_scores():
    scores, order = torch.tensor([[1.0, 0.2, -0.3]]), torch.tensor([[2.0, 0.0, 1.0]])
    for loss in (ptd.RankNet(), ptd.ListMLE(), ptd.ADRMSE()):
        by_rank = loss(outputs(scores), {"teacher_rank": order})
        chosen = loss.reading(["qid", "teacher_score"])
        assert chosen.columns() == ("teacher_score",) and loss.columns() == ("teacher_rank",)
        assert torch.equal(chosen(outputs(scores), {"teacher_score": -order}), by_rank)
        assert loss.reading(["teacher_rank", "teacher_score"]) is loss
    mixed = (ptd.RankNet() + 2.0 * ptd.ADRMSE(alpha=2.0)).reading(["teacher_score"])
    assert repr(mixed) == "RankNet(label='teacher_score') + 2.0 * ADRMSE(alpha=2.0, label='teacher_score')"
    assert ptd.RankNet(label="teacher_rank_zephyr").order({"teacher_rank_zephyr": order}).tolist() == (-order).tolist()


def test_classes_are_their_functions():
    scores, grades = torch.randn(2, 4), torch.tensor([[0.0, 1, 2, 0], [1, 0, 0, 3]])
    for loss, value in (
        (ptd.losses.LambdaLoss(k=2), functional.lambda_loss(scores, grades, k=2)),
        (ptd.losses.ApproxNDCG(alpha=3.0), functional.approx_ndcg(scores, grades, alpha=3.0)),
        (ptd.BinaryCrossEntropy(), functional.binary_cross_entropy(scores, grades)),
    ):
        assert torch.equal(loss(outputs(scores), {"label": grades}), value)
    logits, teacher = torch.randn(2, 4, 2), torch.randn(2, 4, 2)
    value = ptd.LogitMSE()(Outputs(mask=torch.ones(2, 4, dtype=torch.bool), logits=logits), {"teacher_logits": teacher})
    assert torch.equal(value, functional.logit_mse(logits.reshape(-1, 2), teacher.reshape(-1, 2)))
    for make in (lambda: ptd.ADRMSE(alpha=0), lambda: ptd.ADRMSE(discount="log"), lambda: ptd.losses.LambdaLoss(k=0)):
        with pytest.raises(ValueError):
            make()


@pytest.fixture
def preferring(results):
    """``results`` with preferences of each document over the next one, and over one that is not in the list."""
    cells = []
    for _, rows in results.groupby("qid", sort=False):
        docnos = rows["docno"].tolist()
        cells += [{b: 0.9, "elsewhere": 0.1} for b in docnos[1:]] + [{}]
    return results.assign(teacher_prefs=cells, teacher_rank=results["rank"])


@pytest.mark.parametrize(
    "loss", [ptd.PairwiseKL(), ptd.RankNet(), ptd.KLDivergence() + 3.0 * ptd.PairwiseKL(), ptd.ADRMSE()]
)
def test_a_student_learns_them(loss, tiny, preferring):
    student = ptd.BiEncoder(tiny, precision="fp32", device="cpu")
    settings = {"precision": "fp32", "verbose": False, "learning_rate": 1e-3, "epochs": 30, "queries_per_batch": 4}
    distiller = ptd.Distiller(student, loss, **settings).fit(preferring)
    history = [entry["loss"] for entry in distiller.history if "loss" in entry]
    assert history[-1] < history[0] and distiller.loss == loss


def test_pairs_keep_their_places_in_batches(tiny, preferring):
    """The Distiller's batch gives the loss of the pairs looked up one by one."""
    from pyterrier_distill.training.lists import Collator
    from pyterrier_distill.training.reading import Reader

    student, loss = ptd.BiEncoder(tiny, precision="fp32", device="cpu"), ptd.PairwiseKL()
    shuffled = preferring.sample(frac=1, random_state=1)
    lists = Reader(student, loss, None, None, None).read(shuffled)
    batch = Collator(student, loss)(lists)
    scores = student.forward(batch["batch"], batch["mask"], loss.needs).scores.detach()
    values = []
    for row, (_, rows) in enumerate(shuffled.groupby("qid", sort=False)):
        place = {docno: n for n, docno in enumerate(rows["docno"])}
        for docno, cell in zip(rows["docno"], rows["teacher_prefs"]):
            for other, p in cell.items():
                if other in place:
                    q = sigma(float(scores[row, place[docno]] - scores[row, place[other]]))
                    values.append(p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    out = loss(Outputs(mask=batch["mask"], scores=scores), batch["labels"])
    assert len(values) > 10 and float(out) == pytest.approx(np.mean(values), rel=1e-4)


def test_labels_that_cannot_teach(tiny, preferring):
    student = ptd.BiEncoder(tiny, precision="fp32", device="cpu")
    for change, message in (
        ({"teacher_prefs": [{"x": 0.5}] * len(preferring)}, "about two documents of one list"),
        ({"teacher_prefs": [{"x": 1.5}] * len(preferring)}, r"in \[0, 1\]"),
        ({"teacher_prefs": 0.5}, "must hold a dict"),
    ):
        with pytest.raises(ValueError, match=message):
            ptd.Distiller(student, ptd.PairwiseKL(), verbose=False).fit(preferring.assign(**change))
    bare = preferring.drop(columns=["teacher_rank", "teacher_score"])
    with pytest.raises(ptd.MissingLabelError, match="teacher_rank.*ListwiseLLMTeacher"):
        ptd.Distiller(student, ptd.RankNet(), verbose=False).fit(bare)
    with pytest.raises(ValueError, match="needs logits, which BiEncoder does not give"):
        ptd.Distiller(student, ptd.LogitMSE())


def test_preferences_come_through_a_store(tiny, preferring, tmp_path):
    pytest.importorskip("pyarrow")
    store = ptd.LabelStore.from_frame(tmp_path / "labels", preferring, with_text=True)
    students = []
    for data in (preferring, store):
        student = ptd.BiEncoder(tiny, precision="fp32", device="cpu")
        settings = {"precision": "fp32", "verbose": False, "learning_rate": 1e-3, "epochs": 4, "queries_per_batch": 8}
        ptd.Distiller(student, ptd.RankNet() + ptd.PairwiseKL(), dropout=0.0, **settings).fit(data)
        students.append(student.encode_queries(pd.Series(["red dog"])))
    np.testing.assert_allclose(*students, atol=1e-5)
