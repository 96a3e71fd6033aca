"""MaxSim of queries with documents of an index, in blocks that fit in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ..engine import batching

if TYPE_CHECKING:
    import torch

    from .plaid import Compressed

#: Token vectors ``[T, D]``: float16, in memory or mapped into it, or compressed.
Vectors: TypeAlias = "np.ndarray | Compressed"

#: Numbers of one matrix of similarities, and of one block of vectors: 128 MB each.
ELEMENTS = 2**25


def search(
    queries: Sequence[np.ndarray], vectors: Vectors, offsets: np.ndarray, k: int, device: str | None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The k best documents of each query.

    Args:
        queries: B arrays float32 ``[tokens, D]``.
        vectors: ``[T, D]``.
        offsets: int64 ``[N + 1]``.
        k: most documents a query.
        device: as in :class:`MultiVectorRetriever`.

    Returns:
        B pairs of document numbers and scores, best first, equal scores by document number.
    """
    best = [(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)) for _ in queries]
    for docids, scores in _blocks(queries, np.arange(len(offsets) - 1), vectors, offsets, device):
        for row, (ids, found) in enumerate(best):
            best[row] = _top(np.concatenate([ids, docids]), np.concatenate([found, scores[row]]), k)
    return [(ids[order], found[order]) for ids, found in best for order in [np.lexsort((ids, -found))]]


def score(
    queries: Sequence[np.ndarray], docids: np.ndarray, vectors: Vectors, offsets: np.ndarray, device: str | None
) -> np.ndarray:
    """MaxSim ``[B, n]`` of B queries with the n documents numbered ``docids``; the rest as in :func:`search`."""
    return np.concatenate([found for _, found in _blocks(queries, docids, vectors, offsets, device)], axis=1)


def _top(ids: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best of some documents in ascending order, of equal ones the first; still in ascending order."""
    if len(ids) <= k:
        return ids, scores
    least = np.partition(scores, len(scores) - k)[len(scores) - k]
    keep = scores > least
    keep[np.flatnonzero(scores == least)[: k - int(keep.sum())]] = True
    return ids[keep], scores[keep]


def _blocks(
    queries: Sequence[np.ndarray], docids: np.ndarray, vectors: Vectors, offsets: np.ndarray, device: str | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Documents in blocks that fit in memory, each with the scores ``[B, n]`` of all queries."""
    import torch

    where = batching.infer_device(device)
    tokens = torch.from_numpy(np.concatenate(queries)).to(where)
    counts = [len(query) for query in queries]
    most = max(1, ELEMENTS // max(len(tokens), vectors.shape[1]))
    lengths = offsets[docids + 1] - offsets[docids]
    ends = np.cumsum(lengths)
    start = 0
    while start < len(docids):
        before = ends[start] - lengths[start]
        stop = max(start + 1, int(np.searchsorted(ends, before + most, side="right")))
        part = docids[start:stop]
        block = torch.from_numpy(gather(part, vectors, offsets, device)).to(where).float()
        yield part, _max_sim(tokens, counts, block, lengths[start:stop]).cpu().numpy()
        start = stop


def gather(docids: np.ndarray, vectors: Vectors, offsets: np.ndarray, device: str | None) -> np.ndarray:
    """The vectors ``[t, D]`` of some documents, one behind the other."""
    if not isinstance(vectors, np.ndarray):
        return vectors.of(docids, device)
    if docids[-1] - docids[0] == len(docids) - 1 and (np.diff(docids) == 1).all():
        return np.array(vectors[offsets[docids[0]] : offsets[docids[-1] + 1]])
    return np.concatenate([vectors[offsets[docid] : offsets[docid + 1]] for docid in docids])


def _max_sim(tokens: torch.Tensor, counts: list[int], block: torch.Tensor, lengths: np.ndarray) -> torch.Tensor:
    """Σ_i max_j ⟨q_i, d_j⟩ as ``[B, n]``; there is no padding that could win a maximum."""
    import torch

    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.from_numpy(lengths)).to(block.device)
    similarities = block @ tokens.T
    best = similarities.new_full((len(lengths), len(tokens)), -torch.inf)
    # Down the rows: across them it takes nine times as long.
    best.scatter_reduce_(0, owner[:, None].expand(-1, len(tokens)), similarities, "amax")
    return torch.stack([columns.sum(dim=1) for columns in best.split(counts, dim=1)])
