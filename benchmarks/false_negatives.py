"""Precision and recall of a teacher's score as a filter of false negatives, against verdicts of LLMs.

Reads files of queries whose hard negatives an LLM has judged (RLHN): better than the positive, relevant but worse, or
not relevant. A teacher scores all of them; a FalseNegativeFilter removes candidates at several limits; what it removes
is held against the verdicts. To remove at random has the precision that is called prevalence, at any recall.
Intervals are 95% bootstraps over queries.
"""

import argparse
import gzip
import json
import logging
import time
from pathlib import Path

import numpy as np
import pandas as pd
from common import report
from scipy.stats import rankdata

import pyterrier_distill as ptd
from pyterrier_distill.demo.distil import default_teacher

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--verdicts", required=True, help="directory of *.jsonl.gz as castorini/rlhn writes them")
parser.add_argument("--model", help="a sentence-transformers checkpoint; None = the built-in one")
parser.add_argument("--max-length", type=int, default=256, help="tokens of a text")
parser.add_argument("--max-ratios", type=float, nargs="+", default=[0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1])
parser.add_argument("--margins", type=float, nargs="+", default=[0.2, 0.15, 0.1, 0.05, 0.0, -0.05])
parser.add_argument("--thresholds", type=float, nargs="+", default=[0.4, 0.5, 0.6, 0.7, 0.8])
parser.add_argument("--samples", type=int, default=2000, help="of the bootstrap")
parser.add_argument("--seed", type=int, default=42)
parser.add_argument("--out")
options = parser.parse_args()
logging.disable(logging.WARNING)
#: What counts as a false negative: the verdict is at least this.
TARGETS = {"better": 2, "better or relevant": 1}


def judged(path: Path) -> pd.DataFrame:
    """R with text, label (1 = positive, 0 = candidate) and verdict (2 = better than it, 1 = relevant, 0 = not)."""
    rows = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in map(json.loads, lines):
            verdicts = dict.fromkeys(line["llm_relevant_but_worse"] or [], 1)
            verdicts |= dict.fromkeys(line["llm_better_than_pos"] or [], 2)
            documents = [(d, 1, 0) for d in line["pos"]]
            documents += [(d, 0, verdicts.get(n, 0)) for n, d in enumerate(line["neg"], 1)]
            for document, label, verdict in documents:
                text = f"{document['title']} {document['text']}".strip()
                rows.append((line["qid"], line["query"], document["docno"], text, label, verdict))
    frame = pd.DataFrame(rows, columns=["qid", "query", "docno", "text", "label", "verdict"])
    collection, judge = path.name.removesuffix(".jsonl.gz").split(".", 1)
    return frame.assign(qid=f"{collection}/{judge}/" + frame["qid"], collection=collection, judge=judge.split("_")[-1])


def measured(candidates: pd.DataFrame, removed: pd.Series, target: int) -> dict[str, object]:
    """Precision and recall, with intervals."""
    false = candidates["verdict"] >= target
    query_id = candidates["qid"].str.split("/").str[-1]  # two LLMs on one query tell little more than one
    table = pd.DataFrame({"hit": removed & false, "removed": removed, "false": false}).groupby(query_id).sum()
    hit, gone, there = (table[name].to_numpy() for name in ("hit", "removed", "false"))
    rng = np.random.default_rng(options.seed)
    drawn = rng.integers(len(table), size=(options.samples, len(table)))
    result: dict[str, object] = {}
    for name, of in (("precision", gone), ("recall", there)):
        total = of.sum()
        result[name] = None if not total else round(hit.sum() / total, 3)
        sums = of[drawn].sum(axis=1)
        shares = hit[drawn].sum(axis=1)[sums > 0] / sums[sums > 0]
        low, high = np.quantile(shares, [0.025, 0.975]) if total else (np.nan, np.nan)
        result[f"{name} 95%"] = f"{low:.3f} to {high:.3f}" if total else None
    return result


