"""What is in a store, for people."""

from __future__ import annotations

import html
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..backends.usage import Usage
from . import tables

if TYPE_CHECKING:
    from .stored_labels import StoredLabels

_BINS = 20


def describe(store: StoredLabels) -> Description:
    """Sizes, costs and the distribution of each label."""
    columns: dict[str, dict[str, Any]] = {}
    documents = 0
    for frame in store.lists(seed=None):
        documents += len(frame)
        for column in tables.label_columns(frame):
            values = _numbers(frame[column])
            if len(values):
                told = columns.setdefault(
                    column, {"values": 0, "sum": 0.0, "low": np.inf, "high": -np.inf, "kept": []}
                )
                told["values"] += len(values)
                told["sum"] += float(values.sum())
                told["low"] = min(told["low"], float(values.min()))
                told["high"] = max(told["high"], float(values.max()))
                if sum(map(len, told["kept"])) < 100_000:  # enough for a histogram
                    told["kept"].append(values)
    table = pd.DataFrame(
        [
            (name, told["values"], told["sum"] / told["values"], told["low"], told["high"])
            for name, told in columns.items()
        ],
        columns=["label", "values", "mean", "least", "most"],
    )
    histograms = {
        name: np.histogram(np.concatenate(told["kept"]), bins=_BINS, range=(told["low"], told["high"]))[0]
        for name, told in columns.items()
    }
    return Description(len(store), documents, store.usage, store.manifest, table, histograms)


class Description:
    """What :meth:`LabelStore.describe` returns; text in a terminal, a table in Jupyter.

    Attributes:
        queries: how many.
        documents: labelled documents, over all queries.
        usage: what they have cost.
        manifest: what made them.
        table: a row a label: ``label``, ``values``, ``mean``, ``least``, ``most``.
        histograms: label → counts in 20 equal bins from least to most.
    """

    def __init__(
        self,
        queries: int,
        documents: int,
        usage: Usage,
        manifest: dict[str, Any],
        table: pd.DataFrame,
        histograms: dict[str, np.ndarray],
    ):
        self.queries = queries
        self.documents = documents
        self.usage = usage
        self.manifest = manifest
        self.table = table
        self.histograms = histograms

    def _head(self) -> str:
        spent = self.usage
        return (
            f"{self.queries:,} queries, {self.documents:,} documents; {spent.calls:,} calls,"
            f" {spent.prompt_tokens:,} prompt tokens, {spent.output_tokens:,} output tokens{_seconds(spent.seconds)}"
        )

    def __repr__(self) -> str:
        return f"{self._head()}\n{self.manifest.get('reads', '')}\n{self.table.to_string(index=False)}"

    def _repr_html_(self) -> str:
        bars = ["".join(map(_bar, counts / max(1, counts.max()))) for counts in self.histograms.values()]
        names = [html.escape(name) for name in self.table["label"]]
        shown = self.table.assign(label=names, distribution=bars).to_html(
            index=False, escape=False, float_format="{:.4g}".format
        )
        made = html.escape(json.dumps(self.manifest, indent=2, default=repr))
        reads = html.escape(self.manifest.get("reads", ""))
        return (
            f"<p>{html.escape(self._head())}</p><p><code>{reads}</code></p>{shown}"
            f"<details><summary>manifest</summary><pre>{made}</pre></details>"
        )


def _seconds(seconds: float) -> str:
    """Nothing where it was not measured."""
    if not seconds:
        return ""
    return f", {seconds:,.0f} s" if seconds >= 10 else f", {seconds:.2g} s"


def _bar(height: float) -> str:
    return f'<span style="display:inline-block;width:6px;background:#4878a8;height:{round(30 * height)}px"></span>'


def _numbers(cells: pd.Series) -> np.ndarray:
    """All numbers of a label column, whatever shape its cells have."""
    cells = cells[cells.notna().to_numpy()]
    if cells.dtype != object:
        return cells.to_numpy(dtype=float)
    if len(cells) and isinstance(cells.iloc[0], dict):
        return np.array([p for cell in cells for p in cell.values()], dtype=float)
    held = [np.ravel(cell).astype(float) for cell in cells if cell is not None]
    return np.concatenate(held) if held else np.empty(0)
