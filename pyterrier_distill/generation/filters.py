"""Which generated queries are worth training on: filters of exploded queries, or of documents with ``querygen``."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pyterrier as pt
import pyterrier_alpha as pta

from ..frames import arguments, check_text, validate
from ..frames.ranking import incoming_order
from ..frames.words import count
from ..stores import redaction
from ..stores.pipelines import cut_to
from .queries import QUERY_SCORE, QUERYGEN, QUERYGEN_SCORE, lines_of, with_queries

logger = logging.getLogger(__name__)


class QuerySelection(pt.Transformer):
    """The base of the filters: R → R without some rows, or D with ``querygen`` → D without some queries.

    An R frame holds a row a query with the document that it was made from, as ``explode_queries()`` gives it. In a D
    frame the places of removed queries stay as empty lines, so that the others keep their ids, and every document
    stays. Order, index and other columns stay.

    Subclasses define :meth:`keep`.

    Attributes:
        seen: queries that came in, since it was made.
        removed: how many of them did not go out.
    """

    #: A number of each query that the filter reads; in a D frame only ``querygen_score`` is one.
    by: str | None = None

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.removed = 0

    def keep(self, queries: pd.DataFrame) -> Sequence[bool]:
        """Which rows of an R frame stay: bool ``[rows]``. Rows are ``docno``, ``query`` and :attr:`by`."""
        raise TypeError(f"{type(self).__name__} does not say what it keeps.")

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Remove queries, and count them."""
        scores = [] if self.by is None else [self.by]
        with validate.any(inp, context=self) as accepted:
            accepted.result_frame(["query", *scores], mode="queries")
            if self.by in (None, QUERY_SCORE):
                accepted.document_frame([QUERYGEN, *([QUERYGEN_SCORE] if scores else [])], mode="documents")
        if accepted.mode == "queries":
            check_text(inp, ["query"])
            if inp["qid"].duplicated().any():
                qid = inp.loc[inp["qid"].duplicated().to_numpy(), "qid"].iloc[0]
                raise ValueError(f"query {qid!r} has several documents: filter before candidates are retrieved.")
            return inp[self._kept(inp)]
        lines = lines_of(inp)
        frame = lines.assign(docno=inp["docno"].to_numpy()[lines["row"].to_numpy(dtype=int)])
        frame["qid"] = [f"{docno}-{line}" for docno, line in zip(frame["docno"], frame["line"], strict=True)]
        left = lines[self._kept(frame)]
        queries = [[""] * (cell.count("\n") + 1) for cell in inp[QUERYGEN]]
        scores_of = [[float("nan")] * len(row) for row in queries]
        numbers = left[QUERY_SCORE] if QUERY_SCORE in left.columns else np.full(len(left), np.nan)
        for row, line, query, number in zip(left["row"], left["line"], left["query"], numbers, strict=True):
            queries[row][line], scores_of[row][line] = query, number
        return with_queries(inp, queries, scores_of if QUERYGEN_SCORE in inp.columns else None)

    def _kept(self, queries: pd.DataFrame) -> np.ndarray:
        if len(queries) == 0:
            return np.zeros(0, dtype=bool)
        kept = np.asarray(self.keep(queries), dtype=bool)
        removed = int((~kept).sum())
        self.seen += len(kept)
        self.removed += removed
        logger.info("%r removed %d of %d queries.", self, removed, len(kept))
        return kept

    def __repr__(self) -> str:
        return redaction.text(pta.transformer_repr(self))

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and repr(other) == repr(self)

    def __hash__(self) -> int:
        return hash(repr(self))


