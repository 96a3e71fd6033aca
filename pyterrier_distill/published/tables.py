"""The printed results as a frame, and beside one's own."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from functools import cache
from importlib.resources import files

import pandas as pd

from ..frames.arguments import choice
from ..suites.membership import AVERAGES, canonical

#: Paper → the file of its cells.
PAPERS = {
    "PairDistill": "pairdistill.csv",
    "Rank-DistiLLM": "rank_distillm.csv",
    "USTAD": "ustad.csv",
    "Distillation-versus-CL": "distillation_versus_cl.csv",
    "InRanker": "inranker.csv",
}
_UNITS = ("fraction", "percent")
_SIZES = {"M": 1e6, "B": 1e9}


def tables(paper: str | None = None, table: str | None = None) -> pd.DataFrame:
    """The cells that the papers print, one a row, in the papers' order.

    Args:
        paper: one of :data:`PAPERS`; all if not given.
        table: one of its tables, e.g. ``"T1"``; all if not given. ``"App. C"`` holds figures from InRanker's text.

    Returns:
        A frame of

        - ``paper``, ``table``, ``row``, ``column``: where the cell stands, which no other cell shares;
        - ``printed``: its text, ``value`` the same as a number, ``unit`` what it counts in (``"percent"`` or
          ``"fraction"``), and ``fraction`` the number in ``[0, 1]``, whatever the unit;
        - ``measure`` in ir_measures' spelling (``RR@10`` is printed as MRR@10). ``relaxed R@k`` asks for a passage that
          holds the answer; ``capped R@100`` divides by at most 100;
        - ``dataset``: a name of ``suites.membership``, or one that only its paper knows; ``average``: whether it is a
          mean over those that ``suites.membership.AVERAGES`` lists;
        - ``system``: what was measured, ``parameters``: how many it has (NaN if not printed);
        - ``comparable``: False where a run of one's own measures something else, as ``note`` says. ``note`` is empty
          where there is nothing to say.

    Raises:
        ValueError: if there is no such paper, no such table, or a table without its paper.
    """
    if paper is None:
        if table is not None:
            raise ValueError(f"table={table!r} needs its paper=, one of {', '.join(PAPERS)}.")
        return pd.concat([_read(each) for each in PAPERS], ignore_index=True)
    cells = _read(choice(paper, "paper", list(PAPERS)))
    if table is None:
        return cells.copy()
    choice(table, f"table of {paper}", list(dict.fromkeys(cells["table"])))
    return cells[cells["table"] == table].reset_index(drop=True)


def beside(
    results: pd.DataFrame,
    *,
    measure: str = "nDCG@10",
    unit: str = "fraction",
    paper: str | None = None,
    table: str | None = None,
    systems: Iterable[str] | None = None,
) -> pd.DataFrame:
    """One's own results, and below them what the papers print for the same datasets and measure.

    Published systems may have read other first stages, depths and passages: ``tables()`` has notes. Cells that are
    not comparable, and those that a paper does not print, are NaN.

    Args:
        results: a column ``name``, and one for each dataset or average, named in any spelling that
            ``suites.membership.canonical`` knows. Other columns are kept; published rows have nothing there.
        measure: what ``results`` holds, as the column ``measure`` of :func:`tables` spells it.
        unit: the unit of ``results``, ``"fraction"`` or ``"percent"``; published figures are turned into it.
        paper, table: only what stands there, as for :func:`tables`.
        systems: only these systems; all if not given.

    Returns:
        ``results`` with a column ``source``, ``"measured"`` unless it has one, and a row for each system of each table,
        whose ``source`` says where it was published, e.g. ``"published: PairDistill T1"``.

    Raises:
        ValueError: if ``results`` has no ``name``, if two columns mean one dataset, if figures are no numbers or not in
            ``unit``, if nothing is published for its datasets and measure, or not of a system.
    """
    choice(unit, "unit", _UNITS)
    cells = tables(paper, table)
    columns = _columns(results, unit, set(cells["dataset"]))
    cells = cells[cells["dataset"].isin(columns) & cells["comparable"]]
    if measure not in set(cells["measure"]):
        there = ", ".join(dict.fromkeys(cells["measure"])) or "nothing"
        asked = ", ".join(columns.values()) or "these columns"
        raise ValueError(f"nothing published under measure={measure!r} for {asked}: there is {there}.")
    cells = cells[cells["measure"] == measure]
    if systems is not None:
        systems = [systems] if isinstance(systems, str) else list(systems)
        for system in systems:
            choice(system, "systems", list(dict.fromkeys(cells["system"])))
        cells = cells[cells["system"].isin(systems)]
    rows = []
    for (where, number, system), printed in cells.groupby(["paper", "table", "system"], sort=False):
        numbers = printed["fraction"] if unit == "fraction" else (printed["fraction"] * 100).round(10)
        figures = {columns[dataset]: figure for dataset, figure in zip(printed["dataset"], numbers, strict=True)}
        rows.append({"name": system, **figures, "source": f"published: {where} {number}"})
    own = results if "source" in results.columns else results.assign(source="measured")
    return pd.concat([own, pd.DataFrame(rows)], ignore_index=True)


def _columns(results: pd.DataFrame, unit: str, datasets: set[str]) -> dict[str, str]:
    """Dataset → the column of ``results`` that holds it, checked."""
    if "name" not in results.columns:
        raise ValueError(
            f"results need a column 'name' and one for each dataset, but have {', '.join(map(str, results.columns))}."
        )
    columns: dict[str, str] = {}
    for column in results.columns:
        dataset = canonical(str(column)) or str(column)
        if dataset not in datasets or column in ("name", "source"):
            continue
        if dataset in columns:
            raise ValueError(f"the columns {columns[dataset]!r} and {column!r} both mean {dataset}: keep one.")
        if not pd.api.types.is_numeric_dtype(results[column]):
            raise ValueError(f"the column {column!r} must hold numbers, but is of type {results[column].dtype}.")
        if unit == "fraction" and (results[column] > 1).any():
            raise ValueError(f"the column {column!r} has figures above 1: pass unit='percent' if it is in percent.")
        columns[dataset] = column
    return columns


@cache
def _read(paper: str) -> pd.DataFrame:
    cells = pd.read_csv(files(__package__) / PAPERS[paper], dtype=str, keep_default_na=False, encoding="utf-8")
    printed = cells["value"]
    shift = cells["unit"].map({"fraction": 0, "percent": -2})
    return pd.DataFrame(
        {
            "paper": paper,
            "table": cells["table"],
            "row": cells["row"],
            "column": cells["column"],
            "printed": printed,
            "value": printed.astype(float),
            "unit": cells["unit"],
            # through decimals: 40.7 percent is 0.407, not 0.40700000000000003
            "fraction": [float(Decimal(text).scaleb(by)) for text, by in zip(printed, shift, strict=True)],
            "measure": cells["measure"],
            "dataset": cells["dataset"],
            "average": cells["dataset"].isin(list(AVERAGES)),
            "system": cells["system"],
            "parameters": cells["parameters"].map(_count),
            "comparable": ~cells["note"].str.startswith("not comparable"),
            "note": cells["note"],
        }
    )


def _count(printed: str) -> float:
    """The number that ``"110M + 110M"`` prints; NaN of an empty text."""
    parts = [float(part[:-1]) * _SIZES[part[-1]] for part in printed.split(" + ") if part]
    return round(sum(parts)) if parts else float("nan")
