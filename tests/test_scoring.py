"""The batching engine: each input once, by tokens, in the caller's order, whatever fits."""

import numpy as np
import pytest
import torch

from pyterrier_distill.engine import batching


class Model:
    """Counts what it is given; an input's score is the sum of its characters' codes."""

    def __init__(self, capacity: int | None = None, left: bool = False):
        self.capacity, self.left = capacity, left
        self.prepared: list[str] = []
        self.batches: list[tuple[int, int]] = []

    def prepare(self, texts):
        self.prepared += texts
        width = max(map(len, texts))
        rows = [[ord(c) for c in text] for text in texts]
        pads = [[0] * (width - len(row)) for row in rows]
        ids = torch.tensor([p + r if self.left else r + p for r, p in zip(rows, pads)])
        return {"input_ids": ids, "attention_mask": (ids > 0).long(), "modality": "text"}

    def forward(self, features):
        shape = tuple(features["input_ids"].shape)
        if self.capacity is not None and shape[0] > self.capacity:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        self.batches.append(shape)
        assert features["modality"] == "text"
        assert bool(features["attention_mask"].any(dim=0).all())  # no column of padding only
        return (features["input_ids"] * features["attention_mask"]).sum(dim=1).float()


def texts(n=50, seed=0):
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list("abcdef"), size=rng.integers(1, 30))) for _ in range(n)]


def run(model, inputs, **settings):
    steps = {"prepare": model.prepare, "forward": model.forward}
    return batching.run(inputs, **steps, device="cpu", precision="fp32", **settings)


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("budget", [1, 40, 100_000])
def test_order_and_values_do_not_depend_on_batches(budget, left):
    inputs = texts()
    scores = run(Model(left=left), inputs, token_budget=budget)
    assert scores.tolist() == [sum(map(ord, text)) for text in inputs]
    assert scores.dtype == np.float32


def test_identical_inputs_are_scored_once():
    inputs = texts(10) * 7
    model = Model()
    scores = run(model, inputs)
    assert sorted(model.prepared) == sorted(set(inputs))
    assert scores.tolist() == [sum(map(ord, text)) for text in inputs]


def test_batches_are_filled_by_tokens():
    model = Model()
    run(model, texts(200), token_budget=60)
    assert all(rows * width <= 60 or rows == 1 for rows, width in model.batches)
    assert len({rows for rows, _ in model.batches}) > 3  # many short inputs, few long ones
    cells = sum(rows * width for rows, width in model.batches)
    assert cells <= 1.1 * sum(map(len, set(texts(200))))  # hardly any padding


def test_batch_size_caps_rows():
    model = Model()
    run(model, texts(40), batch_size=3)
    assert max(rows for rows, _ in model.batches) == 3


def test_more_inputs_than_one_buffer(monkeypatch):
    monkeypatch.setattr(batching, "BUFFER", 16)
    inputs = texts(100)
    assert run(Model(), inputs).tolist() == [sum(map(ord, text)) for text in inputs]


def test_a_batch_that_does_not_fit_is_halved_until_it_does(caplog):
    model, inputs = Model(capacity=3), texts(40)
    assert run(model, inputs).tolist() == [sum(map(ord, text)) for text in inputs]
    assert max(rows for rows, _ in model.batches) <= 3
    assert "halves" in caplog.text


def test_one_input_that_does_not_fit_is_an_error():
    with pytest.raises(RuntimeError, match="allocate"):
        run(Model(capacity=0), ["abc"])


def test_other_errors_are_not_retried():
    model = Model()

    def broken(features):
        model.batches.append(())
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        batching.run(texts(20), prepare=model.prepare, forward=broken, device="cpu", precision="fp32")
    assert len(model.batches) == 1


def test_nothing_is_answered_without_the_model():
    model = Model()
    assert run(model, []).shape == (0,)
    assert not model.prepared and not model.batches


def test_tuples_are_inputs_too():
    model = Model()
    scores = batching.run(
        [("ab", "c"), ("a", "bc"), ("ab", "c")],
        prepare=lambda pairs: model.prepare(["|".join(pair) for pair in pairs]),
        forward=model.forward,
        device="cpu",
        precision="fp32",
    )
    assert len(model.prepared) == 2 and scores[0] == scores[2]


def test_vectors_come_back_as_rows():
    model = Model()
    vectors = batching.run(
        texts(9), prepare=model.prepare, forward=lambda f: model.forward(f)[:, None].expand(-1, 4), device="cpu"
    )
    assert vectors.shape == (9, 4)


def test_precision_auto_follows_the_hardware(monkeypatch):
    cpu = torch.device("cpu")
    for native, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(batching, "_native_bf16", lambda kind, native=native: native)
        assert batching.resolve_precision("auto", cpu) == expected
    assert batching.resolve_precision("fp16", cpu) == "fp16"
    with pytest.raises(ValueError, match="auto, fp32, bf16, fp16"):
        batching.resolve_precision("int8", cpu)
