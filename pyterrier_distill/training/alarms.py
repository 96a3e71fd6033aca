"""What goes wrong in trainings, noticed while it does, with what to try."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
import transformers

from ..losses import base as losses

logger = logging.getLogger(__name__)

#: Logs in a row before a student counts as collapsed, and the relative spread of scores below which it may.
PATIENCE, FLAT = 3, 1e-4


def spread(outputs: losses.Outputs) -> float | None:
    """How far apart the scores of a query's documents are at most, relative to their size; of vectors likewise.

    Returns:
        0 = the student says the same of everything; None where one row says nothing.
    """
    if outputs.modes is not None:
        found = [value for value in map(spread, outputs.modes.values()) if value is not None]
        return min(found, default=None)
    scores, mask = outputs.scores, outputs.mask
    if scores is None and outputs.logits is not None:
        scores = outputs.logits[..., 1] - outputs.logits[..., 0]
    if outputs.batch_scores is not None and outputs.batch_scores.shape[1] > 1:
        scores, mask = outputs.batch_scores, torch.isfinite(outputs.batch_scores)
    if scores is not None:
        several = mask.sum(dim=1) > 1
        if not several.any():
            return None
        scores, mask = scores.float()[several], mask[several]
        high = scores.masked_fill(~mask, -math.inf).amax(dim=1)
        low = scores.masked_fill(~mask, math.inf).amin(dim=1)
        return float((high - low).max() / scores[mask].abs().max().clamp_min(1e-3))
    if outputs.query_vectors is not None and len(outputs.query_vectors) > 1:
        vectors = outputs.query_vectors.float()
        apart = (vectors.amax(dim=0) - vectors.amin(dim=0)).max()
        return float(apart / vectors.abs().max().clamp_min(1e-3))
    return None


class Watcher(transformers.TrainerCallback):
    """Stops a training whose loss becomes NaN or infinite; warns of a collapsed student and of one that never improves.

    Args:
        module: the training module, whose ``spread()`` is that of its last batch.
        metric: what decides which checkpoint is best, such as ``eval_nDCG@10``; None = there is no evaluation.
    """

    def __init__(self, module: Any, metric: str | None):
        self.module = module
        self.metric = metric
        self.flat = 0

    def on_log(self, args, state, control, logs=None, **kwargs):
        logs = logs or {}
        loss = logs.get("loss", logs.get("train_loss"))  # the last one is about steps after the last log
        if loss is None:
            return
        if not math.isfinite(float(loss)):
            raise FloatingPointError(
                f"the loss became {float(loss)} at step {state.global_step} or shortly before: lower the learning rate,"
                " lengthen the warm-up, or train with precision='fp32'."
            )
        if "loss" not in logs or not hasattr(self.module, "spread"):
            return
        seen = self.module.spread()
        self.flat = self.flat + 1 if seen is not None and seen < FLAT else 0
        if self.flat == PATIENCE:
            logger.warning(
                "step %d: the student gives every document of a query the same score; it has collapsed. Lower the"
                " learning rate, lengthen the warm-up, or start from a checkpoint whose head is trained.",
                state.global_step,
            )

    def on_train_end(self, args, state, control, **kwargs):
        entries = [entry for entry in state.log_history if self.metric in entry]  # those before a resumption, too
        if len(entries) < 2:
            return
        sign = -1 if self.metric == "eval_loss" else 1
        first, *others = (sign * entry[self.metric] for entry in entries)
        name = self.metric.removeprefix("eval_")
        if max(others) > first or (name != "loss" and first >= 1):
            return
        begun = entries[0]["step"] == 0
        logger.warning(
            "%s never %s that of %s (%s). Try a lower learning rate, more or other training data, a loss nearer to the"
            " measure, or check that training and validation texts look alike.",
            name,
            "rose above" if sign > 0 else "fell below",
            "the student before training" if begun else "the first evaluation",
            ", ".join(f"{entry[self.metric]:.4f}" for entry in entries[:10]),
        )
