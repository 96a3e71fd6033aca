"""Pipelines by their stages."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import pyterrier as pt


def stages_of(transformer: pt.Transformer) -> list[pt.Transformer]:
    """The stages of a pipeline, one by one; a transformer that is none is its own only stage."""
    if not isinstance(transformer, pt.Compose):
        return [transformer]
    return [stage for part in transformer for stage in stages_of(part)]


def cut_to(retriever: pt.Transformer, depth: int) -> pt.Transformer:
    """``retriever`` cut to the top ``depth`` of each query, where its last stage can retrieve fewer; else as it is."""
    *before, last = stages_of(retriever)
    cut = getattr(last, "fuse_rank_cutoff", lambda _: None)(depth)
    if cut is None:
        return retriever
    return functools.reduce(lambda later, stage: stage >> later, reversed(before), cut)


def inner(transformer: pt.Transformer) -> Iterator[pt.Transformer]:
    """The transformers that a transformer holds in its attributes, at any depth, each once."""
    seen, waiting = {id(transformer)}, list(getattr(transformer, "__dict__", {}).values())
    while waiting:
        value = waiting.pop()
        if isinstance(value, (list, tuple, set)):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, pt.Transformer) and id(value) not in seen:
            seen.add(id(value))
            waiting += getattr(value, "__dict__", {}).values()
            yield value


def through(
    pipeline: pt.Transformer,
    inp: pd.DataFrame,
    stops: type[Exception],
    finished: str,
    own: Callable[[pt.Transformer], bool],
    paid: Callable[[pd.DataFrame], Any],
) -> tuple[pd.DataFrame, Any]:
    """Run a pipeline stage by stage; what a stage had finished before it stopped still goes through the others.

    Args:
        pipeline: the pipeline.
        inp: what it is given.
        stops: the error of a stage that stops: made of a message and the finished rows.
        finished: its attribute that holds these.
        own: whether such an error, when it comes out of a stage, carries that stage's own rows; those of a part of it
            must not be taken for them.
        paid: whether a frame holds what must not be lost.

    Returns:
        The last stage's rows, and the error that stopped the first one that stopped, if one did.

    Raises:
        Exception: what a stage raised; of type ``stops`` where rows were at hand that must not be lost: it carries them
            as they came into that stage.
    """
    frame, stopped = inp, None
    for stage in stages_of(pipeline):
        try:
            frame = stage(frame)
        except Exception as error:
            if isinstance(error, stops) and own(stage):
                stopped, frame = stopped or error, getattr(error, finished)
                if not len(frame):  # nothing was finished; a stage that never meets an empty frame need not take one
                    break
                continue
            told = f"{type(stage).__name__} raised {type(error).__name__}: {str(error).rstrip('.')}."
            kept = f"What came into that stage is in this error's .{finished}, and not stored."
            if stopped is not None:
                raise stops(f"{stopped} Then {told} {kept}", frame) from stopped
            if isinstance(error, stops) or not paid(frame):
                raise
            raise stops(f"{told} {kept}", frame) from error
    return frame, stopped
