"""What losses share that compare a query with the documents of other queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..frames import DOC_VEC, QUERY_VEC, TEACHER_SCORE
from ..frames.kinds import QUERY_VECTOR, VECTOR, Kind
from . import base

if TYPE_CHECKING:
    from torch import Tensor


class BatchLoss(base.Loss):
    """A loss over the teacher's scores of a query's list or, ``in_batch``, of all documents of the batch.

    Args:
        label: the teacher's scores; in batch, the columns of its vectors of queries and documents. ``"teacher_score"``
            is there ``("query_vec", "doc_vec")``.
        in_batch: whether a query is compared with the documents of the others, too.
    """

    def __init__(self, label: str | Sequence[str], in_batch: bool):
        if not isinstance(in_batch, bool):
            raise ValueError(f"in_batch must be True or False, not {in_batch!r}.")
        pair = tuple(label) if isinstance(label, (list, tuple)) else ()
        two = len(pair) == 2 and all(isinstance(column, str) for column in pair) and pair[0] != pair[1]
        if in_batch and label != TEACHER_SCORE and not two:
            raise ValueError(
                "in_batch=True takes the teacher's scores from its vectors: label must name the columns of queries' and"
                f" of documents' vectors, such as ('query_vec', 'doc_vec'), not {label!r}."
            )
        if not in_batch and not (isinstance(label, str) and label):
            raise ValueError(f"label must be the column of the teacher's scores, not {label!r}; or pass in_batch=True.")
        self.label: str | tuple[str, ...] = label if isinstance(label, str) else pair
        self.in_batch = in_batch
        if in_batch:
            self.needs = frozenset({base.BATCH_SCORES})
            self.min_documents = 1

    def reads(self) -> dict[str, Kind]:
        if not self.in_batch:
            return super().reads()
        queries, documents = self._vectors()
        return {queries: QUERY_VECTOR, documents: VECTOR}

    def _vectors(self) -> tuple[str, str]:
        queries, documents = (QUERY_VEC, DOC_VEC) if isinstance(self.label, str) else self.label
        return queries, documents

    def check_vectors(self, dimensions: Mapping[str, int]) -> None:
        if not self.in_batch:
            return
        queries, documents = self._vectors()
        if dimensions[queries] != dimensions[documents]:
            raise ValueError(
                f"{self!r} compares the vectors of {queries!r}, of {dimensions[queries]} dimensions, with those of"
                f" {documents!r}, of {dimensions[documents]}: both must come from one teacher."
            )

    def compared(self, outputs: base.Outputs, labels: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The student's scores, the teacher's, and which count: ``[B, N]`` each, in batch ``[B, M]``.

        In batch a document counts once, however many lists hold it; queries without documents of their own do not.
        """
        if not self.in_batch:
            return outputs.scores, labels[str(self.label)], outputs.mask
        import torch

        queries, documents = (labels[column].float() for column in self._vectors())
        student = outputs.batch_scores
        with torch.autocast(student.device.type, enabled=False):  # in half precision close documents would tie
            teacher = queries @ _of_columns(outputs, documents).T
        # −inf alone says that a document must not count: of a student that gives NaN or ∞ the loss must not be 0
        counted = (student != float("-inf")) & outputs.mask.any(dim=-1, keepdim=True)
        return student, teacher, counted


def _of_columns(outputs: base.Outputs, values: Tensor) -> Tensor:
    """What is said of the documents of the lists, ``[B, N, D]``, of each column of ``batch_scores``: ``[M, D]``."""
    columns = values.new_zeros(outputs.batch_scores.shape[1], values.shape[-1])
    columns[outputs.batch_index[outputs.mask]] = values[outputs.mask]
    return columns


def _own_columns(outputs: base.Outputs, which: Tensor) -> Tensor:
    """Where some documents of each query's own list, bool ``[B, N]``, stand in the batch: bool ``[B, M]``."""
    import torch

    batch = outputs.batch_index
    found = torch.zeros_like(outputs.batch_scores, dtype=torch.bool)
    which = which & outputs.mask  # padding points at column 0 and must not mark it
    rows = torch.arange(len(batch), device=batch.device).unsqueeze(-1).expand_as(batch)
    found[rows[which], batch[which]] = True
    return found


def no_negatives(outputs: base.Outputs, labels: Mapping[str, Tensor], own: Tensor) -> Tensor:
    """Which documents of the batch are no negatives of a query: bool ``[B, M]``.

    Those judged relevant to it, also where they stand in other queries' lists only, those with the text of one, and
    those of its own list that ``own`` names. Queries of the same text are one query: what is no negative of one is none
    of the other.

    Args:
        outputs: with ``batch_scores`` and ``batch_index``.
        labels: of the batch, with :data:`base.DOCUMENT_KEYS`, :data:`base.RELEVANT_KEYS` and :data:`base.QUERY_KEYS`
            where they are known.
        own: bool ``[B, N]``, those of each query's own list: its relevant ones, at least.
    """
    import torch

    known = _own_columns(outputs, own)
    if base.RELEVANT_KEYS in labels:
        columns = _of_columns(outputs, labels[base.DOCUMENT_KEYS])
        for row, told in enumerate(labels[base.RELEVANT_KEYS]):
            if (told := told[told != 0]).numel():
                known[row] |= torch.isin(columns, told).any(dim=-1)
    if base.QUERY_KEYS in labels:
        keys = labels[base.QUERY_KEYS]
        same = keys.unsqueeze(0) == keys.unsqueeze(1)
        known = (same.float() @ known.float()) > 0
    return known
