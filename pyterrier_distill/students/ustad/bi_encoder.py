"""The dual mode of a USTAD as a bi-encoder."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ..bi_encoder.encoder import Encoder

if TYPE_CHECKING:
    import torch

    from .ustad import USTAD


class USTADBiEncoder(Encoder):
    """The vectors of a USTAD's dual mode: Q → Q, D → D, and R → R by their inner product.

    A ``pyterrier_dr.BiEncoder`` that shares its student's weights, so that a FlexIndex and all that searches one take
    it: ``encoder >> index``, ``encoder.query_encoder() >> index.retriever()``. It encodes queries and documents at
    different positions, so it is saved as the student: ``USTAD(path).as_bi_encoder()``.

    Args:
        ustad: the student. Vectors are multiplied by the root of its dual ``scale``, so inner products are the dual
            mode's scores.
        batch_size: most texts of one forward pass; PyTerrier also hands over this many documents at once when indexing.
    """

    schematic = {"label": "USTAD bi-encoder"}

    def __init__(self, ustad: USTAD, *, batch_size: int = 1024):
        super().__init__(batch_size=batch_size, text_field=ustad.text_field, verbose=ustad.verbose)
        self.ustad = ustad

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self.ustad.dimension

    def fingerprint(self) -> str:
        """A digest of the weights, which are the student's."""
        return self.ustad.fingerprint()

    def encode_side(self, texts: list[str], side: str, batch_size: int) -> np.ndarray:
        """Vectors float32 ``[n, dimension]`` of n ≥ 1 texts of the ``"query"`` or ``"document"`` side."""
        root = np.float32(math.sqrt(self.ustad.scale_of("dual")))
        return root * self.ustad.vectors(texts, side, batch_size)

    def encode_queries_torch(self, texts: list[str], batch_size: int | None = None) -> torch.Tensor:
        """Encode queries with gradients: ``[n, dimension]`` on the model's device."""
        import torch

        from .scores import pool

        if not texts:
            return torch.empty((0, self.dimension), device=self.ustad.model.device)
        states, query, _ = self.ustad.encode(self.ustad.reader.queries(list(texts)))
        return math.sqrt(self.ustad.scale_of("dual")) * pool(states, query, self.ustad.pooling)

    def subtransformers(self) -> dict:
        """None: the student is what this is made of, not a stage of a pipeline."""
        return {}

    def __repr__(self) -> str:
        size = "" if self.batch_size == 1024 else f", batch_size={self.batch_size}"
        return f"USTADBiEncoder({self.ustad!r}{size})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, USTADBiEncoder) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))
