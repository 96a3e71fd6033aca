"""Which temperature fits the scores of a student: a softmax of cosines tells its documents apart by next to nothing."""

from __future__ import annotations

import inspect
import logging
from typing import Any

from . import base

__all__ = ["warn_of_cosines"]

logger = logging.getLogger(__name__)

#: What losses divide cosines by, give or take a factor of two.
USUAL = 0.05
#: What losses multiply scores by instead: 1 / temperature, by other names.
STEEPNESS = ("sigma", "alpha")


def warn_of_cosines(loss: base.Loss, student: Any, scale: str | None) -> bool:
    """Warn of terms that put cosines into a softmax or σ at a temperature of 1 or more, naming one that teaches.

    At temperature 1 the most that a softmax can say of two documents is e² to 1, and usually 1.1 to 1.

    Args:
        loss: what is trained with.
        student: whose scores it reads.
        scale: of these, one of ``losses.base.SCALES``; None = not known, which warns of nothing.

    Returns:
        Whether it warned.
    """
    if scale != base.COSINE:
        return False
    told = {repr(term): way for _, term in loss.terms() if (way := _way_out(term))}
    for term, way in told.items():
        dot = ", or build the student with similarity='dot'" if hasattr(student, "similarity") else ""
        logger.warning(
            "%s reads cosines, between -1 and 1, at temperature 1 or more, which teaches next to nothing: %s%s.",
            term, way, dot,
        )  # fmt: skip
    return bool(told)


def _way_out(term: base.Loss) -> str | None:
    """What to do about a term; None for one that softens no scores, or does so at a lower temperature."""
    if not term.needs & {base.SCORES, base.BATCH_SCORES}:
        return None
    takes = inspect.signature(type(term)).parameters
    for name in STEEPNESS:
        if name in takes:
            return f"pass {name}={1 / USUAL:g} (temperature is 1 / {name})" if getattr(term, name) <= 1 else None
    name = "student_temperature" if "student_temperature" in takes else "temperature"
    divisor = getattr(term, name, None)
    divisor = getattr(term, "temperature", None) if divisor is None else divisor
    if divisor is None or divisor < 1:
        return None
    other = f"take a loss that has a temperature, such as KLDivergence(temperature={USUAL})"
    both = f" (temperature={USUAL} where the teacher's are cosines, too)" if name == "student_temperature" else ""
    return f"pass {name}={USUAL}{both}" if name in takes else other
