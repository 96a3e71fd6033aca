"""Who has a model that was changed by whatever means says so, answers by it, and takes it along."""

import copy
import pickle
import shutil

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
import torch

import pyterrier_distill as ptd
from pyterrier_distill.engine import model_state
from pyterrier_distill.identity.identity import identity

FP32 = {"precision": "fp32", "device": "cpu"}


def noise(model):
    """As an optimiser of one's own writes."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.5 * torch.randn_like(parameter))


def behind_torch(model):
    """Round its counters."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
        parameter.data.numpy()[...] *= 1.5


def one_weight(model):
    list(model.parameters())[-1].data.view(-1)[0] += 3.0


def loaded(model):
    model.load_state_dict({name: tensor * 0.5 for name, tensor in model.state_dict().items()})


MEANS = [noise, behind_torch, one_weight, loaded]


def inner(one):
    """The torch module inside."""
    one = getattr(one, "ustad", one)
    return one.model


def answers(one, frame):
    return one(frame)["score"].to_numpy()


def same(one, other):
    """Equal but for where in memory numbers lie."""
    np.testing.assert_allclose(one, other, atol=1e-6)


KINDS = {
    "bi_encoder": lambda n: ptd.BiEncoder(n["tiny"], **FP32),
    "asymmetric": lambda n: ptd.BiEncoder(n["tiny"], doc_encoder=ptd.BiEncoder(n["tiny"], **FP32), **FP32),
    "cross": lambda n: ptd.CrossEncoder(n["cross"], **FP32),
    "mono": lambda n: ptd.MonoT5(n["t5"], **FP32),
    "late": lambda n: ptd.LateInteraction(n["tiny"], **FP32),
    "ustad": lambda n: ptd.USTAD(n["tiny"], **FP32),
    "ustad_bi": lambda n: ptd.USTAD(n["tiny"], **FP32).as_bi_encoder(),
}


@pytest.fixture
def names(tiny, tiny_cross, tiny_t5):
    return {"tiny": tiny, "cross": tiny_cross, "t5": tiny_t5}


@pytest.mark.parametrize(
    "kind, means", [*((kind, noise) for kind in KINDS), *(("bi_encoder", means) for means in MEANS[1:])]
)
def test_changed_weights_are_seen_and_carried(kind, means, names, results):
    one = KINDS[kind](names)
    before = (repr(one), identity(one), answers(one, results))
    assert (repr(one), identity(one)) == before[:2]  # ranking changes nothing
    original = {name: tensor.clone() for name, tensor in inner(one).state_dict().items()}
    means(inner(one))
    changed = answers(one, results)
    assert repr(one) != before[0] and identity(one) != before[1] and one != KINDS[kind](names)
    for twin in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        same(answers(twin, results), changed)
        assert repr(twin) == repr(one) and identity(twin) == identity(one)
        noise(inner(twin))
        assert repr(twin) != repr(one)
    inner(one).load_state_dict(original)  # undone, it is the checkpoint again
    assert (repr(one), identity(one)) == before[:2]
    same(answers(one, results), before[2])


SETTINGS = {
    "prompts": lambda m: m.prompts.update(query="red ", document="a b c "),
    "length": lambda m: setattr(m, "max_seq_length", 4),
    "pooling": lambda m: setattr(m[1], "pooling_mode", "cls"),
    "truncate_dim": lambda m: setattr(m, "truncate_dim", 8),
    "similarity": lambda m: setattr(m, "similarity_fn_name", "dot"),
    "another tokenizer limit": lambda m: setattr(m.tokenizer, "model_max_length", 6),
}


@pytest.mark.parametrize("change", SETTINGS)
def test_changed_settings_are_seen_and_carried(change, tiny, results, tmp_path):
    one = ptd.BiEncoder(tiny, **FP32)
    cached = ptd.LabelStore(tmp_path / "a").cache(one)
    before = (repr(one), identity(one), answers(cached, results))
    SETTINGS[change](one.model)
    assert repr(one) != before[0] and identity(one) != before[1]
    same(answers(cached, results), answers(one, results))
    for twin in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        same(answers(twin, results), answers(one, results))
        assert repr(twin) == repr(one)
    with pytest.raises(pt.inspect.InspectError, match="was changed"):
        pt.inspect.transformer_apply_attributes(one, layers=2)
    assert pt.inspect.transformer_apply_attributes(one, batch_size=2).model is one.model


