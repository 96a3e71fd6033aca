"""Stored rankings and labels of other projects, read into frames with our columns, whole or block by block.

:func:`read_labels` gives ``docno`` and ``qid``, or, where a format names neither, ``query`` and ``text`` to recognise
them by; and the labels it holds: ``teacher_rank``, ``teacher_score``, ``teacher_logits``, ``teacher_prefs``. The
readers themselves give blocks (:mod:`.rows`).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from ..frames import LABEL, TEACHER_SCORE
from . import entry_formats, rows
from .entries import beginning, entries
from .files import as_number, fields, finite, lines

#: A number that is no id: with a point, or so small or large that Python writes an exponent.
_FRACTION = re.compile(r"[-+]?(\d+\.\d*|\d+(\.\d+)?e[-+]\d+)", re.IGNORECASE)

#: A logarithm of a probability that is above 0 by no more than this was rounded.
_ROUNDED = 1e-6

#: How a JSON list of objects begins.
_LIST = re.compile(rb"\s*\[\s*[{\]]")

Reader = Callable[[Path], Iterator[pd.DataFrame]]


def read_labels(path: str | os.PathLike, format: str | None = None) -> pd.DataFrame:
    """Read a file of labels.

    Args:
        path: the file, gzipped or not.
        format: one of :data:`FORMATS`; None = recognised by what the file looks like.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the format is unknown, or a line is not of it, with its number.
    """
    path = Path(path).expanduser()
    format = format_of(path, format, FORMATS)
    blocks = list(FORMATS[format](path))
    if not blocks:
        raise ValueError(f"{path} holds no labels.")
    word = place(format)

    def where(row: pd.Series) -> str:
        return f"{path}, {word} {row['line']}"

    pairs = [block for block in blocks if "other" in block.columns]
    documents = [block for block in blocks if "other" not in block.columns]
    frame: pd.DataFrame | None = None
    if documents:
        frame = pd.concat(documents, ignore_index=True)
        if "first" in frame.columns:
            frame = rows.decided(frame, rows.is_single(frame), path)
        frame = _known(frame)
        key = ["qid", "docno"] if "docno" in frame.columns else ["query", "text"]
        told, frame = frame, rows.once(frame, key, where)
        rows.check_orders(told, key, where)
        frame = rows.with_logits(frame.drop(columns="line").reset_index(drop=True))
    if pairs:
        compared = rows.once(pd.concat(pairs, ignore_index=True), ["qid", "docno", "other"], where)
        frame = rows.with_preferences(frame, compared)
    assert frame is not None
    return frame


def format_of(path: Path, format: str | None, formats: Mapping[str, Reader]) -> str:
    """The name of a file's format, one of ``formats``.

    Args:
        path: the file.
        format: its name as given; None = recognised by what the file looks like.
        formats: those that may be.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is none of them.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file of labels at {path}.")
    if format is not None and format not in formats:
        raise ValueError(f"format must be one of {', '.join(formats)}, not {format!r}.")
    found = _sniff(path, formats) if format is None else format
    if found not in formats:
        raise ValueError(f"{path} looks like a file of format {found!r}: say format= one of {', '.join(formats)}.")
    return found


def place(format: str) -> str:
    """What a number of :attr:`line` counts in files of a format: its lines, or entries."""
    return "line" if format in TABLES else "entry"


def _known(frame: pd.DataFrame) -> pd.DataFrame:
    """Without the columns that the file does not hold throughout, and without ids that are of no use then."""
    told = ("qid", "query", "docno", "text", LABEL)
    frame = frame.drop(columns=[c for c in told if c in frame.columns and frame[c].isna().any()])
    return frame if {"qid", "docno"} <= set(frame.columns) else frame.drop(columns=["qid", "docno"], errors="ignore")


