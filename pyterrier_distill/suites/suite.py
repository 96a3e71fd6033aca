"""Datasets that are reported together, and the comparison of systems on all of them."""

from __future__ import annotations

import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import ir_measures
import pandas as pd
import pyterrier as pt

from ..frames import arguments
from ..identity.identity import digest, identity
from .averages import Average
from .comparison import Comparison
from .context import Context
from .cost import Costs
from .keys import key_of
from .member import Member
from .runs import Runs, file_name
from .serving import pipeline_for, retrieves

logger = logging.getLogger(__name__)

#: A system: a pipeline Q → R, a re-ranker R → R, or what makes a pipeline for a collection.
System: TypeAlias = pt.Transformer | Callable[[Context], pt.Transformer]


@dataclass(frozen=True)
class Suite:
    """Datasets that are reported together.

    Args:
        name: as results show it.
        members: the datasets.
        averages: what is averaged over them.
        wholes: name → how many parts it has, where fewer are members, as after :meth:`only`; None = all are.
        pooled: what the parts of one dataset (:attr:`Member.part_of`) are: True = one set of queries, each of which
            counts the same (TIREx: micro-averages of a corpus); False = sets, each of which counts the same (BEIR:
            CQADupStack).

    Example::

        suite = ptd.suites.Local("folder:dl19", "irds:vaswani")
        found = suite.compare({"BM25": lambda c: c.first_stage, "student": student}, baseline="BM25", directory="out")
        found.table()
    """

    name: str
    members: tuple[Member, ...]
    averages: tuple[Average, ...] = ()
    pooled: bool = False
    wholes: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        if not self.members:
            raise ValueError(f"the suite {self.name!r} has no datasets.")
        wholes = Counter(member.part_of for member in self.members if member.part_of)
        if self.wholes is None:
            object.__setattr__(self, "wholes", dict(wholes))
        names = [member.name for member in self.members] + [*wholes] + [average.name for average in self.averages]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"the suite {self.name!r} has two datasets or averages called {twice[0]!r}.")

    def only(self, *names: str) -> Suite:
        """The suite with some of its datasets; averages over others stay, and say that they are incomplete.

        A dataset of which some parts are left out is incomplete, too.

        Raises:
            ValueError: for a name that is none of its datasets'.
        """
        known = {member.name for member in self.members} | {m.part_of for m in self.members if m.part_of}
        if strange := [name for name in names if name not in known]:
            raise ValueError(f"{self.name} has no dataset {strange[0]!r}, only: {', '.join(sorted(known))}.")
        return replace(self, members=tuple(m for m in self.members if m.name in names or m.part_of in names))

    def missing(self) -> dict[str, str]:
        """Dataset → why it cannot be had here, of those that cannot."""
        return {member.name: found for member in self.members if isinstance(found := member.read(), str)}

    def compare(
        self,
        systems: Mapping[str, System],
        *,
        directory: str | os.PathLike,
        baseline: str | None = None,
        measures: Sequence[Any] | None = None,
        depth: int = 100,
        num_results: int = 1000,
        cost: bool = True,
        verbose: bool = True,
    ) -> Comparison:
        """Run systems on all datasets that can be had, and measure them.

        What is in ``directory`` is not run again: interrupted at any moment and called again, it goes on. A system
        that changed (its weights, settings, prompts, index) has another key, and is run anew.

        Args:
            systems: name → a function of a :class:`Context` that makes a pipeline Q → R for its collection; a
                re-ranker R → R, which is given the ``depth`` first documents of the context's first stage, with text;
                or, where all datasets have one collection, a pipeline Q → R.
            directory: where runs, indexes and costs are kept.
            baseline: the system that others are tested against; None = no tests.
            measures: ir_measures' measures or their names; None = each dataset's own. Those that know no grades count
                from each dataset's own grade (:attr:`Member.binary_from`).
            depth: of what re-rankers re-rank.
            num_results: of the rankings that are kept and measured.
            cost: whether to measure milliseconds a query, too.
            verbose: whether to show progress.

        Returns:
            The results. Datasets that cannot be had are named in it, and no average counts over them silently.

        Raises:
            ValueError: for no systems, an unknown baseline or measure, one that looks deeper than ``num_results``, a
                name that is none, or if no dataset can be had.
            TypeError: for a system that is neither.
        """
        if not systems:
            raise ValueError("name at least one system.")
        if baseline is not None and baseline not in systems:
            raise ValueError(f"baseline={baseline!r} is none of the systems: {', '.join(systems)}.")
        for name, system in systems.items():
            if not isinstance(name, str) or not name.strip() or any(unicodedata.category(c)[0] == "C" for c in name):
                raise ValueError(f"a system's name must be a text of one line, not {name!r}.")
            if not callable(system):
                raise TypeError(f"{name!r} must be a transformer, or a function of a Context, not {system!r}.")
        arguments.whole(depth, "depth")
        arguments.whole(num_results, "num_results")
        chosen = None if measures is None else list(dict.fromkeys(map(_measure, measures)))
        for measure in chosen or {measure for member in self.members for measure in member.measures}:
            if measure.params.get("cutoff", 0) > num_results:
                raise ValueError(f"{measure} looks deeper than num_results={num_results}: keep that many.")
        runs, costs = Runs(Path(directory) / "runs"), Costs(Path(directory) / "cost")
        missing: dict[str, str] = {}
        parts = []
        for member in self.members:
            read = member.read()
            if isinstance(read, str):
                missing[member.name] = read
                logger.warning("%s is left out: %s", member.name, read)
                continue
            dataset, topics, qrels = read
            place = f"{file_name(member.name)}-{digest(identity(dataset))[:12]}"  # other documents, other indexes
            context = Context(dataset, Path(directory) / "collections" / place, member.name)
            rankings = {}
            for name, system in systems.items():
                pipeline = self._pipeline(name, system, context, depth, member.drop_self)
                system_key = key_of(pipeline)
                rankings[name] = runs.get(
                    name,
                    pipeline,
                    member.name,
                    topics,
                    key=system_key,
                    depth=num_results,
                    drop_self=member.drop_self,
                    verbose=verbose,
                )
                if cost:
                    costs.measure(name, pipeline, member.name, topics, key=system_key)
            used = {str(measure): member.measured(measure) for measure in chosen or member.measures}
            parts.append(_measured(rankings, topics, qrels, used).assign(dataset=member.name))
        if not parts:
            told = "; ".join(f"{name}: {why}" for name, why in missing.items())
            raise ValueError(f"none of the datasets of {self.name} can be had here ({told}).")
        per_query = pd.concat(parts, ignore_index=True)[["dataset", "name", "qid", "measure", "measured", "value"]]
        return Comparison(self, per_query, baseline, missing, costs.frame() if cost else None)

    def _pipeline(self, name: str, system: Any, context: Context, depth: int, drop_self: bool) -> pt.Transformer:
        """The pipeline of a system for a collection."""
        if isinstance(system, pt.Transformer) and retrieves(system, name):
            if len({member.collection for member in self.members if member.dataset is not None}) > 1:
                raise TypeError(
                    f"{name!r} retrieves from one collection, and {self.name} has several: give a function that makes a"
                    " pipeline for each, such as lambda context: ptd.bm25(context.path, context.get_corpus_iter())."
                )
        return pipeline_for(name, system, context, depth, drop_self=drop_self)


