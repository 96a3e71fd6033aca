"""Files of text and JSON: one way to read their lines, one way to write them whole, and errors that name the file.

A line ends with LF or CR LF. A lone CR is an error, for some programs end a line there and others do not. Files are
UTF-8, with or without a byte order mark, gzipped or not (recognised by their first bytes, not by their name).
"""

from __future__ import annotations

import errno
import gzip
import io
import json
import math
import os
import re
import stat
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

#: How many times its size a gzipped file may unpack to, and how many bytes whatever its size.
MOST_UNPACKED, ALWAYS_UNPACKED = 200, 1 << 26
_PACKED_WRONG = (gzip.BadGzipFile, EOFError, zlib.error)
_OF_DISKS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}

#: First line of a table, letters and digits alone: what names a column of query ids, of document ids, of text.
QUERY_IDS = frozenset({"qid", "id", "queryid", "query", "qno", "number", "num", "topic", "topicid", "topicnumber"})
QUERY_TEXTS = frozenset({"query", "text", "querytext", "querystring", "rawquery", "title", "question", "topic",
                         "topictext", "utterance", "contents", "content"})  # fmt: skip
#: Fields by which files name the text of a document, the customary one first.
DOCUMENT_TEXTS = ("text", "contents", "content", "segment", "body", "passage")


#: In the directory of an index, a digest of the documents that it was built from.
DOCUMENTS = "documents.sha256"


def check_path(path: str | os.PathLike, what: str = "the path") -> str:
    """``path`` as text.

    Raises:
        ValueError: if it is empty: that would be the working directory.
    """
    text = os.fspath(path)
    if not text or not str(text).strip():
        raise ValueError(f"{what} is empty, which would mean the working directory: name it, as '.' if it is meant.")
    return text


# -- reading ----------------------------------------------------------------------------------------------------------


def lines(path: str | os.PathLike) -> Iterator[tuple[int, str]]:
    """The lines of a file that are not blank, with their numbers from 1, without their ends.

    Args:
        path: UTF-8, gzipped or not.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the line, if it is no UTF-8 or holds a lone CR; if the file is a damaged gzip file, or one
            that unpacks to more than :data:`MOST_UNPACKED` times its size (and :data:`ALWAYS_UNPACKED` bytes).
    """
    with _opened(path) as (file, left):
        number = 0
        while True:
            try:
                line = file.readline() if left is None else file.readline(left + 1)
            except _PACKED_WRONG as error:
                raise _damaged(path, error, f"line {number + 1}") from error
            if not line:
                return
            number += 1
            if left is not None:
                left = _less(path, left, len(line))
            text = _text(path, number, line)
            if text.strip():
                yield number, text


def pieces(path: str | os.PathLike, size: int) -> Iterator[bytes]:
    """The bytes of a file, unpacked, in pieces of ``size``; errors of packed files as of :func:`lines`."""
    with _opened(path) as (file, left):
        read = 0
        while True:
            try:
                piece = file.read(size if left is None else min(size, left + 1))
            except _PACKED_WRONG as error:
                raise _damaged(path, error, f"byte {read + 1}") from error
            if not piece:
                return
            read += len(piece)
            if left is not None:
                left = _less(path, left, len(piece))
            yield piece


@contextmanager
def _opened(path: str | os.PathLike) -> Iterator[tuple[IO[bytes], int | None]]:
    """A file, unpacked, and how many bytes it may unpack to; None = it is not packed."""
    with open(path, "rb") as raw:
        start = raw.read(4)
        raw.seek(0)
        if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise ValueError(f"{path} is UTF-16: save it as UTF-8.")
        if start[:2] != b"\x1f\x8b":
            yield raw, None
            return
        yield gzip.open(raw), os.fstat(raw.fileno()).st_size * MOST_UNPACKED + ALWAYS_UNPACKED  # type: ignore[misc]


def _damaged(path: str | os.PathLike, error: Exception, place: str) -> ValueError:
    return ValueError(f"{path} is a damaged gzip file ({error}), from {place} on.")


def _less(path: str | os.PathLike, left: int, size: int) -> int:
    """Bytes that a file may unpack to yet, ``size`` read."""
    if left < size:
        raise ValueError(
            f"{path} unpacks to more than {MOST_UNPACKED} times its size, which text does not: unpack it first, if it"
            " is what you want."
        )
    return left - size


def _text(path: str | os.PathLike, number: int, line: bytes) -> str:
    """One line, decoded, without its end."""
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, line {number}: no UTF-8 text ({error.reason} at its byte {error.start}).") from error
    text = text.removesuffix("\n").removesuffix("\r")
    if "\r" in text:
        raise ValueError(
            f"{path}, line {number}: a carriage return (CR) stands in the middle of it, which some programs take for"
            " the end of a line: replace it by a space or by a line feed."
        )
    return text


