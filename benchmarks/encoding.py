"""Encoding: the batching engine against sentence-transformers' own ``encode``, on real docstrings."""

import argparse
import random

import pyterrier as pt
from common import paired, ratios, report

parser = argparse.ArgumentParser()
parser.add_argument("--model", default=None)
parser.add_argument("--texts", type=int, default=400)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--precision", default="fp32", help="of both sides: fp32 or bf16")
parser.add_argument("--out")
options = parser.parse_args()

import torch  # noqa: E402
from sentence_transformers import SentenceTransformer  # noqa: E402

import pyterrier_distill as ptd  # noqa: E402
from pyterrier_distill.demo.distil import default_teacher  # noqa: E402

path = options.model or default_teacher()
texts = [document["text"] for document in pt.get_dataset("pydocs:test").get_corpus_iter(verbose=False)]
random.Random(0).shuffle(texts)
texts = texts[: options.texts]
peer = SentenceTransformer(path)
ours = ptd.BiEncoder(path, precision=options.precision)


def theirs(batch_size):
    def run():
        with torch.autocast(peer.device.type, torch.bfloat16, enabled=options.precision == "bf16"):
            peer.encode(texts, batch_size=batch_size, show_progress_bar=False)

    return run


seconds = paired(
    {
        "pyterrier_distill": lambda: ours.encode_docs(texts),
        "sentence-transformers, batch 32 (its default)": theirs(32),
        "sentence-transformers, batch 8": theirs(8),
        "sentence-transformers, batch 128": theirs(128),
    },
    options.rounds,
)
report(
    {
        "what": f"{len(texts)} docstrings, {options.precision}, model {path.rsplit('/', 2)[-2]}",
        "texts_per_second": {name: round(len(texts) / min(values), 1) for name, values in seconds.items()},
        "times_as_fast_as": ratios(seconds, "pyterrier_distill"),
    },
    options.out,
)
