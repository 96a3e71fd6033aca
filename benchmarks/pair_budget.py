"""nDCG@10 over the number of pairs that a teacher is asked about: pairs drawn uniformly, or where it may be needed.

A query encoder of two layers learns a teacher's preferences among BM25's candidates of a collection's training queries.
Three ways to choose the pairs: uniformly; with more weight where student and BM25 order them differently, which costs
nothing; and where student and teacher do, which presumes what is asked, as the bound of such choices. The teacher's
preferences are those that a sentence encoder's cosines imply, so that any number of them can be had.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from sites import Rows, Site

import pyterrier_distill as ptd
from pyterrier_distill.corpora.loading import load_collection
from pyterrier_distill.demo.distil import default_teacher
from pyterrier_distill.sampling.samplers import PairSampler

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--collections", nargs="+", default=["irds:beir/nfcorpus", "irds:beir/scifact"])
parser.add_argument("--model", help="a sentence encoder; None = the built-in one")
parser.add_argument("--layers", type=int, nargs="+", default=[0, 5])
parser.add_argument("--pairs", type=int, nargs="+", default=[1, 2, 5, 10, 20, 50], help="of a query")
parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--queries-per-batch", type=int, default=32)
parser.add_argument("--learning-rate", type=float, default=3e-4)
parser.add_argument("--depth", type=int, default=20, help="candidates of a query")
parser.add_argument("--work", help="directory of indexes; None = a temporary one")
parser.add_argument("--out")
options = parser.parse_args()
work = Path(options.work or tempfile.mkdtemp())
TEMPERATURE = 0.05  # of cosines
original = ptd.BiEncoder(options.model or default_teacher())
cut = ptd.BiEncoder.truncated(original, options.layers)
settings = {n: v for n, v in vars(options).items() if n not in ("out", "work", "model", "seeds", "pairs")}
rows = Rows(options.out, settings, against="two layers as cut")
WAYS = {"uniform": None, "student and BM25 differ": "score_bm25", "student and teacher differ": "teacher_score"}


def asked(frame: pd.DataFrame, way: str, pairs: int, seed: int) -> pd.DataFrame:
    """The frame with ``teacher_prefs`` of so many pairs a query."""
    column = WAYS[way]
    weights = None if column is None else ptd.pair_disagreement(frame, "score_student", column, strategy="inversion")
    sampler = PairSampler(pairs, seed=seed, strategy="random" if column is None else "disagreement")
    cells = np.array([{} for _ in range(len(frame))], dtype=object)
    for qid, at in frame.groupby("qid").indices.items():
        scores, docnos = frame["teacher_score"].to_numpy()[at], frame["docno"].to_numpy()[at]
        for i, j in sampler.draw(qid, len(at), None if weights is None else weights[qid]):
            cells[at[i]][docnos[j]] = 1 / (1 + np.exp((scores[j] - scores[i]) / TEMPERATURE))
    told = frame.assign(teacher_prefs=cells)
    told["pairs"] = [len(cell) for cell in cells]
    return told


def trained(site: Site, frame: pd.DataFrame, way: str, pairs: int, seed: int) -> dict:
    student = site.student(cut)
    told = asked(frame, way, pairs, seed)
    distiller = ptd.Distiller(
        student, ptd.PairwiseKL(temperature=TEMPERATURE), steps=options.steps, seed=seed, dropout=0.0,
        learning_rate=options.learning_rate, queries_per_batch=options.queries_per_batch, verbose=False,
    )  # fmt: skip
    distiller.fit(told[["qid", "query", "docno", "text", "teacher_prefs"]])
    return {"way": way, "pairs": int(told["pairs"].sum()), "per_query": site.retrieved(student)}


for name in options.collections:
    site = Site(load_collection(f"{name}/test"), original, work, options.depth)
    topics = load_collection(f"{name}/train").topics
    frame = (site.lexical % options.depth >> site.text)(topics).rename(columns={"score": "score_bm25"})
    frame["teacher_score"] = site.teacher(frame)["score"].to_numpy()
    frame["score_student"] = site.student(cut)(frame)["score"].to_numpy()
    frame = frame.sort_values(["qid", "rank"], ignore_index=True)
    for label, encoder in (("teacher", original), ("two layers as cut", cut)):
        student = site.student(encoder)
        rows.add(name, label, 0, lambda site=site, s=student: {"pairs": 0, "per_query": site.retrieved(s)})
    for seed in options.seeds:
        for pairs in options.pairs:
            for way in WAYS:
                label = f"{way}, {pairs} a query"
                rows.add(name, label, seed, lambda s=site, f=frame, w=way, p=pairs, n=seed: trained(s, f, w, p, n))
print(pd.DataFrame(rows.summary()).to_string())
