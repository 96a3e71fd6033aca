"""Backends: an OpenAI-compatible server really started, one that misbehaves, and the size of prompts."""

import json
import os
import pickle
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest

import pyterrier_distill as ptd
from pyterrier_distill.backends.base import Backend, BackendError, Usage, Wrapped
from pyterrier_distill.backends.completions import Sampling

pytest.importorskip("openai")


def lists(depth, queries=1):
    rows = [
        (f"q{q}", f"query {q}", f"d{i}", f"red dog {i}", float(-i), i) for q in range(queries) for i in range(depth)
    ]
    return pd.DataFrame(rows, columns=["qid", "query", "docno", "text", "score", "rank"])


class Scripted:
    """An OpenAI-compatible server on loopback whose answers are a function of the request, or an HTTP status."""

    def __init__(self, answer):
        self.requests = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append((body, self.headers.get("Authorization")))
                reply = answer(body, len(outer.requests))
                status, payload = (reply, {"error": {"message": "no"}}) if isinstance(reply, int) else (200, reply)
                data = json.dumps(payload).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.send_header("retry-after-ms", "1")
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.close()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def reply(text, logprobs=None):
    top = None
    if logprobs is not None:
        listed = [{"token": t, "logprob": p, "bytes": None} for t, p in logprobs.items()]
        top = {"content": [{**listed[0], "top_logprobs": listed}]}
    choice = {"index": 0, "finish_reason": "stop", "logprobs": top, "message": {"role": "assistant", "content": text}}
    return {
        "id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice],
        "usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12},
    }  # fmt: skip


@pytest.fixture
def backend():
    servers = []

    def make(answer, **settings):
        server = Scripted(answer)
        servers.append(server)
        settings = {"retries": 2, "api_key": "sk-very-secret", **settings}
        return ptd.OpenAI("m", base_url=server.url, **settings), server

    yield make
    for server in servers:
        server.close()


def test_choose_normalises_over_the_options(backend):
    llm, server = backend(lambda body, n: reply("A", {"A": -0.5, " A": -2.0, "B": -1.0, "C": -3.0}))
    row = np.exp(llm.choose(["which?"], ["A", "B"])[0])
    a, b = np.exp(-0.5) + np.exp(-2.0), np.exp(-1.0)
    np.testing.assert_allclose(row, [a / (a + b), b / (a + b)], rtol=1e-5)
    body, key = server.requests[0]
    assert body["max_tokens"] == 1 and body["logprobs"] is True and body["temperature"] == 0
    assert key == "Bearer sk-very-secret"


def test_an_option_out_of_sight_is_bounded_not_zero(backend):
    llm, _ = backend(lambda body, n: reply("yes", {"yes": -0.01, "Yes": -5.0, "maybe": -9.0}))
    row = np.exp(llm.choose(["relevant?"], ["no", "yes"])[0])
    assert row[0] == pytest.approx(np.exp(-9.0) / (np.exp(-9.0) + np.exp(-0.01)), rel=1e-4)


@pytest.mark.parametrize(
    "logprobs, message", [(None, "logprobs=False"), ({"maybe": -0.1, "so": -2.0}, "none of .*'no', 'yes'.*'maybe'")]
)
def test_choose_without_usable_logprobs_says_so(backend, logprobs, message):
    llm, _ = backend(lambda body, n: reply("maybe", logprobs))
    with pytest.raises(BackendError, match=message):
        llm.choose(["relevant?"], ["no", "yes"])


def test_answers_count_as_certain_only_if_asked_for(backend):
    llm, _ = backend(lambda body, n: reply(["Passage B.", "a", "neither"][n - 1]), logprobs=False, concurrency=1)
    np.testing.assert_allclose(np.exp(llm.choose(["x", "y", "z"], ["A", "B"])), [[0, 1], [1, 0], [0.5, 0.5]])


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_trouble_is_tried_again(backend, status):
    llm, server = backend(lambda body, n: status if n < 3 else reply("hello"))
    assert llm.generate(["hi"], max_new_tokens=5) == ["hello"] and len(server.requests) == 3


