"""What a comparison of systems found: by query, by dataset, averaged, tested, and as a table."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..frames import arguments
from . import layout, plots
from .averages import Average, arithmetic
from .significance import against

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .suite import Suite


class Comparison:
    """Measures of systems on the datasets of a suite.

    Args:
        suite: what was compared on.
        per_query: ``dataset``, ``name``, ``qid``, ``measure`` (as reported), ``measured`` (as measured there, such as
            ``RR(rel=2)@10`` for ``RR@10``; without it, the same), ``value``.
        baseline: the system that others are tested against, or None.
        missing: dataset → why it could not be had.
        costs: a row a system and dataset, or None where nothing was timed.

    Attributes:
        per_query: as given.
        missing: as given.
        costs: as given.
    """

    def __init__(
        self,
        suite: Suite,
        per_query: pd.DataFrame,
        baseline: str | None = None,
        missing: Mapping[str, str] | None = None,
        costs: pd.DataFrame | None = None,
    ):
        self.suite = suite
        known = "measured" in per_query.columns
        self.per_query = per_query if known else per_query.assign(measured=per_query["measure"])
        self.baseline = baseline
        self.missing = dict(missing or {})
        self.costs = costs

    @property
    def systems(self) -> list[str]:
        """The names of the systems, as they were given."""
        return list(dict.fromkeys(self.per_query["name"]))

    @property
    def measures(self) -> list[str]:
        """The measures, those of the first dataset first."""
        return list(dict.fromkeys(self.per_query["measure"]))

    @property
    def measure(self) -> str:
        """What tables and pictures show where nobody asks for another: the first one that most datasets have."""
        having = self.per_query.groupby("measure", sort=False)["dataset"].nunique()
        return str(having.idxmax())

    @cached_property
    def frame(self) -> pd.DataFrame:
        """A row a dataset or average, system and measure.

        ``dataset``, ``kind`` (``dataset``, ``part`` of one, ``average``), ``name``, ``measure``, ``measured`` (what
        stood for it there; of averages, ``measure``), ``value``, ``queries``
        (that it is a mean of), ``p`` (paired t-test against the baseline over queries, Holm-corrected over the systems
        of the row; averages pool the queries of their datasets), ``of`` (how many datasets of an average are there,
        and how many it is over). An average over datasets that are not all there has no value.
        """
        rows: list[dict[str, Any]] = []
        for measure in self.measures:
            table = self.per_query[self.per_query["measure"] == measure]
            by_member = {name: part for name, part in table.groupby("dataset", sort=False)}
            single = {member.name: member for member in self.suite.members}
            joined: dict[str, list[str]] = {}
            for name in by_member:
                kind = "part" if single[name].part_of else "dataset"
                rows += self._rows(name, kind, measure, [by_member[name]], "1 of 1")
                joined.setdefault(single[name].part_of or name, []).append(name)
            expected = self.suite.wholes or {}
            for whole, names in joined.items():
                if whole in expected:
                    told = f"{len(names)} of {expected[whole]}"
                    there = len(names) == expected[whole]
                    parts = [by_member[name] for name in names]
                    rows += self._rows(whole, "dataset", measure, parts, told, there=there, pooled=self.suite.pooled)
            values = self._values(rows, measure)
            for average in self.suite.averages:
                rows += self._averaged(average, measure, values, joined, by_member)
        return pd.DataFrame(rows)

    def _values(self, rows: list[dict[str, Any]], measure: str) -> dict[str, dict[str, float]]:
        """System → dataset → value."""
        found: dict[str, dict[str, float]] = {name: {} for name in self.systems}
        for row in rows:
            if row["measure"] == measure and row["kind"] == "dataset":
                found[row["name"]][row["dataset"]] = row["value"]
        return found

    def _averaged(
        self,
        average: Average,
        measure: str,
        values: Mapping[str, Mapping[str, float]],
        joined: Mapping[str, list[str]],
        by_member: Mapping[str, pd.DataFrame],
    ) -> list[dict[str, Any]]:
        there = [name for name in average.over if name in joined]
        had = {member.part_of or member.name for member in self.suite.members if member.name not in self.missing}
        if not there or not set(average.over) & had <= set(there):
            return []  # a measure of some of its datasets only
        parts = [by_member[member] for name in there for member in joined[name]]
        whole = average.complete(next(iter(values.values())))
        rows = self._rows(average.name, "average", measure, parts, f"{len(there)} of {len(average.over)}", there=whole)
        for row in rows:
            row["value"], row["measured"] = average.of(values[row["name"]]), measure
        return rows

    def _rows(
        self,
        name: str,
        kind: str,
        measure: str,
        parts: list[pd.DataFrame],
        of: str,
        *,
        there: bool = True,
        pooled: bool = False,
    ) -> list[dict[str, Any]]:
        """A row a system: the mean of the parts' means, or over all their queries; tests pool the queries."""
        pivots = [part.pivot(index="qid", columns="name", values="value")[self.systems] for part in parts]
        queries = pd.concat(pivots, keys=range(len(pivots)))
        p = against(queries, self.baseline) if self.baseline is not None and there else {}
        counted = [queries] if pooled else pivots
        return [
            {
                "dataset": name,
                "kind": kind,
                "name": system,
                "measure": measure,
                "measured": " or ".join(dict.fromkeys(one for part in parts for one in part["measured"].unique())),
                "value": arithmetic([pivot[system].mean() for pivot in counted]) if there else float("nan"),
                "queries": len(queries),
                "p": p.get(system, float("nan")),
                "of": of,
            }
            for system in self.systems
        ]

    # -- tables -------------------------------------------------------------------------------------------------------

    def table(self, measure: str | None = None) -> pd.DataFrame:
        """Datasets and averages as rows, systems as columns.

        Args:
            measure: its name; None = :attr:`measure`. Datasets that do not have it are left out, and notes say so.

        Raises:
            ValueError: if it was not measured.
        """
        frame = self.frame[(self.frame["kind"] != "part") & (self.frame["measure"] == self._measure(measure))]
        order = list(dict.fromkeys(frame.sort_values("kind", key=lambda k: k == "average", kind="stable")["dataset"]))
        return frame.pivot(index="dataset", columns="name", values="value").loc[order, self.systems]

    def _marks(self, measure: str | None) -> pd.DataFrame:
        table = self.table(measure)
        frame = self.frame[(self.frame["kind"] != "part") & (self.frame["measure"] == self._measure(measure))]
        p = frame.drop_duplicates(["dataset", "name"]).pivot(index="dataset", columns="name", values="p")
        return p.loc[table.index, table.columns] < 0.05

    def to_markdown(self, measure: str | None = None) -> str:
        """The table with the best of each row bold, the second underlined, † where p < 0.05 against the baseline."""
        return layout.markdown(*self._laid_out(measure))

    def to_latex(self, measure: str | None = None) -> str:
        """The same for LaTeX, with booktabs."""
        return layout.latex(*self._laid_out(measure))

    def to_html(self, measure: str | None = None) -> str:
        """The same as HTML."""
        return layout.html(*self._laid_out(measure))

    def _laid_out(self, measure: str | None) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
        """Table, marks and notes; the table's corner names the measure."""
        table = self.table(measure).rename_axis(index=self._measure(measure))
        return table, self._marks(measure), self._notes(measure)

    def to_csv(self, path: Any = None) -> str | None:
        """:attr:`frame` as CSV: to a file, or as text."""
        return self.frame.to_csv(path, index=False)

    # -- costs and pictures -------------------------------------------------------------------------------------------

    def cost_table(self) -> pd.DataFrame:
        """What each system costs, the median over datasets; ``not measured`` where nothing could.

        Raises:
            ValueError: if nothing was timed.
        """
        costs = self._costs()
        weights = costs["parameters"].round().astype("Int64")
        return costs.assign(parameters=weights).astype(object).where(costs.notna(), "not measured")

    def _costs(self) -> pd.DataFrame:
        if self.costs is None or not len(self.costs):
            raise ValueError("nothing was timed: compare(..., cost=True) measures what systems cost.")
        numbers = self.costs.drop(columns=["dataset"]).groupby("name", sort=False).median()
        return numbers.loc[[name for name in self.systems if name in numbers.index]]

    def plot_cost(self, against: str = "ms a query", measure: str | None = None) -> Figure:
        """Quality, the mean over the datasets, against what systems cost.

        Args:
            against: a column of :meth:`cost_table`, such as ``"ms a query"`` or ``"parameters"``.
            measure: its name; None = :attr:`measure`.

        Raises:
            ValueError: if it was not measured.
            ModuleNotFoundError: without matplotlib.
        """
        costs = self._costs()
        if against not in costs.columns:
            raise ValueError(f"{against!r} was not measured, only: {', '.join(costs.columns)}.")
        table = self._datasets(measure)
        title = f"{self.suite.name}, mean of {len(table)} datasets"
        return plots.points(table.mean(), costs[against], self._measure(measure), against, title)

    def plot_differences(self, measure: str | None = None) -> Figure:
        """Differences from the baseline, by dataset.

        Raises:
            ValueError: without a baseline.
            ModuleNotFoundError: without matplotlib.
        """
        if self.baseline is None:
            raise ValueError("there is no baseline: compare(..., baseline=NAME) names one.")
        return plots.bars(self._datasets(measure), self._measure(measure), self.baseline)

    def plot_over(self, places: Mapping[str, float], setting: str, measure: str | None = None) -> Figure:
        """Quality over a setting in which systems differ, such as the number of training queries, or their depth.

        Args:
            places: system → value of the setting; other systems are left out.
            setting: its name.
            measure: its name; None = :attr:`measure`.

        Raises:
            ValueError: for a system that was not compared.
            ModuleNotFoundError: without matplotlib.
        """
        if not places:
            raise ValueError("name a value of the setting for each system.")
        for name, value in places.items():
            arguments.positive(value, f"the {setting} of {name!r}", zero=True)
        if strange := [name for name in places if name not in self.systems]:
            raise ValueError(f"{strange[0]!r} is none of the systems: {', '.join(self.systems)}.")
        return plots.lines(self._datasets(measure), places, self._measure(measure), setting)

    def _datasets(self, measure: str | None) -> pd.DataFrame:
        """The table without averages and datasets that have no value."""
        names = set(self.frame[self.frame["kind"] == "dataset"]["dataset"])
        table = self.table(measure)
        return table[table.index.isin(names)].dropna()

    def _measure(self, measure: str | None) -> str:
        if measure is not None and str(measure) not in self.measures:
            raise ValueError(f"{measure} was not measured, only: {', '.join(self.measures)}.")
        return self.measure if measure is None else str(measure)

    def _repr_html_(self) -> str:
        return self.to_html()

    def __repr__(self) -> str:
        told = self.table().to_string(float_format="{:.4f}".format)
        return "\n".join([f"{self.suite.name}, {self.measure}", told, *self._notes(None)])

    def _notes(self, measure: str | None) -> list[str]:
        """What a reader of the table must know."""
        notes = [f"{name} is left out: {why}" for name, why in self.missing.items()]
        shown = self._measure(measure)
        frame = self.frame[self.frame["measure"] == shown]
        others = self.frame[(self.frame["kind"] != "part") & ~self.frame["dataset"].isin(frame["dataset"])]
        for name, rows in others.groupby("dataset", sort=False):
            notes.append(f"{name} was not measured by {shown}, but by {', '.join(rows['measure'].unique())}.")
        there = frame[frame["kind"] != "average"]
        for measured, rows in there[there["measured"] != shown].groupby("measured", sort=False):
            names = ", ".join(rows.loc[rows["kind"] == "dataset", "dataset"].unique())
            if names:
                notes.append(f"{shown} of {names} is {measured}.")
        short = frame[(frame["kind"] != "part") & frame["value"].isna()]
        for name, of in dict(zip(short["dataset"], short["of"], strict=True)).items():
            notes.append(f"{name} has no value: {of} of its datasets are there.")
        if self.baseline is not None:
            told = "paired t-test over queries, p < 0.05 after Holm's correction"
            notes.append(f"† differs from {self.baseline}: {told}.")
        return notes
