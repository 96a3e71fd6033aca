"""Pipelines by their stages."""

from __future__ import annotations

import functools

import pyterrier as pt


def stages_of(transformer: pt.Transformer) -> list[pt.Transformer]:
    """The stages of a pipeline, one by one; a transformer that is none is its own only stage."""
    if not isinstance(transformer, pt.Compose):
        return [transformer]
    return [stage for part in transformer for stage in stages_of(part)]


def cut_to(retriever: pt.Transformer, depth: int) -> pt.Transformer:
    """``retriever`` with so many results a query, where its last stage can retrieve fewer; else as it is."""
    *before, last = stages_of(retriever)
    cut = getattr(last, "fuse_rank_cutoff", lambda _: None)(depth)
    if cut is None:
        return retriever
    return functools.reduce(lambda later, stage: stage >> later, reversed(before), cut)
