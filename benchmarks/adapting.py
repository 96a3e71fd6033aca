"""What a collection's documents alone add to a student that was distilled elsewhere.

Distils two layers of a sentence encoder, for queries, on the real queries of a general collection; then adapts it to
each other collection with ``ptd.adapt``: queries made from its documents without a language model, filtered or not, and
its own unlabelled training queries. All adaptations take the same number of steps. Rows in --out are not made again.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import pandas as pd
import pyterrier as pt
import pyterrier_dr
from common import machine
from pyterrier.measures import R, nDCG
from scipy.stats import ttest_rel

import pyterrier_distill as ptd
from pyterrier_distill.corpora.loading import Collection, load_collection
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
MEASURES = [nDCG @ 10, R @ 100]

original = ptd.BiEncoder(options.model or default_teacher())


class Site:
    """A collection with what adaptation to it needs.

    Args:
        collection: documents, and topics and judgements to test on.
    """

    def __init__(self, collection: Collection):
        self.name = collection.name.replace(":", "-").replace("/", "-")
        self.collection = collection
        self.documents = collection.documents.to_dict("records")
        self.lexical = ptd.bm25(work / self.name / "bm25", self.documents, num_results=100)
        self.index = pyterrier_dr.FlexIndex(str(work / self.name / "teacher.flex"), verbose=False)
        if not self.index.built():
            (original >> self.index).index(self.documents)
        self.teacher = ptd.BiEncoder(original, doc_index=self.index)
        texts = collection.documents[["docno", "text"]]
        load_text = pt.apply.generic(lambda found: found.merge(texts, on="docno"), required_columns=["docno"])
        self.candidates = original.query_encoder() >> self.index.np_retriever(num_results=options.depth) >> load_text

    def student(self, start: ptd.BiEncoder) -> ptd.BiEncoder:
        """A copy of a query encoder, its documents the teacher's."""
        return ptd.BiEncoder(start, doc_encoder=original, freeze_docs=True, doc_index=self.index)

    def measured(self, pipeline: pt.Transformer) -> dict[str, dict[str, float]]:
        table = pt.Evaluate(pipeline(self.collection.topics), self.collection.qrels, MEASURES, perquery=True)
        return {qid: {str(m): round(value, 4) for m, value in row.items()} for qid, row in table.items()}

    def retrieved(self, encoder: ptd.BiEncoder) -> pt.Transformer:
        return encoder.query_encoder() >> self.index.np_retriever(num_results=100)


def adapted(site: Site, start: ptd.BiEncoder, name: str, seed: int, *, steps: int, rate: float, **queries) -> tuple:
    """The student, how many queries it was trained on, and seconds; a second seed finds the labels of the first."""
    student = site.student(start)
    loss = ptd.EmbeddingMatch() + ptd.KLDivergence(temperature=TEMPERATURE)
    settings = {"steps": steps, "learning_rate": rate, "queries_per_batch": options.queries_per_batch, "dropout": 0.0}
    where = work / site.name / name.replace(", ", "-").replace(" ", "-")
    started = time.perf_counter()
    ptd.adapt(
        student, site.teacher, site.collection.documents, where, candidates=site.candidates, depth=options.depth,
        loss=loss, seed=seed, checkpoints=None, verbose=False, **queries, **settings,
    )  # fmt: skip
    return student, student.manifest["queries"], round(time.perf_counter() - started, 1)


def ways(site: Site, train: pd.DataFrame) -> dict[str, dict]:
    """Name → what ``adapt`` is given; the filters count what they remove."""
    spans, phrases = ptd.SpanQueries(options.each, seed=42), ptd.KeyphraseQueries(options.each)
    consistent = ptd.ConsistencyFilter(site.lexical, options.consistent)
    return {
        "spans": {"generator": spans},
        "spans, consistent": {"generator": spans, "filters": consistent},
        "titles": {"generator": ptd.TitleQueries()},
        "keyphrases": {"generator": phrases},
        "keyphrases, consistent": {"generator": phrases, "filters": consistent},
        "its training queries": {"topics": train},
    }


