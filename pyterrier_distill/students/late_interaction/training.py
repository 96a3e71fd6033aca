"""How a LateInteraction student trains: its batches, its forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...losses import base as losses
from ..base import distinct_documents

if TYPE_CHECKING:
    from torch import Tensor

    from ...training.lists import QueryList
    from .late_interaction import LateInteraction


def collate(student: LateInteraction, lists: list[QueryList]) -> dict[str, Any]:
    """A batch: tokenised queries, the distinct documents of all lists, and who is where (int ``[B, N]``)."""
    import torch

    from ...engine import processes

    column, index = distinct_documents(lists)
    queries = student.tokenise([one.query for one in lists], "query")
    documents = student.tokenise([text or "" for _, text in column], "document")
    batch = {"queries": queries, "documents": documents, "index": index}
    if processes.world() > 1:
        batch["keys"] = torch.tensor([processes.key(document) for document in column])
    return batch


def forward(
    student: LateInteraction, batch: dict[str, Any], mask: Tensor, needs: frozenset[str]
) -> losses.Outputs:
    """One forward pass over a collated batch; other lists' documents are scored only for losses that read them."""
    import torch
    from sentence_transformers.util.similarity import maxsim

    from ...engine import processes

    queries, query_mask = embed(student, batch["queries"], "query")
    documents, doc_mask = embed(student, batch["documents"], "document")
    mask, index = mask.to(queries.device), batch["index"].to(queries.device)
    outputs = losses.Outputs(mask=mask)
    with torch.autocast(queries.device.type, enabled=False):  # in half precision close documents would tie
        if losses.BATCH_SCORES in needs:
            if processes.sharing():
                keys = batch["keys"].to(index.device)
                index, documents, doc_mask = processes.gather_documents(index, keys, documents, doc_mask)
            outputs.batch_scores = maxsim(queries, documents, query_mask, doc_mask)
            outputs.batch_index = index
            outputs.scores = outputs.batch_scores.gather(-1, index)
            return outputs
        rows = []
        for row, places in enumerate(index):
            own = slice(row, row + 1)
            rows.append(maxsim(queries[own], documents[places], query_mask[own], doc_mask[places]))
        outputs.scores = torch.cat(rows)
    return outputs


def embed(student: LateInteraction, features: dict[str, Any], task: str) -> tuple[Tensor, Tensor]:
    """Token vectors of tokenised texts, with gradients; short texts are not padded to long ones inside the model.

    Args:
        student: whose model it is.
    features: n tokenised texts.
        task: ``"query"`` or ``"document"``.

    Returns:
        ``[n, L, D]`` with 0 in the padding, and bool ``[n, L]``, True = a vector that counts.
    """
    import torch
    from torch.nn.functional import pad

    from ...engine import micro_batches

    def forward(part: dict[str, Any]) -> tuple[Tensor, Tensor]:
        return student.token_vectors(dict(part), task)

    order, vectors, masks = [], [], []
    for positions, _, (found, mask) in micro_batches.pieces(features, forward, student.model.device):
        vectors.append(found.float())
        masks.append(mask)
        order.append(positions)
    width = max(mask.shape[1] for mask in masks)
    back = torch.argsort(torch.cat(order)).to(student.model.device)
    padded = torch.cat([pad(part, (0, 0, 0, width - part.shape[1])) for part in vectors])
    return padded[back], torch.cat([pad(mask, (0, width - mask.shape[1])) for mask in masks])[back]
