"""Stored rankings and labels of other projects, read into frames with our columns.

Every reader gives ``docno`` and ``qid``, or, where a format names neither, ``query`` and ``text`` to recognise them by;
and the labels it holds: ``teacher_rank``, ``teacher_score``, ``teacher_logits``, ``teacher_prefs``.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..frames import TEACHER_LOGITS, TEACHER_PREFS, TEACHER_RANK, TEACHER_SCORE
from .files import DOCUMENT_TEXTS, as_number, fields, lines, parse_object, plain_identifier

#: A number that is no id: with a point, or so small or large that Python writes an exponent.
_FRACTION = re.compile(r"[-+]?(\d+\.\d*|\d+(\.\d+)?e[-+]\d+)", re.IGNORECASE)


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
    if not path.is_file():
        raise FileNotFoundError(f"no file of labels at {path}.")
    if format is None:
        format = _sniff(path)
    elif format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, not {format!r}.")
    frame = FORMATS[format](path)
    if len(frame) == 0:
        raise ValueError(f"{path} holds no labels.")
    key = ["qid", "docno"] if "docno" in frame.columns else ["query", "text"]
    twice = frame.duplicated(key)
    if twice.any():
        pair = tuple(str(cell)[:40] for cell in frame.loc[twice, key].iloc[0])
        raise ValueError(f"{path} labels {pair} more than once ({int(twice.sum())} such).")
    return frame


def _sniff(path: Path) -> str:
    first = next((line for _, line in lines(path)), "")
    if _is_colbert(first):
        return "colbert"
    if first.lstrip().startswith(("[", "{")):
        entry = next(_entries(path), (1, {}))[1]
        for name, keys in {
            "rank_llm": ("query", "candidates"), "rankgpt": ("query", "hits"), "flag": ("query", "pos"),
            "inranker-jsonl": ("query", "true_logit"),
        }.items():  # fmt: skip
            if isinstance(entry, dict) and all(key in entry for key in keys):
                return name
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
    raise ValueError(
        f"cannot tell the format of {path} from its first line {first[:80]!r}: say format= one of {', '.join(FORMATS)}."
    )


def _number(text: str) -> bool:
    try:
        return bool(np.isfinite(as_number(text)))
    except ValueError:
        return False


def _table(path: Path, names: list[str], numeric: set[str]) -> pd.DataFrame:
    """Columns separated by white space."""
    rows = []
    for number, row in fields(path, names):
        for name, field in zip(names, row, strict=True):
            if name in numeric and not _number(field):
                raise ValueError(f"{path}, line {number}: {name} must be a number, not {field!r}.")
        rows.append([as_number(field) if name in numeric else field for name, field in zip(names, row, strict=True)])
    return pd.DataFrame(rows, columns=names)


def _entries(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Objects of JSON Lines, with their lines, or of one JSON list, with their places from 1."""
    found = lines(path)
    number, first = next(found, (0, ""))
    if first.lstrip().startswith("["):
        listed = parse_object('{"": ' + "\n".join([first, *(line for _, line in found)]) + "}", str(path))[""]
        for number, entry in enumerate(listed, 1):
            if not isinstance(entry, dict):
                raise ValueError(f"{path}, entry {number}: expected a JSON object, found {str(entry)[:60]!r}.")
            yield number, entry
        return
    if first:
        yield number, _object(first, path, number)
    for number, line in found:
        yield number, _object(line, path, number)


