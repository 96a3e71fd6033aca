"""What orders of LLMs teach a small cross-encoder, beside what judgements of the same documents teach it.

Trains one checkpoint twice for each seed, on the same lists for the same number of steps: with RankNet on the orders
that RankVicuna and RankGPT gave to several first stages, and with LCE on the judgements. Re-ranks BM25's top of queries
that neither has seen. Rows that are in --out already are not made again.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import pandas as pd
import pyterrier as pt
from common import machine, over_seeds
from pyterrier.measures import RR, nDCG

import pyterrier_distill as ptd
from pyterrier_distill.corpora.loading import load_collection
from pyterrier_distill.demo.distil import default_teacher

TEACHERS = [*(f"rankgpt35.bm25.{n}" for n in range(1, 6))]
TEACHERS += [f"rankvicuna.{stage}" for stage in ("bm25", "bm25_rm3", "tasb", "ada2", "splade_pp_ed")]

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--train", required=True, help="folder with topics, qrels and runs/teacher.*.txt.gz")
parser.add_argument("--test", required=True, help="folder with topics, qrels and runs/bm25.txt.gz")
parser.add_argument("--others", nargs="*", default=["irds:beir/scifact/test", "irds:beir/nfcorpus/test"])
parser.add_argument("--teachers", nargs="+", default=TEACHERS)
parser.add_argument("--model", help="a checkpoint; None = the built-in one")
parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
parser.add_argument("--steps", type=int, default=160)
parser.add_argument("--queries-per-batch", type=int, default=4)
parser.add_argument("--size", type=int, default=16, help="documents of a list that a step sees")
parser.add_argument("--learning-rate", type=float, default=1e-4)
parser.add_argument("--max-length", type=int, default=128, help="tokens of query and document")
parser.add_argument("--depth", type=int, default=100, help="of BM25's ranking of the test folder")
parser.add_argument("--other-depth", type=int, default=20, help="of BM25's ranking of the others")
parser.add_argument("--work", help="directory of the BM25 indexes; None = a temporary one")
parser.add_argument("--out")
options = parser.parse_args()
work = Path(options.work or tempfile.mkdtemp())


def training_lists() -> tuple[pd.DataFrame, pd.DataFrame]:
    """R with ``teacher_rank``, a list for each query and teacher; and judgements of these lists, relevant from 2."""
    dataset = pt.get_dataset(f"folder:{options.train}")
    texts = pd.DataFrame(dataset.get_corpus_iter(verbose=False))[["docno", "text"]]
    qrels = dataset.get_qrels()
    frames, judged = [], []
    for teacher in options.teachers:
        run = pt.io.read_results(str(Path(options.train) / "runs" / f"teacher.{teacher}.txt.gz"))
        run = run.merge(dataset.get_topics(), on="qid").merge(texts, on="docno")
        frames.append(run.assign(qid=run["qid"] + "/" + teacher, teacher_rank=run["rank"]))
        judged.append(qrels.assign(qid=qrels["qid"] + "/" + teacher, label=(qrels["label"] >= 2).astype(int)))
    return pd.concat(frames, ignore_index=True), pd.concat(judged, ignore_index=True)


def tests() -> dict[str, tuple[pd.DataFrame, pd.DataFrame]]:
    """Name → candidates with text, and judgements."""
    dataset = pt.get_dataset(f"folder:{options.test}")
    run = pt.io.read_results(str(Path(options.test) / "runs" / "bm25.txt.gz"))
    texts = pd.DataFrame(dataset.get_corpus_iter(verbose=False))[["docno", "text"]]
    run = (
        run.sort_values(["qid", "rank"])
        .groupby("qid")
        .head(options.depth)
        .merge(dataset.get_topics(), on="qid")
        .merge(texts, on="docno")
    )
    found = {Path(options.test).name: (run, dataset.get_qrels())}
    for name in options.others:
        collection = load_collection(name)
        index = work / name.replace("/", "-").replace(":", "-")
        first = ptd.bm25(index, collection.documents.to_dict("records"), num_results=options.other_depth)
        ranked = first(collection.topics).merge(collection.documents, on="docno")
        found[name] = (ranked, collection.qrels)
    return found


MEASURES = [nDCG @ 10, RR(rel=2) @ 10]


def per_query(run: pd.DataFrame, qrels: pd.DataFrame, name: str) -> dict[str, dict[str, float]]:
    measures = MEASURES if name == Path(options.test).name else [nDCG @ 10, RR @ 10]
    table = pt.Evaluate(run, qrels, measures, perquery=True)
    return {qid: {str(measure): round(value, 4) for measure, value in row.items()} for qid, row in table.items()}


def trained(system: str, seed: int) -> tuple[ptd.CrossEncoder, float, list[float]]:
    student = ptd.CrossEncoder(options.model or default_teacher(), max_length=options.max_length)
    loss = {"RankNet": ptd.RankNet(), "LCE": ptd.LocalizedContrastive()}[system]
    sampler = ptd.ListSampler(options.size, strategy="random" if system == "RankNet" else "with_positive", seed=seed)
    settings = {"steps": options.steps, "learning_rate": options.learning_rate, "seed": seed, "dropout": 0.0}
    distiller = ptd.Distiller(student, loss, sampler=sampler, queries_per_batch=options.queries_per_batch, **settings)
    frame, judged = training_lists()
    started = time.perf_counter()
    distiller.fit(frame, None if system == "RankNet" else judged)
    losses = [round(entry["loss"], 3) for entry in distiller.history if "loss" in entry]
    return student, round(time.perf_counter() - started, 1), losses


def keep(row: dict) -> None:
    rows.append(row)
    print(json.dumps({n: v for n, v in row.items() if n != "per_query"}), flush=True)
    write()


def write() -> None:
    if options.out:
        draft = Path(options.out).with_suffix(".draft")
        content = {"machine": machine(), "settings": settings, "summary": summary(), "rows": rows}
        draft.write_text(json.dumps(content) + "\n")
        os.replace(draft, options.out)


def summary() -> list[dict]:
    """Means over seeds, and p-values."""
    lines = []
    for test in sorted({test for row in rows for test in row["per_query"]}):
        tables = {
            system: [row["per_query"][test] for row in rows if row["system"] == system]
            for system in ("BM25", "LCE", "RankNet")
        }
        lines += [{"test": test, **line} for line in over_seeds(tables, ("BM25", "LCE"))]
    return lines


settings = {n: v for n, v in vars(options).items() if n not in ("out", "work", "model", "seeds", "train", "test")}
rows: list[dict] = []
if options.out and Path(options.out).exists():
    earlier = json.loads(Path(options.out).read_text())
    if earlier["settings"] != settings:
        parser.error(f"{options.out} holds rows of other settings: choose another --out.")
    rows = earlier["rows"]
done = {(row["system"], row["seed"]) for row in rows}
sets = tests()
if ("BM25", 0) not in done:
    keep({"system": "BM25", "seed": 0, "per_query": {n: per_query(run, qrels, n) for n, (run, qrels) in sets.items()}})
for seed in options.seeds:
    for system in ("RankNet", "LCE"):
        if (system, seed) in done:
            continue
        student, seconds, losses = trained(system, seed)
        found = {name: per_query(student(run), qrels, name) for name, (run, qrels) in sets.items()}
        row = {"system": system, "seed": seed, "training_seconds": seconds, "losses": losses}
        row["nDCG@10"] = {name: round(float(pd.DataFrame(t).T["nDCG@10"].mean()), 4) for name, t in found.items()}
        keep({**row, "per_query": found})
print(json.dumps(summary(), indent=1))
