"""Formats of other projects whose files are entries, mostly one a query: readers that give blocks (:mod:`.rows`)."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Any

import pandas as pd

from ..frames import LABEL, TEACHER_RANK, TEACHER_SCORE
from .entries import entries, list_entries
from .files import DOCUMENT_TEXTS, finite, identifier, plain_identifier
from .rows import in_blocks

logger = logging.getLogger(__name__)

Blocks = Iterator[pd.DataFrame]
Path = str | os.PathLike
#: Fields by which files name the id of a query and of a passage.
QUERY_IDS = ("query_id", "qid", "q_id", "question_id", "id", "_id")
PASSAGE_IDS = ("docid", "doc_id", "passage_id", "psg_id", "pid", "id", "_id", "docno")


def _wrong(path: Path, number: int, error: Exception) -> ValueError:
    must = ", which this format must have" if isinstance(error, KeyError) else ""
    return ValueError(f"{path}, entry {number}: {type(error).__name__} {error}{must}.")


def _told(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"the {what} must be text, not {str(value)[:60]!r}")
    return value


def _text(document: Any) -> str | None:
    if isinstance(document, str) or not isinstance(document, dict):
        return document if isinstance(document, str) else None
    return next((document[name] for name in DOCUMENT_TEXTS if isinstance(document.get(name), str)), None)


def _id(entry: dict[str, Any], names: tuple[str, ...], path: Path, number: int) -> str | None:
    """The id that an entry has; None where it has none."""
    for name in names:
        if entry.get(name) not in (None, ""):
            return identifier(entry[name], path, number, name)
    return None


def _passage(given: Any, path: Path, number: int) -> tuple[str | None, str | None]:
    """Id and text of a passage; its title stands before its text, as Tevatron puts it.

    Raises:
        ValueError: if it has neither.
    """
    if isinstance(given, str):
        return None, given
    if not isinstance(given, dict):
        raise TypeError(f"a passage must be an object, not {str(given)[:60]!r}")
    docno, text, title = _id(given, PASSAGE_IDS, path, number), _text(given), given.get("title")
    if docno is None and text is None:
        raise ValueError(f"a passage has neither an id nor a text, but {', '.join(map(str, given)) or 'nothing'}")
    return docno, f"{title} {text}" if text is not None and isinstance(title, str) and title.strip() else text


def _listed(value: Any, what: str) -> list:
    """A list of an entry; null is an empty one."""
    if value is not None and not isinstance(value, list):
        raise TypeError(f"{what} must be a list, not {str(value)[:60]!r}")
    return value or []


def _counted(path: Path, of_entries: Iterable[list[tuple]]) -> Iterator[tuple]:
    """The rows of entries, one behind the other; entries without any are counted in a warning."""
    empty = 0
    for some in of_entries:
        empty += not some
        yield from some
    if empty:
        logger.warning("%s: %d entries hold no documents, and their queries are left out.", path, empty)


# -- labels of teachers -----------------------------------------------------------------------------------------------


def inranker_jsonl(path: Path) -> Blocks:
    """InRanker's BEIR labels: ``{"query", "contents", "true_logit", "false_logit"}``."""

    def rows() -> Iterator[tuple]:
        for number, entry in entries(path):
            try:
                logits = finite(entry["true_logit"]), finite(entry["false_logit"])
                yield number, _told(entry["query"], "query"), _told(entry["contents"], "contents"), *logits
            except (KeyError, TypeError, ValueError) as error:
                raise _wrong(path, number, error) from error

    return in_blocks(rows(), ["line", "query", "text", "true", "false"])


def rank_llm(path: Path) -> Blocks:
    """rank_llm's results, JSON (Lines), best first: ``{"query": {"text", "qid"}, "candidates": [{"docid"}]}``."""

    def rows() -> Iterator[list[tuple]]:
        for number, entry in entries(path):
            try:
                told = number, plain_identifier(entry["query"]["qid"], path, number, "qid"), entry["query"].get("text")
                candidates = [
                    (plain_identifier(one["docid"], path, number, "docid"), _text(one.get("doc")))
                    for one in _listed(entry["candidates"], "candidates")
                ]
            except (KeyError, TypeError, AttributeError) as error:
                raise _wrong(path, number, error) from error
            yield [(*told, *candidate, rank) for rank, candidate in enumerate(candidates)]

    return in_blocks(_counted(path, rows()), ["line", "qid", "query", "docno", "text", TEACHER_RANK])


