"""Where a store's files lie: a directory here, or any file system that fsspec knows."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from . import drafts, redaction
from .files import check_path, naming

#: Which queries of a build a process has claimed; the lock goes with the process.
CLAIMS = "claims"


def is_remote(path: Any) -> bool:
    """Whether ``path`` is the address of a file system other than this machine's: ``s3://…``, ``hf://…``."""
    text = os.fspath(path) if isinstance(path, os.PathLike) else str(path)
    return "://" in text and not text.startswith("file://")


def local(path: str | os.PathLike) -> Path:
    """A directory of this machine, wherever the working directory is later."""
    return Path(str(path).removeprefix("file://") if isinstance(path, str) else path).expanduser().absolute()


def storage(path: str | os.PathLike) -> LocalFiles | RemoteFiles:
    """The files at ``path``, a directory or an address.

    Raises:
        ValueError: if it is empty.
    """
    check_path(path)
    if is_remote(path):
        return RemoteFiles(str(path))
    return LocalFiles(str(path).removeprefix("file://") if isinstance(path, str) else path)


def check_writable(files: LocalFiles | RemoteFiles, folder: str) -> None:
    """Check that there is room and leave to write into a folder, by a file of 64 KiB that goes again.

    Raises:
        OSError: if there is not.
    """
    probe = f"{folder}/.probe.{drafts.writer()}"
    try:
        files.write(probe, bytes(1 << 16))
        files.remove(probe)
    except OSError as error:
        raise OSError(
            error.errno,
            f"{files} cannot be written to ({error.strerror or error}), so nothing was asked; what was committed"
            " before is intact: make room or allow writing",
        ) from error


