"""One run of a recipe: its directory, its students, what was measured, its table and what came of its claims."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from .. import suites
from ..corpora.loading import dataset_named
from ..distiller import Distiller
from ..engine.checkpoints import versions, write_json
from ..engine.progress import quiet_openings
from ..losses import Loss
from ..stores.files import read_object, written
from ..suites import plots
from ..suites.cost import parameters
from ..suites.runs import file_name
from ..suites.serving import load_student, served
from ..suites.significance import paired_t
from .claims import Claim, sentence, tested
from .site import Site, stored_runs

SETTINGS = "settings.json"


def roles(data: Sequence[str]) -> dict[str, list[str]]:
    """Role → collections: ``train=irds:ID`` has the role ``train``; one that names none has ``test``."""
    found: dict[str, list[str]] = {}
    for one in data:
        role, equals, name = one.partition("=")
        if not (equals and role.isidentifier()):  # a path may hold such a sign, too
            role, name = "test", one
        found.setdefault(role, []).append(name)
    return found


class _Ranker:
    """What makes the pipeline of a student for a collection."""

    def __init__(self, student: Any):
        self.student = student

    def __call__(self, context: Any) -> Any:
        """The student itself where a ranking is stored, else with an index."""
        return self.student if "bm25" in stored_runs(context.dataset) else served(self.student, context)


class Study:
    """A directory in which a recipe runs; called again, it goes on where it was stopped.

    Args:
        out: the directory: ``table.csv``, ``claims.json``, ``run.json``, ``per_query.csv``, ``differences.png``,
            ``students/``, ``evaluation/``, ``work/``.
        recipe: its name.
        scale: ``small``, ``medium`` or ``paper``.
        settings: a dataclass of what decides the figures.
        data: the collections, each with its role: ``train=irds:ID``; without one it is measured on (``test``).
        verbose: whether to show progress.

    Attributes:
        roles: role → names of collections.

    Raises:
        ValueError: if the directory holds a run of another recipe, scale, collection or setting.
    """

    def __init__(
        self, out: str | os.PathLike, recipe: str, scale: str, settings: Any, data: Sequence[str], verbose: bool = True
    ):
        self.out = Path(out)
        self.recipe, self.scale, self.data, self.verbose = recipe, scale, list(data), verbose
        self.settings = settings
        told = {"recipe": recipe, "scale": scale, "data": self.data, "settings": dataclasses.asdict(settings)}
        self._told = json.loads(json.dumps(told))
        self.roles = roles(data)
        names = list(dict.fromkeys(name for named in self.roles.values() for name in named))
        self._called = {n: m.name for n, m in zip(names, suites.Local(*names).members, strict=True)}
        self._sites: dict[str, Site] = {}
        self._parts: list[pd.DataFrame] = []
        self._seconds: dict[str, float] = {}
        self._parameters: dict[str, int] = {}
        self._milliseconds: dict[str, list[float]] = {}
        for name in names:  # what is not there is told before anything is written
            dataset_named(name)
        self.out.mkdir(parents=True, exist_ok=True)
        file = self.out / SETTINGS
        if file.exists() and (earlier := read_object(file)) != self._told:
            changed = [name for name, value in self._told.items() if earlier.get(name) != value]
            raise ValueError(f"{self.out} holds another run, whose {changed[0]} differ: name another --out.")
        write_json(file, self._told)

    def run(self, recipe: Any) -> pd.DataFrame:
        """The table of a recipe, a module with ``run(study, settings)``."""
        with quiet_openings():
            table: pd.DataFrame = recipe.run(self, self.settings)
        return table

    def work(self, *parts: str) -> Path:
        """A place for what is kept between runs: indexes, labels, checkpoints."""
        return self.out.joinpath("work", *map(file_name, parts))

    def called(self, dataset: str) -> str:
        """How tables call a collection."""
        return self._called.get(dataset) or suites.Local(dataset).members[0].name

    def same(self, dataset: str, **made_of: str) -> None:
        """Check that what a collection's work is made of has not changed since it was begun.

        Args:
            dataset: its name.
            **made_of: what it is made of → its digest.

        Raises:
            ValueError: naming what has changed.
        """
        file = self.work(dataset) / "made_of.json"
        earlier = read_object(file) if file.exists() else {}
        if changed := [name for name, value in made_of.items() if earlier.get(name, value) != value]:
            told = f"the {changed[0]} of {dataset} has changed since {self.out} was begun"
            raise ValueError(f"{told}: name another --out.")
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {**earlier, **made_of})

    def site(self, name: str) -> Site:
        """A collection, whose indexes are kept in the directory.

        Raises:
            ValueError: if it has changed since the run was begun.
        """
        if name not in self._sites:
            self._sites[name] = Site(name, self.work("collections"))
            self.same(name, collection=self._sites[name].content)
        return self._sites[name]

    def the(self, role: str) -> Site:
        """The one collection of a role.

        Raises:
            ValueError: if the role has none, or several.
        """
        names = self.roles.get(role, [])
        if len(names) != 1:
            raise ValueError(f"{self.recipe} takes one collection {role}=, and was given {len(names)}.")
        return self.site(names[0])

    @property
    def tests(self) -> list[str]:
        """What is measured on."""
        return self.roles.get("test", [])

    def say(self, text: str) -> None:
        """What is done now."""
        if self.verbose:
            print(f"{self.recipe}: {text}", flush=True)

    def student(self, name: str, train: Callable[[Path], Any], seed: int | None = None) -> Any:
        """A trained student: the one that an earlier run saved, else what ``train`` makes, saved.

        Args:
            name: of the student.
            train: given a directory for checkpoints, makes and trains it.
            seed: of the training, where there are several.
        """
        place = self.out / "students" / file_name(name if seed is None else f"{name}-{seed}")
        if not (place / "pt_meta.json").exists():
            self.say(f"training {name}{'' if seed is None else f', seed {seed}'}")
            began = time.monotonic()
            trained = train(self.work("training", place.name))
            if trained.manifest:  # else nothing was trained
                trained.manifest.update(recipe=self.recipe, seconds_of_the_recipe=round(time.monotonic() - began, 1))
            trained.save(place, about={"data": ", ".join(self.data)})
        found = load_student(place)
        self._seconds[place.name] = found.manifest.get("seconds_of_the_recipe", 0.0)
        return found

    def fit(self, student: Any, loss: Loss, labelled: Any, place: Path, seed: int, **settings: Any) -> Any:
        """Train with a Distiller that keeps checkpoints, and show progress if the run does.

        Args:
            student: what is trained.
            loss: by what.
            labelled: R or Q frame, or a LabelStore.
            place: a directory for checkpoints.
            seed: of the training.
            **settings: of the :class:`~pyterrier_distill.Distiller`; and what its ``fit`` takes: ``qrels``,
                ``queries``, and ``valid``, a pair of candidates with text and judgements.

        Returns:
            ``student``.
        """
        candidates, judged = settings.pop("valid", (None, None))
        queries, qrels = settings.pop("queries", None), settings.pop("qrels", None)
        distiller = Distiller(student, loss, seed=seed, checkpoints=place, verbose=self.verbose, **settings)
        distiller.fit(labelled, qrels, candidates, judged, queries=queries)
        return student

    def ranker(self, student: Any) -> Any:
        """A student as it is measured: with an index of its own, or re-ranking what a folder's run ``bm25`` holds."""

        return _Ranker(student)

    def measure(
        self,
        dataset: str,
        systems: Mapping[str, Any],
        *,
        seed: int = 0,
        measures: Sequence[Any] = ("nDCG@10",),
        depth: int = 100,
        binary_from: int | None = None,
        cost: bool = False,
    ) -> str:
        """Rank with systems on a collection, as :meth:`pyterrier_distill.suites.Suite.compare` does, and remember.

        Args:
            dataset: its name.
            systems: name → pipeline, re-ranker, or function of a context.
            seed: of the trainings that these come from; 0 = of systems that are the same with every seed.
            measures: of ir_measures.
            depth: of what re-rankers re-rank.
            binary_from: the grade from which documents are relevant.
            cost: whether to measure milliseconds a query, too.

        Returns:
            The name by which tables call the collection.
        """
        grades = None if binary_from is None else {"it": binary_from}
        suite = suites.Local(it=dataset, measures=measures, binary_from=grades)
        called = self.called(dataset)
        where = self.out / "evaluation" / file_name(called)
        found = suite.compare(systems, directory=where, depth=depth, cost=cost, verbose=self.verbose)
        if found.costs is not None:
            for row in found.costs.to_dict("records"):
                self._milliseconds.setdefault(row["name"], []).append(row["ms a query"])
        self._parts.append(found.per_query.assign(dataset=called, seed=seed))
        for name, system in systems.items():
            self._count(name, getattr(system, "student", system))
        return called

    def _count(self, name: str, system: Any) -> None:
        """Remember the weights of a system, counted when it has ranked: a later run may not load it at all."""
        file = self.out / "evaluation" / "parameters.json"
        known = read_object(file) if file.exists() else {}
        weights = parameters(system)
        if weights is not None and weights > known.get(name, -1):
            known[name] = weights
            write_json(file, known)
        if name in known:
            self._parameters[name] = known[name]

    @property
    def per_query(self) -> pd.DataFrame:
        """``dataset``, ``name``, ``seed``, ``qid``, ``measure``, ``value`` of all that was measured."""
        whole = pd.concat(self._parts, ignore_index=True)
        return whole[["dataset", "name", "seed", "qid", "measure", "value"]]

    def table(self, baseline: str) -> pd.DataFrame:
        """A row a system: means over queries and seeds, and p against the baseline (paired t-test over queries)."""
        per_query = self.per_query
        rows = []
        for name in dict.fromkeys(per_query["name"]):
            own = per_query[per_query["name"] == name]
            row: dict[str, Any] = {"name": name, "seeds": own["seed"].nunique()}
            for (dataset, measure), values in own.groupby(["dataset", "measure"], sort=False):
                by_query = values.groupby("qid")["value"].mean()
                row[f"{dataset} {measure}"] = round(float(by_query.mean()), 4)
                other = per_query[per_query["name"] == baseline]
                other = other[(other["dataset"] == dataset) & (other["measure"] == measure)]
                if name != baseline and len(other):
                    against = other.groupby("qid")["value"].mean().reindex(by_query.index)
                    row[f"{dataset} {measure} p"] = float(f"{paired_t(by_query.tolist(), against.tolist()):.2g}")
            row["parameters"] = self._parameters.get(name)
            if self._milliseconds:
                timed = self._milliseconds.get(name)
                row["ms a query"] = round(sum(timed) / len(timed), 1) if timed else None
            rows.append(row)
        return pd.DataFrame(rows).convert_dtypes()

    def finish(self, claims: Sequence[Claim], baseline: str, measure: str = "nDCG@10") -> pd.DataFrame:
        """Write table, claims, picture and what the run was; say what was found.

        Args:
            claims: the paper's.
            baseline: the system that others are tested against in the table.
            measure: by which claims are tested.
        """
        table, found = self.table(baseline), tested(claims, self.per_query, measure)
        table.to_csv(self.out / "table.csv", index=False)
        with written(self.out / "per_query.csv") as file:
            file.write(self.per_query.to_csv(index=False))
        write_json(self.out / "claims.json", found)
        run = {**self._told, "baseline": baseline, "versions": versions(), "seconds of training": self._seconds}
        rows = json.loads(table.to_json(orient="records"))
        write_json(self.out / "run.json", {**run, "claims": found, "table": rows})
        self._picture(baseline, measure)
        if self.verbose:
            shown = table.drop(columns=[column for column in table.columns if column.endswith(" p")])
            print(f"\n{shown.to_string(index=False)}\n\np, in table.csv, is against {baseline}.\n")
            print("\n".join(f"* {sentence(one)}" for one in found))
        return table

    def _picture(self, baseline: str, measure: str) -> None:
        """Differences from the baseline, a group of bars a collection."""
        values = self.per_query[self.per_query["measure"] == measure]
        means = values.groupby(["dataset", "name"], sort=False)["value"].mean().unstack()
        means = means[list(dict.fromkeys(values["name"]))]
        plots.bars(means, measure, baseline).savefig(self.out / "differences.png")
