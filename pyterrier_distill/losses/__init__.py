"""Losses: values that name the labels they need, add and scale. Their mathematics is in ``losses.functional``."""

from .base import Loss, Outputs
from .contrastive import InfoNCE, LocalizedContrastive
from .embedding import EmbeddingMatch, HiddenStateMatch
from .listwise import KLDivergence, ListNet, ScoreMatch
from .pointwise import MSE, MarginMSE

__all__ = [
    "MSE",
    "EmbeddingMatch",
    "HiddenStateMatch",
    "InfoNCE",
    "KLDivergence",
    "ListNet",
    "LocalizedContrastive",
    "Loss",
    "MarginMSE",
    "Outputs",
    "ScoreMatch",
]
