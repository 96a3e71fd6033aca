"""Losses that compare embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..frames import DOC_VEC, QUERY_STATES, QUERY_VEC, arguments
from ..frames.kinds import QUERY_VECTOR, VECTOR, Kind, States
from . import base

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["EmbeddingMatch", "HiddenStateMatch"]

_SIDES = {
    "query": (base.QUERY_VECTORS, QUERY_VEC, QUERY_VECTOR),
    "document": (base.DOC_VECTORS, DOC_VEC, VECTOR),
}


class EmbeddingMatch(base.Loss):
    """Distance between the student's and the teacher's embeddings, mean over queries (and over documents).

    On queries alone it needs no documents: a frame of queries with their ``query_vec`` trains a query encoder, whose
    documents can stay the teacher's (``BiEncoder(..., doc_encoder=teacher, freeze_docs=True)``).

    Args:
        on: ``("query",)``, ``("document",)`` or both; their means are added.
        distance: ``"l2"`` the paper's norm, ``"mse"`` squared, ``"cosine"``.
        labels: the columns of teacher vectors, one for each entry of ``on``; None = ``query_vec`` and ``doc_vec``.

    References:
        USTAD / EmbedDistill (Kim et al. 2024) §5.2, Eq. 10-11.

    Labels:
        ``query_vec``: float32[D] a query; ``doc_vec``: float32[D] a document. D must be the student's dimension; give
        the student a ``projection`` where it is not.

    Relations:
        sentence-transformers' ``EmbedDistillLoss`` is this on one side.

    Example:
        >>> EmbeddingMatch(on=("query", "document"), distance="mse")
        EmbeddingMatch(on=('query', 'document'), distance='mse')
    """

    min_documents = 1

    def __init__(self, on: Sequence[str] = ("query",), distance: str = "l2", labels: Sequence[str] | None = None):
        on = (on,) if isinstance(on, str) else tuple(on)
        if not on or any(side not in _SIDES for side in on) or len(set(on)) < len(on):
            raise ValueError(f"on must be ('query',), ('document',) or both, not {on!r}.")
        if distance not in ("l2", "mse", "cosine"):
            raise ValueError(f"distance must be 'l2', 'mse' or 'cosine', not {distance!r}.")
        labels = (labels,) if isinstance(labels, str) else labels
        if labels is not None and not (len(labels) == len(set(labels)) == len(on)):
            raise ValueError(f"labels must name one column for each of {on!r}, not {labels!r}.")
        self.on = on
        self.distance = distance
        self.labels = None if labels is None else tuple(labels)
        self.needs = frozenset(_SIDES[side][0] for side in on)

    def reads(self) -> dict[str, Kind]:
        columns = self.labels or tuple(_SIDES[side][1] for side in self.on)
        return {column: _SIDES[side][2] for side, column in zip(self.on, columns, strict=True)}

    def __call__(self, outputs: base.Outputs, labels: Mapping[str, Tensor]) -> Tensor:
        from . import functional

        total = 0.0
        for side, column in zip(self.on, self.columns(), strict=True):
            student, teacher = getattr(outputs, _SIDES[side][0]), labels[column]
            if side == "document":
                student, teacher = student[outputs.mask], teacher[outputs.mask]
            total = total + functional.embedding_match(student, teacher, self.distance)
        return total


class HiddenStateMatch(base.Loss):
    """Distance between the directions of the student's and the teacher's states of the query's tokens.

    What a layer of the teacher says of each token is a richer target than the one vector at the end: few layers learn
    from it what many said in between.

    Args:
        layers: the student's layers to be compared, 1 = the first, −1 = the last; as many, in the same order, as
            ``teacher.query_encoder(states=[...])`` was asked for. A good pairing for a student of layers [0, 5]: its
            layer 1 with the teacher's 5 (what the last layer expects to read), its 2 with the teacher's 6.
        label: the column of the teacher's states.

    References:
        Jiao et al. 2020, TinyBERT (hidden states; there with a mean squared error). Directions rather than values, and
        the norm rather than its square, go with EmbeddingMatch.

    Labels:
        ``query_states``: float16[tokens, layers, D] a query, by a teacher with the student's tokenizer and width.

    Example:
        >>> EmbeddingMatch() + HiddenStateMatch(layers=(1, 2))
        EmbeddingMatch() + HiddenStateMatch(layers=(1, 2))
    """

    needs = frozenset({base.QUERY_STATES})
    min_documents = 0

    def __init__(self, layers: Sequence[int] = (-1,), label: str = QUERY_STATES):
        layers = tuple(layers)
        whole = all(isinstance(layer, int) and not isinstance(layer, bool) and layer for layer in layers)
        if not layers or not whole or len(set(layers)) < len(layers):
            raise ValueError(f"layers must be different whole numbers, 1 = the first, -1 = the last, not {layers!r}.")
        self.layers = layers
        self.label = arguments.column(label)

    def reads(self) -> dict[str, Kind]:
        return {self.label: States(len(self.layers))}

    def __call__(self, outputs: base.Outputs, labels: Mapping[str, Tensor]) -> Tensor:
        from . import functional

        states = outputs.query_states
        depth = states.shape[1]
        if any(not -depth <= layer <= depth for layer in self.layers):
            raise ValueError(f"{self!r}: the student has layers 1 to {depth}.")
        chosen = [layer - 1 if layer > 0 else depth + layer for layer in self.layers]
        return functional.hidden_state_match(states[:, chosen], labels[self.label])
