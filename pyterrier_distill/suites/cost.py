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
from ..identity.identity import digest, identity
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

    def measure(self, system: str, pipeline: pt.Transformer, dataset: str, topics: pd.DataFrame, made_by: Any) -> None:
        """Time a pipeline on single queries, once it is warm.

        Args:
            system: its name.
            pipeline: Q → R.
            dataset: a name.
            topics: Q.
            made_by: the system as it was given, whose weights are counted.
        """
        key = digest({"pipeline": identity(pipeline), "queries": self.queries})[:12]
        path = self.directory / file_name(dataset) / f"{file_name(system)}-{key}.json"
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
            "parameters": parameters([pipeline, made_by]),
            "peak memory (MiB)": _peak(),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, row)
        self.rows.append(row)

    def frame(self) -> pd.DataFrame:
        """A row a system and dataset."""
        return pd.DataFrame(self.rows)


def parameters(things: Any) -> int:
    """Weights of all models in pipelines, each counted once."""
    seen: dict[int, int] = {}

    def look(thing: Any, depth: int = 0) -> None:
        if id(thing) in seen or depth > 6:
            return
        seen[id(thing)] = 0
        count = getattr(thing, "num_parameters", None)
        if callable(count) and isinstance(thing, pt.Transformer):
            seen[id(thing)] = int(count())
            return
        if isinstance(thing, (list, tuple)):
            for part in thing:
                look(part, depth + 1)
        elif isinstance(thing, pt.Transformer):
            for part in vars(thing).values():
                if isinstance(part, (list, tuple, pt.Transformer)):
                    look(part, depth + 1)

    look(things)
    return sum(seen.values())


def _peak() -> float:
    """The most memory that the process has had so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
