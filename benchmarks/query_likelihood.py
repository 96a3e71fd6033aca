"""What a small language model knows about relevance: query likelihood beside yes or no, pairs and orders.

Re-ranks BM25's top of each query with one language model asked in four ways, as it comes: how likely the query is
behind the passage, whether the passage is relevant, which of two passages is more relevant (in both orders), and in
which order a window of passages stands. Fuses the likelihood with BM25 and a bi-encoder. Pairs and orders are asked of
the first queries alone. What --out holds already is not made again.
"""

import argparse
import json
import logging
import time
from pathlib import Path

import pandas as pd
import pyterrier as pt
from common import machine
from pyterrier.measures import nDCG
from scipy.stats import ttest_rel

import pyterrier_distill as ptd
from pyterrier_distill.demo.distil import default_teacher

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--folders", nargs="+", required=True, help="with topics, qrels and runs/bm25.txt.gz")
parser.add_argument("--model", required=True, help="a language model: directory, GGUF file or hub name")
parser.add_argument("--bi-encoder", help="a checkpoint; None = the built-in one")
parser.add_argument("--depth", type=int, default=20, help="of BM25's ranking")
parser.add_argument("--queries", type=int, help="the first of each folder; None = all")
parser.add_argument("--few", type=int, default=4, help="queries that are asked about in pairs and windows")
parser.add_argument("--deep-queries", type=int, default=0, help="the first of each folder, re-ranked to --deep as well")
parser.add_argument("--deep", type=int, default=100)
parser.add_argument("--n-pairs", type=int, default=20)
parser.add_argument("--max-length", type=int, default=512)
parser.add_argument("--out", required=True)
options = parser.parse_args()

warned: list[str] = []


