"""What servers may send, and when nothing further is sent to them."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest

import pyterrier_distill as ptd
from pyterrier_distill.backends import exchange
from pyterrier_distill.backends.base import Backend, BackendError

pytest.importorskip("openai")


class Raw:
    """A server on loopback that does as it is told with each request."""

    def __init__(self, act):
        self.requests = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests.append(dict(self.headers))
                act(self, len(outer.requests))

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def serve():
    servers = []

    def make(act):
        servers.append(Raw(act))
        return servers[-1]

    yield make
    for server in servers:
        server.server.shutdown()
        server.server.server_close()


def send(handler, content, status=200, kind="application/json", **headers):
    data = content if isinstance(content, bytes) else content.encode()
    handler.send_response(status)
    for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(data)


def said(content, logprobs=None):
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "logprobs": logprobs,
        "message": {"role": "assistant", "content": content},
    }
    return json.dumps(
        {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": None}
    )


def asked(server, **settings):
    return ptd.OpenAI("m", base_url=server.url, api_key="sk-secret", **{"retries": 0, "concurrency": 1, **settings})


def test_content_in_parts_and_half_characters(serve):
    parts = [{"type": "text", "text": "[2] > "}, {"type": "text", "text": "[1]"}]
    answers = [said(parts), said("[1] \ud83d > [2]"), said(None)]
    server = serve(lambda handler, n: send(handler, answers[n - 1]))
    texts = asked(server).generate(["a", "b", "c"], max_new_tokens=9)
    assert texts == ["[2] > [1]", "[1] \N{REPLACEMENT CHARACTER} > [2]", ""]
    assert all(text.encode() is not None for text in texts)


BAD = {
    "HTML": ("<html>busy</html>", "no JSON"),
    "nothing": ("", "no JSON"),
    "a list": ("[1]", "no choice"),
    "null choices": ('{"choices": null}', "no choice"),
    "no message": ('{"choices": [{"message": null}]}', "without a message"),
    "a number": (said(7), "not text"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_answer_loses_nothing(kind, serve):
    content, message = BAD[kind]
    server = serve(lambda handler, n: send(handler, said("[2] > [1]") if n < 3 else content, kind="text/html"))
    frame = pd.DataFrame(
        [(f"q{q}", f"query {q}", f"d{d}", f"text {d}", d) for q in range(4) for d in range(2)],
        columns=["qid", "query", "docno", "text", "rank"],
    )
    with pytest.raises(ptd.LabellingError, match=message) as caught:
        ptd.ListwiseLLMTeacher(asked(server))(frame)
    assert caught.value.labelled["qid"].unique().tolist() == ["q0", "q1"]


def test_a_log_probability_that_is_no_number(serve):
    top = [{"token": "yes", "logprob": float("nan"), "bytes": None}, {"token": "no", "logprob": -1.0, "bytes": None}]
    told = said("yes", {"content": [{**top[0], "top_logprobs": top}]})
    server = serve(lambda handler, n: send(handler, told))
    with pytest.raises(BackendError, match="not a number"):
        asked(server).choose(["?"], ["no", "yes"])
    assert asked(server).complete(["?"], max_new_tokens=3)[0].text == "yes"


@pytest.mark.parametrize("told", [float("inf"), float("nan"), 1e308, 5.0, 10**400, True, "much", None])
@pytest.mark.parametrize("which", [0, 1])
def test_a_log_probability_that_is_none_loses_no_finished_answer(told, which, serve):
    def act(handler, n):
        top = [{"token": "yes", "logprob": -0.5, "bytes": None}, {"token": "no", "logprob": -1.0, "bytes": None}]
        if n == 2:
            top[which]["logprob"] = told
        send(handler, said("yes", {"content": [{**top[0], "top_logprobs": top}]}))

    with pytest.raises(BackendError, match="log-probability that is not a number of at most 0") as caught:
        asked(serve(act), concurrency=1).choose(["a", "b", "c"], ["no", "yes"])
    assert [answer is None for answer in caught.value.answers] == [False, True, True] and caught.value.failed == 1


def test_a_certain_no_is_a_log_probability(serve):
    def probabilities(*logprobs):
        top = [{"token": t, "logprob": p, "bytes": None} for t, p in zip(("yes", "no"), logprobs, strict=True)]
        told = said("yes", {"content": [{**top[0], "top_logprobs": top}]})
        return np.exp(asked(serve(lambda handler, n: send(handler, told))).choose(["?"], ["no", "yes"])[0]).tolist()

    assert probabilities(1e-7, -float("inf")) == [0, 1]
    assert probabilities(0, -9999.0) == [0, 1]
    with pytest.raises(BackendError, match="none of"):
        probabilities(-float("inf"), -float("inf"))


@pytest.mark.parametrize("told", [float("nan"), float("inf"), 10**400, -3, 2.5, "many", None])
def test_a_usage_that_is_no_number_of_tokens_is_not_counted(told, serve):
    content = json.loads(said("[1]"))
    content["usage"] = {"prompt_tokens": told, "completion_tokens": 3, "total_tokens": 3}
    backend = asked(serve(lambda handler, n: send(handler, json.dumps(content))))
    backend.generate(["?"], max_new_tokens=3)
    assert (backend.usage.calls, backend.usage.prompt_tokens, backend.usage.output_tokens) == (1, 0, 3)


def test_a_slow_head_is_bounded_by_the_timeout(serve):
    def trickle(handler, n):
        handler.send_response(200)
        try:
            for n in range(40):
                handler.wfile.write(f"X-{n}: slow\r\n".encode())
                handler.wfile.flush()
                time.sleep(0.1)
        except OSError:
            pass

    server, began = serve(trickle), time.monotonic()
    with pytest.raises(BackendError, match="not complete within 0.5 seconds"):
        asked(server, timeout=0.5).generate(["a"], max_new_tokens=3)
    assert time.monotonic() - began < 2


def test_long_answers_are_read_at_once_and_endless_ones_refused(serve, monkeypatch):
    answer = said("x" * 8_000_000)
    server = serve(lambda handler, n: send(handler, answer))
    assert len(asked(server).generate(["a"], max_new_tokens=3)[0]) == 8_000_000
    monkeypatch.setattr(exchange, "_LONGEST_ANSWER", 1 << 20)
    with pytest.raises(BackendError, match="longer than 1 MiB"):
        asked(server).generate(["b"], max_new_tokens=3)


def test_a_process_that_is_interrupted_ends_though_the_server_hangs(serve):
    begun = threading.Event()

    def hang(handler, n):
        begun.set()
        time.sleep(30)

    server = serve(hang)
    code = (
        "import pyterrier_distill as ptd\n"
        f"llm = ptd.OpenAI('m', base_url={asked(server).base_url!r}, timeout=60)\n"
        "llm.generate(['a', 'b'], max_new_tokens=3)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    try:
        assert begun.wait(120)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in process.communicate(timeout=15)[1]
    finally:
        process.kill()


def test_a_slow_trickle_is_bounded_by_the_timeout(serve):
    def trickle(handler, n):
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.end_headers()
        try:
            for _ in range(300):
                handler.wfile.write(b" ")
                handler.wfile.flush()
                time.sleep(0.05)
        except OSError:
            pass

    server = serve(trickle)
    with pytest.raises(BackendError, match="not complete within 0.3 seconds"):
        asked(server, timeout=0.3).generate(["a"], max_new_tokens=3)


def test_headers_do_not_follow_to_another_host(serve):
    other = serve(lambda handler, n: send(handler, said("stolen")))
    elsewhere = f"http://127.0.0.2:{other.port}/v1/chat/completions"
    server = serve(lambda handler, n: send(handler, "{}", status=307, Location=elsewhere))
    llm = asked(server, retries=3, extra={"extra_headers": {"X-Key": "secret"}})
    with pytest.raises(BackendError) as caught:
        llm.generate(["a"], max_new_tokens=3)
    assert other.requests == [] and len(server.requests) == 1 and "secret" not in str(caught.value)


def test_a_redirect_on_the_same_host_is_followed(serve):
    def act(handler, n):
        if handler.path.startswith("/v1"):
            send(handler, "{}", status=307, Location="/v2/chat/completions")
        else:
            send(handler, said("here"))

    assert asked(serve(act)).generate(["a"], max_new_tokens=3) == ["here"]


def test_after_an_interruption_nothing_further_is_sent(serve):
    interrupted = threading.Event()

    def act(handler, n):
        if n == 2:
            os.kill(os.getpid(), signal.SIGINT)
            interrupted.set()
        time.sleep(0.2)
        send(handler, '{"error": {"message": "busy"}}', status=503)

    server = serve(act)
    with pytest.raises(KeyboardInterrupt):
        asked(server, retries=50, concurrency=2).generate([f"p{n}" for n in range(20)], max_new_tokens=3)
    time.sleep(1.5)  # longer than the first pauses between tries
    assert interrupted.is_set() and len(server.requests) <= 4


def test_any_error_behind_a_backend_keeps_what_was_finished():
    class Breaking(Backend):
        at_once = 1
        calls = 0

        def generate(self, prompts, *, max_new_tokens, permutations=None):
            Breaking.calls += 1
            if Breaking.calls > 2:
                raise ZeroDivisionError("nobody thought of this")
            return ["[2] > [1]"] * len(prompts)

        def __repr__(self):
            return "Breaking()"

    rows = [(f"q{q}", f"query {q}", f"d{d}", f"text {d}", d) for q in range(4) for d in range(2)]
    frame = pd.DataFrame(rows, columns=["qid", "query", "docno", "text", "rank"])
    with pytest.raises(ptd.LabellingError, match="nobody thought of this") as caught:
        ptd.ListwiseLLMTeacher(Breaking())(frame)
    assert caught.value.labelled["qid"].unique().tolist() == ["q0", "q1"]
