"""The scoring modes of a USTAD."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

CROSS = "cross"  # query and document are read together
DUAL = "dual"  # apart; one vector each
LATE = "late"  # apart; a vector a token
MODES = (CROSS, DUAL, LATE)


def check_mode(mode: str) -> str:
    """``mode``, if there is such a one.

    Raises:
        ValueError: naming those there are.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, not {mode!r}.")
    return mode


def check_modes(modes: str | Sequence[str]) -> tuple[str, ...]:
    """``modes`` each once, in the order of :data:`MODES`.

    Raises:
        ValueError: if there are none, or one is unknown.
    """
    given = {modes} if isinstance(modes, str) else set(modes)
    if not given or not given <= set(MODES):
        raise ValueError(f"modes must be some of {', '.join(MODES)}, at least one, not {modes!r}.")
    return tuple(mode for mode in MODES if mode in given)


def check_scale(scale: float | Mapping[str, float]) -> float | dict[str, float]:
    """``scale``: one positive number, or one for some modes.

    Raises:
        ValueError: if it is neither.
    """
    each = scale if isinstance(scale, Mapping) else {CROSS: scale}
    numbers = [isinstance(one, (int, float)) and not isinstance(one, bool) for one in each.values()]
    if not each or not set(each) <= set(MODES) or not all(numbers) or not all(0 < v < math.inf for v in each.values()):
        raise ValueError(f"scale must be a positive number, or such as {{'late': 0.1}}, not {scale!r}.")
    return dict(scale) if isinstance(scale, Mapping) else scale


def check_settings(pooling: str, query_length: int, max_length: int | None) -> None:
    """Check how a USTAD reads texts.

    Raises:
        ValueError: for an unknown pooling, or lengths that leave no place for documents.
    """
    if pooling not in ("mean", "cls"):
        raise ValueError(f"pooling must be 'mean' or 'cls', not {pooling!r}.")
    if isinstance(query_length, bool) or not isinstance(query_length, int) or query_length < 3:
        raise ValueError(f"query_length must be a whole number of at least 3 tokens, not {query_length!r}.")
    if max_length is not None and max_length < query_length + 3:
        raise ValueError(f"query_length={query_length} leaves no place for documents in max_length={max_length}.")