def _measure(given: Any) -> ir_measures.Measure:
    from ..training.evaluation import parse_measure

    return parse_measure(given)


def _measured(
    rankings: Mapping[str, pd.DataFrame], topics: pd.DataFrame, qrels: pd.DataFrame, measures: Mapping[str, Any]
) -> pd.DataFrame:
    """``name``, ``qid``, ``measure`` (as reported), ``measured`` (as measured), ``value``.

    A judged query that found nothing is measured as if it had found one document, which nobody judged.
    """
    judged = set(qrels["docno"])
    unjudged = next(docno for docno in ("-" * (n + 1) for n in range(len(judged) + 1)) if docno not in judged)
    filled = {}
    for name, ranking in rankings.items():
        empty = topics.loc[~topics["qid"].isin(ranking["qid"]), ["qid"]].assign(docno=unjudged, score=0.0, rank=0)
        filled[name] = pd.concat([ranking, empty], ignore_index=True) if len(empty) else ranking
    table = pt.Experiment(filled, topics, qrels, list(dict.fromkeys(measures.values())), perquery=True)
    values = table.astype({"measure": str, "qid": str}).set_index(["name", "qid", "measure"])["value"]
    parts = []
    for reported, measured in measures.items():
        every = pd.MultiIndex.from_product([list(rankings), topics["qid"], [str(measured)]], names=values.index.names)
        part = values.reindex(every).rename("value").reset_index().rename(columns={"measure": "measured"})
        if measured.NAME == "NumRet":
            answered = {(name, qid) for name, ranking in rankings.items() for qid in ranking["qid"]}
            nothing = [pair not in answered for pair in zip(part["name"], part["qid"], strict=True)]
            part.loc[nothing, "value"] = 0.0
        parts.append(part.assign(measure=reported))
    return pd.concat(parts, ignore_index=True)