def area(scores: np.ndarray, false: np.ndarray) -> float | None:
    """Probability that a false negative scores above another candidate (area under the ROC curve)."""
    positives = int(false.sum())
    if positives in (0, len(false)):
        return None
    ranks = rankdata(scores)[false].sum()
    return round((ranks - positives * (positives + 1) / 2) / (positives * (len(false) - positives)), 3)


def summary(rows: pd.DataFrame, rules: list[tuple[str, float]]) -> dict[str, object]:
    """Counts, rates, areas, and what each rule removes."""
    candidates = rows[rows["label"] == 0]
    best = rows[rows["label"] == 1].groupby("qid")["teacher_score"].max()
    reference = candidates["qid"].map(best).to_numpy()
    scores = candidates["teacher_score"].to_numpy()
    result: dict[str, object] = {"queries": rows["qid"].nunique(), "candidates": len(candidates), "sweep": []}
    for name, target in TARGETS.items():
        false = (candidates["verdict"] >= target).to_numpy()
        kinds = {"ratio": scores / reference, "margin": scores - reference, "score": scores}
        result[name] = {
            "number": int(false.sum()),
            "queries": int(candidates.loc[false, "qid"].nunique()),
            "prevalence": round(float(false.mean()), 4),
            "area": {kind: area(values, false) for kind, values in kinds.items()},
        }
    for rule, value in rules:
        kept = ptd.FalseNegativeFilter(**{rule: value})(rows)
        removed = pd.Series(~candidates.index.isin(kept.index), index=candidates.index)
        row = {rule: value, "removed": int(removed.sum()), "share": round(float(removed.mean()), 3)}
        result["sweep"].append(row | {n: measured(candidates, removed, target) for n, target in TARGETS.items()})
    return result


def second_opinion(rows: pd.DataFrame) -> dict[str, object]:
    """One LLM's verdicts as the filter of another's, on the candidates that both have judged."""
    rows = rows[rows["label"] == 0].assign(query_id=rows["qid"].str.split("/").str[-1])
    first, second = (rows[rows["judge"] == judge] for judge in ("gpt-4o-mini", "gpt-4o"))
    both = first.merge(second[["collection", "query_id", "docno", "verdict"]], on=["collection", "query_id", "docno"],
                       suffixes=("_first", ""))  # fmt: skip
    result: dict[str, object] = {"queries": both["qid"].nunique(), "candidates": len(both)}
    for name, target in TARGETS.items():
        removed = both["verdict_first"] >= target
        prevalence = round(float((both["verdict"] >= target).mean()), 4)
        result[name] = {"prevalence": prevalence, "removed": int(removed.sum()), **measured(both, removed, target)}
    return result


paths = sorted(Path(options.verdicts).glob("*.jsonl.gz"))
if not paths:
    parser.error(f"no *.jsonl.gz in {options.verdicts}")
frame = pd.concat([judged(path) for path in paths], ignore_index=True)
encoder = ptd.BiEncoder(options.model or default_teacher(), max_length=options.max_length, precision="fp32")
started = time.perf_counter()
labelled = ptd.PointwiseTeacher(encoder)(frame)
seconds = round(time.perf_counter() - started, 1)
parts = {path.name.removesuffix(".jsonl.gz"): judged(path)["qid"].unique() for path in paths}
ratios = [("max_ratio", value) for value in options.max_ratios]
rules = [*ratios, *(("margin", value) for value in options.margins)]
rules += [("threshold", value) for value in options.thresholds]
report(
    {
        "teacher": Path(options.model).name if options.model else "all-MiniLM-L6-v2",
        "max_length": options.max_length,
        "seconds of scoring": seconds,
        "all": summary(labelled, rules),
        "files": {name: summary(labelled[labelled["qid"].isin(qids)], ratios) for name, qids in parts.items()},
        "gpt-4o-mini against gpt-4o": second_opinion(labelled),
    },
    options.out,
)
