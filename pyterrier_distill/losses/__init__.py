"""Losses: values that name the labels they need, add and scale. Their mathematics is in ``losses.functional``."""

from .base import Loss, Outputs
from .contrastive import InfoNCE, LocalizedContrastive
from .embedding import EmbeddingMatch, HiddenStateMatch
from .listwise import ADRMSE, ApproxNDCG, KLDivergence, ListMLE, ListNet
from .pairwise import LambdaLoss, MarginMSE, PairwiseKL, RankNet
from .pointwise import MSE, BinaryCrossEntropy, LogitCrossEntropy, LogitKL, LogitMSE, ScoreMatch

__all__ = [
    "Loss", "Outputs",
    "ADRMSE", "ApproxNDCG", "BinaryCrossEntropy", "EmbeddingMatch", "HiddenStateMatch", "InfoNCE", "KLDivergence",
    "LambdaLoss", "ListMLE", "ListNet", "LocalizedContrastive", "LogitCrossEntropy", "LogitKL", "LogitMSE", "MSE",
    "MarginMSE", "PairwiseKL", "RankNet", "ScoreMatch",
]  # fmt: skip
