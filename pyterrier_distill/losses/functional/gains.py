"""Gains of graded judgements."""

from __future__ import annotations

import torch
from torch import Tensor


def scaled_gains(labels: Tensor) -> Tensor:
    """(2^label − 1) / 2^⌊highest label of the list⌋: of a list's gains only the ratios count.

    2^label itself overflows at label 128. Dividing by a power of two is exact, so smaller labels have the ratios that
    they would have without it.

    Args:
        labels: ``[B, N]``, ≥ 0; padding 0.
    """
    highest = labels.amax(dim=-1, keepdim=True).floor()
    return torch.exp2(labels - highest) - torch.exp2(-highest)
