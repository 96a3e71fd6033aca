"""Half precision while scoring: no ties by rounding, weights held and held anew, batches side by side."""

import threading

import numpy as np
import pandas as pd
import pytest
import torch
from learning import fitted
from torch.nn import functional as F

import pyterrier_distill as ptd
from pyterrier_distill.engine import batching, inference

WORDS = "cats dogs birds eat fish sleep run red green blue house tree river stone old young".split()


def texts(n, seed=0, most=12):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=rng.integers(2, most))) for _ in range(n)]


def pairs(n, seed=0, most=12):
    return list(zip(texts(n, seed, 5), texts(n, seed + 1, most)))


def both(make):
    """A model's answers in fp32 and in bf16."""
    return make("fp32"), make("bf16")


@pytest.fixture()
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


class TestNoTies:
    def check(self, exact, half, most):
        assert np.isfinite(half).all()
        assert abs(half - exact).max() <= most * max(1.0, exact.std())
        assert len(np.unique(half)) > 0.97 * len(np.unique(exact))
        # What bf16 rounds has 16 empty bits: fewer than one in a thousand scores would have them by chance.
        assert (half.view(np.uint32) & 0xFFFF != 0).mean() > 0.97

    def test_cross_encoder(self, minilm):
        asked = pairs(150)
        exact, half = both(lambda p: ptd.CrossEncoder(minilm, precision=p, device="cpu").scores(asked))
        self.check(exact, half, 0.05)

    def test_mono_t5(self, tiny_t5):
        asked = pairs(150)
        exact, half = both(lambda p: ptd.MonoT5(tiny_t5, precision=p, device="cpu").scores(asked))
        self.check(exact, half, 0.2)

    def test_causal_reranker(self, tiny_llm):
        asked = pairs(150)
        exact, half = both(lambda p: ptd.CausalReranker(tiny_llm, precision=p, device="cpu").scores(asked))
        self.check(exact, half, 0.2)

    def test_teacher(self, minilm, tmp_path):
        ptd.CrossEncoder(minilm, device="cpu").save(tmp_path / "teacher")
        frame = pd.DataFrame(pairs(100), columns=["query", "text"])
        frame = frame.assign(qid=[str(n) for n in range(len(frame))], docno=[f"d{n}" for n in range(len(frame))])
        column = lambda p: ptd.PointwiseTeacher(str(tmp_path / "teacher"), precision=p, device="cpu")(frame)  # noqa: E731
        exact, half = both(lambda p: column(p)["score"].to_numpy(np.float32))
        self.check(exact, half, 0.05)

    @pytest.mark.parametrize("mode", ["cross", "dual", "late"])
    def test_ustad(self, tiny, mode):
        asked = pairs(100)
        make = lambda p: ptd.USTAD(tiny, mode=mode, precision=p, device="cpu", query_length=16).scores(asked)  # noqa: E731
        exact, half = both(make)
        self.check(exact, half, 0.3)


def test_float32_is_what_it_was(tiny):
    student = ptd.CrossEncoder(tiny, precision="fp32", device="cpu")
    asked = pairs(6)
    features = student.features(sorted(asked, key=batching.characters, reverse=True))
    known = {}
    with torch.inference_mode():
        for positions, batch in batching.pack(features, 2048):
            known.update(zip(positions.tolist(), student.logits(batch)[:, 0].tolist()))
    ordered = sorted(range(6), key=lambda n: batching.characters(asked[n]), reverse=True)
    scores = student.scores(asked)
    assert [scores[n] for n in ordered] == [np.float32(known[place]) for place in range(6)]


def test_a_weight_is_held_once_and_anew_when_it_has_changed():
    weight = torch.nn.Parameter(torch.randn(64, 32))
    first = inference.hold(weight, torch.bfloat16)
    assert inference.hold(weight, torch.bfloat16) is first
    with torch.no_grad():
        weight.mul_(2)
    second = inference.hold(weight, torch.bfloat16)
    assert second is not first
    weight.data.mul_(2)  # which torch does not count
    third = inference.hold(weight, torch.bfloat16)
    assert third is not second
    weight.data = torch.randn(64, 32)
    assert inference.hold(weight, torch.bfloat16) is not third
    key = (id(weight), torch.bfloat16)
    del weight
    assert key not in inference._held


