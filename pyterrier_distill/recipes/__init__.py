"""Whole experiments by one command: ``pyterrier-distill recipe NAME --scale small --data … --out …``."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import pandas as pd

#: The recipes, each a module with ``NEEDS`` and ``MAY`` (role → what has it) and ``run(study, settings)``; their
#: settings by scale are in ``scales``.
NAMES = ("pairdistill", "rank_distillm", "ustad", "distill_vs_contrastive", "inranker", "beyond")


def run(
    name: str,
    scale: Any = "small",
    data: Sequence[str] = (),
    out: str | os.PathLike = "recipe",
    *,
    seeds: Sequence[int] | None = None,
    verbose: bool = True,
) -> pd.DataFrame:
    """Run a recipe; called again, it goes on where it was stopped.

    Args:
        name: one of :data:`NAMES`.
        scale: ``"small"`` (two cores), ``"medium"`` (a GPU, an hour) or ``"paper"``; or settings of one's own, such as
            ``dataclasses.replace(scales.beyond.SCALES["small"], steps=(90, 350))``.
        data: collections: ``irds:ID`` or ``folder:PATH``, with their roles: ``train=irds:ID``. Systems are measured on
            those that have none.
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
    scales: Any = import_module(f".scales.{name}", __name__)
    if not isinstance(scale, scales.Settings) and scale not in scales.SCALES:
        raise ValueError(f"no scale {scale!r}, only: {', '.join(scales.SCALES)}, or {name}'s Settings.")
    if not data:
        raise ValueError("name a collection: --data irds:ID of ir_datasets, or folder:PATH in BEIR or TIRA layout.")
    from ..suites.plots import check_installed
    from .study import Study, roles

    needs = {**recipe.NEEDS, "test": "a collection to measure on"}
    given = roles(data)
    if strange := [role for role in given if role not in {**needs, **recipe.MAY}]:
        known = ", ".join(f"{role}=" for role in (*recipe.NEEDS, *recipe.MAY)) or "none"
        raise ValueError(f"{name} has no role {strange[0]}=, only: {known}.")
    if missing := [role for role in needs if role not in given]:
        role = missing[0]
        raise ValueError(f"{name} needs {needs[role]}: --data {'' if role == 'test' else f'{role}='}irds:ID …")
    check_installed()  # before hours of training
    own = isinstance(scale, scales.Settings)
    settings, scale = (scale, "own") if own else (scales.SCALES[scale], scale)
    if seeds is not None:
        if not seeds or len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds must be different whole numbers, not {list(seeds)}.")
        settings = dataclasses.replace(settings, seeds=tuple(seeds))
    return Study(out, name, scale, settings, data, verbose).run(recipe)
