"""A classifier over a query and two documents in one sequence (PairDistill §4.1)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import prompts
from ..backends.base import answers_as
from ..engine import batching, pretrained, randomness
from ..engine.locks import loading, once, using
from ..engine.tokens import disarmed
from .sequence import SequenceScorer

if TYPE_CHECKING:
    import torch

Triple = tuple[str, str, str]


class PairClassifier(SequenceScorer):
    """``[CLS] query [SEP] document_i [SEP] document_j [SEP]`` → one logit; its sigmoid is P(i ≻ j).

    Where the checkpoint knows two segments, the query is the first and both documents the second.

    Args:
        name: a directory or hub name of a sequence classifier with one output, or of any encoder, which then must be
            trained before it compares; other arguments as for :class:`~pyterrier_distill.PairwiseTeacher`.
    """

    @once
    def _loaded(self) -> pretrained.Loaded:
        """Tokenizer and model, and what its head lacks."""

        outputs = pretrained.num_labels(self.name, self.hub)
        if outputs != 1:
            raise ValueError(f"{self.name!r} has {outputs} outputs: a pair classifier has one.")
        if pretrained.load_tokenizer(self.name, self.hub).sep_token_id is None:
            raise ValueError(f"{self.name!r} has no separator token: a pair classifier is made from an encoder.")
        with loading(), randomness.seeded(0):  # of a head that the checkpoint lacks
            loaded = pretrained.load(
                self.name, "cross-encoder", self.hub, "fp32", batching.infer_device(self.device),
                max_length=self._max_length, may_lack=lambda weight: True, num_labels=1,
            )  # fmt: skip
        self.held.hold(loaded.model, loaded.tokenizer, [self.name])
        return loaded

    @property
    def trained(self) -> str | None:
        """Fingerprint of the weights if they are no longer the checkpoint's."""
        return self.model_changes().get("trained")

    @property
    def tokenizer(self) -> Any:
        """The checkpoint's tokenizer."""
        return self._loaded.tokenizer

    @property
    def model(self) -> Any:
        """The sequence classifier."""
        return self._loaded.model

    @property
    def max_length(self) -> int:
        """Tokens of a sequence."""
        return self._loaded.max_length or 512

    @property
    def ready(self) -> bool:
        """Whether its head was ever trained."""
        return not self._loaded.absent or self.trained is not None

    def features(self, items: Sequence[tuple[str, ...]]) -> dict[str, torch.Tensor]:
        """Token ids ``[n, L]``, with both documents cut, the longer one first, until the sequence fits."""
        tokenizer = self.tokenizer
        triples = list(zip(*(disarmed(tokenizer, texts) for texts in zip(*items, strict=True)), strict=True))
        texts = [text for triple in triples for text in triple]
        place = {text: n for n, text in enumerate(dict.fromkeys(texts))}
        length = self.max_length
        with using(tokenizer):
            ids = tokenizer(list(place), add_special_tokens=False, truncation=True, max_length=length)["input_ids"]
        start = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
        start, sep = [] if start is None else [start], tokenizer.sep_token_id
        room = self.max_length - len(start) - 3
        rows, segments = [], []
        for query, a, b in triples:
            parts = [ids[place[text]] for text in (query, a, b)]
            parts[0] = parts[0][: max(1, room // 2)]
            level = prompts.level([len(parts[1]), len(parts[2])], room - len(parts[0]))
            first = [*start, *parts[0], sep]
            second = [*parts[1][:level], sep, *parts[2][:level], sep]
            rows.append(first + second)
            segments.append([0] * len(first) + [1] * len(second))
        batch: dict[str, Any] = {"input_ids": rows}
        if getattr(self.model.config, "type_vocab_size", 1) > 1:
            batch["token_type_ids"] = segments
        return dict(tokenizer.pad(batch, return_tensors="pt", verbose=False))

    def logits(self, features: dict[str, Any]) -> torch.Tensor:
        """Logits ``[n]``, with gradients."""
        return self.model(**features).logits[:, 0]

    def compare(self, triples: Sequence[Triple]) -> np.ndarray:
        """P(first ≻ second) ``[n]``.

        Raises:
            ValueError: if the head was never trained.
        """
        if not self.ready:
            raise ValueError(
                f"{self.name!r} has no head that compares documents: train one with fit(res, qrels), or give a trained"
                " checkpoint."
            )
        sigmoid = lambda logits: 1 / (1 + np.exp(-logits.astype(np.float64)))  # noqa: E731
        with answers_as(lambda logit: float(sigmoid(logit))):
            return sigmoid(self._run(triples, lambda features: self.logits(dict(features)), "Comparing", "pair"))

    def mark_trained(self) -> None:
        """Record that the weights are no longer the checkpoint's."""
        self.held.retrained()

    def decided_by(self) -> dict[str, Any]:
        """What decides the answers, besides the model as it is."""
        return {"name": self.name, "max_length": self._max_length, "precision": self.precision, **self.hub}

    def __repr__(self) -> str:
        changes = "".join(f", {name}={value!r}" for name, value in self.model_changes().items())
        return f"PairClassifier({self.name!r}{changes})"

    def __getstate__(self) -> dict[str, Any]:
        """With the model only if it is no longer the checkpoint's."""
        held = self.held.carried()
        left = () if held.model is not None else ("_loaded",)
        return {**{name: value for name, value in self.__dict__.items() if name not in left}, "held": held}

    def save(self, path: str | os.PathLike) -> None:
        """Write an ordinary transformers checkpoint."""
        self.model.save_pretrained(path)
        self.tokenizer.save_pretrained(path)
