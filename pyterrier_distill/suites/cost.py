"""What a ranking costs: milliseconds a query, weights, memory, energy."""

from __future__ import annotations

import os
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

#: What cannot be measured everywhere.
_MAY_LACK = ("parameters", "peak memory (MiB)", "peak CUDA memory (MiB)", "J a query")
#: How far into objects models are looked for.
_DEEPEST = 6


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
        """Time a pipeline on single queries, once it is warm, which asks it once more about these.

        Memory is the process's while it was timed: models of other systems that are loaded are part of it.

        Args:
            system: its name.
            pipeline: Q → R.
            dataset: a name.
            topics: Q.
            key: of the pipeline, by :func:`~.keys.key_of`.
        """
        path = self.directory / file_name(dataset) / f"{file_name(system)}-{key[:12]}.json"
        if path.exists():
            self.rows.append(read_object(path))
            return
        some = topics.head(self.queries)
        pipeline(some.head(1))  # models are loaded, indexes opened
        resettable = _reset_peaks()
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
            "peak memory (MiB)": _peak() if resettable else None,
            "peak CUDA memory (MiB)": _peak_of_card(),
            "J a query": None if joules is None else joules / len(some),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, row)
        self.rows.append(row)

    def frame(self) -> pd.DataFrame:
        """A row a system and dataset; NaN is what could not be measured here (no card, no meter of energy)."""
        frame = pd.DataFrame(self.rows)
        unknown = [name for name in _MAY_LACK if name in frame.columns]
        return frame.astype(dict.fromkeys(unknown, float))


def parameters(pipeline: Any) -> int | None:
    """Weights of all models in a pipeline, each counted once; None where one is asked elsewhere, and says no number.

    Args:
        pipeline: whose models are loaded.
    """
    torch = sys.modules.get("torch")
    seen: dict[int, Any] = {}  # what was seen is held, for its id would be another's
    left, weights, unknown = [(pipeline, 0)], 0, False
    while left:
        one, depth = left.pop()
        if id(one) in seen:
            continue
        seen[id(one)] = one
        tells = getattr(one, "num_parameters", None)
        if torch is not None and isinstance(one, torch.nn.Module):
            new = {id(weight): weight for weight in one.parameters() if id(weight) not in seen}
            weights += sum(weight.numel() for weight in new.values())
            seen.update(new)
        elif isinstance(one, pt.Transformer) and callable(tells):
            weights += int(tells())
        elif isinstance(one, (list, tuple)):
            left += [(part, depth + 1) for part in one if hasattr(part, "__dict__") and depth < _DEEPEST]
        elif depth < _DEEPEST and hasattr(one, "__dict__") and not isinstance(one, type):
            unknown = unknown or getattr(one, "remote", False) is True
            left += [(part, depth + 1) for part in vars(one).values()]
    return None if unknown else weights


def _reset_peaks() -> bool:
    """Let peaks of memory count from now on; whether that can be done here (Linux) for the process's."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _peak() -> float | None:
    """The most memory that the process had since :func:`_reset_peaks`, in MiB; None where nobody says."""
    try:
        told = Path("/proc/self/status").read_text()
    except OSError:
        return None
    lines = (line.split() for line in told.splitlines())
    return next((int(line[1]) / 1024 for line in lines if line[:1] == ["VmHWM:"]), None)


def _peak_of_card() -> float | None:
    """The most memory of a CUDA card that was allocated since then, in MiB; None where none is in use."""
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
