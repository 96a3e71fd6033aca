"""How a LateInteraction student trains: the columns it reads, its batches, its forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from ..losses import base as losses

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..training.lists import QueryList


class LateInteractionTraining:
    """The part of :class:`~pyterrier_distill.LateInteraction` that a Distiller calls."""

    #: What a loss may ask of this student.
    gives: frozenset[str] = frozenset({losses.SCORES, losses.BATCH_SCORES})
    #: On what scale its scores are; losses ask for it.
    score_scale = losses.MAX_SIM

    def training_columns(self, needs: frozenset[str]) -> tuple[str, ...]:
        """The columns besides labels that a frame must have to train."""
        return ("qid", "query", "docno", self.text_field)

    def check_training(self, needs: frozenset[str], vectors: dict[str, int]) -> None:
        """Nothing that training would trip over."""

    def trainable(self, needs: frozenset[str]) -> nn.Module:
        """What training shall change: all of it."""
        self.model.requires_grad_(True)
        return self.model

    def prepare_lists(self, lists: list[QueryList], needs: frozenset[str]) -> None:
        """Nothing to prepare."""

    def prepare_frame(self, frame: pd.DataFrame) -> pd.DataFrame:
        """A validation frame as it is."""
        return frame

    def collate(self, lists: list[QueryList], needs: frozenset[str]) -> dict[str, Any]:
        """A batch: tokenised queries, the distinct documents of all lists, and who is where (int ``[B, N]``)."""
        import torch

        from ..training import parallel

        column: dict[tuple, int] = {}
        texts: list[str] = []
        index = torch.zeros(len(lists), max(len(one.docnos) for one in lists), dtype=torch.long)
        for row, one in enumerate(lists):
            for slot, (docno, text) in enumerate(zip(one.docnos, one.texts, strict=True)):
                if (docno, text) not in column:
                    column[docno, text] = len(column)
                    texts.append(text)
                index[row, slot] = column[docno, text]
        queries = self.tokenise([one.query for one in lists], "query")
        documents = self.tokenise(texts, "document")
        keys = torch.tensor([parallel.key(document) for document in column])
        return {"queries": queries, "documents": documents, "index": index, "keys": keys}

    def forward(self, batch: dict[str, Any], mask: Tensor, needs: frozenset[str]) -> losses.Outputs:
        """One forward pass over a collated batch; other lists' documents are scored only for losses that read them."""
        import torch
        from sentence_transformers.util.similarity import maxsim

        from ..training import parallel

        queries, query_mask = self.embed(batch["queries"], "query")
        documents, doc_mask = self.embed(batch["documents"], "document")
        mask, index = mask.to(queries.device), batch["index"].to(queries.device)
        outputs = losses.Outputs(mask=mask)
        with torch.autocast(queries.device.type, enabled=False):  # in half precision close documents would tie
            if losses.BATCH_SCORES in needs:
                if parallel.sharing():
                    keys = batch["keys"].to(index.device)
                    index, documents, doc_mask = parallel.gather_documents(index, keys, documents, doc_mask)
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

    def embed(self, features: dict[str, Any], task: str) -> tuple[Tensor, Tensor]:
        """Token vectors of tokenised texts, with gradients; short texts are not padded to long ones inside the model.

        Args:
            features: n tokenised texts.
            task: ``"query"`` or ``"document"``.

        Returns:
            ``[n, L, D]`` with 0 in the padding, and bool ``[n, L]``, True = a vector that counts.
        """
        import torch
        from torch.nn.functional import pad

        from ..training import micro_batches

        def forward(part: dict[str, Any]) -> tuple[Tensor, Tensor]:
            return self.token_vectors(dict(part), task)

        order, vectors, masks = [], [], []
        for positions, _, (found, mask) in micro_batches.pieces(features, forward, self.model.device):
            vectors.append(found.float())
            masks.append(mask)
            order.append(positions)
        width = max(mask.shape[1] for mask in masks)
        back = torch.argsort(torch.cat(order)).to(self.model.device)
        padded = torch.cat([pad(part, (0, 0, 0, width - part.shape[1])) for part in vectors])
        return padded[back], torch.cat([pad(mask, (0, width - mask.shape[1])) for mask in masks])[back]
