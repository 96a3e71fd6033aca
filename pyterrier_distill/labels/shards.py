"""One shard: whole queries in one parquet file, a row a query, lists for its documents.

| column | type | holds |
|---|---|---|
| ``qid``, ``query`` | string | once a query |
| ``docno`` | list<string> | its documents, in the frame's order |
| a number a document | list<double / float / int64> | ``score``, ``rank``, ``teacher_score``, ... |
| ``teacher_logits``, ``doc_vec`` | list<list<float>> | [N, 2], [N, D] |
| ``teacher_prefs`` | list<struct<i, j, p>> | P(document i ≻ document j), positions in ``docno`` then ``outside`` |
| ``outside`` | list<string> | documents that preferences name and the list lacks |
| ``query_vec`` | list<float> | [D] |
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..frames import LABEL_COLUMNS, TEACHER_PREFS

if TYPE_CHECKING:
    import pyarrow as pa

#: Position of its first query in the build, and the SHA-256 of its bytes, shortened.
NAME = re.compile(r"(\d{10})-([0-9a-f]{32})\.parquet")
_META = b"pyterrier_distill"
_OUTSIDE = "outside"
#: What a frame may hold besides labels without being one.
_RANKING = ("score", "rank")


class DamagedShard(ValueError):
    """A shard that is not what its name or its schema says."""


def arrow() -> Any:
    """The module pyarrow.

    Raises:
        ModuleNotFoundError: saying how to install it.
    """
    try:
        import pyarrow
        import pyarrow.parquet  # noqa: F401
    except ModuleNotFoundError:
        raise ModuleNotFoundError('label stores need pyarrow: pip install "pyterrier-distill[labels]".') from None
    return pyarrow


def label_columns(frame: pd.DataFrame) -> list[str]:
    """The columns of ``frame`` that a store keeps: labels by their names, or by the names that extend them."""
    return [c for c in frame.columns if any(c == name or c.startswith(f"{name}_") for name in LABEL_COLUMNS)]


def is_preferences(column: str) -> bool:
    """Whether a label column holds preferences."""
    return column == TEACHER_PREFS or column.startswith(f"{TEACHER_PREFS}_")


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
    for name in kept:
        cells = frame[name].to_numpy()[order]
        if LABEL_COLUMNS.get(name) is not None and LABEL_COLUMNS[name].per_query:
            columns[name] = _per_query(pa, frame[name].to_numpy()[starts], counts)
        elif is_preferences(name):
            columns[name], columns[f"{name}_{_OUTSIDE}"] = _preferences(pa, cells, docnos, ends)
        else:
            columns[name] = pa.ListArray.from_arrays(offsets, _values(pa, cells))
    return pa.table(columns).replace_schema_metadata({_META: json.dumps(meta).encode()})


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


def to_bytes(table: pa.Table) -> bytes:
    """The table as a parquet file."""
    pa = arrow()
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(table, sink, compression="zstd", row_group_size=1024)
    return sink.getvalue().to_pybytes()


def name_of(content: bytes, start: int) -> str:
    """The file name of a shard."""
    return f"{start:010d}-{hashlib.sha256(content).hexdigest()[:32]}.parquet"


# -- reading ----------------------------------------------------------------------------------------------------------


def check_schema(schema: pa.Schema, where: str) -> None:
    """Refuse a table that is not a shard of ours.

    Raises:
        DamagedShard: naming the column that is missing, or of a type that no label has.
    """
    pa = arrow()
    for name, kind in (("qid", pa.string()), ("query", pa.string()), ("docno", pa.list_(pa.string()))):
        if name not in schema.names or not _alike(schema.field(name).type, kind):
            raise DamagedShard(f"{where} is no shard of labels: its column {name!r} must be {kind}.")
    for field in schema:
        if field.name in ("qid", "query", "docno"):
            continue
        kind, depth = field.type, 0
        while _listy(kind):
            kind, depth = kind.value_type, depth + 1
        numbers = pa.types.is_floating(kind) or pa.types.is_integer(kind)
        outside = field.name.endswith(f"_{_OUTSIDE}") and pa.types.is_string(kind)
        prefs = pa.types.is_struct(kind) and [f.name for f in kind] == ["i", "j", "p"]
        if not 1 <= depth <= 2 or not (numbers or outside or prefs):
            raise DamagedShard(f"{where} is no shard of labels: its column {field.name!r} is {field.type}.")


def _listy(kind: Any) -> bool:
    types = arrow().types
    return types.is_list(kind) or types.is_fixed_size_list(kind) or types.is_large_list(kind)


def _alike(kind: Any, expected: Any) -> bool:
    if _listy(expected):
        return _listy(kind) and _alike(kind.value_type, expected.value_type)
    types = arrow().types
    return kind == expected or (types.is_string(expected) and types.is_large_string(kind))


def meta_of(schema: pa.Schema) -> dict[str, Any]:
    """What the footer remembers."""
    return json.loads((schema.metadata or {}).get(_META, b"{}"))


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
    counts = lists.value_lengths().to_numpy(zero_copy_only=False).astype(int)
    docnos = lists.flatten().to_numpy(zero_copy_only=False)
    frame: dict[str, Any] = {
        "qid": np.repeat(table.column("qid").to_numpy(), counts),
        "query": np.repeat(table.column("query").to_numpy(), counts),
        "docno": docnos,
    }
    ends = np.concatenate([[0], np.cumsum(counts)])
    for name in wanted:
        column = table.column(name).combine_chunks()
        if is_preferences(name):
            outside = table.column(f"{name}_{_OUTSIDE}").combine_chunks()
            frame[name] = _read_preferences(column, outside, docnos, ends)
        elif LABEL_COLUMNS.get(name) is not None and LABEL_COLUMNS[name].per_query:
            vectors = [None if v is None else np.asarray(v, dtype=np.float32) for v in column.to_pylist()]
            frame[name] = [vectors[q] for q, count in enumerate(counts) for _ in range(count)]
        else:
            values = column.flatten()
            if _listy(values.type):
                size = len(values[0]) if len(values) else 0
                frame[name] = list(values.flatten().to_numpy(zero_copy_only=False).reshape(-1, size))
            else:
                frame[name] = values.to_numpy(zero_copy_only=False)
    return pd.DataFrame(frame)


def stored_columns(schema: pa.Schema) -> list[str]:
    """The label and ranking columns of a shard."""
    return [n for n in schema.names if n not in ("qid", "query", "docno") and not n.endswith(f"_{_OUTSIDE}")]


def _read_preferences(column: Any, outside: Any, docnos: np.ndarray, ends: np.ndarray) -> list[dict[str, float]]:
    cells: list[dict[str, float]] = [{} for _ in range(len(docnos))]
    pairs = column.flatten()
    i, j, p = (pairs.field(name).to_numpy(zero_copy_only=False) for name in ("i", "j", "p"))
    starts = np.concatenate([[0], np.cumsum(column.value_lengths().to_numpy(zero_copy_only=False).astype(int))])
    others: Sequence[list[str]] = outside.to_pylist()
    for q, (first, last) in enumerate(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)):
        base = int(ends[q])
        names = [*docnos[base : int(ends[q + 1])], *others[q]]
        for a, b, value in zip(i[first:last].tolist(), j[first:last].tolist(), p[first:last].tolist(), strict=True):
            cells[base + a][names[b]] = value
    return cells
