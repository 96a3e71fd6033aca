"""The late mode of a USTAD as an encoder of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..late_interaction.encoder import TokenEncoder
from . import ranking

if TYPE_CHECKING:
    from .ustad import USTAD


class USTADTokenEncoder(TokenEncoder):
    """The token vectors of a USTAD's late mode: Q → Q, D → D, and R → R by MaxSim (Eq. 7).

    It shares its student's weights: ``(encoder >> MultiVectorIndex(path)).index(documents)`` indexes,
    ``encoder.query_encoder() >> index.retriever()`` retrieves. It is saved as the student:
    ``USTAD(path).as_token_encoder()``.

    Args:
        ustad: the student. Vectors of queries are multiplied by its late ``scale``, so MaxSim gives the late mode's
            scores.
        batch_size: most texts of one forward pass; PyTerrier also hands over this many documents at once when indexing.
    """

    schematic = {"label": "USTAD token encoder"}

    def __init__(self, ustad: USTAD, *, batch_size: int = 1024):
        self.ustad = ustad
        self.batch_size = batch_size
        self.text_field = ustad.text_field
        self.verbose = ustad.verbose
        self.device = ustad.device

    @property
    def dimension(self) -> int:
        """Length of a token's vector."""
        return self.ustad.dimension

    def encode(
        self, texts: Sequence[str], task: str, *, batch_size: int | None = None, verbose: bool | None = None
    ) -> list[np.ndarray]:
        """Token vectors of texts; equal texts are encoded once.

        Args:
            texts: n texts.
            task: ``"query"`` or ``"document"``.
            batch_size: as in the constructor.
            verbose: whether to show progress; None = as the student.

        Returns:
            n arrays float32 ``[tokens, dim]``; none for no texts, without loading the model.

        Raises:
            ValueError: for any other task.
        """
        if task not in ("query", "document"):
            raise ValueError(f"task must be 'query' or 'document', not {task!r}.")
        texts = list(texts)
        if not texts:
            return []
        shows = self.verbose if verbose is None else verbose
        size = batch_size or self.batch_size
        found = ranking.encoded(self.ustad, texts, task, pool=False, batch_size=size, verbose=shows)
        scale = np.float32(self.ustad.scale_of("late") if task == "query" else 1)
        return [scale * vectors for vectors in found]

    def subtransformers(self) -> dict:
        """None: the student is what this is made of, not a stage of a pipeline."""
        return {}

    def __repr__(self) -> str:
        size = "" if self.batch_size == 1024 else f", batch_size={self.batch_size}"
        return f"USTADTokenEncoder({self.ustad!r}{size})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, USTADTokenEncoder) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))
