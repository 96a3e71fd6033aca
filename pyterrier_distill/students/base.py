"""What a student is: what a Distiller trains, and what ranks afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..losses import base as losses
from .artifact import StudentArtifact

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ..training.lists import QueryList


class Student(StudentArtifact):
    """A model that a Distiller trains on lists of documents, and that ranks as a transformer.

    A class of students loads its ``model``, makes a batch of lists (:meth:`collate`) and runs it
    (:meth:`forward`); the rest has defaults: it reads texts, all of it trains, nothing is prepared.

    Attributes:
        gives: what a loss may ask of it, names of :class:`~pyterrier_distill.losses.base.Outputs`.
        score_scale: on what scale its scores are, one of ``losses.base.SCALES``; losses ask for it.
        text_field: the column of document text.
    """

    gives: frozenset[str] = frozenset({losses.SCORES})
    score_scale: str = losses.LOGIT
    text_field: str

    # -- what a class of students says --------------------------------------------------------------------------------

    def collate(self, lists: list[QueryList], needs: frozenset[str]) -> dict[str, Any]:
        """A batch of lists, as :meth:`forward` takes it.

        Args:
            lists: B lists.
            needs: the outputs that the loss reads.
        """
        raise TypeError(f"{type(self).__name__} does not say how a batch is made.")

    def forward(self, batch: dict[str, Any], mask: Tensor, needs: frozenset[str]) -> losses.Outputs:
        """One forward pass, with gradients; only what ``needs`` names has to be computed.

        Args:
            batch: of :meth:`collate`, anywhere.
            mask: bool ``[B, N]``, True = a real document.
            needs: the outputs that the loss reads.
        """
        raise TypeError(f"{type(self).__name__} does not say how it is run.")

    # -- what it may say besides --------------------------------------------------------------------------------------

    def training_columns(self, needs: frozenset[str]) -> tuple[str, ...]:
        """The columns besides labels that a frame must have to train with a loss that ``needs`` these outputs."""
        return ("qid", "query", "docno", self.text_field)

    def check_training(self, needs: frozenset[str], vectors: dict[str, int]) -> None:
        """Check what training would trip over, before it starts.

        Args:
            needs: the outputs that the loss reads.
            vectors: column → dimension of the teacher's vectors.

        Raises:
            ValueError: saying what does not go together, and what would.
        """

    def trainable(self, needs: frozenset[str]) -> nn.Module:
        """Freeze what training shall leave alone, and give what it shall change."""
        return self.model.requires_grad_(True)

    def settle(self) -> None:
        """What a Distiller calls at the end: rank again, and let all weights move that may."""
        self.model.eval().requires_grad_(True)  # frozen modules may be another encoder's, too

    def prepare_lists(self, lists: list[QueryList], needs: frozenset[str]) -> None:
        """Give lists, once, what each of their batches would compute anew."""

    def prepare_frame(self, frame: pd.DataFrame) -> pd.DataFrame:
        """A validation frame with what each ranking of it would compute anew."""
        return frame

    # -- sizes --------------------------------------------------------------------------------------------------------

    def num_parameters(self) -> int:
        """Number of weights."""
        return sum(parameter.numel() for parameter in self.model.parameters())


def distinct_documents(lists: Sequence[QueryList]) -> tuple[list[tuple[str, str | None]], torch.Tensor]:
    """The documents of several lists, each once.

    Args:
        lists: B lists.

    Returns:
        (docno, text) of M documents, text None where vectors stand in for it; and which of them stands where, int
        ``[B, N]``, 0 in the padding.
    """
    import torch

    place: dict[tuple[str, str | None], int] = {}
    index = torch.zeros(len(lists), max(1, *(len(one.docnos) for one in lists)), dtype=torch.long)
    for row, one in enumerate(lists):
        texts = one.texts if one.texts is not None else [None] * len(one.docnos)
        for slot, document in enumerate(zip(one.docnos, texts, strict=True)):
            index[row, slot] = place.setdefault(document, len(place))
    return list(place), index
