"""Candidates from clusters of token vectors: PLAID, by fast-plaid."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import numpy as np

from ..engine import batching, checkpoints
from .maxsim import score

#: A file of a finished cluster index.
MARK = "ptd.json"


def check_engine() -> None:
    """Check that fast-plaid is installed, beside the torch that its binary was built for.

    Raises:
        ModuleNotFoundError: if it is not; with another torch it would crash the process rather than fail.
    """
    advice = 'engine="exact" needs nothing and retrieves everything'
    try:
        pins = [found for line in requires("fast-plaid") or () if (found := re.match(r"torch\s*==\s*([\w.]+)", line))]
    except PackageNotFoundError:
        raise ModuleNotFoundError(
            f'engine="plaid" needs the package fast-plaid, which is not installed; {advice}.'
        ) from None
    installed = version("torch").split("+")[0]
    if pins and pins[0][1] != installed:
        raise ModuleNotFoundError(
            f'engine="plaid": fast-plaid {version("fast-plaid")} was built for torch {pins[0][1]}, and torch'
            f" {installed} is installed: install the fast-plaid of this torch, if there is one; {advice}."
        )


def opened(path: str | os.PathLike, vectors: np.ndarray, offsets: np.ndarray, device: str | None) -> Any:
    """The cluster index in a directory, which is built where it is missing; building holds the vectors in memory.

    Args:
        path: the directory.
        vectors: float16 ``[T, D]``.
        offsets: int64 ``[N + 1]``.
        device: None = the GPU where there is one.
    """
    check_engine()
    import torch
    from fast_plaid import search

    where = str(batching.infer_device(device))
    path = Path(path)
    if not (path / MARK).exists():
        with checkpoints.written_whole(path, MARK, overwrite=True) as draft:
            documents = [
                torch.from_numpy(np.array(vectors[start:stop]))
                for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
            ]
            search.FastPlaid(index=str(draft), device=where).create(documents_embeddings=documents)
            checkpoints.write_json(draft / MARK, {"fast-plaid": version("fast-plaid"), "documents": len(documents)})
    return search.FastPlaid(index=str(path), device=where)


def search(
    engine: Any,
    queries: Sequence[np.ndarray],
    vectors: np.ndarray,
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
