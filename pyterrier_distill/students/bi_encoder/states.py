"""What the layers of a bi-encoder say of each token of a query."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from ...engine import batching
from ...engine.locks import hidden_states

if TYPE_CHECKING:
    from torch import Tensor

    from .sentence_encoder import SentenceEncoder


@contextmanager
def _hidden_states(student: SentenceEncoder) -> Iterator[None]:
    """Within, the query encoder gives the states of all its layers."""
    with hidden_states(list(student.query_modules())[0].model.config):
        yield


def embed(student: SentenceEncoder, features: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Vectors and states of tokenised queries, with gradients.

    Args:
        student: whose query encoder it is.
        features: tokenised queries ``[n, L]``.

    Returns:
        ``[n, dimension]``; and ``[T, layers, D]``: the states of all tokens, queries one behind the other.
    """
    import torch

    from ...engine import micro_batches

    def forward(part: dict[str, Any]) -> tuple[Tensor, Tensor]:
        with _hidden_states(student):  # here, for the backward pass may call it again
            out = student.model(dict(part), task="query")
        mask = part["attention_mask"].bool()
        layers = torch.stack([layer[mask] for layer in out["all_layer_embeddings"][1:]], dim=1)
        return student.pooled(out, "query").float(), layers

    device = student.model.device
    vectors, order = [], []
    states: dict[int, Any] = {}
    for positions, part, (pooled, layers) in micro_batches.pieces(features, forward, device):
        vectors.append(pooled)
        states.update(
            zip(positions.tolist(), layers.split(part["attention_mask"].sum(dim=1).tolist()), strict=True)
        )
        order.append(positions)
    inverse = torch.argsort(torch.cat(order)).to(device)
    return torch.cat(vectors)[inverse], torch.cat([states[n] for n in range(len(states))])


def encode(
    student: SentenceEncoder, texts: list[str], layers: Sequence[int]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Vectors of queries, and what some layers say of their tokens.

    Args:
        student: as for :func:`embed`.
        texts: n queries.
        layers: which layers, 1 = the first, −1 = the last.

    Returns:
        float32 ``[n, dimension]``; and n arrays float16 ``[tokens, layers, D]``.

    Raises:
        ValueError: if there is no such layer.
    """
    import torch

    if not texts:
        return np.empty((0, 0), dtype=np.float32), []
    total = list(student.query_modules())[0].model.config.num_hidden_layers
    wrong = [layer for layer in layers if layer == 0 or not -total <= layer <= total]
    if wrong or not layers:
        raise ValueError(f"states={list(layers)}: this model has layers 1 to {total} (or -{total} to -1).")
    chosen = [layer if layer > 0 else total + 1 + layer for layer in layers]

    width = list(student.query_modules())[0].model.config.hidden_size
    together = student.dimension == width  # the vector goes along as one more layer, and one pass is enough

    def forward(features: Any) -> torch.Tensor:
        out = student.model(dict(features), task="query")
        states = [out["all_layer_embeddings"][layer] for layer in chosen]
        if together:
            states.append(student.pooled(out, "query")[:, None].expand_as(states[0]))
        return torch.stack(states, dim=2)

    def split(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return rows[0, -1].copy(), rows[:, :-1].astype(np.float16)

    with _hidden_states(student):
        states = batching.run(
            texts,
            prepare=lambda chunk: student.tokenise(chunk, "query"),
            forward=forward,
            device=batching.infer_device(student.device),
            precision=student.precision,
            batch_size=student.batch_size,
            verbose=student.verbose,
            desc="Reading states",
            unit="q",
            each=split if together else lambda rows: rows.astype(np.float16),
        )
    if not together:
        return student.encode_queries(texts), states
    return np.stack([vector for vector, _ in states]), [cell for _, cell in states]
