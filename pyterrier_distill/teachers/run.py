"""The teacher whose labels are stored already."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .. import frames
from ..backends.usage import Usage
from ..frames import TEACHER_LOGITS, TEACHER_PREFS, TEACHER_RANK, TEACHER_SCORE, validate
from ..frames.ranking import constant, rerank, shared_ranks
from ..stores import formats
from .base import Teacher, mean_preferences

logger = logging.getLogger(__name__)

_CARRIED = (TEACHER_RANK, TEACHER_SCORE, TEACHER_LOGITS, TEACHER_PREFS)


class RunTeacher(Teacher):
    """R → R or Q → R: labels from a stored ranking.

    Given candidates it re-ranks them as they are stored; given queries it returns what is stored for them. The labels
    depend on what is stored:

    * an order (TREC run with ``by="rank"``, RankGPT, rank_llm): ``teacher_rank``, best = 0, counted among the documents
      at hand; score −``teacher_rank``;
    * scores (TREC run with ``by="score"``, FlagEmbedding, ColBERT, PairDistill's cross-encoder): ``teacher_score`` as
      stored; of runs ``teacher_rank``, too;
    * two logits (InRanker, PairDistill's monoT5): ``teacher_logits`` [false, true], and log p(true) as
      ``teacher_score``;
    * preferences (PairDistill): ``teacher_prefs``; score = mean preference. Where nothing else is stored, documents
      that were compared to none, of queries that the file knows, have none: ``{}``.

    Documents of equal score, or equal rank, share their ``teacher_rank``, the first of their places: RankNet makes no
    pair of them, ADRMSE averages their places. ``score`` and ``rank`` keep their incoming order.

    A run's ``rank`` or ``score`` that is the same for all documents of each query says nothing (some tools write 0 or
    1); then the other one is the label, which is logged.

    Args:
        labels: a file (gzipped ones end in ``.gz``), or a frame with ``qid``, ``docno`` and ``teacher_rank``,
            ``teacher_score``, ``teacher_logits`` or ``teacher_prefs``; an R frame with ``rank`` and ``score`` will do.
            Or a list of several with different labels of the same documents, side by side: PairDistill's points and
            pairs. They are ranked by score, then rank, then preference, whatever there is.
        by: what of a TREC run or R frame is the label: its ``"rank"`` (of LLM rankings the score often means nothing)
            or its ``"score"``.
        format: a name in ``pyterrier_distill.stores.formats.FORMATS``; None = recognised by its content.
        missing: what to do about candidates that are not stored, or not in all of several files: ``"error"``, or
            ``"drop"`` those rows.
        text_field: the column of document text, by which FlagEmbedding's and InRanker's JSON Lines, which know no ids,
            recognise documents.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, or says no order at all; when transforming, if a candidate is not stored.

    Example::

        teacher = ptd.RunTeacher("__rankzephyr-colbert-10000-sampled-100__msmarco-passage-train-judged.run")
        (teacher >> dataset.text_loader() >> distiller).fit(topics, None)
    """

    schematic = {"label": "RunTeacher"}

    def __init__(
        self,
        labels: str | os.PathLike | pd.DataFrame | Sequence[str | os.PathLike | pd.DataFrame],
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
        given = [one if isinstance(one, pd.DataFrame) else os.fspath(one) for one in _each(labels)]
        if not given:
            raise ValueError("labels must be a file or a frame, or a list of some, not an empty list.")
        for one in given:
            if not isinstance(one, pd.DataFrame) and not Path(one).expanduser().is_file():
                raise FileNotFoundError(f"no file of labels at {one}.")
        from ..identity.content import checkpoint

        self._content = [None if isinstance(one, pd.DataFrame) else checkpoint(one)["content"] for one in given]
        self.labels = given if isinstance(labels, (list, tuple)) else given[0]
        self.by = by
        self.format = format
        self.missing = missing
        self.text_field = text_field
        self.stored  # noqa: B018 (what cannot be read fails now)

    @cached_property
    def stored(self) -> pd.DataFrame:
        """What is stored: ids or texts, and labels."""
        parts = [self._read(one) for one in _each(self.labels)]
        return parts[0] if len(parts) == 1 else self._joined(parts)

    def _read(self, given: str | pd.DataFrame) -> pd.DataFrame:
        frame = self._from_frame(given) if isinstance(given, pd.DataFrame) else formats.read_labels(given, self.format)
        if "run_rank" in frame.columns:
            frame = self._from_run(frame, "the frame" if isinstance(given, pd.DataFrame) else given)
        for column in (c for c in _CARRIED if c in frame.columns):
            frames.kind_of(column).check(frame, column)
        return frame.reset_index(drop=True)

    def _joined(self, parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
        """Several labels of the same documents; of preferences, those that there are."""
        told: set[str] = set()
        for part in parts:
            if "docno" not in part.columns:
                raise ValueError("labels that know documents by their texts only cannot be joined with others.")
            own = {column for column in _CARRIED if column in part.columns}
            if told & own:
                raise ValueError(f"several of the labels are {min(told & own)!r}: join different ones only.")
            told |= own
        parts = sorted(parts, key=_prefers_only)  # the others say which documents there are
        joined = parts[0].set_index(["qid", "docno"])
        for part in parts[1:]:
            other = part.set_index(["qid", "docno"])
            new = other[[column for column in _CARRIED if column in other.columns]]
            lost = new.index.difference(joined.index, sort=False)
            if not _prefers_only(part):
                lost = lost.append(joined.index.difference(new.index, sort=False))
            if len(lost) and (self.missing == "error" or not len(joined.index.intersection(new.index))):
                raise ValueError(
                    f"{len(lost)} documents have labels of one kind and not of the other, such as {lost[0]}: pass"
                    " missing='drop' to leave them out."
                )
            joined = joined.join(new, how="left" if _prefers_only(part) else "inner")
            if _prefers_only(part):
                joined[TEACHER_PREFS] = [cell if isinstance(cell, dict) else {} for cell in joined[TEACHER_PREFS]]
        return joined.reset_index()

    def _from_frame(self, given: pd.DataFrame) -> pd.DataFrame:
        frames.require_columns(given, ["qid", "docno"], reader="RunTeacher")
        frames.check_results(given, "the frame of labels")
        frame = given.assign(qid=given["qid"].astype(str), docno=given["docno"].astype(str))
        if any(column in frame.columns for column in _CARRIED):
            return frame[["qid", "docno", *(c for c in ("query", *_CARRIED) if c in frame.columns)]]
        frames.require_columns(frame, [self.by], reader=f"RunTeacher(by={self.by!r})")
        for column in ("rank", "score"):
            if column in frame.columns:
                frames.check_numbers(frame, column)
        places = {"run_rank": frame.get("rank", 0.0), "run_score": frame.get("score", 0.0)}
        return frame[["qid", "docno"]].assign(**places)

    def _from_run(self, frame: pd.DataFrame, name: str) -> pd.DataFrame:
        """The label of a run: what ``by`` names, as long as it says something. Rows in the run's order."""
        queries = pd.factorize(frame["qid"])[0]
        several = np.bincount(queries)[queries] > 1
        keys = {"rank": -frame["run_rank"].to_numpy(dtype=float), "score": frame["run_score"].to_numpy(dtype=float)}
        silent = {by: constant(queries, key) & several for by, key in keys.items()}
        by, spare = self.by, "score" if self.by == "rank" else "rank"
        if several.any() and silent[by][several].all():
            if silent[spare][several].all():
                raise ValueError(
                    f"{name} says no order: both rank and score are the same for all documents of each query."
                )
            logger.warning(
                "%s: the %ss are the same for all documents of each query, and say nothing: its %ss are the label.",
                name, by, spare,
            )  # fmt: skip
            by, spare = spare, by
        key = keys[by]
        if by == "rank":
            key = np.where(silent[by], keys[spare], key)
            if (both := silent[by] & silent[spare]).any():
                logger.warning("%s says no order for %d of its queries.", name, len(np.unique(queries[both])))
        labels: dict[str, np.ndarray] = {TEACHER_RANK: shared_ranks(queries, key)}
        if by == self.by == "score":
            labels[TEACHER_SCORE] = key
        order = np.lexsort((-keys[spare], -key, queries))  # what the label ties, stands as the other column says
        return frame[["qid", "docno"]].assign(**labels).iloc[order]

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
        with validate.any(inp, context=self) as v:
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
        if _prefers_only(stored) and known.any():  # compared to none, in a query that was compared
            known |= inp["qid"].astype(str).isin(stored["qid"]).to_numpy()
        if not known.all():
            if self.missing == "error":
                pair = tuple(str(cell)[:60] for cell in inp.loc[~known, keys].iloc[0])
                raise ValueError(
                    f"{int((~known).sum())} of {len(inp)} candidates have no stored label, such as {pair}: pass"
                    " missing='drop' to leave them out, or take the candidates that were labelled."
                )
            inp, places = inp[known], places[known]
        rows = stored.iloc[places]
        if (places < 0).any():
            compared = np.where(places < 0, None, rows[TEACHER_PREFS].to_numpy())
            rows = rows.assign(**{TEACHER_PREFS: [cell or {} for cell in compared]})
        return self._labelled(inp, rows)

    def _retrieve(self, inp: pd.DataFrame) -> pd.DataFrame:
        queries = inp.assign(qid=inp["qid"].astype(str)).reset_index(drop=True)
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
        each = [self._shown(one, state) for one, state in zip(_each(self.labels), self._content, strict=True)]
        shown = f"[{', '.join(each)}]" if isinstance(self.labels, list) else each[0]
        defaults = {"by": "rank", "format": None, "missing": "error", "text_field": "text"}
        settings = [f"{n}={getattr(self, n)!r}" for n, default in defaults.items() if getattr(self, n) != default]
        return f"RunTeacher({', '.join([shown, *settings])})"

    def _shown(self, one: str | pd.DataFrame, content: str | None) -> str:
        if isinstance(one, pd.DataFrame):
            hashed = pd.util.hash_pandas_object(self._read(one).astype(str), index=False).sum()
            return f"<{len(one)} rows, {hashed:x}>"
        return f"{one!r}, <content {content}>"


def _each(labels: Any) -> list[Any]:
    """All labels, one by one."""
    return list(labels) if isinstance(labels, (list, tuple)) else [labels]


def _prefers_only(stored: pd.DataFrame) -> bool:
    """Whether preferences are all that is stored: of the documents that were compared."""
    return [column for column in _CARRIED if column in stored.columns] == [TEACHER_PREFS]
