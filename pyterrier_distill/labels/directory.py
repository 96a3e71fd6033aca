"""The directory of a store. Shards are written beside, synced, renamed in; what is not renamed in does not exist."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints import write_json
from . import shards

if TYPE_CHECKING:
    import pyarrow as pa

META = "pt_meta.json"
MANIFEST = "manifest.json"
SHARDS = "shards"
DAMAGED = "damaged"
#: Which queries of a build a process has claimed; the lock goes with the process.
CLAIMS = "claims"


class Directory:
    """Files of one store.

    Args:
        path: where; nothing is made before something is written.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)

    def names(self) -> list[str]:
        """The shards that are in, in the order of the queries they were built from."""
        folder = self.path / SHARDS
        if not folder.is_dir():
            return []
        return sorted(
            entry.name
            for entry in os.scandir(folder)
            if shards.NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
        )

    def create(self, meta: dict[str, Any], manifest: dict[str, Any]) -> None:
        """Make the directory and its two descriptions, if they are not there."""
        (self.path / SHARDS).mkdir(parents=True, exist_ok=True)
        for name, content in ((MANIFEST, manifest), (META, meta)):  # the meta file says that this is a store: last
            if not (self.path / name).exists():
                part = self.path / f".{name}.{os.getpid()}"
                write_json(part, content)
                part.rename(self.path / name)

    def manifest(self) -> dict[str, Any]:
        """What made the labels; empty before anything was built."""
        path = self.path / MANIFEST
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def write(self, table: pa.Table, start: int) -> str:
        """Commit a shard.

        Args:
            table: rows of queries.
            start: position of the first of them in the build.

        Returns:
            Its name.

        Raises:
            OSError: if it cannot be written; nothing that was in before is touched.
        """
        content = shards.to_bytes(table)
        name = shards.name_of(content, start)
        part = self.path / SHARDS / f".{name}.{os.getpid()}"
        try:
            with open(part, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.rename(self.path / SHARDS / name)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise OSError(
                error.errno,
                f"a shard of labels could not be written to {self.path} ({error.strerror}); what was committed before"
                " is intact: make room or allow writing, and build again to go on",
            ) from error
        _sync(self.path / SHARDS)
        return name

    def open(self, name: str) -> Any:
        """A shard as a ``pyarrow.parquet.ParquetFile``, its schema checked.

        Raises:
            DamagedShard: if it cannot be read, or is no shard of ours.
        """
        pa = shards.arrow()
        path = self.path / SHARDS / name
        try:
            file = pa.parquet.ParquetFile(path)
        except (OSError, pa.ArrowException) as error:
            raise shards.DamagedShard(f"{path} cannot be read ({error}): run verify() on the store.") from error
        shards.check_schema(file.schema_arrow, str(path))
        return file

    def intact(self, name: str) -> bool:
        """Whether a shard's bytes are those that were written."""
        digest = hashlib.sha256()
        with open(self.path / SHARDS / name, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return name == f"{name[:10]}-{digest.hexdigest()[:32]}.parquet"

    def set_aside(self, name: str) -> Path:
        """Move a shard to ``damaged/``, where nothing reads it."""
        (self.path / DAMAGED).mkdir(exist_ok=True)
        target = self.path / DAMAGED / name
        (self.path / SHARDS / name).rename(target)
        return target

    def sweep(self) -> None:
        """Remove drafts of processes that are gone."""
        for draft in (self.path / SHARDS).glob(".*.parquet.*"):
            process = draft.suffix[1:]
            if process.isdigit() and not _alive(int(process)):
                draft.unlink(missing_ok=True)

    @contextmanager
    def claimed(self, key: str, wait: bool = False) -> Iterator[bool]:
        """Hold the claim ``key`` within the block; gives False where another process holds it.

        Args:
            key: what is claimed.
            wait: whether to wait until the other is done or gone.
        """
        from filelock import FileLock, Timeout

        (self.path / CLAIMS).mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / CLAIMS / f"{key}.lock", timeout=-1 if wait else 0)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _sync(folder: Path) -> None:
    """The rename itself must survive a power cut."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
