"""What a miner counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class MiningCounts:
    """What a miner has done since it was made.

    Attributes:
        queries: lists that came out: one a query, or one a pair of query and positive.
        negatives: those that came out.
        relevant: candidates left out because they are known to be relevant.
        copies: candidates that were drawn, and left out because they have the text of a relevant document.
        itself: candidates left out because they are the query itself.
        near_positive: candidates left out by ``max_score_ratio``, ``margin`` or ``max_score``.
        false_negatives: candidates that were drawn, and removed by ``false_negatives``.
        unscored: lists of which no positive's score was known, although a limit refers to it.
        short: lists with fewer than n negatives.
        nothing_retrieved: of them, those for which no retriever found anything.
        without_positive: queries left out because no positive of theirs is known.
    """

    queries: int = 0
    negatives: int = 0
    relevant: int = 0
    copies: int = 0
    itself: int = 0
    near_positive: int = 0
    false_negatives: int = 0
    unscored: int = 0
    short: int = 0
    nothing_retrieved: int = 0
    without_positive: int = 0
