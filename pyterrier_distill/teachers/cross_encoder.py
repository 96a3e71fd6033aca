"""Scores of a sentence-transformers cross-encoder, through the project's batching engine."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from .. import scoring
from ..backends import checkpoint
from ..backends.base import Usage


class CrossEncoderScorer:
    """A sequence classifier over (query, document), with one output or with two.

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
        self.max_length = max_length
        self.precision = precision
        self.batch_size = batch_size
        self.device = device
        self.hub = {"revision": revision, "trust_remote_code": trust_remote_code}
        self.verbose = verbose
        self.usage = Usage()

    @cached_property
    def model(self) -> Any:
        """The sentence-transformers CrossEncoder.

        Raises:
            ValueError: if its head was never trained, or has more than two outputs.
        """
        import torch
        from sentence_transformers import CrossEncoder

        if not os.path.isfile(os.path.join(self.name, "modules.json")):
            kind = checkpoint.kind_of(self.name, self.hub)  # a head that is missing would be made at random
            if kind != "cross-encoder":
                raise ValueError(f"{self.name!r} is a {kind} checkpoint, not a cross-encoder.")
        device = scoring.infer_device(self.device)
        with torch.inference_mode(False):
            model = checkpoint.read(
                self.name,
                "cross-encoder",
                lambda: CrossEncoder(
                    self.name,
                    device=str(device),
                    max_length=self.max_length,
                    model_kwargs={"dtype": checkpoint.weights_dtype(self.precision, device)},
                    **self.hub,
                ),
            )
        if model.num_labels > 2:
            raise ValueError(f"{self.name!r} has {model.num_labels} outputs: a re-ranker has one, or two (no, yes).")
        return model.eval()

    @cached_property
    def gives(self) -> str:
        """``"logit"``, or ``"logits"`` of (no, yes)."""
        return "logit" if checkpoint.num_labels(self.name, self.hub) == 1 else "logits"

    def score(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Raw logits ``[n, 1]`` or ``[n, 2]``."""

        def prepare(chunk: list[tuple[str, str]]) -> dict[str, Any]:
            features = self._features(chunk)
            self.usage.add(len(chunk), int(features["attention_mask"].sum()))
            return features

        started = time.monotonic()
        scores = scoring.run(
            pairs,
            prepare=prepare,
            forward=lambda features: self.model(dict(features))["scores"],
            device=self.device,
            precision=self.precision,
            batch_size=self.batch_size,
            verbose=self.verbose,
            desc="Scoring",
            unit="d",
        )
        self.usage.add(seconds=time.monotonic() - started)
        return scores.reshape(len(pairs), -1)

    def _features(self, chunk: Sequence[tuple[str, str]]) -> dict[str, Any]:
        return dict(self.model.preprocess([list(pair) for pair in chunk]))

    def estimate(self, pairs: Sequence[tuple[str, str]]) -> Usage:
        """Calls and prompt tokens."""
        tokens = 0
        for start in range(0, len(pairs), scoring.BUFFER):
            tokens += int(self._features(pairs[start : start + scoring.BUFFER])["attention_mask"].sum())
        return Usage(len(pairs), tokens, 0)