class TopQueries(QuerySelection):
    """The n queries with the highest scores: InPars v1 by the generator's, v2 by a re-ranker's.

    All queries must be in one frame, as it is among them that the best are chosen. Ties are broken by qid. A query
    without a number (NaN) is removed.

    Args:
        n: how many stay; InPars keeps 10,000.
        by: the column: ``"query_score"`` (mean token log-probability); or ``"teacher_score"``, ``"score"`` or another
            one that a re-ranker wrote for each query and its document, in R frames only.

    Raises:
        ValueError: for n < 1; or if no query has a number.

    References:
        Bonifacio et al. 2022 (InPars), §3; Jeronymo et al. 2023 (InPars-v2), §2.

    Example::

        monot5 = ptd.PointwiseTeacher("castorini/monot5-3b-msmarco-10k")
        best = (generator >> ptd.explode_queries() >> monot5 >> ptd.TopQueries(10_000, by="teacher_score"))(documents)
    """

    schematic = {"label": "TopQueries"}
    reads_whole_frame = True

    @arguments.renamed(k="n")
    def __init__(self, n: int = 10_000, by: str = QUERY_SCORE):
        super().__init__()
        _check_count("n", n)
        self.n = n
        self.by = by

    def keep(self, queries: pd.DataFrame) -> np.ndarray:
        """The n best."""
        scores = pd.to_numeric(queries[self.by]).to_numpy(dtype=float)
        if np.isnan(scores).all():
            raise ValueError(
                f"no query has a number in {self.by!r}: where the generator's backend tells no log-probabilities, score"
                " the queries with a teacher and choose by='teacher_score'."
            )
        qids = queries["qid"].astype(str).to_numpy()
        order = sorted(np.flatnonzero(~np.isnan(scores)), key=lambda row: (-scores[row], qids[row]))
        kept = np.zeros(len(queries), dtype=bool)
        kept[order[: self.n]] = True
        return kept


class ConsistencyFilter(QuerySelection):
    """Queries for which a retriever finds the document that they were made from among its first ``depth``.

    Args:
        retriever: Q → R over the same collection; its ``rank`` is its order, or its ``score`` where that says nothing.
        depth: how many of its documents are looked at; Promptagator's is 1.
        batch_size: queries given to the retriever at once.

    Raises:
        ValueError: for impossible numbers; when called, for a retriever that gives neither ``rank`` nor ``score``.

    References:
        Dai et al. 2023 (Promptagator), §3.2, whose retriever is a dense one trained on the unfiltered queries.

    Example::

        consistent = ptd.ConsistencyFilter(ptd.bm25("index", documents), depth=10)
    """

    schematic = {"label": "ConsistencyFilter"}

    @arguments.renamed(k="depth")
    def __init__(self, retriever: pt.Transformer, depth: int = 1, *, batch_size: int = 1000):
        super().__init__()
        _check_count("depth", depth)
        _check_count("batch_size", batch_size)
        self.retriever = retriever
        self.depth = depth
        self.batch_size = batch_size

    def keep(self, queries: pd.DataFrame) -> list[bool]:
        """Those that find their document; equal queries are asked once."""
        texts = list(dict.fromkeys(queries["query"]))
        topics = pd.DataFrame({"qid": [str(n) for n in range(len(texts))], "query": texts})
        pipeline = cut_to(self.retriever.compile(), self.depth)
        found: set[tuple[str, str]] = set()
        for at in range(0, len(topics), self.batch_size):
            results = pipeline(topics.iloc[at : at + self.batch_size].reset_index(drop=True))
            missing = [c for c in ("qid", "docno") if c not in results.columns]
            if missing or not {"rank", "score"} & set(results.columns):
                raise ValueError(
                    f"the retriever {self.retriever!r} gives no {missing[0] if missing else 'rank and no score'}: it"
                    " must turn queries into rankings."
                )
            first = results[incoming_order(results) < self.depth]
            found.update(zip(first["qid"].astype(str), first["docno"].astype(str), strict=True))
        number = dict(zip(texts, topics["qid"], strict=True))
        pairs = zip(queries["query"], queries["docno"].astype(str), strict=True)
        return [(number[query], docno) in found for query, docno in pairs]


