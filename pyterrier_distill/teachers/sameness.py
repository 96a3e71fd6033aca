"""Models that give every question the same answer: they judge nothing, and whoever distils them must know."""

from __future__ import annotations

import logging
from typing import Any

logger = logging.getLogger(__name__)

#: Choices from which on it is no chance that all are the same.
MANY = 10


def warn_if_same(teacher: Any, same: int, answers: int, said: str, advice: str, choices: int | None = None) -> None:
    """Warn, once a frame, if all answers to a frame's questions are the same.

    Args:
        teacher: who was asked.
        same: how many answers are the commonest one.
        answers: how many there are.
        said: what all of them say.
        advice: what shows more, or helps.
        choices: how often something else could have been said; None = once an answer. Fewer than :data:`MANY` say
            nothing.
    """
    if (answers if choices is None else choices) >= MANY and same == answers:
        logger.warning("%s: all %d answers %s: %s", teacher, answers, said, advice)
