"""Every loss against its closed form in plain Python, and against an independent implementation."""

import math

import numpy as np
import pytest
import torch

import pyterrier_distill as ptd
from pyterrier_distill.losses import Outputs, functional

CASES = {
    "random": ([[0.3, -1.2, 2.0, 0.7]], [[1.0, 0.2, -0.5, 3.0]]),
    "ragged": ([[0.3, -1.2, 2.0], [0.1, 0.9], [5.0]], [[1.0, 0.2, -0.5], [2.0, 2.5], [1.0]]),
    "ties": ([[0.3, -1.2, 2.0], [0.5, 0.5, 0.5]], [[1.0, 1.0, -0.5], [2.0, 2.0, 2.0]]),
    "extreme": ([[80.0, -90.0, 0.0], [1e-6, -1e-6, 0.0]], [[100.0, -100.0, 0.0], [1e4, 0.0, -1e4]]),
}


def padded(lists, fill=math.nan):
    """Ragged lists as [B, N] with ``fill`` in the padding, and the mask."""
    width = max(map(len, lists))
    values = torch.tensor([row + [fill] * (width - len(row)) for row in lists], dtype=torch.float64).float()
    mask = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in lists])
    return values, mask


def log_softmax(row):
    top = max(row)
    total = math.log(sum(math.exp(x - top) for x in row)) + top
    return [x - total for x in row]


def mean(values):
    values = list(values)
    return sum(values) / len(values) if values else 0.0


def kl(s, t, T, own=None):
    log_t, log_s = log_softmax([x / T for x in t]), log_softmax([x / (own or T) for x in s])
    return sum(math.exp(a) * (a - b) for a, b in zip(log_t, log_s))


def each_alone(s, t):
    """−log of each positive's share against the list's other documents, positives left out."""
    rest = [s[j] for j in range(len(s)) if t[j] <= 0]
    return [-log_softmax([s[j], *rest])[0] for j in range(len(s)) if t[j] > 0]


CLOSED_FORMS = {
    "kl_divergence": (lambda S, T: mean(kl(s, t, 1.0) for s, t in zip(S, T)), {}),
    "kl_divergence T": (lambda S, T: mean(kl(s, t, 2.5) for s, t in zip(S, T)), {"temperature": 2.5}),
    "kl_divergence teacher T": (
        lambda S, T: mean(kl(s, t, 2.5, 1.0) for s, t in zip(S, T)),
        {"temperature": 2.5, "student_temperature": 1.0},
    ),
    "list_net": (
        lambda S, T: mean(-sum(math.exp(a) * b for a, b in zip(log_softmax(t), log_softmax(s))) for s, t in zip(S, T)),
        {},
    ),
    "mse": (lambda S, T: mean((a - b) ** 2 for s, t in zip(S, T) for a, b in zip(s, t)), {}),
    "margin_mse": (
        lambda S, T: mean(((s[0] - s[j]) - (t[0] - t[j])) ** 2 for s, t in zip(S, T) for j in range(1, len(s))),
        {"pairs": "first"},
    ),
    "margin_mse all": (
        lambda S, T: mean(
            ((s[i] - s[j]) - (t[i] - t[j])) ** 2
            for s, t in zip(S, T)
            for i in range(len(s))
            for j in range(len(s))
            if t[i] > t[j]
        ),
        {"pairs": "all"},
    ),
    "localized_contrastive": (
        lambda S, T: mean(-log_softmax(s)[j] for s, t in zip(S, T) for j in range(len(s)) if t[j] > 0),
        {},
    ),
    "localized_contrastive each alone": (
        lambda S, T: mean(x for s, t in zip(S, T) for x in each_alone(s, t)),
        {"positives": "each_alone"},
    ),
    "score_match": (lambda S, T: mean(abs(a - b) for s, t in zip(S, T) for a, b in zip(s, t)), {}),
}


