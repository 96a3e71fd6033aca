"""How a BiEncoder trains: what it checks, its batches, its forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ...frames import DOC_VEC
from ...losses import base as losses
from ..base import distinct_documents
from . import states

if TYPE_CHECKING:
    from torch import Tensor

    from ...training.lists import QueryList
    from .bi_encoder import BiEncoder
    from .sentence_encoder import SentenceEncoder


def check(student: BiEncoder, needs: frozenset[str], vectors: dict[str, int]) -> None:
    """Check what training would trip over; arguments as for :meth:`~pyterrier_distill.students.base.Student`'s.

    Raises:
        ValueError: naming the column, both dimensions, and the projection that would mend it; or for a ``doc_index``
            of documents whose encoder would move.
    """
    if student.documents_move(needs) and student.doc_index is not None:
        raise ValueError(
            "doc_index holds vectors of documents whose encoder this training would change: build the student"
            " with doc_index=None, or with doc_encoder= and freeze_docs=True."
        )
    for column, given in vectors.items():
        if given != student.dimension:
            raise ValueError(
                f"the teacher's {column!r} has {given} dimensions and the student {student.dimension}:"
                f" build the student with projection={given}."
            )


def look_up(student: BiEncoder, lists: list[QueryList]) -> None:
    """Give each list the vectors of its documents, each document encoded or looked up once."""
    lists = [one for one in lists if len(one.docnos)]
    if not lists:
        return
    columns = {"docno": [docno for one in lists for docno in one.docnos]}
    if all(one.texts is not None for one in lists):
        columns[student.text_field] = [text for one in lists for text in one.texts or ()]
    told = list(columns)  # a document may have another text in another list
    frame = pd.DataFrame(columns).drop_duplicates()
    matrix = np.stack(list(student.doc_encoder()(frame)[DOC_VEC]))
    place = {key: row for row, key in enumerate(frame[told].itertuples(index=False, name=None))}
    for one in lists:
        one.doc_matrix = matrix
        keys = zip(one.docnos, one.texts or (), strict=True) if len(told) > 1 else ((docno,) for docno in one.docnos)
        one.doc_rows = np.array([place[key] for key in keys])


def collate(student: BiEncoder, lists: list[QueryList], needs: frozenset[str]) -> dict[str, Any]:
    """A batch: tokenised queries, the distinct documents of all lists (tokens or vectors), and who is where."""
    import torch

    from ...engine import processes

    batch: dict[str, Any] = {"queries": student.tokenise([one.query for one in lists], "query")}
    if not needs - losses.QUERY_SIDE:
        return batch
    documents, index = distinct_documents(lists)
    batch["index"] = index
    if processes.world() > 1:
        batch["keys"] = torch.tensor([processes.key(document) for document in documents], dtype=torch.int64)
    matrix = next((one.doc_matrix for one in lists if one.doc_matrix is not None), None)
    if not documents and not student.documents_move(needs):  # one that counts for nothing stands in for them
        batch["documents"] = torch.zeros(1, student.dimension)
        return batch
    if matrix is None:
        batch["documents"] = student.tokenise([text or "" for _, text in documents] or [""], "document")
        return batch
    vectors = np.empty((len(documents), matrix.shape[1]), dtype=matrix.dtype)
    for row, one in enumerate(lists):
        if one.doc_matrix is not None:  # lists that were read apart have matrices of their own
            vectors[index[row, : len(one.docnos)]] = one.doc_matrix[one.doc_rows]
    batch["documents"] = torch.from_numpy(vectors)
    return batch


def forward(student: BiEncoder, batch: dict[str, Any], mask: Tensor, needs: frozenset[str]) -> losses.Outputs:
    """One forward pass over a collated batch; only what ``needs`` names is computed."""
    import torch

    from ...engine import processes

    outputs = losses.Outputs(mask=mask)
    if losses.QUERY_STATES in needs:
        queries, outputs.query_states = states.embed(student, batch["queries"])
    else:
        queries = embed(student, batch["queries"], "query")
    outputs.query_vectors = queries
    if not needs - losses.QUERY_SIDE:
        return outputs
    documents = batch["documents"]
    if not isinstance(documents, torch.Tensor):
        documents = embed(student, documents, "document")
    documents = documents.to(queries.device)
    index = batch["index"].to(queries.device)
    if losses.DOC_VECTORS in needs:
        outputs.doc_vectors = documents[index]
    if needs & {losses.SCORES, losses.BATCH_SCORES}:
        if processes.sharing() and losses.BATCH_SCORES in needs:
            index, documents = processes.gather_documents(index, batch["keys"].to(index.device), documents)
        outputs.batch_scores = queries @ documents.T
        outputs.batch_index = index
        outputs.scores = outputs.batch_scores.gather(-1, index)
    return outputs


def embed(student: SentenceEncoder, features: dict[str, Any], side: str, batch_size: int | None = None) -> Tensor:
    """Vectors ``[n, dimension]`` of tokenised texts, with gradients; short texts are not padded to long ones."""
    from ...engine import micro_batches

    def run(part: dict[str, Any]) -> Tensor:
        return student.pooled(student.model(dict(part), task=side), side)

    return micro_batches.run(features, run, student.model.device, rows=batch_size, model=student.model)
