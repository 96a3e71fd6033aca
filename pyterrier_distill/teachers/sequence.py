"""What sequence classifiers over a query and documents share: settings, tokens counted, batches run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..backends.base import unfinished
from ..backends.usage import Usage
from ..engine import batching
from ..engine.model_state import Loaded


class SequenceScorer:
    """A model that reads a query and its documents as one sequence and gives logits.

    Subclasses define :attr:`model` and :meth:`features`.

    Args:
        name: a directory or hub name; other arguments as for :class:`~pyterrier_distill.PointwiseTeacher`.
    """

    def __init__(
        self,
        name: str,
        *,
        max_length: int | None,
        precision: str,
        batch_size: int | None,
        device: str | None,
        revision: str | None,
        verbose: bool,
        trust_remote_code: bool,
    ):
        self.name = name
        self._max_length = max_length
        self.precision = precision
        self.batch_size = batch_size
        self.device = device
        self.hub: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
        self.verbose = verbose
        self.usage = Usage()
        self.held = Loaded()

    def model_changes(self) -> dict[str, str]:
        """How the loaded model is not its checkpoint's: ``trained`` (other weights), ``reset`` (other settings)."""
        return self.held.changes()

    @property
    def model(self) -> Any:
        """The module that gives logits."""
        raise TypeError(f"{type(self).__name__} does not say its model.")

    def features(self, items: Sequence[tuple[str, ...]]) -> dict[str, Any]:
        """Token ids ``[n, L]`` and what else the model reads."""
        raise TypeError(f"{type(self).__name__} does not say how it reads.")

    def _run(
        self, items: Sequence[tuple[str, ...]], forward: Callable[[dict[str, Any]], Any], desc: str, unit: str
    ) -> np.ndarray:
        """What ``forward`` gives for each of ``items``; calls, tokens and seconds are counted.

        Raises:
            BackendError: if the model failed after it had scored some; it carries these.
        """

        def prepare(chunk: Sequence[tuple[str, ...]]) -> dict[str, Any]:
            features = self.features(chunk)
            self.usage.add(len(chunk), int(features["attention_mask"].sum()))
            return features

        started = time.monotonic()
        try:
            return batching.run(
                items,
                prepare=prepare,
                forward=lambda features: forward(dict(features)),
                device=self.device,
                precision=self.precision,
                batch_size=self.batch_size,
                verbose=self.verbose,
                desc=desc,
                unit=unit,
                model=self.model,
            )
        except Exception as error:
            if (answers := batching.before(error)) is None:
                raise
            raise unfinished(self.name, error, answers) from error
        finally:
            self.usage.add(seconds=time.monotonic() - started)

    def estimate(self, items: Sequence[tuple[str, ...]]) -> Usage:
        """Calls and prompt tokens."""
        tokens = 0
        for start in range(0, len(items), batching.BUFFER):
            tokens += int(self.features(items[start : start + batching.BUFFER])["attention_mask"].sum())
        return Usage(len(items), tokens, 0)
