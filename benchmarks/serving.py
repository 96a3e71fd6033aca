"""Serving one query at a time on a CPU: torch in bf16 and float32, ONNX Runtime and OpenVINO, in int8 too.

Milliseconds to encode a query (all in turns), and nDCG@10 over an index of the collection's documents, which torch
encoded. Queries from which OpenVINO takes the range of numbers are sentences of documents, not the test queries.
"""

import argparse
import tempfile
from pathlib import Path

from common import report
from harness import measure

parser = argparse.ArgumentParser()
parser.add_argument("--collection", default="irds:vaswani")
parser.add_argument("--encoder", default=None, help="a bi-encoder; default: all-MiniLM-L6-v2")
parser.add_argument("--rounds", type=int, default=20)
parser.add_argument("--block", type=float, default=0.5)
parser.add_argument("--tries", type=int, default=2)
parser.add_argument("--out")
options = parser.parse_args()

import ir_measures  # noqa: E402
import pyterrier_dr  # noqa: E402
from ir_measures import nDCG  # noqa: E402

import pyterrier_distill as ptd  # noqa: E402
from pyterrier_distill.corpora.loading import load_collection  # noqa: E402
from pyterrier_distill.demo.distil import default_teacher  # noqa: E402

collection = load_collection(options.collection)
work = Path(tempfile.mkdtemp())
student = ptd.BiEncoder(options.encoder or default_teacher())
exact = ptd.BiEncoder(options.encoder or default_teacher(), precision="fp32")
met = (ptd.SpanQueries(1, seed=1) >> ptd.explode_queries())(collection.documents.sample(300, random_state=1))
systems = {"torch, bf16": student, "torch, float32": exact}
for format in ("onnx", "openvino"):
    systems[format] = exact.export(format, work / format)
    systems[f"{format}, int8"] = exact.export(format, work / f"{format}8", quantize="int8", texts=met["query"].tolist())

index = pyterrier_dr.FlexIndex(str(work / "documents.flex"), verbose=False)
(student >> index.indexer(mode="overwrite")).index(collection.documents.to_dict("records"))
qrels = collection.qrels.rename(columns={"qid": "query_id", "docno": "doc_id", "label": "relevance"})
quality = {}
for name, system in systems.items():
    run = (system.query_encoder() >> index.np_retriever(num_results=100))(collection.topics)
    run = run[["qid", "docno", "score"]].rename(columns={"qid": "query_id", "docno": "doc_id"})
    quality[name] = round(ir_measures.calc_aggregate([nDCG @ 10], qrels, run)[nDCG @ 10], 4)

queries = collection.topics["query"].tolist()


def asking(system):
    place = [0]

    def one():
        system.encode_queries([queries[place[0] % len(queries)]])
        place[0] += 1
        return 1

    return one


how = {"rounds": options.rounds, "block": options.block, "tries": options.tries}
speed = measure({name: asking(system) for name, system in systems.items()}, "torch, bf16", dtype="float32", **how)
speed["milliseconds a query"] = {name: round(1000 / rate, 2) for name, rate in speed.pop("work a second").items()}
sizes = {
    name: sum(path.stat().st_size for path in (work / name.replace(", int8", "8") / name.split(",")[0]).iterdir())
    for name in systems
    if not name.startswith("torch")
}
what = f"{collection.name}, {len(queries)} queries, one at a time, with torch in bf16 as the measure"
report({"what": what, "nDCG@10": quality, "bytes": sizes, **speed}, options.out)
