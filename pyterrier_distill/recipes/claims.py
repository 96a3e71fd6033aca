"""What a paper claims, tested on what a recipe measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..suites.significance import paired_t

#: What may come of a claim.
HOLDS, NOT_HERE, OPPOSITE, UNTESTED = "holds", "not here", "the opposite", "not tested"


@dataclass(frozen=True)
class Claim:
    """That one system is better than another, or keeps a share of it.

    Attributes:
        text: the claim, as a sentence without its figures.
        source: where the paper makes it, such as ``"PairDistill, Table 3"``.
        better: a system.
        worse: the one that it is compared with.
        datasets: on which; none = on all that were measured, their queries pooled.
        share: that ``better`` has at least this share of ``worse``, which is not a matter of significance; None = that
            it is better.
        no_better: that ``better`` is *not* significantly better.
        why_not: why it cannot be tested at this scale; empty = it can.
    """

    text: str
    source: str
    better: str = ""
    worse: str = ""
    datasets: tuple[str, ...] = ()
    share: float | None = None
    no_better: bool = False
    why_not: str = ""

    def tested(self, per_query: pd.DataFrame, measure: str) -> dict[str, Any]:
        """What came of it.

        Args:
            per_query: ``dataset``, ``name``, ``seed``, ``qid``, ``measure``, ``value``.
            measure: by which.

        Returns:
            ``claim``, ``source``, ``verdict`` (one of :data:`HOLDS`, :data:`NOT_HERE`, :data:`OPPOSITE`,
            :data:`UNTESTED`) and, where it was tested, both systems with their means, ``difference``, ``p`` (paired
            t-test over queries, each query's value its mean over seeds), ``queries`` and ``seeds``; or ``why``.
        """
        told: dict[str, Any] = {"claim": self.text, "source": self.source}
        if self.why_not:
            return {**told, "verdict": UNTESTED, "why": self.why_not}
        rows = per_query[per_query["measure"] == measure]
        rows = rows[rows["dataset"].isin(self.datasets)] if self.datasets else rows
        sides = [rows[rows["name"] == name] for name in (self.better, self.worse)]
        for name, side in zip((self.better, self.worse), sides, strict=True):
            if not len(side):
                return {**told, "verdict": UNTESTED, "why": f"{name} was not measured in this run"}
        one, other = (side.groupby(["dataset", "qid"])["value"].mean() for side in sides)
        one, other = one.align(other, join="inner")
        difference, p = float((one - other).mean()), paired_t(one.tolist(), other.tolist())
        if self.no_better:
            verdict = NOT_HERE if p < 0.05 and difference > 0 else HOLDS
        elif self.share is not None:
            verdict = HOLDS if one.mean() >= self.share * other.mean() else NOT_HERE
        else:
            verdict = NOT_HERE if not p < 0.05 else HOLDS if difference > 0 else OPPOSITE
        return {
            **told, "verdict": verdict, "better": self.better, "worse": self.worse, "measure": measure,
            "datasets": sorted(set(one.index.get_level_values("dataset"))), "difference": round(difference, 4),
            self.better: round(float(one.mean()), 4), self.worse: round(float(other.mean()), 4),
            "p": None if p != p else float(f"{p:.2g}"), "queries": len(one),
            "seeds": max(side["seed"].nunique() for side in sides),
        }  # fmt: skip


def sentence(result: dict[str, Any]) -> str:
    """A tested claim as a line: what it says, what was found."""
    if result["verdict"] == UNTESTED:
        return f"{result['claim']} ({result['source']}): not tested, {result['why']}."
    p = "" if result["p"] is None else f", p = {result['p']}"
    seeds = f"{result['seeds']} seed{'' if result['seeds'] == 1 else 's'}"
    found = f"{result['difference']:+.4f} {result['measure']}{p}, {result['queries']} queries, {seeds}"
    return f"{result['claim']} ({result['source']}): {result['verdict']} ({found})."


def tested(claims: Sequence[Claim], per_query: pd.DataFrame, measure: str) -> list[dict[str, Any]]:
    """All of them."""
    return [claim.tested(per_query, measure) for claim in claims]
