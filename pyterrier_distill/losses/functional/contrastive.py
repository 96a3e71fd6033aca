"""Losses over judgements."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .masking import EXCLUDED, masked_log_softmax, masked_mean, prepared

__all__ = ["localized_contrastive", "info_nce"]


def localized_contrastive(
    student: Tensor, labels: Tensor, mask: Tensor | None = None, positives: str = "together"
) -> Tensor:
    """−log softmax at each relevant document over its own list, mean over relevant documents (LCE, Gao et al. 2021).

    Args:
        student: scores ``[B, N]``.
        labels: judgements ``[B, N]``; > 0 is relevant. With one relevant document in each list this is the
            cross-entropy of peers; with several, each counts alike.
        mask: ``[B, N]``.
        positives: ``"together"``: a relevant document's denominator is the whole list, the other relevant ones
            included. ``"each_alone"``: itself and the list's other documents, the relevant ones left out.

    Returns:
        Scalar ≥ 0; 0 where nothing is relevant.

    Raises:
        ValueError: for another word in ``positives``.
    """
    student, labels, mask = prepared(student, labels, mask)
    relevant = (labels > 0) & mask
    if positives == "together":
        return masked_mean(-masked_log_softmax(student, mask), relevant)
    if positives != "each_alone":
        raise ValueError(f"positives must be 'together' or 'each_alone', not {positives!r}.")
    itself = torch.eye(student.shape[-1], dtype=torch.bool, device=student.device)
    rivals = student[:, None, :].masked_fill(~((mask & ~relevant)[:, None, :] | itself), EXCLUDED)
    return masked_mean(torch.logsumexp(rivals, dim=-1) - student, relevant)


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
