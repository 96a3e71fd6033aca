"""What a USTAD computes of token vectors: pooling, and the two interactions. Everything in float32."""

from __future__ import annotations

import torch
from torch import Tensor


def pool(states: Tensor, mask: Tensor, how: str) -> Tensor:
    """One vector of the tokens of each text.

    Args:
        states: ``[n, L, D]``.
        mask: bool ``[n, L]``, True = a token of the text; at least one a row.
        how: ``"mean"`` over these tokens, or ``"cls"``: the first of them.

    Returns:
        ``[n, D]``.
    """
    chosen = mask & (mask.cumsum(dim=1) == 1) if how == "cls" else mask
    weights = chosen.float().unsqueeze(-1)
    return (states.float() * weights).sum(dim=1) / weights.sum(dim=1)


def inner_products(queries: Tensor, documents: Tensor) -> Tensor:
    """``[n]`` of vectors ``[n, D]`` and ``[n, D]``."""
    return (queries.float() * documents.float()).sum(dim=-1)


def sum_max(queries: Tensor, query_mask: Tensor, documents: Tensor, document_mask: Tensor) -> Tensor:
    """For each token of a query the largest inner product with a token of the document, summed (USTAD Eq. 7).

    Args:
        queries: token vectors ``[n, Q, D]``.
        query_mask: bool ``[n, Q]``, True = a token.
        documents: token vectors ``[n, L, D]``.
        document_mask: bool ``[n, L]``.

    Returns:
        ``[n]``.
    """
    with torch.autocast(queries.device.type, enabled=False):  # sums of hundreds, of which half precision keeps little
        products = queries.float() @ documents.float().transpose(1, 2)
    best = products.masked_fill(~document_mask.unsqueeze(1), float("-inf")).amax(dim=-1)
    return best.masked_fill(~query_mask, 0.0).sum(dim=-1)
