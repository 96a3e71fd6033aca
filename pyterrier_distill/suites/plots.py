"""Pictures of a comparison: quality against cost, differences from the baseline, quality over a setting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _figure(width: float = 6.4, height: float = 4.2) -> tuple[Figure, Any]:
    """A figure and its axes, of no screen and of nobody's state.

    Raises:
        ModuleNotFoundError: without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('plots need matplotlib: pip install "pyterrier-distill[demo]".') from error
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    return figure, axes


def points(quality: pd.Series, cost: pd.Series, measure: str, unit: str, title: str) -> Figure:
    """One point a system: quality against what it costs, on a logarithmic scale where costs differ tenfold.

    Args:
        quality: by system.
        cost: by system; systems without one are left out.
        measure: what the quality is.
        unit: what the cost is.
        title: of the picture.
    """
    figure, axes = _figure()
    there = [name for name in quality.index if np.isfinite(cost.get(name, np.nan)) and np.isfinite(quality[name])]
    low, high = (min(cost[there]), max(cost[there])) if there else (1.0, 1.0)
    if 0 < low and high > 10 * low:
        axes.set_xscale("log")
    for n, name in enumerate(there):
        axes.scatter(cost[name], quality[name], s=50, color=f"C{n % 10}", label=name)
    axes.margins(x=0.1, y=0.15)
    axes.set_xlabel(unit)
    axes.set_ylabel(measure)
    axes.set_title(title)
    axes.legend(fontsize="small")
    return figure


def bars(differences: pd.DataFrame, measure: str, baseline: str) -> Figure:
    """Differences from the baseline, a group of bars a dataset.

    Args:
        differences: datasets as rows, systems as columns.
        measure: what differs.
        baseline: the system that they are differences from.
    """
    rows, columns = differences.shape
    figure, axes = _figure(6.4, max(2.4, 0.8 + 0.22 * rows * (columns + 1)))
    thick = 0.8 / max(1, columns)
    for n, name in enumerate(differences.columns):
        places = np.arange(rows) + (n - (columns - 1) / 2) * thick
        axes.barh(places, differences[name], height=thick, color=f"C{n % 10}", label=name)
    axes.set_yticks(np.arange(rows), differences.index)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel(f"{measure}, difference from {baseline}")
    axes.legend(fontsize="small")
    return figure


def lines(table: pd.DataFrame, places: Mapping[str, float], measure: str, setting: str) -> Figure:
    """Quality over a setting of the systems, such as the size of the training data: a line a dataset.

    Args:
        table: datasets as rows, systems as columns.
        places: system → value of the setting.
        measure: what the quality is.
        setting: what the setting is.
    """
    figure, axes = _figure()
    names = sorted(places, key=lambda name: places[name])
    values = [places[name] for name in names]
    for dataset, row in table.iterrows():
        axes.plot(values, row[names], marker="o", label=dataset)
    if min(values) > 0 and max(values) > 20 * min(values):
        axes.set_xscale("log")
    axes.set_xlabel(setting)
    axes.set_ylabel(measure)
    axes.legend(fontsize="small")
    return figure
