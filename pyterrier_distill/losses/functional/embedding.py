"""Losses over vectors and states."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["embedding_match", "hidden_state_match"]


def embedding_match(student: Tensor, teacher: Tensor, distance: str = "l2") -> Tensor:
    """Distance of student and teacher embeddings, mean over rows (USTAD / EmbedDistill Eq. 10-11).

    Args:
        student: ``[R, D]``, already projected to the teacher's dimension.
        teacher: ``[R, D]``.
        distance: ``"l2"`` the Euclidean norm, not squared (the paper's); ``"mse"`` the squared difference, mean over
            dimensions; ``"cosine"`` 1 − cosine similarity.

    Returns:
        Scalar ≥ 0; 0 for no rows.

    Raises:
        ValueError: if the shapes differ, or for another distance.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"student and teacher embeddings differ in shape, {tuple(student.shape)} and {tuple(teacher.shape)}:"
            " give the student a projection to the teacher's dimension, e.g. BiEncoder(..., projection=384)."
        )
    student, teacher = student.float(), teacher.detach().float()
    if distance == "l2":
        rows = torch.linalg.vector_norm(student - teacher, dim=-1)
    elif distance == "mse":
        rows = (student - teacher).square().mean(dim=-1)
    elif distance == "cosine":
        rows = 1 - F.cosine_similarity(student, teacher, dim=-1)
    else:
        raise ValueError(f"distance must be 'l2', 'mse' or 'cosine', not {distance!r}.")
    return rows.sum() / max(1, rows.numel())


def hidden_state_match(student: Tensor, teacher: Tensor) -> Tensor:
    """Euclidean distance of the directions of student and teacher states, mean over tokens, sum over layers.

    Args:
        student: ``[T, K, D]``: K layers' states of T tokens.
        teacher: ``[T, K, D]``.

    Returns:
        Scalar between 0 and 2 K; 0 for no tokens. Lengths do not matter: each state is divided by its norm.

    Raises:
        ValueError: if the shapes differ.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"student and teacher states differ in shape, {tuple(student.shape)} and {tuple(teacher.shape)}:"
            " tokens, number of layers and width must agree."
        )
    student, teacher = F.normalize(student.float(), dim=-1), F.normalize(teacher.detach().float(), dim=-1)
    return torch.linalg.vector_norm(student - teacher, dim=-1).sum() / max(1, len(student))