def _object(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        return parse_object(line, "it")
    except ValueError as error:
        raise ValueError(f"{path}, entry {number}: no JSON object: {error}") from error


def _wrong(path: Path, number: int, error: Exception) -> ValueError:
    must = ", which this format must have" if isinstance(error, KeyError) else ""
    return ValueError(f"{path}, entry {number}: {type(error).__name__} {error}{must}.")


def _finite(value: Any) -> float:
    number = as_number(value)
    if not np.isfinite(number):
        raise ValueError(f"{value!r} is not a finite number")
    return number


def trec(path: Path) -> pd.DataFrame:
    """A TREC run: ``qid Q0 docno rank score tag``. Gives ``run_rank`` and ``run_score`` as they stand."""
    names = ["qid", "q0", "docno", "run_rank", "run_score", "tag"]
    return _table(path, names, {"run_rank", "run_score"})[["qid", "docno", "run_rank", "run_score"]]


def _logits(frame: pd.DataFrame) -> pd.DataFrame:
    """``teacher_logits`` [false, true] from the columns ``true`` and ``false``."""
    pairs = frame[["false", "true"]].to_numpy(dtype=np.float32)
    return frame.drop(columns=["false", "true"]).assign(**{TEACHER_LOGITS: list(pairs)})


def inranker(path: Path) -> pd.DataFrame:
    """InRanker's MS MARCO labels: ``true_logit false_logit qid docno``."""
    return _logits(_table(path, ["true", "false", "qid", "docno"], {"true", "false"}))


def pairdistill(path: Path) -> pd.DataFrame:
    """PairDistill's pointwise labels: ``qid docno true_logit false_logit``, or ``qid docno score 0.0``.

    Its ``pointwise_rerank.py`` writes two logits of a monoT5, and of a cross-encoder with one output (the MiniLM of the
    paper) that output and 0.0. Its converters train on the raw output of the latter, so it is the ``teacher_score``: a
    log-probability of it would saturate where it tells documents apart.

    Raises:
        ValueError: if some queries have the one kind of rows and some the other.
    """
    table = _table(path, ["qid", "docno", "true", "false"], {"true", "false"})
    single = table["false"] == 0.0
    if len(table) and single.all():
        return table[["qid", "docno"]].assign(**{TEACHER_SCORE: table["true"]})
    of_query = single.groupby(table["qid"], sort=False).agg(["all", "size"])
    strange = of_query[of_query["all"] & (of_query["size"] > 1)]
    if len(strange):
        raise ValueError(
            f"{path} holds two kinds of labels: of query {strange.index[0]!r} the output of a cross-encoder and 0.0"
            f" ({len(strange)} such queries), of others two logits. Their scales differ: split the file."
        )
    return _logits(table)


def pairdistill_pairs(path: Path) -> pd.DataFrame:
    """PairDistill's pairwise labels: ``qid docno0 docno1 true_logit false_logit``; true = document 0 is better."""
    table = _table(path, ["qid", "a", "b", "true", "false"], {"true", "false"})
    if table.duplicated(["qid", "a", "b"]).any():
        raise ValueError(f"{path} labels a pair of documents more than once.")
    p = 1 / (1 + np.exp(table["false"] - table["true"]))
    prefs: dict[tuple[str, str], dict[str, float]] = {}
    for qid, a, b, value in zip(table["qid"], table["a"], table["b"], p, strict=True):
        prefs.setdefault((qid, a), {})[b] = float(value)
        prefs.setdefault((qid, b), {})
    rows = [(qid, docno, cell) for (qid, docno), cell in prefs.items()]
    return pd.DataFrame(rows, columns=["qid", "docno", TEACHER_PREFS])


def colbert(path: Path) -> pd.DataFrame:
    """ColBERT's training data, a JSON list a line: ``[qid, [docno, score], ...]``.

    PairDistill's has ``[docno, score, [[j, log p], ...]]``: p is P(this document ≻ the j-th of the line, from 0). A
    query may stand in several lines, with other documents and pairs.
    """
    scores: dict[tuple[str, str], float] = {}
    prefs: dict[tuple[str, str], dict[str, float]] = {}
    for number, line in lines(path):
        try:
            qid, *documents = json.loads(line)
            names = [str(docno) for docno, *_ in documents]
            for docno, (_, score, *pairs) in zip(names, documents, strict=True):
                if scores.setdefault((str(qid), docno), as_number(score)) != as_number(score):
                    raise ValueError(f"another score of document {docno!r} than before")
                told = prefs.setdefault((str(qid), docno), {})
                for j, logarithm in pairs[0] if pairs else ():
                    if not 0 <= j < len(names):
                        raise ValueError(f"a pair with document {j} of {len(names)}")
                    told[names[j]] = float(np.exp(logarithm))
        except (json.JSONDecodeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}, line {number}: expected [qid, [docno, score], ...], with [[j, log p], ...] behind a score or"
                f" not, found {line[:60]!r} ({error})."
            ) from error
    frame = pd.DataFrame(scores.keys(), columns=["qid", "docno"]).assign(**{TEACHER_SCORE: list(scores.values())})
    return frame.assign(**{TEACHER_PREFS: list(prefs.values())}) if any(prefs.values()) else frame


