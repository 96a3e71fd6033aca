"""A dataset of a suite: its topics, its judgements, and where its documents are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ir_measures
import pandas as pd
import pyterrier as pt

from ..corpora.loading import read_topics
from ..frames.ids import check_ids


@dataclass(frozen=True)
class Member:
    """One dataset of a suite.

    Attributes:
        name: as tables show it, such as ``"NFCorpus"``.
        dataset: a name that ``pt.get_dataset`` knows (``irds:beir/nfcorpus/test``, ``folder:PATH``), or a dataset;
            None = it has to be had elsewhere.
        measures: what is measured on it; the first is the one that averages are of. The relevance level is part of a
            measure: ``AP(rel=2)``.
        part_of: members with the same one count as one dataset: CQADupStack's twelve, the tasks of a TIREx corpus.
        drop_self: whether a document that has the query's id is left out of the ranking: the query itself, in ArguAna
            and Quora.
        topics: which field of the topics is the query; None = ``default_text()``.
    """

    name: str
    dataset: Any
    measures: Sequence[ir_measures.Measure] = field(default=(ir_measures.nDCG @ 10,))
    part_of: str | None = None
    drop_self: bool = False
    topics: str | None = None

    def load(self) -> Any:
        """The PyTerrier dataset.

        Raises:
            LookupError: if there is none of this name, or none was named.
        """
        if self.dataset is None:
            raise LookupError(f"ir_datasets does not have it: name a directory of it, such as {{{self.name!r}: PATH}}.")
        return pt.get_dataset(self.dataset) if isinstance(self.dataset, str) else self.dataset

    def asked(self, dataset: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Topics (Q) that somebody judged, and judgements, ids as strings.

        Args:
            dataset: of :meth:`load`.

        Raises:
            ValueError: if no topic has a judgement, or an id is missing or no whole number.
        """
        topics, qrels = read_topics(dataset, self.topics), dataset.get_qrels()
        check_ids(topics, ["qid"], f"the topics of {self.name}")
        check_ids(qrels, ["qid", "docno"], f"the judgements of {self.name}")
        topics, qrels = topics.astype({"qid": str}), qrels.astype({"qid": str, "docno": str})
        topics = topics[topics["qid"].isin(set(qrels["qid"]))].reset_index(drop=True)
        if len(topics) == 0:
            raise ValueError(f"{self.name}: no topic has a judgement; check that their qids are the same.")
        return topics, qrels[["qid", "docno", "label"]]
