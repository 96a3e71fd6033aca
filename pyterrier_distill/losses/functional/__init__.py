"""Losses as pure functions of tensors.

Letters: B queries, N documents of a list (padded), M scored documents of a batch, P pairs, R rows, D dimensions.
Everywhere a higher score means more relevant, and ``mask`` ``[B, N]`` is bool with True = a real document (None = all
are). Padding never contributes: its values may be anything, NaN included. Computed in float32 whatever comes in.
Labels carry no gradient.
"""

from .contrastive import info_nce, localized_contrastive
from .embedding import embedding_match, hidden_state_match
from .listwise import adr_mse, approx_ndcg, kl_divergence, list_mle, list_net
from .pairwise import lambda_loss, margin_mse, pairwise_kl, ranknet
from .pointwise import binary_cross_entropy, logit_mse, mse, score_match

__all__ = [
    "adr_mse",
    "approx_ndcg",
    "binary_cross_entropy",
    "embedding_match",
    "hidden_state_match",
    "info_nce",
    "kl_divergence",
    "lambda_loss",
    "list_mle",
    "list_net",
    "localized_contrastive",
    "logit_mse",
    "margin_mse",
    "mse",
    "pairwise_kl",
    "ranknet",
    "score_match",
]
