"""Scores of a sentence-transformers cross-encoder, through the project's batching engine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..backends.base import answers_as
from ..engine import batching, checkpoints, pretrained
from ..engine.locks import loading, once
from ..engine.tokens import read_pairs
from .sequence import SequenceScorer


class CrossEncoderScorer(SequenceScorer):
    """A sequence classifier over (query, document), with one output or with two.

    Args:
        name: a directory or hub name; other arguments as for :class:`~pyterrier_distill.PointwiseTeacher`.
    """

    @once
    def model(self) -> Any:
        """The sentence-transformers CrossEncoder.

        Raises:
            ValueError: if its head was never trained, or has more than two outputs.
        """
        import torch
        from sentence_transformers import CrossEncoder

        if not os.path.isfile(os.path.join(self.name, "modules.json")):
            kind = pretrained.kind_of(self.name, self.hub)  # a head that is missing would be made at random
            if kind != "cross-encoder":
                raise ValueError(f"{self.name!r} is a {kind} checkpoint, not a cross-encoder.")
        device = batching.infer_device(self.device)
        with loading(), torch.inference_mode(False):
            model = checkpoints.load_sentence_transformer(
                self.name,
                CrossEncoder,
                what="cross-encoder",
                max_length=self._max_length,
                dtype=pretrained.weights_dtype(self.precision, device),
                device=str(device),
                **self.hub,
            )
        if model.num_labels > 2:
            raise ValueError(f"{self.name!r} has {model.num_labels} outputs: a re-ranker has one, or two (no, yes).")
        return self.held.hold(model.eval(), files=[self.name])

    def __getstate__(self) -> dict[str, Any]:
        """Without the model, which is loaded again when needed, unless it has been changed."""
        held = self.held.carried()
        left = () if held.model is not None else ("model",)
        return {**{name: value for name, value in self.__dict__.items() if name not in left}, "held": held}

    @once
    def gives(self) -> str:
        """``"logit"``, or ``"logits"`` of (no, yes)."""
        return "logit" if pretrained.num_labels(self.name, self.hub) == 1 else "logits"

    def score(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Raw logits ``[n, 1]`` or ``[n, 2]``."""
        forward = lambda features: self.model(dict(features))["scores"]  # noqa: E731
        with answers_as(lambda row: row.reshape(-1)):
            return self._run(pairs, forward, "Scoring", "d").reshape(len(pairs), -1)

    def features(self, items: Sequence[tuple[str, ...]]) -> dict[str, Any]:
        """As sentence-transformers reads pairs."""
        return read_pairs(self.model, items)