def test_views_and_wrapped_students_follow_their_student(tiny, results):
    one = ptd.BiEncoder(tiny, **FP32)
    late = ptd.LateInteraction(tiny, **FP32)
    views = [
        one.query_encoder(), one.doc_encoder(), one.text_scorer(), ptd.PointwiseTeacher(one), one >> ptd.Fuse([one])
        if hasattr(ptd, "Fuse") else one % 3, late.query_encoder(), late.doc_encoder(), late.text_scorer(),
        ptd.Distiller(one, ptd.MSE()),
    ]  # fmt: skip
    one.model, late.model  # noqa: B018
    before = [(repr(view), identity(view)) for view in views]
    noise(one.model)
    noise(late.model)
    for view, (text, told) in zip(views, before):
        assert repr(view) != text and identity(view) != told
    queries = results[["qid", "query"]].drop_duplicates()
    carried = pickle.loads(pickle.dumps(views[0]))(queries)["query_vec"]
    same(np.stack(carried), np.stack(views[0](queries)["query_vec"]))


TEACHERS = {
    "cross": (lambda n: ptd.PointwiseTeacher(n["cross"], **FP32), lambda t: t._scorer.model),
    "monot5": (lambda n: ptd.PointwiseTeacher(n["t5"], **FP32), lambda t: t._scorer.backend.model),
    "duot5": (lambda n: ptd.PairwiseTeacher(n["t5"], **FP32), lambda t: t._comparer.backend.model),
    "classifier": (lambda n: ptd.PairwiseTeacher(n["cross"], kind="classifier", **FP32), lambda t: t._comparer.model),
    "list": (lambda n: ptd.ListwiseLLMTeacher(n["t5"], max_length=1024, **FP32), lambda t: t.llm.model),
    "backend": (lambda n: ptd.PointwiseTeacher(ptd.HF(n["t5"], **FP32)), lambda t: t.model.model),
}


@pytest.mark.parametrize("kind", TEACHERS)
def test_teachers_over_loaded_models(kind, names, results):
    make, model = TEACHERS[kind]
    teacher = make(names)
    teacher(results)
    before = (repr(teacher), identity(teacher))
    assert identity(make(names)) == before[1]
    noise(model(teacher))
    changed = answers(teacher, results)
    assert repr(teacher) != before[0] and identity(teacher) != before[1]
    for twin in (copy.deepcopy(teacher), pickle.loads(pickle.dumps(teacher))):
        same(answers(twin, results), changed)
        assert identity(twin) == identity(teacher) and repr(twin) == repr(teacher)


def test_a_replaced_model_is_another(tiny_t5):
    one, two = ptd.HF(tiny_t5, **FP32), ptd.HF(tiny_t5, **FP32)
    noise(two.model)
    one.replace_model(two.model)
    assert repr(one) == repr(two) != repr(ptd.HF(tiny_t5))
    assert one.choose(["red"], ["true", "false"]).tolist() == two.choose(["red"], ["true", "false"]).tolist()


def test_a_copied_student_is_not_what_its_source_becomes(tiny, results):
    source = ptd.BiEncoder(tiny, **FP32)
    one = ptd.BiEncoder(source, **FP32)
    expected, before = answers(one, results), (repr(one), identity(one))
    noise(source.model)
    assert identity(one)["name_or_path"] == before[1]["name_or_path"] and repr(source) not in repr(one)
    twin = pickle.loads(pickle.dumps(one))
    same(answers(one, results), expected)
    same(answers(twin, results), expected)
    later = ptd.BiEncoder(source, **FP32)
    assert repr(later) != before[0] and not np.array_equal(answers(later, results), expected)


