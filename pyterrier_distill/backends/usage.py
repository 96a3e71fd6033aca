"""What asking models has cost so far."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass
class Usage:
    """What was spent. Adds up; ``usage - earlier`` is what was spent in between.

    Attributes:
        calls: prompts that a model answered.
        prompt_tokens: tokens of these prompts.
        output_tokens: tokens of the answers.
        seconds: time the calls took, side by side counted once.
    """

    calls: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0
    _lock: Any = field(default_factory=threading.Lock, repr=False, compare=False)
    _under_way: int = field(default=0, init=False, repr=False, compare=False)
    _since: float = field(default=0.0, init=False, repr=False, compare=False)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """The time within counts as :attr:`seconds`; what several threads do side by side counts once."""
        with self._lock:
            if self._under_way == 0:
                self._since = time.monotonic()
            self._under_way += 1
        try:
            yield
        finally:
            with self._lock:
                self._under_way -= 1
                if self._under_way == 0:
                    self.seconds += time.monotonic() - self._since

    def add(self, calls: int = 0, prompt_tokens: int = 0, output_tokens: int = 0, seconds: float = 0.0) -> None:
        """Count more; safe from several threads."""
        with self._lock:
            self.calls += calls
            self.prompt_tokens += prompt_tokens
            self.output_tokens += output_tokens
            self.seconds += seconds

    def as_dict(self) -> dict[str, float]:
        """Plain numbers, for a manifest."""
        return {f.name: getattr(self, f.name) for f in fields(self) if not f.name.startswith("_")}

    def __add__(self, other: Usage) -> Usage:
        return Usage(**{name: value + getattr(other, name) for name, value in self.as_dict().items()})

    def __sub__(self, other: Usage) -> Usage:
        return Usage(**{name: value - getattr(other, name) for name, value in self.as_dict().items()})

    def __getstate__(self) -> dict[str, Any]:
        return self.as_dict()

    def __setstate__(self, state: dict[str, Any]) -> None:
        Usage.__init__(self, **state)
