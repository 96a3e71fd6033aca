"""What is trained on: the labels of one collection or of several, each with what belongs to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..frames import LABEL
from ..frames.given import qrels as judgements
from ..losses import Loss
from . import contents
from .lists import QueryList, check_lists
from .reading import Reader
from .several import Named, SeveralLists
from .streaming import BUFFER, StoredLists

if TYPE_CHECKING:
    from ..sampling.samplers import ListSampler


@dataclass(frozen=True)
class Source:
    """The labels of one collection, and what belongs to them; see :meth:`~pyterrier_distill.Distiller.fit`.

    Attributes:
        res: a labelled frame, or a label store.
        qrels: its judgements, or None.
        text: where its documents' texts are; None = with the labels.
        topics: the texts of its queries; None = with the labels.
        collection: what tells its documents and queries from those of other collections; "" = there are none.
    """

    res: Any
    qrels: pd.DataFrame | None = None
    text: Any = None
    topics: pd.DataFrame | None = None
    collection: str = ""

    @property
    def columns(self) -> list[str]:
        """The columns of its labels, those of ids and texts among them where it is a frame."""
        return list(self.res.columns if isinstance(self.res, pd.DataFrame) else self.res.columns())

    def fingerprint(self, loss: Loss, sampler: ListSampler | None, text_field: str) -> str:
        """Of all that is read of it."""
        parts = (self.res, self.qrels, self.text, self.topics)
        told = ("-" if part is None else contents.fingerprint(part, loss, sampler, text_field) for part in parts)
        return ",".join(told)


def sources(
    res: Any, qrels: Any = None, text: Any = None, topics: Any = None, proportions: Sequence[float] | None = None
) -> list[Source]:
    """What was given to be trained on, collection by collection; checked as far as that costs nothing.

    Raises:
        TypeError: for labels that are neither a frame nor a store.
        ValueError: if what belongs to several collections is not told one by one, or ``proportions`` are none.
    """
    if not isinstance(res, (list, tuple)):
        if proportions is not None:
            raise ValueError("proportions= are those of several collections: fit([one, other], proportions=[2, 1]).")
        return [Source(_labels(res, "res"), judgements(qrels), text, topics)]
    if not res:
        raise ValueError("res must be a labelled frame, a LabelStore, or a list of them, not an empty list.")
    number = len(res)
    each: dict[str, Sequence[Any]] = {}
    for name, told in (("qrels", qrels), ("text", text), ("topics", topics)):
        if told is not None and (not isinstance(told, (list, tuple)) or len(told) != number):
            raise ValueError(
                f"{name} must be a list of {number}, one for each collection, None for those without: an id means"
                " another query or document in each."
            )
        each[name] = [None] * number if told is None else told
    if proportions is not None:
        share = list(proportions)
        wrong = len(share) != number or any(isinstance(p, bool) or not isinstance(p, (int, float)) for p in share)
        if wrong or not all(0 < p < float("inf") for p in share):
            raise ValueError(
                f"proportions must be {number} positive numbers, one for each collection, not {proportions!r}."
            )
    names = ["" if number == 1 else f"{n}\0" for n in range(number)]
    parts = zip(res, map(judgements, each["qrels"]), each["text"], each["topics"], names, strict=True)
    return [Source(_labels(one, "each collection"), *others) for one, *others in parts]


def _labels(given: Any, what: str) -> Any:
    if not isinstance(given, pd.DataFrame) and not hasattr(given, "blocks"):
        raise TypeError(f"{what} must be a labelled frame or a LabelStore, not {str(given)[:60]!r}.")
    return given


def reading(loss: Loss, given: Sequence[Source]) -> Loss:
    """The loss with its label columns chosen among those that all collections have.

    Raises:
        ValueError: if collections have different ones, naming a collection, the column that it lacks, and another's.
    """
    for number, one in enumerate(given, start=1):
        if len(given) > 1 and not one.columns:
            told = f"collection {number} of {len(given)}: {one.res!r} holds no labelled documents"
            raise ValueError(f"{told}: build it, or is its path another?")
    chosen = [loss.reading(one.columns) for one in given]
    for own in chosen:
        for column in own.columns():
            having = [n for n, other in enumerate(given, start=1) if _has(other, column)]
            lacking = [n for n in range(1, len(given) + 1) if n not in having]
            if having and lacking:
                other = given[lacking[0] - 1]
                held = ", ".join(c for c in other.columns if c not in ("qid", "query", "docno")) or "no labels"
                raise ValueError(
                    f"collections that are trained on together need the same label columns: {own!r} reads {column!r},"
                    f" which collection {having[0]} has and collection {lacking[0]} lacks (it has {held})."
                )
    return chosen[0]


def _has(source: Source, column: str) -> bool:
    return column in source.columns or (column == LABEL and source.qrels is not None)


def read(
    given: Sequence[Source],
    student: Any,
    loss: Loss,
    context: Any,
    sampler: ListSampler | None = None,
    proportions: Sequence[float] | None = None,
) -> Any:
    """Lists of frames, all in memory; of stores, a block at a time; of several collections, one behind the other.

    Args:
        given: one or several.
        student: what will be trained.
        loss: names the label columns.
        context: the transformer that reads, for messages.
        sampler: draws documents of the lists, or None.
        proportions: how often lists of each collection come; None = each list once an epoch.

    Raises:
        ValueError, MissingLabelError: for what cannot be trained on, naming the collection where there are several.
    """
    if len(given) > 1 and getattr(student, "doc_index", None) is not None:
        raise ValueError(
            "doc_index holds vectors by the docnos of one collection: to train on several, build the student without."
        )
    parts: list[Any] = []
    for number, one in enumerate(given, start=1):
        own = one.text is None and not isinstance(one.res, pd.DataFrame) and len(one.res.texts)
        reader = Reader(
            student, loss, one.qrels, one.res if own else one.text, context, sampler, one.topics, one.collection
        )
        with Named(number, len(given)):
            if isinstance(one.res, pd.DataFrame):
                parts.append(reader.read(one.res, by_content=True))
                continue
            stored = StoredLists(one.res, reader, max(1, BUFFER // len(given)) if len(given) > 1 else None)
            if not len(stored):
                raise ValueError(f"{one.res!r} holds no labelled documents: build it first, or is its path another?")
            parts.append(stored)
    total = sum(map(len, parts))
    for number, part in enumerate(parts, start=1):
        with Named(number, len(given)):
            if isinstance(part, list):
                check_lists(part, loss, total)
            else:
                part.check(total)
    if len(parts) == 1:
        return parts[0]
    _check_vectors([part[0] for part in parts], loss)
    return SeveralLists(parts, proportions)


def _check_vectors(first: Sequence[QueryList], loss: Loss) -> None:
    """Check that teachers' vectors have as many dimensions in all collections, given a list of each."""
    for column in (column for column, kind in loss.reads().items() if kind.is_vector):
        sizes = [int(np.shape(one.labels[column])[-1]) for one in first]
        if len(set(sizes)) > 1:
            raise ValueError(
                f"the teachers' {column!r} have {', '.join(map(str, sizes))} dimensions in the collections: label them"
                " all with one teacher."
            )


def fingerprint(
    given: Sequence[Source],
    validation: tuple[Any, Any],
    queries: pd.DataFrame | None,
    proportions: Sequence[float] | None,
    reads: tuple[Any, Any, str],
) -> str:
    """The fingerprint of all that a training reads.

    Args:
        given: of :func:`sources`.
        validation: a frame or store, and judgements, or None.
        queries: those without documents, or None.
        proportions: of the collections, or None.
        reads: the loss, the sampler, and the column of document text.
    """
    one, (held, qrels_va) = given[0], validation
    parts = (one.res, one.qrels, held, qrels_va, one.text, one.topics) if len(given) == 1 else (held, qrels_va)
    told = [contents.fingerprint(part, *reads) for part in (*parts, queries) if part is not None]
    if len(given) > 1:
        told = [f"[{';'.join(each.fingerprint(*reads) for each in given)}]", *told]
    if proportions is not None:
        told.append("@" + ":".join(f"{share / sum(proportions):.6g}" for share in proportions))
    return "+".join(told)
