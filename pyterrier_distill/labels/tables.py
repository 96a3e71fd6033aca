"""A labelled frame as a table of one row a query, and back.

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

The footer says how many documents there are, which queries have none, which columns hold one cell a query, and the
shapes of states. Frames without ``docno`` (labels of queries alone) have empty lists, and a footer that says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..frames import FIRST_STAGE_RANK, kind_of, known
from .shards import OUTSIDE, DamagedShard, arrow, check_schema, is_list, meta_of, with_meta

if TYPE_CHECKING:
    import pyarrow as pa

#: What a frame may hold besides labels without being one.
_RANKING = ("score", "rank", FIRST_STAGE_RANK)


def label_columns(frame: pd.DataFrame) -> list[str]:
    """The columns of ``frame`` that a store keeps: labels by their names, or by the names that extend them.

    Text under such a name (``label_source``) is no label.
    """
    return [
        c for c in frame.columns
        if known(c) is not None and not (len(frame) and isinstance(frame[c].iloc[0], str))
    ]  # fmt: skip




# -- writing ----------------------------------------------------------------------------------------------------------


def to_table(frame: pd.DataFrame, queries: pd.DataFrame, meta: dict[str, Any]) -> pa.Table:
    """A labelled frame as a table of one row a query.

    Args:
        frame: R frame with label columns; or a Q frame whose labels are queries' own.
        queries: ``qid``, ``query`` of all queries that were labelled, those without documents, too.
        meta: what the footer remembers.

    Raises:
        ValueError: if a cell is no label of its column's kind.
    """
    pa = arrow()
    documents = "docno" in frame.columns
    codes = pd.Index(queries["qid"]).get_indexer(frame["qid"])
    order = np.argsort(codes, kind="stable")
    counts = np.bincount(codes, minlength=len(queries))
    ends = np.concatenate([[0], np.cumsum(counts)])
    docnos = frame["docno"].astype(str).to_numpy(dtype=object)[order] if documents else np.empty(0, dtype=object)
    offsets = pa.array(ends if documents else np.zeros(len(queries) + 1, dtype=int), pa.int32())
    columns: dict[str, Any] = {
        "qid": pa.array(queries["qid"].astype(str).tolist(), pa.string()),
        "query": pa.array(queries["query"].tolist(), pa.string()),
        "docno": pa.ListArray.from_arrays(offsets, pa.array(docnos, pa.string())),
    }
    starts = order[ends[:-1][counts > 0]] if len(frame) else np.empty(0, dtype=int)
    shapes: dict[str, list[int]] = {}
    per_query: list[str] = []
    for name in [*label_columns(frame), *(c for c in _RANKING if documents and c in frame.columns)]:
        cells = frame[name].to_numpy()[order]
        first = cells[0] if len(cells) else None
        try:
            if kind_of(name).per_query and np.ndim(first) == 3:
                columns[name], shapes[name] = _states(pa, frame[name].to_numpy()[starts], counts)
                per_query.append(name)
            elif kind_of(name).per_query and np.ndim(first) == 1:
                columns[name] = _per_query(pa, frame[name].to_numpy()[starts], counts)
                per_query.append(name)
            elif not documents:
                raise ValueError("holds labels of documents, and the frame has none")
            elif isinstance(first, dict):
                columns[name], columns[f"{name}{OUTSIDE}"] = _preferences(pa, cells, docnos, ends)
            else:
                columns[name] = pa.ListArray.from_arrays(offsets, _values(pa, cells))
        except (TypeError, ValueError, AttributeError, pa.ArrowException) as error:
            raise ValueError(
                f"the column {name!r} cannot be stored ({error}): every cell must be a number, a vector of one size, or"
                " a dict of preferences, and none may be missing."
            ) from error
    told = {
        **meta, "documents": len(docnos), "empty": np.flatnonzero(counts == 0).tolist(), "shapes": shapes,
        "per_query": per_query, "queries_only": not documents,
    }  # fmt: skip
    table = with_meta(pa.table(columns), told)
    check_schema(table.schema, "this frame")
    return table


def _values(pa: Any, cells: np.ndarray) -> pa.Array:
    """Numbers, or vectors of one size."""
    if cells.dtype == bool:
        return pa.array(cells.astype(np.int64))
    if cells.dtype != object:
        return pa.array(cells)
    if not len(cells) or np.ndim(cells[0]) == 0:
        return pa.array(np.asarray(cells.tolist(), dtype=float))
    matrix = np.stack(list(cells)).astype(np.float32)
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])


def _per_query(pa: Any, cells: np.ndarray, counts: np.ndarray) -> pa.Array:
    """One vector a query; null where a query was not labelled."""
    rows, found = [], iter(cells)
    for count in counts:
        rows.append(np.asarray(next(found), dtype=np.float32) if count else None)
    return pa.array(rows, pa.list_(pa.float32(), len(cells[0])))


def _states(pa: Any, cells: np.ndarray, counts: np.ndarray) -> tuple[pa.Array, list[int]]:
    """States ``[tokens, layers, dim]`` a query as lists of vectors, and (layers, dim)."""
    given, rows = iter(cells), []
    shape = list(np.shape(cells[0])[1:])
    for count in counts:
        rows.append(np.asarray(next(given), dtype=np.float16).reshape(-1, shape[0] * shape[1]) if count else None)
    ends = np.concatenate([[0], np.cumsum([0 if row is None else len(row) for row in rows])])
    values = np.concatenate([row for row in rows if row is not None])
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), shape[0] * shape[1])
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), vectors), shape


def _preferences(pa: Any, cells: np.ndarray, docnos: np.ndarray, ends: np.ndarray) -> tuple[pa.Array, pa.Array]:
    """Preferences by position in the query's list; documents that the list lacks stand behind it, in ``outside``."""
    counts, sizes = np.diff(ends), np.fromiter(map(len, cells), dtype=np.int64, count=len(cells))
    others = list(chain.from_iterable(cells))
    try:
        named = pa.array(others, pa.string())
    except (TypeError, pa.ArrowException):  # ids that are no strings
        others = list(map(str, others))
        named = pa.array(others, pa.string())
    values = np.fromiter(chain.from_iterable(map(dict.values, cells)), dtype=np.float32, count=len(others))
    query = np.repeat(np.arange(len(counts)), counts)
    firsts = np.repeat(np.arange(len(cells)) - ends[:-1][query], sizes)
    asked = np.repeat(query, sizes)
    # a (query, document) as one number, so that looking up is sorting
    both = pa.concat_arrays([pa.array(docnos, pa.string()), named]).dictionary_encode()
    codes, distinct = both.indices.to_numpy(), max(1, len(both.dictionary))
    listed = query * distinct + codes[: len(docnos)]
    wanted = asked * distinct + codes[len(docnos) :]
    order = np.argsort(listed)
    at = np.minimum(np.searchsorted(listed, wanted, sorter=order), max(0, len(listed) - 1))
    found = order[at] if len(order) else at
    inside = listed[found] == wanted if len(listed) else np.zeros(len(wanted), dtype=bool)
    seconds = np.where(inside, found - ends[:-1][asked], -1) if len(wanted) else np.empty(0, dtype=np.int64)
    outside: list[dict[str, int]] = [{} for _ in counts]
    for n in np.flatnonzero(~inside).tolist():
        beyond = outside[asked[n]]
        seconds[n] = counts[asked[n]] + beyond.setdefault(others[n], len(beyond))
    pairs_of = np.concatenate([[0], np.cumsum(np.bincount(asked, minlength=len(counts)))])
    struct = pa.StructArray.from_arrays(
        [pa.array(firsts, pa.int32()), pa.array(seconds, pa.int32()), pa.array(values)], ["i", "j", "p"]
    )
    return (
        pa.ListArray.from_arrays(pa.array(pairs_of, pa.int32()), struct),
        pa.array([list(names) for names in outside], pa.list_(pa.string())),
    )


