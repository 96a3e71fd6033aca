"""What goes wrong in trainings, noticed while it does, with what to try."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
import transformers

from ..losses import base as losses

logger = logging.getLogger(__name__)

#: Logs in a row before a student counts as collapsed, and evaluations before one counts as not improving.
PATIENCE = 3


def spread(outputs: losses.Outputs) -> torch.Tensor | None:
    """How far apart the student's scores of one query are at most, relative to their size; of vectors likewise.

    Returns:
        A scalar, 0 = the student says the same of everything; None where one row tells nothing.
    """
    with torch.no_grad():
        if outputs.scores is not None:
            scores, mask = outputs.scores.detach().float(), outputs.mask
            if not (mask.sum(dim=1) > 1).any():
                return None
            high = scores.masked_fill(~mask, -math.inf).amax(dim=1)
            low = scores.masked_fill(~mask, math.inf).amin(dim=1)
            apart = torch.where(mask.sum(dim=1) > 1, high - low, torch.zeros_like(high)).max()
            return apart / scores[mask].abs().max().clamp_min(1e-12)
        if outputs.query_vectors is not None and len(outputs.query_vectors) > 1:
            vectors = outputs.query_vectors.detach().float()
            apart = (vectors.amax(dim=0) - vectors.amin(dim=0)).max()
            return apart / vectors.abs().max().clamp_min(1e-12)
        return None


class Watcher(transformers.TrainerCallback):
    """Stops a training whose loss is no number any more; warns of a collapsed student and of one that never improves.

    Args:
        module: the training module, whose ``spread`` is that of its last batch.
        metric: what decides which checkpoint is best, such as ``eval_nDCG@10``; None = there is no evaluation.
    """

    def __init__(self, module: Any, metric: str | None):
        self.module = module
        self.metric = metric
        self.flat = 0
        self.evaluations: list[float] = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        if not math.isfinite(float(loss)):
            raise FloatingPointError(
                f"the loss became {float(loss)} at step {state.global_step}: lower the learning rate, lengthen the"
                " warm-up, or train with precision='fp32'."
            )
        seen = getattr(self.module, "spread", None)
        self.flat = self.flat + 1 if seen is not None and float(seen) < 1e-6 else 0
        if self.flat == PATIENCE:
            logger.warning(
                "step %d: the student gives every document of a query the same score; it has collapsed. Lower the"
                " learning rate, lengthen the warm-up, or start from a checkpoint whose head is trained.",
                state.global_step,
            )

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        if self.metric in (metrics or {}):
            self.evaluations.append(float(metrics[self.metric]))

    def on_train_end(self, args, state, control, **kwargs):
        sign = -1 if self.metric == "eval_loss" else 1
        if len(self.evaluations) < PATIENCE or max(sign * value for value in self.evaluations[1:]) > (
            sign * self.evaluations[0]
        ):
            return
        logger.warning(
            "%s never rose above that of the first evaluation (%s). The first checkpoint is kept. Try a lower learning"
            " rate, more or other training data, a loss nearer to the measure, or check that training and validation"
            " texts look alike.".replace("rose above", "fell below" if sign < 0 else "rose above"),
            self.metric.removeprefix("eval_"),
            ", ".join(f"{value:.4f}" for value in self.evaluations[:10]),
        )