def _sniff(path: Path, formats: Mapping[str, Reader]) -> str:
    start = beginning(path)
    listed = start.startswith(b"PAR1") or _LIST.match(start.removeprefix(b"\xef\xbb\xbf"))
    first = "" if listed else next((line for _, line in lines(path)), "")  # a list may be one line of gigabytes
    if _is_colbert(first):
        return "colbert"
    if listed or first.lstrip().startswith(("[", "{")):
        entry = next(entries(path), (1, {}))[1]
        for name, keys in {
            "rank_llm": ("query", "candidates"), "rankgpt": ("query", "hits"), "flag": ("query", "pos"),
            "inranker-jsonl": ("query", "true_logit"), "rankgpt-train": ("query", "retrieved_passages"),
            "tevatron": ("query", "positive_passages"), "dpr": ("question", "positive_ctxs"),
        }.items():  # fmt: skip
            if name in formats and all(key in entry for key in keys):
                return name
        found = ", ".join(map(str, entry)) or "nothing"
        raise ValueError(
            f"cannot tell the format of {path} from its first entry, which holds {found}: say format= one of"
            f" {', '.join(formats)}."
        )
    fields = first.split()
    if len(fields) == 6 and _number(fields[3]) and _number(fields[4]):
        return "trec"
    if len(fields) == 5 and _number(fields[3]) and _number(fields[4]):
        if fields[1].upper() == "Q0":
            raise ValueError(
                f"{path} looks like a TREC run without its sixth column, the run's tag (first line {first[:80]!r}):"
                " add one to each line. If it holds pairs of documents, say format='pairdistill-pairs'."
            )
        return "pairdistill-pairs"
    if len(fields) == 4:
        fraction = [bool(_FRACTION.fullmatch(field)) for field in fields]
        if fraction == [True, True, False, False]:
            return "inranker"
        if fraction == [False, False, True, True]:
            return "pairdistill"
    if "triples" in formats and first.count("\t") == 2:
        return "triples"
    raise ValueError(
        f"cannot tell the format of {path} from its first line {first[:80]!r}: say format= one of {', '.join(formats)}."
    )


def _number(text: str) -> bool:
    try:
        return bool(np.isfinite(as_number(text)))
    except ValueError:
        return False


def _table(path: Path, names: list[str], numeric: set[str]) -> Iterator[pd.DataFrame]:
    """Columns separated by white space, with their lines."""
    rows_of = ((number, *row) for number, row in fields(path, names))
    for block in rows.in_blocks(rows_of, ["line", *names]):
        for name in names:
            if name in numeric:
                block[name] = _numbers(path, name, block)
        yield block


def _numbers(path: Path, name: str, block: pd.DataFrame) -> np.ndarray:
    """A column of a table as finite numbers.

    Raises:
        ValueError: naming the first line that has none.
    """
    told = block[name].tolist()
    try:
        values = np.array(told, dtype=float)
        if np.isfinite(values).all() and "_" not in "".join(told):  # which Python alone reads in a number
            return values
    except ValueError:
        pass
    line, field = next((n, t) for n, t in zip(block["line"], told, strict=True) if not _number(t))
    raise ValueError(f"{path}, line {line}: {name} must be a number, not {field!r}.")


def trec(path: Path) -> Iterator[pd.DataFrame]:
    """A TREC run: ``qid Q0 docno rank score tag``. Gives ``run_rank`` and ``run_score`` as they stand."""
    names = ["qid", "q0", "docno", "run_rank", "run_score", "tag"]
    for block in _table(path, names, {"run_rank", "run_score"}):
        yield block.drop(columns=["q0", "tag"])


def whole_run(path: Path) -> pd.DataFrame:
    """A TREC run in one frame: ``qid``, ``docno``, ``run_rank``, ``run_score``."""
    names = ["qid", "docno", "run_rank", "run_score"]
    parts = list(trec(path))
    return pd.concat(parts, ignore_index=True)[names] if parts else pd.DataFrame(columns=names)


def inranker(path: Path) -> Iterator[pd.DataFrame]:
    """InRanker's MS MARCO labels: ``true_logit false_logit qid docno``."""
    return _table(path, ["true", "false", "qid", "docno"], {"true", "false"})


def pairdistill(path: Path) -> Iterator[pd.DataFrame]:
    """PairDistill's pointwise labels: ``qid docno true_logit false_logit``, or ``qid docno score 0.0``.

    Its ``pointwise_rerank.py`` writes two logits of a monoT5, and of a cross-encoder with one output (the MiniLM of the
    paper) that output and 0.0. Its converters train on the raw output of the latter, so it is the ``teacher_score``: a
    log-probability of it would saturate where it tells documents apart. Which of them a file has is known at its end
    (:func:`.rows.decided`).
    """
    return _table(path, ["qid", "docno", "first", "second"], {"first", "second"})


def pairdistill_pairs(path: Path) -> Iterator[pd.DataFrame]:
    """PairDistill's pairwise labels: ``qid docno0 docno1 true_logit false_logit``; true = document 0 is better.

    Raises:
        ValueError: naming the line that compares a document with itself.
    """
    for block in _table(path, ["qid", "docno", "other", "true", "false"], {"true", "false"}):
        itself = block["docno"].to_numpy() == block["other"].to_numpy()
        if itself.any():
            line, docno = block.loc[itself, ["line", "docno"]].iloc[0]
            raise ValueError(f"{path}, line {line}: document {docno!r} is compared with itself.")
        yield block.assign(p=_sigmoid(block["true"] - block["false"])).drop(columns=["true", "false"])


