"""What a USTAD computes while it ranks: late interaction of many pairs, vectors of pairs that are read together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...engine import batching, progress

if TYPE_CHECKING:
    from torch import Tensor

    from ..joint import Pair
    from .ustad import USTAD

#: Documents whose token vectors are held at once while ranking in the late mode.
HELD = 256


def encoded(
    student: USTAD,
    texts: Sequence[str],
    side: str,
    *,
    pool: bool,
    batch_size: int | None = None,
    verbose: bool | None = None,
) -> Any:
    """Texts that are read apart, equal ones once.

    Args:
        student: a USTAD.
        texts: n ≥ 1 texts.
        side: ``"query"`` or ``"document"``.
        pool: whether a text has one vector.
        batch_size: most texts of one forward pass; None = the student's.
        verbose: whether to show progress; None = as the student, of vectors of texts.

    Returns:
        Vectors float32 ``[n, D]``; or n arrays of token vectors ``[tokens, D]``.
    """
    from . import scores

    prepare = student.reader.queries if side == "query" else student.reader.documents

    def forward(features: Mapping[str, Any]) -> Tensor:
        states, query, document = student.encode(dict(features))
        return scores.pool(states, query | document, student.pooling) if pool else states

    return batching.run(
        texts,
        prepare=prepare,
        forward=forward,
        device=batching.infer_device(student.device),
        precision=student.precision,
        batch_size=batch_size or student.batch_size,
        verbose=verbose if verbose is not None else student.verbose if pool else False,
        desc="Encoding queries" if side == "query" else "Encoding documents",
        unit="q" if side == "query" else "d",
        each=None if pool else lambda rows: rows,
        model=student.model,
    )


def late(student: USTAD, pairs: Sequence[Pair], queries: list[str], documents: list[str]) -> np.ndarray:
    """Late interaction of pairs, some documents at a time: token vectors of all would not fit in memory.

    Args:
        student: a USTAD.
        pairs: n (query, document) pairs.
        queries: each query of them once.
        documents: each document of them once.

    Returns:
        Scores float32 ``[n]``, unscaled.
    """
    tokens = dict(zip(queries, encoded(student, queries, "query", pool=False), strict=True))
    rows: dict[str, list[int]] = {}
    for row, (_, document) in enumerate(pairs):
        rows.setdefault(document, []).append(row)
    scores = np.empty(len(pairs), dtype=np.float32)
    documents = sorted(documents, key=len, reverse=True)
    with progress.bar(total=len(documents), desc="Scoring", unit="d", verbose=student.verbose) as bar:
        for start in range(0, len(documents), HELD):
            block = documents[start : start + HELD]
            for text, states in zip(block, encoded(student, block, "document", pool=False), strict=True):
                for row in rows[text]:
                    scores[row] = (tokens[pairs[row][0]] @ states.T).max(axis=1).sum()
            bar.update(len(block))
    return scores


def pair_vectors(student: USTAD, pairs: Sequence[Pair]) -> tuple[np.ndarray, np.ndarray]:
    """Vectors float32 ``[n, D]`` of the queries and of the documents of n ≥ 1 pairs, read together."""
    import torch

    both = batching.run(
        [tuple(pair) for pair in pairs],
        prepare=student.features,
        forward=lambda features: torch.stack(student.pooled_pairs(dict(features)), dim=1),
        device=batching.infer_device(student.device),
        precision=student.precision,
        batch_size=student.batch_size,
        verbose=student.verbose,
        desc="Encoding pairs",
        unit="d",
        model=student.model,
    )
    return both[:, 0], both[:, 1]
