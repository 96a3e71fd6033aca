"""From a labelled frame to lists, and from lists to batches."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .. import frames
from ..engine import memory
from ..frames.kinds import States
from ..losses import base as losses
from . import order

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class QueryList:
    """One query with its documents, as the training frame had them.

    Attributes:
        query: its text.
        docnos: its documents in the frame's order; empty for losses on queries alone, and for queries that only
            the terms of a sum read which do so.
        texts: their texts, or None where vectors stand in for them.
        labels: column → what its kind (:mod:`..frames.kinds`) makes of a list.
        doc_rows: where in ``doc_matrix`` the vectors of its documents stand, if training leaves documents frozen.
        doc_matrix: ``[M, D]`` vectors of all lists' documents, each once.
        ranking: int ``[N]``, its documents from the first rank to the last; None = as they stand.
        relevant: bool ``[N]``, or None where nobody judged.
        qid: the query's id.
        known: int64 ``[R]``: numbers of the docnos and texts that are known to be relevant, for losses that contrast
            with other queries' documents; see :data:`..losses.base.RELEVANT_KEYS`.
        keys: int64 ``[N, 2]``: numbers of its documents' docnos and texts, 0 = none, for the same losses.
        asked: a number for the query's text, for the same losses; 0 = not yet.
        guest: whether it is computed for company only, in a process that has no list of a batch.
        collection: stands before its docnos in ``keys`` and ``known``, where several collections are trained on.
    """

    query: str
    docnos: Sequence[str]
    texts: Sequence[str] | None
    labels: dict[str, np.ndarray]
    doc_rows: np.ndarray | None = None
    doc_matrix: np.ndarray | None = None
    ranking: np.ndarray | None = None
    relevant: np.ndarray | None = None
    qid: str = ""
    known: np.ndarray | None = None
    keys: np.ndarray | None = None
    asked: int = 0
    guest: bool = False
    collection: str = ""

    def part(self, positions: Sequence[int], loss: losses.Loss) -> QueryList:
        """The list with some of its documents only; its ranking is not kept.

        Args:
            positions: of those documents, in the order that they shall have.
            loss: knows what each label is about.
        """
        kept = np.asarray(positions, dtype=int)
        kinds, size = loss.reads(), len(self.docnos)
        labels = {column: kinds[column].part(label, kept, size) for column, label in self.labels.items()}
        return dataclasses.replace(
            self,
            docnos=[self.docnos[n] for n in kept],
            texts=None if self.texts is None else [self.texts[n] for n in kept],
            labels=labels,
            doc_rows=None if self.doc_rows is None else self.doc_rows[kept],
            ranking=None,
            relevant=None if self.relevant is None else self.relevant[kept],
            keys=None if self.keys is None else self.keys[kept],
        )


def read_lists(
    frame: pd.DataFrame, loss: losses.Loss, text_field: str, *, judged: bool = False, ranked: bool = False
) -> list[QueryList]:
    """Group a checked frame into lists, in the order in which its queries first appear.

    Args:
        frame: an R frame; for losses on queries alone a Q frame will do, and documents are left aside.
        loss: which columns become labels.
        text_field: the column of document text; may be absent.
        judged: whether to note which documents are relevant (``label`` > 0).
        ranked: whether to note the ranking of each list.
    """
    if not loss.needs - losses.QUERY_SIDE:
        frame = frame.drop_duplicates("qid")
    codes, qids = pd.factorize(frame["qid"])
    rows_in_order = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes, minlength=len(qids)))
    rows_of = np.split(rows_in_order, ends[:-1]) if len(qids) else []
    first = np.array([rows[0] for rows in rows_of], dtype=int)
    named = [str(qid) for qid in qids.tolist()]  # an index of strings is slow to ask one by one
    queries = frame["query"].to_numpy(dtype=object)[first]
    kinds = loss.reads()
    cells = {c: kind.read(frame[c].iloc[first] if kind.per_query else frame[c]) for c, kind in kinds.items()}
    if not loss.needs - losses.QUERY_SIDE:
        return [QueryList(query, (), None, {c: cells[c][n] for c in kinds}) for n, query in enumerate(queries)]
    docnos = frame["docno"].to_numpy(dtype=object)
    texts = frame[text_field].to_numpy(dtype=object) if text_field in frame.columns else None
    places = order.ranking(frame) if ranked else None
    relevant = frame[frames.LABEL].to_numpy() > 0 if judged else None
    lists = []
    with memory.uncollected():
        for n, rows in enumerate(rows_of):
            labels = {
                c: cells[c][n] if kind.per_query else kind.of_list(cells[c][rows], docnos[rows])
                for c, kind in kinds.items()
            }
            texts_of = None if texts is None else texts[rows].tolist()
            lists.append(
                QueryList(
                    queries[n],
                    docnos[rows].tolist(),
                    texts_of,
                    labels,
                    ranking=None if places is None else np.argsort(places[rows], kind="stable"),
                    relevant=None if relevant is None else relevant[rows],
                    qid=named[n],
                )
            )
    return lists


def relevant_keys(docnos: Iterable[Any], texts: Sequence[str]) -> np.ndarray:
    """Numbers int64 ``[R]`` of documents that are relevant to a query, and of their texts."""
    return np.array([_key(docno, "docno") for docno in docnos] + [_key(text, "text") for text in texts], dtype=np.int64)


def document_keys(one: QueryList) -> np.ndarray:
    """Numbers int64 ``[N, 2]`` of a list's docnos and texts; 0 where vectors stand in for texts."""
    texts = [0] * len(one.docnos) if one.texts is None else [_key(text, "text") for text in one.texts]
    docnos = [_key(f"{one.collection}{docno}", "docno") for docno in one.docnos]
    return np.array(list(zip(docnos, texts, strict=True)), dtype=np.int64).reshape(-1, 2)


