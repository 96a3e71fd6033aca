"""One way to measure speed on a machine that others use, too: short blocks in turns, and ratios within each turn.

A system is a function that does a small piece of its work and says how much that was (pairs, texts, steps). In each
round every system works for one block; the machine's own rate of multiplication is taken in the same round. What is
reported is the median over rounds of ratios of neighbours, with its quartiles: drift hits both alike. A ratio that
varies too much is measured again, and not reported if it still does.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

#: Seconds of a block, rounds, and the range (quartiles, as a share of the median) beyond which nothing is reported.
BLOCK, ROUNDS, WIDEST = 1.0, 20, 0.15
MULTIPLICATION = "multiplication"


def multiplication(dtype: str = "bfloat16", size: int = 1024) -> Callable[[], float]:
    """The machine's own rate: FLOP of products of square matrices, each call one."""
    import torch

    left, right = (torch.randn(size, size).to(getattr(torch, dtype)) for _ in range(2))

    def work() -> float:
        left @ right
        return 2.0 * size**3

    return work


def turns(
    systems: Mapping[str, Callable[[], float]], rounds: int = ROUNDS, block: float = BLOCK
) -> dict[str, list[float]]:
    """Work a second of each system in each round, after a round that does not count.

    Args:
        systems: name → a function that works for much less than ``block`` seconds and says how much it did.
        rounds: how often each has its turn.
        block: seconds of a turn, at most one call longer.
    """
    rates: dict[str, list[float]] = {name: [] for name in systems}
    for turn in range(rounds + 1):
        for name in list(systems)[:: 1 if turn % 2 else -1]:  # who comes first changes
            done, began = 0.0, time.perf_counter()
            while (took := time.perf_counter() - began) < block:
                done += systems[name]()
            if turn:
                rates[name].append(done / took)
    return rates


def summary(values: list[float]) -> dict[str, float]:
    """Median, quartiles, and their distance as a share of the median."""
    low, middle, high = statistics.quantiles(values, n=4)
    told = {"median": middle, "lower": low, "upper": high, "range": (high - low) / middle}
    return {name: float(f"{value:.4g}") for name, value in told.items()}


def measure(
    systems: Mapping[str, Callable[[], float]],
    ours: str,
    *,
    flop: Mapping[str, float] | None = None,
    dtype: str = "bfloat16",
    rounds: int = ROUNDS,
    block: float = BLOCK,
    tries: int = 3,
) -> dict[str, Any]:
    """How many times as fast as each other system ours is.

    Args:
        systems: as for :func:`turns`.
        ours: the name of one of them.
        flop: of a unit of work, by system; their share of the machine's rate of multiplication is told, then.
        dtype: of the machine's own multiplications.
        rounds: of a try.
        block: seconds of a turn.
        tries: how often a ratio that varies too much is measured anew.

    Returns:
        ``work a second`` by system, ``times as fast as`` by other system and ``share of the rate`` with median and
        quartiles; a ratio that varied too much in every try is told as ``"not reported"``, with its range.
    """
    import torch

    everything = {**systems, MULTIPLICATION: multiplication(dtype)}
    told: dict[str, Any] = {}
    others = [name for name in systems if name != ours]
    for attempt in range(1, tries + 1):
        rates = turns(everything, rounds, block)
        ratios = {
            name: summary([mine / theirs for mine, theirs in zip(rates[ours], rates[name], strict=True)])
            for name in others
        }
        told = {
            "threads": torch.get_num_threads(), "rounds": rounds, "seconds of a block": block, "tries": attempt,
            "work a second": {name: float(f"{statistics.median(rates[name]):.4g}") for name in systems},
            "GFLOP/s of multiplication": round(statistics.median(rates[MULTIPLICATION]) / 1e9, 1),
            "times as fast as": ratios,
        }  # fmt: skip
        if flop:
            told["share of the rate"] = {
                name: summary(
                    [rate * each / own for rate, own in zip(rates[name], rates[MULTIPLICATION], strict=True)]
                )
                for name, each in flop.items()
            }
        if all(ratio["range"] <= WIDEST for ratio in ratios.values()):
            break
    told["times as fast as"] = {
        name: ratio if ratio["range"] <= WIDEST else {"not reported": f"its range is {ratio['range']:.0%}"}
        for name, ratio in told["times as fast as"].items()
    }
    return told


class Stepped:
    """Work that runs on its own, such as a trainer, made to stand still between two of its steps.

    Args:
        work: given a function that it calls after each step; there it stands still until :meth:`step` is called.
    """

    def __init__(self, work: Callable[[Callable[[], None]], Any]):
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._error: BaseException | None = None
        self._ended = False
        threading.Thread(target=self._run, args=(work,), daemon=True).start()

    def _run(self, work: Callable[[Callable[[], None]], Any]) -> None:
        self._go.acquire()
        try:
            work(self._pause)
        except BaseException as error:  # told where the next step is asked for
            self._error = error
        self._ended = True
        self._done.release()

    def _pause(self) -> None:
        self._done.release()
        self._go.acquire()

    def step(self) -> None:
        """Let the work do one step.

        Raises:
            RuntimeError: if it has ended.
        """
        if self._ended:
            raise RuntimeError("the work has ended: give it more steps.") from self._error
        self._go.release()
        self._done.acquire()
        if self._error is not None:
            raise self._error
