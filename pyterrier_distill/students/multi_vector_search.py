"""Exact MaxSim over an index of token vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyterrier as pt
import pyterrier_alpha as pta

from .. import scoring
from ..frames import QUERY_EMBS, validate
from ..frames.ranking import carried, rerank

if TYPE_CHECKING:
    import torch

    from .multi_vector_index import MultiVectorIndex

#: Numbers of one matrix of similarities, and of one block of vectors: 128 MB each.
ELEMENTS = 2**25


class _OverIndex(pt.Transformer):
    """Equal where the index and the settings are."""

    def __repr__(self) -> str:
        return pta.transformer_repr(self)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and repr(other) == repr(self)

    def __hash__(self) -> int:
        return hash(repr(self))

    def subtransformers(self) -> dict:
        """None: the index is a part, not a stage of a pipeline."""
        return {}


class MultiVectorRetriever(_OverIndex):
    """Q + ``query_embs`` → R: MaxSim with every document, or with those that PLAID suggests.

    Either engine gives a document the same score; equal ones stay in the order of the index.

    Args:
        source: the index.
        num_results: documents a query.
        batch_size: queries that one pass over the index serves.
        device: where similarities are computed; None = the GPU where there is one.
        drop_query_embs: whether results leave ``query_embs`` out.
        verbose: whether to show progress; None = as the index.
        engine: ``"exact"``, or ``"plaid"``.
        probes: clusters that a token of the query looks into; PLAID's only.
        candidates: documents of a query whose compressed vectors are compared; PLAID's only.

    References:
        Santhanam et al. 2022, PLAID: An Efficient Engine for Late Interaction Retrieval.
    """

    schematic = {"label": "MaxSim retriever"}

    def __init__(
        self,
        source: MultiVectorIndex,
        *,
        num_results: int = 1000,
        batch_size: int = 32,
        device: str | None = None,
        drop_query_embs: bool = False,
        verbose: bool | None = None,
        engine: str = "exact",
        probes: int = 8,
        candidates: int = 4096,
    ):
        numbers = {"num_results": num_results, "batch_size": batch_size, "probes": probes, "candidates": candidates}
        for name, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}.")
        if engine not in ("exact", "plaid"):
            raise ValueError(f"engine must be 'exact' or 'plaid', not {engine!r}.")
        if engine == "plaid":
            from .multi_vector_plaid import check_engine

            check_engine()
        self.source = source
        self.num_results = num_results
        self.batch_size = batch_size
        self.device = device
        self.drop_query_embs = drop_query_embs
        self.verbose = source.verbose if verbose is None else verbose
        self.engine = engine
        self.probes = probes
        self.candidates = candidates

    def fuse_rank_cutoff(self, k: int) -> MultiVectorRetriever | None:
        """This retriever with fewer results, for ``retriever % k``."""
        if k >= self.num_results:
            return None
        return MultiVectorRetriever(
            self.source, num_results=k, batch_size=self.batch_size, device=self.device,
            drop_query_embs=self.drop_query_embs, verbose=self.verbose, engine=self.engine, probes=self.probes,
            candidates=self.candidates,
        )  # fmt: skip

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Results of every query, with ``docno``, ``docid`` (its place in the index), ``score`` and ``rank``."""
        validate.query_frame(inp, [QUERY_EMBS], context=self)
        kept = inp.drop(columns=[QUERY_EMBS] if self.drop_query_embs else [])
        if len(inp) == 0:
            new = {"docno": object, "docid": int, "score": float, "rank": int}
            return kept.assign(**{name: pd.Series(dtype=kind) for name, kind in new.items()})
        vectors, offsets, _ = self.source.payload()
        queries = checked_queries(inp[QUERY_EMBS], vectors.shape[1], self.source)
        found: list[tuple[np.ndarray, np.ndarray]] = []
        with pt.tqdm(total=len(queries), desc="Retrieving", unit="q", disable=not self.verbose) as bar:
            for start in range(0, len(queries), self.batch_size):
                batch = queries[start : start + self.batch_size]
                found.extend(self._search(batch, vectors, offsets))
                bar.update(len(batch))
        counts = [len(docids) for docids, _ in found]
        docids = np.concatenate([docids for docids, _ in found])
        places = np.concatenate([np.arange(count) for count in counts])
        scores = np.concatenate([scores for _, scores in found])
        scores, ranks = carried(np.repeat(np.arange(len(kept)), counts), scores, places)
        return (
            kept.iloc[np.repeat(np.arange(len(kept)), counts)]
            .reset_index(drop=True)
            .assign(
                docno=self.source.docnos(docids),
                docid=docids,
                score=scores,
                rank=ranks,
            )
        )

    def _search(self, queries: list[np.ndarray], vectors: np.ndarray, offsets: np.ndarray) -> list[tuple]:
        if self.engine == "exact":
            return search(queries, vectors, offsets, self.num_results, self.device)
        from . import multi_vector_plaid

        engine = self.source.plaid(self.device)
        settings = {"probes": self.probes, "candidates": self.candidates}
        return multi_vector_plaid.search(engine, queries, vectors, offsets, self.num_results, self.device, **settings)


