"""Candidates for negatives: retrieved, held to limits, merged from several retrievers, and put in a drawing order."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyterrier as pt

from .. import frames
from ..frames.ids import check_ids
from ..frames.ranking import incoming_order
from ..sampling.samplers import log_weights, weighted_order
from ..stores.pipelines import cut_to

STRATEGIES = ("random", "top", "log_random", "log_uniform")
MIXES = ("round_robin", "equal")


class Candidate(NamedTuple):
    """A document that a retriever found for a query.

    Attributes:
        docno: its id.
        source: the retriever's name.
        score: the retriever's.
        rank: in the retriever's list, from 0.
        text: its text, where the retriever gives it.
    """

    docno: str
    source: str
    score: float
    rank: int
    text: str | None


@dataclass(frozen=True)
class Limits:
    """How high a document may score before it is too near the positive to be a negative.

    A document goes when its score is above any limit; one that stands exactly at a limit stays.

    Attributes:
        max_ratio: times the positive's score. Only for scores of which 0 means nothing at all, such as cosines,
            probabilities and BM25; logits and log-probabilities have no such zero.
        margin: the positive's score less this, in the score's own unit.
        highest: the score itself.
    """

    max_ratio: float | None = None
    margin: float | None = None
    highest: float | None = None

    def check(self, names: tuple[str, str, str]) -> Limits:
        """Itself.

        Args:
            names: by which the user knows the three.

        Raises:
            ValueError: if one is no finite number, or the ratio is not positive.
        """
        for name, value in zip(names, (self.max_ratio, self.margin, self.highest), strict=True):
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if value is not None and (not number or (name == names[0] and value <= 0)):
                kind = "positive" if name == names[0] else "finite"
                raise ValueError(f"{name} must be None or a {kind} number, not {value!r}.")
        return self

    @property
    def relative(self) -> bool:
        """Whether the positive's score matters."""
        return self.max_ratio is not None or self.margin is not None

    def limit(self, positive: float | None, qid: str, ratio_name: str) -> float:
        """The score above which documents go.

        Args:
            positive: the positive's score; None = unknown, so that only :attr:`highest` holds.
            qid: for the message.
            ratio_name: by which the user knows :attr:`max_ratio`.

        Raises:
            ValueError: if there is a ratio, and the positive's score is not above 0: 0.95 times −2 is more than −2.
        """
        limits = [math.inf if self.highest is None else self.highest]
        if positive is not None and self.max_ratio is not None:
            if positive <= 0:
                raise ValueError(
                    f"{ratio_name} is a share of the positive's score, which must be above 0, but is {positive:g} for"
                    f" query {qid!r}: for logits and log-probabilities use a margin."
                )
            limits.append(self.max_ratio * positive)
        if positive is not None and self.margin is not None:
            limits.append(positive - self.margin)
        return min(limits)


def named_retrievers(retriever: Any) -> dict[str, pt.Transformer]:
    """Name → retriever; those of a list are called by their numbers.

    Raises:
        TypeError: if one is no transformer.
        ValueError: if there is none.
    """
    if isinstance(retriever, Mapping):
        named = {str(name): one for name, one in retriever.items()}
    else:
        several = list(retriever) if isinstance(retriever, Sequence) else [retriever]
        named = {str(number): one for number, one in enumerate(several)}
    if not named:
        raise ValueError("name at least one retriever.")
    for one in named.values():
        if not isinstance(one, pt.Transformer):
            raise TypeError(f"a retriever must be a transformer Q -> R, not {one!r}.")
    return named


def scorers_of(scorer: Any, retrievers: int) -> list[pt.Transformer | None]:
    """One a retriever.

    Raises:
        TypeError: if one is no transformer.
        ValueError: if there are not as many as retrievers.
    """
    scorers = list(scorer) if isinstance(scorer, Sequence) else [scorer] * (retrievers if scorer is None else 1)
    if len(scorers) != retrievers:
        raise ValueError(
            f"{retrievers} retrievers need a list of {retrievers} scorers, None where there is none: scores of one"
            f" retriever mean nothing to another; got {scorer!r}."
        )
    for one in scorers:
        if one is not None and not isinstance(one, pt.Transformer):
            raise TypeError(f"a scorer must be a re-ranker R -> R, or None, not {one!r}.")
    return scorers


def retrieve(
    retriever: pt.Transformer, topics: pd.DataFrame, depth: int, source: str, text_field: str
) -> tuple[dict[str, list[Candidate]], bool]:
    """A retriever's first documents of each query.

    Args:
        retriever: Q → R.
        topics: a Q frame.
        depth: documents of a query, by the retriever's ``rank``, or its ``score`` where it gives no rank.
        source: its name.
        text_field: the column of text.

    Returns:
        qid → candidates, best first, each document once; and whether the retriever gives texts.

    Raises:
        ValueError: if it gives no documents or scores, or a score is not finite.
    """
    found = cut_to(retriever, depth)(topics)
    missing = [column for column in ("qid", "docno", "score") if column not in found.columns]
    if missing:
        raise ValueError(f"the retriever {retriever!r} gives no {missing[0]}: it must turn queries into results.")
    if not len(found):
        return {}, text_field in found.columns
    check_ids(found, ["qid", "docno"], f"the results of {retriever!r}")
    frames.check_numbers(found, "score")
    tells = text_field in found.columns
    place = incoming_order(found)
    order = np.argsort(place, kind="stable")
    order = order[place[order] < depth]
    best = found.iloc[order]
    texts = best[text_field].tolist() if tells else [None] * len(best)
    columns = (best["docno"].astype(str), best["score"].astype(float), pd.Series(place[order]))
    lists: dict[str, dict[str, Candidate]] = {}
    for qid, docno, score, rank, text in zip(
        best["qid"].astype(str).tolist(), *(column.tolist() for column in columns), texts, strict=True
    ):
        lists.setdefault(qid, {}).setdefault(docno, Candidate(docno, source, score, rank, text))
    return {qid: list(listed.values()) for qid, listed in lists.items()}, tells


def interleaved(lists: Sequence[Sequence[Candidate]]) -> list[Candidate]:
    """The first of each list, then the second of each, and so on; a document counts where it comes first."""
    merged: dict[str, Candidate] = {}
    for tier in itertools.zip_longest(*lists):
        for candidate in tier:
            if candidate is not None:
                merged.setdefault(candidate.docno, candidate)
    return list(merged.values())


def drawing_order(lists: Sequence[Sequence[Candidate]], strategy: str, mix: str, rng: random.Random) -> list[Candidate]:
    """All candidates in the order in which negatives are taken from them.

    Args:
        lists: one a retriever, best first.
        strategy: ``"top"`` as ranked; ``"random"`` uniformly; ``"log_random"`` with weights 1 / log2(1 + rank);
            ``"log_uniform"`` with weights 1 / rank, so that the logarithm of the rank is uniform. Ranks from 1.
        mix: ``"round_robin"`` merges the lists in turns and draws from the merged one; ``"equal"`` draws from each list
            in turns.
        rng: decides.
    """

    def drawn(candidates: Sequence[Candidate]) -> list[Candidate]:
        if strategy == "top":
            return list(candidates)
        if strategy == "random":
            return rng.sample(candidates, len(candidates))
        depth = len(candidates)
        weights = log_weights(depth) if strategy == "log_random" else [1 / rank for rank in range(1, depth + 1)]
        return [candidates[n] for n in weighted_order(weights, rng)]

    return drawn(interleaved(lists)) if mix == "round_robin" else interleaved([drawn(one) for one in lists])
