"""Shards: immutable parquet files, named by their content, and what they may hold."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

from ..backends.usage import Usage

if TYPE_CHECKING:
    import pyarrow as pa

#: Position of its first row among all, and the SHA-256 of its bytes, shortened.
NAME = re.compile(r"(\d{10})-([0-9a-f]{32})\.parquet")
META = b"pyterrier_distill"
#: Ends the name of a column of docnos that preferences name and a list lacks.
OUTSIDE = ":outside"
#: Queries, or texts, that are read at once.
ROW_GROUP = 256
#: What the footer's "version" may say; a newer one is not ours to judge. Absent = 1.
VERSION = 1
#: How many times its size a shard may unpack to, and how many bytes whatever its size.
MOST_UNPACKED, ALWAYS_UNPACKED = 1000, 1 << 26


class DamagedShard(ValueError):
    """A shard that is not what its name or its schema says."""


class NewerShard(ValueError):
    """A shard that a newer version of this package wrote: nothing is wrong with it."""


def arrow() -> Any:
    """The module pyarrow.

    Raises:
        ModuleNotFoundError: saying how to install it.
    """
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet  # noqa: F401
    except ModuleNotFoundError:
        raise ModuleNotFoundError('label stores need pyarrow: pip install "pyterrier-distill[labels]".') from None
    return pyarrow


def to_bytes(table: pa.Table) -> bytes:
    """The table as a parquet file, which unpacks to no more than :func:`bound` allows."""
    pa = arrow()
    settings: dict[str, Any] = {"compression": "zstd"}
    while True:
        sink = pa.BufferOutputStream()
        pa.parquet.write_table(table, sink, row_group_size=ROW_GROUP, write_page_checksum=True, **settings)
        content = sink.getvalue().to_pybytes()
        if table.nbytes <= bound(len(content)) or settings["compression"] == "none":
            return content
        settings = {"compression": "none", "use_dictionary": False}  # says the same again and again: keep it as it is


def bound(size: int) -> int:
    """Bytes that a file of ``size`` bytes may unpack to in memory."""
    return MOST_UNPACKED * size + ALWAYS_UNPACKED


def name_of(content: bytes, start: int) -> str:
    """The file name of a shard."""
    return f"{start:010d}-{digest_of(content)}.parquet"


def digest_of(content: bytes) -> str:
    """What a shard's name says of its bytes."""
    return hashlib.sha256(content).hexdigest()[:32]


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
        while is_list(kind):
            kind, depth = kind.value_type, depth + 1
        numbers = pa.types.is_floating(kind) or pa.types.is_integer(kind)
        outside = field.name.endswith(OUTSIDE) and pa.types.is_string(kind)
        prefs = kind == preference()
        if not 1 <= depth <= 2 or not (numbers or outside or prefs):
            raise DamagedShard(f"{where} is no shard of labels: its column {field.name!r} is {field.type}.")


def preference() -> Any:
    """The arrow type of P(document i ≻ document j)."""
    pa = arrow()
    return pa.struct([("i", pa.int32()), ("j", pa.int32()), ("p", pa.float32())])


def check_text_schema(schema: pa.Schema, where: str) -> None:
    """Refuse a table that is not a shard of texts.

    Raises:
        DamagedShard: naming the column that is missing, or not text.
    """
    for name in ("docno", "text"):
        if name not in schema.names or not _alike(schema.field(name).type, arrow().string()):
            raise DamagedShard(f"{where} is no shard of texts: its column {name!r} must be string.")


def check_note_schema(schema: pa.Schema, where: str) -> None:
    """Refuse a table that is not a shard of notes.

    Raises:
        DamagedShard: naming the column that is missing, or of another type.
    """
    pa = arrow()
    for name in dict.fromkeys(["qid", *schema.names]):
        kinds = (pa.string(),) if name == "qid" else (pa.string(), pa.list_(pa.string()))
        if name not in schema.names or not any(_alike(schema.field(name).type, kind) for kind in kinds):
            raise DamagedShard(f"{where} is no shard of notes: its column {name!r} must be {kinds[-1]}.")


def is_list(kind: Any) -> bool:
    """Whether an arrow type is a list of any sort."""
    types = arrow().types
    return types.is_list(kind) or types.is_fixed_size_list(kind) or types.is_large_list(kind)


def _alike(kind: Any, expected: Any) -> bool:
    if is_list(expected):
        return is_list(kind) and _alike(kind.value_type, expected.value_type)
    types = arrow().types
    return kind == expected or (types.is_string(expected) and types.is_large_string(kind))


def with_meta(table: pa.Table, meta: dict[str, Any]) -> pa.Table:
    """``table``, its footer to remember ``meta``."""
    return table.replace_schema_metadata({META: json.dumps(meta).encode()})


def meta_of(schema: pa.Schema, where: str = "a shard") -> dict[str, Any]:
    """What the footer remembers; fields that are not known stay in it.

    Raises:
        DamagedShard: if it cannot be read.
        NewerShard: if it says that a newer version wrote it.
    """
    try:
        told = json.loads((schema.metadata or {}).get(META, b"{}"))
    except ValueError as error:
        raise DamagedShard(f"the footer of {where} cannot be read ({error}): run verify() on the store.") from error
    if not isinstance(told, dict):
        raise DamagedShard(f"the footer of {where} is no JSON object: run verify() on the store.")
    version = told.get("version", VERSION)
    if not isinstance(version, int) or version > VERSION:
        raise NewerShard(
            f"{where} was written by a newer version of pyterrier-distill (its format is {version!r}, this one knows"
            f" {VERSION}): update the package."
        )
    return told


def usage_of(meta: dict[str, Any]) -> Usage:
    """What the labels of a shard have cost; kinds of cost that are not known are left out.

    Raises:
        DamagedShard: if that is no number.
    """
    told = meta.get("usage", {})
    known = {name: told[name] for name in Usage().as_dict() if name in told} if isinstance(told, dict) else {"": told}
    if not all(isinstance(value, (int, float)) for value in known.values()):
        raise DamagedShard(f"the footer of a shard says that its labels have cost {told!r}: run verify() on the store.")
    return Usage(**known)