def function_of(name):
    return getattr(functional, name.split()[0])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_closed_form_with_nan_in_the_padding(name, case):
    student, teacher = CASES[case]
    expected, settings = CLOSED_FORMS[name]
    function = function_of(name)
    s, mask = padded(student)
    t, _ = padded(teacher)
    value = float(function(s, t, mask, **settings))
    assert value == pytest.approx(expected(student, teacher), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_gradients_are_finite_and_zero_in_the_padding(name):
    student, teacher = CASES["ragged"]
    function = function_of(name)
    s, mask = padded(student)
    s.requires_grad_()
    function(s, padded(teacher)[0], mask, **CLOSED_FORMS[name][1]).backward()
    assert torch.isfinite(s.grad[mask]).all()
    assert (s.grad[~mask] == 0).all()


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_padded_equals_bare(name):
    student, teacher = CASES["random"]
    function, settings = function_of(name), CLOSED_FORMS[name][1]
    bare = function(torch.tensor(student), torch.tensor(teacher), **settings)
    s, mask = padded([*student, []])
    wide = [torch.nn.functional.pad(x, (0, 3), value=7.0) for x in (s, padded([*teacher, []])[0])]
    wide_mask = torch.nn.functional.pad(mask, (0, 3), value=False)
    assert float(function(*wide, wide_mask, **settings)) == pytest.approx(float(bare), abs=1e-6)


@pytest.mark.parametrize("name", sorted(set(CLOSED_FORMS) - {"margin_mse"}))
def test_document_order_does_not_matter(name):
    student, teacher = torch.randn(3, 6), torch.randn(3, 6).round()  # rounded: with ties
    function, settings = function_of(name), CLOSED_FORMS[name][1]
    order = torch.randperm(6)
    assert float(function(student, teacher, **settings)) == pytest.approx(
        float(function(student[:, order], teacher[:, order], **settings)), rel=1e-5, abs=1e-6
    )


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_half_precision_inputs_are_computed_in_float32(name):
    student, teacher = torch.randn(4, 5).bfloat16(), torch.randn(4, 5).bfloat16()
    function, settings = function_of(name), CLOSED_FORMS[name][1]
    value = function(student, teacher, **settings)
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(float(function(student.float(), teacher.float(), **settings)), rel=1e-6)


def test_lists_without_signal_give_zero_not_nan():
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    scores = torch.randn(2, 3)
    for name, (_, settings) in CLOSED_FORMS.items():
        function = function_of(name)
        assert float(function(scores, torch.zeros(2, 3), nothing, **settings)) == 0.0, name
    tied = torch.full((2, 3), 4.0)
    assert float(functional.margin_mse(scores, tied, pairs="all")) == 0.0
    assert float(functional.localized_contrastive(scores, torch.zeros(2, 3))) == 0.0
    one = torch.ones(2, 3, dtype=torch.bool)
    one[:, 1:] = False
    assert float(functional.kl_divergence(scores, tied, one)) == 0.0


def test_info_nce_closed_form_and_rows_without_a_positive():
    scores = torch.tensor([[1.0, 2.0, 0.5], [0.1, -0.4, 3.0], [9.0, 9.0, 9.0]])
    expected = mean([-log_softmax([x / 0.5 for x in row])[j] for row, j in zip(scores[:2].tolist(), (1, 0))])
    assert float(functional.info_nce(scores, torch.tensor([1, 0, -1]), 0.5)) == pytest.approx(expected, rel=1e-6)
    assert float(functional.info_nce(scores, torch.tensor([-1, -1, -1]))) == 0.0


def test_embedding_match_closed_forms():
    a, b = torch.randn(5, 7), torch.randn(5, 7)
    x, y = a.double().numpy(), b.double().numpy()
    expected = {
        "l2": np.linalg.norm(x - y, axis=1).mean(),
        "mse": ((x - y) ** 2).mean(),
        "cosine": (1 - (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)).mean(),
    }
    for distance, value in expected.items():
        assert float(functional.embedding_match(a, b, distance)) == pytest.approx(value, rel=1e-5)
    equal = a.clone().requires_grad_()
    functional.embedding_match(equal, a, "l2").backward()
    assert torch.isfinite(equal.grad).all()  # the norm has no slope at 0, and must not give NaN
    with pytest.raises(ValueError, match="projection"):
        functional.embedding_match(torch.randn(2, 3), torch.randn(2, 4))


# -- independent implementations --------------------------------------------------------------------------------------


class Stub(torch.nn.Module):
    """Gives stored tensors where sentence-transformers would run a model."""

    def __init__(self, scores=None, embeddings=None):
        super().__init__()
        self.scores, self.embeddings = scores, list(embeddings or [])
        self.device, self.model, self.num_labels = torch.device("cpu"), self, 1
        self.used = 0

    def preprocess(self, pairs, **_):
        return {"n": len(pairs)}

    def forward(self, features):
        if "n" in features:
            self.used += features["n"]
            return {"scores": self.scores[self.used - features["n"] : self.used].unsqueeze(-1)}
        return {"sentence_embedding": self.embeddings.pop(0)}


def test_kl_equals_sentence_transformers_without_its_squared_temperature():
    from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss

    queries, documents = torch.randn(3, 8), torch.randn(3, 4, 8)
    teacher = torch.randn(3, 4)
    student = torch.einsum("bd,bnd->bn", queries, documents)
    for temperature in (1.0, 2.0):
        theirs = DistillKLDivLoss(Stub(), temperature=temperature)
        value = theirs.compute_loss_from_embeddings([queries, *documents.unbind(1)], teacher)
        ours = functional.kl_divergence(student, teacher, temperature=temperature) * temperature**2
        assert float(ours) == pytest.approx(float(value), rel=1e-5, abs=1e-6)


def test_list_net_equals_sentence_transformers():
    from sentence_transformers.cross_encoder.losses import ListNetLoss

    student, teacher = CASES["ragged"]
    stub = Stub(scores=torch.tensor([x for row in student for x in row]))
    loss = ListNetLoss.__new__(ListNetLoss)
    torch.nn.Module.__init__(loss)
    loss.model, loss.mini_batch_size = stub, None
    loss.activation_fn, loss.cross_entropy_loss = torch.nn.Identity(), torch.nn.CrossEntropyLoss()
    value = loss(([f"q{i}" for i in range(3)], [["d"] * len(r) for r in student]), [torch.tensor(r) for r in teacher])
    s, mask = padded(student)
    assert float(functional.list_net(s, padded(teacher)[0], mask)) == pytest.approx(float(value), rel=1e-5)


def test_margin_mse_equals_sentence_transformers():
    from sentence_transformers.cross_encoder.losses import MarginMSELoss

    student, teacher = torch.randn(4, 3), torch.randn(4, 3)
    loss = MarginMSELoss.__new__(MarginMSELoss)
    torch.nn.Module.__init__(loss)
    loss.model, loss.loss_fct, loss.activation_fn = (
        Stub(scores=student.T.flatten()),
        torch.nn.MSELoss(),
        torch.nn.Identity(),
    )
    value = loss([["q"] * 4, ["p"] * 4, ["n"] * 4, ["n"] * 4], teacher)
    assert float(functional.margin_mse(student, teacher)) == pytest.approx(float(value), rel=1e-5)


def test_embedding_match_equals_sentence_transformers():
    from sentence_transformers.sentence_transformer.losses import EmbedDistillLoss

    student, teacher = torch.randn(4, 6), torch.randn(4, 6)
    for distance in ("l2", "mse", "cosine"):
        loss = EmbedDistillLoss(Stub(), distance_metric=distance)
        value = loss.compute_loss_from_embeddings([student], [teacher])
        assert float(functional.embedding_match(student, teacher, distance)) == pytest.approx(float(value), rel=1e-6)


def test_info_nce_class_equals_in_batch_ranking_loss():
    """Own list and all other documents, one positive each: sentence-transformers' MultipleNegativesRankingLoss."""
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    queries, documents = torch.randn(3, 8), torch.randn(6, 8)  # positives 0..2, hard negatives 3..5
    theirs = MultipleNegativesRankingLoss(Stub(), scale=20.0, similarity_fct=lambda a, b: a @ b.T)
    value = theirs.compute_loss_from_embeddings([queries, documents[:3], documents[3:]], None)
    index = torch.tensor([[0, 3], [4, 1], [5, 2]])  # the positive is not always first
    outputs = Outputs(mask=torch.ones(3, 2, dtype=torch.bool), batch_scores=queries @ documents.T, batch_index=index)
    labels = {"label": torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])}
    assert float(ptd.InfoNCE(temperature=0.05)(outputs, labels)) == pytest.approx(float(value), rel=1e-5)


