"""Pipelines by their stages."""

from __future__ import annotations

import pyterrier as pt


def stages_of(transformer: pt.Transformer) -> list[pt.Transformer]:
    """The stages of a pipeline, one by one; a transformer that is none is its own only stage."""
    if not isinstance(transformer, pt.Compose):
        return [transformer]
    return [stage for part in transformer for stage in stages_of(part)]
