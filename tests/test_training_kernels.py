"""Attention and dropout of our own, and micro-batches side by side: the same functions, learnt the same way."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

import pyterrier_distill as ptd
from pyterrier_distill.engine import batching, inference, micro_batches, training_kernels, training_lanes


def gradients(compute, parts):
    leaves = [part.clone().requires_grad_() for part in parts]
    result = compute(*leaves)
    (result.float() * torch.linspace(-1, 1, result.numel()).view(result.shape)).sum().backward()
    return [result.float().detach(), *(leaf.grad.float() for leaf in leaves)]


@pytest.mark.parametrize("mask", ["none", "bool", "float"])
def test_attention_is_torchs_in_float64_as_exactly_as_torchs_own(mask):
    torch.manual_seed(0)
    shared = 3 * torch.randn(1, 1, 1, 16)  # keys have much in common, as in real models
    sent = [torch.randn(3, 4, 20, 16) for _ in range(3)]
    exact = [part.bfloat16().double() for part in (sent[0], sent[1] + shared, sent[2])]
    hidden = torch.ones(3, 1, 1, 20, dtype=torch.bool)
    hidden[1, ..., 12:] = False
    given = {"none": None, "bool": hidden, "float": torch.zeros(3, 1, 20, 20).masked_fill(~hidden, float("-inf"))}[mask]
    in_double = given.double() if mask == "float" else given
    known = gradients(lambda *p: F.scaled_dot_product_attention(*p, attn_mask=in_double), exact)
    half = [part.bfloat16() for part in exact]
    in_half = given.bfloat16() if mask == "float" else given
    theirs = gradients(lambda *p: F.scaled_dot_product_attention(*p, attn_mask=in_half), half)
    with training_kernels.Kernels():
        ours = gradients(lambda *p: F.scaled_dot_product_attention(*p, attn_mask=in_half), half)
    for mine, other, right in zip(ours, theirs, known, strict=True):
        error = (mine - right).norm() / right.norm()
        assert error < 0.012 and error < 2 * (other - right).norm() / right.norm()


def test_attention_drops_out_probabilities_alike_in_both_passes():
    torch.manual_seed(0)
    parts = [torch.randn(2, 3, 8, 4).bfloat16() for _ in range(3)]
    keep = training_kernels.keeping((2, 3, 8, 8), 0.25, torch.bfloat16, np.random.default_rng(0))

    class Known(training_kernels.Kernels):
        def keeping(self, *_):
            return keep

    def written_out(query, key, value):
        probabilities = torch.softmax(query.float() @ key.float().transpose(-1, -2) / 2, dim=-1)
        return (probabilities * keep.float()) @ value.float()

    with Known():
        ours = gradients(lambda *p: F.scaled_dot_product_attention(*p, dropout_p=0.25), parts)
    for mine, right in zip(ours, gradients(written_out, parts), strict=True):
        assert (mine - right).norm() / right.norm() < 0.02


def test_what_is_not_of_this_kind_is_left_to_torch():
    """A causal pass, one without gradients, a mask that learns: bit for bit torch's."""
    torch.manual_seed(0)
    parts = [torch.randn(2, 3, 8, 4).bfloat16() for _ in range(3)]
    mask = torch.zeros(2, 1, 8, 8, dtype=torch.bfloat16)
    for learns, given in (
        (True, {"is_causal": True}),
        (False, {}),
        (True, {"attn_mask": mask.clone().requires_grad_()}),
    ):
        leaves = [part.clone().requires_grad_(learns) for part in parts]
        known = F.scaled_dot_product_attention(*leaves, **given)
        with training_kernels.Kernels():
            assert torch.equal(F.scaled_dot_product_attention(*leaves, **given), known)
    numbers = torch.randn(100)
    with training_kernels.Kernels():
        assert torch.equal(F.dropout(numbers, 0.3, training=False), numbers)
        assert torch.equal(F.dropout(numbers, 1.0), torch.zeros(100))


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean_and_drops_as_often_as_asked(probability):
    numbers = torch.ones(1000, 999)
    torch.manual_seed(3)
    with training_kernels.Kernels():
        found = F.dropout(numbers, probability)
        torch.manual_seed(3)
        assert torch.equal(F.dropout(numbers, probability), found) and not torch.equal(
            F.dropout(numbers, probability), found
        )
    dropped = (found == 0).float()
    assert abs(float(dropped.mean()) - probability) < 0.002 and abs(float(found.mean()) - 1) < 0.01
    neighbours = dropped[:, 1:] * dropped[:, :-1]
    assert abs(float(neighbours.mean()) - probability**2) < 0.003  # neither along a row nor
    assert abs(float((dropped[1:] * dropped[:-1]).mean()) - probability**2) < 0.003  # from one to the next


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


TEXTS = [("red dog", "a red dog and a blue house " * n) for n in range(1, 40)]


def steps(student, fast, dropout=0.0):
    """Scores and gradients of one pass, in bf16."""
    features, model = student.features(TEXTS), student.model
    model.zero_grad()
    model.train()
    torch.manual_seed(5)
    from pyterrier_distill.training.trainer import dropout as setting

    with torch.autocast("cpu", torch.bfloat16), setting(model, dropout):
        if fast:
            with training_kernels.Kernels():
                lanes = training_lanes.lanes(model, features, torch.device("cpu"))
                scores = micro_batches.run(features, student.logits, torch.device("cpu"), model=model)
        else:
            lanes = 1
            scores = micro_batches.run(features, student.logits, torch.device("cpu"))
    scores.square().mean().backward()
    model.eval()
    return lanes, scores.detach(), {name: weight.grad.clone() for name, weight in model.named_parameters()}


