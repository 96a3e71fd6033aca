"""Random numbers of our own: whoever draws them leaves the caller's generators as they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

#: torch's accelerators whose generators a seed reaches.
_DEVICES = ("cuda", "xpu")


def states() -> dict[str, Any]:
    """The states of all generators of the process: Python's, NumPy's, torch's on every device."""
    import torch

    found: dict[str, Any] = {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.get_rng_state()}
    for name in _DEVICES:
        device = getattr(torch, name, None)
        if device is not None and device.is_available() and device.is_initialized():
            found[name] = device.get_rng_state_all()
    if torch.backends.mps.is_available():
        found["mps"] = torch.mps.get_rng_state()
    return found


def restore(found: dict[str, Any]) -> None:
    """Put generators back to what :func:`states` found."""
    import torch

    random.setstate(found["python"])
    np.random.set_state(found["numpy"])
    torch.set_rng_state(found["cpu"])
    for name in _DEVICES:
        device = getattr(torch, name, None)
        if device is not None and name in found:
            device.set_rng_state_all(found[name])
        elif device is not None and device.is_available():
            # It was not in use yet. What the caller seeded torch with is what it would have started from.
            device.manual_seed_all(torch.initial_seed())
    if "mps" in found:
        torch.mps.set_rng_state(found["mps"])


@contextmanager
def left_alone() -> Iterator[None]:
    """Within, anything may be drawn or seeded; afterwards all generators are as they were, also after an error."""
    found = states()
    try:
        yield
    finally:
        restore(found)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within, torch draws from ``seed`` on every device; afterwards all generators are as they were."""
    import torch

    with left_alone():
        torch.manual_seed(seed)
        yield
