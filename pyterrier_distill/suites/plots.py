"""Pictures of a comparison: quality against cost, differences from the baseline, quality over a setting."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_installed() -> None:
    """Check that there is something to draw with, before what is to be drawn is measured.

    Raises:
        ModuleNotFoundError: without matplotlib.
    """
    if find_spec("matplotlib") is None:
        raise ModuleNotFoundError('plots need matplotlib: pip install "pyterrier-distill[eval]".')


def _figure(width: float = 6.4, height: float = 4.2) -> tuple[Figure, Any]:
    """A figure and its axes, of no screen and of nobody's state.

    Raises:
        ModuleNotFoundError: without matplotlib.
    """
    check_installed()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    return figure, axes


def _plain(text: object) -> str:
    """A name as it stands: a dollar sign begins no formula, an underscore hides nothing from the legend."""
    told = str(text).replace("$", r"\$")
    return f" {told}" if told.startswith("_") else told


def _logarithmic(axes: Any) -> None:
    """Tens on the horizontal axis, told as plain numbers at 1, 2 and 5."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}" if value < 1e6 else f"{value:.0e}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


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
        _logarithmic(axes)
    elif high >= 10_000:
        from matplotlib.ticker import EngFormatter

        axes.xaxis.set_major_formatter(EngFormatter())  # 20 M
    for name in there:
        axes.scatter(cost[name], quality[name], s=50, color=_colour(name, quality.index), label=_plain(name))
    axes.margins(x=0.1, y=0.15)
    axes.set_xlabel(unit)
    axes.set_ylabel(measure)
    axes.set_title(_plain(title))
    figure.legend(loc="outside right upper", fontsize="small")
    return figure


def _colour(name: str, systems: pd.Index) -> str:
    """A system's colour, the same in all pictures of a comparison."""
    return f"C{systems.get_loc(name) % 10}"


def bars(table: pd.DataFrame, measure: str, baseline: str) -> Figure:
    """Differences from the baseline, a group of bars a dataset.

    Args:
        table: datasets as rows, systems as columns.
        measure: what differs.
        baseline: the system that they are differences from.
    """
    differences = table.sub(table[baseline], axis=0).drop(columns=baseline)
    rows, columns = differences.shape
    figure, axes = _figure(6.4, max(2.4, 0.8 + 0.22 * rows * (columns + 1)))
    thick = 0.8 / max(1, columns)
    for n, name in enumerate(differences.columns):
        places = np.arange(rows) + (n - (columns - 1) / 2) * thick
        axes.barh(places, differences[name], height=thick, color=_colour(name, table.columns), label=_plain(name))
    axes.set_yticks(np.arange(rows), [_plain(name) for name in differences.index])
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel(f"{measure}, difference from {_plain(baseline)}")
    figure.legend(loc="outside right upper", fontsize="small")
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
        axes.plot(values, row[names], marker="o", label=_plain(dataset))
    if min(values) > 0 and max(values) > 10 * min(values):
        _logarithmic(axes)
    axes.set_xlabel(_plain(setting))
    axes.set_ylabel(measure)
    figure.legend(loc="outside right upper", fontsize="small")
    return figure