class LocalFiles:
    """Files of a directory. Names are relative, with ``/``."""

    def __init__(self, root: str | os.PathLike):
        self._given = Path(root).expanduser()
        self.root = local(root)

    def __str__(self) -> str:
        return str(self._given)

    def where(self, name: str) -> str:
        """The full name of a file, for messages."""
        return str(self._given / name)

    def entries(self) -> list[str]:
        """Names of what is in the directory; the directory's own where it is a file."""
        if self.root.is_file():
            return [self.root.name]
        return [entry.name for entry in self.root.iterdir()] if self.root.is_dir() else []

    def is_file(self, name: str) -> bool:
        """Whether there is such a file."""
        try:
            return stat.S_ISREG(os.stat(self.root / name).st_mode)
        except (FileNotFoundError, NotADirectoryError):  # any other error means that it may be there, unread
            return False

    def size(self, name: str) -> int:
        """Its bytes."""
        return os.stat(self.root / name).st_size

    def names(self, folder: str) -> list[str]:
        """The files of a folder, links left out; empty if there is none."""
        try:
            with os.scandir(self.root / folder) as entries:
                return [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
        except FileNotFoundError:
            return []

    def open(self, name: str) -> Any:
        """A file to read, as pyarrow takes it."""
        return str(self.root / name)

    def read(self, name: str) -> bytes:
        """All of a file."""
        return (self.root / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        """Write a file beside, sync it and rename it in.

        Raises:
            OSError: if it cannot be written; nothing is left behind.
        """
        target = self.root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.parent / f".{target.name}.{drafts.writer()}"
        try:
            with naming(target), open(part, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.rename(target)
        except OSError:
            part.unlink(missing_ok=True)
            raise
        _sync(target.parent)

    def move(self, name: str, target: str) -> None:
        """Rename a file."""
        (self.root / target).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).rename(self.root / target)

    def remove(self, name: str) -> None:
        """Delete a file."""
        (self.root / name).unlink(missing_ok=True)

    def clear(self, keep: str) -> None:
        """Delete everything but the file ``keep``, labels first and files last: stopped half-way, it is a store yet."""
        import shutil

        for entry in sorted(self.root.iterdir(), key=lambda entry: (entry.is_file(), entry.name)):
            if entry.name == keep:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def sweep(self, folder: str) -> None:
        """Remove drafts of this machine's processes that are gone."""
        for draft in (self.root / folder).glob(".*"):
            if drafts.gone(draft.suffix):
                with suppress(OSError):  # it is in nobody's way; what cannot be written says so itself
                    draft.unlink(missing_ok=True)

    def forget_claims(self) -> None:
        """Remove the locks of builds that are over."""
        for lock in (self.root / CLAIMS).glob("*.lock"):
            if lock.name != "commit.lock":
                lock.unlink(missing_ok=True)

    @contextmanager
    def claimed(self, key: str, wait: bool = False) -> Iterator[bool]:
        """Hold the claim ``key`` within the block; gives False where another process holds it.

        Args:
            key: what is claimed.
            wait: whether to wait until the other is done or gone.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self.root / CLAIMS / f"{key}.lock", timeout=-1 if wait else 0)
        try:
            (self.root / CLAIMS).mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            yield False
            return
        except OSError as error:
            raise OSError(
                error.errno,
                f"{self.root} cannot be written to ({error.strerror}); what was committed before is intact: make room"
                " or allow writing, and build again to go on",
            ) from error
        try:
            yield True
        finally:
            lock.release()


class RemoteFiles:
    """Files of an fsspec file system. It knows no locks: several machines build with ``shard=(k, n)``."""

    def __init__(self, url: str):
        import fsspec

        try:
            self.system, self.base = fsspec.core.url_to_fs(url.rstrip("/"))
        except ImportError as error:
            raise ModuleNotFoundError(
                f"{redaction.address(url)} needs a package that is not installed: {error}"
            ) from None
        self.url = url.rstrip("/")

    def __str__(self) -> str:
        return redaction.address(self.url)

    def _path(self, name: str) -> str:
        return f"{self.base}/{name}"

    def where(self, name: str) -> str:
        """The full name of a file, for messages."""
        return f"{redaction.address(self.url)}/{name}"

    def entries(self) -> list[str]:
        """Names of what is there."""
        self.system.invalidate_cache()
        found = self.system.ls(self.base, detail=False) if self.system.exists(self.base) else []
        return [name.rstrip("/").rsplit("/", 1)[-1] for name in found]

    def is_file(self, name: str) -> bool:
        """Whether there is such a file."""
        try:  # not isfile(), for which whatever cannot be asked is no file
            return self.system.info(self._path(name))["type"] == "file"
        except FileNotFoundError:
            return False

    def size(self, name: str) -> int:
        """Its bytes."""
        return int(self.system.size(self._path(name)))

    def names(self, folder: str) -> list[str]:
        """The files of a folder; empty if there is none."""
        self.system.invalidate_cache()
        try:
            entries = self.system.ls(self._path(folder), detail=True)
        except FileNotFoundError:
            return []
        return [entry["name"].rsplit("/", 1)[-1] for entry in entries if entry["type"] == "file"]

    def open(self, name: str) -> Any:
        """A file to read, as pyarrow takes it."""
        return self.system.open(self._path(name), "rb")

    def read(self, name: str) -> bytes:
        """All of a file."""
        return self.system.cat_file(self._path(name))

    def write(self, name: str, content: bytes) -> None:
        """Write a file beside and move it in.

        Raises:
            OSError: if it cannot be written.
        """
        target = self._path(name)
        folder, _, last = target.rpartition("/")
        self.system.makedirs(folder, exist_ok=True)
        part = f"{folder}/.{last}.part"
        self.system.pipe_file(part, content)
        self.system.mv(part, target)

    def move(self, name: str, target: str) -> None:
        """Rename a file."""
        self.system.makedirs(self._path(target).rpartition("/")[0], exist_ok=True)
        self.system.mv(self._path(name), self._path(target))

    def remove(self, name: str) -> None:
        """Delete a file."""
        self.system.rm_file(self._path(name))

    def clear(self, keep: str) -> None:
        """Delete everything but the file ``keep``, folders first."""
        self.system.invalidate_cache()
        entries = self.system.ls(self.base, detail=True) if self.system.exists(self.base) else []
        for entry in sorted(entries, key=lambda entry: entry["type"] == "file"):
            if entry["name"].rstrip("/").rsplit("/", 1)[-1] != keep:
                self.system.rm(entry["name"], recursive=entry["type"] != "file")

    def sweep(self, folder: str) -> None:
        """Nothing: whose drafts they are is not known; the next build of the same batch writes over them."""

    def forget_claims(self) -> None:
        """There are none."""

    @contextmanager
    def claimed(self, key: str, wait: bool = False) -> Iterator[bool]:
        """Always given."""
        yield True


def _sync(folder: Path) -> None:
    """The rename itself must survive a power cut."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
