"""Which modes of a USTAD must be trained for which to rank well: the seven subsets of the paper's Table 1.

Trains one checkpoint on lists of a relevant document and negatives, for each subset of modes and seed, and re-ranks
BM25's top of the test queries in every mode. Negatives are BM25's, as far as it finds any, and random ones: a sentence
encoder that meets hard negatives only does not learn to read pairs. Rows that are in --out already are not made again.
"""

import argparse
import itertools
import json
import os
import random
import tempfile
import time
from pathlib import Path

import pandas as pd
import pyterrier as pt
from common import machine, report
from pyterrier.measures import RR, nDCG

import pyterrier_distill as ptd
from pyterrier_distill.corpora.loading import load_collection
from pyterrier_distill.demo.distil import default_teacher
from pyterrier_distill.engine.checkpoints import fingerprint

MODES = ("cross", "late", "dual")  # in the order of the paper's columns
SUBSETS = ["+".join(modes) for n in (1, 2, 3) for modes in itertools.combinations(MODES, n)]
MEASURES = [nDCG @ 10, RR @ 10]

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--train", default="irds:beir/nfcorpus/train")
parser.add_argument("--test", default="irds:beir/nfcorpus/test")
parser.add_argument("--model", help="a checkpoint; None = the built-in one")
parser.add_argument("--modes", nargs="+", default=SUBSETS, help=f"subsets to train, of {', '.join(SUBSETS)}")
parser.add_argument("--seeds", type=int, nargs="+", default=[1])
parser.add_argument("--steps", type=int, default=100)
parser.add_argument("--queries-per-batch", type=int, default=8)
parser.add_argument("--negatives", type=int, default=5)
parser.add_argument("--random-negatives", type=int, default=3, help="how many of them are random")
parser.add_argument("--negatives-depth", type=int, default=100, help="of the BM25 ranking they are drawn from")
parser.add_argument("--learning-rate", type=float, default=5e-5)
parser.add_argument("--match", type=float, default=0.1, help="weight of ScoreMatch() where several modes are trained")
parser.add_argument("--late-scale", type=float, default=0.02, help="of late scores, which are sums over tokens")
parser.add_argument("--query-length", type=int, default=32, help="tokens")
parser.add_argument("--max-length", type=int, default=160, help="tokens of query and document")
parser.add_argument("--precision", default="auto")
parser.add_argument("--depth", type=int, default=20, help="of the BM25 ranking that is re-ranked")
parser.add_argument("--queries", type=int, help="test queries, at most")
parser.add_argument("--work", help="directory of the BM25 index; None = a temporary one")
parser.add_argument("--out")
options = parser.parse_args()
if unknown := {mode for subset in options.modes for mode in subset.split("+")} - set(MODES):
    parser.error(f"no such modes: {', '.join(sorted(unknown))}; name some of {', '.join(SUBSETS)}")
if not 0 <= options.random_negatives <= options.negatives:
    parser.error("--random-negatives is how many of --negatives are random: between 0 and that.")
subsets = ["+".join(mode for mode in MODES if mode in subset.split("+")) for subset in options.modes]


