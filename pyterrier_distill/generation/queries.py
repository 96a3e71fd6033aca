"""Queries written into the ``querygen`` column of documents, and the frames made of them.

``querygen`` holds a query a line. An empty line is a place whose query was filtered out: it is no query, but counts, so
that the others keep their ids. ``querygen_score``, where it is there, holds float32 ``[lines]``: a score for each line,
NaN where there is none; a document without queries has ``""`` and one NaN. This is how pyterrier_doc2query's
``QueryFilter`` reads them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt
import pyterrier_alpha as pta

from ..frames import LABEL, check_text, given, validate
from ..frames.arguments import Named

QUERYGEN = "querygen"
QUERYGEN_SCORE = "querygen_score"
QUERY_SCORE = "query_score"


class ReadsDocuments(Named, pt.Transformer):
    """D → D, which may be given a dataset instead of a frame of its documents."""

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Write queries."""
        raise TypeError(f"{type(self).__name__} does not say how it writes queries.")

    def __call__(self, inp: Any) -> Any:
        """Write queries.

        Args:
            inp: a D frame, a dataset, or dicts with ``docno`` and text; a dataset gives a frame.
        """
        return self.transform(given.document_frame(inp)) if hasattr(inp, "get_corpus_iter") else super().__call__(inp)

    def transform_iter(self, inp: Any) -> Any:
        """Write queries into dicts; as the first stage of a pipeline, of a dataset, too."""
        return super().transform_iter(given.documents(inp))


def document_texts(inp: pd.DataFrame, text_field: str | Sequence[str], context: pt.Transformer) -> list[str]:
    """The text of each document; several fields are joined by a space.

    Raises:
        pt.validate.InputValidationError: if a column is missing.
        ValueError: if a cell is no text.
    """
    fields = [text_field] if isinstance(text_field, str) else list(text_field)
    validate.document_frame(inp, fields, context=context)
    check_text(inp, fields)
    return [" ".join(parts) for parts in zip(*(inp[field] for field in fields), strict=True)]


def check_text_field(text_field: str | Sequence[str]) -> str | list[str]:
    """``text_field``, if it names a column or several.

    Raises:
        ValueError: if it does not.
    """
    if not text_field:
        raise ValueError("text_field must name a column of text, or several.")
    return text_field if isinstance(text_field, str) else list(text_field)


def with_queries(
    inp: pd.DataFrame, queries: Sequence[Sequence[str]], scores: Sequence[Sequence[float]] | None = None
) -> pd.DataFrame:
    """``inp`` with ``querygen`` and, where scores are given, ``querygen_score``; those of other queries go.

    Args:
        inp: a D frame.
        queries: those of each document; ``""`` holds a place.
        scores: one a query.
    """
    lines = [list(row) for row in queries]
    for row in lines:
        while row and not row[-1]:
            row.pop()
    out = inp.drop(columns=QUERYGEN_SCORE, errors="ignore")
    out = out.assign(**{QUERYGEN: _column(["\n".join(row) for row in lines], inp)})
    if scores is None:
        return out
    cells = []
    for row, values in zip(lines, scores, strict=True):
        cell = np.full(max(1, len(row)), np.nan, dtype=np.float32)
        cell[: len(row)] = [v if query else np.nan for query, v in zip(row, values, strict=False)]
        cells.append(cell)
    return out.assign(**{QUERYGEN_SCORE: _column(cells, inp)})


def _column(cells: list, inp: pd.DataFrame) -> pd.Series:
    out = np.empty(len(cells), dtype=object)
    out[:] = cells
    return pd.Series(out, index=inp.index, dtype=object)


