"""A pair classifier beside a pointwise cross-encoder, trained from one checkpoint on one set of judgements.

Trains on the training queries of a collection in BEIR layout in three stages, against ever harder negatives; re-ranks
the top of a stored first stage of another, and prints nDCG@10. From a sentence encoder, a pair classifier that sees
hard negatives only stays at a loss of ln 2 for hundreds of steps.
"""

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyterrier as pt
from common import report
from pyterrier.measures import nDCG

import pyterrier_distill as ptd
from pyterrier_distill.demo.distil import default_teacher

parser = argparse.ArgumentParser()
parser.add_argument("--train", required=True, help="folder with corpus, queries, qrels/train.tsv")
parser.add_argument("--test", required=True, nargs="+", help="folders with qrels and runs/bm25.txt.gz")
parser.add_argument("--depth", type=int, default=30)
parser.add_argument("--model", help="a checkpoint; None = the built-in one")
parser.add_argument("--pairs-per-query", type=int, nargs=3, default=(2, 3, 3), help="of each stage")
parser.add_argument("--n-pairs", type=int, default=None, help="pairs compared a test query, each in both orders")
parser.add_argument("--negatives", type=int, default=3)
parser.add_argument("--queries", type=int, nargs=3, default=(1500, 10**9, 10**9), help="of each stage, at most")
parser.add_argument("--learning-rates", type=float, nargs=3, default=(2e-4, 2e-4, 1e-4))
parser.add_argument("--max-length", type=int, default=192, help="tokens of a query and its documents")
parser.add_argument("--seed", type=int, default=42)
parser.add_argument("--work", help="where the models are kept, and reused if there; None = a temporary directory")
parser.add_argument("--only", choices=("pairwise", "pointwise"), help="train and measure this one alone")
parser.add_argument("--out")
options = parser.parse_args()
model = options.model or default_teacher()


def drawn(ranked: list[str], low: int, high: int, rng: random.Random) -> list[str]:
    """Documents of a ranking, their ranks (from 0) drawn log-uniformly between two."""
    high = min(high, len(ranked) - 1)
    found: dict[str, None] = {}
    while len(found) < options.negatives:
        found[ranked[round(low * (high / low) ** rng.random())]] = None
    return list(found)


def stages(dataset, qrels: pd.DataFrame) -> list[pd.DataFrame]:
    """R frames of a relevant document and others a query: random ones, then ranks 5 to 1000, then 2 to 12.

    The ranking is the untrained checkpoint's own over the whole collection.
    """
    encoder = ptd.BiEncoder(model, max_length=128)
    documents, topics = pd.DataFrame(dataset.get_corpus_iter(verbose=False)), dataset.get_topics()
    relevant = qrels[qrels["label"] > 0].groupby("qid")["docno"].agg(set).to_dict()
    topics = topics[topics["qid"].isin(relevant)]
    scores = encoder.encode_queries(topics["query"].tolist()) @ encoder.encode_docs(documents["text"].tolist()).T
    docnos, texts = documents["docno"].to_numpy(), dict(zip(documents["docno"], documents["text"], strict=True))
    rng = random.Random(options.seed)
    frames: list[list[tuple]] = [[], [], []]
    for n, (qid, query, line) in enumerate(zip(topics["qid"], topics["query"], scores, strict=True)):
        ranked = [d for d in docnos[np.argsort(-line)[:1000]] if d not in relevant[qid]]
        others = [
            rng.sample([d for d in rng.choices(docnos, k=20) if d not in relevant[qid]], options.negatives),
            drawn(ranked, 4, 999, rng),
            drawn(ranked, 1, 11, rng),
        ]
        for stage, negatives in enumerate(others):
            if n < options.queries[stage]:
                for docno in [*sorted(relevant[qid])[:1], *negatives]:
                    frames[stage].append((qid, query, docno, texts[docno]))
    return [pd.DataFrame(rows, columns=["qid", "query", "docno", "text"]) for rows in frames]


def pointwise(frames: list[pd.DataFrame], qrels: pd.DataFrame, path: str) -> None:
    """A cross-encoder: LCE on the documents that the pairs hold."""
    student = ptd.CrossEncoder(model, max_length=options.max_length)
    for frame, rate, pairs in zip(frames, options.learning_rates, options.pairs_per_query, strict=True):
        lists = frame.groupby("qid", sort=False).head(1 + pairs)
        settings = {"learning_rate": rate, "queries_per_batch": 32 // (1 + pairs), "dropout": 0.0}
        ptd.Distiller(student, ptd.LocalizedContrastive(), **settings).fit(lists, qrels)
    student.save(path)


def pairwise(frames: list[pd.DataFrame], qrels: pd.DataFrame, path: str) -> None:
    """The classifier; prints the losses."""
    settings = {"kind": "classifier", "max_length": options.max_length, "verbose": True}
    teacher = ptd.PairwiseTeacher(model, **settings)
    for frame, rate, pairs in zip(frames, options.learning_rates, options.pairs_per_query, strict=True):
        teacher.training = ptd.PairTraining(learning_rate=rate, pairs_per_query=pairs, dropout=0.0)
        teacher.fit(frame, qrels)
        print("loss:", [round(entry["loss"], 3) for entry in teacher.history if "loss" in entry], flush=True)
        teacher.save(path, overwrite=True)


work = Path(options.work or tempfile.mkdtemp())
seconds = json.loads((work / "seconds.json").read_text()) if (work / "seconds.json").exists() else {}
systems = {"pairwise": pairwise, "pointwise": pointwise}
systems = {name: train for name, train in systems.items() if options.only in (None, name)}
if not set(systems) <= set(seconds):
    dataset = pt.get_dataset(f"folder:{options.train}/train")
    judged = dataset.get_qrels()
    frames = stages(dataset, judged)
    for name, train in systems.items():
        if name not in seconds:
            started = time.monotonic()
            train(frames, judged, str(work / name))
            seconds[name] = round(time.monotonic() - started)
            (work / "seconds.json").write_text(json.dumps(seconds))

rows = []
for folder in options.test:
    test = pt.get_dataset(f"folder:{folder}")
    first = pt.io.read_results(str(Path(folder) / "runs" / "bm25.txt.gz")).merge(test.get_topics(), on="qid")
    texts = pd.DataFrame(test.get_corpus_iter(verbose=False))[["docno", "text"]]
    first = first.sort_values(["qid", "rank"]).groupby("qid").head(options.depth).merge(texts, on="docno")
    runs, figures = {"BM25": first}, {}
    if "pointwise" in systems:
        runs["pointwise"] = ptd.PointwiseTeacher(f"{work}/pointwise", verbose=True)(first)
    if "pairwise" in systems:
        settings = {"n_pairs": options.n_pairs, "both_orders": True, "max_length": options.max_length}
        both = ptd.PairwiseTeacher(f"{work}/pairwise", verbose=True, **settings)
        runs["pairwise"] = both(first)
        figures["inconsistency"] = both.inconsistency
    for name, run in runs.items():
        figures[name] = pt.Evaluate(run, test.get_qrels(), [nDCG @ 10])["nDCG@10"]
    rows.append({"test": Path(folder).name, **{name: round(value, 4) for name, value in figures.items()}})
    print(json.dumps(rows[-1]), flush=True)
settings = {n: v for n, v in vars(options).items() if n not in ("out", "test", "train", "work", "model", "only")}
report(
    {
        "train": Path(options.train).name,
        "settings": settings,
        "training_seconds": seconds,
        "rows": rows,
    },
    options.out,
)
