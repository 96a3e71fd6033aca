"""Hard negatives: what retrievers find that is not known to be relevant."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt

from .. import frames
from ..engine import progress
from ..frames import LABEL, arguments, given, validate
from ..frames.arguments import Named
from ..frames.ranking import incoming_order
from ..frames.texts import text_source
from .batches import WRITTEN, Batches
from .candidates import MIXES, STRATEGIES, Limits, named_retrievers, scorers_of
from .counts import MiningCounts
from .pairs import check_names

logger = logging.getLogger(__name__)
UNSCORED = ("keep", "drop", "error")
PER = ("query", "pair")


class NegativeMiner(Named, pt.Transformer):
    """R of positives, or Q → R: each query's positives (``label`` > 0) and n negatives (``label`` 0) from retrievers.

    A list begins with the positives and goes on with the negatives, best retrieved first; ``rank`` counts it from 0 and
    ``score`` is −``rank``, because scores of several retrievers do not compare. ``source``, ``source_score`` and
    ``source_rank`` say which retriever found a negative (its name; of a list its number), with which score, at which
    rank (from 0); positives have ``""`` and NaN. Columns of the query (their names begin with q) stand in all rows,
    others of the input in those of positives only. Ids become strings.

    Input rows whose ``label`` is 0 or less are no positives, and left aside; without ``label``, a row that ``exclude``
    judges has its label from there, and any other has 1. Given queries, positives are what ``exclude`` judges relevant.
    A query of which no positive is known is left out and counted: anything that it finds may be relevant.

    Documents are told apart by their text as well as by their ids: one whose text is that of a positive, or of a
    document that ``exclude`` judges relevant, is no negative, whatever its docno. Texts are the same if they are but
    for white space at their ends. Texts of judged documents that were not retrieved come from ``text``, where it holds
    them. Where no texts are given, ids alone decide.

    Args:
        retriever: Q → R; or several, as a list or as a dict of names. A document that several find counts once.
        depth: candidates are the top ``depth`` of each retriever.
        n: negatives of a query. Where there are fewer candidates, all of them; :attr:`counts` says how often.
        strategy: ``"random"`` uniformly; ``"top"`` the best; ``"log_random"`` with weights 1 / log2(1 + rank), and
            ``"log_uniform"`` with weights 1 / rank, both preferring early ranks. Ranks from 1, among the candidates
            that are left.
        skip: leave out documents among the top ``skip`` of any retriever, where false negatives are most frequent.
        exclude: judgements; documents with label > 0 are never negatives, nor are the input's positives. Where it
            judges none of the queries, that is logged.
        drop_self: leave out the document that is the query, as in collections whose queries are documents (ArguAna,
            Quora). None = where both its docno is the qid and its text the query's; True = where either is; False =
            nowhere. Ids of queries and documents may coincide by chance, so that alone decides only if you say so.
        max_score_ratio: leave out documents with more than this share of the best positive's score in any retriever's
            list; 0.95 is customary for cosines. Refused where the positive's score is not above 0.
        margin: leave out documents that score above the best positive's score less this, in the retriever's unit.
        max_score: leave out documents that score above this.
        scorer: a re-ranker with the scores of the retriever (of several: a list of as many, or None), which scores the
            positives of queries whose list holds none of them.
        unscored: what to do with a list of which no positive's score is known, not from the list nor by ``scorer``,
            when a limit refers to it: ``"keep"`` its candidates (counted and logged), ``"drop"`` them, or ``"error"``.
        false_negatives: a :class:`FalseNegativeFilter`, or any R → R that removes rows, each by itself. Drawn
            candidates go through it; those removed are replaced by the next ones drawn, so that it sees no more than it
            must.
        per: ``"query"``: one list a query, all its positives in it; ``"pair"``: one list for each of its positives,
            with n negatives of its own, none of them another positive. Each list is then a query to whatever reads it,
            with the qid ``<qid>+<docno of the positive>``; ``qid_of_query`` keeps the query's. Limits refer to the
            score of the list's own positive.
        mix: of several retrievers: ``"round_robin"`` merges their lists in turns and draws from the merged one;
            ``"equal"`` draws from each list in turns, so that each gives an equal share as long as it can.
        text: what adds document text: a dataset, a frame, or a transformer; None = the retrievers do, or nobody does.
        text_field: the column of document text.
        batch_size: queries retrieved at once; it bounds the memory.
        seed: with the qid it decides the draw, whatever other queries there are.
        verbose: True = progress is shown, False = never; None = once it takes more than three seconds.

    Raises:
        ValueError: for impossible settings; when transforming, if a retriever's score is not finite, texts are missing
            in some rows, an id is missing or a fraction, a label is a fraction, or a qid has two queries.

    References:
        Qu et al. 2021 (RocketQA): hard negatives and their denoising. Moreira et al. 2024 (NV-Retriever): limits.
        Xu et al. 2025 (Distillation versus Contrastive Learning) §4.1: negatives for each pair.

    Example::

        mine = ptd.mine_negatives({"bm25": bm25, "dense": dense}, n=7, skip=5, exclude=qrels, text=dataset)
        distiller.fit((mine >> teacher)(topics))
    """

    schematic = {"label": "NegativeMiner", "inner_pipelines_mode": "unlinked"}
    added_later = {"per": "query"}

    def __init__(
        self,
        retriever: pt.Transformer | Sequence[pt.Transformer] | Mapping[str, pt.Transformer],
        depth: int = 200,
        n: int = 7,
        strategy: str = "random",
        *,
        skip: int = 0,
        exclude: pd.DataFrame | None = None,
        drop_self: bool | None = None,
        max_score_ratio: float | None = None,
        margin: float | None = None,
        max_score: float | None = None,
        scorer: pt.Transformer | Sequence[pt.Transformer | None] | None = None,
        unscored: str = "keep",
        false_negatives: pt.Transformer | None = None,
        per: str = "query",
        mix: str = "round_robin",
        text: Any = None,
        text_field: str = "text",
        batch_size: int = 256,
        seed: int = 42,
        verbose: bool | None = None,
    ):
        for name, value, least in (("depth", depth, 1), ("n", n, 1), ("skip", skip, 0), ("batch_size", batch_size, 1)):
            arguments.whole(value, name, least)
        if skip >= depth:
            raise ValueError(f"skip ({skip}) must be less than depth ({depth}), or nothing is left.")
        choices = (
            ("strategy", strategy, STRATEGIES), ("mix", mix, MIXES), ("unscored", unscored, UNSCORED), ("per", per, PER)
        )  # fmt: skip
        for name, choice, known in choices:
            if choice not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, not {choice!r}.")
        Limits(max_score_ratio, margin, max_score).check(("max_score_ratio", "margin", "max_score"))
        if drop_self not in (None, True, False):
            raise ValueError(f"drop_self must be None, True or False, not {drop_self!r}.")
        if exclude is not None:
            frames.check_qrels(exclude, "exclude")
        if false_negatives is not None and not isinstance(false_negatives, pt.Transformer):
            raise TypeError(f"false_negatives must be a transformer that removes rows, not {false_negatives!r}.")
        if text is not None:
            text_source(text, text_field)
        self.retriever = retriever
        self.depth = depth
        self.n = n
        self.strategy = strategy
        self.skip = skip
        self.exclude = given.qrels(exclude)
        self.drop_self = drop_self
        self.max_score_ratio = max_score_ratio
        self.margin = margin
        self.max_score = max_score
        self.scorer = scorer
        self.unscored = unscored
        self.false_negatives = false_negatives
        self.per = per
        self.mix = mix
        self.text = text
        self.text_field = text_field
        self.batch_size = batch_size
        self.seed = seed
        self.verbose = verbose
        self.counts = MiningCounts()
        named_retrievers(retriever)
        scorers_of(scorer, len(named_retrievers(retriever)))

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Mine, a batch of queries at a time."""
        with validate.any(inp, context=self, spelt=True) as v:
            v.result_frame(["query"], mode="positives")
            if self.exclude is not None:
                v.query_frame(["query"], mode="queries")
        frames.check_text(inp, ["query"])
        inp = inp.copy(deep=False)
        inp.attrs = {}  # pandas compares them where it joins frames, which arrays among them do not bear
        frames.check_unique(inp.astype({"qid": str, **({"docno": str} if v.mode == "positives" else {})}))
        judged = None if self.exclude is None else frames.check_qrels(self.exclude)
        bare = inp.drop(columns=[c for c in WRITTEN if c in inp.columns]).reset_index(drop=True)
        if v.mode == "positives":
            query_columns = [c for c in bare.columns if str(c).startswith("q")]
            positives = self._given(bare, incoming_order(inp) if len(inp) else np.empty(0, dtype=int), judged)
        else:
            bare = bare.drop(columns=LABEL, errors="ignore")  # of a query it says nothing
            query_columns = list(bare.columns)
            positives = self._judged_relevant(bare, judged)
        relevant = _documents(positives)
        known = list(relevant)
        if judged is not None:
            for qid, docnos in _documents(judged[judged[LABEL] > 0]).items():
                relevant.setdefault(qid, set()).update(docnos)
        topics = _topics(bare)[query_columns]
        if judged is not None and len(topics) and not topics["qid"].astype(str).isin(judged["qid"]).any():
            logger.warning(
                "exclude judges none of %d queries, such as %r (it judges %s): are their ids spelt alike?",
                len(topics), topics["qid"].iloc[0], repr(judged["qid"].iloc[0]) if len(judged) else "none",
            )  # fmt: skip
        before = copy.copy(self.counts)
        with_positive = topics["qid"].astype(str).isin(known).to_numpy()
        self.counts.without_positive += int((~with_positive).sum())
        if self.per == "pair":
            check_names(positives)
        out = self._mined(Batches(self, query_columns, relevant), topics[with_positive], positives)
        self._log(before, len(topics))
        return out

    def _mined(self, batches: Batches, topics: pd.DataFrame, positives: pd.DataFrame) -> pd.DataFrame:
        starts: Any = range(0, max(1, len(topics)), self.batch_size)  # an empty frame has the same columns
        starts = progress.bar(starts, desc="Mining", unit="batch", verbose=self.verbose if len(topics) else False)
        parts = []
        for start in starts:
            some = topics.iloc[start : start + self.batch_size]
            parts.append(batches.mine(some, positives[positives["qid"].isin(some["qid"].astype(str))]))
        return pd.concat(parts, ignore_index=True)

    def _log(self, before: MiningCounts, queries: int) -> None:
        changes = {name: value - getattr(before, name) for name, value in vars(self.counts).items()}
        told = [f"{name} {changes[name]}" for name in ("short", "unscored") if changes[name]]
        troubles = [f"of {changes['queries']} lists: {', '.join(told)}"] if told else []
        if changes["without_positive"]:
            troubles.insert(0, f"of {queries} queries: without_positive {changes['without_positive']}")
        if troubles:
            logger.warning("%s.", "; ".join(troubles))

    # -- positives ----------------------------------------------------------------------------------------------------

    @staticmethod
    def _given(rows: pd.DataFrame, order: np.ndarray, judged: pd.DataFrame | None) -> pd.DataFrame:
        """The positives of an R frame, in their incoming order."""
        rows = rows.assign(qid=rows["qid"].astype(str), docno=rows["docno"].astype(str))
        if LABEL in rows.columns:
            frames.kind_of(LABEL).check(rows, LABEL)
            labels = rows[LABEL]
            if (labels % 1 != 0).any():
                bad = labels[labels % 1 != 0].iloc[0]
                raise ValueError(f"the column {LABEL!r} must hold whole numbers, but holds {bad}: above 0 = relevant.")
        elif judged is not None:
            keys = pd.MultiIndex.from_frame(rows[["qid", "docno"]])
            labels = judged.set_index(["qid", "docno"])[LABEL].reindex(keys).fillna(1)
        else:
            labels = pd.Series(1, index=rows.index)
        rows = rows.assign(**{LABEL: labels.to_numpy().astype(int)})
        rows = rows.iloc[np.argsort(order, kind="stable")]
        return rows[rows[LABEL] > 0].reset_index(drop=True)

    @staticmethod
    def _judged_relevant(topics: pd.DataFrame, judged: pd.DataFrame) -> pd.DataFrame:
        """The judged positives of a Q frame, the most relevant first."""
        relevant = judged[judged[LABEL] > 0].sort_values([LABEL, "docno"], ascending=[False, True])
        return topics.assign(qid=topics["qid"].astype(str)).merge(relevant, on="qid", how="inner")

    # -- PyTerrier ----------------------------------------------------------------------------------------------------

    def subtransformers(self) -> dict[str, Any]:
        """Retrievers, scorers, filter and text loader."""
        named = named_retrievers(self.retriever)
        single = isinstance(self.retriever, pt.Transformer)
        parts: dict[str, Any] = {"retriever": self.retriever if single else list(named.values())}
        scorers = [scorer for scorer in scorers_of(self.scorer, len(named)) if scorer is not None]
        if scorers:
            parts["scorer"] = scorers
        for name in ("false_negatives", "text"):
            if isinstance(getattr(self, name), pt.Transformer):
                parts[name] = getattr(self, name)
        return parts

    def __repr__(self) -> str:
        shown = [repr(self.retriever)]
        for name, parameter in list(inspect.signature(type(self)).parameters.items())[1:]:
            value = getattr(self, name)
            if isinstance(value, pd.DataFrame):
                hashed = pd.util.hash_pandas_object(value.astype(str), index=False).sum()
                shown.append(f"{name}=<{len(value)} rows, {hashed:x}>")
            elif name != "verbose" and value != parameter.default:
                shown.append(f"{name}={value!r}")
        return f"NegativeMiner({', '.join(shown)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NegativeMiner) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))


