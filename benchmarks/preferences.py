"""What several orders of one list by an LLM teach a bi-encoder: as preferences, as one distribution, as one order.

Five RankGPT orders of BM25's top 100 (runs ``teacher.rankgpt35.bm25.1`` to ``.5``) train the same checkpoint by
PairwiseKL on the share of orders that put i before j, by KLDivergence on minus the mean rank, by RankNet on the mean
order: the same lists, steps and seeds. The query encoder learns, documents keep the vectors of the checkpoint. Each set
of queries is the test of the other's training: BM25's top 100 re-ranked. Rows in --out are not made again.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import pandas as pd
import pyterrier as pt
import pyterrier_dr
from common import machine, over_seeds
from pyterrier.measures import RR, nDCG

import pyterrier_distill as ptd
from pyterrier_distill.demo.distil import default_teacher

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--sets", nargs=2, required=True, help="two folders with topics, qrels and runs")
parser.add_argument("--teachers", nargs="+", default=[f"rankgpt35.bm25.{n}" for n in range(1, 6)])
parser.add_argument("--model", help="a bi-encoder; None = the built-in one")
parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
parser.add_argument("--steps", type=int, default=100)
parser.add_argument("--queries-per-batch", type=int, default=16)
parser.add_argument("--learning-rate", type=float, default=5e-5)
parser.add_argument("--temperature", type=float, default=0.05, help="of the student's cosines")
parser.add_argument("--spread", type=float, default=10.0, help="ranks by which KLDivergence's teacher falls by e")
parser.add_argument("--depth", type=int, default=100)
parser.add_argument("--max-length", type=int, default=128)
parser.add_argument("--work", help="directory of the document vectors; None = a temporary one")
parser.add_argument("--out")
options = parser.parse_args()
MEASURES = [nDCG @ 10, RR(rel=2) @ 10]


def losses() -> dict[str, ptd.losses.base.Loss]:
    t = options.temperature
    return {
        "PairwiseKL": ptd.PairwiseKL(temperature=t),
        "KLDivergence": ptd.KLDivergence(temperature=t),
        "RankNet": ptd.RankNet(temperature=t),
    }


def read(folder: str) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Candidates with text (R), the same with all three labels, and judgements."""
    dataset = pt.get_dataset(f"folder:{folder}")
    runs = Path(folder) / "runs"
    bm25 = pt.io.read_results(str(runs / "bm25.txt.gz"))
    bm25 = bm25[bm25["rank"] < options.depth + bm25["rank"].min()].merge(dataset.get_topics(), on="qid")
    candidates = dataset.text_loader("text")(bm25)
    orders = [ptd.RunTeacher(runs / f"teacher.{name}.txt.gz") for name in options.teachers]
    labelled = ptd.OrdersTeacher(orders)(candidates)
    ranks = [order(candidates).set_index(["qid", "docno"])["teacher_rank"] for order in orders]
    mean = pd.concat(ranks, axis=1).mean(axis=1).rename("mean").reset_index()
    labelled = labelled.merge(mean, on=["qid", "docno"])
    order = labelled.groupby("qid")["mean"].rank(method="average") - 1
    score = -labelled["mean"] / options.spread * options.temperature  # KLDivergence divides both by the temperature
    return candidates, labelled.assign(teacher_score=score, teacher_rank=order), dataset.get_qrels()


def per_query(run: pd.DataFrame, qrels: pd.DataFrame) -> dict[str, dict[str, float]]:
    table = pt.Evaluate(run, qrels, MEASURES, perquery=True)
    return {qid: {str(measure): round(value, 4) for measure, value in row.items()} for qid, row in table.items()}


def student() -> ptd.BiEncoder:
    return ptd.BiEncoder(before, doc_encoder=before, freeze_docs=True, doc_index=index)


def summary() -> list[dict]:
    """Means over seeds, and p-values."""
    lines = []
    for test in sorted({row["test"] for row in rows}):
        own = [row for row in rows if row["test"] == test]
        systems = dict.fromkeys(row["system"] for row in own)
        tables = {system: [row["per_query"] for row in own if row["system"] == system] for system in systems}
        lines += [{"test": test, **line} for line in over_seeds(tables, ("before", "PairwiseKL"))]
    return lines


def keep(row: dict) -> None:
    rows.append(row)
    print(json.dumps({name: value for name, value in row.items() if name != "per_query"}), flush=True)
    if options.out:
        draft = Path(options.out).with_suffix(".draft")
        told = {"machine": machine(), "settings": settings, "summary": summary(), "rows": rows}
        draft.write_text(json.dumps(told) + "\n")
        os.replace(draft, options.out)


settings = {n: v for n, v in vars(options).items() if n not in ("out", "work", "model", "seeds", "sets")}
rows: list[dict] = []
if options.out and Path(options.out).exists():
    earlier = json.loads(Path(options.out).read_text())
    if earlier["settings"] != settings:
        parser.error(f"{options.out} holds rows of other settings: choose another --out.")
    rows = earlier["rows"]
done = {(row["system"], row["test"], row["seed"]) for row in rows}
sets = {Path(folder).name: read(folder) for folder in options.sets}
before = ptd.BiEncoder(options.model or default_teacher(), max_length=options.max_length)
index = pyterrier_dr.FlexIndex(str(Path(options.work or tempfile.mkdtemp()) / "documents.flex"))
if not index.built():
    texts = pd.concat([candidates for candidates, _, _ in sets.values()]).drop_duplicates("docno")
    (before >> index).index(texts[["docno", "text"]].to_dict("records"))
for test, (candidates, _, qrels) in sets.items():
    for system, pipeline in {"BM25": lambda frame: frame, "before": student()}.items():
        if (system, test, 0) not in done:
            row = {"system": system, "test": test, "seed": 0, "per_query": per_query(pipeline(candidates), qrels)}
            keep(row)
for seed in options.seeds:
    for test, (candidates, _, qrels) in sets.items():
        labelled = next(other for name, (_, other, _) in sets.items() if name != test)
        for system, loss in losses().items():
            if (system, test, seed) in done:
                continue
            model, started = student(), time.perf_counter()
            batches = {"steps": options.steps, "queries_per_batch": options.queries_per_batch, "dropout": 0.0}
            distiller = ptd.Distiller(
                model, loss, learning_rate=options.learning_rate, seed=seed, verbose=False, **batches
            )
            distiller.fit(labelled)
            seconds = round(time.perf_counter() - started, 1)
            found = per_query(model(candidates), qrels)
            keep({"system": system, "test": test, "seed": seed, "seconds": seconds, "per_query": found})
print(pd.DataFrame(summary()).to_string(index=False))