def _is_colbert(line: str) -> bool:
    try:
        entry = json.loads(line) if line.lstrip().startswith("[") else None
    except json.JSONDecodeError:
        return False
    return (
        isinstance(entry, list) and len(entry) > 1 and isinstance(entry[0], (int, str)) and isinstance(entry[1], list)
    )


def inranker_jsonl(path: Path) -> pd.DataFrame:
    """InRanker's BEIR labels: ``{"query", "contents", "true_logit", "false_logit"}``."""
    rows = []
    for number, entry in _entries(path):
        try:
            logits = _finite(entry["true_logit"]), _finite(entry["false_logit"])
            rows.append((entry["query"], entry["contents"], *logits))
        except (KeyError, TypeError, ValueError) as error:
            raise _wrong(path, number, error) from error
    return _logits(pd.DataFrame(rows, columns=["query", "text", "true", "false"]))


def rank_llm(path: Path) -> pd.DataFrame:
    """rank_llm's results, JSON (Lines), best first: ``{"query": {"text", "qid"}, "candidates": [{"docid"}]}``."""
    rows = []
    for number, entry in _entries(path):
        try:
            qid, query = plain_identifier(entry["query"]["qid"], path, number, "qid"), entry["query"].get("text")
            for rank, candidate in enumerate(entry["candidates"]):
                docno = plain_identifier(candidate["docid"], path, number, "docid")
                rows.append((qid, query, docno, _text(candidate.get("doc")), rank))
        except (KeyError, TypeError, AttributeError) as error:
            raise _wrong(path, number, error) from error
    return _known(pd.DataFrame(rows, columns=["qid", "query", "docno", "text", TEACHER_RANK]))


def rankgpt(path: Path) -> pd.DataFrame:
    """RankGPT's results, JSON or JSON Lines: ``{"query", "hits": [{"qid", "docid", "content"}]}``, best first."""
    rows = []
    for number, entry in _entries(path):
        try:
            for rank, hit in enumerate(entry["hits"]):
                qid, docno = (plain_identifier(hit[key], path, number, key) for key in ("qid", "docid"))
                rows.append((qid, entry["query"], docno, _text(hit), rank))
        except (KeyError, TypeError, AttributeError) as error:
            raise _wrong(path, number, error) from error
    return _known(pd.DataFrame(rows, columns=["qid", "query", "docno", "text", TEACHER_RANK]))


def flag(path: Path) -> pd.DataFrame:
    """FlagEmbedding's training data: ``{"query", "pos", "neg", "pos_scores", "neg_scores"}``, texts without ids."""
    rows = []
    for number, entry in _entries(path):
        try:
            texts = [*entry["pos"], *entry["neg"]]
            scores = [*entry["pos_scores"], *entry["neg_scores"]]
            labels = [1] * len(entry["pos"]) + [0] * len(entry["neg"])
            if len(texts) != len(scores):
                raise ValueError(f"{len(texts)} texts but {len(scores)} scores")
            rows += [(entry["query"], t, _finite(s), n) for t, s, n in zip(texts, scores, labels, strict=True)]
        except (KeyError, TypeError, ValueError) as error:
            raise _wrong(path, number, error) from error
    frame = pd.DataFrame(rows, columns=["query", "text", TEACHER_SCORE, "label"])
    return frame.drop_duplicates(["query", "text"], ignore_index=True)


def _text(document: Any) -> str | None:
    if isinstance(document, str) or not isinstance(document, dict):
        return document if isinstance(document, str) else None
    return next((document[name] for name in DOCUMENT_TEXTS if isinstance(document.get(name), str)), None)


def _known(frame: pd.DataFrame) -> pd.DataFrame:
    """Without the columns of text that the file does not hold throughout."""
    return frame.drop(columns=[c for c in ("query", "text") if frame[c].isna().any()])


#: Name → reader.
FORMATS: dict[str, Callable[[Path], pd.DataFrame]] = {
    "trec": trec,
    "rank_llm": rank_llm,
    "rankgpt": rankgpt,
    "flag": flag,
    "inranker": inranker,
    "inranker-jsonl": inranker_jsonl,
    "pairdistill": pairdistill,
    "pairdistill-pairs": pairdistill_pairs,
    "colbert": colbert,
}