def test_a_lasting_error_names_the_query_and_keeps_the_rest(backend):
    def answer(body, n):
        text = body["messages"][-1]["content"]
        return 500 if "query 2" in text else reply("A", {"A": -0.1, "B": -3.0})

    llm, server = backend(answer, concurrency=1, retries=1)
    frame = lists(3, queries=4)
    with pytest.raises(ptd.LabellingError, match="query 'q2' .'query 2'.*2 of 4 queries are labelled") as caught:
        ptd.PairwiseTeacher(llm)(frame)
    labelled = caught.value.labelled
    assert set(labelled["qid"]) == {"q0", "q1"} and {"teacher_prefs", "rank"} <= set(labelled.columns)
    assert "sk-very-secret" not in str(caught.value)


def test_nothing_is_paid_twice_after_an_interruption(backend):
    broken = threading.Event()
    broken.set()
    llm, server = backend(
        lambda body, n: 500 if broken.is_set() and n > 10 else reply("[2] > [1]"), concurrency=2, retries=0
    )
    frame = lists(2, queries=20)
    teacher = ptd.ListwiseLLMTeacher(llm)
    with pytest.raises(ptd.LabellingError) as caught:
        teacher(frame)
    kept = caught.value.labelled
    assert 8 <= kept["qid"].nunique() <= 10
    broken.clear()
    before = len(server.requests)
    out = teacher(frame)
    assert len(server.requests) - before == 10 and out["qid"].nunique() == 20
    pd.testing.assert_frame_equal(out[out["qid"].isin(kept["qid"])], kept)
    assert llm.usage.calls == 20 and llm.usage.prompt_tokens == 200 and llm.usage.output_tokens == 40


def test_concurrency_is_bounded(backend):
    under_way, most, lock = [0], [0], threading.Lock()

    def answer(body, n):
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        time.sleep(0.02)
        with lock:
            under_way[0] -= 1
        return reply("x")

    llm, _ = backend(answer, concurrency=3)
    llm.generate([f"prompt {i}" for i in range(24)], max_new_tokens=5)
    assert 1 < most[0] <= 3


def test_the_key_is_never_shown(backend, monkeypatch):
    llm, server = backend(lambda body, n: 401)
    teacher = ptd.ListwiseLLMTeacher(llm)
    for shown in (repr(llm), repr(teacher), str(vars(pickle.loads(pickle.dumps(llm))))):
        assert "sk-very-secret" not in shown
    with pytest.raises(ptd.LabellingError) as caught:
        teacher(lists(2))
    assert "sk-very-secret" not in str(caught.value) and len(server.requests) == 1  # 401 is not tried again
    monkeypatch.setenv("OPENAI_API_KEY", "sk-environment")
    from_environment = ptd.OpenAI("m", base_url=server.url, retries=0)
    with pytest.raises(BackendError):
        from_environment.generate(["x"], max_new_tokens=1)
    assert server.requests[-1][1] == "Bearer sk-environment" and "sk-environment" not in repr(from_environment)


