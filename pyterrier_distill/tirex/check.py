"""Whether a run and its metadata are what TIREx measures: stricter than ``tira.check_format``, and without it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np

from ..stores.files import fields
from . import metadata

#: What TIRA takes: bytes of a run, packed or not, lines and queries of it.
MOST_BYTES, FEWEST_LINES, FEWEST_QUERIES = 75 << 20, 5, 3
_COLUMNS = ("qid", "Q0", "docno", "rank", "score", "tag")


def check_output(directory: str | os.PathLike, qids: Collection[str] | None = None) -> None:
    """Check the run and the metadata in a directory.

    Args:
        directory: with ``run.txt.gz`` or ``run.txt``, and ``ir-metadata.yml``.
        qids: the queries of the collection; None = not known.

    Raises:
        FileNotFoundError: if one of them is missing.
        ValueError: naming file and line of the first thing that is wrong.
    """
    runs = [path for name in ("run.txt", "run.txt.gz") if (path := Path(directory) / name).is_file()]
    if len(runs) != 1:
        found = "both run.txt and run.txt.gz" if runs else "neither run.txt nor run.txt.gz"
        raise (ValueError if runs else FileNotFoundError)(f"{directory} holds {found}: one of them is the run.")
    check_run(runs[0], qids)
    about = Path(directory) / metadata.NAME
    if not about.is_file():
        raise FileNotFoundError(f"{directory} holds no {metadata.NAME}.")
    if lacking := metadata.missing(metadata.read(about)):
        raise ValueError(f"{about} lacks {', '.join(lacking)}, which TIRA requires.")


def check_run(path: str | os.PathLike, qids: Collection[str] | None = None) -> None:
    """Check a run: six columns, ranks from 1 without gaps, finite scores that fall, each document once a query.

    Args:
        path: ``run.txt`` or ``run.txt.gz``.
        qids: the queries of the collection; None = not known.

    Raises:
        ValueError: naming file and line of the first thing that is wrong.
    """
    path = Path(path)
    count = 0
    last: dict[str, tuple[float, float]] = {}
    seen: set[tuple[str, str]] = set()
    for number, row in fields(path, list(_COLUMNS), None):
        where = f"{path}, line {number}"
        if number != count + 1:
            raise ValueError(f"{path}, line {count + 1}: it is blank.")
        qid, docno = row[0], row[2]
        rank, score = _number(row[3], int, where, "rank"), _number(row[4], float, where, "score")
        if qids is not None and qid not in qids:
            raise ValueError(f"{where}: there is no query {qid!r} in the collection.")
        if (qid, docno) in seen:
            raise ValueError(f"{where}: document {docno!r} stands twice in the ranking of query {qid!r}.")
        if not np.isfinite(score):
            raise ValueError(f"{where}: the score {row[4]} is no finite number.")
        before, above = last.get(qid, (0, np.inf))
        if rank != before + 1:
            raise ValueError(f"{where}: rank {rank} of query {qid!r} must be {before + 1}: ranks count from 1.")
        if not np.float32(score) < np.float32(above):
            raise ValueError(
                f"{where}: the score {row[4]} is not below the one before, as 32-bit floats: trec_eval would not see"
                " the order of the ranks."
            )
        last[qid] = rank, score
        seen.add((qid, docno))
        count += 1
    check_size((qid for qid, _ in seen), path)
    if (size := path.stat().st_size) > MOST_BYTES:
        raise ValueError(f"{path} has {size / (1 << 20):.0f} MiB; TIRA takes runs of {MOST_BYTES >> 20} MiB.")


def check_size(qids: Iterable[str], what: object) -> None:
    """Check that a run is as long as TIRA wants it.

    Args:
        qids: the query of each line.
        what: the run, for the message.

    Raises:
        ValueError: if it is not.
    """
    lines = Counter(qids)
    if lines.total() < FEWEST_LINES or len(lines) < FEWEST_QUERIES:
        raise ValueError(
            f"{what} has {lines.total()} lines of {len(lines)} queries; TIRA takes runs of at least {FEWEST_LINES}"
            f" lines and {FEWEST_QUERIES} queries."
        )


def _number(text: str, kind: type, where: str, what: str) -> float:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{where}: the {what} {text!r} is no number.") from None


def check_by_tira(directory: str | os.PathLike) -> bool:
    """Let ``tira.check_format`` check, too, where tira is installed.

    Returns:
        Whether it did.

    Raises:
        ValueError: with what it says, if something is wrong.
    """
    try:
        from tira.check_format import _fmt, check_format
    except ModuleNotFoundError:
        return False
    for name in ("run.txt", "run-with-metadata"):
        state, told = check_format(Path(directory), name)
        if state != _fmt.OK:
            raise ValueError(f"tira finds {directory} to be no {name}: {' '.join(str(told).split())}")
    return True
