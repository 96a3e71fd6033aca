"""What a collection's documents alone add to a student that was distilled elsewhere.

Distils two layers of a sentence encoder, for queries, on the real queries of a general collection; then adapts it to
each other collection with ``ptd.adapt``: queries made from its documents without a language model, filtered or not, and
its own unlabelled training queries. All adaptations take the same number of steps. Rows in --out are not made again.
"""

import argparse
import tempfile
import time
from pathlib import Path

import pandas as pd
import pyterrier as pt
from sites import Rows, Site

import pyterrier_distill as ptd
from pyterrier_distill.corpora.loading import load_collection
from pyterrier_distill.demo.distil import default_teacher

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--general", required=True, help="folder with corpus and training queries")
parser.add_argument("--collections", nargs="+", default=["irds:beir/scifact", "irds:beir/nfcorpus"])
parser.add_argument("--model", help="a sentence encoder; None = the built-in one")
parser.add_argument("--layers", type=int, nargs="+", default=[0, 5])
parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
parser.add_argument("--general-steps", type=int, default=600)
parser.add_argument("--steps", type=int, default=400)
parser.add_argument("--queries-per-batch", type=int, default=64)
parser.add_argument("--general-rate", type=float, default=6e-4)
parser.add_argument("--learning-rate", type=float, default=3e-4)
parser.add_argument("--depth", type=int, default=50, help="documents whose scores by the teacher are learnt")
parser.add_argument("--each", type=int, default=2, help="spans and phrases of a document")
parser.add_argument("--consistent", type=int, default=3, help="k of the consistency filter, whose retriever is BM25")
parser.add_argument("--only", nargs="+", help="names of rows")
parser.add_argument("--work", help="directory of indexes and labels; None = a temporary one")
parser.add_argument("--out")
options = parser.parse_args()
work = Path(options.work or tempfile.mkdtemp())
TEMPERATURE = 0.05
original = ptd.BiEncoder(options.model or default_teacher())
cut = ptd.BiEncoder.truncated(original, options.layers)


def adapted(site: Site, begin: ptd.BiEncoder, name: str, seed: int, *, steps: int, rate: float, **queries):
    """The student and what to tell of it; a second seed finds the labels of the first."""
    student = site.student(begin)
    loss = ptd.EmbeddingMatch() + ptd.KLDivergence(temperature=TEMPERATURE)
    settings = {"steps": steps, "learning_rate": rate, "queries_per_batch": options.queries_per_batch, "dropout": 0.0}
    started = time.perf_counter()
    ptd.adapt(
        student, site.teacher, site.collection.name, site.directory / name.replace(", ", "-").replace(" ", "-"),
        candidates=site.candidates(original), depth=options.depth, loss=loss, seed=seed, checkpoints=None,
        verbose=False, **queries, **settings,
    )  # fmt: skip
    told = {"queries": student.manifest["queries"], "seconds": round(time.perf_counter() - started, 1)}
    if "filters" in queries:
        told.update(seen=queries["filters"].seen, removed=queries["filters"].removed)
    return student, told


def ways(site: Site, train: pd.DataFrame) -> dict[str, dict]:
    """Name → what ``adapt`` is given; the filters count what they remove."""
    spans, phrases = ptd.SpanQueries(options.each, seed=42), ptd.KeyphraseQueries(options.each)
    consistent = [ptd.ConsistencyFilter(site.lexical, options.consistent) for _ in range(2)]
    return {
        "spans": {"generator": spans},
        "spans, consistent": {"generator": spans, "filters": consistent[0]},
        "titles": {"generator": ptd.TitleQueries()},
        "keyphrases": {"generator": phrases},
        "keyphrases, consistent": {"generator": phrases, "filters": consistent[1]},
        "its training queries": {"topics": train},
    }


settings = {n: v for n, v in vars(options).items() if n not in ("out", "work", "model", "seeds", "only", "general")}
rows = Rows(options.out, {**settings, "general": Path(options.general).name}, against="before")
general = work / "general-student"
if not (general / "pt_meta.json").exists():
    home = Site(load_collection(f"folder:{options.general}"), original, work, options.depth)
    topics = pt.get_dataset(f"folder:{options.general}/train").get_topics()
    rate, steps = options.general_rate, options.general_steps
    adapted(home, cut, "general", 1, steps=steps, rate=rate, topics=topics)[0].save(str(general))
start = ptd.BiEncoder(str(general), doc_encoder=original, freeze_docs=True)

for name in options.collections:
    site = Site(load_collection(f"{name}/test"), original, work, options.depth)
    rows.add(name, "BM25", 0, lambda site=site: {"queries": 0, "per_query": site.measured(site.lexical)})
    for label, encoder in (("teacher", original), ("two layers as cut", cut), ("before", start)):
        student = site.student(encoder)
        rows.add(name, label, 0, lambda site=site, s=student: {"queries": 0, "per_query": site.retrieved(s)})
    train = load_collection(f"{name}/train").topics
    for seed in options.seeds:
        for label, queries in ways(site, train).items():

            def make(site=site, label=label, seed=seed, queries=queries) -> dict:
                rate, steps = options.learning_rate, options.steps
                student, told = adapted(site, start, label, seed, steps=steps, rate=rate, **queries)
                return {**told, "per_query": site.retrieved(student)}

            if not options.only or label in options.only:
                rows.add(name, label, seed, make)
print(pd.DataFrame(rows.summary()).to_string())
