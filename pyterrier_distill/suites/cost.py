"""What a ranking costs: milliseconds a query, weights, memory, energy."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt

from ..engine.checkpoints import write_json
from ..stores.files import read_object
from .runs import file_name


class Costs:
    """Costs of systems on datasets, kept in a directory: what was measured once is not measured again.

    Args:
        directory: where they are kept.
        queries: how many are timed, one by one.
    """

    def __init__(self, directory: str | os.PathLike, queries: int = 20):
        self.directory = Path(directory)
        self.queries = queries
        self.rows: list[dict[str, Any]] = []

    def measure(
        self, system: str, pipeline: pt.Transformer, dataset: str, topics: pd.DataFrame, *, key: str
    ) -> None:
        """Time a pipeline on single queries, once it is warm.

        Args:
            system: its name.
            pipeline: Q → R.
            dataset: a name.
            topics: Q.
            key: of the pipeline, by :func:`~.runs.key_of`.
        """
        path = self.directory / file_name(dataset) / f"{file_name(system)}-{key[:12]}.json"
        if path.exists():
            self.rows.append(read_object(path))
            return
        some = topics.head(self.queries)
        pipeline(some.head(1))  # models are loaded, indexes opened
        milliseconds: list[float] = []
        found: list[int] = []

        def timed() -> None:
            for n in range(len(some)):
                began = time.perf_counter()
                found.append(len(pipeline(some.iloc[n : n + 1].reset_index(drop=True))))
                milliseconds.append(1000 * (time.perf_counter() - began))

        joules = energy(timed)
        row = {
            "dataset": dataset,
            "name": system,
            "ms a query": float(np.median(milliseconds)),
            "ms a query (95%)": float(np.percentile(milliseconds, 95)),
            "documents a second": 1000 * sum(found) / sum(milliseconds),
            "parameters": parameters(pipeline),
            "peak memory (MiB)": _peak(),
            "peak CUDA memory (MiB)": _peak_of_card(),
            "J a query": None if joules is None else joules / len(some),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, row)
        self.rows.append(row)

    def frame(self) -> pd.DataFrame:
        """A row a system and dataset; NaN is what could not be measured here (no card, no meter of energy)."""
        frame = pd.DataFrame(self.rows)
        unknown = [name for name in ("peak CUDA memory (MiB)", "J a query") if name in frame.columns]
        return frame.astype(dict.fromkeys(unknown, float))


def parameters(pipeline: pt.Transformer) -> int:
    """Weights of all students in a pipeline, each counted once; of models that do not tell their number none."""
    counted: dict[int, int] = {}
    left = [pipeline]
    while left:
        one = left.pop()
        if id(one) in counted:
            continue
        tells = getattr(one, "num_parameters", None)
        counted[id(one)] = int(tells()) if callable(tells) else 0
        if not counted[id(one)]:
            held = [part if isinstance(part, (list, tuple)) else [part] for part in vars(one).values()]
            left += [inner for parts in held for inner in parts if isinstance(inner, pt.Transformer)]
    return sum(counted.values())


def _peak() -> float:
    """The most memory that the process has had so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _peak_of_card() -> float | None:
    """The most memory of a CUDA card that was allocated so far, in MiB; None where none is in use."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return torch.cuda.max_memory_allocated() / (1 << 20)


def energy(run: Callable[[], object]) -> float | None:
    """Run something, and say how many joules processor, memory and card took meanwhile.

    Returns:
        None where tirex-tracker is not installed or finds nothing that measures.
    """
    try:
        from tirex_tracker import Measure, tracking
    except ModuleNotFoundError:
        run()
        return None
    with tracking(measures=[measure for measure in Measure if measure.name.endswith("_ENERGY_SYSTEM_JOULES")]) as held:
        run()
    told = (entry.value for entry in held.results.values())
    numbers = [float(value) for value in told if value not in (b"null", "null", None)]
    return sum(numbers) if numbers else None
