"""Two rounds of iterative distillation against one, with the same number of training steps.

A query encoder of two layers retrieves its own candidates, the teacher scores them, the student learns the scores; in
the second round it does so anew. Queries are the collection's training queries, without judgements.
"""

import argparse
import tempfile
import time
from pathlib import Path

import pandas as pd
from sites import Rows, Site

import pyterrier_distill as ptd
from pyterrier_distill.corpora.loading import load_collection
from pyterrier_distill.demo.distil import default_teacher

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--collections", nargs="+", default=["irds:beir/scifact", "irds:beir/nfcorpus"])
parser.add_argument("--model", help="a sentence encoder; None = the built-in one")
parser.add_argument("--layers", type=int, nargs="+", default=[0, 5])
parser.add_argument("--rounds", type=int, nargs="+", default=[1, 2])
parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
parser.add_argument("--steps", type=int, default=400, help="of all rounds together")
parser.add_argument("--queries-per-batch", type=int, default=32)
parser.add_argument("--learning-rate", type=float, default=3e-4)
parser.add_argument("--depth", type=int, default=20, help="candidates of a query and round")
parser.add_argument("--work", help="directory of indexes and labels; None = a temporary one")
parser.add_argument("--out")
options = parser.parse_args()
work = Path(options.work or tempfile.mkdtemp())
original = ptd.BiEncoder(options.model or default_teacher())
cut = ptd.BiEncoder.truncated(original, options.layers)
settings = {n: v for n, v in vars(options).items() if n not in ("out", "work", "model", "seeds", "rounds")}
rows = Rows(options.out, settings, against="1 round")


def trained(site: Site, topics: pd.DataFrame, rounds: int, seed: int) -> dict:
    student = site.student(cut)
    distiller = ptd.Distiller(
        student, ptd.KLDivergence(temperature=0.05), steps=options.steps // rounds, seed=seed, dropout=0.0,
        learning_rate=options.learning_rate, queries_per_batch=options.queries_per_batch, verbose=False,
    )  # fmt: skip
    where = site.directory / f"rounds-{rounds}-{seed}-{options.depth}-{options.steps}"
    started = time.perf_counter()
    iterative = ptd.IterativeDistiller(site.candidates, site.teacher, distiller, where, rounds=rounds, verbose=False)
    iterative.fit(topics)
    asked = sum(entry["asked"] for entry in iterative.rounds_)
    seconds = round(time.perf_counter() - started, 1)
    return {"asked": asked, "seconds": seconds, "per_query": site.retrieved(student)}


for name in options.collections:
    site = Site(load_collection(f"{name}/test"), original, work, options.depth)
    topics = load_collection(f"{name}/train").topics
    for label, encoder in (("teacher", original), ("two layers as cut", cut)):
        student = site.student(encoder)
        rows.add(name, label, 0, lambda site=site, s=student: {"asked": 0, "per_query": site.retrieved(s)})
    for seed in options.seeds:
        for rounds in options.rounds:
            label = f"{rounds} round{'s' * (rounds > 1)}"
            rows.add(name, label, seed, lambda s=site, t=topics, r=rounds, n=seed: trained(s, t, r, n))
print(pd.DataFrame(rows.summary()).to_string())
