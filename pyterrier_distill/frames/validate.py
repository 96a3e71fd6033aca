"""The checks at every transformer's door: PyTerrier's own of the columns, and of what stands in them as ids.

The functions are those of ``pt.validate`` that are used here. After the columns they check that every ``qid`` and
``docno`` is an id, that each qid has one query, and that no column stands twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pandas as pd
import pyterrier as pt

from .ids import check_columns, check_ids, check_queries


def frame(inp: pd.DataFrame, what: str = "the frame", *, spelt: bool = False) -> None:
    """Check the ids and queries of a frame of any kind.

    Args:
        inp: any frame.
        what: it is, for the message.
        spelt: whether whoever reads the ids takes a number for the text that spells it.

    Raises:
        ValueError: if a ``qid`` or ``docno`` is missing, a fraction, or anything else than text or a whole number; if a
            qid has several queries; if two columns have one name.
    """
    check_columns(inp, what)
    check_ids(inp, [column for column in ("qid", "docno") if column in inp.columns], what, spelt=spelt)
    check_queries(inp, what)


@contextmanager
def any(inp: pd.DataFrame, *, context: pt.Transformer | None = None, spelt: bool = False) -> Iterator[Any]:
    """As ``pt.validate.any``, followed by :func:`frame`."""
    with pt.validate.any(inp, context=context) as accepted:
        yield accepted
    frame(inp, spelt=spelt)


def columns(inp: pd.DataFrame, *, includes: Sequence[str], context: pt.Transformer | None = None) -> None:
    """As ``pt.validate.columns``, followed by :func:`frame`."""
    with any(inp, context=context) as v:
        v.columns(includes=list(includes))


def query_frame(inp: pd.DataFrame, extra: Sequence[str] = (), *, context: pt.Transformer | None = None) -> None:
    """As ``pt.validate.query_frame``, followed by :func:`frame`."""
    with any(inp, context=context) as v:
        v.query_frame(list(extra))


def result_frame(inp: pd.DataFrame, extra: Sequence[str] = (), *, context: pt.Transformer | None = None) -> None:
    """As ``pt.validate.result_frame``, followed by :func:`frame`."""
    with any(inp, context=context) as v:
        v.result_frame(list(extra))


def document_frame(inp: pd.DataFrame, extra: Sequence[str] = (), *, context: pt.Transformer | None = None) -> None:
    """As ``pt.validate.document_frame``, followed by :func:`frame`."""
    with any(inp, context=context) as v:
        v.document_frame(list(extra))
