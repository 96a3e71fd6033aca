"""Documents with a query each, for few-shot prompts: our own, the user's, or drawn from a labelled set."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from ..engine.locks import once
from ..frames import arguments, check_qrels, check_text, given, validate
from ..frames.texts import text_source


class Example(NamedTuple):
    """A document, a query that it answers, and one that is put badly (for prompts with ``{bad}``)."""

    document: str
    query: str
    bad: str = ""


#: Used where no examples are given: general knowledge, put in our own words.
BUILT_IN: tuple[Example, ...] = (
    Example(
        "Bread dough rises because yeast feeds on the sugars in flour and gives off carbon dioxide. Gluten, the net of"
        " proteins that kneading builds, holds the gas in small bubbles. In a cold room yeast works slowly, so the same"
        " dough may need twelve hours in a refrigerator where one hour near a stove would do.",
        "how long does bread dough need to rise in the refrigerator",
        "What is dough?",
    ),
    Example(
        "The Moon turns once round its own axis in the time that it takes to go once round the Earth, a little over 27"
        " days. That is why we always see the same side of it. The far side was first photographed in 1959, by the"
        " Soviet probe Luna 3.",
        "why do we always see the same side of the moon",
        "When was the Moon?",
    ),
    Example(
        "A hash table keeps its entries in buckets chosen by a hash of the key. Looking up a key takes constant time on"
        " average. When many keys fall into one bucket, look-ups slow down to linear time, so tables grow and"
        " redistribute their entries once they are about two thirds full.",
        "worst case time complexity of hash table lookup",
        "Is this about tables?",
    ),
)


class FewShot:
    """Examples drawn from a labelled set: queries, each with a document judged relevant to it.

    Leave the queries out when you evaluate: ``topics[~topics["qid"].isin(few.example_qids)]``.

    Args:
        topics: Q frame, or a dataset.
        qrels: ``qid``, ``docno``, ``label``; or a dataset.
        docs: where document text is: a dataset, a frame with ``docno`` and text, or a transformer that adds text.
        n: how many; Promptagator uses 8, InPars 3.
        seed: another seed, other examples. What is drawn does not depend on the order of the frames.
        min_label: least judgement of an example's document.
        text_field: the column of text.

    Raises:
        ValueError: for judgements that are no whole numbers or stand twice, or a qid with two queries; when first used,
            if fewer than ``n`` queries have such a document with words.
    """

    def __init__(
        self,
        topics: pd.DataFrame,
        qrels: pd.DataFrame,
        docs: Any,
        n: int = 3,
        *,
        seed: int = 42,
        min_label: int = 1,
        text_field: str = "text",
    ):
        arguments.whole(n, "n")
        topics, qrels = given.topics(topics), given.qrels(qrels)
        validate.query_frame(topics, ["query"])
        check_qrels(qrels)
        check_text(topics, ["query"])
        self.topics = topics
        self.qrels = qrels
        self.docs = docs
        self.n = n
        self.seed = seed
        self.min_label = min_label
        self.text_field = text_field

    @once
    def _drawn(self) -> tuple[list[str], list[Example]]:
        queries = dict(zip(self.topics["qid"].astype(str), self.topics["query"], strict=True))
        judged = check_qrels(self.qrels)
        good = judged[judged["label"] >= self.min_label]
        if isinstance(self.docs, pd.DataFrame):
            good = good[good["docno"].isin(self.docs["docno"].astype(str))]
        documents = {qid: sorted(rows["docno"]) for qid, rows in good.groupby("qid") if qid in queries}
        order = sorted(documents)
        rng = random.Random(self.seed)
        rng.shuffle(order)
        source = text_source(self.docs, self.text_field)
        qids: list[str] = []
        drawn: list[Example] = []
        for at in range(0, len(order), 4 * self.n):  # some documents may be gone, or empty
            some = order[at : at + 4 * self.n]
            frame = pd.DataFrame({"qid": some, "docno": [rng.choice(documents[qid]) for qid in some]})
            frame = source(frame.assign(query=[queries[qid] for qid in some], score=0.0, rank=0))
            texts = dict(zip(frame["qid"], frame[self.text_field], strict=True))
            for qid in some:
                text = texts.get(qid)
                if isinstance(text, str) and text.split() and len(drawn) < self.n:
                    qids.append(qid)
                    drawn.append(Example(text, queries[qid]))
            if len(drawn) == self.n:
                return qids, drawn
        raise ValueError(
            f"only {len(drawn)} of {self.n} examples could be drawn: that is how many queries have a document of label"
            f" {self.min_label} or more with text. Ask for fewer, or give other topics and qrels."
        )

    @property
    def examples(self) -> list[Example]:
        """The examples, drawn when first asked for."""
        return self._drawn[1]

    @property
    def example_qids(self) -> list[str]:
        """Their query ids."""
        return self._drawn[0]

    def __repr__(self) -> str:
        content = hashlib.sha256(repr(self.examples).encode()).hexdigest()[:8]
        return f"FewShot(n={self.n}, seed={self.seed}, qids={self.example_qids}, content={content!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FewShot) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))


def checked_examples(given: FewShot | Sequence[Sequence[str]] | None, fields: set[str]) -> list[Example]:
    """``given`` as examples that a prompt can hold.

    Args:
        given: None = :data:`BUILT_IN`.
        fields: the placeholders of one example.

    Raises:
        TypeError: if it is no list of texts.
        ValueError: if it is empty, or the prompt shows bad questions and an example has none.
    """
    if isinstance(given, FewShot):
        examples = given.examples
    elif given is None:
        examples = list(BUILT_IN)
    else:
        parts = [tuple(one) if isinstance(one, (list, tuple)) else () for one in given]
        if not all(2 <= len(one) <= 3 and all(isinstance(text, str) for text in one) for one in parts):
            raise TypeError("examples must be (document, query) pairs of texts, or (document, good, bad) triples.")
        examples = [Example(*one) for one in parts]
    if not examples:
        raise ValueError("give at least one example, or a prompt without {examples}.")
    if "bad" in fields and not all(example.bad for example in examples):
        raise ValueError("this prompt shows bad questions, too: give examples as (document, good, bad) triples.")
    return examples
