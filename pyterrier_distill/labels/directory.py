"""The layout of a store. Shards are written beside, then renamed in; what is not renamed in does not exist."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np

from ..stores import redaction
from ..stores.files import parse_object
from ..stores.storage import CLAIMS, check_writable, storage
from . import shards

if TYPE_CHECKING:
    import pyarrow as pa

META = "pt_meta.json"
MANIFEST = "manifest.json"
SHARDS = "shards"
TEXTS = "texts"
NOTES = "notes"
#: How many queries a build was asked for; for people alone.
PROGRESS = "progress.json"
DAMAGED = "damaged"


class ShardFile:
    """A parquet file whose errors say what to do, and which unpacks to no more than :func:`.shards.bound` allows.

    Args:
        source: path, bytes or open file.
        where: its name, for messages.
        size: its bytes.

    Attributes:
        schema_arrow: its columns.
        ends: int ``[groups]``: row at which each row group ends.

    Raises:
        DamagedShard: if it is no parquet file.
        OSError: if the system cannot read it, which says nothing about the file; so does MemoryError.
    """

    def __init__(self, source: Any, where: str, size: int):
        given = source
        self.where = where
        self.size = size
        pa = shards.arrow()
        if isinstance(source, (bytes, str)):
            opener = pa.BufferReader if isinstance(source, bytes) else pa.OSFile
            source = self._try(lambda: opener(given))
        # Strings are read as codes and unpacked by us: how much that would give is known only then.
        plain = self._try(lambda: pa.parquet.ParquetFile(source, page_checksum_verification=True))
        self._plain, self._metadata = plain, plain.metadata
        self.schema_arrow = plain.schema_arrow
        count = self._metadata.num_columns
        columns = [self._metadata.schema.column(n) for n in range(count)]
        texts = [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]
        self._file = plain
        if texts:
            self._file = self._try(
                lambda: pa.parquet.ParquetFile(
                    source, metadata=self._metadata, read_dictionary=texts, page_checksum_verification=True
                )
            )
        groups = range(self._metadata.num_row_groups)
        self.ends = np.cumsum([self._metadata.row_group(n).num_rows for n in groups], dtype=int)

    def read(self, columns: Sequence[str] | None = None, groups: Sequence[int] | None = None) -> pa.Table:
        """Its rows.

        Args:
            columns: only these; None = all.
            groups: only these row groups; None = all.

        Raises:
            DamagedShard: if they cannot be read, or unpack to more than they may.
            OSError: if the system cannot read it; so does MemoryError.
        """
        wanted = list(range(len(self.ends)) if groups is None else groups)
        self._check_size(sum(self._packed(group, columns) for group in wanted))
        # Group by group: lists of codes that would come in several pieces cannot be read at once.
        read = functools.partial(self._file.read_row_groups, columns=columns)
        tables = [self._try(functools.partial(read, part)) for part in _each(wanted)]
        chunks = (chunk for table in tables for column in table.columns for chunk in column.chunks)
        self._check_size(sum(map(_unpacked, chunks)))
        table = self._try(lambda: shards.arrow().concat_tables([_plain(table) for table in tables]))
        return table.replace_schema_metadata(self.schema_arrow.metadata)

    def _packed(self, group: int, columns: Sequence[str] | None) -> int:
        """Bytes that a row group takes while strings are codes: pages as they are, and each value's number."""
        told, total = self._metadata.row_group(group), 0
        for n in range(told.num_columns):
            chunk = told.column(n)
            path = chunk.path_in_schema
            if columns is None or any(path == name or path.startswith(f"{name}.") for name in columns):
                total += max(chunk.total_uncompressed_size, chunk.num_values * _WIDTHS.get(chunk.physical_type, 4))
        return total

    def _check_size(self, unpacked: int) -> None:
        if unpacked > shards.bound(self.size):
            raise shards.DamagedShard(
                f"{self.where} would unpack to {unpacked:,} bytes, and a file of {self.size:,} may to"
                f" {shards.bound(self.size):,}: run verify() on the store."
            )

    def _try(self, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except MemoryError as error:
            raise MemoryError(f"not enough memory to read {self.where} ({error}).") from error
        except OSError as error:
            if error.errno is not None:  # of the system; arrow's own, of the content, have none
                raise OSError(error.errno, os.strerror(error.errno), self.where) from error
            raise self._damaged(error) from error
        except NotImplementedError as error:
            raise shards.NewerShard(
                f"{self.where} holds what the installed pyarrow cannot read ({error}): update pyarrow."
            ) from error
        except (ValueError, shards.arrow().ArrowException) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> shards.DamagedShard:
        return shards.DamagedShard(f"{self.where} cannot be read ({error}): run verify() on the store.")


#: Bytes of a value, of those types that have another number of them than 4.
_WIDTHS = {"INT64": 8, "DOUBLE": 8, "INT96": 12, "BOOLEAN": 1}


def _unpacked(array: pa.Array) -> int:
    """Bytes of an array once its codes are strings."""
    pa = shards.arrow()
    if pa.types.is_dictionary(array.type):
        lengths = pa.compute.binary_length(array.dictionary).fill_null(0).to_numpy(zero_copy_only=False)
        counts = np.bincount(array.indices.drop_null().to_numpy(), minlength=len(lengths))
        return int(counts @ lengths.astype(np.int64)) + 4 * len(array)
    if shards.is_list(array.type):
        return _unpacked(array.flatten()) + 4 * len(array)
    return array.nbytes


def _plain(table: pa.Table) -> pa.Table:
    """A table whose codes are strings."""
    pa = shards.arrow()
    columns = []
    for column in table.columns:
        chunks = [_strings(chunk) for chunk in column.chunks]
        columns.append(pa.chunked_array(chunks) if chunks else pa.chunked_array([], _type(column.type)))
    return pa.table(columns, names=table.column_names)


def _strings(array: pa.Array) -> pa.Array:
    pa = shards.arrow()
    if pa.types.is_dictionary(array.type):
        return array.dictionary_decode()
    if shards.is_list(array.type) and _type(array.type) != array.type:
        inner = _strings(array.flatten())
        starts = pa.concat_arrays([pa.array([0], pa.int32()), _running(array)])
        return pa.ListArray.from_arrays(starts, inner, mask=array.is_null() if array.null_count else None)
    return array


def _running(array: pa.Array) -> pa.Array:
    """Where each list of an array ends, among what ``flatten`` gives."""
    pa = shards.arrow()
    return pa.compute.cumulative_sum(pa.compute.list_value_length(array).fill_null(0)).cast(pa.int32())


def _type(kind: Any) -> Any:
    """The type without codes; lists of codes become ordinary lists."""
    pa = shards.arrow()
    if pa.types.is_dictionary(kind):
        return kind.value_type
    if shards.is_list(kind) and (inner := _type(kind.value_type)) != kind.value_type:
        return pa.list_(inner)
    return kind


def _each(groups: list[int]) -> list[list[int]]:
    """Row groups one by one; a list of none where there are none, which gives the columns."""
    return [[group] for group in groups] or [[]]


class Directory:
    """Files of one store.

    Args:
        path: a directory or an fsspec address; nothing is made before something is written.
    """

    def __init__(self, path: str | os.PathLike):
        self.files = storage(path)

    def __str__(self) -> str:
        return str(self.files)

    def names(self, folder: str = SHARDS) -> list[str]:
        """The shards that are in, in the order of what they hold."""
        return sorted(name for name in self.files.names(folder) if shards.NAME.fullmatch(name))

    def create(self, meta: dict[str, Any], manifest: dict[str, Any]) -> None:
        """Write the two descriptions, if they are not there. The meta file says that this is a store: last.

        A manifest that says nothing, of a store that was made for its texts, is written over.
        """
        for name, content in ((MANIFEST, redaction.redacted(manifest)), (META, meta)):
            if not self.files.is_file(name) or (name == MANIFEST and content and not self.json(name)):
                self.files.write(name, json.dumps(content, indent=2, default=repr).encode())

    def note_asked(self, queries: int) -> None:
        """Keep how many queries a build was asked for, where that is more than was noted.

        Nothing reads it but people: where it cannot be written, labels will not be either, which says more.
        """
        if self.json(PROGRESS).get("queries", 0) < queries:
            with contextlib.suppress(OSError):
                self.files.write(PROGRESS, json.dumps({"queries": queries}).encode())

    def is_foreign(self) -> bool:
        """Whether something is here that is no store, not even one in the making."""
        ours = {MANIFEST, PROGRESS, SHARDS, TEXTS, NOTES, CLAIMS, DAMAGED}
        return not self.files.is_file(META) and any(n not in ours and n[:1] != "." for n in self.files.entries())

    def json(self, name: str) -> dict[str, Any]:
        """One of the descriptions; empty if it is not there.

        Raises:
            ValueError: naming the file, if it is no JSON object.
        """
        if not self.files.is_file(name):
            return {}
        advice = f" Restore it from a copy; the labels in {SHARDS}/ do not depend on it."
        return parse_object(self.files.read(name), self.files.where(name), advice)

    def write(self, table: pa.Table, start: int, folder: str = SHARDS) -> str:
        """Commit a shard.

        Args:
            table: its rows.
            start: position of the first of them among all.
            folder: of labels, texts or notes.

        Returns:
            Its name.

        Raises:
            OSError: if it cannot be written; nothing that was in before is touched.
        """
        content = shards.to_bytes(table)
        name = shards.name_of(content, start)
        try:
            self.files.write(f"{folder}/{name}", content)
        except OSError as error:
            raise OSError(
                error.errno,
                f"a shard of labels could not be written to {self} ({error.strerror or error}); what was committed"
                " before is intact: make room or allow writing, and build again to go on",
            ) from error
        return name

    def check_writable(self) -> None:
        """Check that there is room and leave to write, by a file of 64 KiB that goes again.

        Raises:
            OSError: if there is not.
        """
        check_writable(self.files, SHARDS)

    def open(self, name: str, folder: str = SHARDS) -> ShardFile:
        """A shard, its schema checked.

        Raises:
            DamagedShard: if it is damaged, or no shard of ours.
            NewerShard: if a newer version wrote it.
            OSError: if the system cannot read it; so does MemoryError.
        """
        path = f"{folder}/{name}"
        return self._checked(ShardFile(self.files.open(path), self.files.where(path), self.files.size(path)), folder)

    def parse(self, content: bytes, name: str, folder: str = SHARDS) -> ShardFile:
        """A shard whose bytes are at hand; as :meth:`open`."""
        return self._checked(ShardFile(content, self.files.where(f"{folder}/{name}"), len(content)), folder)

    def _checked(self, shard: ShardFile, folder: str) -> ShardFile:
        shards.meta_of(shard.schema_arrow, shard.where)  # a newer version's columns are not judged by this one's
        check = {SHARDS: shards.check_schema, NOTES: shards.check_note_schema}.get(folder, shards.check_text_schema)
        check(shard.schema_arrow, shard.where)
        return shard

    def bytes_of(self, name: str, folder: str = SHARDS) -> bytes:
        """A shard as it stands.

        Raises:
            OSError: if it cannot be read.
        """
        return self.files.read(f"{folder}/{name}")

    def set_aside(self, name: str, folder: str = SHARDS) -> None:
        """Move a shard to ``damaged/``, where nothing reads it."""
        self.files.move(f"{folder}/{name}", f"{DAMAGED}/{name}")

    def remove(self, name: str, folder: str = SHARDS) -> None:
        """Delete a shard."""
        self.files.remove(f"{folder}/{name}")

    def sweep(self) -> None:
        """Remove drafts of processes that are gone."""
        for folder in (SHARDS, TEXTS, NOTES):
            self.files.sweep(folder)

    def claimed(self, key: str, wait: bool = False) -> AbstractContextManager[bool]:
        """Hold the claim ``key``; see ``stores.storage.LocalFiles.claimed``."""
        return self.files.claimed(key, wait)
