"""Memory of a MultiVectorIndex: peak resident set while a million token vectors are written, compressed, searched.

Each step's peak is what it adds to the process that has loaded torch; a step above its bound ends the script with an
error. Compressing needs fast-plaid beside the torch that it was built for; else that step is left out.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from common import report

parser = argparse.ArgumentParser()
parser.add_argument("--tokens", type=int, default=1_000_000)
parser.add_argument("--length", type=int, default=50, help="tokens of a document")
parser.add_argument("--nbits", type=int, default=2)
parser.add_argument("--write-mib", type=int, default=64, help="bound of writing float16 vectors")
parser.add_argument("--search-mib", type=int, default=1024, help="bound of an exact search, mapped vectors included")
parser.add_argument("--compress-mib", type=int, default=5120, help="bound of writing compressed vectors")
parser.add_argument("--out")
options = parser.parse_args()

import torch  # noqa: E402

import pyterrier_distill as ptd  # noqa: E402
from pyterrier_distill.multi_vector.plaid import check_engine  # noqa: E402

DIMENSION, TOPICS = 128, 2000
STATUS = Path("/proc/self/status")


def resident(name):
    """MiB of VmRSS (now) or VmHWM (highest since the last reset)."""
    return int(STATUS.read_text().split(f"{name}:")[1].split()[0]) / 1024


def documents(count):
    """Documents around 2,000 directions, made one by one."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(TOPICS, DIMENSION)).astype(np.float32)
    for number in range(count):
        vectors = centres[rng.integers(0, TOPICS, options.length)]
        vectors = vectors + 0.6 * rng.normal(size=vectors.shape).astype(np.float32)
        yield {"docno": f"d{number}", "doc_embs": vectors / np.linalg.norm(vectors, axis=1, keepdims=True)}


def measured(run, bound):
    """What a step gives, and its figures."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest so far
    before, started = resident("VmRSS"), time.perf_counter()
    value = run()
    told = {
        "seconds": round(time.perf_counter() - started, 1),
        "peak_mib": round(resident("VmHWM") - before),
        "bound_mib": bound,
    }
    print(told, flush=True)
    return value, told


def size(path):
    return sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file())


count = options.tokens // options.length
queries = pd.DataFrame(
    {
        "qid": [str(number) for number in range(8)],
        "query_embs": [document["doc_embs"][:32] for document in documents(8)],
    }
)
list(documents(100))
ptd.MultiVectorIndex(tempfile.mkdtemp() + "/warm.mvi").index(documents(100)).retriever(device="cpu")(queries)
figures: dict[str, dict] = {}
with tempfile.TemporaryDirectory() as folder:
    index = ptd.MultiVectorIndex(f"{folder}/float16.mvi")
    _, figures["write float16"] = measured(lambda: index.index(documents(count)), options.write_mib)
    figures["write float16"]["bytes_a_token"] = round(size(index.path) / options.tokens, 1)
    search = index.retriever(num_results=100, device="cpu")
    exact, figures["search float16"] = measured(lambda: search(queries), options.search_mib)
    try:
        check_engine()
        small = ptd.MultiVectorIndex(f"{folder}/small.mvi")
        name = f"compress to {options.nbits} bits"
        _, figures[name] = measured(
            lambda: small.indexer(nbits=options.nbits).index(documents(count)), options.compress_mib
        )
        figures[name]["bytes_a_token"] = round(size(small.path) / options.tokens, 1)
        found, told = measured(
            lambda: small.retriever(num_results=100, device="cpu", engine="plaid")(queries), options.search_mib
        )
        told["of_exact_first_100"] = round(len(found.merge(exact, on=["qid", "docno"])) / len(exact), 3)
        figures["search compressed"] = told
    except ModuleNotFoundError as error:
        print(error)
result = {"tokens": options.tokens, "documents": count, "dimension": DIMENSION, "threads": torch.get_num_threads()}
report({**result, "steps": figures}, options.out)
over = [name for name, told in figures.items() if told["peak_mib"] > told["bound_mib"]]
if over:
    raise SystemExit(f"above the bound: {', '.join(over)}")
