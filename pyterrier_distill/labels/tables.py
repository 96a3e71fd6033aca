"""One shard: whole queries in one parquet file, a row a query, lists for its documents.

| column | type | holds |
|---|---|---|
| ``qid``, ``query`` | string | once a query |
| ``docno`` | list<string> | its documents, in the frame's order |
| a number a document | list<double / float / int64> | ``score``, ``rank``, ``teacher_score``, ... |
| ``teacher_logits``, ``doc_vec`` | list<list<float>> | [N, 2], [N, D] |
| ``teacher_prefs`` | list<struct<i, j, p>> | P(document i ≻ document j), positions in ``docno`` then ``:outside`` |
| ``teacher_prefs:outside`` | list<string> | documents that preferences name and the list lacks |
| ``query_vec`` | list<float> | [D] |
| ``query_states`` | list<list<half>> | [tokens, layers · D] |
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..frames import LABEL_COLUMNS, QUERY_STATES, TEACHER_PREFS
from .shards import OUTSIDE, DamagedShard, arrow, is_list, meta_of, with_meta

if TYPE_CHECKING:
    import pyarrow as pa

#: What a frame may hold besides labels without being one.
_RANKING = ("score", "rank")


def label_columns(frame: pd.DataFrame) -> list[str]:
    """The columns of ``frame`` that a store keeps: labels by their names, or by the names that extend them."""
    return [c for c in frame.columns if any(_of_kind(c, name) for name in LABEL_COLUMNS)]


def is_preferences(column: str) -> bool:
    """Whether a label column holds preferences."""
    return _of_kind(column, TEACHER_PREFS)


def _of_kind(column: str, known: str) -> bool:
    return column == known or column.startswith(f"{known}_")


def _per_query_kind(column: str) -> bool:
    return any(_of_kind(column, name) for name, known in LABEL_COLUMNS.items() if known.per_query)


# -- writing ----------------------------------------------------------------------------------------------------------


def to_table(frame: pd.DataFrame, queries: pd.DataFrame, meta: dict[str, Any]) -> pa.Table:
    """A labelled frame as a table of one row a query.

    Args:
        frame: R frame with label columns.
        queries: ``qid``, ``query`` of all queries that were labelled, those without documents, too.
        meta: what the shard's footer remembers.
    """
    pa = arrow()
    codes = pd.Index(queries["qid"]).get_indexer(frame["qid"])
    order = np.argsort(codes, kind="stable")
    counts = np.bincount(codes, minlength=len(queries))
    ends = np.concatenate([[0], np.cumsum(counts)])
    offsets = pa.array(ends, pa.int32())
    columns: dict[str, pa.Array] = {
        "qid": pa.array(queries["qid"].astype(str).tolist(), pa.string()),
        "query": pa.array(queries["query"].tolist(), pa.string()),
    }
    docnos = frame["docno"].astype(str).to_numpy(dtype=object)[order]
    columns["docno"] = pa.ListArray.from_arrays(offsets, pa.array(docnos, pa.string()))
    kept = [*label_columns(frame), *(c for c in _RANKING if c in frame.columns)]
    starts = order[ends[:-1][counts > 0]] if len(frame) else np.empty(0, dtype=int)
    shapes: dict[str, list[int]] = {}
    for name in kept:
        cells = frame[name].to_numpy()[order]
        if _of_kind(name, QUERY_STATES):
            columns[name], shapes[name] = _states(pa, frame[name].to_numpy()[starts], counts)
        elif _per_query_kind(name):
            columns[name] = _per_query(pa, frame[name].to_numpy()[starts], counts)
        elif is_preferences(name):
            columns[name], columns[f"{name}{OUTSIDE}"] = _preferences(pa, cells, docnos, ends)
        else:
            columns[name] = pa.ListArray.from_arrays(offsets, _values(pa, cells))
    told = {**meta, "documents": len(frame), "empty": np.flatnonzero(counts == 0).tolist(), "shapes": shapes}
    return with_meta(pa.table(columns), told)


def _values(pa: Any, cells: np.ndarray) -> pa.Array:
    """Numbers, or vectors of one size."""
    if cells.dtype != object:
        return pa.array(cells)
    if not len(cells) or np.ndim(cells[0]) == 0:
        return pa.array(np.asarray(cells.tolist(), dtype=float))
    matrix = np.stack(list(cells)).astype(np.float32)
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])


def _per_query(pa: Any, cells: np.ndarray, counts: np.ndarray) -> pa.Array:
    """One vector a query; null where a query has no documents."""
    rows, found = [], iter(cells)
    for count in counts:
        rows.append(np.asarray(next(found), dtype=np.float32) if count else None)
    size = len(cells[0]) if len(cells) else 0
    return pa.array(rows, pa.list_(pa.float32(), size) if size else pa.list_(pa.float32()))


def _states(pa: Any, cells: np.ndarray, counts: np.ndarray) -> tuple[pa.Array, list[int]]:
    """States ``[tokens, layers, dim]`` a query as lists of vectors, and (layers, dim)."""
    given, rows = iter(cells), []
    shape = list(np.shape(cells[0])[1:]) if len(cells) else [1, 1]
    for count in counts:
        rows.append(np.asarray(next(given), dtype=np.float16).reshape(-1, shape[0] * shape[1]) if count else None)
    ends = np.concatenate([[0], np.cumsum([0 if row is None else len(row) for row in rows])])
    held = [row for row in rows if row is not None]
    values = np.concatenate(held) if held else np.empty((0, shape[0] * shape[1]), dtype=np.float16)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), shape[0] * shape[1])
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), vectors), shape


def _preferences(pa: Any, cells: np.ndarray, docnos: np.ndarray, ends: np.ndarray) -> tuple[pa.Array, pa.Array]:
    firsts: list[int] = []
    seconds: list[int] = []
    values: list[float] = []
    sizes, outside, outside_sizes = [0], [], [0]
    for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        place = {docno: n for n, docno in enumerate(docnos[start:end].tolist())}
        inside = len(place)
        for i, cell in enumerate(cells[start:end]):
            if cell:
                firsts.extend([i] * len(cell))
                seconds.extend([place.setdefault(other, len(place)) for other in cell])
                values.extend(cell.values())
        outside.extend(list(place)[inside:])
        sizes.append(len(firsts))
        outside_sizes.append(len(outside))
    struct = pa.StructArray.from_arrays(
        [pa.array(firsts, pa.int32()), pa.array(seconds, pa.int32()), pa.array(values, pa.float32())], ["i", "j", "p"]
    )
    return (
        pa.ListArray.from_arrays(pa.array(sizes, pa.int32()), struct),
        pa.ListArray.from_arrays(pa.array(outside_sizes, pa.int32()), pa.array(outside, pa.string())),
    )


# -- reading -----------------------------------------------------------------------------------------------------------


def to_frame(table: pa.Table, columns: Iterable[str] | None = None) -> pd.DataFrame:
    """A table of queries as the R frame that it was.

    Args:
        table: rows of shards.
        columns: the label and ranking columns wanted; None = all.
    """
    table = table.combine_chunks()
    lists = table.column("docno").combine_chunks() if table.num_rows else None
    wanted = [name for name in stored_columns(table.schema) if columns is None or name in set(columns)]
    if lists is None:
        return pd.DataFrame(columns=["qid", "query", "docno", *wanted])
    counts = _lengths(lists)
    docnos = lists.flatten().to_numpy(zero_copy_only=False)
    frame: dict[str, Any] = {
        "qid": np.repeat(table.column("qid").to_numpy(), counts),
        "query": np.repeat(table.column("query").to_numpy(), counts),
        "docno": docnos,
    }
    ends = np.concatenate([[0], np.cumsum(counts)])
    for name in wanted:
        column = table.column(name).combine_chunks()
        if not is_preferences(name) and not _per_query_kind(name) and not np.array_equal(_lengths(column), counts):
            raise DamagedShard(f"a shard holds other numbers of {name!r} than of documents: run verify() on the store.")
        if is_preferences(name):
            outside = table.column(f"{name}{OUTSIDE}").combine_chunks()
            frame[name] = _read_preferences(column, outside, docnos, ends)
        elif _of_kind(name, QUERY_STATES):
            shape = meta_of(table.schema).get("shapes", {}).get(name, [1, -1])
            states = column.flatten().flatten().to_numpy(zero_copy_only=False).reshape(-1, *shape)
            cells = np.split(states, np.cumsum(_lengths(column))[:-1])
            frame[name] = [cells[q] for q, count in enumerate(counts) for _ in range(count)]
        elif _per_query_kind(name):
            vectors = [None if v is None else np.asarray(v, dtype=np.float32) for v in column.to_pylist()]
            frame[name] = [vectors[q] for q, count in enumerate(counts) for _ in range(count)]
        else:
            values = column.flatten()
            if is_list(values.type):
                size = len(values[0]) if len(values) else 0
                frame[name] = list(values.flatten().to_numpy(zero_copy_only=False).reshape(-1, size))
            else:
                frame[name] = values.to_numpy(zero_copy_only=False)
    return pd.DataFrame(frame)


def _lengths(lists: Any) -> np.ndarray:
    """Entries of each list; none where there is no list."""
    return lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(int)


def parquet_columns(schema: pa.Schema, columns: Sequence[str] | None) -> list[str] | None:
    """The columns of a shard to be read for ``columns`` of a frame; None = all."""
    if columns is None:
        return None
    wanted = {"qid", "query", "docno", *columns, *(f"{column}{OUTSIDE}" for column in columns)}
    return [name for name in schema.names if name in wanted]


def stored_columns(schema: pa.Schema) -> list[str]:
    """The label and ranking columns of a shard."""
    return [n for n in schema.names if n not in ("qid", "query", "docno") and not n.endswith(OUTSIDE)]


def _read_preferences(column: Any, outside: Any, docnos: np.ndarray, ends: np.ndarray) -> list[dict[str, float]]:
    cells: list[dict[str, float]] = [{} for _ in range(len(docnos))]
    pairs = column.flatten()
    sizes = _lengths(column)
    i, j, p = (pairs.field(name).to_numpy(zero_copy_only=False) for name in ("i", "j", "p"))
    starts = np.concatenate([[0], np.cumsum(sizes)])
    counts = np.diff(ends)
    inside = (i >= 0) & (i < np.repeat(counts, sizes))
    if not (inside & (j >= 0) & (j < np.repeat(counts + _lengths(outside), sizes))).all():
        raise DamagedShard("a shard holds preferences about documents that it lacks: run verify() on the store.")
    others: Sequence[list[str]] = outside.to_pylist()
    for q, (first, last) in enumerate(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)):
        base = int(ends[q])
        names = [*docnos[base : int(ends[q + 1])], *others[q]]
        for a, b, value in zip(i[first:last].tolist(), j[first:last].tolist(), p[first:last].tolist(), strict=True):
            cells[base + a][names[b]] = value
    return cells
