"""Saved students over a suite, with tables and pictures in a directory: the command ``evaluate``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..stores.files import written
from ..students.bi_encoder.bi_encoder import BiEncoder
from . import catalogue, plots
from .comparison import Comparison
from .serving import load_student, served
from .suite import Suite

#: What ``--suite`` takes, besides ``local``.
SUITES: Mapping[str, Callable[[], Suite]] = {
    "beir": catalogue.BEIR, "nanobeir": catalogue.NanoBEIR, "trecdl": catalogue.TRECDL, "lotte": catalogue.LoTTE,
    "tirex": catalogue.TIREx,
}  # fmt: skip
FIRST_STAGE = "BM25"


def evaluate(
    students: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    *,
    suite: str = "local",
    data: Sequence[str] = (),
    teacher: str | None = None,
    baseline: str | None = FIRST_STAGE,
    measures: Sequence[str] | None = None,
    depth: int = 100,
    num_results: int = 1000,
    verbose: bool = True,
) -> Comparison:
    """Compare saved students with BM25, and write what was found.

    Interrupted and called again, it goes on where it stopped.

    Args:
        students: directories of saved students; their names are those of the systems.
        out: a directory for runs, ``table.md``, ``table.tex``, ``table.html``, ``results.csv``, ``per_query.csv``,
            ``costs.csv``, ``quality_ms.png``, ``quality_parameters.png`` and ``differences.png``.
        suite: ``local``, or one of :data:`SUITES`.
        data: names of the datasets (``irds:ID``, ``folder:PATH``), for ``local``; for others, those of the suite's that
            are compared on, all if none is named.
        teacher: a checkpoint of sentence-transformers that is compared, too, as a dense retriever.
        baseline: the system that others are tested against.
        measures: of ir_measures; None = each dataset's own.
        depth: of what re-rankers re-rank.
        num_results: of the rankings.
        verbose: whether to show progress.

    Raises:
        FileNotFoundError, ValueError: for students or datasets that are none.
        ModuleNotFoundError: without matplotlib.
    """
    plots.check_installed()
    if suite != "local" and suite not in SUITES:
        raise ValueError(f"no suite {suite!r}: give local, {', '.join(SUITES)}.")
    if suite == "local" and not data:
        raise ValueError("--suite local needs --data: irds:ID of ir_datasets, or folder:PATH in BEIR or TIRA layout.")
    systems: dict[str, Any] = {FIRST_STAGE: lambda context: context.first_stage}
    if teacher is not None:
        systems["teacher"] = _serving(BiEncoder(teacher), num_results)
    if len({Path(path).resolve() for path in students}) < len(students):
        raise ValueError("a student is named twice.")
    for path in students:
        name = _name(Path(path), systems)
        systems[name] = _serving(load_student(path), num_results)
    chosen = catalogue.Local(*data) if suite == "local" else SUITES[suite]()
    chosen = chosen.only(*data) if suite != "local" and data else chosen
    found = chosen.compare(
        systems, directory=out, baseline=baseline, measures=measures, depth=depth, num_results=num_results,
        verbose=verbose,
    )  # fmt: skip
    write(found, Path(out))
    return found


def write(found: Comparison, out: Path) -> None:
    """Tables and pictures of a comparison, into a directory.

    Raises:
        ModuleNotFoundError: without matplotlib.
    """
    texts = {
        "table.md": found.to_markdown(),
        "table.tex": found.to_latex(),
        "table.html": found.to_html(),
        "results.csv": found.to_csv(),
        "per_query.csv": found.per_query.to_csv(index=False),
    }
    pictures = {}
    if found.costs is not None:
        texts["costs.csv"] = found.costs.to_csv(index=False)
        pictures["quality_ms.png"] = found.plot_cost("ms a query")
        pictures["quality_parameters.png"] = found.plot_cost("parameters")
    if found.baseline is not None and len(found.systems) > 1:
        pictures["differences.png"] = found.plot_differences()
    for name, text in texts.items():
        with written(out / name) as file:
            file.write(str(text))
    for name, figure in pictures.items():
        figure.savefig(out / name)


def _serving(student: Any, num_results: int) -> Any:
    return lambda context: served(student, context, num_results)


def _name(path: Path, taken: Mapping[str, Any]) -> str:
    """A system's name: its directory's, with as many of those above it as tell it from others."""
    parts = path.resolve().parts
    names = ("/".join(parts[-n:]) for n in range(1, len(parts)))
    return next(name for name in names if name not in taken)
