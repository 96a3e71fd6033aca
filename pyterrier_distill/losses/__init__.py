"""Losses: values that name the labels they need, add and scale. Their mathematics is in ``losses.functional``."""

from .base import Loss, Outputs
from .contrastive import BinaryCrossEntropy, InfoNCE, LocalizedContrastive
from .embedding import EmbeddingMatch, HiddenStateMatch
from .listwise import KLDivergence, ListNet, ScoreMatch
from .metrics import ApproxNDCG, LambdaLoss
from .order import ADRMSE, ListMLE, RankNet
from .pairwise import PairwiseKL
from .pointwise import MSE, LogitMSE, MarginMSE

__all__ = [
    "ADRMSE",
    "MSE",
    "ApproxNDCG",
    "BinaryCrossEntropy",
    "EmbeddingMatch",
    "HiddenStateMatch",
    "InfoNCE",
    "KLDivergence",
    "LambdaLoss",
    "ListMLE",
    "ListNet",
    "LocalizedContrastive",
    "LogitMSE",
    "Loss",
    "MarginMSE",
    "Outputs",
    "PairwiseKL",
    "RankNet",
    "ScoreMatch",
]
