"""What a training is validated on: a ranking to measure, or lists whose loss is computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyterrier as pt

from .. import frames
from ..frames.texts import text_source
from . import order, reading, sources

if TYPE_CHECKING:
    from .sources import Source


def held(res_va: Any, given: Sequence[Source], text_field: str) -> pd.DataFrame | None:
    """The validation frame; a store's labels with the texts that it has, unless ``text`` of the fit gives others.

    Args:
        res_va: a frame, a store, or None.
        given: what is trained on.
        text_field: the column of document text.

    Raises:
        TypeError: for anything else.
    """
    if res_va is None or isinstance(res_va, pd.DataFrame):
        return res_va
    if not hasattr(res_va, "blocks"):
        raise TypeError(f"res_va must be a labelled frame or a LabelStore, not {res_va!r}.")
    own = _shared(given)[0] is None and len(res_va.texts)
    return res_va.text_loader(text_field)(res_va.frame()) if own else res_va.frame()


def read(
    held: pd.DataFrame | None, res_va: Any, qrels_va: Any, given: Sequence[Source], distiller: Any
) -> tuple[pd.DataFrame | None, Any, Any, Any]:
    """What is validated on.

    Args:
        held: of :func:`held`.
        res_va: what the user gave.
        qrels_va: its judgements, or None.
        given: what is trained on.
        distiller: has the student, the loss and the metric.

    Returns:
        The frame as it is read; what is validated on: a checked R frame where there are judgements, else lists, or
        None; the judgements; the measure, or None.

    Raises:
        ValueError: for judgements without a frame, an empty frame, or what a frame or its ids lack.
    """
    if held is None:
        if qrels_va is not None:
            raise ValueError("qrels_va without res_va: pass the validation candidates too.")
        return None, None, None, None
    student, (text, topics) = distiller.student, _shared(given)
    if qrels_va is None:
        source = sources.Source(held, None, text, topics)
        return held, sources.read([source], student, distiller.loss, distiller), None, None
    from . import evaluation

    measure = evaluation.parse_measure(distiller.metric)
    qrels_va = frames.check_qrels(qrels_va)
    if len(held) == 0:
        raise ValueError("the validation frame is empty: check that its topics match, or leave it out.")
    if text is not None and student.text_field not in held.columns:
        held = text_source(text, student.text_field)(held)
    if topics is not None and not isinstance(res_va, pd.DataFrame):
        held = reading.with_queries(held, reading.query_texts(topics))
    pt.inspect.transformer_outputs(student, list(held.columns))
    frames.check_results(held, "the validation frame")
    frames.check_text(held, [c for c in ("query", student.text_field) if c in held.columns])
    return held, order.canonical(held), qrels_va, measure


def _shared(given: Sequence[Source]) -> tuple[Any, Any]:
    """Texts and topics that the validation frame shares with what is trained on: where that is one collection."""
    return (given[0].text, given[0].topics) if len(given) == 1 else (None, None)