class MultiVectorScorer(_OverIndex):
    """R + ``query_embs`` → R: re-ranks by MaxSim with stored vectors, without texts.

    Args:
        source: the index; it must hold every document of the frame.
        device: where similarities are computed; None = the GPU where there is one.
        verbose: whether to show progress; None = as the index.
    """

    schematic = {"label": "MaxSim scorer"}

    def __init__(self, source: MultiVectorIndex, *, device: str | None = None, verbose: bool | None = None):
        self.source = source
        self.device = device
        self.verbose = source.verbose if verbose is None else verbose

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Replace ``score`` and ``rank``; every other column, the rows' order and the index stay.

        Raises:
            ValueError: for a document that the index does not hold.
        """
        validate.result_frame(inp, [QUERY_EMBS], context=self)
        scores = np.empty(len(inp))
        if len(inp) == 0:
            return rerank(inp, scores)
        vectors, offsets, _ = self.source.payload()
        names = inp["docno"].to_numpy(dtype=object)
        docids = self.source.docids(names)
        if (absent := docids < 0).any():
            raise ValueError(
                f"{self.source} holds no vectors of docno {names[absent][0]!r} ({int(absent.sum())} such rows): index"
                " these documents, or re-rank by texts."
            )
        queries = checked_queries(inp[QUERY_EMBS], vectors.shape[1], self.source)
        groups = inp.reset_index(drop=True).groupby("qid", sort=False).indices
        for rows in pt.tqdm(groups.values(), desc="Re-ranking", unit="q", disable=not self.verbose):
            scores[rows] = score([queries[rows[0]]], docids[rows], vectors, offsets, self.device)[0]
        return rerank(inp, scores)


def checked_queries(cells: Sequence[Any], dimension: int, source: Any) -> list[np.ndarray]:
    """Query vectors as float32 ``[tokens, dimension]``.

    Raises:
        ValueError: if a cell is none.
    """
    queries = [np.asarray(cell, dtype=np.float32) for cell in cells]
    for query in queries:
        if query.ndim != 2 or query.shape[1] != dimension or len(query) == 0:
            raise ValueError(
                f"{source} holds vectors of {dimension} dimensions, so {QUERY_EMBS} must be float[tokens, {dimension}],"
                f" not {list(query.shape)}: encode queries and documents with one model."
            )
        if not np.isfinite(query).all():
            raise ValueError(f"{QUERY_EMBS} holds a vector that is no number (NaN or infinite): look at its encoder.")
    return queries


def search(
    queries: Sequence[np.ndarray], vectors: np.ndarray, offsets: np.ndarray, k: int, device: str | None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The k best documents of each query.

    Args:
        queries: B arrays float32 ``[tokens, D]``.
        vectors: float16 ``[T, D]``.
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
    queries: Sequence[np.ndarray], docids: np.ndarray, vectors: np.ndarray, offsets: np.ndarray, device: str | None
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
    queries: Sequence[np.ndarray], docids: np.ndarray, vectors: np.ndarray, offsets: np.ndarray, device: str | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Documents in blocks that fit in memory, each with the scores ``[B, n]`` of all queries."""
    import torch

    where = scoring.infer_device(device)
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
        block = torch.from_numpy(_gather(part, vectors, offsets)).to(where).float()
        yield part, _max_sim(tokens, counts, block, lengths[start:stop]).cpu().numpy()
        start = stop


def _gather(docids: np.ndarray, vectors: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The vectors ``[t, D]`` of some documents, one behind the other."""
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