def training_lists(seed: int) -> pd.DataFrame:
    """R with ``label``: as many lists as training takes, each drawn anew, one behind the other."""
    rng = random.Random(seed)
    judged = train.qrels[train.qrels["label"] > 0].groupby("qid")["docno"].agg(list).to_dict()
    relevant = {qid: [docno for docno in docnos if docno in texts] for qid, docnos in judged.items()}
    queries = dict(zip(train.topics["qid"], train.topics["query"], strict=True))
    qids = sorted(qid for qid, docnos in relevant.items() if docnos and qid in queries)
    drawn = [qid for _ in range(-(-wanted // len(qids))) for qid in rng.sample(qids, len(qids))][:wanted]
    topics = pd.DataFrame({"qid": sorted(set(drawn))})
    ranked = first_stage(topics.assign(query=topics["qid"].map(queries)))
    ranked = ranked[ranked["rank"] < options.negatives_depth].groupby("qid")["docno"].agg(list).to_dict()
    docnos, rows = sorted(texts), []
    for n, qid in enumerate(drawn):
        known = set(relevant[qid])
        pool = [docno for docno in ranked.get(qid, []) if docno not in known]
        negatives = rng.sample(pool, min(options.negatives - options.random_negatives, len(pool)))
        while len(negatives) < options.negatives:
            docno = rng.choice(docnos)
            if docno not in known and docno not in negatives:
                negatives.append(docno)
        for docno in [rng.choice(relevant[qid]), *negatives]:
            rows.append((f"{qid}-{n}", queries[qid], docno, texts[docno], int(docno in known)))
    return pd.DataFrame(rows, columns=["qid", "query", "docno", "text", "label"])


def student(modes: tuple[str, ...]) -> ptd.USTAD:
    return ptd.USTAD(
        model, modes=modes, query_length=options.query_length, max_length=options.max_length,
        scale={"late": options.late_scale}, precision=options.precision,
    )  # fmt: skip


def measured(ranking: pd.DataFrame) -> dict[str, float]:
    return {name: round(value, 4) for name, value in pt.Evaluate(ranking, qrels, MEASURES).items()}


def ranked_in_each_mode(ustad: ptd.USTAD) -> dict:
    rows: dict = {"figures": {}, "ranking_seconds": {}}
    for mode in MODES:
        started = time.perf_counter()
        rows["figures"][mode] = measured(ustad.in_mode(mode)(candidates))
        rows["ranking_seconds"][mode] = round(time.perf_counter() - started, 1)
    return rows


def trained(subset: str, seed: int) -> dict:
    modes = tuple(subset.split("+"))
    loss = ptd.LocalizedContrastive()
    if len(modes) > 1:
        loss += options.match * ptd.ScoreMatch()
    ustad = student(modes)
    settings = {"learning_rate": options.learning_rate, "seed": seed, "steps": options.steps}
    distiller = ptd.Distiller(ustad, loss, queries_per_batch=options.queries_per_batch, **settings)
    started = time.perf_counter()
    distiller.fit(training_lists(seed))
    seconds = round(time.perf_counter() - started, 1)
    losses = [round(entry["loss"], 3) for entry in distiller.history if "loss" in entry]
    return {"loss": repr(loss), "training_seconds": seconds, "losses": losses, **ranked_in_each_mode(ustad)}


def kept() -> list[dict]:
    """The rows of an earlier run with the same settings."""
    if not options.out or not Path(options.out).exists():
        return []
    earlier = json.loads(Path(options.out).read_text())
    if earlier["settings"] != settings:
        changed = [name for name in settings if earlier["settings"].get(name) != settings[name]]
        parser.error(f"{options.out} holds rows of other settings ({', '.join(changed)}): choose another --out.")
    return earlier["rows"]


def keep(row: dict) -> None:
    rows.append(row)
    print(json.dumps(row), flush=True)
    if options.out:
        draft = Path(options.out).with_suffix(".draft")
        draft.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps({"machine": machine(), "settings": settings, "rows": rows}, indent=2) + "\n")
        os.replace(draft, options.out)


model = options.model or default_teacher()
wanted = options.steps * options.queries_per_batch
settings = {n: v for n, v in vars(options).items() if n not in ("out", "work", "model", "modes", "seeds")}
settings["weights"] = fingerprint(student(MODES).model)
rows = kept()
done = {(row["trained"], row["seed"]) for row in rows}

train, test = load_collection(options.train), load_collection(options.test)
texts = dict(zip(train.documents["docno"], train.documents["text"], strict=True))
test_texts = dict(zip(test.documents["docno"], test.documents["text"], strict=True))
work = Path(options.work or tempfile.mkdtemp())


def bm25(name: str, documents: pd.DataFrame, depth: int) -> pt.Transformer:
    return ptd.bm25(work / name, documents.to_dict("records"), num_results=depth)


first_stage = bm25("train.bm25", train.documents, options.negatives_depth)
test_stage = first_stage if texts == test_texts else bm25("test.bm25", test.documents, options.depth)
topics = test.topics[test.topics["qid"].isin(set(test.qrels["qid"]))].head(options.queries)
qrels = test.qrels[test.qrels["qid"].isin(set(topics["qid"]))]
candidates = test_stage(topics)
candidates = candidates[candidates["rank"] < options.depth].reset_index(drop=True)
candidates["text"] = candidates["docno"].map(test_texts)

if ("nothing", None) not in done:
    first = {"trained": "nothing", "seed": None, "BM25": measured(candidates)}
    keep({**first, "test_queries": len(topics), "pairs": len(candidates), **ranked_in_each_mode(student(MODES))})
for seed, subset in itertools.product(options.seeds, subsets):
    if (subset, seed) not in done:
        keep({"trained": subset, "seed": seed, **trained(subset, seed)})

table = pd.DataFrame(
    {"trained": row["trained"], "seed": row["seed"], **{mode: row["figures"][mode]["nDCG@10"] for mode in MODES}}
    for row in rows
)
print(table.groupby("trained", sort=False)[list(MODES)].mean().round(4).to_string())
report({"settings": settings, "rows": rows}, options.out)