def json_lines(path: str | os.PathLike) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSON Lines file, with their lines' numbers.

    Raises:
        ValueError: naming the line that is no JSON object, or holds half a character (a lone surrogate).
    """
    for number, line in lines(path):
        yield number, parse_object(line, f"line {number} of {path}")


def parse_object(content: str | bytes, where: str, advice: str = "") -> dict[str, Any]:
    """A JSON object.

    Args:
        content: its text.
        where: what holds it, for the message.
        advice: what to do about it, for the message.

    Raises:
        ValueError: if it is no JSON, another value than an object, or holds a lone surrogate.
    """
    try:
        found = json.loads(content)
        if b"\\ud" in content.lower() if isinstance(content, bytes) else "\\ud" in content.lower():
            json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{where} holds half a character (a lone surrogate, \\ud800 to \\udfff).{advice}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON: {error or 'nested too deeply'}.{advice}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{where} is not a JSON object, but {_short(found)}.{advice}")
    return found


def read_object(path: str | os.PathLike, advice: str = " Restore it from a copy.") -> dict[str, Any]:
    """The JSON object that a file holds.

    Raises:
        OSError: if it cannot be read.
        ValueError: naming the file, if it holds something else.
    """
    return parse_object(Path(path).read_bytes(), str(path), advice)


def fields(
    path: str | os.PathLike, names: Sequence[str], separator: str | None = None
) -> Iterator[tuple[int, list[str]]]:
    """The lines of a table, with their numbers.

    Args:
        path: the file.
        names: of its columns, for the message.
        separator: None = white space.

    Raises:
        ValueError: naming the line that has more or fewer fields.
    """
    for number, line in lines(path):
        row = line.split(separator)
        if len(row) != len(names):
            expected = " ".join(names) if separator is None else {"\t": " TAB "}.get(separator, separator).join(names)
            raise ValueError(
                f"{path}, line {number}: expected {expected}, found {len(row)} fields"
                f"{'' if separator is None else ' (a tab too many or too few?)'}: {line[:80]!r}."
            )
        yield number, row


def plain_name(field: str) -> str:
    """A heading by its letters and digits: ``query-id`` is ``queryid``."""
    return re.sub(r"[\W_]", "", field.lower())


def identifier(value: Any, path: str | os.PathLike, number: int, what: str) -> str:
    """An id as text.

    Raises:
        ValueError: naming the line, if it is neither text nor a whole number, or empty.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
        raise ValueError(f"{path}, line {number}: the {what} must be text or a whole number, not {_short(value)}.")
    return str(value)


def plain_identifier(value: Any, path: str | os.PathLike, number: int, what: str) -> str:
    """As :func:`identifier`, for files that others wrote: an id with white space at its ends would match no other.

    Raises:
        ValueError: naming the line.
    """
    name = identifier(value, path, number, what)
    if name != name.strip():
        raise ValueError(f"{path}, line {number}: the {what} has white space at its ends, {_short(name)}: remove it.")
    return name


def as_number(value: Any) -> float:
    """A number, or the text of one; Python alone reads underscores in it, so here they are refused.

    Raises:
        ValueError: if it is none.
    """
    if isinstance(value, str) and "_" in value:
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def finite(value: Any) -> float:
    """As :func:`as_number`, but for NaN and infinity.

    Raises:
        ValueError: if it is none.
    """
    number = as_number(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not a finite number")
    return number


def once(rows: Iterable[tuple[int, Any, Any]], path: str | os.PathLike, what: str) -> Iterator[tuple[Any, Any]]:
    """Keys with their values, each once; lines that say the same twice count once.

    Args:
        rows: (line, key, value).
        path: of the file they come from.
        what: a key is, for the message.

    Raises:
        ValueError: naming both lines, if one key has two values.
    """
    seen: dict[Any, tuple[int, Any]] = {}
    for number, key, value in rows:
        first, known = seen.setdefault(key, (number, value))
        if first == number:
            yield key, value
        elif known != value:
            raise ValueError(
                f"{path}, line {number}: {what} {key!r} stands in line {first} already, as {_short(known)}, and here as"
                f" {_short(value)}."
            )


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


# -- writing ----------------------------------------------------------------------------------------------------------


@contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """Errors of a disk (full, over its quota, failing) within the block name ``path`` where they name no file."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in _OF_DISKS and error.strerror == os.strerror(error.errno):
            raise OSError(error.errno, os.strerror(error.errno), os.fspath(path)) from error
        raise


@contextmanager
def written(path: str | os.PathLike) -> Iterator[IO[str]]:
    """A text file that is at ``path``, whole, when the block has ended without an error; else nothing changes there.

    Args:
        path: UTF-8; gzipped if it ends in ``.gz``.

    Raises:
        OSError: naming the path, if it cannot be written.
    """
    target = os.path.realpath(check_path(path, "the file's name"))
    special = os.path.exists(target) and not stat.S_ISREG(os.stat(target).st_mode)  # /dev/stdout, a pipe, ...
    if special and os.path.isdir(target):
        raise IsADirectoryError(errno.EISDIR, "is a directory: name a file", os.fspath(path))
    with naming(path):
        if special:
            draft = target
        else:
            folder, name = os.path.split(target)
            draft = os.path.join(folder, f".{name}-{os.getpid()}-{os.urandom(4).hex()}")
        try:
            packed = str(path).endswith(".gz")
            opened = gzip.open(draft, "wb") if packed else open(draft, "wb")
            with opened as raw, io.TextIOWrapper(raw, encoding="utf-8", newline="\n") as out:  # type: ignore[arg-type]
                yield out
            if not special:
                if os.path.exists(target):
                    os.chmod(draft, os.stat(target).st_mode & 0o777)
                os.replace(draft, target)
        except BaseException:
            if not special:
                Path(draft).unlink(missing_ok=True)
            raise

