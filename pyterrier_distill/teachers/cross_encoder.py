"""Scores of a sentence-transformers cross-encoder, through the project's batching engine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ..backends.base import answers_as
from ..engine import adapters, batching, checkpoints, cross_encoders, pretrained
from ..engine.locks import loading, once
from ..engine.pairs import read_pairs
from ..stores import seals
from .sequence import SequenceScorer


class CrossEncoderScorer(SequenceScorer):
    """A sequence classifier over (query, document), with one output or with two.

    Args:
        name: a directory or hub name, also of an adapter; other arguments as for
            :class:`~pyterrier_distill.PointwiseTeacher`.
    """

    @once
    def model(self) -> Any:
        """The sentence-transformers CrossEncoder.

        Raises:
            ValueError: if its head was never trained, or has more than two outputs.
        """
        import torch
        from sentence_transformers import CrossEncoder

        if not os.path.isfile(os.path.join(self.name, "modules.json")) and self._adapted is None:
            kind = pretrained.kind_of(self.name, self.hub)  # a head that is missing would be made at random
            if kind != "cross-encoder":
                raise ValueError(f"{self.name!r} is a {kind} checkpoint, not a cross-encoder.")
        device = batching.infer_device(self.device)
        weights = pretrained.weights_dtype(self.precision, device)
        with loading(), torch.inference_mode(False):
            if self._adapted is not None:
                length = self._max_length or self._told.get("max_length")
                model = cross_encoders.load(self.name, self.hub, device, max_length=length, dtype=weights)
                adapters.load(model[0].auto_model, self.name, trains=False)
                return self.held.hold(model.eval(), files=[self.name, self._adapted])
            model = checkpoints.load_sentence_transformer(
                self.name,
                CrossEncoder,
                what="cross-encoder",
                max_length=self._max_length,
                dtype=weights,
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
        if self._adapted is not None:  # cross_encoders.load refuses others
            return "logit"
        return "logit" if pretrained.num_labels(self.name, self.hub) == 1 else "logits"

    def score(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Raw logits ``[n, 1]`` or ``[n, 2]``."""
        forward = lambda features: self.model(dict(features))["scores"]  # noqa: E731
        with answers_as(lambda row: row.reshape(-1)):
            return self._run(pairs, forward, "Scoring", "d").reshape(len(pairs), -1)

    def features(self, items: Sequence[tuple[str, ...]]) -> dict[str, Any]:
        """As sentence-transformers reads pairs."""
        lengths = (self._told.get(name) for name in ("query_length", "document_length"))
        return read_pairs(self.model, items, *lengths)

    @cached_property
    def _told(self) -> dict[str, Any]:
        """What a saved student remembers; empty for other checkpoints."""
        return checkpoints.told(self.name, seals.META)

    @cached_property
    def _adapted(self) -> str | None:
        """The base, if this is an adapter."""
        return adapters.base_of(self.name)