def keep(row: dict) -> None:
    rows.append(row)
    print(json.dumps({n: v for n, v in row.items() if n != "per_query"}), flush=True)
    if options.out:
        draft = Path(options.out).with_suffix(".draft")
        content = {"machine": machine(), "settings": settings, "summary": summary(), "rows": rows}
        draft.write_text(json.dumps(content) + "\n")
        os.replace(draft, options.out)


def summary() -> list[dict]:
    """Means over seeds; p of a paired t-test over queries (each query's value its mean over seeds) against "before"."""
    lines = []
    for collection in dict.fromkeys(row["collection"] for row in rows):
        tables: dict[str, list[pd.DataFrame]] = {}
        for row in (row for row in rows if row["collection"] == collection):
            tables.setdefault(row["name"], []).append(pd.DataFrame(row["per_query"]).T)
        for name, found in tables.items():
            line = {"collection": collection, "name": name, "seeds": len(found)}
            line["queries"] = next(r["queries"] for r in rows if (r["collection"], r["name"]) == (collection, name))
            for measure in found[0]:
                mean = pd.concat([table[measure] for table in found], axis=1).mean(axis=1)
                line[measure] = round(float(mean.mean()), 4)
                if "before" in tables and name != "before":
                    before = pd.concat([t[measure] for t in tables["before"]], axis=1).mean(axis=1).reindex(mean.index)
                    line[f"{measure} p"] = float(f"{ttest_rel(mean, before).pvalue:.2g}")
            lines.append(line)
    return lines


settings = {n: v for n, v in vars(options).items() if n not in ("out", "work", "model", "seeds", "only", "general")}
settings["general"] = Path(options.general).name
rows: list[dict] = []
if options.out and Path(options.out).exists():
    earlier = json.loads(Path(options.out).read_text())
    if earlier["settings"] != settings:
        parser.error(f"{options.out} holds rows of other settings: choose another --out.")
    rows = earlier["rows"]
done = {(row["collection"], row["name"], row["seed"]) for row in rows}

general = work / "general-student"
if not (general / "pt_meta.json").exists():
    home = Site(load_collection(f"folder:{options.general}"))
    topics = pt.get_dataset(f"folder:{options.general}/train").get_topics()
    rate, steps = options.general_rate, options.general_steps
    cut = ptd.BiEncoder.truncated(original, options.layers)
    found, _, seconds = adapted(home, cut, "general", 1, steps=steps, rate=rate, topics=topics)
    found.save(str(general))
    print(f"general student: {seconds} s", flush=True)
start = ptd.BiEncoder(str(general), doc_encoder=original, freeze_docs=True)

for name in options.collections:
    site = Site(load_collection(f"{name}/test"))
    for label, pipeline in (
        ("BM25", site.lexical),
        ("teacher", site.retrieved(site.teacher)),
        ("two layers as cut", site.retrieved(site.student(ptd.BiEncoder.truncated(original, options.layers)))),
        ("before", site.retrieved(site.student(start))),
    ):
        if (name, label, 0) not in done:
            row = {"collection": name, "name": label, "seed": 0, "queries": 0}
            keep({**row, "per_query": site.measured(pipeline)})
    train = load_collection(f"{name}/train").topics
    for seed in options.seeds:
        for label, queries in ways(site, train).items():
            if (name, label, seed) in done or (options.only and label not in options.only):
                continue
            rate, steps = options.learning_rate, options.steps
            student, used, seconds = adapted(site, start, label, seed, steps=steps, rate=rate, **queries)
            row = {"collection": name, "name": label, "seed": seed, "queries": used, "seconds": seconds}
            if "filters" in queries:
                row["removed"] = queries["filters"].removed
                row["seen"] = queries["filters"].seen
            keep({**row, "per_query": site.measured(site.retrieved(student))})
print(pd.DataFrame(summary()).to_string())