# -- reading ----------------------------------------------------------------------------------------------------------


def to_frame(table: pa.Table, columns: Iterable[str] | None = None) -> pd.DataFrame:
    """A table of queries as the R frame, or Q frame, that it was.

    Args:
        table: rows of one shard, with its footer.
        columns: the label and ranking columns wanted; None = all.

    Raises:
        DamagedShard: if its columns do not go together.
    """
    table = table.combine_chunks()
    meta = meta_of(table.schema)
    asked = None if columns is None else set(columns)
    wanted = [name for name in stored_columns(table.schema) if asked is None or name in asked]
    queries_only = bool(meta.get("queries_only"))
    ids = ["qid", "query"] if queries_only else ["qid", "query", "docno"]
    if not table.num_rows:
        return pd.DataFrame(columns=[*ids, *wanted])
    lists = table.column("docno").combine_chunks()
    counts = np.ones(table.num_rows, dtype=int) if queries_only else _lengths(lists)
    docnos = lists.flatten().to_numpy(zero_copy_only=False)
    frame: dict[str, Any] = {name: np.repeat(table.column(name).to_numpy(), counts) for name in ("qid", "query")}
    if table.column("qid").null_count:
        raise DamagedShard("a shard holds queries without an id: run verify() on the store.")
    if not queries_only:
        frame["docno"] = docnos
    ends = np.concatenate([[0], np.cumsum(counts)])
    for name in wanted:
        column = table.column(name).combine_chunks()
        if name in meta.get("per_query", ()):
            frame[name] = _read_per_query(column, counts, meta.get("shapes", {}).get(name))
        elif arrow().types.is_struct(column.type.value_type):
            outside = (
                table.column(f"{name}{OUTSIDE}").combine_chunks() if f"{name}{OUTSIDE}" in table.schema.names else None
            )
            frame[name] = _read_preferences(column, outside, docnos, ends)
        else:
            values = column.flatten()
            if not np.array_equal(_lengths(column), counts) or values.null_count:
                raise DamagedShard(f"a shard holds other numbers of {name!r} than of documents: run verify().")
            if is_list(values.type):
                size = len(values[0]) if len(values) else 0
                frame[name] = list(values.flatten().to_numpy(zero_copy_only=False).reshape(-1, size))
            else:
                frame[name] = values.to_numpy(zero_copy_only=False)
    return pd.DataFrame(frame)


