"""How a bi-encoder compares vectors: what leaves it is compared by dot products, whatever its checkpoint asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pyterrier_dr import SimFn

from ...engine import checkpoints
from ...losses import base as losses
from ..artifact import StudentArtifact
from .modules import dimension, side

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import Tensor, nn

    from .bi_encoder import BiEncoder
    from .sentence_encoder import SentenceEncoder

DOT, COSINE = "dot", "cos"
#: As sentence-transformers calls them.
NAMES = {DOT: "dot", COSINE: "cosine"}
OTHERWISE = (
    "similarity='cos' would give the frozen vectors of doc_encoder, which compares by inner products, another length:"
    " leave it out, or build doc_encoder with similarity='cos'."
)
#: As torch's ``normalize`` and sentence-transformers' cosine similarity divide.
_LEAST = 1e-12


def check(similarity: str | None) -> str | None:
    """``similarity``, if there is such a one.

    Raises:
        ValueError: naming those there are.
    """
    if similarity not in (None, DOT, COSINE):
        raise ValueError(f"similarity must be 'dot' or 'cos', or None for the checkpoint's own, not {similarity!r}.")
    return similarity


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


def compares(model: SentenceTransformer) -> str:
    """``"cos"`` if the products of its vectors are cosines, else ``"dot"``."""
    sides = (side(model, "query"), side(model, "document"))
    cosines = model.similarity_fn_name == NAMES[COSINE] or all(unit_inside(model, one) for one in sides)
    return COSINE if cosines else DOT


def check_distance(name: str, model: SentenceTransformer) -> None:
    """Check that dot products rank as the checkpoint asks.

    Raises:
        ValueError: for distances.
    """
    asked = model.similarity_fn_name
    if asked not in NAMES.values():
        raise ValueError(
            f"{name!r} compares by {asked} distance, by which neither BiEncoder nor FlexIndex ranks: set"
            ' similarity_fn_name to "dot" or "cosine" in its config_sentence_transformers.json, or pass'
            ' similarity="dot" or "cos", and train it for that.'
        )


def unscaled(modules: list[nn.Module]) -> list[nn.Module]:
    """``modules`` without those at the end that give vectors length 1."""
    while _normalises(modules):
        modules = modules[:-1]
    return modules


def scaled(modules: list[nn.Module]) -> list[nn.Module]:
    """``modules``, and one that gives vectors length 1."""
    from sentence_transformers.base.modules import Normalize

    return modules if _normalises(modules) else [*modules, Normalize()]


def of(student: SentenceEncoder) -> str:
    """``"cos"`` if a student's scores are cosines, else ``"dot"``."""
    if not student.apart:
        return compares(student.model)
    return COSINE if student.model.similarity_fn_name == NAMES[COSINE] else DOT


def normalises(student: SentenceEncoder) -> bool:
    """Whether a student's vectors are normalised behind the modules of either side."""
    if student.apart:
        return student.model.similarity_fn_name == NAMES[COSINE]
    return any(normalised_behind(student.model, one) for one in (student.query_modules(), student.doc_modules()))


def asked(student: BiEncoder) -> str | None:
    """The similarity that a student was built with, or the one that it is made of; None = their checkpoint's own."""
    source = student._doc_encoder or student.name_or_path
    inherits = student.similarity is None and isinstance(source, StudentArtifact)
    return asked(source) if inherits else student.similarity


def known_scale(student: BiEncoder) -> str | None:
    """The scale of the scores of a student that is not loaded, as its settings or its files say; None = not known."""
    documents = student._doc_encoder
    if student.similarity is not None:
        return losses.COSINE if student.similarity == COSINE else losses.DOT
    source: Any = documents or student.name_or_path
    if hasattr(source, "known_scale"):
        return source.known_scale()
    if documents is not None:
        return losses.COSINE if documents.sim_fn == SimFn.cos else losses.DOT
    return losses.COSINE if student._is_directory() and told_cosine(source) else None


def told_cosine(directory: str) -> bool:
    """Whether a checkpoint's files say that it compares by cosines; nothing is loaded."""
    told = checkpoints.told(directory, "config_sentence_transformers.json")
    return told.get("similarity_fn_name") in (None, "cosine")  # None is sentence-transformers' default
