"""Measuring a student while it trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ir_measures
import pandas as pd
import pyterrier as pt

from ..engine import processes
from ..losses import Loss
from ..measures import capped  # noqa: F401 (known to ir_measures by name, from here on)
from .lists import Collator, QueryList


def parse_measure(metric: Any) -> ir_measures.Measure:
    """An ir_measures measure, from itself or from its name.

    Raises:
        ValueError: if the name is none.
    """
    if isinstance(metric, ir_measures.Measure):
        return metric
    try:
        return ir_measures.parse_measure(metric)
    except (NameError, ValueError, TypeError) as error:
        told = f"unknown measure {metric!r}: give one of ir_measures', such as 'nDCG@10' or 'RR(rel=2)@10'."
        raise ValueError(told) from error


def by_measure(
    student: pt.Transformer, frame: pd.DataFrame, qrels: pd.DataFrame, measure: ir_measures.Measure
) -> Callable[[], dict[str, float]]:
    """Re-rank ``frame`` with the student and measure it; mean over the frame's queries that have judgements.

    Args:
        student: re-ranks.
        frame: R, checked.
        qrels: as :func:`~pyterrier_distill.frames.check_qrels` gives them.
        measure: what is measured.

    Raises:
        ValueError: if no query of the frame has judgements.
    """
    frame = frame.assign(qid=frame["qid"].astype(str), docno=frame["docno"].astype(str))
    qrels = qrels[qrels["qid"].isin(set(frame["qid"]))]
    if len(qrels) == 0:
        raise ValueError("no query of the validation frame has judgements in its qrels: check that the qids match.")

    def evaluate() -> dict[str, float]:
        return {str(measure): float(pt.Evaluate(student(frame), qrels, [measure])[str(measure)])}

    return evaluate


def by_loss(
    module: Any, student: Any, loss: Loss, lists: list[QueryList], batch: int, context: Callable[[], Any]
) -> Callable[[], dict[str, float]]:
    """The loss itself on validation lists, for data without judgements.

    Args:
        module: the training module.
        student: whose collate makes the batches.
        loss: named for its columns.
        lists: validation lists.
        batch: queries of a batch.
        context: gives the autocast context of training.
    """
    collate = Collator(student, loss)

    def evaluate() -> dict[str, float]:
        import torch

        total = 0.0
        with torch.no_grad(), context(), processes.alone():
            for start in range(0, len(lists), batch):
                part = lists[start : start + batch]
                features = collate(part)
                device = next(module.parameters()).device
                features["mask"] = features["mask"].to(device)
                features["labels"] = {name: value.to(device) for name, value in features["labels"].items()}
                total += len(part) * float(module(**features)["loss"])
        return {"loss": total / len(lists)}

    return evaluate
