"""Preferences from several orders of one list."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt

from .. import frames
from ..backends.usage import Usage
from ..frames import TEACHER_PREFS, validate
from ..frames.ranking import agreed, constant, incoming_order, rerank, tied
from ..sampling.samplers import PairSampler
from ..stores.pipelines import stages_of
from .base import Teacher, check_label
from .run import RunTeacher

#: What gives back a frame that was stored: where its scores are all the same, its ranks are the order.
_STORED = (pt.transformer.SourceTransformer, pt.transformer.UniformTransformer)


class OrdersTeacher(Teacher):
    """R → R or Q → R: what several orders of one list, stored or sampled, say together of each pair of its documents.

    P(i ≻ j) = (before + ties / 2 + m / 2) / (n + m): of n orders so many put i before j, so many tie them; the prior
    counts as m orders that tie everything, the mean of a Beta(m/2, m/2) posterior. ``score`` is the mean preference.
    So LLMs that were asked for orders only give soft labels: five runs of one LLM, orders of several LLMs, or one LLM
    asked again with other seeds or permutations. A re-ranker that gives all documents one score, and leaves them as
    they stood, ties them; of a stored run with one score for all the ranks are the order.

    Given candidates, it re-ranks them by all orders; given queries, the orders must retrieve, all the same documents. A
    pair stands once, in the cell of the document that comes first in the incoming ranking.

    Args:
        orders: each a file or frame, read by :class:`RunTeacher` (by rank), or a teacher or any other re-ranker, such
            as ``RunTeacher("run", by="score")`` or ``ListwiseLLMTeacher(llm, n_permutations=1, seed=s)`` for several s.
        prior: m ≥ 0, in orders. 1 = Jeffreys' prior: one order alone says 0.75, five that agree 0.92; 0 = the bare
            share.
        n_pairs: pairs drawn of each list; None = all.
        delta: incoming ranks apart, exclusive; None = any.
        seed: of the pairs; they depend on it and on the query id alone.
        label: the column of the label.

    Raises:
        TypeError: for an order that orders nothing.
        ValueError: for impossible settings; when transforming, if the orders are not of one list, naming the order, the
            query and the document.

    References:
        PairDistill (Huang & Chen 2024) §4.2 for what learns from them: :class:`~pyterrier_distill.PairwiseKL`.

    Example::

        runs = [f"rankgpt.{n}.run.gz" for n in range(1, 6)]
        labelled = (bm25 % 100 >> text >> ptd.OrdersTeacher(runs, n_pairs=50, delta=10))(topics)
        ptd.Distiller(student, ptd.PairwiseKL(temperature=0.05)).fit(labelled)
    """

    schematic = {"label": "OrdersTeacher", "inner_pipelines_mode": "unlinked"}
    writes = TEACHER_PREFS

    def __init__(
        self,
        orders: Sequence[str | os.PathLike | pd.DataFrame | pt.Transformer],
        prior: float = 1.0,
        n_pairs: int | None = None,
        delta: int | None = None,
        seed: int = 42,
        *,
        label: str = TEACHER_PREFS,
    ):
        if isinstance(orders, (str, os.PathLike, pd.DataFrame, pt.Transformer)) or not len(orders):
            raise TypeError(f"orders must be a list of runs, frames or re-rankers, not {str(orders)[:60]!r}.")
        wrong = isinstance(prior, bool) or not isinstance(prior, (int, float))
        if wrong or not (0 <= prior < math.inf):
            raise ValueError(f"prior must be a number of orders, at least 0, not {prior!r}.")
        PairSampler(n_pairs, delta, True, seed)  # checks its settings
        self.orders = [_order(one) for one in orders]
        self.prior = prior
        self.n_pairs = n_pairs
        self.delta = delta
        self.seed = seed
        self.label = check_label(label, TEACHER_PREFS)

    @property
    def usage(self) -> Usage:
        """What all orders together have cost so far."""
        return sum((getattr(stage, "usage", Usage()) for one in self.orders for stage in stages_of(one)), Usage())

    def estimate(self, inp: pd.DataFrame) -> Usage:
        """What asking for all orders would cost; re-rankers that cannot say count nothing."""
        return sum((one.estimate(inp) for one in self.orders if isinstance(one, Teacher)), Usage())

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Label and re-rank candidates, or retrieve what the orders hold for queries."""
        with validate.any(inp, context=self) as v:
            v.result_frame([], mode="rerank")
            v.query_frame([], mode="retrieve")
        listed = inp if v.mode == "rerank" else None
        if listed is not None:
            frames.check_unique(listed)
        scores = []
        for number, order in enumerate(self.orders, start=1):
            out = self._ordered(number, order, inp)
            if listed is None:
                strange = [c for c in out.columns if frames.known(c) is not None and c not in inp.columns]
                listed = out.drop(columns=strange)
            scores.append(self._aligned(number, order, out, listed, inp if v.mode == "rerank" else None))
        assert listed is not None  # there is an order
        return self._write(listed, np.stack(scores))

    def _ordered(self, number: int, order: pt.Transformer, inp: pd.DataFrame) -> pd.DataFrame:
        """What an order says: an R frame."""
        try:
            with tied():
                return order(inp)
        except ValueError as error:
            if isinstance(order, RunTeacher) and "no stored label" in str(error):
                raise ValueError(
                    f"the orders are not of one list: order {number}, {order!r}: {str(error).split(': pass')[0]}: take"
                    " orders of the same candidates, or candidates that all orders have."
                ) from error
            raise

    def _aligned(
        self, number: int, order: pt.Transformer, out: pd.DataFrame, listed: pd.DataFrame, inp: pd.DataFrame | None
    ) -> np.ndarray:
        """Numbers ``[n]`` that fall along an order, equal where it ties, of the rows of ``listed``.

        Args:
            number: of the order.
            order: what ordered.
            out: what it said.
            listed: the rows.
            inp: the candidates that it re-ranked; None = it retrieved.

        Raises:
            ValueError: if it is not an order of these rows.
        """
        if not len(out) and not len(listed):
            return np.empty(0)
        wanted, there = (
            pd.MultiIndex.from_arrays([frame[name].astype(str) for name in ("qid", "docno")]) for frame in (listed, out)
        )
        for more, fewer, what in ((wanted, there, "lacks"), (there, wanted, "adds")):
            if len(other := more.difference(fewer, sort=False)):
                qid, docno = other[0]
                raise ValueError(
                    f"the orders are not of one list: order {number}, {order!r}, {what} document {docno!r} of query"
                    f" {qid!r} ({len(other)} such documents): take orders of the same candidates."
                )
        last = stages_of(order)[-1]
        with tied():
            said = out if isinstance(last, Teacher) else agreed(out)
        scores = said["score"].to_numpy(dtype=float)
        if not isinstance(last, (Teacher, *_STORED)) and "score" in out.columns:
            scores = np.where(_says_nothing(out, inp), 0.0, scores)
        return scores[there.get_indexer(wanted)]

    def _write(self, listed: pd.DataFrame, scores: np.ndarray) -> pd.DataFrame:
        """``listed`` with the preferences that follow from ``[orders, n]`` scores, and ranked by their means."""
        sampler = PairSampler(self.n_pairs, self.delta, True, self.seed)
        cells: list[dict[str, float]] = [{} for _ in range(len(listed))]
        means = np.full(len(listed), 0.5)
        places, docnos = incoming_order(listed), listed["docno"].to_numpy()
        for qid, rows in listed.groupby(listed["qid"].to_numpy(), sort=False).indices.items():
            rows = rows[np.argsort(places[rows], kind="stable")]
            share = preferences(scores[:, rows], self.prior)
            asked = np.zeros(share.shape, dtype=bool)
            if self.n_pairs is None and self.delta is None:
                asked[:] = ~np.eye(len(rows), dtype=bool)
            elif drawn := sampler.draw(str(qid), len(rows)):
                asked[tuple(np.array(drawn).T)] = True
            for i, j in np.argwhere(np.triu(asked)):
                cells[rows[i]][docnos[rows[j]]] = float(share[i, j])
            number = asked.sum(axis=1)
            means[rows] = np.divide(
                np.where(asked, share, 0).sum(axis=1), number, out=means[rows], where=number > 0
            ).round(12)  # rounding errors must not decide between equal ones
        return rerank(listed, means, **{self.label: cells})