def test_info_nce_leaves_other_positives_out_wherever_they_stand():
    # Query 0 has two relevant documents, 0 (label 2) and 1 (label 1); query 1 has none; one padded slot.
    scores = torch.tensor([[1.0, 5.0, 0.5, 0.2], [1.0, 1.0, 1.0, 1.0]])
    outputs = Outputs(
        mask=torch.tensor([[True, True, True], [True, True, False]]),
        batch_scores=scores,
        batch_index=torch.tensor([[0, 1, 2], [2, 3, 0]]),
    )
    labels = {"label": torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.0, 0.0]])}
    assert float(ptd.InfoNCE()(outputs, labels)) == pytest.approx(-log_softmax([1.0, 0.5, 0.2])[0], rel=1e-6)


# -- the algebra ------------------------------------------------------------------------------------------------------


def test_sums_share_one_forward_pass_and_print_themselves():
    loss = ptd.InfoNCE() + 1.0 * ptd.KLDivergence() + 3.0 * ptd.EmbeddingMatch(distance="mse")
    assert repr(loss) == "InfoNCE() + KLDivergence() + 3.0 * EmbeddingMatch(distance='mse')"
    assert eval(repr(loss), vars(ptd)) == loss and hash(eval(repr(loss), vars(ptd))) == hash(loss)
    assert loss.columns() == ("label", "teacher_score", "query_vec")
    assert repr(2 * (ptd.MSE() + 0.5 * ptd.ListNet())) == "2.0 * MSE() + ListNet()"
    assert ptd.MSE() != ptd.MSE(label="teacher_score_minilm")