def test_files_that_change_under_a_loaded_model(tiny, results, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny, tmp_path / "s")
    one = ptd.BiEncoder(tmp_path / "s", **FP32)
    expected = answers(one, results)
    weights = next((tmp_path / "s").rglob("*.safetensors"))
    save_file({n: t * 0.5 for n, t in load_file(weights).items()}, weights, metadata={"format": "pt"})
    other = ptd.BiEncoder(tmp_path / "s", **FP32)
    assert identity(other) != identity(one) and repr(one) != repr(other)
    same(answers(pickle.loads(pickle.dumps(one)), results), expected)


def test_nothing_is_loaded_to_tell_an_identity(names):
    for make in KINDS.values():
        one = make(names)
        repr(one), identity(one), pickle.dumps(one), one == one  # noqa: B015
        assert getattr(one, "ustad", one)._weights.model is None
    teacher = ptd.PointwiseTeacher(names["cross"])
    repr(teacher), identity(teacher)
    assert "_made" not in vars(teacher)


def test_all_weights_are_digested_only_when_they_have_changed(tiny, monkeypatch):
    from pyterrier_distill.engine import checkpoints

    digested = []
    whole = checkpoints.fingerprint
    monkeypatch.setattr(checkpoints, "fingerprint", lambda model: digested.append(1) or whole(model))
    one = ptd.BiEncoder(tiny, **FP32)
    one.model  # noqa: B018
    for _ in range(3):
        repr(one), identity(one)
    assert not digested
    noise(one.model)
    for _ in range(3):
        repr(one), identity(one)
    assert len(digested) == 1


@pytest.mark.parametrize("means", [noise, loaded])
def test_large_models_are_told_by_their_counters(means, tiny, monkeypatch):
    monkeypatch.setattr(model_state, "_WHOLE", 0)
    one = ptd.BiEncoder(tiny, **FP32)
    snapshot, before = one.snapshot(), repr(one)
    assert repr(one) == before
    means(one.model)
    assert repr(one) != before
    one.restore(snapshot)
    assert repr(one) == before


def test_a_checksum_sees_order_and_every_number():
    base = torch.arange(20_001, dtype=torch.float32)
    seen = {model_state.checksum(base)}
    for place in (0, 1, 4099, 9000, 20_000):
        other = base.clone()
        other[place] += 0.5
        seen.add(model_state.checksum(other))
    swapped = base.reshape(-1, 3).clone()
    swapped[[0, 6000]] = swapped[[6000, 0]]
    seen |= {
        model_state.checksum(base.neg()),
        model_state.checksum(base.flip(0)),
        model_state.checksum(swapped.view(-1)),
    }
    assert len(seen) == 9 and model_state.checksum(base.clone()) in seen
    for dtype in (torch.float16, torch.int64, torch.bool, torch.bfloat16):
        assert model_state.checksum(base.to(dtype)) == model_state.checksum(base.clone().to(dtype))


def test_training_and_undoing_it(tiny, results, tmp_path):
    one = ptd.CrossEncoder(tiny, **FP32)
    before, snapshot = repr(one), one.snapshot()
    distiller = ptd.Distiller(one, ptd.RankNet(), verbose=False, precision="fp32", learning_rate=1e-3)
    distiller.fit(results)
    trained = repr(one)
    noise(one.model)
    assert trained != before and repr(one) not in (before, trained)
    assert "were changed" in (one.save(tmp_path / "s").path / "README.md").read_text()
    one.restore(snapshot)
    assert repr(one) == before
    with pytest.raises(FloatingPointError):
        ptd.Distiller(one, ptd.RankNet(), verbose=False, precision="fp32", learning_rate=1e30, epochs=9).fit(results)
    assert repr(one) == before


# -- prompts ----------------------------------------------------------------------------------------------------------


