"""A build of labels killed -9 at a hundred random moments: what is lost, what is asked twice, what the store is then.

Each child process of this one builds the same store and writes down each question before it asks. After each kill the
committed queries are compared with the questions of the child that comes next: none may be asked again.
"""

import argparse
import os
import random
import signal
import tempfile
import time
import traceback
from pathlib import Path

import pandas as pd
import pyterrier as pt
from common import report

import pyterrier_distill as ptd
from pyterrier_distill.teachers.base import Teacher, rerank

parser = argparse.ArgumentParser()
parser.add_argument("--kills", type=int, default=100)
parser.add_argument("--queries", type=int, default=2000)
parser.add_argument("--batch-size", type=int, default=4)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--out")
options = parser.parse_args()


class Candidates(pt.Transformer):
    """Five documents a query."""

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        queries = [(qid, query, n) for qid, query in zip(inp["qid"], inp["query"], strict=True) for n in range(5)]
        rows = [(qid, query, f"{qid}-{n}", f"text {n} of {qid}", -float(n)) for qid, query, n in queries]
        return pd.DataFrame(rows, columns=["qid", "query", "docno", "text", "score"])

    def __repr__(self) -> str:
        return "Candidates()"


class Logged(Teacher):
    """Writes down what it is asked, takes its time, and answers by the text alone."""

    #: The file; not a setting, which would make every child's pipeline another one.
    log = ""

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        with open(Logged.log, "a") as log:
            log.write("".join(qid + "\n" for qid in inp["qid"].unique()))
            log.flush()
            os.fsync(log.fileno())
        time.sleep(0.003)
        scores = [float(sum(text.encode()) % 97) for text in inp["text"]]
        prefs = [{docno: score / 97} for docno, score in zip(inp["docno"].iloc[::-1], scores, strict=True)]
        return rerank(inp, scores, teacher_score=pd.Series(scores).to_numpy(), teacher_prefs=prefs)

    def __repr__(self) -> str:
        return "Logged()"


def build(path: Path, log: Path) -> ptd.LabelStore:
    """All of the store, or what is missing of it."""
    Logged.log = str(log)
    qids = [f"q{n}" for n in range(options.queries)]
    topics = pd.DataFrame({"qid": qids, "query": ["about " + qid for qid in qids]})
    settings = {"batch_size": options.batch_size, "with_text": True, "verbose": False}
    return ptd.LabelStore(path).build(Candidates() >> Logged(), topics, **settings)


work = Path(tempfile.mkdtemp())
started = time.monotonic()
undisturbed = build(work / "undisturbed", work / "log")
per_batch = (time.monotonic() - started) / (options.queries / options.batch_size)
started = time.monotonic()
build(work / "undisturbed", work / "log")  # nothing to do: what starting costs
start_up = time.monotonic() - started
rng = random.Random(options.seed)
asked, lost, again, committed = 0, 0, 0, set()
kills = runs = 0
while kills < options.kills:
    log = work / f"log-{runs}"
    child = os.fork()
    if child == 0:
        try:
            build(work / "store", log)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    # long enough for some batches, short enough that all kills fall into the build
    share = options.queries / options.batch_size / options.kills
    time.sleep(start_up * rng.random() + rng.uniform(0, 2.5) * per_batch * share)
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), "a build failed by itself"
    killed = status == signal.SIGKILL
    questions = log.read_text().split() if log.exists() else []
    kills, runs = kills + killed, runs + 1
    again += len(committed & set(questions))
    now = set(ptd.LabelStore(work / "store").qids()) if (work / "store").exists() else set()
    assert committed <= now, "a committed label is gone"
    lost += len(set(questions) - now)
    asked += len(questions)
    committed = now
    if not killed:
        break
before_last = len(committed)
store = build(work / "store", work / "last")
questions = (work / "last").read_text().split() if (work / "last").exists() else []
again += len(committed & set(questions))
asked += len(questions)
pd.testing.assert_frame_equal(store.frame(with_text=True), undisturbed.frame(with_text=True))
assert (store.verify()["state"] == "ok").all()
result = {
    "kills": kills, "queries": options.queries, "batch_size": options.batch_size,
    "committed_when_the_last_kill_came": before_last, "asked": asked, "asked_but_not_committed_at_a_kill": lost,
    "asked_again_after_commit": again, "asked_minus_queries_minus_lost": asked - options.queries - lost,
    "equals_the_undisturbed_store": True,
}  # fmt: skip
print(result)
report({"rows": [result]}, options.out)