def _read_per_query(column: Any, counts: np.ndarray, shape: Sequence[int] | None) -> list[Any]:
    """One cell a query, repeated for its documents."""
    if shape is None:
        cells = [None if v is None else np.asarray(v, dtype=np.float32) for v in column.to_pylist()]
    else:
        states = column.flatten().flatten().to_numpy(zero_copy_only=False).reshape(-1, *shape)
        cells = np.split(states, np.cumsum(_lengths(column))[:-1])
    return [cells[q] for q, count in enumerate(counts) for _ in range(count)]


def parquet_columns(schema: pa.Schema, columns: Sequence[str] | None) -> list[str] | None:
    """The columns of a shard to be read for ``columns`` of a frame; None = all."""
    if columns is None:
        return None
    wanted = {"qid", "query", "docno", *columns, *(f"{column}{OUTSIDE}" for column in columns)}
    return [name for name in schema.names if name in wanted]


def stored_columns(schema: pa.Schema) -> list[str]:
    """The label and ranking columns of a shard."""
    return [n for n in schema.names if n not in ("qid", "query", "docno") and not n.endswith(OUTSIDE)]


def _lengths(lists: Any) -> np.ndarray:
    """Entries of each list; none where there is no list."""
    return lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(int)


def _read_preferences(column: Any, outside: Any, docnos: np.ndarray, ends: np.ndarray) -> list[dict[str, float]]:
    cells: list[dict[str, float]] = [{} for _ in range(len(docnos))]
    pairs = column.flatten()
    sizes = _lengths(column)
    i, j, p = (pairs.field(name).to_numpy(zero_copy_only=False) for name in ("i", "j", "p"))
    counts = np.diff(ends)
    others: Sequence[list[str]] = [[] for _ in counts] if outside is None else outside.to_pylist()
    names_of = counts + np.array([len(names) for names in others], dtype=int)
    inside = (i >= 0) & (i < np.repeat(counts, sizes))
    if not (inside & (j >= 0) & (j < np.repeat(names_of, sizes))).all():
        raise DamagedShard("a shard holds preferences about documents that it lacks: run verify() on the store.")
    query = np.repeat(np.arange(len(counts)), sizes)
    listed = j < counts[query]
    names = docnos[np.where(listed, ends[:-1][query] + j, 0)] if len(docnos) else np.empty(0, dtype=object)
    for n in np.flatnonzero(~listed).tolist():
        names[n] = others[query[n]][j[n] - counts[query[n]]]
    for row, name, value in zip((ends[:-1][query] + i).tolist(), names.tolist(), p.tolist(), strict=True):
        cells[row][name] = value
    return cells
