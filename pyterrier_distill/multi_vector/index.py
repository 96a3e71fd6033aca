"""Token vectors of a corpus on disk, and how they get there."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pyterrier as pt

from ..engine import checkpoints
from ..frames import DOC_EMBS, QUERY_EMBS, validate
from ..stores.files import check_path, naming, read_object
from .search import MultiVectorRetriever, MultiVectorScorer

_META, _VECTORS, _OFFSETS = "pt_meta.json", "vectors.f2", "offsets.npy"
_DOCNOS, _SORTED = "docnos.npy", "docnos_sorted.npy"


class MultiVectorIndex(pt.Artifact, pt.Indexer):
    """An index of token vectors, in float16, read from disk as needed; retrieval is exact.

    ``(student >> index).index(corpus)`` writes it; ``student.query_encoder() >> index.retriever()`` searches it;
    ``index.scorer()`` re-ranks by it. As a transformer it retrieves for queries and re-ranks results.

    Args:
        path: a directory: of an index, or where one shall be written.
        verbose: whether indexing and searching show progress.

    Files: ``vectors.f2`` (all tokens' vectors, document by document), ``offsets.npy`` (where each document starts),
    ``docnos.npy`` (UTF-8, of one width), ``docnos_sorted.npy`` (their alphabetical order) and ``pt_meta.json``. A token
    of 128 dimensions takes 256 bytes.

    Example::

        student = ptd.LateInteraction("colbert-ir/colbertv2.0")
        index = ptd.MultiVectorIndex("docs.mvi")
        (student >> index).index(dataset.get_corpus_iter())
        pipeline = student.query_encoder() >> index.retriever(num_results=100)
        reranker = student.query_encoder() >> index.scorer()
    """

    ARTIFACT_TYPE = "multi_vector_index"
    ARTIFACT_FORMAT = "token_vectors"
    ARTIFACT_PACKAGE_HINT = "pyterrier-distill"
    schematic = {"label": "MultiVectorIndex"}

    def __init__(self, path: str | os.PathLike, *, verbose: bool = False):
        super().__init__(check_path(path))
        self.verbose = verbose
        self._opened: dict[str, Any] | None = None
        self._engines: dict[str | None, Any] = {}

    # -- writing ------------------------------------------------------------------------------------------------------

    def index(self, iter: Iterable[dict[str, Any]] | pd.DataFrame, **kwargs: Any) -> MultiVectorIndex:
        """Write the index; as ``indexer().index(iter)``."""
        return self.indexer(**kwargs).index(iter)

    def indexer(self, *, overwrite: bool = False) -> MultiVectorIndexer:
        """What writes the index, as the last stage of a pipeline.

        Args:
            overwrite: whether an index that is there may be replaced; it is, once the new one is complete.
        """
        return MultiVectorIndexer(self, overwrite=overwrite)

    def index_inputs(self) -> list[list[str]]:
        """The columns that are indexed."""
        return [["docno", DOC_EMBS]]

    # -- reading ------------------------------------------------------------------------------------------------------

    def built(self) -> bool:
        """Whether there is an index at the path."""
        return (Path(self.path) / _META).is_file()

    def payload(self) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        """What the index holds.

        Returns:
            float16 vectors ``[T, D]``, memory-mapped; int64 offsets ``[N + 1]``: document n has the tokens
            ``offsets[n]:offsets[n + 1]``; metadata.

        Raises:
            FileNotFoundError: if there is no index at the path.
            ValueError: if it is something else, or not whole.
        """
        files = self._files()
        return files[_VECTORS], files[_OFFSETS], files[_META]

    def _files(self) -> dict[str, Any]:
        if self._opened is None:
            path = Path(self.path)
            if not (path / _META).is_file():
                raise FileNotFoundError(f"no index at {path}: write one with (student >> index).index(documents).")
            meta = read_object(path / _META, " Write the index again.")
            if (meta.get("type"), meta.get("format")) != (self.ARTIFACT_TYPE, self.ARTIFACT_FORMAT):
                raise ValueError(f"{path} holds a {meta.get('type')}.{meta.get('format')}, not a multi-vector index.")
            files = {name: _array(path / name) for name in (_OFFSETS, _DOCNOS, _SORTED)}
            count, *shape = (cast(int, meta.get(name)) for name in ("doc_count", "token_count", "dimension"))
            numbers = all(isinstance(number, int) and number > 0 for number in (count, *shape))
            if not numbers or not _agree(files, (path / _VECTORS).stat().st_size, count, *shape):
                raise ValueError(f"the index at {path} is damaged: its files do not agree. Write it again.")
            files[_OFFSETS] = np.array(files[_OFFSETS])
            files[_VECTORS] = np.memmap(path / _VECTORS, mode="r", dtype=np.float16, shape=tuple(shape))
            self._opened = {**files, _META: meta}
        return self._opened

    def plaid(self, device: str | None = None) -> Any:
        """The ``FastPlaid`` of the index's vectors, built on first use; document numbers are places in the index.

        Args:
            device: None = the GPU where there is one.

        Raises:
            ModuleNotFoundError: if fast-plaid is missing, or was built for another torch.
        """
        if device not in self._engines:
            from .plaid import opened

            vectors, offsets, _ = self.payload()
            self._engines[device] = opened(Path(self.path) / "plaid", vectors, offsets, device)
        return self._engines[device]

    def docnos(self, docids: np.ndarray) -> np.ndarray:
        """Names ``[n]`` of the documents at n places of the index."""
        names = [name.decode("utf-8") for name in self._files()[_DOCNOS][docids].tolist()]
        return np.array(names, dtype=object)

    def docids(self, docnos: Iterable[str]) -> np.ndarray:
        """Places int64 ``[n]`` in the index of n documents; -1 for those that it does not hold."""
        files = self._files()
        known, order = files[_DOCNOS], files[_SORTED]
        names = [name.encode("utf-8") if isinstance(name, str) else b"" for name in docnos]
        short = np.array([name if len(name) <= known.itemsize else b"" for name in names], dtype=known.dtype)
        places = np.searchsorted(known, short, sorter=order)
        docids = order[np.minimum(places, len(order) - 1)]
        return np.where(known[docids] == short, docids, -1)

    def __len__(self) -> int:
        """Number of documents."""
        return self.payload()[-1]["doc_count"]

    def get_corpus_iter(self) -> Iterator[dict[str, Any]]:
        """Documents as ``docno`` and ``doc_embs`` (float32[tokens, dim]), in the order in which they were indexed."""
        vectors, offsets, _ = self.payload()
        for number in range(len(self)):
            tokens = vectors[offsets[number] : offsets[number + 1]]
            yield {"docno": self.docnos(np.array([number]))[0], DOC_EMBS: tokens.astype(np.float32)}

    # -- as transformers ----------------------------------------------------------------------------------------------

    def retriever(
        self,
        *,
        num_results: int = 1000,
        batch_size: int = 32,
        device: str | None = None,
        drop_query_embs: bool = False,
        verbose: bool | None = None,
        engine: str = "exact",
        probes: int = 8,
        candidates: int = 4096,
    ) -> MultiVectorRetriever:
        """Q + ``query_embs`` → R: MaxSim with every document, or with those that PLAID suggests.

        Args:
            num_results: documents a query.
            batch_size: queries that one pass over the index serves.
            device: where similarities are computed; None = the GPU where there is one.
            drop_query_embs: whether results leave ``query_embs`` out.
            verbose: whether to show progress; None = as the index.
            engine: ``"exact"``; or ``"plaid"``, which looks at a part of the index and may miss documents, where
                fast-plaid is installed. Its clusters are built when it is first used, in ``plaid/`` of the index.
            probes: clusters that a token of the query looks into; PLAID's only.
            candidates: documents of a query whose compressed vectors are compared; PLAID's only.

        Raises:
            ModuleNotFoundError: if fast-plaid is missing, or was built for another torch.
        """
        return MultiVectorRetriever(
            self, num_results=num_results, batch_size=batch_size, device=device, drop_query_embs=drop_query_embs,
            verbose=verbose, engine=engine, probes=probes, candidates=candidates,
        )  # fmt: skip

    def scorer(self, *, device: str | None = None, verbose: bool | None = None) -> MultiVectorScorer:
        """R + ``query_embs`` → R: re-ranks by the stored vectors, without texts; arguments as in :meth:`retriever`."""
        return MultiVectorScorer(self, device=device, verbose=verbose)

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Retrieve for queries, re-rank results; both read ``query_embs``."""
        with validate.any(inp, context=self) as v:
            v.query_frame([QUERY_EMBS], mode="retriever")
            v.result_frame([QUERY_EMBS], mode="scorer")
        return getattr(self, v.mode)()(inp)

    def __repr__(self) -> str:
        return f"MultiVectorIndex({str(self.path)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MultiVectorIndex) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None, "_engines": {}}


def _array(path: Path) -> np.ndarray:
    """An array on disk, memory-mapped.

    Raises:
        OSError: if it cannot be read.
        ValueError: naming the file, if it holds no array.
    """
    try:
        return np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is damaged ({error}): write the index again.") from error


def _agree(files: dict[str, np.ndarray], size: int, count: int, tokens: int, dimension: int) -> bool:
    """Whether the files of an index are of one index."""
    offsets, docnos, order = files[_OFFSETS], files[_DOCNOS], files[_SORTED]
    if [array.shape for array in (offsets, docnos, order)] != [(count + 1,), (count,), (count,)]:
        return False
    if docnos.dtype.kind != "S" or {offsets.dtype.kind, order.dtype.kind} != {"i"} or size != 2 * tokens * dimension:
        return False
    places = 0 <= order.min() and order.max() < count
    return bool(places and offsets[0] == 0 and offsets[-1] == tokens and (np.diff(offsets) > 0).all())


class MultiVectorIndexer(pt.Indexer):
    """Writes a :class:`MultiVectorIndex` whole or not at all.

    Args:
        target: the index to write.
        overwrite: whether it may replace one that is there.
    """

    schematic = {"label": "Indexer"}

    def __init__(self, target: MultiVectorIndex, *, overwrite: bool = False):
        self.target = target
        self.overwrite = overwrite

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
        with checkpoints.written_whole(self.target.path, _META, overwrite=self.overwrite) as draft:
            with naming(draft / _VECTORS), open(draft / _VECTORS, "wb") as out:
                for record in pt.tqdm(iter, desc="Indexing", unit="d", disable=not self.target.verbose):
                    docno, vectors = _checked(record, dimension)
                    if docno in seen:
                        raise ValueError(f"docno {docno!r} occurs twice: a document must be indexed once.")
                    seen[docno] = None
                    out.write(vectors.tobytes())
                    dimension = vectors.shape[1]
                    ends.append(ends[-1] + len(vectors))
                if dimension is None:
                    raise ValueError("there are no documents to index: the corpus is empty.")
            docnos = np.array([docno.encode("utf-8") for docno in seen])
            np.save(draft / _DOCNOS, docnos)
            np.save(draft / _SORTED, np.argsort(docnos, kind="stable"))
            np.save(draft / _OFFSETS, np.frombuffer(ends, dtype=np.int64))
            meta = {
                "type": self.target.ARTIFACT_TYPE,
                "format": self.target.ARTIFACT_FORMAT,
                "package_hint": self.target.ARTIFACT_PACKAGE_HINT,
                "doc_count": len(ends) - 1,
                "token_count": ends[-1],
                "dimension": dimension,
                "versions": checkpoints.versions(),
            }
            checkpoints.write_json(draft / _META, meta)
        self.target._opened = None
        self.target._engines = {}
        return self.target

    def __repr__(self) -> str:
        return f"{self.target!r}.indexer({'overwrite=True' if self.overwrite else ''})"


def _checked(record: dict[str, Any], dimension: int | None) -> tuple[str, np.ndarray]:
    """The docno and the float16 vectors of a record."""
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
    return docno, vectors