def _says_nothing(out: pd.DataFrame, inp: pd.DataFrame | None) -> np.ndarray:
    """Rows ``[n]`` of queries that a re-ranker ties: one score for all, and no order but the one that it was given.

    Ranks in another order than that of the candidates, or of their rows, are an order, whatever the score says.

    Args:
        out: what it said.
        inp: the same candidates as it was given them; None = it was given queries.
    """
    scores = pd.to_numeric(out["score"], errors="coerce").to_numpy(dtype=float)
    queries = pd.factorize(out["qid"].to_numpy())[0]
    nothing = constant(queries, scores) & ~np.isnan(scores)
    if inp is None or not nothing.any():
        return nothing
    there, row = (
        pd.MultiIndex.from_arrays([frame[name].astype(str) for name in ("qid", "docno")]) for frame in (inp, out)
    )
    rows = there.get_indexer(row)
    order = np.lexsort([incoming_order(out), queries])
    within = np.diff(queries[order]) == 0
    kept = np.zeros(len(out), dtype=bool)
    for place in (rows, incoming_order(inp)[rows]):
        turned = queries[order][1:][within & (np.diff(place[order]) < 0)]
        kept |= ~np.isin(queries, turned)
    return nothing & kept


def preferences(scores: np.ndarray, prior: float = 1.0) -> np.ndarray:
    """P(i ≻ j) ``[N, N]`` by several orders of N documents; 0.5 on the diagonal where there is a prior or an order.

    Args:
        scores: ``[orders, N]``, higher = better in that order; only their order counts.
        prior: orders that tie everything, counted besides.
    """
    margins = scores[:, :, None] - scores[:, None, :]
    before, ties = (margins > 0).sum(axis=0), (margins == 0).sum(axis=0)
    return (before + ties / 2 + prior / 2) / (len(scores) + prior)


def _order(given: Any) -> pt.Transformer:
    """What re-ranks by an order."""
    if isinstance(given, (str, os.PathLike, pd.DataFrame)):
        return RunTeacher(given)
    if not isinstance(given, pt.Transformer):
        raise TypeError(f"an order must be a run, a frame, or a transformer that re-ranks, not {str(given)[:60]!r}.")
    return given
