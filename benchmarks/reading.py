"""PairDistill's two files read into a LabelStore: rows a second and memory, whatever order the rows are in."""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import report

import pyterrier_distill as ptd

DOCUMENTS, PAIRS, BLOCK = 100, 50, 20_000


def write(folder: Path, rows: int, scattered: bool) -> None:
    """Files of 100 documents and 50 pairs a query, and of the queries; scattered: a query's rows stand far apart."""
    rng = np.random.default_rng(0)
    queries = rows // (DOCUMENTS + PAIRS)
    with open(folder / "topics.tsv", "w") as topics:
        topics.writelines(f"{n}\twhat is {n} and where does one find it\n" for n in range(queries))
    with open(folder / "pointwise.tsv", "w") as points, open(folder / "pairwise.tsv", "w") as pairs:
        for start in range(0, queries * DOCUMENTS, BLOCK):
            n = np.arange(start, min(start + BLOCK, queries * DOCUMENTS))
            qids, places = (n % queries, n // queries) if scattered else (n // DOCUMENTS, n % DOCUMENTS)
            logits = rng.normal(0, 5, (len(n), 2))
            for qid, place, (true, false) in zip(qids.tolist(), places.tolist(), logits.tolist(), strict=True):
                points.write(f"{qid}\t{_docno(qid, place)}\t{true:.6f}\t{false:.6f}\n")
                if place % 2:
                    pairs.write(f"{qid}\t{_docno(qid, place)}\t{_docno(qid, place - 1)}\t{false:.6f}\t{true:.6f}\n")


def _docno(qid: int, place: int) -> int:
    return (qid * 7919 + place * 104_729) % 8_841_823


def read(folder: Path) -> dict[str, float]:
    """Seconds, memory at its most, and what the store holds."""
    before = _peak()
    started = time.perf_counter()
    files = [folder / "pointwise.tsv", folder / "pairwise.tsv"]
    store = ptd.LabelStore.from_files(folder / "store", files, topics=folder / "topics.tsv", verbose=False)
    seconds = time.perf_counter() - started
    peak, pairs = _peak(), 0
    for frame in store:
        pairs += sum(map(len, frame["teacher_prefs"]))
    size = sum(file.stat().st_size for file in (folder / "store").rglob("*.parquet"))
    return {
        "rows": store.documents + pairs, "queries": len(store), "documents": store.documents, "pairs": pairs,
        "seconds": round(seconds, 1), "rows_a_second": round((store.documents + pairs) / seconds),
        "peak_gib": peak, "imported_gib": before, "bytes_a_row": round(size / (store.documents + pairs), 1),
        "input_mib": round(sum(file.stat().st_size for file in files) / 2**20),
    }  # fmt: skip


def _peak() -> float:
    """Most memory this process has had, GiB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


parser = argparse.ArgumentParser()
parser.add_argument("--millions", type=float, nargs="+", default=[1, 5])
parser.add_argument("--work", default=None, help="directory for the data; None = a temporary one")
parser.add_argument("--out")
parser.add_argument("--part", help=argparse.SUPPRESS)  # the folder: read it in a process of its own
options = parser.parse_args()

if options.part:
    print(json.dumps(read(Path(options.part))))
else:
    rows = []
    for millions in options.millions:
        for scattered in (False, True):
            folder = Path(tempfile.mkdtemp(dir=options.work))
            try:
                write(folder, round(millions * 1e6), scattered)
                command = [sys.executable, __file__, "--part", str(folder)]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    raise SystemExit(done.stderr)
                order = "scattered" if scattered else "by query"
                rows.append({"millions": millions, "order": order, **json.loads(done.stdout.splitlines()[-1])})
                print(json.dumps(rows[-1]), flush=True)
            finally:
                shutil.rmtree(folder)
    report({"rows": rows}, options.out)