class Warned(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        warned.append(record.getMessage().partition(": ")[2] or record.getMessage())


logging.getLogger("pyterrier_distill").addHandler(Warned())
settings = {n: v for n, v in vars(options).items() if n not in ("out", "model", "folders", "bi_encoder")}
settings["folders"] = [Path(folder).name for folder in options.folders]
rows: list[dict] = []
if Path(options.out).exists():
    earlier = json.loads(Path(options.out).read_text())
    if earlier["settings"] != settings:
        parser.error(f"{options.out} holds rows of other settings: choose another --out.")
    rows = earlier["rows"]


def candidates(folder: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """BM25's rankings with text, and judgements."""
    dataset = pt.get_dataset(f"folder:{folder}")
    run = pt.io.read_results(str(Path(folder) / "runs" / "bm25.txt.gz")).sort_values(["qid", "rank"])
    texts = pd.DataFrame(dataset.get_corpus_iter(verbose=False))[["docno", "text"]]
    kept = sorted(run["qid"].unique())[: options.queries]
    run = run[run["qid"].isin(kept)].merge(dataset.get_topics(), on="qid").merge(texts, on="docno", how="left")
    return run.sort_values(["qid", "rank"], ignore_index=True), dataset.get_qrels()


def top(run: pd.DataFrame, depth: int, queries: int | None = None) -> pd.DataFrame:
    return run[run["qid"].isin(sorted(run["qid"].unique())[:queries]) & (run["rank"] < depth + run["rank"].min())]


def keep(folder: str, system: str, ranked: pd.DataFrame, qrels: pd.DataFrame, seconds: float = 0.0, **more) -> None:
    """Note a system's nDCG@10 of each query."""
    table = pt.Evaluate(ranked, qrels[qrels["qid"].isin(ranked["qid"])], [nDCG @ 10], perquery=True)
    per_query = {qid: round(values["nDCG@10"], 4) for qid, values in table.items()}
    row = {"folder": folder, "system": system, "queries": len(per_query), "cpu_seconds": round(seconds, 1), **more}
    row["nDCG@10"] = round(sum(per_query.values()) / len(per_query), 4)
    row["warnings"] = list(warned)
    warned.clear()
    print(json.dumps(row), flush=True)
    rows.append({**row, "per_query": per_query})
    write()


def write() -> None:
    content = {"machine": machine(), "settings": settings, "significance": significance(), "rows": rows}
    Path(options.out).write_text(json.dumps(content, indent=1) + "\n")


def significance() -> list[dict]:
    """p of paired t-tests over the queries of all folders, against BM25's ranking of the same queries and depth."""
    found = []
    for system in dict.fromkeys(row["system"] for row in rows):
        pairs = [
            (value, other["per_query"][qid])
            for row in rows if row["system"] == system
            for other in rows if other["folder"] == row["folder"] and other["system"] == first_stage(system)
            for qid, value in row["per_query"].items() if qid in other["per_query"]
        ]  # fmt: skip
        if system != first_stage(system) and len(pairs) > 2:
            mine, first = zip(*pairs, strict=True)
            line = {"system": system, "queries": len(pairs), "nDCG@10": round(sum(mine) / len(mine), 4)}
            line["BM25"] = round(sum(first) / len(first), 4)
            found.append({**line, "p": round(float(ttest_rel(mine, first).pvalue), 4)})
    return found


def first_stage(system: str) -> str:
    return f"BM25, top {system.rpartition(', top ')[2]}"


llm = ptd.HF(options.model, max_length=options.max_length, precision="fp32")
done = {(row["folder"], row["system"]) for row in rows}
likely = ptd.PointwiseTeacher(llm, kind="query_likelihood", label="teacher_score_likelihood")
for folder in options.folders:
    name, (run, qrels) = Path(folder).name, candidates(folder)
    for depth, queries in ((options.depth, None), (options.deep, options.deep_queries)):
        if queries == 0 or (name, f"all fused, top {depth}") in done:
            continue
        frame = top(run, depth, queries).assign(teacher_score_bm25=lambda f: f["score"])
        keep(name, f"BM25, top {depth}", frame, qrels)
        started = time.process_time()
        frame = likely(frame)
        keep(name, f"query likelihood, top {depth}", frame, qrels, time.process_time() - started)
        dense = ptd.PointwiseTeacher(
            ptd.BiEncoder(options.bi_encoder or default_teacher(), precision="fp32"), label="teacher_score_dense"
        )
        started = time.process_time()
        frame = dense(frame)
        keep(name, f"bi-encoder, top {depth}", frame, qrels, time.process_time() - started)
        columns = {"likelihood": "teacher_score_likelihood", "BM25": "teacher_score_bm25"}
        columns["bi-encoder"] = "teacher_score_dense"
        for parts in (("likelihood", "BM25"), ("likelihood", "bi-encoder"), ("BM25", "bi-encoder"), tuple(columns)):
            fused = ptd.fuse_teachers(*(columns[part] for part in parts))(frame)
            label = "all" if len(parts) == 3 else " and ".join(parts)
            keep(name, f"{label} fused, top {depth}", fused, qrels)
    frame = top(run, options.depth)
    few = top(run, options.depth, options.few)
    ways = {
        "pairs": (ptd.PairwiseTeacher(llm, n_pairs=options.n_pairs, both_orders=True), few),
        "orders": (ptd.ListwiseLLMTeacher(llm, constrained=True, n_permutations=2, max_words=60), few),
        "yes or no": (ptd.PointwiseTeacher(llm), frame),
    }
    for way, (teacher, asked) in ways.items():
        system = f"{way}, top {options.depth}"
        if (name, system) in done:
            continue
        started = time.process_time()
        ranked = teacher(asked)
        seconds, said = time.process_time() - started, getattr(teacher, "inconsistency", None)
        more = {} if said is None else {"inconsistency": round(said, 4)}
        more |= {"responses": dict(teacher.responses)} if way == "orders" else {}
        keep(name, system, ranked, qrels, seconds, **more)
print(json.dumps(significance(), indent=1))
