"""How much of the teacher's nDCG@10 the demo's student keeps: collections × seeds, one row each."""

import argparse
import json
from pathlib import Path

from common import machine

from pyterrier_distill.demo.distil import demo

parser = argparse.ArgumentParser()
parser.add_argument(
    "--datasets", nargs="+", default=["irds:vaswani", "irds:beir/scifact/test", "irds:beir/nfcorpus/test"]
)
parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
parser.add_argument("--queries", type=int, default=None)
parser.add_argument("--work", default="distill-kept", help="directory for indexes and students")
parser.add_argument("--out")
options = parser.parse_args()

rows = []
for dataset in options.datasets:
    for seed in options.seeds:
        out = Path(options.work) / dataset.replace(":", "-").replace("/", "-")
        table = demo(dataset, seed=seed, queries=options.queries, out=out).set_index("name")
        run = json.loads((out / "run.json").read_text())
        rows.append(
            {
                "dataset": dataset,
                "seed": seed,
                "queries": run["settings"]["queries"],
                "label_and_train_seconds": run["seconds"]["label"] + run["seconds"]["train"],
                **{name: round(table["nDCG@10"][name], 4) for name in table.index},
                "share": round(table["share"]["student"], 4),
                "p": float(table["nDCG@10 p-value"]["student"]),
                "encode_ms": run["encode_ms"],
            }
        )
        print(json.dumps(rows[-1]), flush=True)
        if options.out:
            Path(options.out).write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2) + "\n")