def test_prompts_are_an_argument(tiny, results, tmp_path):
    prompts = {"query": "query ", "document": "passage "}
    one = ptd.BiEncoder(tiny, prompts=prompts, **FP32)
    written = results.assign(query="query " + results["query"], text="passage " + results["text"])
    expected = answers(ptd.BiEncoder(tiny, **FP32), written)
    np.testing.assert_allclose(answers(one, results), expected, atol=1e-6)
    assert "prompts=" in repr(one) and one != ptd.BiEncoder(tiny, **FP32) and eval(repr(one), vars(ptd)) == one
    assert identity(one) != identity(ptd.BiEncoder(tiny, **FP32))
    again = one.save(tmp_path / "s")
    np.testing.assert_allclose(answers(again, results), expected, atol=1e-6)
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tmp_path / "s"), device="cpu")
    vectors = [f(results[c].tolist()) for f, c in ((model.encode_query, "query"), (model.encode_document, "text"))]
    np.testing.assert_allclose((vectors[0] * vectors[1]).sum(axis=1), expected, atol=1e-5)
    none = ptd.BiEncoder(tmp_path / "s", prompts={"query": "", "document": ""}, **FP32)
    np.testing.assert_allclose(answers(none, results), answers(ptd.BiEncoder(tiny, **FP32), results), atol=1e-6)


def test_a_prompt_takes_the_place_of_the_checkpoints_whatever_its_name(tiny, results, tmp_path):
    source = ptd.BiEncoder(tiny, **FP32)
    source.model.prompts = {"query": "q ", "passage": "p "}
    source.save(tmp_path / "s")
    half = ptd.BiEncoder(tmp_path / "s", prompts={"document": ""}, **FP32)
    written = results.assign(query="q " + results["query"])
    np.testing.assert_allclose(answers(half, results), answers(ptd.BiEncoder(tiny, **FP32), written), atol=1e-6)
    both = ptd.BiEncoder(tiny, doc_encoder=ptd.BiEncoder(tmp_path / "s", **FP32), prompts={"query": "q "}, **FP32)
    twice = ptd.BiEncoder(both.save(tmp_path / "t").path, **FP32)
    np.testing.assert_allclose(
        answers(twice, results), answers(ptd.BiEncoder(tmp_path / "s", **FP32), results), atol=1e-6
    )


@pytest.mark.parametrize("prompts, error", [({"doc": "x"}, ValueError), ({"query": 1}, TypeError), ("q: ", TypeError)])
def test_bad_prompts(prompts, error, tiny):
    with pytest.raises(error, match="prompts"):
        ptd.BiEncoder(tiny, prompts=prompts)


def test_real_prompts_and_weights(minilm, tmp_path):
    frame = pd.DataFrame(
        [("q1", "red dog", "d1", "a red dog"), ("q1", "red dog", "d2", "bird")],
        columns=["qid", "query", "docno", "text"],
    )
    one = ptd.BiEncoder(minilm, **FP32)
    cached = ptd.LabelStore(tmp_path / "a").cache(one)
    np.testing.assert_allclose(cached(frame)["score"], [0.8827, 0.5114], atol=1e-4)
    one.model.prompts.update(query="query: ", document="passage: ")
    np.testing.assert_allclose(cached(frame)["score"], [0.6473, 0.2245], atol=1e-4)
    given = ptd.BiEncoder(minilm, prompts={"query": "query: ", "document": "passage: "}, **FP32)
    np.testing.assert_allclose(answers(given, frame), [0.6473, 0.2245], atol=1e-4)


def test_a_fingerprint_changes_with_settings_and_weights_and_not_with_the_place(tiny, tmp_path):
    student = ptd.BiEncoder(tiny, precision="fp32", device="cpu")
    first = student.fingerprint()
    assert len(first) == 16 and student._weights.model is None  # nothing was loaded for it
    shutil.copytree(tiny, tmp_path / "copy")
    assert ptd.BiEncoder(tmp_path / "copy", precision="fp32", device="cpu", batch_size=2).fingerprint() == first
    assert ptd.BiEncoder(tiny, pooling="cls", precision="fp32", device="cpu").fingerprint() != first
    with torch.no_grad():
        next(student.model.parameters()).mul_(2)
    assert student.fingerprint() != first
