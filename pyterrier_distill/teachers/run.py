"""The teacher whose labels are stored already."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt

from .. import formats, frames
from ..backends.base import Usage
from ..frames import TEACHER_LOGITS, TEACHER_PREFS, TEACHER_RANK, TEACHER_SCORE
from ..labels.content import checkpoint
from .base import Teacher, mean_preferences, rerank

_CARRIED = (TEACHER_RANK, TEACHER_SCORE, TEACHER_LOGITS, TEACHER_PREFS)


class RunTeacher(Teacher):
    """R → R or Q → R: labels from a stored ranking.

    Given candidates it re-ranks them as they are stored; given queries it returns what is stored for them. The labels
    depend on what is stored:

    * an order (TREC run with ``by="rank"``, RankGPT, rank_llm): ``teacher_rank``, best = 0, counted among the documents
      at hand; score −``teacher_rank``;
    * scores (TREC run with ``by="score"``, FlagEmbedding): ``teacher_score`` as stored, for runs ``teacher_rank``, too;
    * two logits (InRanker, PairDistill): ``teacher_logits`` [false, true], and log p(true) as ``teacher_score``;
    * preferences (PairDistill): ``teacher_prefs``; score = mean preference.

    Args:
        labels: a file (gzipped ones end in ``.gz``), or a frame with ``qid``, ``docno`` and ``teacher_rank``,
            ``teacher_score``, ``teacher_logits`` or ``teacher_prefs``; an R frame with ``rank`` and ``score`` will do.
        by: what of a TREC run or R frame is the label: its ``"rank"`` (of LLM rankings the score often means nothing)
            or its ``"score"``.
        format: a name in ``pyterrier_distill.formats.FORMATS``; None = told from the file.
        missing: what to do about candidates that are not stored: ``"error"``, or ``"drop"`` those rows.
        text_field: the column of document text, by which FlagEmbedding's and InRanker's JSON Lines, which know no ids,
            recognise documents.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read; when transforming, if a candidate is not stored.

    Example::

        teacher = ptd.RunTeacher("__rankzephyr-colbert-10000-sampled-100__msmarco-passage-train-judged.run")
        (teacher >> dataset.text_loader() >> distiller).fit(topics, None)
    """

    schematic = {"label": "RunTeacher"}

    def __init__(
        self,
        labels: str | os.PathLike | pd.DataFrame,
        *,
        by: str = "rank",
        format: str | None = None,
        missing: str = "error",
        text_field: str = "text",
    ):
        if by not in ("rank", "score"):
            raise ValueError(f"by must be 'rank' or 'score', not {by!r}.")
        if missing not in ("error", "drop"):
            raise ValueError(f"missing must be 'error' or 'drop', not {missing!r}.")
        if not isinstance(labels, pd.DataFrame):
            labels = os.fspath(labels)
            if not Path(labels).expanduser().is_file():
                raise FileNotFoundError(f"no file of labels at {labels}.")
            self._content = checkpoint(labels)["content"]
        self.labels = labels
        self.by = by
        self.format = format
        self.missing = missing
        self.text_field = text_field
        self.stored  # noqa: B018 (what cannot be read fails now)

    @cached_property
    def stored(self) -> pd.DataFrame:
        """What is stored: ids or texts, and labels."""
        if isinstance(self.labels, pd.DataFrame):
            frame = self._from_frame(self.labels)
        else:
            frame = formats.read_labels(self.labels, self.format)
        if "run_rank" in frame.columns:
            frame = self._from_run(frame)
        for column in (c for c in _CARRIED if c in frame.columns):
            if column != TEACHER_PREFS:
                frames.check_numbers(frame, column)
        return frame.reset_index(drop=True)

    def _from_frame(self, given: pd.DataFrame) -> pd.DataFrame:
        frames.require_columns(given, ["qid", "docno"], reader="RunTeacher")
        frames.check_results(given)
        frame = given.assign(qid=given["qid"].astype(str), docno=given["docno"].astype(str))
        if any(column in frame.columns for column in _CARRIED):
            return frame[["qid", "docno", *(c for c in ("query", *_CARRIED) if c in frame.columns)]]
        frames.require_columns(frame, [self.by], reader=f"RunTeacher(by={self.by!r})")
        places = {"run_rank": frame.get("rank", 0.0), "run_score": frame.get("score", 0.0)}
        return frame[["qid", "docno"]].assign(**places)

    def _from_run(self, frame: pd.DataFrame) -> pd.DataFrame:
        key = frame["run_rank"] if self.by == "rank" else -frame["run_score"]
        order = frame.assign(key=key).sort_values(["key", "docno"], kind="stable")
        ranks = order.groupby("qid", sort=False).cumcount().sort_index()
        labels = {TEACHER_RANK: ranks.astype(int)}
        if self.by == "score":
            labels[TEACHER_SCORE] = frame["run_score"].astype(float)
        return frame[["qid", "docno"]].assign(**labels)

    def decided_by(self) -> dict[str, Any]:
        """What decides the answers: what was read, wherever it lies now, and how."""
        labels = self.labels if isinstance(self.labels, pd.DataFrame) else {"content": self._content}
        names = ("by", "format", "missing", "text_field")
        return {"labels": labels, **{name: getattr(self, name) for name in names}}

    @property
    def usage(self) -> Usage:
        """Nothing is asked."""
        return Usage()

    def estimate(self, inp: pd.DataFrame) -> Usage:
        """Nothing."""
        return Usage()

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Label and re-rank candidates, or retrieve what is stored for queries."""
        stored = self.stored
        by_id = "docno" in stored.columns
        with pt.validate.any(inp, context=self) as v:
            v.result_frame([] if by_id else ["query", self.text_field], mode="rerank")
            if by_id:
                v.query_frame([], mode="retrieve")
        if v.mode == "retrieve":
            return self._retrieve(inp)
        keys = ["qid", "docno"] if by_id else ["query", self.text_field]
        frames.check_unique(inp)
        index = pd.MultiIndex.from_frame(stored[["qid", "docno"] if by_id else ["query", "text"]].astype(str))
        places = index.get_indexer(pd.MultiIndex.from_frame(inp[keys].astype(str))) if len(inp) else np.empty(0, int)
        known = places >= 0
        if not known.all():
            if self.missing == "error":
                pair = tuple(str(cell)[:60] for cell in inp.loc[~known, keys].iloc[0])
                raise ValueError(
                    f"{int((~known).sum())} of {len(inp)} candidates have no stored label, such as {pair}: pass"
                    " missing='drop' to leave them out, or take the candidates that were labelled."
                )
            inp, places = inp[known], places[known]
        return self._labelled(inp, stored.iloc[places])

    def _retrieve(self, inp: pd.DataFrame) -> pd.DataFrame:
        queries = inp.assign(qid=inp["qid"].astype(str))
        columns = ["qid", "docno", *(c for c in _CARRIED if c in self.stored.columns)]
        merged = queries.drop(columns=columns[1:], errors="ignore").merge(self.stored[columns], on="qid", how="inner")
        out = self._labelled(merged.drop(columns=columns[2:]), merged)
        return out.sort_values(["qid", "rank"], kind="stable", ignore_index=True) if len(out) else out

    def _labelled(self, inp: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
        """``inp`` with the labels of ``rows``, which stand beside its own."""
        labels = {c: rows[c].to_numpy() for c in _CARRIED if c in rows.columns}
        if TEACHER_LOGITS in labels:
            pairs = np.stack(list(labels[TEACHER_LOGITS])).astype(float) if len(rows) else np.empty((0, 2))
            labels.setdefault(TEACHER_SCORE, -np.logaddexp(0, pairs[:, 0] - pairs[:, 1]))
            labels[TEACHER_LOGITS] = list(labels[TEACHER_LOGITS])
        if TEACHER_PREFS in labels:
            labels[TEACHER_PREFS] = [dict(cell) for cell in labels[TEACHER_PREFS]]
        if TEACHER_RANK in labels:  # counted among the documents at hand; tied ones stay tied
            stored = pd.Series(labels[TEACHER_RANK].astype(float)).groupby(inp["qid"].to_numpy(), sort=False)
            labels[TEACHER_RANK] = (stored.rank(method="min") - 1).to_numpy().astype(int)
        if TEACHER_SCORE in labels and not (TEACHER_RANK in labels and self.by == "rank"):
            scores = labels[TEACHER_SCORE].astype(float)
        elif TEACHER_RANK in labels:
            scores = -labels[TEACHER_RANK].astype(float)
        else:
            scores = mean_preferences(inp, labels[TEACHER_PREFS])
        return rerank(inp, scores, **labels)

    def __repr__(self) -> str:
        if isinstance(self.labels, pd.DataFrame):
            hashed = pd.util.hash_pandas_object(self.stored.astype(str), index=False).sum()
            shown = f"<{len(self.labels)} rows, {hashed:x}>"
        else:
            shown = f"{self.labels!r}, <content {self._content}>"
        defaults = {"by": "rank", "format": None, "missing": "error", "text_field": "text"}
        settings = [f"{n}={getattr(self, n)!r}" for n, default in defaults.items() if getattr(self, n) != default]
        return f"RunTeacher({', '.join([shown, *settings])})"
