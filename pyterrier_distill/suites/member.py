"""A dataset of a suite: its topics, its judgements, and where its documents are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ir_measures
import pandas as pd
import pyterrier as pt

from ..corpora.folder import FolderDataset
from ..corpora.loading import read_topics
from ..frames.document_text import joined_texts
from ..frames.ids import check_ids


@dataclass(frozen=True)
class Member:
    """One dataset of a suite.

    Attributes:
        name: as tables show it, such as ``"NFCorpus"``.
        dataset: a name that ``pt.get_dataset`` knows (``irds:beir/nfcorpus/test``, ``folder:PATH``), or a dataset;
            None = it has to be had elsewhere.
        measures: what is reported of it; the first is the one that tables show where nobody asks for another.
        binary_from: the grade from which a document is relevant to measures that know no grades and name no ``rel``.
        instead: measure → what is measured in its place, such as capped recall.
        part_of: members with the same one count as one dataset: CQADupStack's twelve, the tasks of a TIREx corpus.
        drop_self: whether a document that has the query's id is left out of the ranking: the query itself, in ArguAna
            and Quora.
        topics: which field of the topics is the query; None = ``default_text()``.
    """

    name: str
    dataset: Any
    measures: Sequence[ir_measures.Measure] = field(default=(ir_measures.nDCG @ 10,))
    binary_from: int | None = None
    instead: Mapping[str, ir_measures.Measure] = field(default_factory=dict)
    part_of: str | None = None
    drop_self: bool = False
    topics: str | None = None

    def measured(self, measure: ir_measures.Measure) -> ir_measures.Measure:
        """What is measured here where ``measure`` is reported."""
        if str(measure) in self.instead:
            return self.instead[str(measure)]
        rel = measure.SUPPORTED_PARAMS.get("rel")
        graded = rel is None or not isinstance(rel.default, int) or "rel" in measure.params
        return measure if graded or self.binary_from is None else measure(rel=self.binary_from)

    @property
    def collection(self) -> str:
        """Where its documents are: two datasets of one collection have the same.

        Raises:
            FileNotFoundError: for a directory that is none.
        """
        import ir_datasets

        kind, _, name = str(self.dataset).partition(":")
        if kind == "irds":
            return f"irds:{ir_datasets.docs_parent_id(name)}"
        return f"folder:{FolderDataset(name).path.resolve()}" if kind == "folder" else str(self.dataset)

    def load(self) -> Any:
        """The PyTerrier dataset.

        Raises:
            LookupError: if there is none of this name, or none was named.
        """
        if self.dataset is None:
            raise LookupError(f"ir_datasets does not have it: name a directory of it, such as {{{self.name!r}: PATH}}.")
        return pt.get_dataset(self.dataset) if isinstance(self.dataset, str) else self.dataset

    def read(self) -> tuple[Any, pd.DataFrame, pd.DataFrame] | str:
        """The dataset, and :meth:`asked` of it; or, where it cannot be had, why, in a line."""
        try:
            dataset = self.load()
            next(iter(joined_texts(dataset)))
            return dataset, *self.asked(dataset)
        except Exception as error:  # whatever a library raises that finds nothing: no network, no such file, no licence
            cause = error.args[0] if isinstance(error, LookupError) and error.args else error
            return f"{type(error).__name__}: {' '.join(str(cause).split())[:300]}"

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
