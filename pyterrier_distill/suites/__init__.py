"""BEIR, TREC DL, LoTTE, TIREx and one's own collections: systems compared as the papers compare them."""

from .averages import Average
from .catalogue import BEIR, TRECDL, Local, LoTTE, NanoBEIR, TIREx
from .comparison import Comparison
from .context import Context
from .member import Member
from .suite import Suite

__all__ = [
    "BEIR", "Average", "Comparison", "Context", "Local", "LoTTE", "Member", "NanoBEIR", "Suite", "TIREx", "TRECDL",
]  # fmt: skip
