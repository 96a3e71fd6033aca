"""How a USTAD reads: queries, documents and pairs as token ids with explicit positions and segments."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...engine import lengths
from ...engine.locks import using
from ...engine.tokens import disarmed

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)

#: Tokens read where neither model nor tokenizer has a limit.
UNLIMITED = 512


@dataclass
class Reader:
    """Texts → features: ``input_ids``, ``attention_mask``, ``document``, and where the model takes them
    ``position_ids`` and ``token_type_ids``; all ``[n, L]``.

    ``document`` (bool) marks the document's tokens, which the model itself does not see. A query stands at positions
    from 0, a document at positions from ``query_length``, alone or behind a query: what lies between them is not
    padded, the positions jump.

    Attributes:
        tokenizer: a transformers tokenizer with [CLS], [SEP] and padding.
        query_length: positions of a query, [CLS] and [SEP] included.
        max_length: positions of query and document together.
        own_start: whether a document begins with a [CLS] of its own.
        segments: whether the model distinguishes first from second texts (``token_type_ids``).
        positions: whether the model takes positions.
        offset: the model's number of the first position.
    """

    tokenizer: Any
    query_length: int
    max_length: int
    own_start: bool
    segments: bool
    positions: bool
    offset: int

    @classmethod
    def of(
        cls, name: str, model: nn.Module, tokenizer: Any, query_length: int, max_length: int | None, pooling: str
    ) -> Reader:
        """The reader for a model and a tokenizer that fit each other.

        Args:
            name: of the checkpoint.
            model: the encoder.
            tokenizer: its tokenizer.
            query_length: as in USTAD.
            max_length: as ``engine.lengths.fit`` gives it; None = no limit, then :data:`UNLIMITED`.
            pooling: as in USTAD.

        Raises:
            ValueError: if the tokenizer lacks a special token, or there is no place for documents.
        """
        special = {"[CLS]": tokenizer.cls_token_id, "[SEP]": tokenizer.sep_token_id, "[PAD]": tokenizer.pad_token_id}
        if absent := [token for token, number in special.items() if number is None]:
            raise ValueError(
                f"the tokenizer of {name!r} has no {', '.join(absent)}: USTAD wants an encoder such as BERT, not a"
                " decoder."
            )
        takes = inspect.signature(model.forward).parameters
        positions = "position_ids" in takes
        if not positions:
            logger.warning(
                "%s is not told positions: in the dual and late modes its documents stand where queries do.", name
            )
        max_length = UNLIMITED if max_length is None else max_length
        if max_length < query_length + 3:
            raise ValueError(
                f"query_length={query_length} leaves no place for documents among max_length={max_length} tokens."
            )
        segments = "token_type_ids" in takes and getattr(model.config, "type_vocab_size", 0) > 1
        first = lengths.first_position(model)
        return cls(tokenizer, query_length, max_length, pooling == "cls", segments, positions, first)

    def queries(self, texts: Sequence[str]) -> dict[str, Any]:
        """[CLS] q [SEP], cut to ``query_length`` tokens."""
        return self._features([(ids, ()) for ids in self._queries(texts)])

    def documents(self, texts: Sequence[str]) -> dict[str, Any]:
        """d [SEP], cut to ``max_length - query_length`` tokens; where documents have a start, [CLS] d [SEP]."""
        return self._features([((), ids) for ids in self._documents(texts)])

    def pairs(self, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """The two behind each other, each cut as when it is alone."""
        queries, documents = (list(dict.fromkeys(texts)) for texts in zip(*pairs, strict=True))
        query = dict(zip(queries, self._queries(queries), strict=True))
        document = dict(zip(documents, self._documents(documents), strict=True))
        return self._features([(query[q], document[d]) for q, d in pairs])

    def _queries(self, texts: Sequence[str]) -> list[list[int]]:
        start, end = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        return [[start, *ids, end] for ids in self._ids(texts, self.query_length - 2)]

    def _documents(self, texts: Sequence[str]) -> list[list[int]]:
        start = [self.tokenizer.cls_token_id] if self.own_start else []
        room = self.max_length - self.query_length - len(start) - 1
        return [[*start, *ids, self.tokenizer.sep_token_id] for ids in self._ids(texts, room)]

    def _ids(self, texts: Sequence[str], room: int) -> list[list[int]]:
        texts = disarmed(self.tokenizer, texts)
        with using(self.tokenizer):
            return self.tokenizer(texts, add_special_tokens=False, truncation=True, max_length=room)["input_ids"]

    def _features(self, rows: list[tuple[Sequence[int], Sequence[int]]]) -> dict[str, Any]:
        import torch

        shape = (len(rows), max(len(query) + len(document) for query, document in rows))
        ids = np.full(shape, self.tokenizer.pad_token_id, dtype=np.int64)
        real = np.zeros(shape, dtype=np.int64)
        places = np.zeros(shape, dtype=np.int64)
        documents = np.zeros(shape, dtype=bool)
        for row, (query, document) in enumerate(rows):
            middle, end = len(query), len(query) + len(document)
            ids[row, :middle], ids[row, middle:end] = query, document
            real[row, :end] = 1
            places[row, :middle] = np.arange(middle)
            places[row, middle:end] = self.query_length + np.arange(len(document))
            documents[row, middle:end] = True
        features = {"input_ids": ids, "attention_mask": real, "document": documents}
        if self.positions:
            features["position_ids"] = places + self.offset
        if self.segments:
            features["token_type_ids"] = documents.astype(np.int64)
        return {name: torch.from_numpy(values) for name, values in features.items()}