def rankgpt(path: Path) -> Blocks:
    """RankGPT's results, JSON or JSON Lines: ``{"query", "hits": [{"qid", "docid", "content"}]}``, best first."""

    def rows() -> Iterator[list[tuple]]:
        for number, entry in entries(path):
            try:
                hits = []
                for rank, hit in enumerate(_listed(entry["hits"], "hits")):
                    qid, docno = (plain_identifier(hit[key], path, number, key) for key in ("qid", "docid"))
                    hits.append((number, qid, entry["query"], docno, _text(hit), rank))
            except (KeyError, TypeError, AttributeError) as error:
                raise _wrong(path, number, error) from error
            yield hits

    return in_blocks(_counted(path, rows()), ["line", "qid", "query", "docno", "text", TEACHER_RANK])


def flag(path: Path) -> Blocks:
    """FlagEmbedding's training data: ``{"query", "pos", "neg", "pos_scores", "neg_scores"}``, texts without ids."""

    def rows() -> Iterator[list[tuple]]:
        for number, entry in entries(path):
            try:
                told = []
                for label, name in ((1, "pos"), (0, "neg")):
                    texts, scores = (_listed(entry[key], key) for key in (name, f"{name}_scores"))
                    if len(texts) != len(scores):
                        raise ValueError(f"{name} has {len(texts)} texts but {len(scores)} scores")
                    told += [
                        (number, entry["query"], text, finite(score), label)
                        for text, score in zip(texts, scores, strict=True)
                    ]
            except (KeyError, TypeError, ValueError) as error:
                raise _wrong(path, number, error) from error
            yield told

    return in_blocks(_counted(path, rows()), ["line", "query", "text", TEACHER_SCORE, LABEL])


def rankgpt_training(path: Path, permutations: Path | None = None) -> Blocks:
    """RankGPT's training data (10k, 100k): ``{"query", "retrieved_passages": [...], "positive_passages": [...]}``.

    What ChatGPT said is a second file, a JSON list: its n-th text, ``"[2] > [1] > ..."``, orders the passages of the
    n-th line. Numbers count once, those of no passage not at all, and passages that it leaves out follow in the order
    of the first stage, as in ``specialization.py`` of Sun et al. (2023). Lines whose answer names no passage are left
    out, and counted in a warning. ``label`` is 1 for passages among the positive ones, of which those that were not
    retrieved have no rank and are left out.

    Raises:
        ValueError: if the two do not belong together.
    """
    if permutations is None:
        raise ValueError(
            f"{path} holds passages in the order of a first stage: pass permutations=, the file of the teacher's"
            " orders; or format='twolar' if they stand in the teacher's."
        )

    def rows() -> Iterator[tuple]:
        silent = short = 0
        for of_line, of_list in zip_longest(entries(path), list_entries(permutations)):
            if of_line is None or of_list is None:
                longer, number = (permutations, of_list[0]) if of_line is None else (path, of_line[0])
                raise ValueError(f"{longer}, entry {number}: {path} and {permutations} must have as many entries.")
            number, answer = of_line[0], of_list[1]
            if not isinstance(answer, str):
                raise ValueError(f"{permutations}, entry {of_list[0]}: expected a text, found {str(answer)[:60]!r}.")
            passages = _retrieved(of_line[1], path, number)
            named = dict.fromkeys(int(digits) - 1 for digits in re.findall(r"\d{1,9}", answer))
            order = [place for place in named if 0 <= place < len(passages)]
            silent += not order
            short += 0 < len(order) < len(passages)
            if order:
                order += [place for place in range(len(passages)) if place not in named]
                yield from ((*passages[place][0], rank, passages[place][1]) for rank, place in enumerate(order))
        if silent or short:
            logger.warning(
                "%s: %d answers name no passage, and their queries are left out; %d name some: the others follow in the"
                " order of the first stage.", permutations, silent, short,
            )  # fmt: skip

    return in_blocks(rows(), ["line", "qid", "query", "docno", "text", TEACHER_RANK, LABEL])


