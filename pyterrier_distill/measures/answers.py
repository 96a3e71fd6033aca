"""Whether a passage holds an answer, as DPR decides it, and judgements made of that."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd
import regex

from ..frames import LABEL, validate
from ..frames.checks import check_text

#: The column of answers, as pyterrier-rag names it, and as DPR's files do.
COLUMNS = ("gold_answer", "answers")
#: DrQA's and DPR's SimpleTokenizer: runs of letters, numbers and marks, and each other character that is seen.
_WORD = regex.compile(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]")
#: Stands in a tree where an answer ends; no word is empty.
_END = ""


def has_answer(text: str, answers: str | Iterable[str], *, match: str = "string") -> bool:
    """Whether a passage holds one of the answers to a question, as DPR decides it (``qa_validation.py``).

    Text and answers are put into Unicode's NFD and cut into words by DrQA's SimpleTokenizer: runs of letters, numbers
    and marks, and each punctuation mark as a word. An answer stands in the text where its words do, in a row, in lower
    case. So "1.5" is not in "21.5", "U.S." not in "US", and "Cafe" not in "Café".

    Args:
        text: the passage; DPR leaves its title out.
        answers: a text, or several.
        match: ``"string"``, or ``"regex"`` for answers that are patterns (CuratedTREC): these search the whole text,
            letters of either case alike.

    Raises:
        ValueError: if there are no answers, one of them has no word (DPR finds it everywhere) or is no pattern.
        TypeError: if one is no text.

    References:
        Chen et al. 2017, Reading Wikipedia to Answer Open-Domain Questions, §5; Karpukhin et al. 2020, Dense Passage
        Retrieval for Open-Domain Question Answering, §4 ("top-k retrieval accuracy").

    Example::

        ptd.has_answer("It opened in 1889, in Paris.", ["Paris", "Lyon"])  # True
    """
    return bool(Wanted([(0, answer) for answer in told(answers)], match).found(text))


class Wanted:
    """Answers of one question or of many, looked for in one pass over a text.

    Args:
        answers: (question, answer) pairs.
        match: as in :func:`has_answer`.
    """

    def __init__(self, answers: Iterable[tuple[Any, str]], match: str = "string"):
        if match not in ("string", "regex"):
            raise ValueError(f"match must be 'string' or 'regex', not {match!r}.")
        self._patterns: list[tuple[Any, Any]] = []
        self._tree: dict[str, Any] = {}
        for question, answer in answers:
            if match == "regex":
                self._patterns.append((question, _pattern(answer)))
                continue
            words = answer_words(answer)
            if not words:
                raise ValueError(f"the answer {answer!r} has no word: every passage would hold it. Leave it out.")
            node = self._tree
            for word in words:
                node = node.setdefault(word, {})
            node.setdefault(_END, set()).add(question)

    def found(self, text: str) -> set[Any]:
        """The questions of which an answer stands in the text."""
        if self._patterns:
            normal = unicodedata.normalize("NFD", text)
            return {question for question, pattern in self._patterns if pattern.search(normal)}
        words = answer_words(text)
        questions: set[Any] = set()
        for start, first in enumerate(words):
            node, place = self._tree.get(first), start
            while node is not None:
                questions.update(node.get(_END, ()))
                place += 1
                node = node.get(words[place]) if place < len(words) else None
        return questions


def answer_words(text: str) -> list[str]:
    """The words of a text as answers are compared: NFD, lower case, punctuation marks words of their own."""
    return [word.lower() for word in _WORD.findall(unicodedata.normalize("NFD", text))]


def _pattern(answer: str) -> Any:
    try:
        return regex.compile(unicodedata.normalize("NFD", answer), regex.IGNORECASE | regex.MULTILINE)
    except regex.error as error:
        raise ValueError(f"the answer {answer!r} is no pattern ({error}): correct it or take match='string'.") from None


def told(cell: Any) -> list[str]:
    """The answers in a cell: a text, or several in a list, tuple or array."""
    answers = [cell] if isinstance(cell, str) else list(cell) if isinstance(cell, Iterable) else [cell]
    if not answers:
        raise ValueError("a question without answers cannot be judged: leave it out.")
    for answer in answers:
        if not isinstance(answer, str):
            raise TypeError(f"answers must be texts, not {answer!r}: spell numbers, leave None out.")
    return answers


def by_question(answers: pd.DataFrame, qid: str = "qid") -> dict[Any, list[str]]:
    """Each question's answers, of a frame that has them in ``gold_answer`` or ``answers``, in one row or several.

    Args:
        answers: the frame.
        qid: its column of ids.

    Raises:
        ValueError: if it has no such column, or no rows.
    """
    column = next((name for name in COLUMNS if name in answers.columns), None)
    if column is None:
        given = ", ".join(map(str, answers.columns))
        raise ValueError(f"answers must be a frame with qid and {COLUMNS[0]} (or {COLUMNS[1]}), not one with {given}.")
    if not len(answers):
        raise ValueError("there are no answers: the frame is empty.")
    found: dict[Any, list[str]] = {}
    for question, cell in zip(answers[qid], answers[column], strict=True):
        found.setdefault(question, []).extend(told(cell))
    return found


def answer_qrels(
    answers: pd.DataFrame, passages: Any, *, match: str = "string", text_field: str = "text"
) -> pd.DataFrame:
    """Judgements from answers: a passage that holds an answer to a question is relevant to it (:func:`has_answer`).

    With them ``Success@k`` is the "relaxed" recall, or top-k accuracy, of NQ, TriviaQA and SQuAD, and losses, samplers
    and miners get positives. :data:`~pyterrier_distill.RelaxedRecall` measures the same without judgements.

    Args:
        answers: ``qid`` and ``gold_answer`` (or ``answers``), a text or several of them.
        passages: an R frame with text, of whose rows each is judged: all that the compared systems retrieve; or a
            collection, of which every passage is looked at: a dataset with ``get_corpus_iter``, a D frame, or dicts
            with ``docno`` and text. Short answers ("two") stand in very many passages of a large collection.
        match: as in :func:`has_answer`.
        text_field: the passages' text; DPR leaves their titles out.

    Returns:
        ``qid``, ``docno``, ``label``, in the order of the passages. Each row of an R frame is judged, 1 or 0; of a
        collection those that hold an answer, 1. A question without any has the first passage judged, so that means
        count it.

    Raises:
        ValueError: for questions without answers, answers without words, or no passages.

    References:
        Karpukhin et al. 2020, Dense Passage Retrieval; Kim et al. 2024 (USTAD) App. D: strict and relaxed recall.

    Example::

        qrels = ptd.answer_qrels(answers, (bm25 >> texts)(topics))
        pt.Experiment([bm25 >> texts], topics, qrels, [Success @ 5, Success @ 20])
    """
    validate.columns(answers, includes=["qid"])
    questions = by_question(answers.assign(qid=answers["qid"].astype(str)))
    wanted = {qid: Wanted([(qid, answer) for answer in found], match) for qid, found in questions.items()}
    first: tuple[str, str] | None = None
    rows: list[tuple[str, str, int]] = []
    if isinstance(passages, pd.DataFrame) and "qid" in passages.columns:
        validate.result_frame(passages, [text_field])
        check_text(passages, [text_field])
        once = passages.drop_duplicates(["qid", "docno"])
        for qid, docno, text in zip(once["qid"].astype(str), once["docno"].astype(str), once[text_field], strict=True):
            first = first or (docno, text)
            if qid in wanted:
                rows.append((qid, docno, int(bool(wanted[qid].found(text)))))
    else:
        every = Wanted([(qid, answer) for qid, found in questions.items() for answer in found], match)
        for docno, text in _texts(passages, text_field):
            first = first or (docno, text)
            rows += [(qid, docno, 1) for qid in sorted(every.found(text))]
    if first is None:
        raise ValueError("there are no passages to look for answers in.")
    judged = {qid for qid, _, _ in rows}
    rows += [(qid, first[0], int(bool(w.found(first[1])))) for qid, w in wanted.items() if qid not in judged]
    return pd.DataFrame(rows, columns=["qid", "docno", LABEL]).astype({LABEL: int})


def _texts(passages: Any, field: str) -> Iterator[tuple[str, str]]:
    """docno and text of the passages of a collection, one after the other."""
    if isinstance(passages, pd.DataFrame):
        validate.document_frame(passages, [field])
        check_text(passages, [field])
        yield from zip(passages["docno"].astype(str), passages[field], strict=True)
        return
    read = getattr(passages, "get_corpus_iter", None)
    for passage in read(verbose=False) if read is not None else _records(passages):
        text = passage.get(field)
        if not isinstance(text, str):
            raise ValueError(f"passage {passage.get('docno')!r} has no text in the field {field!r}.")
        yield str(passage["docno"]), text


def _records(passages: Any) -> Iterable[dict[str, Any]]:
    if isinstance(passages, str | bytes) or not isinstance(passages, Iterable):
        raise TypeError(f"passages must be an R or D frame, a dataset, or dicts with docno and text, not {passages!r}.")
    return passages
