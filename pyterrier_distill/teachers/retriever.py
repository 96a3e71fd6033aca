"""The teacher that is a retriever: what it says of documents that others found, too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt

from ..backends.usage import Usage
from ..frames import TEACHER_SCORE, arguments, check_numbers, check_text, check_unique, validate
from ..frames.ranking import rerank, tied
from .base import Teacher, check_label


class RetrieverTeacher(Teacher):
    """R → R: labels candidates with the scores of a retriever, such as BM25, whoever found them.

    A retriever scores what it finds alone. Fused with another it is to say something of the other's documents, too: it
    is asked deeply, and what it does not find even so gets what ``missing`` says.

    Args:
        retriever: Q → R; deep, ``bm25 % 1000`` rather than ``bm25 % 100``.
        missing: of candidates that it does not find: a number, their score (0 for BM25, which gives that to documents
            without any word of the query); ``"lowest"``, its lowest score for the query (0 if it finds nothing), where
            no such number is known: they may well have less; or ``"error"``.
        label: ``teacher_score``, or a column that extends it.

    Raises:
        TypeError: if the retriever is no transformer.
        ValueError: when transforming, with ``missing="error"``, naming a document that was not found.

    Labels:
        The retriever's scores, on its own scale: of BM25 sums over terms, of dense ones products.

    Example::

        first = (bm25 % 100 | dense % 100) >> dataset.text_loader()
        both = ptd.RetrieverTeacher(bm25 % 1000, missing=0.0, label="teacher_score_bm25") >> ptd.PointwiseTeacher(
            encoder, label="teacher_score_dense"
        )
        labelled = (first >> both >> ptd.fuse_teachers("teacher_score_bm25", "teacher_score_dense"))(topics)
    """

    schematic = {"label": "RetrieverTeacher", "inner_pipelines_mode": "unlinked"}
    writes = TEACHER_SCORE

    def __init__(self, retriever: pt.Transformer, missing: str | float = "lowest", *, label: str = TEACHER_SCORE):
        if not isinstance(retriever, pt.Transformer):
            raise TypeError(f"retriever must be a pipeline Q → R, such as bm25 % 1000, not {retriever!r}.")
        self.retriever = retriever
        number = isinstance(missing, (int, float)) and not isinstance(missing, bool) and np.isfinite(missing)
        self.missing = missing if number else arguments.choice(missing, "missing", ("lowest", "error"))
        self.label = check_label(label, TEACHER_SCORE)

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add the label; replace ``score`` and ``rank``."""
        validate.result_frame(inp, ["query"], context=self)
        check_text(inp, ["query"])
        check_unique(inp)
        if not len(inp):
            return rerank(inp, np.empty(0), **{self.label: np.empty(0)})
        with tied():
            found = self.retriever(inp[["qid", "query"]].drop_duplicates("qid").reset_index(drop=True))
        validate.result_frame(found, context=self)
        check_numbers(found, "score")
        found = found.astype({"qid": str, "docno": str}).drop_duplicates(["qid", "docno"])
        asked = inp[["qid", "docno"]].astype(str)
        known = found.set_index(["qid", "docno"])["score"]
        scores = known.reindex(pd.MultiIndex.from_frame(asked)).to_numpy(dtype=float)
        absent = np.isnan(scores)
        if self.missing == "error" and absent.any():
            row = inp.iloc[int(np.flatnonzero(absent)[0])]
            raise ValueError(
                f"{self.retriever!r} does not find document {row['docno']!r} for query {row['qid']!r}"
                f" ({int(absent.sum())} such rows): ask it more deeply, or take missing='lowest'."
            )
        instead: Any = self.missing if not isinstance(self.missing, str) else np.nan
        if self.missing == "lowest":
            instead = found.groupby("qid")["score"].min().reindex(asked["qid"]).fillna(0.0).to_numpy(dtype=float)
        scores = np.where(absent, instead, scores)
        return rerank(inp, scores, **{self.label: scores})

    @property
    def usage(self) -> Usage:
        """No model is asked."""
        return Usage()

    def estimate(self, inp: pd.DataFrame) -> Usage:
        """No calls."""
        return Usage()

    def decided_by(self) -> dict[str, Any]:
        """The retriever, and what becomes of documents that it does not find."""
        return {"retriever": self.retriever, "missing": self.missing}
