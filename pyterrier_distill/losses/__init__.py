"""Losses: values that name the labels they need, add and scale. Their mathematics is in ``losses.functional``."""

from .base import Loss, Outputs
from .contrastive import InfoNCE, LocalizedContrastive
from .embedding import EmbeddingMatch, HiddenStateMatch
from .listwise import ADRMSE, ApproxNDCG, KLDivergence, ListMLE, ListNet
from .pairwise import LambdaLoss, MarginMSE, PairwiseKL, RankNet
from .pointwise import MSE, BinaryCrossEntropy, LogitMSE, ScoreMatch

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
