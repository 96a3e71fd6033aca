"""Positives that a first stage missed."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pyterrier as pt

from .. import frames
from ..frames import LABEL, given, validate
from ..frames.arguments import Named
from ..frames.texts import text_source
from ..identity.identity import hash_frame


class AddPositives(Named, pt.Transformer):
    """R → R: lists with those of their query's relevant documents that a first stage missed.

    Without them a query whose positive was not retrieved teaches a contrastive loss nothing. They stand behind the
    others, the most relevant first: ``rank`` goes on counting, ``score`` falls by 1 from the list's lowest. Queries
    without judgements stay as they are, and so do all rows that are there: labelled and unlabelled queries can share a
    training set (PairDistill trains on both). It stands before the teacher, which labels what it added; other columns
    of documents than their text are missing there. A ``label`` column gets the judgement. Queries of which nothing was
    retrieved have no rows that could be completed. Ids become strings.

    Args:
        qrels: judgements; documents with label > 0 are added.
        text: where the texts of those are, if the lists have texts: a dataset, a frame, or a transformer.
        text_field: the column of document text.

    Raises:
        ValueError: if the qrels are none; when transforming, if texts are needed and ``text`` does not give them, or an
            id is missing.

    References:
        Huang & Chen 2024 (PairDistill) §4.2 and §5.2, whose full loss reads positives and distils all queries.

    Example::

        labelled = (bm25 % 100 >> ptd.AddPositives(qrels, text=dataset) >> teacher)(topics)
        distiller.fit(labelled, qrels)
    """

    schematic = {"label": "AddPositives"}

    def __init__(self, qrels: pd.DataFrame, *, text: Any = None, text_field: str = "text"):
        qrels = given.qrels(qrels)
        frames.check_qrels(qrels)
        if text is not None:
            text_source(text, text_field)
        self.qrels = qrels
        self.text = text
        self.text_field = text_field

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Complete the lists."""
        validate.result_frame(inp, ["query"], context=self)
        found = inp.assign(qid=inp["qid"].astype(str), docno=inp["docno"].astype(str)).reset_index(drop=True)
        added = self._missing(found)
        if not len(added):
            return found
        if self.text_field in found.columns:
            added = self._with_text(added)
        number = added.groupby("qid", sort=False).cumcount().to_numpy()
        lists = found.groupby("qid", sort=False)
        for column, sign, end in (("rank", 1, "max"), ("score", -1, "min")):
            if column in found.columns:
                added[column] = added["qid"].map(lists[column].agg(end)).to_numpy() + sign * (1 + number)
        place = pd.Series(found.index, index=found["qid"]).groupby(level=0).max()
        kept = added[[column for column in added.columns if column in found.columns]]
        order = pd.concat([pd.Series(found.index), added["qid"].map(place)], ignore_index=True).argsort(kind="stable")
        return pd.concat([found, kept], ignore_index=True).iloc[order].reset_index(drop=True)

    def _missing(self, found: pd.DataFrame) -> pd.DataFrame:
        """The relevant documents that lists lack, with the columns of their queries; the most relevant first."""
        relevant = frames.check_qrels(self.qrels)
        relevant = relevant[relevant[LABEL] > 0].sort_values([LABEL, "docno"], ascending=[False, True], kind="stable")
        there = pd.MultiIndex.from_frame(found[["qid", "docno"]])
        relevant = relevant[~pd.MultiIndex.from_frame(relevant[["qid", "docno"]]).isin(there)]
        queries = found[[column for column in found.columns if str(column).startswith("q")]].drop_duplicates("qid")
        return queries.merge(relevant, on="qid", how="inner")

    def _with_text(self, added: pd.DataFrame) -> pd.DataFrame:
        if self.text is None:
            row = added.iloc[0]
            raise ValueError(
                f"the lists have {self.text_field!r}, and document {row['docno']!r} of query {row['qid']!r} is to be"
                " added: pass text=, such as text=dataset."
            )
        given = text_source(self.text, self.text_field)(added)
        if len(given) != len(added) or list(given["docno"].astype(str)) != added["docno"].tolist():
            raise ValueError("text= must give every row its text and keep the rows' order; it gave other rows.")
        frames.check_text(given, [self.text_field])
        return given

    def subtransformers(self) -> dict[str, Any]:
        """What loads texts, if it is a transformer."""
        return {"text": self.text} if isinstance(self.text, pt.Transformer) else {}

    def __repr__(self) -> str:
        return f"AddPositives(<{len(self.qrels)} rows, {hash_frame(frames.check_qrels(self.qrels))}>)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AddPositives) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))