def lines_of(inp: pd.DataFrame) -> pd.DataFrame:
    """The queries of a D frame, a row each: ``row`` (position of the document), ``line`` (of the query in its cell),
    ``query`` and, where the frame has scores, ``query_score``.

    Raises:
        ValueError: if scores and queries of a document are not of one number.
    """
    check_text(inp, [QUERYGEN])
    scored = QUERYGEN_SCORE in inp.columns
    rows = []
    for row, cell in enumerate(inp[QUERYGEN]):
        lines = cell.split("\n")
        values = np.full(len(lines), np.nan)
        if scored:
            values = np.asarray(inp[QUERYGEN_SCORE].iloc[row], dtype=float).reshape(-1)
            if len(values) != len(lines) and any(line.strip() for line in lines):
                raise ValueError(
                    f"document {inp['docno'].iloc[row]!r} has {len(lines)} lines in {QUERYGEN!r} and {len(values)}"
                    f" numbers in {QUERYGEN_SCORE!r}: each line needs one."
                )
        rows += [(row, n, line.strip(), float(values[n])) for n, line in enumerate(lines) if line.strip()]
    out = pd.DataFrame(rows, columns=["row", "line", "query", QUERY_SCORE])
    out = out.astype({"row": int, "line": int, "query": object, QUERY_SCORE: float})
    return out if scored else out.drop(columns=QUERY_SCORE)


class ExplodeQueries(pt.Transformer):
    """D with ``querygen`` → R: a row for every query of a document, with that document as its positive.

    The qid is ``<docno>-<n>``, n being the query's line from 0, so it depends neither on other documents nor on which
    queries filters have left: empty lines are no queries, but count. ``querygen_score`` becomes ``query_score``, a
    number a row. Every other column of the document stays. The order is that of the input.

    Raises:
        ValueError: when transforming, if a document stands in the frame twice or has no docno: two queries would have
            one qid.
    """

    schematic = {"label": "ExplodeQueries"}

    def __init__(self) -> None:
        super().__init__()

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Explode ``querygen``, queries separated by newlines."""
        validate.document_frame(inp, [QUERYGEN], context=self)
        twice = inp["docno"].astype(str).duplicated().to_numpy()
        if twice.any():
            raise ValueError(
                f"document {inp['docno'][twice].iloc[0]!r} stands in the frame more than once ({int(twice.sum())} such"
                " rows), and queries are named after their document: drop_duplicates('docno') first."
            )
        lines = lines_of(inp)
        out = inp.drop(columns=[QUERYGEN, QUERYGEN_SCORE, "query", "qid", QUERY_SCORE], errors="ignore")
        out = out.iloc[lines["row"].to_numpy()].reset_index(drop=True)
        qids = [f"{docno}-{n}" for docno, n in zip(out["docno"], lines["line"], strict=True)]
        queries = {column: lines[column].to_numpy() for column in ("query", QUERY_SCORE) if column in lines.columns}
        return out.assign(qid=pd.Series(qids, dtype=object), **queries)

    __repr__ = pta.transformer_repr

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExplodeQueries)

    def __hash__(self) -> int:
        return hash(repr(self))


def explode_queries() -> ExplodeQueries:
    """D with ``querygen`` → R with ``qid``, ``query`` and the document as positive; see :class:`ExplodeQueries`.

    Example::

        queries = (ptd.SpanQueries(n=3) >> ptd.explode_queries())(documents)  # qid, query, docno
    """
    return ExplodeQueries()


def positives(queries: pd.DataFrame) -> pd.DataFrame:
    """Judgements of generated queries: the document that each was made from is relevant to it.

    Args:
        queries: what :func:`explode_queries` gives, filtered or not.

    Returns:
        ``qid``, ``docno``, ``label`` (1), a row a query: qrels for ``fit`` and ``pt.Experiment``.

    Raises:
        ValueError: if a query has several documents: take the frame from before candidates were retrieved.

    Example::

        qrels = ptd.positives((writer >> ptd.explode_queries())(documents))
    """
    validate.result_frame(queries)
    if queries["qid"].duplicated().any():
        qid = queries.loc[queries["qid"].duplicated().to_numpy(), "qid"].iloc[0]
        raise ValueError(f"query {qid!r} has several documents: take the frame from before candidates were retrieved.")
    return queries[["qid", "docno"]].astype(str).assign(**{LABEL: 1}).reset_index(drop=True)


def written(inp: pd.DataFrame, cells: Sequence[tuple[list[str], list[float | None]]]) -> pd.DataFrame:
    """``inp`` with the queries and scores of its documents, as ``QueryStore.entries`` has them."""
    scores = [[math.nan if score is None else score for score in values] for _, values in cells]
    return with_queries(inp.drop(columns=QUERYGEN_SCORE, errors="ignore"), [queries for queries, _ in cells], scores)
