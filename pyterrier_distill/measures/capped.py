"""Recall whose best is 1 where more documents are relevant than are looked at."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from ir_measures import Metric, ParamInfo, measures


class _CappedRecall(measures.Measure):
    """Relevant documents among the first k, of as many as there could be: ``|relevant ∩ first k| / min(R, k)``.

    BEIR's ``R_cap@k``, which its paper and USTAD's Table 8 report as Recall@100 for TREC-COVID: with 500 relevant
    documents a query, plain recall at 100 could not exceed 0.2. A query without relevant documents counts 0.
    Documents of one score stand as in the results.

    Parameters: ``cutoff`` (k), and ``rel``: the lowest label that is relevant (1).

    References:
        Thakur et al. 2021, BEIR, App. G.

    Example::

        pt.Experiment([bm25], topics, qrels, [ptd.CappedRecall @ 100, ptd.CappedRecall(rel=2) @ 100])
    """

    __name__ = "CappedRecall"
    NAME = __name__
    PRETTY_NAME = "Capped recall at k"
    SHORT_DESC = "The share of relevant documents that the top k could hold."
    SUPPORTED_PARAMS = {
        "cutoff": ParamInfo(dtype=int, required=True, desc="ranking cutoff threshold"),
        "rel": ParamInfo(dtype=int, default=1, desc="minimum relevance score to be considered relevant (inclusive)"),
    }
    RUN_INPUTS = ["query_id", "doc_id", "score"]
    QREL_INPUTS = ["query_id", "doc_id", "relevance"]

    def runtime_impl(self, qrels: pd.DataFrame, run: pd.DataFrame) -> Iterator[Metric]:
        """Measure each query of a run that is ordered by score."""
        relevant = {
            qid: set(rows["doc_id"][rows["relevance"] >= self["rel"]]) for qid, rows in qrels.groupby("query_id")
        }
        for qid, found in run.groupby("query_id", sort=False)["doc_id"]:
            if qid in relevant:
                held = len(relevant[qid].intersection(found.head(self["cutoff"])))
                yield Metric(qid, self, held / max(1, min(len(relevant[qid]), self["cutoff"])))


CappedRecall = _CappedRecall()
if CappedRecall.NAME not in measures.registry:  # ir_measures.parse_measure("CappedRecall@100")
    measures.register(CappedRecall)