def query_key(one: QueryList) -> int:
    """A number for a query's text; queries of one number are one query."""
    return _key(one.query, "query")


def _key(cell: Any, kind: str) -> int:
    """A number that stands for an id, or for a text whatever white space is at its ends; never 0."""
    told = f"{kind}\0{cell if kind == 'docno' else str(cell).strip()}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(told, digest_size=8).digest(), "big", signed=True) or 1


def check_lists(lists: list[QueryList], loss: losses.Loss, total: int) -> None:
    """Check that there is something to learn.

    Args:
        lists: all of them, or the first ones.
        loss: what is to be learnt.
        total: how many there are.

    Raises:
        ValueError: for a single query, or where a loss that compares documents finds no list with two of them.
    """
    if total < 2:
        raise ValueError("the training frame holds 1 query; one teaches nothing general: pass at least 2.")
    longest = max(len(one.docnos) for one in lists)
    if loss.needs - losses.QUERY_SIDE and longest < loss.min_documents:
        raise ValueError(
            f"{loss!r} compares the documents of a query, but no query of the training frame has more than {longest}:"
            " take more candidates (retriever % 100)."
        )
    sizes = [len(one.docnos) for one in lists]
    for _, term in loss.terms():
        for column, kind in term.reads().items():
            if term.min_documents < 2:
                continue
            if (why := kind.nothing_to_learn([one.labels[column] for one in lists], sizes)) is not None:
                raise ValueError(f"{column!r} {why}: {term!r} has nothing to learn from it.")


def contrasts(loss: losses.Loss) -> bool:
    """Whether a loss reads judgements and the documents of other queries, which may be relevant, too."""
    return losses.BATCH_SCORES in loss.needs and frames.LABEL in loss.columns()


class Collator:
    """Lists → one batch: what the student reads, the mask, and the labels as padded tensors."""

    def __init__(self, student: Any, loss: losses.Loss):
        self.student = student
        self.loss = loss
        self.kinds = loss.reads()

    def __call__(self, lists: list[QueryList]) -> dict[str, Any]:
        import torch

        mask = torch.zeros(len(lists), max(1, *(len(one.docnos) for one in lists)), dtype=torch.bool)
        for row, one in enumerate(lists):
            mask[row, : len(one.docnos)] = True
        labels = {column: kind.batch([one.labels[column] for one in lists]) for column, kind in self.kinds.items()}
        for column, kind in self.kinds.items():
            found = labels[column]
            if not (kind.per_query or kind.counts_lists) and not found.shape[1]:  # queries alone
                labels[column] = found.new_zeros(len(lists), mask.shape[1], *found.shape[2:])
        batch = self.student.collate(lists, self.loss.needs)
        if contrasts(self.loss):
            labels.update(_contrasted(lists, mask.shape[1]))
        for column, kind in self.kinds.items():
            if isinstance(kind, States):
                _check_tokens(batch["queries"]["attention_mask"], lists, column)
        told = {"batch": batch, "mask": mask, "labels": labels}
        return {**told, "guest": True} if lists[0].guest else told


def _contrasted(lists: list[QueryList], width: int) -> dict[str, Tensor]:
    """Which documents of a batch are no negatives of a query, and which queries are the same."""
    import torch

    documents = torch.zeros(len(lists), width, 2, dtype=torch.int64)
    most = max(0 if one.known is None else len(one.known) for one in lists)
    relevant = torch.zeros(len(lists), max(1, most), dtype=torch.int64)
    for row, one in enumerate(lists):
        documents[row, : len(one.docnos)] = torch.from_numpy(document_keys(one) if one.keys is None else one.keys)
        if one.known is not None:
            relevant[row, : len(one.known)] = torch.from_numpy(one.known)
    queries = torch.tensor([one.asked or query_key(one) for one in lists])
    return {losses.DOCUMENT_KEYS: documents, losses.RELEVANT_KEYS: relevant, losses.QUERY_KEYS: queries}


def _check_tokens(mask: Tensor, lists: list[QueryList], column: str) -> None:
    """Check that student and teacher cut the queries into as many tokens.

    Raises:
        ValueError: with the first query for which they do not.
    """
    for one, tokens in zip(lists, mask.sum(dim=1).tolist(), strict=True):
        if len(one.labels[column]) != tokens:
            raise ValueError(
                f"{column!r} of query {one.query[:60]!r} holds {len(one.labels[column])} tokens, the student makes"
                f" {tokens} of it: states can be compared only under one tokenizer and max_length."
            )
