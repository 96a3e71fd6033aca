"""Prompts that share a beginning, which is read once: few-shot queries, query likelihood, yes or no.

This project as it is against itself reading each prompt whole, in turns. ``queries`` writes a query for each passage
behind three examples (InPars); ``likelihood`` asks how likely several queries are behind each passage, as a filter of
generated queries does; ``yes or no`` and its few-shot form ask whether passages are relevant to a query.
"""

import argparse
import inspect
import json
import random
import statistics
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt
import torch
from common import machine
from harness import measure

import pyterrier_distill as ptd
from pyterrier_distill.engine import prefixes

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--folder", required=True, help="with documents and topics")
parser.add_argument("--model", required=True, help="a language model: directory, GGUF file or hub name")
parser.add_argument("--precision", default="bf16")
parser.add_argument("--threads", type=int, default=1, help="more wait for each other where others use the machine")
parser.add_argument("--documents", type=int, default=40, help="that queries are written for")
parser.add_argument("--passages", type=int, default=8, help="that each of as many queries is asked about")
parser.add_argument("--rounds", type=int, default=4)
parser.add_argument("--tries", type=int, default=1)
parser.add_argument("--only", nargs="*", help="parts of the names of what is measured; None = everything")
parser.add_argument("--out", required=True)
options = parser.parse_args()

torch.set_num_threads(options.threads)
dataset = pt.get_dataset(f"folder:{options.folder}")
documents = pd.DataFrame(dataset.get_corpus_iter(verbose=False))[["docno", "text"]]
documents = documents.sample(options.documents, random_state=0, ignore_index=True)
topics = dataset.get_topics()["query"].tolist()
random.Random(0).shuffle(topics)
queries, passages = topics[: options.passages], documents["text"][: options.passages].tolist()
pairs = pd.DataFrame(
    [(f"q{q}", query, f"d{d}", text) for q, query in enumerate(queries) for d, text in enumerate(passages)],
    columns=["qid", "query", "docno", "text"],
).assign(score=0.0, rank=0)

backends = {precision: ptd.HF(options.model, precision=precision) for precision in {options.precision, "fp32"}}
shares = prefixes._shares
#: Inputs of which results are compared.
SOME = 6


@contextmanager
def reading_whole():
    """Within, no beginning is shared."""
    prefixes._shares = lambda model: False
    try:
        yield
    finally:
        prefixes._shares = shares


def tokens_read(llm: Any, work: Callable[[], Any]) -> int:
    """How many tokens the model reads for ``work``, without padding and without those it writes."""
    read, real = [0], llm.model.forward

    def forward(*args: Any, **settings: Any) -> Any:
        ids = settings["input_ids"]
        if ids.shape[1] > 1:
            read[0] += int(settings["attention_mask"][:, -ids.shape[1] :].sum())
        return real(*args, **settings)

    forward.__signature__ = inspect.signature(real)  # type: ignore[attr-defined]
    llm.model.forward = forward
    try:
        work()
    finally:
        del llm.model.forward
    return read[0]


def queries_of(llm: Any, some: int | None = None) -> Callable[[], pd.DataFrame]:
    generator = ptd.SyntheticQueryGen(llm, "inpars")
    return lambda: generator.transform(documents.head(some or len(documents)))


def labelled(teacher: Any, some: int | None) -> Callable[[], np.ndarray]:
    asked = pairs.head(some or len(pairs))
    return lambda: teacher.transform(asked).sort_values(["qid", "docno"])["teacher_score"].to_numpy()


def likelihood(llm: Any, some: int | None = None) -> Callable[[], np.ndarray]:
    return labelled(ptd.PointwiseTeacher(llm, kind="query_likelihood"), some)


def yes_no(llm: Any, some: int | None = None) -> Callable[[], np.ndarray]:
    return labelled(ptd.PointwiseTeacher(llm), some)


def few_shot_yes_no(llm: Any, some: int | None = None) -> Callable[[], np.ndarray]:
    shown = "".join(
        f"Query: {query}\nDocument: {' '.join(text.split()[:50])}\nRelevant: {'No' if n % 2 else 'Yes'}\n\n"
        for n, (query, text) in enumerate(zip(topics[-3:], documents["text"][-3:], strict=True))
    ).replace("{", "(").replace("}", ")")  # fmt: skip
    return labelled(ptd.PointwiseTeacher(llm, prompt=shown + "Query: {query}\nDocument: {document}\nRelevant:"), some)


def compared(kind: str, precision: str) -> dict[str, Any]:
    """How much results of some inputs differ between shared and whole reading, and between two whole ones."""
    llm = backends[precision]
    work = SYSTEMS[kind](llm, SOME)
    shared = work()
    with reading_whole():
        whole = work()
        llm.batch_size = 3
        other = work()
        llm.batch_size = None
    told: dict[str, Any] = {}
    for name, found in (("shared and whole", shared), ("both whole, in other batches", other)):
        if isinstance(found, pd.DataFrame):
            told[f"equal texts, {name}"] = round(float((found["querygen"] == whole["querygen"]).mean()), 3)
        else:
            told[f"largest difference, {name}"] = float(f"{np.abs(found - whole).max():.2g}")
    return told


def written() -> dict[str, Any]:
    path = Path(options.out)
    return json.loads(path.read_text()) if path.exists() else {}


SYSTEMS = {"queries": queries_of, "likelihood": likelihood, "yes or no": yes_no, "yes or no, few-shot": few_shot_yes_no}
for kind, make in SYSTEMS.items():
    if options.only and not any(part in kind for part in options.only):
        continue
    row: dict[str, Any] = {"precision": options.precision}
    row["documents" if kind == "queries" else "pairs"] = len(documents) if kind == "queries" else len(pairs)
    work = make(backends[options.precision])
    size = float(len(documents) if kind == "queries" else len(pairs))

    read = {}

    spent: dict[str, list[float]] = {"shared": [], "whole": []}

    def timed(name: str, work: Callable[[], Any] = work, read: dict = read, spent: dict = spent) -> None:
        started = time.process_time()
        read[name] = tokens_read(backends[options.precision], work)
        spent[name].append(time.process_time() - started)

    def ours(timed: Callable[[str], None] = timed, size: float = size) -> float:
        timed("shared")
        return size

    def whole(timed: Callable[[str], None] = timed, size: float = size) -> float:
        with reading_whole():
            timed("whole")
        return size

    row |= measure({"shared": ours, "whole": whole}, "shared", rounds=options.rounds, tries=options.tries)
    # Where others use the machine, less so than by the clock.
    row["times as fast by processor time"] = round(
        statistics.median(spent["whole"][1:]) / statistics.median(spent["shared"][1:]), 2
    )
    row["tokens saved"] = round(1 - read["shared"] / read["whole"], 3)
    row |= {precision: compared(kind, precision) for precision in sorted({options.precision, "fp32"})}
    print(json.dumps({kind: row}, indent=1), flush=True)
    content = {"machine": machine(), "folder": Path(options.folder).name}
    told = {**written().get("rows", {}), kind: row}
    Path(options.out).write_text(json.dumps({**content, "rows": told}, indent=1) + "\n")
