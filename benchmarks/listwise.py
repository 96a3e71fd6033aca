"""Listwise labels from a server that takes 100 ms an answer: how busy it is kept, windows of all queries under way."""

import argparse
import json
import random
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pandas as pd
from common import report

import pyterrier_distill as ptd
from pyterrier_distill.teachers import lists, programs

parser = argparse.ArgumentParser()
parser.add_argument("--queries", type=int, default=64)
parser.add_argument("--depth", type=int, default=100)
parser.add_argument("--concurrency", type=int, default=16)
parser.add_argument("--latency", type=float, default=0.1, help="seconds of an answer, in the mean")
parser.add_argument("--spread", type=float, default=0.5, help="share of it by which answers differ, up and down")
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--out")
options = parser.parse_args()


class Server(ThreadingHTTPServer):
    """Answers after a while; notes when it worked."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answering)
        self.lock, self.draws, self.spans = threading.Lock(), random.Random(0), []

    def busy(self):
        """Share of its places that worked, and of the time in which any did, between first and last."""
        begun, ended = min(a for a, _ in self.spans), max(b for _, b in self.spans)
        covered, last = 0.0, begun
        for start, end in sorted(self.spans):
            covered += max(0.0, end - max(start, last))
            last = max(last, end)
        places = sum(end - start for start, end in self.spans) / options.concurrency
        return places / (ended - begun), covered / (ended - begun), ended - begun, len(self.spans)


class Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        began = time.monotonic()
        self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.lock:
            takes = options.latency * (1 + self.server.draws.uniform(-options.spread, options.spread))
        time.sleep(takes)
        text = " > ".join(f"[{n}]" for n in [2, 1, *range(3, 21)])
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        body = {"id": "x", "object": "chat.completion", "created": 0, "model": "x", "choices": [choice], "usage": usage}
        told = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)
        with self.server.lock:
            self.server.spans.append((began, time.monotonic()))

    def log_message(self, *_):
        pass


def frame(seed):
    rows = [
        (f"q{q}", f"query {q} {seed}", f"d{n}", f"passage {n} of query {q}", -float(n), n)
        for q in range(options.queries)
        for n in range(options.depth)
    ]
    return pd.DataFrame(rows, columns=["qid", "query", "docno", "text", "score", "rank"])


def labelled(seed, apart):
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    kind = type("Asked", (ptd.OpenAI,), {"side_by_side": apart})
    llm = kind("x", base_url=f"http://127.0.0.1:{server.server_port}/v1", concurrency=options.concurrency)
    out = ptd.ListwiseLLMTeacher(llm)(frame(seed))
    server.shutdown()
    return server.busy(), out["teacher_rank"].tolist()


assert lists.run_together is programs.run_together
figures = {"each query by itself": [], "all queries in step": []}
for turn in range(options.rounds):
    found = {name: labelled(turn, name.startswith("each")) for name in figures}
    assert len({tuple(ranks) for _, ranks in found.values()}) == 1  # the same labels
    for name, (busy, _) in found.items():
        figures[name].append(busy)
median = {name: sorted(values)[len(values) // 2] for name, values in figures.items()}
names = ("places busy", "time in which any was", "seconds", "answers")
report(
    {
        "what": f"{options.queries} queries of {options.depth} passages, windows of 20, stride 10; {options.latency} s"
        f" an answer ± {options.spread:.0%}, {options.concurrency} at once; the median round of {options.rounds}",
        **{name: dict(zip(names, [round(v, 3) for v in values], strict=True)) for name, values in median.items()},
    },
    options.out,
)
