"""Training in bf16: how many times as fast as sentence-transformers' trainers, with equal losses and memory.

Lists of 8, 32 or 100 documents to a cross-encoder by RankNet, query vectors to a two-layer encoder by embedding
matching, pairs to a bi-encoder with in-batch negatives. Both sides run their own trainers, on the same texts, batches
and optimiser steps, made to stand still between two steps, so that they take turns; sentence-transformers computes
with the best of several mini-batch sizes, where its loss has one. ``--curves`` trains both on one batch again and
again, without dropout, and tells the loss of each step; ``--memory`` tells the largest memory of each alone.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import report
from harness import Stepped, measure

parser = argparse.ArgumentParser()
parser.add_argument("--collections", type=Path, required=True, help="of BEIR folders, dl19 among them")
parser.add_argument("--only", default="", help="names of what is measured, between commas; default: all")
parser.add_argument("--rounds", type=int, default=20)
parser.add_argument("--tries", type=int, default=2)
parser.add_argument("--block", type=float, default=1.0)
parser.add_argument("--threads", type=int, default=0)
parser.add_argument("--dropout", type=float, default=None, help="of both sides; default: the checkpoint's own")
parser.add_argument("--curves", action="store_true")
parser.add_argument("--memory", action="store_true")
parser.add_argument("--profile", action="store_true", help="where the time of our steps goes")
parser.add_argument("--alone", default="", help="'ours' or 'theirs': eight steps of one, for --memory")
parser.add_argument("--out")
options = parser.parse_args()

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import pyterrier as pt  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from datasets import Dataset  # noqa: E402
from sentence_transformers import (  # noqa: E402
    CrossEncoder,
    CrossEncoderTrainer,
    CrossEncoderTrainingArguments,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.cross_encoder.losses import RankNetLoss  # noqa: E402
from sentence_transformers.sentence_transformer.losses import (  # noqa: E402
    EmbedDistillLoss,
    MultipleNegativesRankingLoss,
)

import pyterrier_distill as ptd  # noqa: E402
from pyterrier_distill.demo.distil import default_teacher  # noqa: E402
from pyterrier_distill.training import trainer as training  # noqa: E402

if options.threads:
    torch.set_num_threads(options.threads)
CHECKPOINT = default_teacher()
MANY = 1_000_000  # steps; nobody waits for the last
RATE = 2e-5


class Stepping(transformers.TrainerCallback):
    """Calls a function after each step, and keeps the losses that are logged."""

    def __init__(self, pause):
        self.pause, self.losses = pause, []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in (logs or {}):
            self.losses.append(float(logs["loss"]))

    def on_step_end(self, args, state, control, **kwargs):
        self.pause()


def texts():
    dataset = pt.get_dataset(f"folder:{options.collections / 'dl19'}")
    found = [document["text"] for document in dataset.get_corpus_iter(verbose=False)]
    return dataset.get_topics()["query"].tolist(), random.Random(0).sample(found, min(4000, len(found)))


def lists(depth, queries):
    """Lists of real passages, in an order that nobody meant: what is learnt does not change the speed."""
    topics, passages = texts()
    draw = random.Random(depth)
    rows = []
    for n in range(queries):
        for rank, text in enumerate(draw.sample(passages, depth)):
            rows.append((f"q{n}", topics[n % len(topics)], f"q{n}d{rank}", text, float(-rank)))
    frame = pd.DataFrame(rows, columns=["qid", "query", "docno", "text", "list_score"])
    return frame.assign(score=0.0, rank=frame.groupby("qid").cumcount())


def settings(arguments, batch, steps, **given):
    return arguments(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=batch, max_steps=steps, save_strategy="no",
        report_to="none", disable_tqdm=True, bf16=True, use_cpu=not torch.cuda.is_available(), learning_rate=RATE,
        weight_decay=0.01, warmup_steps=int(0.1 * steps), seed=1, logging_steps=1 if options.curves else MANY, **given,
    )  # fmt: skip


def silence(running):
    for callback in (transformers.PrinterCallback, transformers.ProgressCallback):
        running.remove_callback(callback)
    return running


def distiller(student, loss, batch, frame, steps, qrels=None):
    """Our training, as a function that is given what to call after each step."""

    def work(pause):
        stepping = Stepping(pause)
        own = training.Progress
        training.Progress = lambda show: stepping  # instead of the bar
        arguments = {"logging_steps": 1} if options.curves else None
        distil = ptd.Distiller(
            student, loss, learning_rate=RATE, queries_per_batch=batch, steps=steps, precision="bf16", verbose=False,
            dropout=options.dropout, args=arguments,
        )  # fmt: skip
        try:
            distil.fit(frame, qrels)
        finally:
            training.Progress = own
        return stepping.losses

    return work


def peer(kind, model, arguments, data, loss):
    def work(pause):
        stepping = Stepping(pause)
        modules = model.modules()
        with training.dropout(torch.nn.ModuleList(modules), options.dropout):
            silence(kind(model=model, args=arguments, train_dataset=data, loss=loss, callbacks=[stepping])).train()
        return stepping.losses

    return work


def ranking(depth, batch, steps):
    frame = lists(depth, batch if options.curves else 64)
    student = ptd.CrossEncoder(CHECKPOINT, max_length=256, device=None)
    data = Dataset.from_list(
        [
            {"query": one["query"].iloc[0], "docs": one["text"].tolist(), "labels": one["list_score"].tolist()}
            for _, one in frame.groupby("qid", sort=False)
        ]
    )
    def theirs(mini):
        model = CrossEncoder(CHECKPOINT, num_labels=1, max_length=256, activation_fn=torch.nn.Identity())
        model.load_state_dict(ptd.CrossEncoder(CHECKPOINT, max_length=256).model.state_dict())  # the same new head
        loss = RankNetLoss(model, reduction_log="natural", mini_batch_size=mini)
        return peer(CrossEncoderTrainer, model, settings(CrossEncoderTrainingArguments, batch, steps), data, loss)

    minis = {f"mini-batch {n if n > 0 else 'whole'}": n for n in (4, 8, 16, 32, -1) if n < batch * depth}
    features = student.features(list(zip(frame["query"][:300], frame["text"][:300], strict=True)))
    ours = distiller(student, ptd.RankNet("list_score"), batch, frame, steps)
    tokens = features["attention_mask"].sum(dim=1).float()
    return ours, {name: (lambda n=n: theirs(n)) for name, n in minis.items()}, batch * depth, student, tokens


def matching(batch, steps):
    topics, passages = texts()
    teacher = ptd.BiEncoder(CHECKPOINT)
    queries = [" ".join(text.split()[:9]) for text in passages[: batch if options.curves else 2048]]
    frame = teacher.query_encoder()(pd.DataFrame({"qid": [f"q{n}" for n in range(len(queries))], "query": queries}))
    student = ptd.BiEncoder.truncated(teacher, 2)
    data = Dataset.from_dict(
        {"sentence": frame["query"].tolist(), "label": np.stack(list(frame["query_vec"])).tolist()}
    )

    def theirs():
        model = ptd.BiEncoder.truncated(teacher, 2).model
        arguments = settings(SentenceTransformerTrainingArguments, batch, steps)
        return peer(SentenceTransformerTrainer, model, arguments, data, EmbedDistillLoss(model, distance_metric="l2"))

    tokens = student.tokenise(frame["query"].tolist()[:300], "query")["attention_mask"].sum(dim=1).float()
    return distiller(student, ptd.EmbeddingMatch(), batch, frame, steps), {"": theirs}, batch, student, tokens


def contrastive(batch, steps):
    topics, passages = texts()
    chosen = passages[: batch if options.curves else 1024]
    queries = [" ".join(text.split()[:9]) for text in chosen]
    frame = pd.DataFrame(
        {"qid": [f"q{n}" for n in range(len(chosen))], "query": queries, "docno": [f"d{n}" for n in range(len(chosen))],
         "text": chosen, "label": 1, "score": 0.0, "rank": 0}
    )  # fmt: skip
    student = ptd.BiEncoder(CHECKPOINT, max_length=256)
    data = Dataset.from_dict({"anchor": queries, "positive": chosen})

    def theirs():
        model = ptd.BiEncoder(CHECKPOINT, max_length=256).model
        arguments = settings(SentenceTransformerTrainingArguments, batch, steps)
        loss = MultipleNegativesRankingLoss(model, scale=20.0)
        return peer(SentenceTransformerTrainer, model, arguments, data, loss)

    read = student.tokenise(chosen[:300], "document"), student.tokenise(queries[:300], "query")
    tokens = torch.cat([part["attention_mask"].sum(dim=1) for part in read]).float()
    return distiller(student, ptd.InfoNCE(0.05), batch, frame, steps), {"": theirs}, 2 * batch, student, tokens


CASES = {
    "lists of 8, RankNet": lambda steps: ranking(8, 4, steps),
    "lists of 32, RankNet": lambda steps: ranking(32, 1, steps),
    "lists of 100, RankNet": lambda steps: ranking(100, 1, steps),
    "query vectors, embedding matching": lambda steps: matching(128, steps),
    "pairs, in-batch negatives": lambda steps: contrastive(32, steps),
}


def flop(student, tokens):
    """Of training on an input, by mean: three times those of reading it."""
    config = student.model[0].auto_model.config
    layers = [m for n, m in student.model.named_modules() if isinstance(m, torch.nn.Linear) and ".layer." in n]
    weights = sum(layer.weight.numel() for layer in layers)
    hidden, depth = config.hidden_size, config.num_hidden_layers
    return float(3 * (2 * tokens * weights + 4 * depth * hidden * tokens**2).mean())


def stepped(work, inputs):
    running = Stepped(work)

    def one():
        running.step()
        return inputs

    return one


def measured(case):
    ours, found, inputs, student, tokens = CASES[case](MANY)
    mine = stepped(ours, inputs)
    each = flop(student, tokens)
    systems = {f"sentence-transformers {name}".strip(): stepped(make(), inputs) for name, make in found.items()}
    if len(systems) > 1:  # the best two of a trial
        seconds = {}
        for name, step in systems.items():
            step()
            began = time.perf_counter()
            step(), step()
            seconds[name] = time.perf_counter() - began
        systems = {name: systems[name] for name in sorted(systems, key=seconds.get)[:2]}
    if options.profile:
        profile(mine)
    everything = {"ours": mine, **systems}
    told = {"inputs of a step": inputs, "mean tokens": round(float(tokens.mean()), 1), "FLOP of an input": each}
    return told | measure(
        everything, "ours", rounds=options.rounds, block=options.block, flop=dict.fromkeys(everything, each),
        tries=options.tries,
    )  # fmt: skip


def profile(step):
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    step()
    with record(activities=[ProfilerActivity.CPU]) as seen:  # of all threads
        step(), step()
    print(seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=50))


def curves(case, steps=20):
    """The loss of each step, on the same batch, both from the same weights."""
    ours, found, *_ = CASES[case](steps)
    last = list(found.values())[-1]
    nothing = lambda: None  # noqa: E731
    mine, theirs = ours(nothing), last()(nothing)
    apart = [abs(a - b) for a, b in zip(mine, theirs, strict=False)]
    return {"ours": mine, "sentence-transformers": theirs, "most apart": float(f"{max(apart):.3g}")}


def alone():
    ours, found, *_ = CASES[options.only](8)
    work = ours if options.alone == "ours" else found[max(found)]()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    work(lambda: None)
    print(json.dumps({"MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, "before": before}))


def memory(case):
    told = {}
    for who in ("ours", "theirs"):
        command = [sys.executable, __file__, "--collections", str(options.collections), "--only", case, "--alone", who]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        told[who] = json.loads(done.stdout.splitlines()[-1])
    return told


if options.alone:
    alone()
    sys.exit()
chosen = [name for name in CASES if not options.only or any(part.strip() in name for part in options.only.split(";"))]
result = {"what": f"training in bf16, {Path(CHECKPOINT).parts[-2]}, dropout {options.dropout or 'of the checkpoint'}"}
for case in chosen:
    if options.curves or options.memory or len(chosen) == 1:
        result[case] = (curves if options.curves else memory if options.memory else measured)(case)
    else:  # a training has its process for itself until it ends, and these do not
        part = tempfile.mktemp(suffix=".json")
        given = [argument for argument in sys.argv[1:] if argument not in ("--out", options.out)]
        if subprocess.run([sys.executable, __file__, *given, "--only", case, "--out", part]).returncode == 0:
            result[case] = json.loads(Path(part).read_text())[case]
    print(case, json.dumps(result.get(case)), flush=True)
report(result, options.out)