def _sigmoid(values: pd.Series) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -values.to_numpy()))


def triples(path: Path) -> Iterator[pd.DataFrame]:
    """MS MARCO's training triples: ``query TAB relevant passage TAB other passage``, texts without ids."""
    told = (
        (number, row[0], text, label)
        for number, row in fields(path, ["query", "positive", "negative"], "\t")
        for text, label in ((row[1], 1), (row[2], 0))
    )
    return rows.in_blocks(told, ["line", "query", "text", LABEL])


def colbert(path: Path) -> Iterator[pd.DataFrame]:
    """ColBERT's training data, a JSON list a line: ``[qid, [docno, score], ...]``.

    PairDistill's has ``[docno, score, [[j, log p], ...]]``: p is P(this document ≻ the j-th of the line, from 0). A
    query may stand in several lines, with other documents and pairs.
    """

    def line_by_line() -> Iterator[tuple[list[tuple], list[tuple]]]:
        for number, line in lines(path):
            try:
                qid, *listed = json.loads(line)
                names = [str(docno) for docno, *_ in listed]
                documents, pairs = [], []
                for docno, (_, score, *told) in zip(names, listed, strict=True):
                    documents.append((number, str(qid), docno, finite(score)))
                    for j, logarithm in told[0] if told else ():
                        if not 0 <= j < len(names):
                            raise ValueError(f"a pair with document {j} of {len(names)}")
                        if not (as_number(logarithm) <= _ROUNDED):
                            raise ValueError(f"{logarithm!r} is not the logarithm of a probability")
                        p = min(1.0, float(np.exp(as_number(logarithm))))
                        pairs.append((number, str(qid), docno, names[j], p))
            except (json.JSONDecodeError, TypeError, ValueError) as error:
                raise ValueError(
                    f"{path}, line {number}: expected [qid, [docno, score], ...], with [[j, log p], ...] behind a score"
                    f" or not, found {line[:60]!r} ({error})."
                ) from error
            yield documents, pairs

    return _two_kinds(line_by_line())


def _two_kinds(told: Iterator[tuple[list[tuple], list[tuple]]]) -> Iterator[pd.DataFrame]:
    """Blocks of documents, and blocks of pairs."""
    documents: list[tuple] = []
    pairs: list[tuple] = []
    for some, others in told:
        documents += some
        pairs += others
        if len(documents) >= rows.BLOCK or len(pairs) >= rows.BLOCK:
            yield from _both(documents, pairs)
            documents, pairs = [], []
    yield from _both(documents, pairs)


def _both(documents: list[tuple], pairs: list[tuple]) -> Iterator[pd.DataFrame]:
    yield from rows.in_blocks(documents, ["line", "qid", "docno", TEACHER_SCORE])
    yield from rows.in_blocks(pairs, ["line", "qid", "docno", "other", "p"])


def _is_colbert(line: str) -> bool:
    try:
        entry = json.loads(line) if line.lstrip().startswith("[") else None
    except json.JSONDecodeError:
        return False
    return (
        isinstance(entry, list) and len(entry) > 1 and isinstance(entry[0], (int, str)) and isinstance(entry[1], list)
    )


#: Formats that are tables; others are entries.
TABLES = frozenset({"trec", "inranker", "pairdistill", "pairdistill-pairs", "colbert", "triples"})
#: Name → reader of labels of teachers.
FORMATS: dict[str, Reader] = {
    "trec": trec,
    "rank_llm": entry_formats.rank_llm,
    "rankgpt": entry_formats.rankgpt,
    "flag": entry_formats.flag,
    "inranker": inranker,
    "inranker-jsonl": entry_formats.inranker_jsonl,
    "pairdistill": pairdistill,
    "pairdistill-pairs": pairdistill_pairs,
    "colbert": colbert,
    "twolar": entry_formats.twolar,
}
#: Name → reader of training files, which a store takes in.
TRAINING: dict[str, Reader] = {
    **{name: reader for name, reader in FORMATS.items() if name != "trec"},
    "rankgpt-train": entry_formats.rankgpt_training,
    "tevatron": entry_formats.tevatron,
    "dpr": entry_formats.dpr,
    "dpr-all": entry_formats.dpr_all,
    "triples": triples,
}