def twolar(path: Path) -> Blocks:
    """TWOLAR's training data: ``{"query_id", "query", "retrieved_passages": [{"docid", "text"}]}``, best first.

    Its ``train.py`` reads the order of the list, which is ChatGPT's, and no other field (Baldelli et al. 2024).
    """

    def rows() -> Iterator[list[tuple]]:
        for number, entry in entries(path):
            yield [(*row, rank, label) for rank, (row, label) in enumerate(_retrieved(entry, path, number))]

    return in_blocks(_counted(path, rows()), ["line", "qid", "query", "docno", "text", TEACHER_RANK, LABEL])


def _retrieved(entry: dict[str, Any], path: Path, number: int) -> list[tuple[tuple, int | None]]:
    """The row of each retrieved passage but for its rank, and its label.

    A passage is a positive one by its id, or by its text where one of the two has no id.
    """
    try:
        qid, query = _id(entry, QUERY_IDS[:4], path, number), _told(entry["query"], "query")
        known = entry.get("positive_passages")
        positive = [_passage(one, path, number) for one in _listed(known, "positive_passages")]
        ids = {docno for docno, _ in positive if docno is not None}
        texts, alone = {text for _, text in positive}, {text for docno, text in positive if docno is None}
        rows = []
        for one in _listed(entry["retrieved_passages"], "retrieved_passages"):
            docno, text = _passage(one, path, number)
            relevant = text in texts if docno is None else docno in ids or (text is not None and text in alone)
            rows.append(((number, qid, query, docno, text), None if known is None else int(relevant)))
        return rows
    except (KeyError, TypeError, ValueError) as error:
        raise _wrong(path, number, error) from error


# -- judgements -------------------------------------------------------------------------------------------------------


def tevatron(path: Path) -> Blocks:
    """Tevatron's and RLHN's training data: ``{"query_id", "query", "positive_passages", "negative_passages"}``.

    Passages are ``{"docid", "title", "text"}``. RLHN's ``subset`` names the collection that the query is of.
    """

    def rows() -> Iterator[list[tuple]]:
        for number, entry in entries(path):
            try:
                told = number, _id(entry, QUERY_IDS, path, number), _told(entry["query"], "query"), entry.get("subset")
                passages = [
                    (*told, *_passage(one, path, number), label)
                    for label, name in ((1, "positive_passages"), (0, "negative_passages"))
                    for one in _listed(entry[name], name)
                ]
            except (KeyError, TypeError, ValueError) as error:
                raise _wrong(path, number, error) from error
            yield passages

    return in_blocks(_counted(path, rows()), ["line", "qid", "query", "subset", "docno", "text", LABEL])


def dpr(path: Path, negatives: tuple[str, ...] = ("hard_negative_ctxs",)) -> Blocks:
    """DPR's and AR2's training data: ``{"question", "answers", "positive_ctxs", "hard_negative_ctxs"}``.

    ``negative_ctxs``, mostly passages of other questions, is left out; ``dpr-all`` has it, too.
    """

    def rows() -> Iterator[list[tuple]]:
        for number, entry in entries(path):
            try:
                answers = entry.get("answers")
                if answers is not None and not (isinstance(answers, list) and all(isinstance(a, str) for a in answers)):
                    raise TypeError(f"answers must be a list of texts, not {str(answers)[:60]!r}")
                told = number, _id(entry, QUERY_IDS, path, number), _told(entry["question"], "question"), answers
                listed = [(1, "positive_ctxs", entry["positive_ctxs"])]
                listed += [(0, name, entry.get(name)) for name in negatives]
                passages = [
                    (*told, *_passage(one, path, number), label)
                    for label, name, given in listed
                    for one in _listed(given, name)
                ]
            except (KeyError, TypeError, ValueError) as error:
                raise _wrong(path, number, error) from error
            yield passages

    return in_blocks(_counted(path, rows()), ["line", "qid", "query", "answers", "docno", "text", LABEL])


def dpr_all(path: Path) -> Blocks:
    """As :func:`dpr`, with ``negative_ctxs`` behind the hard ones."""
    return dpr(path, ("hard_negative_ctxs", "negative_ctxs"))
