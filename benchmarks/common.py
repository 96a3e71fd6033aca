"""What the benchmarks share: real text, the machine's name, paired timing."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def machine() -> dict[str, Any]:
    """Processor, threads and versions."""
    import torch

    from pyterrier_distill.engine.checkpoints import versions

    model = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "versions": versions(),
    }


def paired(systems: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each system, run in turns after one warm-up round, so that drift hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    for turn in range(rounds + 1):
        for name, run in systems.items():
            started = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def ratios(seconds: dict[str, list[float]], ours: str) -> dict[str, float]:
    """How many times as fast as each peer ours is: the median over rounds of the paired ratios."""
    return {
        name: round(statistics.median(theirs / mine for theirs, mine in zip(values, seconds[ours], strict=True)), 2)
        for name, values in seconds.items()
        if name != ours
    }


def report(result: dict[str, Any], out: str | None) -> None:
    """Print a result, and write it where asked."""
    text = json.dumps({"machine": machine(), **result}, indent=2)
    print(text)
    if out:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Path(out).write_text(text + "\n")


def over_seeds(tables: dict[str, list[dict[str, dict[str, float]]]], others: tuple[str, ...]) -> list[dict[str, Any]]:
    """A line a system: means over seeds and queries; p of a paired t-test, each query's value its mean over seeds.

    Args:
        tables: system → one table a seed, qid → measure → value.
        others: the systems that each is tested against.
    """
    import pandas as pd
    from scipy.stats import ttest_rel

    values: dict[str, dict[str, pd.Series]] = {}
    for system, seeds in tables.items():
        frames = [pd.DataFrame(table).T for table in seeds]
        if frames:
            values[system] = {m: pd.concat([f[m] for f in frames], axis=1).mean(axis=1) for m in frames[0]}
    lines = []
    for system, by_measure in values.items():
        line: dict[str, Any] = {"system": system, "seeds": len(tables[system])}
        for measure, series in by_measure.items():
            line[measure] = round(float(series.mean()), 4)
            for other in others:
                if other in values and other != system:
                    against = values[other][measure].reindex(series.index)
                    line[f"{measure} p against {other}"] = round(float(ttest_rel(series, against).pvalue), 4)
        lines.append(line)
    return lines
