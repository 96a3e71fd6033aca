"""A sentence-transformers model as an encoder: the modules of its sides, how vectors are compared, encoding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyterrier_dr
from pyterrier_dr import SimFn

from ...engine import batching
from ...engine.locks import using
from ...engine.tokens import disarmed
from . import apart, model, modules, similarity, states, training
from .encoder import Encoder
from .views import QueryEncoder

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer
    from torch import Tensor, nn


class SentenceEncoder(Encoder):
    """The encoder that a BiEncoder is: queries are encoded by its model, documents too, unless they are encoded apart.

    A class of them says its ``model`` and what it was built from.
    """

    name_or_path: Any
    precision: str
    device: str | None
    _doc_encoder: pyterrier_dr.BiEncoder | None
    _apart: bool | None = None

    @property
    def model(self) -> SentenceTransformer:
        """The sentence-transformers model."""
        raise TypeError(f"{type(self).__name__} does not say its model.")

    @property
    def apart(self) -> bool:
        """Whether the documents' encoder is no part of the model: a USTAD, or one of another library."""
        if self._apart is None:
            self._apart = apart.is_apart(self)
        return self._apart

    @property
    def asymmetric(self) -> bool:
        """Whether queries and documents have encoders of their own."""
        return self.apart or modules.routed(self.model)

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return modules.dimension(list(self.query_modules()), self.model.truncate_dim)

    def query_modules(self) -> nn.Module:
        """The modules that encode a query."""
        return modules.side(self.model, "query")

    def doc_modules(self) -> nn.Module:
        """The modules that encode a document.

        Raises:
            TypeError: if there are none, another encoder encoding documents.
        """
        if self.apart:
            raise TypeError(f"the documents of {self!r} are not encoded by its model.")
        return modules.side(self.model, "document")

    # -- how vectors are compared -------------------------------------------------------------------------------------

    @property
    def sim_fn(self) -> SimFn:
        """``dot``, or ``cos`` where cosines are asked for and the model itself does not normalise its vectors.

        Then :meth:`encode_queries`, :meth:`encode_docs` and all that is built on them normalise, so that a FlexIndex
        of either similarity ranks as the student does.
        """
        return SimFn.cos if similarity.normalises(self) else SimFn.dot

    @property
    def scores_cosines(self) -> bool:
        """Whether its scores are cosines, in [-1, 1], which losses over differences of scores divide by about 0.05."""
        return similarity.of(self) == similarity.COSINE

    # -- encoding -----------------------------------------------------------------------------------------------------

    def encode_side(self, texts: list[str], side: str, batch_size: int) -> np.ndarray:
        """Vectors float32 ``[n, dimension]`` of n ≥ 1 texts of the ``"query"`` or ``"document"`` side."""
        if side == "document" and self.apart:
            return apart.encode(self, texts)
        return batching.run(
            texts,
            prepare=lambda chunk: self.tokenise(chunk, side),
            forward=lambda features: self.pooled(self.model(dict(features), task=side), side),
            device=batching.infer_device(self.device),
            precision=self.precision,
            batch_size=batch_size,
            verbose=self.verbose,
            desc="Encoding queries" if side == "query" else "Encoding documents",
            unit="q" if side == "query" else "d",
            model=self.model,
        )

    def encode_queries_torch(self, texts: list[str], batch_size: int | None = None) -> torch.Tensor:
        """Encode query texts with gradients; ``[n, dimension]`` on the model's device."""
        if not texts:
            import torch

            return torch.empty((0, self.dimension), device=self.model.device)
        return training.embed(self, self.tokenise(list(texts), "query"), "query", batch_size)

    def encode_query_states(self, texts: Sequence[str], layers: Sequence[int]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Vectors of queries, and what some layers say of their tokens.

        Args, returned values and errors as of ``states.encode``.
        """
        if getattr(self, "served", None) is not None:
            raise ValueError(f"{self!r} was exported, and gives no states: ask the student that it was made of.")
        return states.encode(self, list(texts), layers)

    def tokenise(self, texts: list[str], task: str) -> dict[str, Any]:
        """Tokenised ``texts`` ``[n, L]`` for the ``"query"`` or ``"document"`` side, its prompt in front."""
        names = ("query",) if task == "query" else model.DOC_PROMPTS
        prompt = next((self.model.prompts[name] for name in names if self.model.prompts.get(name)), None)
        tokenizer = getattr(next(iter(self._side(task))), "tokenizer", None)
        with using(tokenizer):
            return self.model.preprocess(disarmed(tokenizer, texts), prompt=prompt, task=task)

    def pooled(self, out: dict[str, Any], task: str) -> Tensor:
        """Vectors ``[n, dimension]`` of what the model gives for n texts: cut and normalised as the checkpoint asks."""
        return similarity.pooled(self.model, self._side(task), out)

    def _side(self, task: str) -> nn.Module:
        return self.query_modules() if task == "query" else self.doc_modules()

    def query_encoder(
        self, verbose: bool | None = None, batch_size: int | None = None, *, states: Sequence[int] | None = None
    ) -> QueryEncoder:
        """Q → Q with ``query_vec`` (float32[dimension]); also R → R.

        Args:
            verbose: whether to show progress; None = as this model.
            batch_size: as in the constructor.
            states: layers (1 = the first, −1 = the last) whose states of the query's tokens are written, too:
                ``query_states``, float16[tokens, layers, D]. About 20 kB a query.
        """
        return QueryEncoder(self, verbose=verbose, batch_size=batch_size, states=states)