def _topics(rows: pd.DataFrame) -> pd.DataFrame:
    """The first row of each query.

    Raises:
        ValueError: if rows of one qid have different queries.
    """
    named = rows[["qid", "query"]].astype({"qid": str}).drop_duplicates()["qid"]
    twice = named[named.duplicated().to_numpy()]
    if len(twice):
        raise ValueError(f"the qid {twice.iloc[0]!r} has several queries ({len(twice)} such): give each its own qid.")
    return rows.loc[named.index]


def _documents(rows: pd.DataFrame) -> dict[str, set[str]]:
    """qid → docnos."""
    found: dict[str, set[str]] = {}
    for qid, docno in zip(rows["qid"], rows["docno"], strict=True):
        found.setdefault(qid, set()).add(docno)
    return found


def mine_negatives(
    retriever: pt.Transformer | Sequence[pt.Transformer] | Mapping[str, pt.Transformer],
    depth: int = 200,
    n: int = 7,
    strategy: str = "random",
    **settings: Any,
) -> NegativeMiner:
    """A transformer that gives positives their hard negatives; see :class:`NegativeMiner` for all settings.

    Args:
        retriever: Q → R, or several, as a list or as a dict of names.
        depth: candidates are the top ``depth`` of each retriever.
        n: negatives of a query.
        strategy: ``"random"``, ``"top"``, ``"log_random"`` or ``"log_uniform"``.
        **settings: ``skip``, ``exclude``, ``drop_self``, ``max_score_ratio``, ``margin``, ``max_score``, ``scorer``,
            ``unscored``, ``false_negatives``, ``per``, ``mix``, ``text``, ``text_field``, ``batch_size``, ``seed``,
            ``verbose``.

    Example::

        mine = ptd.mine_negatives([bm25, dense], n=7, exclude=qrels, max_score_ratio=0.95, text=dataset)
        training = mine(topics)
    """
    return NegativeMiner(retriever, depth, n, strategy, **settings)
