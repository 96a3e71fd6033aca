"""What a ranking costs: milliseconds a query, weights, memory."""

from __future__ import annotations

import os
import resource
import time
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
        milliseconds, documents = [], 0
        for n in range(len(some)):
            began = time.perf_counter()
            documents += len(pipeline(some.iloc[n : n + 1].reset_index(drop=True)))
            milliseconds.append(1000 * (time.perf_counter() - began))
        row = {
            "dataset": dataset,
            "name": system,
            "ms a query": float(np.median(milliseconds)),
            "ms a query (95%)": float(np.percentile(milliseconds, 95)),
            "documents a second": 1000 * documents / sum(milliseconds),
            "parameters": parameters(pipeline),
            "peak memory (MiB)": _peak(),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, row)
        self.rows.append(row)

    def frame(self) -> pd.DataFrame:
        """A row a system and dataset."""
        return pd.DataFrame(self.rows)


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
