"""Frames to lists: rows a second and memory over the number of rows, ten documents a query."""

import argparse
import gc
import statistics
import time

import numpy as np
import pandas as pd
from common import report

import pyterrier_distill as ptd
from pyterrier_distill.training.lists import read_lists

parser = argparse.ArgumentParser()
parser.add_argument("--most", type=int, default=1_000_000)
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--out")
options = parser.parse_args()


def resident():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS:")) / 1024


def frame(rows):
    number = np.arange(rows)
    texts = [f"text of document {n}, some words long, as passages are, and then some more words" for n in number]
    return pd.DataFrame(
        {
            "qid": (number // 10).astype(str),
            "query": [f"query {n}" for n in number // 10],
            "docno": number.astype(str),
            "text": texts,
            "score": -(number % 10).astype(float),
            "rank": number % 10,
            "teacher_score": np.random.default_rng(0).normal(size=rows),
        }
    )


sizes = [10**n for n in range(2, 9) if 10**n <= options.most]
frames = {rows: frame(rows) for rows in sizes}
loss = ptd.KLDivergence()
seconds = {rows: [] for rows in sizes}
memory = {}
for turn in range(options.rounds + 1):
    for rows in sizes:
        gc.collect()
        before, began = resident(), time.process_time()
        repeats = max(1, 20_000 // rows)
        for _ in range(repeats):
            lists = read_lists(frames[rows], loss, "text", ranked=True)
        took = (time.process_time() - began) / repeats
        if turn:
            seconds[rows].append(took)
        else:
            memory[rows] = (resident() - before) * 2**20 / rows
        del lists
report(
    {
        "what": "read_lists, 10 documents a query, KLDivergence, with rankings; processor time, medians of rounds",
        "rows a second": {rows: round(rows / statistics.median(values)) for rows, values in seconds.items()},
        "bytes a row beyond the frame": {rows: round(memory[rows]) for rows in sizes if rows >= 100_000},
    },
    options.out,
)
