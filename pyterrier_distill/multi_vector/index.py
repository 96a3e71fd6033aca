"""Token vectors of a corpus on disk, and how they get there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pyterrier as pt

from ..engine import batching
from ..frames import DOC_EMBS, QUERY_EMBS, validate
from ..stores.files import check_path, read_object
from . import plaid
from .indexer import COMPRESSED, DOCNOS, META, OFFSETS, SORTED, VECTORS, MultiVectorIndexer
from .maxsim import Vectors, gather
from .search import MultiVectorRetriever, MultiVectorScorer


class MultiVectorIndex(pt.Artifact, pt.Indexer):
    """An index of token vectors, in float16 or compressed, read from disk as needed; retrieval is exact.

    ``(student >> index).index(corpus)`` writes it; ``student.query_encoder() >> index.retriever()`` searches it;
    ``index.scorer()`` re-ranks by it. As a transformer it retrieves for queries and re-ranks results.

    Args:
        path: a directory: of an index, or where one shall be written.
        verbose: True = indexing and searching show progress, False = never; None = once they take more than three
            seconds.

    Files: ``vectors.f2`` (all tokens' vectors, document by document), ``offsets.npy`` (where each document starts),
    ``docnos.npy`` (UTF-8, of one width), ``docnos_sorted.npy`` (their alphabetical order) and ``pt_meta.json``. A token
    of 128 dimensions takes 256 bytes; with ``indexer(nbits=2)`` some 50, in ``compressed/`` instead of ``vectors.f2``.

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

    def __init__(self, path: str | os.PathLike, *, verbose: bool | None = None):
        super().__init__(check_path(path))
        self.verbose = verbose
        self._opened: dict[str, Any] | None = None
        self._engines: dict[tuple[str, int], Any] = {}

    # -- writing ------------------------------------------------------------------------------------------------------

    def index(self, iter: Iterable[dict[str, Any]] | pd.DataFrame, **kwargs: Any) -> MultiVectorIndex:
        """Write the index; as ``indexer().index(iter)``."""
        return self.indexer(**kwargs).index(iter)

    def indexer(self, *, overwrite: bool = False, nbits: int | None = None) -> MultiVectorIndexer:
        """What writes the index, as the last stage of a pipeline. Documents are written as they come.

        Args:
            overwrite: whether an index that is there may be replaced; it is, once the new one is complete.
            nbits: None = vectors are kept in float16. 1, 2, 4 or 8 = they are compressed by PLAID, so many bits a
                dimension (PairDistill, App. B.3: 2), by fast-plaid; they must be of length 1. Until all have come
                they lie on disk in float16. Whoever searches, by either engine, or re-ranks reads the compressed
                ones.

        Raises:
            ModuleNotFoundError: if fast-plaid is missing, or was built for another torch.
        """
        return MultiVectorIndexer(self, overwrite=overwrite, nbits=nbits)

    def index_inputs(self) -> list[list[str]]:
        """The columns that are indexed."""
        return [["docno", DOC_EMBS]]

    # -- reading ------------------------------------------------------------------------------------------------------

    def built(self) -> bool:
        """Whether there is an index at the path."""
        return (Path(self.path) / META).is_file()

    def payload(self) -> tuple[Vectors, np.ndarray, dict[str, Any]]:
        """What the index holds.

        Returns:
            float16 vectors ``[T, D]``, memory-mapped, or a :class:`~.plaid.Compressed` of that shape; int64 offsets
            ``[N + 1]``: document n has the tokens ``offsets[n]:offsets[n + 1]``; metadata.

        Raises:
            FileNotFoundError: if there is no index at the path.
            ValueError: if it is something else, or not whole.
        """
        files = self._files()
        return files[VECTORS], files[OFFSETS], files[META]

    def _files(self) -> dict[str, Any]:
        if self._opened is None:
            path = Path(self.path)
            if not (path / META).is_file():
                raise FileNotFoundError(f"no index at {path}: write one with (student >> index).index(documents).")
            meta = read_object(path / META, " Write the index again.")
            if (meta.get("type"), meta.get("format")) != (self.ARTIFACT_TYPE, self.ARTIFACT_FORMAT):
                raise ValueError(f"{path} holds a {meta.get('type')}.{meta.get('format')}, not a multi-vector index.")
            files = {name: _array(path / name) for name in (OFFSETS, DOCNOS, SORTED)}
            count, *shape = (cast(int, meta.get(name)) for name in ("doc_count", "token_count", "dimension"))
            numbers = all(isinstance(number, int) and number > 0 for number in (count, *shape))
            if not numbers or not _agree(files, count, shape[0]) or not _whole(path, meta):
                raise ValueError(f"the index at {path} is damaged: its files do not agree. Write it again.")
            files[OFFSETS] = np.array(files[OFFSETS])
            if "nbits" in meta:
                files[VECTORS] = plaid.Compressed(self, tuple(shape))
            else:
                files[VECTORS] = np.memmap(path / VECTORS, mode="r", dtype=np.float16, shape=tuple(shape))
            self._opened = {**files, META: meta}
        return self._opened

    def plaid(self, device: str | None = None, nbits: int | None = None) -> Any:
        """The ``FastPlaid`` of the index's vectors, built on first use; document numbers are places in the index.

        Args:
            device: None = the GPU where there is one.
            nbits: bits of a dimension; None = 4, or those that the index was compressed with.

        Raises:
            ModuleNotFoundError: if fast-plaid is missing, or was built for another torch.
            ValueError: if the index was compressed with other bits.
        """
        _, offsets, meta = self.payload()
        own = meta.get("nbits")
        bits = nbits or own or plaid.NBITS
        if own not in (None, bits):
            raise ValueError(f"{self} was compressed with nbits={own}: leave nbits={nbits} out, or index again.")
        key = (str(batching.infer_device(device)), bits)
        if key not in self._engines:
            beside = "plaid" if bits == plaid.NBITS else f"plaid-{bits}bit"
            path = Path(self.path) / (beside if own is None else COMPRESSED)
            if own is None and not (path / plaid.MARK).exists():
                plaid.build(path, Path(self.path) / VECTORS, offsets, bits, device)
            self._engines[key] = plaid.opened(path, device)
        return self._engines[key]

    def docnos(self, docids: np.ndarray) -> np.ndarray:
        """Names ``[n]`` of the documents at n places of the index."""
        names = [name.decode("utf-8") for name in self._files()[DOCNOS][docids].tolist()]
        return np.array(names, dtype=object)

    def docids(self, docnos: Iterable[str]) -> np.ndarray:
        """Places int64 ``[n]`` in the index of n documents; -1 for those that it does not hold."""
        files = self._files()
        known, order = files[DOCNOS], files[SORTED]
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
            place = np.array([number])
            tokens = gather(place, vectors, offsets, None)
            yield {"docno": self.docnos(place)[0], DOC_EMBS: tokens.astype(np.float32)}

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
        nbits: int | None = None,
    ) -> MultiVectorRetriever:
        """Q + ``query_embs`` → R: MaxSim with every document, or with those that PLAID suggests.

        Args:
            num_results: documents a query.
            batch_size: queries that one pass over the index serves.
            device: where similarities are computed; None = the GPU where there is one.
            drop_query_embs: whether results leave ``query_embs`` out.
            verbose: whether to show progress; None = as the index.
            engine: ``"exact"``; or ``"plaid"``, which looks at a part of the index and may miss documents, where
                fast-plaid is installed. Its clusters are built when it is first used, in ``plaid/`` of the index, in
                blocks of vectors, which may be larger than memory.
            probes: clusters that a token of the query looks into; PLAID's only.
            candidates: documents of a query whose compressed vectors are compared; PLAID's only.
            nbits: bits of a dimension in what PLAID compares (PairDistill, App. B.3: 2); None = 4, or those that the
                index was compressed with.

        Raises:
            ModuleNotFoundError: if fast-plaid is missing, or was built for another torch.
        """
        return MultiVectorRetriever(
            self, num_results=num_results, batch_size=batch_size, device=device, drop_query_embs=drop_query_embs,
            verbose=verbose, engine=engine, probes=probes, candidates=candidates, nbits=nbits,
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


def _whole(path: Path, meta: dict[str, Any]) -> bool:
    """Whether an index has its vectors, all of them."""
    if "nbits" in meta:
        return (path / COMPRESSED / plaid.MARK).is_file()
    return (path / VECTORS).stat().st_size == 2 * meta["token_count"] * meta["dimension"]


def _agree(files: dict[str, np.ndarray], count: int, tokens: int) -> bool:
    """Whether the files of an index are of one index."""
    offsets, docnos, order = files[OFFSETS], files[DOCNOS], files[SORTED]
    if [array.shape for array in (offsets, docnos, order)] != [(count + 1,), (count,), (count,)]:
        return False
    if docnos.dtype.kind != "S" or {offsets.dtype.kind, order.dtype.kind} != {"i"}:
        return False
    places = 0 <= order.min() and order.max() < count
    return bool(places and offsets[0] == 0 and offsets[-1] == tokens and (np.diff(offsets) > 0).all())
