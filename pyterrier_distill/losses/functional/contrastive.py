"""Losses over judgements."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .masking import masked_log_softmax, masked_mean, prepared

__all__ = ["localized_contrastive", "info_nce"]


def localized_contrastive(student: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """−log softmax at each relevant document over its own list, mean over relevant documents (LCE, Gao et al. 2021).

    Args:
        student: scores ``[B, N]``.
        labels: judgements ``[B, N]``; > 0 is relevant. With one relevant document in each list this is the
            cross-entropy of peers; with several, each counts alike and the others stay in its denominator.
        mask: ``[B, N]``.

    Returns:
        Scalar ≥ 0; 0 where nothing is relevant.
    """
    student, labels, mask = prepared(student, labels, mask)
    return masked_mean(-masked_log_softmax(student, mask), (labels > 0) & mask)


def info_nce(scores: Tensor, target: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross-entropy over a query's own list and the batch's other documents, mean over queries with a positive.

    Args:
        scores: ``[B, M]``, each query against its candidates; −inf leaves a candidate out (a second positive, say).
        target: int ``[B]``, the column of each query's positive; −1 = none, the query does not count.
        temperature: scores are divided by it.

    Returns:
        Scalar ≥ 0; 0 where no query has a positive.
    """
    counted = target >= 0
    scores = scores.float().masked_fill(~counted.unsqueeze(-1), 0.0)  # whatever stands there, it has no gradient
    log_p = F.log_softmax(scores / temperature, dim=-1)
    picked = log_p.gather(-1, target.clamp_min(0).long().unsqueeze(-1)).squeeze(-1)
    return masked_mean(-picked, counted)
