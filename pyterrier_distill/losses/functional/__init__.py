"""Losses as pure functions of tensors.

Letters: B queries, N documents of a list (padded), M scored documents of a batch, P pairs, R rows, D dimensions.
Everywhere a higher score means more relevant, and ``mask`` ``[B, N]`` is bool with True = a real document (None = all
are). Padding never contributes: its values may be anything, NaN included. Computed in float32 whatever comes in.
Labels carry no gradient.
"""

from . import contrastive, embedding, listwise, pairwise, pointwise
from .contrastive import *
from .embedding import *
from .listwise import *
from .pairwise import *
from .pointwise import *

__all__ = [
    *contrastive.__all__, *embedding.__all__, *listwise.__all__, *pairwise.__all__, *pointwise.__all__,
]  # fmt: skip
