"""Candidates from clusters of token vectors: PLAID, by fast-plaid."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engine import batching, checkpoints
from .maxsim import score

if TYPE_CHECKING:
    from .index import MultiVectorIndex

#: A file of a finished cluster index.
MARK = "ptd.json"
#: Bits of a dimension where nobody says how many.
NBITS = 4


_EXACT = 'engine="exact" needs nothing and retrieves everything'


def check_nbits(nbits: object) -> None:
    """Check how many bits a dimension shall take.

    Raises:
        ValueError: unless it is 1, 2, 4 or 8.
    """
    if isinstance(nbits, bool) or nbits not in (1, 2, 4, 8):
        raise ValueError(f"nbits, the bits of a dimension in PLAID's compression, must be 1, 2, 4 or 8, not {nbits!r}.")


def check_engine(asked: str = 'engine="plaid"', advice: str = _EXACT) -> None:
    """Check that fast-plaid is installed, beside the torch that its binary was built for.

    Args:
        asked: the setting that needs it, for the message.
        advice: what needs it not, for the message.

    Raises:
        ModuleNotFoundError: if it is not; with another torch it would crash the process rather than fail.
    """
    try:
        pins = [found for line in requires("fast-plaid") or () if (found := re.match(r"torch\s*==\s*([\w.]+)", line))]
    except PackageNotFoundError:
        raise ModuleNotFoundError(
            f"{asked} needs the package fast-plaid, which is not installed; {advice}."
        ) from None
    installed = version("torch").split("+")[0]
    if pins and pins[0][1] != installed:
        raise ModuleNotFoundError(
            f"{asked}: fast-plaid {version('fast-plaid')} was built for torch {pins[0][1]}, and torch"
            f" {installed} is installed: install the fast-plaid of this torch, if there is one; {advice}."
        )


def build(path: str | os.PathLike, vectors: str | os.PathLike, offsets: np.ndarray, nbits: int, device: Any) -> None:
    """Write a cluster index: whole, or not at all.

    The vectors are mapped into memory and read as blocks, so that they may be larger than it. What fast-plaid holds:
    in float16 the vectors of 16 √(120 N) documents, of which it learns the clusters (9 GB for MS MARCO's 8.8 M
    passages); up to 4.2 GB of distances to clusters; and some 60 bytes a token while it inverts the clusters.

    Args:
        path: the directory.
        vectors: a file of float16 ``[T, D]``.
        offsets: int64 ``[N + 1]``.
        nbits: bits of a dimension.
        device: as in :func:`opened`.
    """
    check_engine()
    import torch
    from fast_plaid import search

    tokens = int(offsets[-1])
    dimension = os.path.getsize(vectors) // (2 * tokens)
    if dimension % 8:
        raise ValueError(f"PLAID compresses vectors whose dimensions are a multiple of 8, not {dimension}.")
    mapped = torch.from_file(str(vectors), shared=False, size=tokens * dimension, dtype=torch.float16)
    documents = list(mapped.view(tokens, dimension).split(np.diff(offsets).tolist()))
    with checkpoints.written_whole(path, MARK, overwrite=True) as draft:
        engine = search.FastPlaid(index=str(draft), device=str(batching.infer_device(device)))
        engine.create(documents_embeddings=documents, nbits=nbits)
        told = {"fast-plaid": version("fast-plaid"), "documents": len(documents), "nbits": nbits}
        checkpoints.write_json(draft / MARK, told)


def opened(path: str | os.PathLike, device: str | None) -> Any:
    """The cluster index in a directory.

    Args:
        path: the directory.
        device: None = the GPU where there is one.
    """
    check_engine()
    from fast_plaid import search

    return search.FastPlaid(index=str(path), device=str(batching.infer_device(device)))


class Compressed:
    """Token vectors that exist only as a cluster index has them: the nearest cluster's centre, and bits of the rest.

    Args:
        source: the index; its ``plaid(device)`` gives the engine.
        shape: (tokens, dimensions).
    """

    def __init__(self, source: MultiVectorIndex, shape: tuple[int, ...]):
        self.source = source
        self.shape = shape

    def of(self, docids: np.ndarray, device: str | None) -> np.ndarray:
        """The vectors float32 ``[t, D]`` of some documents, one behind the other."""
        found = self.source.plaid(device).get_embeddings(docids.tolist())
        return np.concatenate([vectors.float().cpu().numpy() for vectors in found])


def search(
    engine: Any,
    queries: Sequence[np.ndarray],
    vectors: Any,
    offsets: np.ndarray,
    k: int,
    device: str | None,
    *,
    probes: int,
    candidates: int,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The k best documents among those that clusters suggest, with the scores that an exact search gives them.

    Args:
        engine: as :func:`opened` gives it.
        probes: clusters that each token of a query looks into.
        candidates: documents of a query whose compressed vectors are compared.

    The others, and the result, are as in :func:`~pyterrier_distill.multi_vector.search.search`; a query may
    find fewer than k.
    """
    import torch

    most = min(k, len(offsets) - 1)
    tokens = [torch.from_numpy(query) for query in queries]
    settings = {"n_ivf_probe": probes, "n_full_scores": max(candidates, 4 * most), "show_progress": False}
    results = []
    for query, found in zip(queries, engine.search(tokens, top_k=most, **settings), strict=True):
        docids = np.array(sorted({int(docid) for docid, _ in found}), dtype=np.int64)
        if not len(docids):
            results.append((docids, np.empty(0, dtype=np.float32)))
            continue
        scores = score([query], docids, vectors, offsets, device)[0]
        order = np.lexsort((docids, -scores))
        results.append((docids[order], scores[order]))
    return results
