"""The modules of a sentence-transformers model: those of a side, and the length of the vectors that they give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import nn


def routed(model: Any) -> bool:
    """Whether queries and documents have modules of their own."""
    from sentence_transformers.base.modules import Router

    return isinstance(model[0], Router)


def side(model: SentenceTransformer, task: str) -> nn.Module:
    """The modules that encode a ``"query"`` or a ``"document"``."""
    return model[0].sub_modules[task] if routed(model) else model  # type: ignore[union-attr,index]


def dimension(modules: list[nn.Module], truncated: int | None = None) -> int:
    """Length of the vectors that ``modules``, applied in turn, give, cut to ``truncated`` (None = whole).

    Raises:
        ValueError: if none of them says.
    """
    for module in reversed(modules):
        for name in ("get_embedding_dimension", "get_sentence_embedding_dimension"):
            if hasattr(module, name) and (found := getattr(module, name)()):
                return found if truncated is None else min(found, truncated)
    raise ValueError("this checkpoint does not say the dimension of its vectors.")
