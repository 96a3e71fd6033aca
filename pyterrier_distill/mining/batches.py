"""A batch of queries from their positives to their lists of positives and negatives."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .. import frames
from ..frames import LABEL, copies
from ..frames.texts import text_source
from .candidates import Candidate, Limits, drawing_order, interleaved, named_retrievers, retrieve, scorers_of
from .pairs import each_pair

if TYPE_CHECKING:
    from .negatives import NegativeMiner

#: What stands in each list anew.
WRITTEN = ("score", "rank", "source", "source_score", "source_rank")


class Batches:
    """Mines batch by batch.

    Args:
        miner: its settings, and the counts that go up.
        query_columns: columns of the query.
        relevant: qid → docnos that are never negatives.

    Attributes:
        lacking: relevant documents that ``text`` does not hold; their copies cannot be told.
    """

    def __init__(self, miner: NegativeMiner, query_columns: Sequence[str], relevant: Mapping[str, set[str]]):
        self.miner = miner
        self.query_columns = query_columns
        self.relevant = relevant
        self.retrievers = named_retrievers(miner.retriever)
        self.scorers = scorers_of(miner.scorer, len(self.retrievers))
        self.lacking: set[str] = set()
        self.limits = Limits(miner.max_score_ratio, miner.margin, miner.max_score)

    def mine(self, topics: pd.DataFrame, positives: pd.DataFrame) -> pd.DataFrame:
        """The lists of some queries, in the order of ``topics``.

        Args:
            topics: a Q frame, with ids as the user gave them.
            positives: their positives, ids as strings, in the order in which they shall stand.
        """
        miner = self.miner
        found = [retrieve(one, topics, miner.depth, name, miner.text_field) for name, one in self.retrievers.items()]
        lists = [one for one, _ in found]
        tells_text = miner.text is None and any(tells for _, tells in found)
        positives = self._with_text(positives.assign(source="", source_score=np.nan, source_rank=np.nan))
        topics = topics.assign(qid=topics["qid"].astype(str)).set_index("qid", drop=False)
        texts = self._relevant_texts(lists, topics, positives, tells_text)

        def mined(topics: pd.DataFrame, positives: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
            return self._mined(lists, topics, positives, tells_text, texts, names)

        return each_pair(topics, positives, mined) if miner.per == "pair" else mined(topics, positives, {})

    def _mined(
        self,
        lists: Sequence[Mapping[str, list[Candidate]]],
        topics: pd.DataFrame,
        positives: pd.DataFrame,
        tells_text: bool,
        texts: Mapping[str, set[str]],
        names: Mapping[str, str],
    ) -> pd.DataFrame:
        """One list a query, of some positives of its and of negatives drawn for them.

        Args:
            names: qid → what decides the draw instead of it.
        """
        miner, counts = self.miner, self.miner.counts
        pools = self._pools(lists, topics.index, positives)
        orders = {}
        for qid, pool in pools.items():
            rng = random.Random(hashlib.sha256(f"{miner.seed}\0{names.get(qid, qid)}".encode()).digest())
            orders[qid] = drawing_order(pool, miner.strategy, miner.mix, rng)
        positives, negatives = self._drawn(orders, topics, positives, tells_text, texts)
        counts.queries += len(pools)
        counts.negatives += sum(map(len, negatives))
        return _ranked(self._ordered(_joined([positives, *negatives]), topics.index, pools))

    @staticmethod
    def _ordered(
        rows: pd.DataFrame, qids: Sequence[str], pools: Mapping[str, Sequence[Sequence[Candidate]]]
    ) -> pd.DataFrame:
        """Queries as given; positives first, as they stand, then negatives as retrieved, retrievers in turns."""
        if not len(rows):
            return rows
        place = {qid: n for n, qid in enumerate(qids)}
        drawn = set(zip(rows["qid"], rows["docno"], strict=True))
        among = {
            (qid, candidate.docno): n
            for qid, pool in pools.items()
            for n, candidate in enumerate(interleaved(pool))
            if (qid, candidate.docno) in drawn
        }
        cells = zip(rows["qid"], rows["docno"], rows[LABEL], strict=True)
        behind = [-1 if label > 0 else among[qid, docno] for qid, docno, label in cells]
        keys = pd.DataFrame({"query": rows["qid"].map(place).to_numpy(), "behind": behind})
        return rows.iloc[keys.sort_values(["query", "behind"], kind="stable").index].reset_index(drop=True)

    # -- candidates ---------------------------------------------------------------------------------------------------

    def _pools(
        self, lists: Sequence[Mapping[str, list[Candidate]]], qids: Sequence[str], positives: pd.DataFrame
    ) -> dict[str, list[list[Candidate]]]:
        """qid → the candidates of each retriever that may become negatives, best first."""
        miner, counts = self.miner, self.miner.counts
        best = self._best_scores(lists, positives) if self.limits.relative else {}
        pools = {}
        for qid in qids:
            relevant = self.relevant.get(qid, set())
            near: set[str] = set()
            own = [one.get(qid, []) for one in lists]
            counts.nothing_retrieved += not any(own)
            first = {c.docno for c in itertools.chain(*own) if c.rank < miner.skip}
            for number, candidates in enumerate(own):
                held = best.get((qid, number))
                if self.limits.relative and held is None and candidates:
                    counts.unscored += 1
                    own[number] = candidates = self._unscored(qid, number, candidates)
                limit = self.limits.limit(held, qid, "max_score_ratio")
                near.update(c.docno for c in candidates if c.score > limit)
            retrieved = {c.docno for c in itertools.chain(*own)}
            itself = {qid} & retrieved - relevant if miner.drop_self else set()
            counts.relevant += len(retrieved & relevant)
            counts.itself += len(itself)
            counts.near_positive += len(near - relevant - first - itself)
            out = relevant | near | first | itself
            pools[qid] = [[c for c in candidates if c.docno not in out] for candidates in own]
        return pools

    def _best_scores(
        self, lists: Sequence[Mapping[str, list[Candidate]]], positives: pd.DataFrame
    ) -> dict[tuple[str, int], float]:
        """(qid, number of the retriever) → the highest score of a positive, from its list, else from its scorer."""
        best: dict[tuple[str, int], float] = {}
        own = {qid: {docno} for qid, docno in zip(positives["qid"], positives["docno"], strict=True)}
        relevant: Mapping[str, set[str]] = own if self.miner.per == "pair" else self.relevant
        for number, (one, scorer) in enumerate(zip(lists, self.scorers, strict=True)):
            for qid, candidates in one.items():
                known = [c.score for c in candidates if c.docno in relevant.get(qid, ())]
                if known:
                    best[qid, number] = max(known)
            lacking = positives[[qid in one and (qid, number) not in best for qid in positives["qid"]]]
            if scorer is None or not len(lacking):
                continue
            scored = scorer(_ranked(lacking))
            frames.require_columns(scored, ["qid", "docno", "score"], reader="the scorer of the positives")
            frames.check_numbers(scored, "score")
            for qid, score in scored.groupby("qid")["score"].max().items():
                best[str(qid), number] = float(score)
        return best

    def _unscored(self, qid: str, number: int, candidates: list[Candidate]) -> list[Candidate]:
        """What is left of a list whose positive has no score."""
        if self.miner.unscored == "error":
            name = list(self.retrievers)[number]
            raise ValueError(
                f"the retriever {name!r} does not find a positive of query {qid!r} among its first {self.miner.depth},"
                " and no scorer says its score: pass scorer=, or unscored='keep' or 'drop'."
            )
        return [] if self.miner.unscored == "drop" else candidates

    # -- drawing ------------------------------------------------------------------------------------------------------

    def _drawn(
        self,
        orders: Mapping[str, list[Candidate]],
        topics: pd.DataFrame,
        positives: pd.DataFrame,
        tells_text: bool,
        texts: Mapping[str, set[str]],
    ) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
        """Positives, and negatives: n a query; copies of relevant documents, and what the filter removes, replaced."""
        miner, counts = self.miner, self.miner.counts
        have, at = dict.fromkeys(orders, 0), dict.fromkeys(orders, 0)
        negatives: list[pd.DataFrame] = []
        labelled = positives
        while True:
            some = {qid: order[at[qid] : at[qid] + miner.n - have[qid]] for qid, order in orders.items()}
            drawn = [(qid, c) for qid, chosen in some.items() for c in chosen]
            if negatives and not drawn:
                break
            rows = self._distinct(self._rows(drawn, topics, tells_text), texts)
            beside = positives[positives["qid"].isin(rows["qid"])] if negatives else positives
            both = _ranked(_joined([beside, rows]))
            self._check_text(both)
            if miner.false_negatives is not None:
                both = self._filtered(both, beside)
            kept = both[both[LABEL] <= 0]
            if not negatives:
                labelled = both[both[LABEL] > 0]
            negatives.append(kept)
            counts.false_negatives += len(rows) - len(kept)
            for qid, chosen in some.items():
                at[qid] += len(chosen)
            for qid, more in kept["qid"].value_counts().items():
                have[qid] += more
        counts.short += sum(number < miner.n for number in have.values())
        return labelled, negatives

    def _distinct(self, rows: pd.DataFrame, texts: Mapping[str, set[str]]) -> pd.DataFrame:
        """Without copies of relevant documents, and without the query itself."""
        field, counts = self.miner.text_field, self.miner.counts
        if field not in rows.columns:
            return rows
        copy, itself = [], []
        for qid, query, docno, text in zip(*(rows[c] for c in ("qid", "query", "docno", field)), strict=True):
            copy.append(copies.same_text(text) in texts.get(qid, ()))
            itself.append(not copy[-1] and copies.is_query(qid, query, docno, text, self.miner.drop_self))
        counts.copies += sum(copy)
        counts.itself += sum(itself)
        return rows[~(np.array(copy, dtype=bool) | np.array(itself, dtype=bool))].reset_index(drop=True)

    def _filtered(self, both: pd.DataFrame, positives: pd.DataFrame) -> pd.DataFrame:
        assert self.miner.false_negatives is not None
        filtered = self.miner.false_negatives(both)
        frames.require_columns(filtered, ["qid", "docno", LABEL], reader="NegativeMiner", context=self.miner)
        given = set(zip(both["qid"], both["docno"], strict=True))
        foreign = [pair for pair in zip(filtered["qid"], filtered["docno"], strict=True) if pair not in given]
        if foreign or filtered.duplicated(["qid", "docno"]).any():
            shown = f", such as {foreign[0]}" if foreign else ""
            raise ValueError(f"{self.miner.false_negatives!r} must remove rows only, but gave new ones{shown}.")
        if int((filtered[LABEL] > 0).sum()) != len(positives):
            raise ValueError(
                f"{self.miner.false_negatives!r} must remove negatives only, but of {len(positives)} positives"
                f" {int((filtered[LABEL] > 0).sum())} came back."
            )
        return filtered

    def _rows(self, chosen: Sequence[tuple[str, Candidate]], topics: pd.DataFrame, tells_text: bool) -> pd.DataFrame:
        """An R frame of candidates, with the columns of their queries."""
        places = topics.index.get_indexer([qid for qid, _ in chosen]) if chosen else np.empty(0, dtype=int)
        rows = topics.iloc[places][list(self.query_columns)].reset_index(drop=True)
        columns: dict[str, Any] = {
            "docno": [c.docno for _, c in chosen],
            LABEL: np.zeros(len(chosen), dtype=int),
            "source": [c.source for _, c in chosen],
            "source_score": np.array([c.score for _, c in chosen], dtype=float),
            "source_rank": np.array([c.rank for _, c in chosen], dtype=float),
        }
        if tells_text:
            columns[self.miner.text_field] = [c.text for _, c in chosen]
        return self._with_text(rows.assign(**columns))

    def _relevant_texts(
        self,
        lists: Sequence[Mapping[str, list[Candidate]]],
        topics: pd.DataFrame,
        positives: pd.DataFrame,
        tells_text: bool,
    ) -> dict[str, set[str]]:
        """qid → the texts of its positives, and of its other relevant documents.

        Those of documents that were neither given nor retrieved are looked up in ``text``, where it holds them.
        """
        field, known = self.miner.text_field, self.relevant
        given = set(zip(positives["qid"], positives["docno"], strict=True))
        retrieved = {
            (qid, c.docno): (qid, c)
            for one in lists
            for qid in topics.index
            for c in one.get(qid, ())
            if c.docno in known.get(qid, ()) and (qid, c.docno) not in given
        }
        rows = self._rows(list(retrieved.values()), topics, tells_text) if retrieved else positives.iloc[:0]
        pairs = [(qid, docno) for qid in topics.index for docno in sorted(known.get(qid, ()))]
        others = [pair for pair in pairs if pair not in given and pair not in retrieved]
        looked_up = self._held(pd.DataFrame(others, columns=["qid", "docno"]))
        parts = [part for part in (positives, rows, looked_up) if field in part.columns]
        qids, told = ([cell for part in parts for cell in part[column]] for column in ("qid", field))
        return copies.texts_of(qids, told)

    # -- texts --------------------------------------------------------------------------------------------------------

    def _with_text(self, rows: pd.DataFrame) -> pd.DataFrame:
        field, text = self.miner.text_field, self.miner.text
        if text is None:
            return rows
        given = text_source(text, field)(rows.drop(columns=[field], errors="ignore").reset_index(drop=True))
        if len(given) != len(rows) or list(given["docno"].astype(str)) != rows["docno"].tolist():
            raise ValueError("text= must give every row its text and keep the rows' order; it gave other rows.")
        frames.require_columns(given, [field], reader="NegativeMiner", context=self.miner)
        return given

    def _held(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows of which ``text`` has the text; judgements may name documents that the collection lacks."""
        if self.miner.text is None:
            return rows
        rows = rows[~rows["docno"].isin(self.lacking)]
        if not len(rows):
            return rows
        try:
            return self._with_text(rows)
        except (LookupError, ValueError):
            if len(rows) == 1:
                self.lacking.add(rows["docno"].iloc[0])
                return rows.iloc[:0]
        half = len(rows) // 2
        return pd.concat([self._held(rows.iloc[:half]), self._held(rows.iloc[half:])], ignore_index=True)

    def _check_text(self, rows: pd.DataFrame) -> None:
        field = self.miner.text_field
        if field in rows.columns and rows[field].isna().any():
            row = rows[rows[field].isna()].iloc[0]
            kind = "positive" if row[LABEL] > 0 else "negative"
            raise ValueError(
                f"some documents have {field!r}, others do not, such as the {kind} {row['docno']!r} of query"
                f" {row['qid']!r}: pass text=, such as text=dataset."
            )


def _joined(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """All rows, and all columns, even those of frames without rows; what is new in a list stands last."""
    columns = list(dict.fromkeys(column for part in parts for column in part.columns))
    columns = [c for c in columns if c not in WRITTEN] + [c for c in WRITTEN if c in columns]
    full = [part for part in parts if len(part)]
    return (pd.concat(full, ignore_index=True) if full else parts[0]).reindex(columns=columns)


def _ranked(rows: pd.DataFrame) -> pd.DataFrame:
    """Ranks as the rows stand in each query, from 0; scores that say the same."""
    ranks = rows.groupby("qid", sort=False).cumcount().to_numpy(dtype=int)
    kept = [c for c in rows.columns if c not in WRITTEN]
    return rows.assign(rank=ranks, score=0.0 - ranks)[
        [*kept, *(c for c in WRITTEN if c in rows.columns or c in ("score", "rank"))]
    ]
