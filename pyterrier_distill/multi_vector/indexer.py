"""Writing an index of token vectors, as a stream of documents."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyterrier as pt

from ..engine import checkpoints, progress
from ..frames import DOC_EMBS
from ..stores.files import naming
from . import plaid

if TYPE_CHECKING:
    from .index import MultiVectorIndex

META, VECTORS, OFFSETS = "pt_meta.json", "vectors.f2", "offsets.npy"
DOCNOS, SORTED = "docnos.npy", "docnos_sorted.npy"
COMPRESSED = "compressed"


class MultiVectorIndexer(pt.Indexer):
    """Writes a :class:`MultiVectorIndex` whole or not at all.

    Args:
        target: the index to write.
        overwrite: whether it may replace one that is there.
        nbits: None = vectors are kept in float16; 1, 2, 4 or 8 = as PLAID compresses them, so many bits a dimension.

    Raises:
        ModuleNotFoundError: if vectors shall be compressed, and fast-plaid is missing or was built for another torch.
    """

    schematic = {"label": "Indexer"}

    def __init__(self, target: MultiVectorIndex, *, overwrite: bool = False, nbits: int | None = None):
        if nbits is not None:
            plaid.check_nbits(nbits)
            plaid.check_engine(f"nbits={nbits}", "without nbits= vectors are kept in float16, which needs nothing")
        self.target = target
        self.overwrite = overwrite
        self.nbits = nbits

    def index_inputs(self) -> list[list[str]]:
        """The columns that are indexed."""
        return self.target.index_inputs()

    def index(self, iter: Iterable[dict[str, Any]] | pd.DataFrame, **kwargs: Any) -> MultiVectorIndex:
        """Write documents: records or a frame with ``docno`` and ``doc_embs`` (``[tokens, dim]``).

        Raises:
            FileExistsError: if something stands at the path that may not be replaced.
            ValueError: for no documents, one that is there twice, or vectors that are none.
        """
        if isinstance(iter, pd.DataFrame):
            iter = iter.to_dict("records")
        ends, dimension = array("q", [0]), None
        seen: dict[str, None] = {}
        with checkpoints.written_whole(self.target.path, META, overwrite=self.overwrite) as draft:
            with naming(draft / VECTORS), open(draft / VECTORS, "wb") as out:
                for record in progress.bar(iter, desc="Indexing", unit="d", verbose=self.target.verbose):
                    docno, vectors = _checked(record, dimension, self.nbits is not None)
                    if docno in seen:
                        raise ValueError(f"docno {docno!r} occurs twice: a document must be indexed once.")
                    seen[docno] = None
                    out.write(vectors.tobytes())
                    dimension = vectors.shape[1]
                    ends.append(ends[-1] + len(vectors))
                if dimension is None:
                    raise ValueError("there are no documents to index: the corpus is empty.")
            docnos = np.array([docno.encode("utf-8") for docno in seen])
            np.save(draft / DOCNOS, docnos)
            np.save(draft / SORTED, np.argsort(docnos, kind="stable"))
            offsets = np.frombuffer(ends, dtype=np.int64)
            np.save(draft / OFFSETS, offsets)
            if self.nbits is not None:
                plaid.build(draft / COMPRESSED, draft / VECTORS, offsets, self.nbits, None)
                (draft / VECTORS).unlink()
            meta = {
                "type": self.target.ARTIFACT_TYPE,
                "format": self.target.ARTIFACT_FORMAT,
                "package_hint": self.target.ARTIFACT_PACKAGE_HINT,
                "doc_count": len(ends) - 1,
                "token_count": ends[-1],
                "dimension": dimension,
                "versions": checkpoints.versions(),
            }
            if self.nbits is not None:
                meta["nbits"] = self.nbits
            checkpoints.write_json(draft / META, meta)
        self.target._opened = None
        self.target._engines = {}
        return self.target

    def __repr__(self) -> str:
        told = ["overwrite=True"] * self.overwrite + [f"nbits={self.nbits}"] * (self.nbits is not None)
        return f"{self.target!r}.indexer({', '.join(told)})"


def _checked(record: dict[str, Any], dimension: int | None, units: bool) -> tuple[str, np.ndarray]:
    """The docno and the float16 vectors of a record; units: whether they must have length 1."""
    if missing := [key for key in ("docno", DOC_EMBS) if key not in record]:
        raise ValueError(
            f"documents to index need docno and {DOC_EMBS}; {missing[0]!r} is missing: put student.doc_encoder() before"
            " the index."
        )
    docno = record["docno"]
    if not isinstance(docno, str) or not docno or "\0" in docno:
        raise ValueError(f"docno must be a text of at least one character, none of them NUL, not {docno!r}.")
    given = np.asarray(record[DOC_EMBS])
    if given.ndim != 2 or 0 in given.shape or given.dtype.kind != "f":
        raise ValueError(
            f"{DOC_EMBS} of document {docno!r} must be float[tokens, dim] with at least one token, but is"
            f" {given.dtype}{list(given.shape)}."
        )
    if dimension is not None and given.shape[1] != dimension:
        raise ValueError(
            f"{DOC_EMBS} of document {docno!r} has {given.shape[1]} dimensions, those before it {dimension}: index with"
            " one encoder."
        )
    with np.errstate(over="ignore"):
        vectors = given.astype(np.float16)
    if not np.isfinite(vectors).all():
        raise ValueError(f"{DOC_EMBS} of document {docno!r} holds numbers that float16 cannot hold.")
    if units and np.abs(np.linalg.norm(given, axis=1) - 1).max() > 0.01:
        raise ValueError(
            f"{DOC_EMBS} of document {docno!r} are not of length 1, and PLAID's compression keeps directions only:"
            " index without nbits=, or have the encoder normalise its vectors."
        )
    return docno, vectors