def test_settings_are_checked(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    for name, value in {"concurrency": 0, "retries": -1, "timeout": 0}.items():
        with pytest.raises(ValueError, match=name):
            ptd.OpenAI("m", **{name: value})
    with pytest.raises(ValueError, match="set OPENAI_API_KEY"):
        ptd.OpenAI("m").generate(["x"], max_new_tokens=1)


def test_completions_of_a_server_have_log_probabilities(backend):
    def answer(body, n):
        return reply(f"what is {body['messages'][0]['content']}", {"what": -1.0, " is": -2.0})

    llm, server = backend(answer, concurrency=2)
    answers = llm.complete(["a", "b"], max_new_tokens=9, sampling=Sampling(0.7, top_p=0.9, top_k=5), seeds=[3, 4])
    assert [a.text for a in answers] == ["what is a", "what is b"] and answers[0].mean_logprob(0, 4) == -1.0
    bodies = sorted((body for body, _ in server.requests), key=lambda body: body["seed"])
    assert [body["seed"] for body in bodies] == [3, 4] and bodies[0]["max_tokens"] == 9
    assert (bodies[0]["temperature"], bodies[0]["top_p"], bodies[0]["top_k"]) == (0.7, 0.9, 5)
    llm.complete(["a"], max_new_tokens=9)
    greedy, _ = server.requests[-1]
    assert greedy["temperature"] == 0 and greedy["logprobs"] is True and "seed" not in greedy
    silent, server = backend(lambda body, n: reply("what is"), logprobs=False)
    assert np.isnan(silent.complete(["a"], max_new_tokens=9)[0].mean_logprob(0, 7))
    assert "logprobs" not in server.requests[0][0]


def test_a_server_that_fails_keeps_the_answers_before(backend):
    llm, _ = backend(lambda body, n: 500 if "stop" in str(body) else reply("what is it"), concurrency=1, retries=0)
    frame = pd.DataFrame([("a", "red"), ("b", "blue"), ("c", "stop"), ("d", "tree")], columns=["docno", "text"])
    with pytest.raises(ptd.GenerationError, match="document 'c'") as caught:
        ptd.SyntheticQueryGen(llm)(frame)
    assert caught.value.generated["docno"].tolist() == ["a", "b"]


# -- a server that serves a model -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(tiny_llm):
    """``transformers serve`` with a tiny local model; gives (process, base URL)."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", tiny_llm]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
            break
        except OSError:
            if process.poll() is not None:
                pytest.fail(f"transformers serve ended with {process.returncode}")
            time.sleep(0.1)
    yield process, f"http://127.0.0.1:{port}/v1"
    process.kill()
    process.wait()


@pytest.mark.parametrize("settings", [{}, {"n": 2, "top_p": 0.9}])
def test_queries_through_http(served, tiny_llm, settings):
    _, url = served
    llm = ptd.OpenAI(tiny_llm, base_url=url, logprobs=False, concurrency=2, retries=0, timeout=60)
    frame = pd.DataFrame([("a", "red dog"), ("b", ""), ("c", "blue cat")], columns=["docno", "text"])
    generator = ptd.SyntheticQueryGen(llm, "doc2query", max_new_tokens=8, **settings)
    out = generator(frame)
    asked = 2 * settings.get("n", 1)
    assert out["docno"].tolist() == ["a", "b", "c"] and out["querygen"][1] == ""
    assert llm.usage.calls == sum(generator.responses.values()) == generator.estimate(frame).calls == asked


def test_labels_through_http_and_a_server_killed_in_the_middle(served, tiny_llm):
    process, url = served
    frame = lists(4, queries=3)
    llm = ptd.OpenAI(tiny_llm, base_url=url, logprobs=False, concurrency=2, retries=0, timeout=60)
    pairs = ptd.PairwiseTeacher(llm, n_pairs=3)(frame)
    assert sum(len(cell) for cell in pairs["teacher_prefs"]) == 9
    teacher = ptd.ListwiseLLMTeacher(llm, window_size=3, stride=2)
    out = teacher(frame)
    assert sorted(out.loc[out["qid"] == "q0", "teacher_rank"]) == [0, 1, 2, 3]
    assert sum(teacher.responses.values()) == teacher.estimate(frame).calls == 6
    assert llm.usage.calls == 15 and llm.usage.prompt_tokens > 0

    # Kill it when some, not all, of many queries are answered.
    many = lists(2, queries=40)
    slow = ptd.ListwiseLLMTeacher(ptd.OpenAI(tiny_llm, base_url=url, concurrency=2, retries=0, timeout=60))

    def kill_in_the_middle():
        while slow.usage.calls < 10:
            time.sleep(0.005)
        process.kill()

    killer = threading.Thread(target=kill_in_the_middle)
    killer.start()
    with pytest.raises(ptd.LabellingError, match="gave no answer") as caught:
        slow(many)
    killer.join()
    labelled = caught.value.labelled
    assert 8 <= labelled["qid"].nunique() < 40
    assert (labelled.groupby("qid")["teacher_rank"].agg(sorted).map(tuple) == (0, 1)).all()


# -- anything that generates ------------------------------------------------------------------------------------------


def test_an_object_that_generates_is_wrapped_and_counted():
    class Echo:
        def generate(self, prompts):
            return [type("Output", (), {"text": p[-3:]}) for p in prompts]

    wrapped = Wrapped(Echo())
    assert wrapped.generate([[{"role": "user", "content": "abc def"}]], max_new_tokens=5) == ["def"]
    assert wrapped.usage.calls == 1

    class Short:
        def generate(self, prompts):
            return []

    with pytest.raises(BackendError, match="0 answers to 2 prompts"):
        Wrapped(Short()).generate(["a", "b"], max_new_tokens=1)


def test_backends_that_only_generate_complete_greedily():
    class Plain(Backend):
        def generate(self, prompts, *, max_new_tokens, permutations=None):
            return [p.upper() for p in prompts]

    (answer,) = Plain().complete(["what is"], max_new_tokens=4)
    assert answer.text == "WHAT IS" and np.isnan(answer.mean_logprob(0, 7))
    with pytest.raises(TypeError, match="does not sample"):
        Plain().complete(["what is"], max_new_tokens=4, sampling=Sampling())


def test_usage_adds_and_subtracts():
    a, b = Usage(3, 30, 3, 1.5), Usage(1, 10, 1, 0.5)
    assert a + b == Usage(4, 40, 4, 2.0) and a - b == Usage(2, 20, 2, 1.0)
    assert pickle.loads(pickle.dumps(a)) == a


def test_estimated_sizes_are_on_the_safe_side(tiny_llm):
    """Without a tokenizer: no fewer tokens than a byte-level one counts, and cutting keeps whole words."""
    llm = ptd.OpenAI("m", max_length=100)
    assert llm.sizes(["abc defg 12", "日本語", ""]) == [5, 3, 0]
    cut = llm.cut("one two three four five", 3)
    assert cut == "one two" and llm.sizes([cut])[0] <= 3 and llm.cut("日本語の", 2) == "日本"
    ranking = " > ".join(f"[{i}]" for i in range(1, 21))
    assert llm.sizes([ranking])[0] >= 79  # what GPT-2's tokenizer makes of it


def test_answers_of_a_server_have_room_for_the_whole_permutation(backend):
    whole = " > ".join(f"[{i}]" for i in range(20, 0, -1))

    def answer(body, n):
        pieces = re.findall(r" ?[^\s\d]+| ?\d+", whole)  # as GPT-2 cuts it
        return reply("".join(pieces[: body["max_tokens"]]))

    llm, _ = backend(answer)
    teacher = ptd.ListwiseLLMTeacher(llm)
    assert teacher(lists(20))["teacher_rank"].tolist() == list(range(19, -1, -1)) and teacher.responses["ok"] == 1


# -- transformers, in this process ------------------------------------------------------------------------------------


def chat(text):
    return [{"role": "user", "content": text}]


def test_equal_prompts_are_answered_once_and_usage_counts_what_was_said(tiny_llm):
    prompts = [chat("red"), chat("blue dog"), chat("red")]
    llm, alone = (ptd.HF(tiny_llm, precision="fp32", device="cpu") for _ in range(2))
    together = llm.generate(prompts, max_new_tokens=30, permutations=[2, 12, 2])
    assert llm.usage.calls == 2 and together[0] == together[2] != together[1]
    assert [alone.generate([p], max_new_tokens=30, permutations=[n])[0] for p, n in zip(prompts[:2], (2, 12))] == (
        together[:2]
    )
    assert llm.usage.output_tokens == alone.usage.output_tokens  # padding behind the shorter answer was not said
    assert llm.usage.prompt_tokens == alone.usage.prompt_tokens == sum(llm.prompt_sizes(prompts[:2]))


def test_generating_halves_what_does_not_fit_in_memory(tiny_llm, monkeypatch):
    import torch

    llm = ptd.HF(tiny_llm, precision="fp32", device="cpu")
    prompts = [chat(f"red {i}") for i in range(5)]
    expected = llm.generate(prompts, max_new_tokens=8)
    whole = llm.model.generate

    def small(**inputs):
        if len(inputs["input_ids"]) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return whole(**inputs)

    monkeypatch.setattr(llm.model, "generate", small)
    assert llm.generate(prompts, max_new_tokens=8) == expected


def test_completions_in_halves_are_the_same(plain_llm, monkeypatch):
    import torch

    make = lambda: ptd.HF(plain_llm, precision="fp32", device="cpu")  # noqa: E731
    llm, prompts = make(), [f"red {i}" for i in range(5)]
    settings = {"max_new_tokens": 6, "sampling": Sampling(0.8), "seeds": range(5)}
    expected = make().complete(prompts, **settings)
    whole = llm.model.generate

    def small(**inputs):
        if len(inputs["input_ids"]) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return whole(**inputs)

    monkeypatch.setattr(llm.model, "generate", small)
    got = llm.complete(prompts, **settings)
    assert [a.text for a in got] == [a.text for a in expected]
    np.testing.assert_allclose(
        np.concatenate([a.logprobs for a in got]), np.concatenate([a.logprobs for a in expected]), atol=1e-5
    )


def test_a_model_that_fails_in_the_middle_loses_nothing(tiny_llm, monkeypatch):
    teacher = ptd.ListwiseLLMTeacher(tiny_llm, precision="fp32", device="cpu", batch_size=1)
    whole, calls = teacher.llm.model.generate, [0]

    def failing(**inputs):
        calls[0] += 1
        if calls[0] > 3:
            raise RuntimeError("the device went away")
        return whole(**inputs)

    monkeypatch.setattr(teacher.llm.model, "generate", failing)
    with pytest.raises(ptd.LabellingError, match="the device went away") as caught:
        teacher(lists(2, queries=6))
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.labelled["qid"].nunique() == 3 and str(again) == str(caught.value)


def test_setwise_keeps_what_was_finished(backend):
    def answer(body, n):
        text = body["messages"][-1]["content"]
        return 500 if "query 2" in text else reply("A", {"A": -0.1, "B": -3.0, "C": -4.0})

    llm, _ = backend(answer, concurrency=1, retries=0)
    with pytest.raises(ptd.LabellingError, match="query 'q2'") as caught:
        ptd.SetwiseTeacher(llm, k=2, set_size=3)(lists(6, queries=4))
    assert set(caught.value.labelled["qid"]) == {"q0", "q1"}


def test_a_checkpoints_own_penalties_stay_out(tiny_llm, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_llm)
    model.generation_config.repetition_penalty = 5.0
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_llm).save_pretrained(tmp_path)
    plain, penalised = (ptd.HF(path, precision="fp32", device="cpu") for path in (tiny_llm, tmp_path))
    assert plain.generate([chat("red")], max_new_tokens=20) == penalised.generate([chat("red")], max_new_tokens=20)


def test_a_chat_template_without_system_role(tiny_llm):
    from pyterrier_distill.engine.tokens import chat_text

    llm = ptd.HF(tiny_llm)
    refuses = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    llm.tokenizer.chat_template = refuses + llm.tokenizer.chat_template
    text = chat_text(llm.tokenizer, [{"role": "system", "content": "Be good."}, {"role": "user", "content": "Rank."}])
    assert "user: Be good.\n\nRank." in text


def test_without_chat_template_a_score_does_not_depend_on_other_prompts(tiny_llm, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llm)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    AutoModelForCausalLM.from_pretrained(tiny_llm).save_pretrained(tmp_path)
    teacher = ptd.PointwiseTeacher(tmp_path, precision="fp32", device="cpu")
    frame = lists(3).assign(text=["", "dog cat", "red "])
    whole = teacher(frame)["teacher_score"].to_numpy()
    parts = [teacher(frame.iloc[[i]])["teacher_score"].iloc[0] for i in range(3)]
    np.testing.assert_allclose(parts, whole, atol=1e-5)


def test_decoders_that_see_images_are_causal(tmp_path):
    from pyterrier_distill.engine.pretrained import kind_of

    config = {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert kind_of(str(tmp_path), {}) == "causal"


def test_one_told_option_is_not_a_draw(backend):
    llm, _ = backend(lambda body, n: reply("A", {"A": -0.01}))
    row = np.exp(llm.choose(["x"], ["A", "B"])[0])
    assert row[0] > 0.98 and row[1] == pytest.approx(1 - np.exp(-0.01), rel=0.05)


def test_answers_that_could_not_be_read_are_asked_again(backend):
    llm, server = backend(lambda body, n: reply("A", {"A": -0.1, "B": -2.0} if n > 1 else None))
    with pytest.raises(BackendError, match="logprobs=False"):
        llm.choose(["x"], ["A", "B"])
    assert np.exp(llm.choose(["x"], ["A", "B"])[0, 0]) > 0.8 and len(server.requests) == 2


def test_fields_can_be_taken_out_and_put_in(backend):
    extra = {"max_tokens": None, "temperature": None, "max_completion_tokens": 500, "model": "other"}
    llm, server = backend(lambda body, n: reply("x"), extra=extra)
    llm.generate(["hi"], max_new_tokens=5)
    body = server.requests[0][0]
    assert "max_tokens" not in body and "temperature" not in body
    assert body["max_completion_tokens"] == 500 and body["model"] == "other"
    secret = ptd.OpenAI("m", base_url="http://me:pass@host:80/v1", extra={"extra_headers": {"x-api-key": "hidden"}})
    assert "pass" not in repr(secret) and "hidden" not in repr(secret)
