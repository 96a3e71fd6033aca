"""Whole experiments by one command: ``pyterrier-distill recipe NAME --scale small --data … --out …``."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import pandas as pd

#: The recipes, each a module with ``SCALES`` (name → settings), ``CLAIMS`` and ``run(study, settings)``.
NAMES = ("beyond",)


def run(
    name: str,
    scale: str = "small",
    data: Sequence[str] = (),
    out: str | os.PathLike = "recipe",
    *,
    seeds: Sequence[int] | None = None,
    verbose: bool = True,
) -> pd.DataFrame:
    """Run a recipe; called again, it goes on where it was stopped.

    Args:
        name: one of :data:`NAMES`.
        scale: ``small`` (two cores), ``medium`` (a GPU, an hour) or ``paper``.
        data: collections: ``irds:ID`` or ``folder:PATH``.
        out: a directory for ``table.csv``, ``claims.json``, ``run.json``, pictures and students.
        seeds: of the trainings; None = the scale's.
        verbose: whether to show progress.

    Returns:
        The table, a row a system.

    Raises:
        ValueError: for an unknown recipe or scale, no collection, or a directory that holds another run.
    """
    if name not in NAMES:
        raise ValueError(f"no recipe {name!r}, only: {', '.join(NAMES)}.")
    recipe: Any = import_module(f".{name}", __name__)
    if scale not in recipe.SCALES:
        raise ValueError(f"no scale {scale!r}, only: {', '.join(recipe.SCALES)}.")
    if not data:
        raise ValueError("name a collection: --data irds:ID of ir_datasets, or folder:PATH in BEIR or TIRA layout.")
    from ..suites.plots import check_installed
    from .study import Study

    check_installed()  # before hours of training
    settings = recipe.SCALES[scale]
    if seeds is not None:
        if not seeds or len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds must be different whole numbers, not {list(seeds)}.")
        settings = dataclasses.replace(settings, seeds=tuple(seeds))
    table: pd.DataFrame = recipe.run(Study(out, name, scale, settings, data, verbose), settings)
    return table
