"""How a bi-encoder compares vectors: what leaves it is compared by dot products, whatever its checkpoint asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pyterrier_dr import SimFn

from .bi_encoder_model import dimension

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


class BiEncoderSimilarity:
    """The part of :class:`~pyterrier_distill.BiEncoder` that makes its vectors comparable."""

    model: SentenceTransformer

    @property
    def sim_fn(self) -> SimFn:
        """``dot``, or ``cos`` where the checkpoint asks for cosine similarity without normalising its vectors.

        Then :meth:`encode_queries`, :meth:`encode_docs` and all that is built on them normalise, so that a FlexIndex
        of either similarity ranks as the student does.
        """
        return SimFn.cos if self._normalised("query") or self._normalised("document") else SimFn.dot

    def _whole(self, task: str) -> bool:
        """Whether the modules of a side normalise, and nothing is cut off behind them."""
        modules = list(self.query_modules() if task == "query" else self.doc_modules())
        cut = self.model.truncate_dim is not None and self.model.truncate_dim < dimension(modules)
        return _normalises(modules) and not cut

    def _normalised(self, task: str) -> bool:
        """Whether the vectors of a side are normalised behind its modules."""
        return self.model.similarity_fn_name == "cosine" and not self._whole(task)

    @property
    def scores_cosines(self) -> bool:
        """Whether its scores are cosines, in [-1, 1], which losses over differences of scores divide by about 0.05."""
        return self.model.similarity_fn_name == "cosine" or (self._whole("query") and self._whole("document"))

    def pooled(self, out: dict[str, Any], task: str) -> Tensor:
        """Vectors ``[n, dimension]`` of what the model gives: cut and normalised as the checkpoint asks.

        Args:
            out: what the model gives for n texts.
            task: ``"query"`` or ``"document"``.
        """
        vectors = out["sentence_embedding"]
        if self.model.truncate_dim is not None:
            vectors = vectors[..., : self.model.truncate_dim]
        return unit(vectors) if self._normalised(task) else vectors
