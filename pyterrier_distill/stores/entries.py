"""Entries of files that may be larger than memory: JSON Lines, one JSON list, or parquet, gzipped or not."""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Iterator
from typing import Any

from .files import lines, parse_object, pieces

#: Characters read at once, and the most that one entry of a list may have.
BLOCK, LONGEST = 1 << 20, 1 << 28
#: Characters behind a place at which JSON may seem wrong, or a number whole, only because the window ends.
_CUT = 16


def entries(path: str | os.PathLike) -> Iterator[tuple[int, dict[str, Any]]]:
    """Objects of JSON Lines, with their lines, or of one JSON list or of a parquet file, with their places from 1.

    One entry is in memory at a time (of parquet, those of one batch).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming file and entry, if it is no object.
        ModuleNotFoundError: for parquet without pyarrow.
    """
    start = beginning(path)
    if start.startswith(b"PAR1"):
        yield from _parquet(path)
    elif start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        for number, entry in list_entries(path):
            if not isinstance(entry, dict):
                raise ValueError(f"{path}, entry {number}: expected a JSON object, found {str(entry)[:60]!r}.")
            yield number, entry
    else:
        for number, line in lines(path):
            try:
                entry = parse_object(line, "it")
            except ValueError as error:
                raise ValueError(f"{path}, entry {number}: no JSON object: {error}") from error
            yield number, entry


def beginning(path: str | os.PathLike, size: int = 1 << 12) -> bytes:
    """The first bytes of a file, unpacked."""
    return next(pieces(path, size), b"")


def list_entries(path: str | os.PathLike) -> Iterator[tuple[int, Any]]:
    """The entries of a file that is one JSON list, with their places from 1; never more than a few in memory.

    Raises:
        ValueError: naming file, entry and line, where it is no JSON.
    """
    text = _Text(path)
    text.skip()
    if text.sign() != "[":
        raise text.wrong("a list must begin with [")
    text.skip(1)
    while text.sign() != "]":
        entry = text.value()
        text.skip()
        yield text.number, entry
        if text.sign() == ",":
            text.skip(1)
            if text.sign() == "]":
                raise text.wrong("a comma before the end of the list")
        elif text.sign() != "]":
            raise text.wrong(f"expected , or ], found {text.sign()!r}" if text.sign() else "the list does not end")
    text.skip(1)
    if text.sign():
        raise text.wrong("something stands behind the end of the list")


class _Text:
    """A window on the text of a file, and where in it is read.

    Args:
        path: the file.

    Attributes:
        number: of the last entry, from 1.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = path
        self.number = 0
        self._decoder = json.JSONDecoder()
        self._more = _texts(path)
        self._window = next(self._more, "")
        self._at = 0
        self._line = 1  # of the window's beginning
        self._ended = False

    def sign(self) -> str:
        """The sign that comes next; empty at the end."""
        return self._window[self._at : self._at + 1]

    def skip(self, signs: int = 0) -> None:
        """Go on by so many signs, and by the white space behind them."""
        self._at += signs
        while True:
            while self._at < len(self._window) and self._window[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._window) or self._ended:
                return
            self._read(1)

    def value(self) -> Any:
        """The JSON value that comes next.

        Raises:
            ValueError: if there is none.
        """
        self.number += 1
        while True:
            try:
                found, end = self._decoder.raw_decode(self._window, self._at)
                if len(self._window) - end >= _CUT or self._ended:  # else a number may go on
                    break
            except RecursionError:
                raise self.wrong("nested too deeply") from None
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or len(self._window) - error.pos < _CUT
                if self._ended or not cut:
                    raise self.wrong(error.msg, error.pos) from error
            if len(self._window) - self._at > LONGEST:
                raise self.wrong(f"it has more than {LONGEST:,} characters")
            self._read(len(self._window) - self._at)  # as much again: however long it is, it is parsed few times
        if self._window.find("\\u", self._at, end) >= 0:
            try:
                json.dumps(found, ensure_ascii=False).encode()
            except UnicodeEncodeError:
                raise self.wrong("half a character (a lone surrogate, \\ud800 to \\udfff)") from None
        self._at = end
        return found

    def _read(self, size: int) -> None:
        """At least ``size`` more characters, where there are as many; what was read before goes."""
        self._line += self._window.count("\n", 0, self._at)
        parts = [self._window[self._at :]]
        self._at, told = 0, 0
        while told < size and not self._ended:
            block = next(self._more, None)
            self._ended = block is None
            parts.append(block or "")
            told += len(parts[-1])
        self._window = "".join(parts)

    def wrong(self, what: str, at: int | None = None) -> ValueError:
        """The error to raise.

        Args:
            what: is wrong.
            at: where in the window; None = where it is read.
        """
        line = self._line + self._window.count("\n", 0, self._at if at is None else at)
        return ValueError(f"{self.path}, entry {max(self.number, 1)} (line {line}): no JSON: {what}.")


def _texts(path: str | os.PathLike) -> Iterator[str]:
    """A file's text, piece by piece."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    read = 0
    try:
        for piece in pieces(path, BLOCK):
            yield decoder.decode(piece)
            read += len(piece)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: no UTF-8 text ({error.reason} near its byte {read}, unpacked).") from error


def _parquet(path: str | os.PathLike) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f'{path} is parquet: pip install "pyterrier-distill[labels]".') from None
    number = 0
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                for entry in batch.to_pylist():
                    number += 1
                    yield number, entry
    except (ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as parquet, from entry {number + 1} on ({error}).") from error
