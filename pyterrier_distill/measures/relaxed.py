"""Relaxed recall: measured by answers, without judgements."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from ir_measures import Metric, ParamInfo, measures

from .answers import COLUMNS, Wanted, by_question


class _RelaxedRecall(measures.Measure):
    """1 if one of the first k passages holds an answer to the question, else 0: top-k accuracy of question answering.

    NQ, TriviaQA and SQuAD are measured so (Karpukhin et al. 2020 §4, "relaxed recall" in USTAD's Tables 3 and 5,
    Recall@5 in PairDistill's Table 2). :func:`~pyterrier_distill.has_answer` says when a passage holds an answer.
    Instead of judgements it reads answers: a frame with ``qid`` and ``gold_answer`` (or ``answers``), a text or
    several, in a row or in several; and the results' ``text``, which pipelines must give. Passages of one score stand
    as in the results.

    Parameters: ``cutoff`` (k), and ``match``: ``"string"``, or ``"regex"`` for answers that are patterns
    (CuratedTREC).

    Example::

        pt.Experiment([bm25 >> texts], topics, answers, [ptd.RelaxedRecall @ 5, ptd.RelaxedRecall @ 20])
    """

    __name__ = "RelaxedRecall"
    NAME = __name__
    PRETTY_NAME = "Relaxed recall at k"
    SHORT_DESC = "An indicator if any of the top k passages holds an answer string."
    SUPPORTED_PARAMS = {
        "cutoff": ParamInfo(dtype=int, required=True, desc="ranking cutoff threshold"),
        "match": ParamInfo(dtype=str, choices=["string", "regex"], default="string", desc="how answers are looked for"),
    }
    RUN_INPUTS = ["query_id", "text", "score"]
    QREL_INPUTS = ["query_id", COLUMNS[0]]

    def runtime_impl(self, qrels: pd.DataFrame, run: pd.DataFrame) -> Iterator[Metric]:
        """Measure each query of a run that is ordered by score."""
        if "text" not in run.columns:
            raise ValueError(f"{self} reads the passages' text: let the pipeline end with a text loader.")
        answers = by_question(qrels, "query_id")
        wanted = {qid: Wanted([(qid, one) for one in found], self["match"]) for qid, found in answers.items()}
        for qid, rows in run.groupby("query_id", sort=False):
            if qid in wanted:
                read = rows.head(self["cutoff"])
                odd = read[read["text"].map(lambda text: not isinstance(text, str)).to_numpy(dtype=bool)]
                if len(odd):
                    docno = f"document {odd['doc_id'].iloc[0]!r}" if "doc_id" in odd.columns else "a document"
                    raise ValueError(
                        f"{self} reads the passages' text, and {docno} of query {qid!r} has none, but"
                        f" {odd['text'].iloc[0]!r}: let the text loader give every document's, '' where there is none."
                    )
                yield Metric(qid, self, float(any(map(wanted[qid].found, read["text"]))))


RelaxedRecall = _RelaxedRecall()
if RelaxedRecall.NAME not in measures.registry:  # ir_measures.parse_measure("RelaxedRecall@5")
    measures.register(RelaxedRecall)
