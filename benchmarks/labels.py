"""A LabelStore at size: pair labels written, opened, streamed, with memory and bytes a label, from 1 to 40 million."""

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from common import report

import pyterrier_distill as ptd

PAIRS, DOCUMENTS, BLOCK = 50, 60, 10_000


def blocks(queries: int) -> Iterator[pd.DataFrame]:
    """Labelled frames of ten thousand queries: 60 documents each, 50 preferences among them."""
    rng = np.random.default_rng(0)
    for start in range(0, queries, BLOCK):
        count = min(BLOCK, queries - start)
        qids = np.repeat([f"q{start + n}" for n in range(count)], DOCUMENTS)
        numbers = rng.integers(0, 8_841_823, size=(count, DOCUMENTS))
        docnos = numbers.astype(str).astype(object)
        first = np.argsort(rng.random((count, DOCUMENTS)), axis=1)[:, :PAIRS]
        second = (first + rng.integers(1, DOCUMENTS, size=first.shape)) % DOCUMENTS
        p = rng.random(first.shape)
        cells: list[dict[str, float]] = [{} for _ in range(count * DOCUMENTS)]
        for n in range(count):
            names, base = docnos[n], n * DOCUMENTS
            for i, j, value in zip(first[n].tolist(), second[n].tolist(), p[n].tolist(), strict=True):
                cells[base + i][names[j]] = value
        frame = pd.DataFrame({"qid": qids, "docno": docnos.ravel(), "teacher_prefs": cells})
        yield frame.assign(query="what is " + frame["qid"]).drop_duplicates(["qid", "docno"], ignore_index=True)


def peak_gib() -> float:
    """Most memory this process has had."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def write(path: str, queries: int) -> dict[str, float]:
    """Seconds of ``add`` alone, and labels a second."""
    store, seconds, labels = ptd.LabelStore(path), 0.0, 0
    for frame in blocks(queries):
        labels += sum(map(len, frame["teacher_prefs"]))
        started = time.perf_counter()
        store.add(frame)
        seconds += time.perf_counter() - started
    size = sum(file.stat().st_size for file in Path(path).rglob("*.parquet"))
    return {
        "labels": labels, "labels_a_second": round(labels / seconds), "bytes_a_label": round(size / labels, 1),
        "write_peak_gib": peak_gib(),
    }  # fmt: skip


def read(path: str) -> dict[str, float]:
    """Seconds to open, labels a second in training order, memory at its most."""
    started = time.perf_counter()
    store = ptd.LabelStore(path)
    queries = len(store)
    opened = time.perf_counter() - started
    started, labels = time.perf_counter(), 0
    for frame in store.lists(seed=1):
        labels += sum(map(len, frame["teacher_prefs"]))
    seconds = time.perf_counter() - started
    return {
        "queries": queries, "open_seconds": round(opened, 2), "streamed_labels_a_second": round(labels / seconds),
        "read_peak_gib": peak_gib(),
    }  # fmt: skip


parser = argparse.ArgumentParser()
parser.add_argument("--millions", type=float, nargs="+", default=[1, 5, 40])
parser.add_argument("--work", default=None, help="directory for the stores; None = a temporary one")
parser.add_argument("--out")
parser.add_argument("--part", nargs=3, help=argparse.SUPPRESS)  # what, path, queries: in a process of its own
options = parser.parse_args()

if options.part:
    import json

    what, path, queries = options.part
    print(json.dumps(write(path, int(queries)) if what == "write" else read(path)))
else:
    import json

    rows = []
    for millions in options.millions:
        folder = tempfile.mkdtemp(dir=options.work)
        row: dict[str, float] = {"millions": millions}
        for what in ("write", "read"):
            part = [what, f"{folder}/store", str(round(millions * 1e6 / PAIRS))]
            done = subprocess.run(
                [sys.executable, __file__, "--part", *part], capture_output=True, text=True, check=True
            )
            row.update(json.loads(done.stdout.splitlines()[-1]))
        shutil.rmtree(folder)
        rows.append(row)
        print(json.dumps(row), flush=True)
    report({"rows": rows}, options.out)
