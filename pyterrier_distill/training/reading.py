"""What a student and a loss read of labelled frames: checks, judgements, texts."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from .. import frames
from ..frames.copies import labelled_alike
from ..frames.texts import text_source
from ..losses import Loss
from ..losses import base as losses
from ..sampling.samplers import ListSampler
from . import lists as training_lists
from . import order


def query_texts(topics: pd.DataFrame) -> pd.Series:
    """qid → query.

    Raises:
        TypeError: if ``topics`` are no frame.
        ValueError: if a query has two texts, or none.
    """
    if not isinstance(topics, pd.DataFrame):
        raise TypeError(f"topics must be a frame with qid and query, such as dataset.get_topics(), not {topics!r}.")
    frames.require_columns(topics, ["qid", "query"], reader="topics=")
    frames.check_results(topics[["qid", "query"]], "the topics")
    frames.check_text(topics, ["query"])
    return topics.assign(qid=topics["qid"].astype(str)).set_index("qid")["query"]


def with_queries(res: pd.DataFrame, texts: pd.Series) -> pd.DataFrame:
    """``res`` with other texts of its queries.

    Args:
        res: any frame with ``qid``.
        texts: by qid, as :func:`query_texts` gives them.

    Raises:
        ValueError: naming a query that has none.
    """
    frames.require_columns(res, ["qid"], reader="topics=")
    found = texts.reindex(res["qid"].astype(str))
    if (absent := found.isna().to_numpy()).any():
        missing = found.index[absent].unique()
        raise ValueError(
            f"topics= holds no query {missing[0]!r} ({len(missing)} such queries): give every labelled query its text"
            " there, or leave its labels out."
        )
    return res.assign(query=found.to_numpy())


class Reader:
    """Labelled frames → lists.

    Args:
        student: what will be trained.
        loss: names the label columns.
        qrels: judgements, joined as ``label`` where the loss reads it; or None.
        text: where document texts are that the frames lack; None = in the frames.
        context: the transformer that reads, for messages.
        sampler: draws documents of the lists that are read, or None.
        topics: the queries' texts, in place of those in the frames; None = those.
        collection: what tells the documents from those of other collections; "" = there are none.

    Raises:
        ValueError: if the judgements or the topics cannot be read.
    """

    def __init__(
        self,
        student: Any,
        loss: Loss,
        qrels: pd.DataFrame | None,
        text: Any,
        context: Any,
        sampler: ListSampler | None = None,
        topics: pd.DataFrame | None = None,
        collection: str = "",
    ):
        self.student = student
        self.loss = loss
        self.context = context
        self.sampler = sampler
        self.collection = collection
        self.topics = None if topics is None else query_texts(topics)
        joins = qrels is not None and (frames.LABEL in loss.columns() or (sampler and sampler.reads_judgements))
        self.judged = frames.judgements(qrels) if joins else None
        self.on_queries = not loss.needs - losses.QUERY_SIDE
        self.text_field = student.text_field
        reads_text = self.text_field in student.training_columns(loss.needs)
        self.add_text = text_source(text, self.text_field) if text is not None and reads_text else None

    def knows(self, ids: pd.DataFrame) -> bool:
        """Whether any of some documents (``qid``, ``docno``) is judged relevant."""
        keys = pd.MultiIndex.from_arrays([ids["qid"].astype(str), ids["docno"].astype(str)])
        judged = self.judged
        return judged is not None and bool(judged[judged > 0].index.isin(keys).any())

    @property
    def reads_order(self) -> str | None:
        """What reads which document of a list comes first, for messages; None = nobody."""
        if self.sampler is not None and self.sampler.reads_ranking:
            return repr(self.sampler)
        return next((repr(term) for _, term in self.loss.terms() if term.reads_order), None)

    def label_columns(self) -> list[str]:
        """The columns besides ids and texts that frames must have."""
        return [c for c in self.loss.columns() if self.judged is None or c != frames.LABEL]

    def ranking_columns(self, columns: Iterable[str]) -> list[str]:
        """Those of ``columns`` that a sampler, or a loss that reads an order, wants to see besides."""
        wanted: tuple[str, ...] = () if self.reads_order is None else ("rank", "score")
        if self.sampler is not None and self.sampler.reads_judgements:
            wanted += (frames.LABEL,)
        if self.sampler is not None and self.sampler.reads_first_stage:
            wanted += (frames.FIRST_STAGE_RANK,)
        return [c for c in wanted if c in columns and not (c == frames.LABEL and self.judged is not None)]

    def read(
        self, res: pd.DataFrame, *, whole: bool = True, by_content: bool = False
    ) -> list[training_lists.QueryList]:
        """Check a frame, cheapest checks first, and group it.

        Args:
            res: labelled rows.
            whole: whether they are all that is trained on, not one block of it.
            by_content: whether queries and documents come in the order of what the rows say; else as they stand.
        """
        context, loss = self.context, self.loss
        res = res if self.topics is None else with_queries(res, self.topics)
        needed = [c for c in self.student.training_columns(loss.needs) if self.add_text is None or c != self.text_field]
        frames.require_columns(res, needed, reader=f"the {type(self.student).__name__}", context=context)
        for _, term in loss.terms():
            wanted = [c for c in term.columns() if c in self.label_columns()]
            frames.require_columns(res, wanted, reader=repr(term), context=context)
        by_first_stage = self.sampler is not None and self.sampler.reads_first_stage
        if by_first_stage:
            frames.require_columns(res, [frames.FIRST_STAGE_RANK], reader=repr(self.sampler), context=context)
            frames.check_numbers(res, frames.FIRST_STAGE_RANK)
        frames.check_results(res if not self.on_queries or "docno" in res.columns else res[["qid"]])
        if by_content:
            res = order.canonical(res, reads=None if self.on_queries else self.reads_order, whole=whole)
        if self.on_queries:
            res = res.drop_duplicates("qid")
        if self.judged is None and self.sampler is not None and self.sampler.reads_judgements:
            frames.require_columns(res, [frames.LABEL], reader=repr(self.sampler), context=context)
        if self.judged is not None:
            res = frames.join_judgements(res, self.judged, any_judged=whole)
        if self.add_text is not None:
            given, res = res[["qid", "docno"]], self.add_text(res)
            if len(res) != len(given) or not (res["docno"].to_numpy() == given["docno"].to_numpy()).all():
                raise ValueError("text= must give every row its text and keep the rows' order; it gave other rows.")
            frames.require_columns(res, [self.text_field], reader=f"the {type(self.student).__name__}", context=context)
        texts = ["query"] if self.on_queries else ["query", self.text_field]
        frames.check_text(res, [column for column in texts if column in res.columns])
        queries = res.drop_duplicates("qid")
        for column, kind in loss.reads().items():
            kind.check(queries if kind.per_query else res, column)
        if whole and frames.LABEL in loss.columns() and not (res[frames.LABEL] > 0).any():
            raise ValueError("no document of the training frame is relevant (label > 0): nothing to contrast.")
        judged = self.sampler is not None and self.sampler.reads_judgements
        for column in (
            *(["rank"] if self.reads_order is not None and "rank" in res.columns else []),
            *([frames.LABEL] * judged),
        ):
            frames.check_numbers(res, column)
        if (judged or frames.LABEL in loss.columns()) and self.text_field in res.columns:
            res = labelled_alike(res, self.text_field)
        ranked = self.reads_order is not None
        lists = training_lists.read_lists(res, loss, self.text_field, judged=judged, ranked=ranked)
        if by_first_stage:
            places = res[frames.FIRST_STAGE_RANK].to_numpy(dtype=float)
            for one, rows in zip(lists, order.rows_of(res), strict=True):
                one.ranking = np.argsort(places[rows], kind="stable")
        if losses.BATCH_SCORES in loss.needs:
            for one in lists:
                one.collection = self.collection
        if training_lists.contrasts(loss):
            for one in lists:
                one.keys = training_lists.document_keys(one)
                one.known = self._relevant_to(one)
                one.asked = training_lists.query_key(one)
        return lists

    def _relevant_to(self, one: training_lists.QueryList) -> np.ndarray:
        """What is known to be relevant to a query: what anybody judged so, and the texts of those in its list."""
        places = np.flatnonzero(one.labels[frames.LABEL] > 0).tolist()
        texts = [] if one.texts is None else [one.texts[n] for n in places]
        elsewhere = self._relevant.get(one.qid, ()) if self.judged is not None else ()
        docnos = sorted({*(str(one.docnos[n]) for n in places), *elsewhere})
        return training_lists.relevant_keys([f"{one.collection}{docno}" for docno in docnos], texts)

    @cached_property
    def _relevant(self) -> dict[str, list[str]]:
        """qid → the documents that are judged relevant to it, whether they are in its list or not."""
        found: dict[str, list[str]] = {}
        judged = self.judged
        for qid, docno in () if judged is None else judged[judged > 0].index:
            found.setdefault(qid, []).append(docno)
        return found
