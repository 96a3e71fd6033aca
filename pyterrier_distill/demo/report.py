"""What the demo shows: the printed table and the two plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd


def shown(table: pd.DataFrame) -> str:
    """The experiment's table as text of less than 100 columns; of its tests, that of nDCG@10 alone."""
    columns = {
        "name": "name", "nDCG@10": "nDCG@10", "share": "of teacher", "nDCG@10 p-value": "p", "RR@10": "RR@10",
        "R@100": "R@100", "mrt": "ms/query", "parameters": "parameters",
    }  # fmt: skip
    formats = {"mrt": "{:.1f}", "parameters": "{:,.0f}", "share": "{:.1%}"}
    text = table[list(columns)].copy()
    for column in text.columns[1:]:
        pattern = formats.get(column, "{:.4f}")
        text[column] = [("" if pd.isna(value) else pattern.format(value)) for value in text[column]]
    text["nDCG@10 p-value"] = [
        "" if pd.isna(p) else "<0.0001" if p < 1e-4 else f"{p:.4f}" for p in table["nDCG@10 p-value"]
    ]
    return text.rename(columns=columns).to_string(index=False)


def plot_quality(table: pd.DataFrame, path: Path, title: str) -> None:
    """Quality against response time, one point a system."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(6, 4), dpi=150)
    for row in table.to_dict("records"):
        axes.scatter(row["mrt"], row["nDCG@10"], s=60)
        axes.annotate(row["name"], (row["mrt"], row["nDCG@10"]), xytext=(6, 5), textcoords="offset points")
    axes.set_xlabel("mean response time (ms a query, all queries at once)")
    axes.set_ylabel("nDCG@10")
    axes.set_title(title)
    axes.margins(x=0.25, y=0.15)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def plot_curve(history: list[dict[str, Any]], path: Path, title: str) -> None:
    """The training loss over steps."""
    plt = pyplot()
    points = [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]
    figure, axes = plt.subplots(figsize=(6, 4), dpi=150)
    axes.plot(*zip(*points, strict=True)) if points else axes.text(0.5, 0.5, "no steps were taken")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def pyplot() -> Any:
    """matplotlib, drawing to files.

    Raises:
        ModuleNotFoundError: saying how to install it.
    """
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('plots need matplotlib: pip install "pyterrier-distill[demo]".') from error
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: F401 (plots go to files, with or without a screen)

    matplotlib.use("Agg", force=False)
    import matplotlib.pyplot as plt

    return plt
