"""Exact MaxSim over an index of token vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyterrier as pt
import pyterrier_alpha as pta

from ..engine import progress
from ..frames import QUERY_EMBS, arguments, validate
from ..frames.ranking import carried, rerank
from . import plaid
from .maxsim import Vectors, score, search

if TYPE_CHECKING:
    from .index import MultiVectorIndex


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
        nbits: bits of a dimension in what PLAID compares; None = 4, or those that the index was compressed with.

    References:
        Santhanam et al. 2022, PLAID: An Efficient Engine for Late Interaction Retrieval.
    """

    schematic = {"label": "MaxSim retriever"}
    added_later = {"nbits": None}

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
        nbits: int | None = None,
    ):
        numbers = {"num_results": num_results, "batch_size": batch_size, "probes": probes, "candidates": candidates}
        for name, value in numbers.items():
            arguments.whole(value, name)
        if engine not in ("exact", "plaid"):
            raise ValueError(f"engine must be 'exact' or 'plaid', not {engine!r}.")
        if nbits is not None:
            plaid.check_nbits(nbits)
        if engine == "plaid":
            plaid.check_engine()
        elif nbits is not None:
            raise ValueError(f"nbits={nbits} is of engine='plaid': give both, or leave it out.")
        self.source = source
        self.num_results = num_results
        self.batch_size = batch_size
        self.device = device
        self.drop_query_embs = drop_query_embs
        self.verbose = source.verbose if verbose is None else verbose
        self.engine = engine
        self.probes = probes
        self.candidates = candidates
        self.nbits = nbits

    def fuse_rank_cutoff(self, k: int) -> MultiVectorRetriever | None:
        """This retriever with fewer results, for ``retriever % k``."""
        if k >= self.num_results:
            return None
        return MultiVectorRetriever(
            self.source, num_results=k, batch_size=self.batch_size, device=self.device,
            drop_query_embs=self.drop_query_embs, verbose=self.verbose, engine=self.engine, probes=self.probes,
            candidates=self.candidates, nbits=self.nbits,
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
        with progress.bar(total=len(queries), desc="Retrieving", unit="q", verbose=self.verbose) as bar:
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

    def _search(self, queries: list[np.ndarray], vectors: Vectors, offsets: np.ndarray) -> list[tuple]:
        if self.engine == "exact":
            return search(queries, vectors, offsets, self.num_results, self.device)
        engine = self.source.plaid(self.device, self.nbits)
        settings = {"probes": self.probes, "candidates": self.candidates}
        return plaid.search(engine, queries, vectors, offsets, self.num_results, self.device, **settings)


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
        for rows in progress.bar(groups.values(), desc="Re-ranking", unit="q", verbose=self.verbose):
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
            raise ValueError(f"{QUERY_EMBS} holds a vector that is not finite (NaN or infinite): look at its encoder.")
    return queries
