"""Labels in and out of a store in the formats of others."""

from __future__ import annotations

import gzip
import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .. import formats, frames
from ..frames import TEACHER_RANK, TEACHER_SCORE
from ..ranking import carried, incoming_order
from ..texts import text_source
from . import tables

if TYPE_CHECKING:
    from .store import LabelStore


_IDS = ("qid", "query", "docno")


class Converting:
    """The part of :class:`~pyterrier_distill.LabelStore` that speaks other formats."""

    @classmethod
    def from_frame(cls, path: str | os.PathLike, labelled: pd.DataFrame, *, with_text: bool = False) -> LabelStore:
        """A new store of a labelled R frame, with its texts on demand."""
        return cls(path).add(labelled, with_text=with_text)

    @classmethod
    def from_run(
        cls, path: str | os.PathLike, run: str | os.PathLike, topics: pd.DataFrame, *, by: str = "rank", **options: Any
    ) -> LabelStore:
        """A new store of a stored ranking, as :class:`~pyterrier_distill.RunTeacher` reads it.

        Args:
            path: of the store.
            run: a TREC run, or another file that RunTeacher reads.
            topics: texts of its queries.
            by: what of a TREC run is the label, ``"rank"`` or ``"score"``.
            **options: as for RunTeacher.
        """
        from ..teachers.run import RunTeacher

        return cls(path).build(RunTeacher(run, by=by, **options), topics, batch_size=10_000, verbose=False)

    @classmethod
    def from_jsonl(cls, path: str | os.PathLike, file: str | os.PathLike, format: str | None = None) -> LabelStore:
        """A new store of a JSON Lines file that holds its queries: FlagEmbedding, InRanker, rank_llm, RankGPT, or what
        :meth:`to_jsonl` wrote.

        Where a format knows no ids, query and document ids are digests of the texts.
        """
        own = _read_own(file) if format is None else None
        if own is not None:
            return cls(path).add(own)
        stored = formats.read_labels(file, format)
        if "query" not in stored.columns:
            raise ValueError(f"{file} holds no texts of queries: use from_run(path, file, topics).")
        for column, text in (("qid", "query"), ("docno", "text")):
            if column not in stored.columns:
                hashed = pd.util.hash_pandas_object(stored[text].astype(str), index=False)
                stored[column] = [f"{value:016x}" for value in hashed]
        if TEACHER_SCORE not in stored.columns and "teacher_logits" in stored.columns:
            pairs = np.stack(list(stored["teacher_logits"])).astype(float)
            stored[TEACHER_SCORE] = -np.logaddexp(0, pairs[:, 0] - pairs[:, 1])
        return cls(path).add(stored, with_text="text" in stored.columns)

    def to_run(self, file: str | os.PathLike, by: str | None = None, tag: str = "teacher") -> None:
        """Write a TREC run.

        A run holds an order, so tied labels are written as numbers that fall by the least that trec_eval tells apart,
        in the order of the stored ranking.

        Args:
            file: gzipped if it ends in ``.gz``.
            by: the column that orders: None = ``teacher_rank``, ``teacher_score`` or ``score``, the first there is.
            tag: the run's name.
        """
        with (gzip.open if str(file).endswith(".gz") else open)(file, "wt", encoding="utf-8") as out:
            for frame in self.lists(seed=None):
                column = by or next(c for c in (TEACHER_RANK, TEACHER_SCORE, "score") if c in frame.columns)
                frames.require_columns(frame, ["docno", column], reader="to_run")
                score = -frame[column].astype(float) if column.startswith(TEACHER_RANK) else frame[column].astype(float)
                scores, ranks = carried(frame["qid"].to_numpy(), score.to_numpy(), incoming_order(frame))
                ordered = frame.assign(score=_as_read(scores), rank=ranks).sort_values(["qid", "rank"], kind="stable")
                for qid, docno, rank, value in ordered[["qid", "docno", "rank", "score"]].itertuples(index=False):
                    out.write(f"{qid} Q0 {docno} {rank + 1} {value:.9g} {tag}\n")

    def to_jsonl(self, file: str | os.PathLike) -> None:
        """Write JSON Lines: one object a query, ``{"qid", "query", "docno": [...], label: [...], ...}``."""
        with (gzip.open if str(file).endswith(".gz") else open)(file, "wt", encoding="utf-8") as out:
            for frame in self.lists(seed=None):
                frames.require_columns(frame, ["docno"], reader="to_jsonl")
                for qid, rows in frame.groupby("qid", sort=False):
                    entry = {"qid": qid, "query": rows["query"].iloc[0], "docno": rows["docno"].tolist()}
                    for column in tables.label_columns(frame):
                        entry[column] = [_plain(cell) for cell in rows[column]]
                    out.write(json.dumps(entry, ensure_ascii=False) + "\n")

    def to_hf_dataset(self, text: Any = None, *, label: str = TEACHER_SCORE) -> Any:
        """A ``datasets.Dataset`` that sentence-transformers trains on: ``query``, ``docs`` and ``labels``, lists of one
        query in a row.

        Args:
            text: a dataset, a D frame with ``docno`` and ``text``, or a transformer that adds ``text``; None = the
                store's own.
            label: the column of labels; ranks are turned so that higher is better.

        Raises:
            ModuleNotFoundError: without the package datasets.
        """
        try:
            from datasets import Dataset
        except ModuleNotFoundError:
            raise ModuleNotFoundError("this needs datasets: pip install datasets.") from None
        rows: list[dict[str, Any]] = []
        load = self.text_loader() if text is None else text_source(text)
        for frame in self.lists(seed=None):
            frames.require_columns(frame, ["docno", label], reader="to_hf_dataset")
            frame = load(frame)
            sign = -1.0 if label.startswith(TEACHER_RANK) else 1.0
            for _, group in frame.groupby("qid", sort=False):
                labels = [sign * float(value) for value in group[label]]
                rows.append({"query": group["query"].iloc[0], "docs": group["text"].tolist(), "labels": labels})
        return Dataset.from_list(rows)


def _read_own(file: str | os.PathLike) -> pd.DataFrame | None:
    """What :meth:`Converting.to_jsonl` wrote, as an R frame; None if somebody else wrote the file."""
    rows: list[pd.DataFrame] = []
    with (gzip.open if str(file).endswith(".gz") else open)(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            entry = json.loads(line) if line.lstrip()[:1] == "{" else None
            ids = isinstance(entry, dict) and isinstance(entry.get("docno"), list) and {"qid", "query"} <= entry.keys()
            if not ids:
                return None
            vectors = {
                k: [np.asarray(c) if isinstance(c, list) else c for c in v] for k, v in entry.items() if k not in _IDS
            }
            rows.append(pd.DataFrame({**{k: entry[k] for k in _IDS}, **{k: pd.Series(v) for k, v in vectors.items()}}))
    return pd.concat(rows, ignore_index=True) if rows else None


def _as_read(scores: np.ndarray) -> np.ndarray:
    """Scores as trec_eval will hold them: what it tells apart, nine digits tell apart."""
    with np.errstate(over="ignore"):
        rounded = scores.astype(np.float32).astype(float)
    return np.where(np.isfinite(rounded), rounded, scores)


def _plain(cell: Any) -> Any:
    """A cell as JSON knows it."""
    if isinstance(cell, np.ndarray):
        return cell.tolist()
    return cell.item() if isinstance(cell, np.generic) else cell