def test_training_changes_what_is_held(tiny):
    student = ptd.CrossEncoder(tiny, precision="bf16", device="cpu")
    frame = pd.DataFrame(pairs(12), columns=["query", "text"])
    frame = frame.assign(qid=[str(n // 4) for n in range(12)], docno=[f"d{n}" for n in range(12)])
    frame = frame.assign(query=[frame["query"][n // 4 * 4] for n in range(12)], teacher_rank=np.arange(12) % 4)
    asked = list(zip(frame["query"], frame["text"]))
    before = student.scores(asked)
    fitted(student, ptd.RankNet(), frame, epochs=3)
    exact = ptd.CrossEncoder(tiny, precision="fp32", device="cpu")
    exact.model.load_state_dict(student.model.state_dict())
    after, known = student.scores(asked), exact.scores(asked)
    assert abs(after - known).max() < 0.25 * abs(after - before).max()


def linear(rows=40, outputs=64):
    layer = torch.nn.Linear(32, outputs)
    return layer, torch.randn(rows // 10, 10, 32)


def test_a_layer_in_half_precision():
    layer, rows = linear()
    with torch.inference_mode(), inference.Half(torch.bfloat16) as half:
        made = half.reading(lambda features: layer(rows))({"attention_mask": torch.ones(4, 10)})
    known = F.linear(rows.bfloat16().float(), layer.weight.bfloat16().float(), layer.bias)
    assert made.dtype == torch.bfloat16
    assert torch.allclose(made.float(), known, rtol=0.01, atol=0.01)


def test_without_onednn(monkeypatch):
    monkeypatch.setattr(inference, "packs", lambda: False)
    test_a_layer_in_half_precision()


def test_one_row_an_input_is_exact():
    layer, rows = linear()
    with torch.inference_mode(), inference.Half(torch.bfloat16) as half:
        made = half.reading(lambda features: layer(rows[:, 0].bfloat16()))({"attention_mask": torch.ones(4, 10)})
    assert made.dtype == torch.float32
    assert torch.equal(made, layer(rows[:, 0].bfloat16().float()))


def test_an_activation_written_to_between_two_layers():
    layer, rows = linear()
    with torch.inference_mode(), inference.Half(torch.bfloat16):
        first = layer(rows)
        rows.mul_(3)
        second = layer(rows)
    assert abs(second.float() - first.float()).max() > 0.5


class TestSideBySide:
    def test_results_are_in_order_and_threads_as_before(self, two_threads):
        seen = set()

        def work(task):
            seen.add((threading.get_ident(), torch.get_num_threads()))
            return task**2

        found = list(inference.side_by_side(work, iter(range(50)), 2))
        assert found == [(n, n**2) for n in range(50)]
        assert {threads for _, threads in seen} == {1}
        assert torch.get_num_threads() == 2
        fresh = []
        thread = threading.Thread(target=lambda: fresh.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert fresh == [2]

    def test_an_error_comes_where_it_stands(self, two_threads):
        def work(task):
            if task == 3:
                raise ValueError("a bug")
            return task

        done = []
        with pytest.raises(ValueError, match="a bug"):
            for task, _ in inference.side_by_side(work, range(50), 2):
                done.append(task)
        assert done == [0, 1, 2]
        assert torch.get_num_threads() == 2

    def test_what_may_run_side_by_side(self, tiny, two_threads):
        model = ptd.CrossEncoder(tiny, device="cpu").model
        cpu = torch.device("cpu")
        assert inference.lanes(model, cpu, 100_000, 2048) == 2
        assert inference.lanes(model, cpu, 10_000, 2048) == 1  # two batches would not be full
        assert inference.lanes(None, cpu, 100_000, 2048) == 1
        model.add_module("own", type("Own", (torch.nn.Module,), {})())  # nobody knows what it keeps
        assert inference.lanes(model, cpu, 100_000, 2048) == 1

    def test_scores_are_those_of_one_batch_after_the_other(self, minilm, two_threads, monkeypatch):
        student = ptd.BiEncoder(minilm, precision="bf16", device="cpu")
        asked = texts(600, most=60)
        together = student.encode_docs(asked)
        monkeypatch.setattr(inference, "lanes", lambda *_: 1)
        assert abs(together - student.encode_docs(asked)).max() < 0.01
