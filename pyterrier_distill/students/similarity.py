"""How a bi-encoder compares vectors: what leaves it can be compared by dot products, whatever its checkpoint asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import Tensor, nn

#: As torch's ``normalize`` and sentence-transformers' cosine similarity divide.
_LEAST = 1e-12


def unit(vectors: Tensor) -> Tensor:
    """Vectors ``[..., D]`` of length 1, in float32, with gradients; a zero vector stays zero, and has no gradient."""
    import torch

    vectors = vectors.float()
    lengths = vectors.norm(dim=-1, keepdim=True)
    # Divided by 1e-12, a zero vector would be zero, but its gradient 1e12 times what it is elsewhere.
    return vectors / torch.where(lengths == 0, torch.inf, lengths.clamp_min(_LEAST))


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """The same of float32 ``[n, D]``; what has length 1 already stays bit for bit."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(np.abs(lengths - 1) < 1e-6, 1, np.maximum(lengths, _LEAST)).astype(vectors.dtype)


def check_similarity(name: str, model: SentenceTransformer) -> None:
    """Check that dot products rank as the checkpoint asks.

    Raises:
        ValueError: for distances.
    """
    asked = model.similarity_fn_name
    if asked not in ("cosine", "dot"):
        raise ValueError(
            f"{name!r} compares by {asked} distance, by which neither BiEncoder nor FlexIndex ranks: set"
            ' similarity_fn_name to "dot" or "cosine" in its config_sentence_transformers.json, and train it for that.'
        )


def normalises(modules: list[nn.Module]) -> bool:
    """Whether vectors leave these modules with length 1."""
    from sentence_transformers.base.modules import Normalize

    return isinstance(modules[-1], Normalize)
