"""The layout of a store. Shards are written beside, then renamed in; what is not renamed in does not exist."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import redaction
from . import shards
from .storage import CLAIMS, storage

if TYPE_CHECKING:
    import pyarrow as pa

META = "pt_meta.json"
MANIFEST = "manifest.json"
SHARDS = "shards"
TEXTS = "texts"
DAMAGED = "damaged"


class ShardFile:
    """A parquet file whose errors say what to do.

    Args:
        source: path or open file.
        where: its name, for messages.

    Attributes:
        schema_arrow: its columns.
        ends: int ``[groups]``: row at which each row group ends.
    """

    def __init__(self, source: Any, where: str):
        self.where = where
        pa = shards.arrow()
        self._file = self._try(lambda: pa.parquet.ParquetFile(source, page_checksum_verification=True))
        self.schema_arrow = self._file.schema_arrow
        metadata = self._file.metadata
        self.ends = np.cumsum([metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)], dtype=int)

    def read(self, columns: Sequence[str] | None = None, groups: Sequence[int] | None = None) -> pa.Table:
        """Its rows.

        Args:
            columns: only these; None = all.
            groups: only these row groups; None = all.

        Raises:
            DamagedShard: if they cannot be read.
        """
        wanted = range(len(self.ends)) if groups is None else groups
        table = self._try(lambda: self._file.read_row_groups(list(wanted), columns=columns))
        return table.replace_schema_metadata(self.schema_arrow.metadata)

    def _try(self, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except (OSError, ValueError, shards.arrow().ArrowException) as error:
            raise shards.DamagedShard(f"{self.where} cannot be read ({error}): run verify() on the store.") from error


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

    def is_foreign(self) -> bool:
        """Whether something is here that is no store, not even one in the making."""
        ours = {MANIFEST, SHARDS, TEXTS, CLAIMS}
        return not self.files.is_file(META) and any(n not in ours and n[:1] != "." for n in self.files.entries())

    def json(self, name: str) -> dict[str, Any]:
        """One of the descriptions; empty if it is not there."""
        return json.loads(self.files.read(name)) if self.files.is_file(name) else {}

    def write(self, table: pa.Table, start: int, folder: str = SHARDS) -> str:
        """Commit a shard.

        Args:
            table: its rows.
            start: position of the first of them among all.
            folder: of labels or of texts.

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

    def open(self, name: str, folder: str = SHARDS) -> ShardFile:
        """A shard, its schema checked.

        Raises:
            DamagedShard: if it cannot be read, or is no shard of ours.
        """
        shard = ShardFile(self.files.open(f"{folder}/{name}"), self.files.where(f"{folder}/{name}"))
        (shards.check_schema if folder == SHARDS else shards.check_text_schema)(shard.schema_arrow, shard.where)
        return shard

    def intact(self, name: str, folder: str = SHARDS) -> bool:
        """Whether a shard's bytes are those that were written."""
        digest = hashlib.sha256(self.files.read(f"{folder}/{name}")).hexdigest()
        return name == f"{name[:10]}-{digest[:32]}.parquet"

    def set_aside(self, name: str, folder: str = SHARDS) -> None:
        """Move a shard to ``damaged/``, where nothing reads it."""
        self.files.move(f"{folder}/{name}", f"{DAMAGED}/{name}")

    def remove(self, name: str, folder: str = SHARDS) -> None:
        """Delete a shard."""
        self.files.remove(f"{folder}/{name}")

    def sweep(self) -> None:
        """Remove drafts of processes that are gone."""
        for folder in (SHARDS, TEXTS):
            self.files.sweep(folder)

    def claimed(self, key: str, wait: bool = False) -> AbstractContextManager[bool]:
        """Hold the claim ``key``; see :meth:`..storage.LocalFiles.claimed`."""
        return self.files.claimed(key, wait)
