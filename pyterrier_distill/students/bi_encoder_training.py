"""How a BiEncoder trains: the columns it reads, its batches, its forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..frames import DOC_VEC
from ..losses import base as losses

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..training.lists import QueryList


class BiEncoderTraining:
    """The part of :class:`~pyterrier_distill.BiEncoder` that a Distiller calls."""

    #: What a loss may ask of this student.
    gives = losses.QUERY_SIDE | {losses.SCORES, losses.DOC_VECTORS, losses.BATCH_SCORES}

    def training_columns(self, needs: frozenset[str]) -> tuple[str, ...]:
        """The columns besides labels that a frame must have to train with a loss that ``needs`` these outputs."""
        columns: tuple[str, ...] = ("qid", "query")
        if needs - losses.QUERY_SIDE:
            columns += ("docno",)
            if self.doc_index is None or not self.freeze_docs:
                columns += (self.text_field,)
        return columns

    def check_training(self, needs: frozenset[str], vectors: dict[str, int]) -> None:
        """Check what training would trip over, before it starts.

        Args:
            needs: the outputs that the loss reads.
            vectors: column → dimension of the teacher's vectors.

        Raises:
            ValueError: naming the column, both dimensions, and the projection that would mend it; or for a
                ``doc_index`` of documents whose encoder would move.
        """
        moves = bool(needs - losses.QUERY_SIDE) and not (self.asymmetric and self.freeze_docs)
        if moves and self.doc_index is not None:
            raise ValueError(
                "doc_index holds vectors of documents whose encoder this training would change: build the student"
                " with doc_index=None, or with doc_encoder= and freeze_docs=True."
            )
        for column, given in vectors.items():
            if given != self.dimension:
                raise ValueError(
                    f"the teacher's {column!r} has {given} dimensions and the student {self.dimension}:"
                    f" build the student with projection={given}."
                )

    def trainable(self, needs: frozenset[str]) -> nn.Module:
        """Freeze what training shall leave alone, and return the modules that it shall change."""
        documents_move = bool(needs - losses.QUERY_SIDE) and not (self.asymmetric and self.freeze_docs)
        self.model.requires_grad_(False)
        modules = self.model if documents_move or not self.asymmetric else self.query_modules()
        modules.requires_grad_(True)
        return modules

    def prepare_lists(self, lists: list[QueryList], needs: frozenset[str]) -> None:
        """Give each list the vectors of its documents, once, where documents are frozen."""
        if needs <= losses.QUERY_SIDE or not (self.asymmetric and self.freeze_docs):
            return
        columns = {"docno": [docno for one in lists for docno in one.docnos]}
        if all(one.texts is not None for one in lists):
            columns[self.text_field] = [text for one in lists for text in one.texts]
        told = list(columns)  # a document may have another text in another list
        frame = pd.DataFrame(columns).drop_duplicates()
        matrix = np.stack(list(self.doc_encoder()(frame)[DOC_VEC]))
        place = {key: row for row, key in enumerate(frame[told].itertuples(index=False, name=None))}
        for one in lists:
            one.doc_matrix = matrix
            keys = zip(one.docnos, one.texts, strict=True) if len(told) > 1 else ((docno,) for docno in one.docnos)
            one.doc_rows = np.array([place[key] for key in keys])

    def prepare_frame(self, frame: pd.DataFrame) -> pd.DataFrame:
        """A validation frame with the vectors of its documents, computed once, where documents are frozen."""
        return (
            self.doc_encoder()(frame)
            if self.asymmetric and self.freeze_docs and DOC_VEC not in frame.columns
            else frame
        )

    def collate(self, lists: list[QueryList], needs: frozenset[str]) -> dict[str, Any]:
        """A batch: tokenised queries, the distinct documents of all lists (tokens or vectors), and who is where."""
        import torch

        from ..training import parallel

        batch: dict[str, Any] = {"queries": self.tokenise([one.query for one in lists], "query")}
        if not needs - losses.QUERY_SIDE:
            return batch
        column: dict[Any, int] = {}
        width = max(len(one.docnos) for one in lists)
        index = torch.zeros(len(lists), width, dtype=torch.long)
        texts, vectors = [], []
        for row, one in enumerate(lists):
            for slot, docno in enumerate(one.docnos):
                document = (docno, None if one.texts is None else one.texts[slot])
                if document not in column:
                    column[document] = len(column)
                    if one.doc_rows is not None:
                        vectors.append(one.doc_matrix[one.doc_rows[slot]])
                    else:
                        texts.append(one.texts[slot])
                index[row, slot] = column[document]
        batch["index"] = index
        batch["keys"] = torch.tensor([parallel.key(document) for document in column])
        if vectors:
            batch["documents"] = torch.from_numpy(np.stack(vectors))
        else:
            batch["documents"] = self.tokenise(texts, "document")
        return batch

    def forward(self, batch: dict[str, Any], mask: Tensor, needs: frozenset[str]) -> losses.Outputs:
        """One forward pass over a collated batch; only what ``needs`` names is computed."""
        import torch

        from ..training import parallel

        outputs = losses.Outputs(mask=mask)
        if losses.QUERY_STATES in needs:
            outputs.query_vectors, outputs.query_states = self.embed_states(batch["queries"])
        else:
            outputs.query_vectors = self.embed(batch["queries"], "query")
        queries = outputs.query_vectors
        if not needs - losses.QUERY_SIDE:
            return outputs
        documents = batch["documents"]
        if not isinstance(documents, torch.Tensor):
            documents = self.embed(documents, "document")
        documents = documents.to(queries.device)
        index = batch["index"].to(queries.device)
        if losses.DOC_VECTORS in needs:
            outputs.doc_vectors = documents[index]
        if needs & {losses.SCORES, losses.BATCH_SCORES}:
            if parallel.sharing() and losses.BATCH_SCORES in needs:
                index, documents = parallel.gather_documents(index, batch["keys"].to(index.device), documents)
            outputs.batch_scores = queries @ documents.T
            outputs.batch_index = index
            outputs.scores = outputs.batch_scores.gather(-1, index)
        return outputs
