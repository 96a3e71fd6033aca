"""A pair classifier beside a pointwise cross-encoder, trained from one checkpoint on one set of judgements.

Trains on the training queries of a collection in BEIR layout, first against random documents, then against negatives
mined by the checkpoint itself; re-ranks the top of a stored first stage of another, and prints nDCG@10. From a sentence
encoder, a pair classifier that sees hard negatives only stays at a loss of ln 2 for hundreds of steps.
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
parser.add_argument("--pairs-per-query", type=int, default=2)
parser.add_argument("--n-pairs", type=int, default=None, help="pairs compared a test query, each in both orders")
parser.add_argument("--negatives", type=int, default=4)
parser.add_argument("--ranks", type=int, nargs=2, default=(5, 1000), help="of negatives, from 2")
parser.add_argument("--easy-queries", type=int, default=1500, help="queries of the first stage")
parser.add_argument("--max-length", type=int, default=192, help="tokens of a query and two documents")
parser.add_argument("--learning-rate", type=float, default=1e-4)
parser.add_argument("--seed", type=int, default=42)
parser.add_argument("--work", help="where the models are kept, and reused if there; None = a temporary directory")
parser.add_argument("--out")
options = parser.parse_args()


def easy(frame: pd.DataFrame, qrels: pd.DataFrame) -> pd.DataFrame:
    """Some of the queries, their negatives exchanged between queries."""
    frame = frame[frame["qid"].isin(frame["qid"].unique()[: options.easy_queries])].reset_index(drop=True)
    judged = set(zip(qrels["qid"], qrels["docno"], strict=True))
    negatives = [n for n, key in enumerate(zip(frame["qid"], frame["docno"], strict=True)) if key not in judged]
    order = random.Random(options.seed).sample(negatives, len(negatives))
    mixed = frame.copy()
    mixed.loc[negatives, ["docno", "text"]] = frame.loc[order, ["docno", "text"]].to_numpy()
    return mixed.drop_duplicates(["qid", "docno"])


def candidates(dataset) -> pd.DataFrame:
    """Each query's relevant document, and others from the checkpoint's ranking, their ranks drawn log-uniformly."""
    encoder = ptd.BiEncoder(default_teacher(), max_length=128)
    documents = pd.DataFrame(dataset.get_corpus_iter(verbose=False))
    topics, qrels = dataset.get_topics(), dataset.get_qrels()
    relevant = qrels[qrels["label"] > 0].groupby("qid")["docno"].agg(set).to_dict()
    topics = topics[topics["qid"].isin(relevant)]
    scores = encoder.encode_queries(topics["query"].tolist()) @ encoder.encode_docs(documents["text"].tolist()).T
    docnos, texts = documents["docno"].to_numpy(), dict(zip(documents["docno"], documents["text"], strict=True))
    rng, rows = random.Random(options.seed), []
    for qid, query, line in zip(topics["qid"], topics["query"], scores, strict=True):
        ranked = [d for d in docnos[np.argsort(-line)[: options.ranks[1]]] if d not in relevant[qid]]
        low, high = options.ranks[0] - 1, len(ranked) - 1
        drawn: dict[str, None] = {}
        while len(drawn) < options.negatives:
            drawn[ranked[round(low * (high / low) ** rng.random())]] = None
        for docno in [*sorted(relevant[qid])[:1], *drawn]:
            rows.append((qid, query, docno, texts[docno]))
    return pd.DataFrame(rows, columns=["qid", "query", "docno", "text"])


def pointwise(stages: list[pd.DataFrame], qrels: pd.DataFrame, path: str) -> None:
    """sentence-transformers' own trainer: binary cross-entropy on the documents that the pairs hold."""
    from datasets import Dataset
    from sentence_transformers import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss

    judged = set(zip(qrels["qid"], qrels["docno"], strict=True))
    rows = []
    for frame in stages:
        for _, group in frame.groupby("qid", sort=False):
            for row in group.iloc[: 1 + options.pairs_per_query].itertuples():
                rows.append((row.query, row.text, float((row.qid, row.docno) in judged)))
    data = Dataset.from_dict(dict(zip(("query", "text", "label"), map(list, zip(*rows, strict=True)), strict=True)))
    model = CrossEncoder(default_teacher(), num_labels=1, max_length=256, device="cpu")
    arguments = CrossEncoderTrainingArguments(
        output_dir=path, per_device_train_batch_size=32, learning_rate=options.learning_rate, warmup_ratio=0.1,
        bf16=True, num_train_epochs=1, save_strategy="no", report_to="none", seed=options.seed, logging_steps=50,
        use_cpu=True,
    )  # fmt: skip
    CrossEncoderTrainer(model, arguments, data, loss=BinaryCrossEntropyLoss(model)).train()
    model.save_pretrained(path)


def pairwise(stages: list[pd.DataFrame], qrels: pd.DataFrame, path: str) -> None:
    """The classifier, stage by stage; prints the losses."""
    training = ptd.PairTraining(learning_rate=options.learning_rate, pairs_per_query=options.pairs_per_query)
    teacher = ptd.PairwiseTeacher(
        default_teacher(), kind="classifier", training=training, max_length=options.max_length, verbose=True
    )
    for stage in stages:
        teacher.fit(stage, qrels)
        print("loss:", [round(entry["loss"], 3) for entry in teacher.history if "loss" in entry], flush=True)
    teacher.save(path)


work = Path(options.work or tempfile.mkdtemp())
seconds = json.loads((work / "seconds.json").read_text()) if (work / "seconds.json").exists() else {}
if len(seconds) < 2:
    dataset = pt.get_dataset(f"folder:{options.train}/train")
    frame, judged = candidates(dataset), dataset.get_qrels()
    for train in (pairwise, pointwise):
        if train.__name__ not in seconds:
            started = time.monotonic()
            train([easy(frame, judged), frame], judged, str(work / train.__name__))
            seconds[train.__name__] = round(time.monotonic() - started)
            (work / "seconds.json").write_text(json.dumps(seconds))

rows = []
for folder in options.test:
    test = pt.get_dataset(f"folder:{folder}")
    first = pt.io.read_results(str(Path(folder) / "runs" / "bm25.txt.gz")).merge(test.get_topics(), on="qid")
    texts = pd.DataFrame(test.get_corpus_iter(verbose=False))[["docno", "text"]]
    first = first[first["rank"] < options.depth].merge(texts, on="docno")
    point = ptd.PointwiseTeacher(f"{work}/pointwise", verbose=True)
    both = ptd.PairwiseTeacher(
        f"{work}/pairwise", n_pairs=options.n_pairs, both_orders=True, max_length=options.max_length, verbose=True
    )
    runs = {"BM25": first, "pointwise": point(first), "pairwise": both(first)}
    figures = {name: pt.Evaluate(run, test.get_qrels(), [nDCG @ 10])["nDCG@10"] for name, run in runs.items()}
    figures["inconsistency"] = both.inconsistency
    rows.append({"test": Path(folder).name, **{name: round(value, 4) for name, value in figures.items()}})
    print(json.dumps(rows[-1]), flush=True)
settings = {n: v for n, v in vars(options).items() if n not in ("out", "test", "train", "work")}
report(
    {
        "train": Path(options.train).name,
        "settings": settings,
        "training_seconds": seconds,
        "rows": rows,
    },
    options.out,
)
