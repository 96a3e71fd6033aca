"""Losses: values that name the labels they need, add and scale. Their mathematics is in ``losses.functional``."""

from . import contrastive, embedding, listwise, pairwise, pointwise
from .base import Loss, Outputs
from .contrastive import *
from .embedding import *
from .listwise import *
from .pairwise import *
from .pointwise import *

__all__ = [
    "Loss", "Outputs",
    *contrastive.__all__, *embedding.__all__, *listwise.__all__, *pairwise.__all__, *pointwise.__all__,
]  # fmt: skip