class LengthFilter(QuerySelection):
    """Queries of between min_words and max_words words.

    Words are what spaces separate; in Chinese, Japanese, Thai and the like each letter is one.

    Args:
        min_words: fewest; InPars drops queries of fewer than 3 tokens.
        max_words: most; None = any number.

    Raises:
        ValueError: unless 1 <= min_words <= max_words.

    Example::

        (writer >> ptd.explode_queries() >> ptd.LengthFilter(3, 32))(documents)
    """

    schematic = {"label": "LengthFilter"}

    def __init__(self, min_words: int = 3, max_words: int | None = 32):
        super().__init__()
        _check_count("min_words", min_words)
        if max_words is not None:
            _check_count("max_words", max_words)
            if max_words < min_words:
                raise ValueError(f"max_words={max_words} is less than min_words={min_words}.")
        self.min_words = min_words
        self.max_words = max_words

    def keep(self, queries: pd.DataFrame) -> list[bool]:
        """Those of the right length."""
        most = float("inf") if self.max_words is None else self.max_words
        return [self.min_words <= count(query) <= most for query in queries["query"]]


class LanguageFilter(QuerySelection):
    """Queries in the right script, and, given what tells languages apart, in the right language.

    A script is recognised by Unicode's names of the letters; digits and signs are of every script. It does not
    distinguish English from German. Languages of texts as short as queries are recognised unreliably: expect to lose
    good ones. Queries without letters are of every script and language.

    Args:
        scripts: as Unicode names them: ``"LATIN"``, ``"CYRILLIC"``, ``"ARABIC"``, ``"CJK"``, ``"HIRAGANA"``, ...
        share: of a query's letters that must be of these scripts.
        languages: those that stay, as ``detect`` names them; None = any.
        detect: text → language, such as ``langdetect.detect`` or ``lambda text: py3langid.classify(text)[0]``.

    Raises:
        ValueError: for a script that Unicode does not name, a share outside [0, 1], or languages without ``detect``.

    Example::

        (writer >> ptd.explode_queries() >> ptd.LanguageFilter(["LATIN"]))(documents)
    """

    schematic = {"label": "LanguageFilter"}

    def __init__(
        self,
        scripts: Sequence[str] = ("LATIN",),
        share: float = 0.8,
        *,
        languages: Sequence[str] | None = None,
        detect: Callable[[str], str] | None = None,
    ):
        super().__init__()
        if isinstance(scripts, str) or not scripts:
            raise ValueError(f"scripts is a list of names such as ('LATIN',), not {scripts!r}.")
        for script in scripts:
            if script not in _scripts():
                raise ValueError(f"no letter has a Unicode name that begins with {script!r}, as LATIN or CYRILLIC do.")
        if not 0 <= share <= 1:
            raise ValueError(f"share must be between 0 and 1, not {share!r}.")
        if (languages is None) != (detect is None):
            raise ValueError("languages and detect go together: which ones stay, and what tells them apart.")
        self.scripts = tuple(scripts)
        self.share = share
        self.languages = None if languages is None else tuple(languages)
        self.detect = detect

    def keep(self, queries: pd.DataFrame) -> list[bool]:
        """Those in the right script and language."""
        right = [self._script(query) for query in queries["query"]]
        if self.detect is None:
            return right
        detect, languages = self.detect, self.languages or ()
        return [
            ok and (not any(map(str.isalpha, query)) or detect(query) in languages)
            for ok, query in zip(right, queries["query"], strict=True)
        ]

    def _script(self, query: str) -> bool:
        letters = [script_of(character) for character in query if character.isalpha()]
        return not letters or sum(script in self.scripts for script in letters) >= self.share * len(letters)


def script_of(letter: str) -> str:
    """The first word of a letter's Unicode name."""
    return unicodedata.name(letter, "").split(" ")[0]


_SCRIPTS: set[str] = set()


def _scripts() -> set[str]:
    """All first words of names of letters in the basic multilingual plane, where scripts in use are."""
    if not _SCRIPTS:
        _SCRIPTS.update(script_of(chr(code)) for code in range(0x10000) if chr(code).isalpha())
    return _SCRIPTS


def _check_count(name: str, value: object) -> None:
    arguments.whole(value, name)
