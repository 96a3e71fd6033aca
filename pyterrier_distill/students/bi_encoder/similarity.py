"""How a bi-encoder compares vectors: what leaves it is compared by dot products, whatever its checkpoint asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...engine import checkpoints
from .model import dimension

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


def _normalises(modules: list[nn.Module]) -> bool:
    """Whether vectors leave these modules with length 1."""
    from sentence_transformers.base.modules import Normalize

    return isinstance(modules[-1], Normalize)


def unit_inside(model: SentenceTransformer, modules: nn.Module) -> bool:
    """Whether the modules of a side normalise, and nothing is cut off behind them."""
    cut = model.truncate_dim is not None and model.truncate_dim < dimension(list(modules))
    return _normalises(list(modules)) and not cut


def normalised_behind(model: SentenceTransformer, modules: nn.Module) -> bool:
    """Whether the vectors of a side are normalised behind its modules."""
    return model.similarity_fn_name == "cosine" and not unit_inside(model, modules)


def pooled(model: SentenceTransformer, modules: nn.Module, out: dict[str, Any]) -> Tensor:
    """Vectors ``[n, dimension]`` of what a model gives: cut and normalised as the checkpoint asks.

    Args:
        model: the model.
        modules: those of the side that encoded.
        out: what they give for n texts.
    """
    vectors = out["sentence_embedding"]
    if model.truncate_dim is not None:
        vectors = vectors[..., : model.truncate_dim]
    return unit(vectors) if normalised_behind(model, modules) else vectors


def told_cosine(directory: str) -> bool:
    """Whether a checkpoint's files say that it compares by cosines; nothing is loaded."""
    told = checkpoints.told(directory, "config_sentence_transformers.json")
    return told.get("similarity_fn_name") in (None, "cosine")  # None is sentence-transformers' default
