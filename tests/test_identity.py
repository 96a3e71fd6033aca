"""What decides a teacher's answers: content and not paths, what is declared and not attributes, weights as they are."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from labelling import Candidates, Lister, Scorer, pipeline, topics

import pyterrier_distill as ptd
from pyterrier_distill.backends.base import Backend
from pyterrier_distill.identity.identity import as_stored, difference, digest, identity

FP32 = {"precision": "fp32"}


def one(a, b):
    return difference(identity(a), identity(b)) is None and digest(identity(a)) == digest(identity(b))


# -- content, not paths -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda name: ptd.PointwiseTeacher(name, **FP32),
        lambda name: ptd.PairwiseTeacher(name, kind="classifier"),
        lambda name: ptd.ListwiseLLMTeacher(ptd.HF(name)),
        lambda name: ptd.ListwiseLLMTeacher(ptd.VLLM(str(name))),
        lambda name: ptd.CrossEncoder(name),
        lambda name: ptd.BiEncoder(name, doc_encoder=name).query_encoder(),
        lambda name: ptd.LateInteraction(name).doc_encoder(),
        lambda name: ptd.USTAD(name).as_bi_encoder(),
    ],
)
def test_a_checkpoint_is_known_by_its_content(make, tiny_cross, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_cross, "here")
    os.symlink("here", "link")
    before = identity(make("here"))
    shutil.copytree("here", "there")
    for name in (str(tmp_path / "there"), "./there", "there/", tmp_path / "here", "link"):
        assert identity(make(name)) == before
    (tmp_path / "there" / "README.md").write_text("for people")
    (tmp_path / "there" / ".cache").mkdir()
    (tmp_path / "there" / ".cache" / "etag").write_text("for tools")
    assert identity(make("there")) == before
    config = json.loads((tmp_path / "there" / "config.json").read_text())
    (tmp_path / "there" / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-3}))
    assert identity(make("there")) != before


def test_moved_models_are_neither_asked_again_nor_refused(tiny_cross, tmp_path, results):
    shutil.copytree(tiny_cross, tmp_path / "old")
    queries = results[["qid", "query"]].drop_duplicates()
    candidates = pt.apply.generic(lambda q: results[results["qid"].isin(q["qid"])], required_columns=["qid"])
    teacher = ptd.PointwiseTeacher(tmp_path / "old", **FP32)
    expected = ptd.LabelStore(tmp_path / "answers").cache(teacher)(results)
    ptd.LabelStore(tmp_path / "labels").build(candidates >> teacher, queries, verbose=False)
    (tmp_path / "old").rename(tmp_path / "new")
    moved = ptd.PointwiseTeacher(tmp_path / "new", **FP32)
    again = ptd.LabelStore(tmp_path / "answers").cache(moved)
    pd.testing.assert_frame_equal(again(results), expected)
    ptd.LabelStore(tmp_path / "labels").build(candidates >> moved, queries, verbose=False)
    assert moved.usage.calls == 0


def test_a_run_is_known_by_what_was_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.run").write_text("q1 Q0 d1 0 2.0 x\nq1 Q0 d2 1 1.0 x\n")
    shutil.copy("a.run", "b.run")
    first = ptd.RunTeacher("a.run")
    before = identity(first)
    assert one(first, ptd.RunTeacher(tmp_path / "b.run")) and not one(first, ptd.RunTeacher("b.run", by="score"))
    (tmp_path / "a.run").write_text("q1 Q0 d2 0 2.0 x\nq1 Q0 d1 1 1.0 x\n")
    assert identity(first) == before != identity(ptd.RunTeacher("a.run"))  # it answers as it was read


def test_what_stands_for_another_is_known_as_that_one(tiny, tmp_path):
    teacher, student = Scorer(), ptd.BiEncoder(tiny)
    for path in (tmp_path / "a", tmp_path / "b"):
        assert one(ptd.LabelStore(path).cache(teacher), teacher)
        assert one(Candidates() >> ptd.LabelStore(path).cache(teacher), Candidates() >> teacher)
    assert one(ptd.Distiller(student, ptd.MSE(), learning_rate=1.0), student)
    assert one(ptd.Distiller(student, ptd.MSE(), epochs=3), ptd.Distiller(student, ptd.RankNet()))


# -- what earlier versions wrote --------------------------------------------------------------------------------------


def in_old_words(told, name):
    """An identity as it was written before: classes by module, checkpoints by path, too, backends by attributes."""
    if isinstance(told, list):
        return [in_old_words(part, name) for part in told]
    if not isinstance(told, dict):
        return told
    if set(told) == {"content"}:
        return {"path": name, "content": told.said[0]["content"] if hasattr(told, "said") else told["content"]}
    old = {key: in_old_words(part, name) for key, part in told.items()}
    if old.get("class", "").startswith("pyterrier_distill."):
        old["class"] = old["class"].replace("pyterrier_distill.", "pyterrier_distill.some.module.")
    return old


@pytest.mark.parametrize(
    "make, more, changed",
    [
        (lambda name: ptd.PointwiseTeacher(name), {}, lambda name: ptd.PointwiseTeacher(name, label="teacher_score_b")),
        (
            lambda name: ptd.PointwiseTeacher(ptd.OpenAI("m", base_url="http://h/v1", timeout=5, extra={"seed": 1})),
            {
                "timeout": 120.0, "retries": 5, "concurrency": 3, "base_url": "http://me:secret@h/v1",
                "extra": {"seed": 1, "extra_headers": {"Authorization": "Bearer 1"}},
            },
            lambda name: ptd.PointwiseTeacher(ptd.OpenAI("m", base_url="http://h/v1", extra={"seed": 2})),
        ),
        (
            lambda name: ptd.PointwiseTeacher(ptd.VLLM(name, options={"quantization": "awq"})),
            {"options": {"quantization": "awq", "tensor_parallel_size": 4, "hf_token": "t", "swap_space": 2}},
            lambda name: ptd.PointwiseTeacher(ptd.VLLM(name, options={"quantization": "gptq"})),
        ),
    ],
)  # fmt: skip
def test_what_was_written_before_is_read(make, more, changed, tiny_cross, tmp_path):
    shutil.copytree(tiny_cross, tmp_path / "moved")
    (tmp_path / "moved" / "README.md").write_text("card")
    name = str(tmp_path / "moved")
    old = in_old_words(identity(make(name)), "/where/it/was")
    (old["model"] if more else {}).update(more)
    old = json.loads(json.dumps(old))
    assert difference(old, identity(make(name))) is None
    assert as_stored(old, identity(make(name))) == old  # so that answers are found under the keys they have
    told = identity(changed(name))
    assert difference(old, told) is not None and as_stored(old, told) is told and as_stored(None, told) is told


def test_an_old_store_of_a_cached_teacher_and_a_counting_backend_goes_on(tmp_path):
    old = {
        "class": "pyterrier_distill.labels.cache.CachedTeacher",
        "store": "LabelStore('/elsewhere/answers')",
        "teacher": json.loads(json.dumps(identity(Scorer()))),
    }
    assert difference(old, identity(ptd.LabelStore(tmp_path / "c").cache(Scorer()))) is None
    backend = {"class": f"{__name__}.Plain", "model": "m", "calls": 17, "client_key": "abc"}
    told = identity(ptd.ListwiseLLMTeacher(Plain("m")))
    assert difference({**told, "model": backend}, told) is None
    assert "model.model was 'n'" in difference({**told, "model": {**backend, "model": "n"}}, told)


# -- what is declared -------------------------------------------------------------------------------------------------


class Plain:
    """A backend as people write them: a client with a key, a counter, no repr."""

    def __init__(self, model, timeout=3):
        self.model, self.timeout = model, timeout
        self.calls, self.client = 0, {"key": "sk-not-to-be-seen-123"}

    def generate(self, prompts):
        self.calls += len(prompts)
        return ["[2] > [1]"] * len(prompts)


class Saying(Plain):
    """One with a repr."""

    def __repr__(self):
        return f"Saying({self.model!r}, api_key='sk-not-to-be-seen-123')"


class Declaring(Plain):
    """One that declares what decides its answers."""

    decided_by = ("model",)


@dataclasses.dataclass
class Counting:
    """One whose repr counts."""

    model: str
    calls: int = 0
    api_key: str = "sk-not-to-be-seen-123"

    generate = Plain.generate


class Ours(Backend):
    """A backend that somebody derived."""

    def __init__(self, model):
        super().__init__()
        self.model, self.calls = model, 0

    def generate(self, prompts, *, max_new_tokens, permutations=None):
        return Plain.generate(self, prompts)


@pytest.mark.parametrize("kind", [Plain, Saying, Declaring, Counting, Ours])
def test_a_backend_that_counts_is_cached(kind, tmp_path, results):
    frame = results[results["qid"] == "q0"]
    first = kind("m")
    cached = ptd.LabelStore(tmp_path / "a").cache(ptd.ListwiseLLMTeacher(first))
    expected = cached(frame)
    asked = first.calls
    assert asked > 0
    pd.testing.assert_frame_equal(cached(frame), expected)
    again = kind("m")
    ptd.LabelStore(tmp_path / "a").cache(ptd.ListwiseLLMTeacher(again))(frame)
    assert first.calls == asked and again.calls == 0
    other = kind("another")
    ptd.LabelStore(tmp_path / "a").cache(ptd.ListwiseLLMTeacher(other))(frame)
    assert other.calls == asked
    assert not any("not-to-be-seen" in p.read_text(errors="ignore") for p in tmp_path.rglob("*") if p.is_file())


@pytest.mark.parametrize(
    "change",
    [
        {"timeout": 1.0}, {"retries": 0}, {"concurrency": 1}, {"api_key": "sk-another"}, {"verbose": True},
        {"base_url": "http://someone:else@host:8000/v1"}, {"base_url": "http://host:8000/v1/"},
        {"base_url": "http://host:8000/v1?api_key=abc"},
        {"extra": {"seed": 1, "extra_headers": {"X-Api-Key": "k"}, "user": "me"}},
        {"extra": {"seed": 1, "extra_query": {"code": "k"}, "api_key": "k"}},
    ],
)  # fmt: skip
def test_how_a_server_is_asked_does_not_matter(change):
    settings = {"base_url": "http://me:pw@host:8000/v1", "api_key": "sk-one", "extra": {"seed": 1}}
    assert one(
        ptd.PointwiseTeacher(ptd.OpenAI("m", **settings)),
        ptd.PointwiseTeacher(ptd.OpenAI("m", **{**settings, **change})),
    )


@pytest.mark.parametrize(
    "change",
    [
        {"model": "n"}, {"base_url": "http://host:9000/v1"}, {"logprobs": False}, {"max_length": 64},
        {"extra": {"seed": 2}}, {"extra": {"seed": 1, "temperature": 1}}, {"extra": {"seed": 1, "max_tokens": 3}},
        {"base_url": "http://host:8000/v1?api-version=2"},
    ],
)  # fmt: skip
def test_what_a_server_is_asked_matters(change, monkeypatch):
    settings = {"model": "m", "base_url": "http://host:8000/v1", "extra": {"seed": 1}}
    teachers = [ptd.PointwiseTeacher(ptd.OpenAI(**s)) for s in (settings, {**settings, **change})]
    assert not one(*teachers)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://host:8000/v1")
    assert one(ptd.PointwiseTeacher(ptd.OpenAI("m", extra={"seed": 1})), teachers[0])


@pytest.mark.parametrize(
    "options, same",
    [
        ({"gpu_memory_utilization": 0.5}, True), ({"tensor_parallel_size": 2, "max_num_seqs": 8}, True),
        ({"hf_token": "hf_x"}, True), ({"quantization": "awq"}, False), ({"seed": 3}, False),
        ({"kv_cache_dtype": "fp8"}, False),
    ],
)  # fmt: skip
def test_how_vllm_runs_does_not_matter(options, same):
    assert (
        one(ptd.SetwiseTeacher(ptd.VLLM("owner/m")), ptd.SetwiseTeacher(ptd.VLLM("owner/m", options=options))) is same
    )


def test_a_build_goes_on_with_more_patience(path, monkeypatch):
    monkeypatch.setattr(ptd.OpenAI, "generate", lambda self, prompts, **_: ["[2] > [1]"] * len(prompts))
    asks = [ptd.ListwiseLLMTeacher(ptd.OpenAI("m", timeout=t, retries=int(t), concurrency=int(t))) for t in (1.0, 9.0)]
    ptd.LabelStore(path).build(Candidates() >> asks[0], topics(2), verbose=False)
    assert len(ptd.LabelStore(path).build(Candidates() >> asks[1], topics(4), verbose=False)) == 4


# -- what a refusal says ----------------------------------------------------------------------------------------------


def test_a_refusal_names_the_first_key_that_differs_with_both_values(path):
    store = ptd.LabelStore(path).build(pipeline(Scorer(1.0)) >> Lister(2.0), topics(2), verbose=False)
    for other, words in (
        (pipeline(Scorer(1.0)) >> Lister(3.0), r"stages\[2\].factor was 2.0 and is 3.0"),
        (pipeline(Scorer(1.0)) >> Scorer(2.0), r"stages\[2\].class was 'labelling.Lister' and is 'labelling.Scorer'"),
        (pipeline(Scorer(1.0)), r"stages\[2\] was \{'class': 'labelling.Lister'.*\} and is absent"),
        (pipeline(Scorer(1.0)) >> Lister(2.0) >> Scorer(), r"stages\[3\] was absent and is \{'class': 'labelling.Sc"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            store.build(other, topics(4), verbose=False)
        assert "would delete the labels of 2 queries" in str(caught.value)


@pytest.mark.parametrize("at", [0, 100, 399])
def test_long_values_are_shown_where_they_differ(at):
    one = "".join("abcdefghij"[n % 10] for n in range(400))
    other = one[:at] + "#" + one[at + 1 :]
    told = difference({"class": "x", "prompt": one}, {"class": "x", "prompt": other})
    before, now = told.removeprefix("prompt was ").split(" and is ")
    assert "#" in now and "#" not in before and len(told) < 250 and before.replace("...", "") != now.replace("...", "")


def test_a_prompt_is_known_by_its_text(tiny_t5, tmp_path, results, monkeypatch):
    from pyterrier_distill.prompts import library

    cached = ptd.LabelStore(tmp_path / "c")
    teachers = (ptd.PointwiseTeacher, library.POINTWISE, "monot5"), (ptd.PairwiseTeacher, library.PAIRWISE, "duot5")
    for kind, named, name in teachers:
        before = identity(kind(tiny_t5, **FP32))
        assert "prompt_text" not in before  # stores that know it by name are read
        first = cached.cache(kind(tiny_t5, **FP32))(results)
        other = dataclasses.replace(named[name], messages=tuple((r, f"{t} ") for r, t in named[name].messages))
        monkeypatch.setitem(named, name, other)
        for prompt in (None, name):
            teacher = kind(tiny_t5, prompt=prompt, **FP32)
            assert difference(before, identity(teacher)) is not None
            asked = cached.cache(teacher)(results)
            assert not np.allclose(asked["score"], first["score"], atol=1e-7) and teacher.usage.calls


def test_new_prompts_are_told_by_their_text(tiny_t5, monkeypatch):
    from pyterrier_distill.prompts import library

    monkeypatch.setitem(library.POINTWISE, "new", library.POINTWISE["monot5"])
    assert "prompt_text" in identity(ptd.PointwiseTeacher(tiny_t5, prompt="new"))
    assert "prompt_text" not in identity(ptd.PointwiseTeacher(tiny_t5, prompt="monot5"))
