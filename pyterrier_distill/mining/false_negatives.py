"""Negatives that only look like negatives: found by a teacher's score or verdict, removed, and counted."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt
import pyterrier_alpha as pta

from .. import frames
from ..frames import LABEL, TEACHER_PREFS, TEACHER_SCORE, arguments, validate
from ..frames.arguments import Named
from ..frames.ranking import incoming_order
from ..stores import redaction
from ..teachers.base import check_label
from .candidates import Limits

logger = logging.getLogger(__name__)


@dataclass
class FilterCounts:
    """What a filter has seen and done since it was made.

    Attributes:
        candidates: rows that are no positives.
        removed: of them, those that went.
        unscored: of them, those of which nothing is known, because they or all their positives have no score or no
            comparison. They stay.
        without_positive: queries without any positive; where a rule needs one, their candidates are unscored.
    """

    candidates: int = 0
    removed: int = 0
    unscored: int = 0
    without_positive: int = 0


class FalseNegativeFilter(Named, pt.Transformer):
    """R → R: removes unjudged documents that a teacher finds as relevant as the query's positive.

    Rows with ``label`` > 0 are positives and always stay; the others are candidates for negatives. What decides is one
    of these:

    * a teacher's score (a cross-encoder, an LLM asked yes or no, a dense model): with ``max_ratio``, ``margin``,
      ``threshold``, or several of them. A candidate goes if its score is *above* a limit; at the limit it stays.
      ``rank``, and columns whose name begins with ``teacher_rank``, count as minus the rank, and take a margin only:
      ``margin=0`` removes what is ranked above the positive.
    * a verdict between two documents (an LLM asked which one is better): with ``preference``. A candidate goes if
      P(candidate ≻ positive) is *at least* that. The teacher is asked about pairs of a candidate and a positive only.

    The columns that the teacher writes stay in the frame, so that they can train; of preferences those of candidates
    over positives. ``score`` and the order of rows stay; ``rank``, where there is one, counts anew.

    Args:
        teacher: writes ``label`` (R → R); None = the frame has it already, such as stored labels.
        max_ratio: share of the positive's score. 0.95 is customary for cosines. Refused where the positive's score is
            not above 0: logits and log-probabilities have no zero to which a share could refer.
        margin: below the positive's score, in its own unit; for logits, log-probabilities, ranks.
        threshold: on the score itself; log 0.5 for a teacher's log p(yes).
        preference: on P(candidate ≻ positive), from 0 to 1; 0.5 = the candidate is at least as good.
        against: with several positives, what a candidate is held against: ``"best"`` the one with the highest score (of
            verdicts: it must be preferred to each of them), or ``"worst"`` the lowest (to any of them), which removes
            more.
        label: the column of the labels that are read; None = ``teacher_score``, with ``preference`` ``teacher_prefs``.

    Raises:
        ValueError: for no rule or impossible ones; when transforming, if ``max_ratio`` meets a positive whose score is
            not above 0, or a score is not finite.

    References:
        Moreira et al. 2024 (NV-Retriever): ``max_ratio`` (TopK-PercPos) and ``margin`` (TopK-MarginPos). Thakur et al.
        2025 (RLHN): verdicts of LLMs.

    Example::

        by_score = ptd.FalseNegativeFilter(ptd.PointwiseTeacher(encoder), max_ratio=0.95)
        duot5 = ptd.PairwiseTeacher("castorini/duot5-base-msmarco", both_orders=True)
        by_verdict = ptd.FalseNegativeFilter(duot5, preference=0.5)
    """

    schematic = {"label": "FalseNegativeFilter", "inner_pipelines_mode": "unlinked"}

    @arguments.renamed(column="label")
    def __init__(
        self,
        teacher: pt.Transformer | None = None,
        *,
        max_ratio: float | None = None,
        margin: float | None = None,
        threshold: float | None = None,
        preference: float | None = None,
        against: str = "best",
        label: str | None = None,
    ):
        if teacher is not None and not isinstance(teacher, pt.Transformer):
            raise TypeError(f"teacher must be a transformer that writes a label, or None, not {teacher!r}.")
        given = [rule is not None for rule in (max_ratio, margin, threshold)]
        if any(given) == (preference is not None):
            raise ValueError(
                "give max_ratio, margin or threshold for a teacher's scores, or preference for its verdicts"
                " (for both, put one filter behind the other)."
            )
        if preference is not None and (isinstance(preference, bool) or not 0 < preference <= 1):
            raise ValueError(f"preference must be above 0 and at most 1, not {preference!r}.")
        if against not in ("best", "worst"):
            raise ValueError(f"against must be 'best' or 'worst', not {against!r}.")
        if label is not None and frames.kind_of(label).lower_is_better and given != [False, True, False]:
            raise ValueError(f"{label!r} holds ranks: give a margin, and nothing else.")
        if teacher is not None and label is not None:
            check_label(label)
        Limits(max_ratio, margin, threshold).check(("max_ratio", "margin", "threshold"))
        self.teacher = teacher
        self.max_ratio = max_ratio
        self.margin = margin
        self.threshold = threshold
        self.preference = preference
        self.against = against
        self.label = label
        self.counts = FilterCounts()

    @property
    def removed(self) -> int:
        """Candidates removed since this filter was made; :attr:`counts` says more."""
        return self.counts.removed

    @property
    def label_column(self) -> str:
        """The column that decides."""
        return self.label or (TEACHER_SCORE if self.preference is None else TEACHER_PREFS)

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Remove the candidates that are likely positives."""
        self._check(inp)
        labelled = self._labelled(inp) if self.teacher is not None else inp
        frames.require_columns(labelled, [self.label_column], reader="FalseNegativeFilter", context=self)
        if not len(inp):
            return labelled
        goes, unscored = self._by_score(labelled) if self.preference is None else self._by_verdict(labelled)
        self._count(labelled, goes, unscored)
        if "rank" not in labelled.columns:
            return labelled[~goes]
        out = labelled.assign(rank=incoming_order(labelled))[~goes]
        return out.assign(rank=incoming_order(out))

    def _check(self, inp: pd.DataFrame) -> None:
        with validate.any(inp, context=self) as v:
            for columns in self._modes():
                v.result_frame([LABEL, *columns])
        frames.check_unique(inp)
        frames.kind_of(LABEL).check(inp, LABEL)

    def _modes(self) -> list[list[str]]:
        """What is read besides ids and labels, one list a way of calling the teacher."""
        if self.teacher is None:
            return [[self.label_column]]
        modes = pt.inspect.transformer_inputs(self.teacher, strict=False) or [[]]
        modes = [mode for mode in modes if {"qid", "docno"} <= set(mode)] or [[]]
        return [[column for column in mode if column not in ("qid", "docno", LABEL)] for mode in modes]

    # -- labels -------------------------------------------------------------------------------------------------------

    def _labelled(self, inp: pd.DataFrame) -> pd.DataFrame:
        """``inp`` with what the teacher wrote: new columns and labels; those of rows that it dropped are missing."""
        bare = inp.drop(columns=[self.label_column], errors="ignore")
        if self.preference is not None and len(inp):
            return bare.assign(**{self.label_column: pd.Series(self._verdicts(bare), index=bare.index, dtype=object)})
        assert self.teacher is not None
        given = self.teacher(bare)
        frames.require_columns(given, [self.label_column], reader="FalseNegativeFilter", context=self)
        frames.check_unique(given)
        if self.preference is None:
            frames.check_numbers(given, self.label_column)
        new = [self.label_column]
        if self.preference is None:
            theirs = [c for c in given.columns if c not in bare.columns or str(c).startswith("teacher_")]
            new += [c for c in theirs if c not in (*new, "score", "rank")]
        places = _keys(given).get_indexer(_keys(bare)) if len(bare) else np.empty(0, dtype=int)
        cells = given[new].reset_index(drop=True).reindex(places).set_axis(bare.index)
        return bare.assign(**{column: cells[column] for column in new})

    def _verdicts(self, inp: pd.DataFrame) -> list[dict[str, float]]:
        """``[n]``: of candidates, docno of a positive → P(candidate ≻ positive), where the teacher compared the two.

        The teacher sees lists of two documents, one a query at a time, so that it compares nothing else, and under the
        queries' own ids, so that stored preferences will do.
        """
        cells: list[dict[str, float]] = [{} for _ in range(len(inp))]
        is_positive = inp[LABEL].to_numpy() > 0
        pairs: dict[Any, list[tuple[int, int]]] = {}
        for qid, rows in _groups(inp):
            positives, candidates = rows[is_positive[rows]], rows[~is_positive[rows]]
            pairs[qid] = [(one, other) for one in candidates for other in positives]
        docnos = inp["docno"].to_numpy(dtype=object)
        assert self.teacher is not None
        for turn in range(max(map(len, pairs.values()), default=0)):
            asked = [listed[turn] for listed in pairs.values() if turn < len(listed)]
            given = self.teacher(inp.iloc[[row for pair in asked for row in pair]])
            frames.require_columns(given, [self.label_column], reader="FalseNegativeFilter", context=self)
            frames.kind_of(self.label_column).check(given, self.label_column)
            told = dict(zip(_keys(given), given[self.label_column], strict=True))
            for one, other in asked:
                qid = str(inp["qid"].iloc[one])
                p = _preference(told, qid, str(docnos[one]), str(docnos[other]))
                if p is not None:
                    cells[one][docnos[other]] = p
        return cells

    # -- rules --------------------------------------------------------------------------------------------------------

    def _by_score(self, labelled: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Which rows go, and of which nothing is known: bool ``[n]`` each."""
        if self.teacher is None:
            frames.check_numbers(labelled, self.label_column)
        scores = frames.ascending(
            self.label_column, labelled[self.label_column].to_numpy(dtype=float, na_value=np.nan)
        )
        candidate = ~(labelled[LABEL].to_numpy() > 0)
        rules = Limits(self.max_ratio, self.margin, self.threshold)
        goes, unscored = np.zeros(len(scores), dtype=bool), candidate & np.isnan(scores)
        for qid, rows in _groups(labelled):
            known = scores[rows][~candidate[rows] & ~np.isnan(scores[rows])]
            held = None if not len(known) else float(known.max() if self.against == "best" else known.min())
            if held is None and rules.relative:
                unscored[rows] = candidate[rows]
            goes[rows] = candidate[rows] & (scores[rows] > rules.limit(held, str(qid), "max_ratio"))
        return goes, unscored & ~goes

    def _by_verdict(self, labelled: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """The same, by preferences."""
        frames.kind_of(self.label_column).check(labelled, self.label_column)
        candidate = ~(labelled[LABEL].to_numpy() > 0)
        told = dict(zip(_keys(labelled), labelled[self.label_column], strict=True))
        docnos = labelled["docno"].astype(str).to_numpy(dtype=object)
        goes, unscored = np.zeros(len(labelled), dtype=bool), np.zeros(len(labelled), dtype=bool)
        for qid, rows in _groups(labelled):
            positives = docnos[rows[~candidate[rows]]]
            for row in rows[candidate[rows]]:
                found = [_preference(told, str(qid), docnos[row], positive) for positive in positives]
                known = [p for p in found if p is not None]
                unscored[row] = not known
                held = min if self.against == "best" else max
                goes[row] = bool(known) and held(known) >= (self.preference or 0.0)
        return goes, unscored

    def _count(self, labelled: pd.DataFrame, goes: np.ndarray, unscored: np.ndarray) -> None:
        positive = labelled[LABEL].to_numpy() > 0
        without = labelled["qid"].nunique() - labelled.loc[positive, "qid"].nunique()
        self.counts.candidates += int((~positive).sum())
        self.counts.removed += int(goes.sum())
        self.counts.unscored += int(unscored.sum())
        self.counts.without_positive += without
        if unscored.any():
            logger.warning(
                "%d of %d candidates could not be held against a positive, and stay (%d queries have no positive).",
                unscored.sum(), (~positive).sum(), without,
            )  # fmt: skip

    def __repr__(self) -> str:
        return redaction.text(pta.transformer_repr(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FalseNegativeFilter) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))


def _keys(frame: pd.DataFrame) -> pd.MultiIndex:
    return pd.MultiIndex.from_arrays([frame["qid"].astype(str), frame["docno"].astype(str)])


def _groups(frame: pd.DataFrame) -> list[tuple[Any, np.ndarray]]:
    """(qid, positions of its rows), in the order of first appearance."""
    codes, qids = pd.factorize(frame["qid"])
    ends = np.cumsum(np.bincount(codes, minlength=len(qids)))
    rows = np.split(np.argsort(codes, kind="stable"), ends[:-1]) if len(qids) else []
    return list(zip(qids, rows, strict=True))


def _preference(told: dict[Any, Any], qid: str, one: str, other: str) -> float | None:
    """P(one ≻ other), the mean over the orders in which the two were compared; None if they were not."""
    given = {str(docno): p for docno, p in (told.get((qid, one)) or {}).items()}
    back = {str(docno): p for docno, p in (told.get((qid, other)) or {}).items()}
    found = [given[other]] if other in given else []
    found += [1 - back[one]] if one in back else []
    return float(np.mean(found)) if found else None
