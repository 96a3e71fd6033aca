"""Labels in and out of a store in the formats of others."""

from __future__ import annotations

import json
import os
import unicodedata
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .. import frames
from ..frames import TEACHER_RANK, TEACHER_SCORE
from ..frames.ranking import carried, incoming_order
from ..frames.texts import text_source
from ..stores import formats
from ..stores.files import identifier, json_lines, lines, written
from . import tables

if TYPE_CHECKING:
    from .store import LabelStore


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
            store = cls(path)
            for part in own:
                store.add(part)
            return store
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
        """Write a TREC run, whole or not at all.

        A run holds an order, so tied labels are written as numbers that fall by the least that trec_eval tells apart,
        in the order of the stored ranking.

        Args:
            file: gzipped if it ends in ``.gz``.
            by: the column that orders: None = ``teacher_rank``, ``teacher_score`` or ``score``, the first that a query
                has for all of its documents.
            tag: the run's name.

        Raises:
            ValueError: for an id or a tag that a run cannot hold (white space in it, or empty), or a query without
                numbers to order by.
            MissingLabelError: if the store lacks ``by``, or documents.
            OSError: if it cannot be written.
        """
        _check_field(tag, "the tag")
        with written(file) as out:
            for frame in self.lists(seed=None):
                frames.require_columns(frame, ["docno", *([by] if by else [])], reader="to_run")
                for qid, rows in frame.groupby("qid", sort=True):
                    _check_field(qid, "a qid")
                    for docno in rows["docno"]:
                        _check_field(docno, f"a docno of query {qid!r}")
                    scores, ranks = carried(rows["qid"].to_numpy(), _ordering(rows, by), incoming_order(rows))
                    ordered = rows.assign(score=scores, rank=ranks).sort_values("rank", kind="stable")
                    for rank, (docno, value) in enumerate(zip(ordered["docno"], ordered["score"], strict=True), 1):
                        out.write(f"{qid} Q0 {docno} {rank} {_shown(value)} {tag}\n")

    def to_jsonl(self, file: str | os.PathLike) -> None:
        """Write JSON Lines: one object a query, ``{"qid", "query", "docno": [...], label: [...], ...}``.

        A label that a query does not have is left out of its line.

        Args:
            file: gzipped if it ends in ``.gz``; written whole or not at all.

        Raises:
            ValueError: if a query has a label for some of its documents only.
            MissingLabelError: if the store has no documents.
            OSError: if it cannot be written.
        """
        with written(file) as out:
            for frame in self.lists(seed=None):
                frames.require_columns(frame, ["docno"], reader="to_jsonl")
                for qid, rows in frame.groupby("qid", sort=False):
                    entry = {"qid": qid, "query": rows["query"].iloc[0], "docno": rows["docno"].tolist()}
                    for column in tables.label_columns(frame):
                        known = rows[column].notna().to_numpy()
                        if known.all():
                            entry[column] = [_plain(cell) for cell in rows[column]]
                        elif known.any():
                            raise ValueError(f"query {qid!r} has {column!r} for some of its documents only.")
                    out.write(json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n")

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
            frames.check_numbers(frame, label)
            frame = load(frame)
            for _, group in frame.groupby("qid", sort=False):
                labels = frames.ascending(label, group[label].to_numpy(dtype=float)).tolist()
                rows.append({"query": group["query"].iloc[0], "docs": group["text"].tolist(), "labels": labels})
        return Dataset.from_list(rows)


def _read_own(file: str | os.PathLike) -> list[pd.DataFrame] | None:
    """What :meth:`Converting.to_jsonl` wrote, as R frames of the same columns each; None if somebody else wrote it.

    Raises:
        ValueError: naming the line that is not as the first ones are.
    """
    parts: list[list[pd.DataFrame]] = []
    if not next(lines(file), (0, ""))[1].lstrip().startswith("{"):
        return None
    for number, entry in json_lines(file):
        lists = {name: cells for name, cells in entry.items() if name not in ("qid", "query")}
        if not ({"qid", "query"} <= entry.keys() and isinstance(entry.get("docno"), list)):
            if not parts:
                return None
            raise ValueError(f"{file}, line {number}: expected qid, query and a list of docno, as in the lines before.")
        sizes = {name: len(cells) if isinstance(cells, list) else None for name, cells in lists.items()}
        odd = [name for name, size in sizes.items() if size != sizes["docno"]]
        if odd:
            raise ValueError(f"{file}, line {number}: {odd[0]!r} must be a list of {sizes['docno']}, as docno is.")
        cells = {k: [np.asarray(c) if isinstance(c, list) else c for c in v] for k, v in lists.items()}
        rows = pd.DataFrame({name: pd.Series(values) for name, values in cells.items()})
        rows = rows.assign(qid=identifier(entry["qid"], file, number, "qid"), query=entry["query"])
        if not parts or set(parts[-1][0].columns) != set(rows.columns):
            parts.append([])
        parts[-1].append(rows)
    return [pd.concat(part, ignore_index=True) for part in parts] or None


def _ordering(rows: pd.DataFrame, by: str | None) -> np.ndarray:
    """What orders one query's documents, higher = better.

    Raises:
        ValueError: if there is no number for each of them.
    """
    wanted = (TEACHER_RANK, TEACHER_SCORE, "score") if by is None else (by,)
    for column in wanted:
        if column in rows.columns:
            values = pd.to_numeric(rows[column], errors="coerce").to_numpy(dtype=float)
            if np.isfinite(values).all():
                return frames.ascending(column, values)
    raise ValueError(
        f"query {rows['qid'].iloc[0]!r} has no number for each of its documents in {' or '.join(wanted)}: name the"
        " column that orders (by=...), or label it."
    )


def _shown(score: float) -> str:
    """A score in as few digits as give it back."""
    short = f"{score:.9g}"
    return short if float(short) == score else repr(float(score))


def _check_field(value: object, what: str) -> None:
    """Check that a TREC run, whose fields are apart by white space, can hold a field.

    Raises:
        ValueError: if it is empty or has white space.
    """
    text = str(value)
    if text.split() != [text] or any(unicodedata.category(sign) in ("Cc", "Cs") for sign in text):
        raise ValueError(
            f"a TREC run cannot hold {what} that is {text!r}: it must have characters, and no white space."
            " Write to_jsonl(file) instead, or give other ids."
        )


def _plain(cell: Any) -> Any:
    """A cell as JSON knows it."""
    if isinstance(cell, np.ndarray):
        return cell.tolist()
    return cell.item() if isinstance(cell, np.generic) else cell