def test_pythons_sum_adds_losses():
    assert sum([ptd.MSE(), ptd.ListNet()]) == ptd.MSE() + ptd.ListNet()
    with pytest.raises(ValueError, match="finite"):
        float("nan") * ptd.MSE()


def test_rows_that_do_not_count_have_no_gradient():
    scores = torch.full((2, 3), float("-inf"), requires_grad=False)
    scores[0] = torch.tensor([1.0, 2.0, 3.0])
    scores.requires_grad_()
    functional.info_nce(scores, torch.tensor([1, -1])).backward()
    assert torch.isfinite(scores.grad).all() and (scores.grad[1] == 0).all()


def test_a_sum_equals_the_weighted_sum_of_its_terms():
    outputs = Outputs(mask=torch.ones(2, 3, dtype=torch.bool), scores=torch.randn(2, 3))
    labels = {"teacher_score": torch.randn(2, 3), "label": torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])}
    a, b = ptd.KLDivergence(temperature=2.0), ptd.LocalizedContrastive()
    expected = float(a(outputs, labels)) + 3.0 * float(b(outputs, labels))
    assert float((a + 3.0 * b)(outputs, labels)) == pytest.approx(expected, rel=1e-6)
    assert float((2 * (a + 3.0 * b))(outputs, labels)) == pytest.approx(2 * expected, rel=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ptd.KLDivergence(temperature=0),
        lambda: ptd.KLDivergence(student_temperature=-1),
        lambda: ptd.KLDivergence(in_batch="yes"),
        lambda: ptd.KLDivergence(in_batch=True, label="teacher_score_minilm"),
        lambda: ptd.ListNet(label=("query_vec", "doc_vec")),
        lambda: ptd.LocalizedContrastive(positives="alone"),
        lambda: ptd.InfoNCE(own_negatives=None),
        lambda: ptd.LogitMSE(only="false"),
        lambda: ptd.LogitKL(temperature=0),
        lambda: ptd.InfoNCE(temperature=-1),
        lambda: ptd.MarginMSE(pairs="some"),
        lambda: ptd.EmbeddingMatch(on=("passage",)),
        lambda: ptd.EmbeddingMatch(distance="hamming"),
        lambda: ptd.EmbeddingMatch(on=("query", "document"), labels=("query_vec",)),
    ],
)
def test_impossible_settings_are_refused(make):
    with pytest.raises(ValueError):
        make()


def test_what_is_no_loss_does_not_add():
    with pytest.raises(TypeError):
        ptd.MSE() + 1
    with pytest.raises(TypeError):
        ptd.MSE() * "3"
    with pytest.raises(TypeError):
        ptd.MSE() * True


def test_hidden_states_match_in_closed_form():
    """Orthogonal unit states are sqrt(2) apart, opposite ones 2; lengths do not matter; layers add up."""
    student = torch.tensor([[[1.0, 0.0], [0.0, 5.0]], [[3.0, 0.0], [0.0, 1.0]]], requires_grad=True)  # [T=2, K=2, D=2]
    teacher = torch.tensor([[[0.0, 2.0], [0.0, 1.0]], [[-1.0, 0.0], [0.0, 9.0]]])
    loss = functional.hidden_state_match(student, teacher)
    assert loss.item() == pytest.approx((2**0.5 + 2) / 2)
    loss.backward()
    assert torch.isfinite(student.grad).all() and student.grad.abs().sum() > 0
    assert functional.hidden_state_match(student[:0], teacher[:0]).item() == 0
    with pytest.raises(ValueError, match="differ in shape"):
        functional.hidden_state_match(student, teacher[:, :1])


def test_hidden_state_match_chooses_layers():
    states = torch.randn(5, 3, 8)
    outputs = Outputs(mask=torch.ones(1, 1, dtype=torch.bool), query_states=states)
    for layers, chosen in (((1, 3), [0, 2]), ((-1,), [2]), ((2, -1), [1, 2])):
        assert ptd.HiddenStateMatch(layers)(outputs, {"query_states": states[:, chosen]}).item() == pytest.approx(0)
    with pytest.raises(ValueError, match="layers 1 to 3"):
        ptd.HiddenStateMatch((4,))(outputs, {"query_states": states[:, :1]})
    for wrong in ((), (0,), (1, 1), ("last",)):
        with pytest.raises(ValueError, match="layers must be different whole numbers"):
            ptd.HiddenStateMatch(wrong)