def test_lanes_compute_what_one_thread_does(tiny, two_threads):
    student = ptd.CrossEncoder(tiny, device="cpu")
    _, known, right = steps(student, fast=False)
    lanes, scores, found = steps(student, fast=True)
    assert lanes == 2
    assert torch.allclose(scores, known, atol=0.02 * float(known.abs().max()))
    whole = torch.sqrt(sum(g.square().sum() for g in right.values()))
    assert torch.sqrt(sum((found[n] - right[n]).square().sum() for n in right)) / whole < 0.03


def test_lanes_learn_the_same_every_time(tiny, two_threads):
    """However threads run, dropout too."""
    student = ptd.CrossEncoder(tiny, device="cpu")
    _, scores, found = steps(student, fast=True, dropout=0.2)
    for _ in range(4):
        _, again, other = steps(student, fast=True, dropout=0.2)
        assert torch.equal(scores, again) and all(torch.equal(found[name], other[name]) for name in found)


def test_lanes_are_for_models_that_threads_may_share(tiny, two_threads):
    model = ptd.CrossEncoder(tiny, device="cpu").model
    features = {"attention_mask": torch.ones(40, 50)}
    with training_kernels.Kernels():
        assert training_lanes.lanes(model, features, torch.device("cpu")) == 2
        assert training_lanes.lanes(model, {"attention_mask": torch.ones(2, 50)}, torch.device("cpu")) == 1
        model[0].auto_model.gradient_checkpointing_enable()
        assert training_lanes.lanes(model, features, torch.device("cpu")) == 1
        model[0].auto_model.gradient_checkpointing_disable()
        with torch.no_grad():
            assert training_lanes.lanes(model, features, torch.device("cpu")) == 1
    assert training_lanes.lanes(model, features, torch.device("cpu")) == 1  # float32


def lists(queries=6):
    rows = [
        (f"q{q}", f"red dog {q}", f"d{q}-{d}", f"a blue house {q} " * (3 + 7 * d), float(-d))
        for q in range(queries)
        for d in range(5)
    ]
    return pd.DataFrame(rows, columns=["qid", "query", "docno", "text", "list_score"]).assign(score=0.0, rank=0)


@pytest.mark.parametrize("settings", [{}, {"gradient_cache": True}, {"args": {"gradient_checkpointing": True}}])
def test_a_training_is_the_same_twice_and_near_float32s(tiny, two_threads, settings):
    """Also where activations are computed again in the backward pass, with the same dropout."""

    def trained(**more):
        student = ptd.CrossEncoder(tiny, device="cpu", precision="fp32")
        kept = {"steps": 4, "queries_per_batch": 3, "learning_rate": 1e-3, "verbose": False, "seed": 1}
        ptd.Distiller(student, ptd.RankNet("list_score"), **kept, **settings, **more).fit(lists())
        return student.model.state_dict()

    one, two = (trained(precision="bf16", dropout=0.1) for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    near, exact = trained(precision="bf16", dropout=0.0), trained(precision="fp32", dropout=0.0)
    start = ptd.CrossEncoder(tiny, device="cpu").model.state_dict()
    moved = sum(((exact[n] - start[n]).abs().sum() for n in exact if exact[n].is_floating_point()), torch.tensor(0.0))
    apart = sum(((exact[n] - near[n]).abs().sum() for n in exact if exact[n].is_floating_point()), torch.tensor(0.0))
    assert apart < 0.35 * moved  # Adam's first steps follow signs, also of gradients that are near 0


def test_a_stopped_training_goes_on_with_the_same_dropout(tiny, two_threads, tmp_path):
    def distiller(**more):
        student = ptd.CrossEncoder(tiny, device="cpu", precision="fp32")
        kept = {"queries_per_batch": 3, "precision": "bf16", "dropout": 0.3, "verbose": False, "save_every": 2}
        return student, ptd.Distiller(student, ptd.RankNet("list_score"), steps=6, **kept, **more)

    whole, training = distiller(checkpoints=tmp_path / "whole")
    training.fit(lists())
    student, training = distiller(checkpoints=tmp_path / "stopped")
    from pyterrier_distill.training import trainer

    taken = []

    class Stops(trainer.Progress):
        def on_step_end(self, args, state, control, **kwargs):
            taken.append(1)
            if len(taken) == 5:
                raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "Progress", Stops)
        with pytest.raises(KeyboardInterrupt):
            training.fit(lists())
    training.fit(lists())
    known, found = whole.model.state_dict(), student.model.state_dict()
    assert all(torch.equal(known[name], found[name]) for name in known)


def test_batches_of_a_lane_fit_its_cache():
    features = {"attention_mask": torch.ones(64, 40)}
    assert training_lanes.budget(features, 2) == batching.LANE_BUDGET
    assert training_lanes.budget({"attention_mask": torch.ones(10, 40)}, 2) == 200
    assert inference.side_by_side_lanes(torch.nn.Linear(2, 2)) == 1
