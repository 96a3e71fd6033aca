"""Whether two systems differ by more than chance: paired t-tests, corrected for how many there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd


def paired_t(one: Sequence[float], other: Sequence[float]) -> float:
    """p of a two-sided paired t-test; NaN where there is nothing to test: fewer than two pairs, or no difference.

    Args:
        one: ``[n]`` values of a system, query by query.
        other: those of the other system for the same queries.
    """
    from scipy.stats import ttest_rel

    differences = np.asarray(one, dtype=float) - np.asarray(other, dtype=float)
    if len(differences) < 2 or np.all(differences == differences[0]):
        return float("nan") if len(differences) < 2 or differences[0] == 0 else 0.0
    return float(ttest_rel(one, other).pvalue)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction (1979): the p-values of a family of tests, adjusted; NaN stays, and is not counted.

    Args:
        p_values: test → p.

    Returns:
        Test → adjusted p: with the p sorted, the largest of (m − k) · p_k so far, at most 1.
    """
    told = {name: p for name, p in p_values.items() if not np.isnan(p)}
    adjusted, largest = {name: float("nan") for name in p_values}, 0.0
    for k, (name, p) in enumerate(sorted(told.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(told) - k) * p))
        adjusted[name] = largest
    return adjusted


def against(values: pd.DataFrame, baseline: str) -> dict[str, float]:
    """Adjusted p of each system against one.

    Args:
        values: ``[queries, systems]``, one column a system.
        baseline: one of the columns.
    """
    return holm({name: paired_t(values[name], values[baseline]) for name in values if name != baseline})
