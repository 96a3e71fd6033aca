"""A BM25 first stage without Java: PISA where it has a wheel, bm25s elsewhere."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt

from ..engine.checkpoints import written_whole
from ..frames import given, validate, words
from ..frames.ranking import carried
from ..stores.files import DOCUMENTS, check_path, read_object
from .engine_words import Documents, document_text, for_bm25s, warn_of_silence

logger = logging.getLogger(__name__)


def bm25(
    path: str | os.PathLike,
    documents: Any = None,
    *,
    text_field: str = "text",
    engine: str = "auto",
    k1: float = 0.9,
    b: float = 0.4,
    num_results: int = 1000,
) -> pt.Transformer:
    """A BM25 retriever Q → R over an index at ``path``, which is built from ``documents`` if it is not there.

    Results come in the order of the topics, each query's best first, however many threads search. English stop
    words are left out, words are stemmed (Porter 2). Words are Unicode's, in any script: see
    :mod:`pyterrier_distill.frames.words`; of Chinese, Japanese, Thai and the like each letter is one, and each two
    neighbours.
    PISA itself reads ASCII alone. Documents of which a quarter of the words or more are in other letters are indexed
    under names for these words; others, English ones with some Greek or accents, as PISA reads them. A query in other
    letters that finds nothing is logged.

    Args:
        path: directory of the index.
        documents: a dataset, a frame with ``docno`` and text, or dicts with them; where the index exists a dataset
            and an iterator are not read, a frame or a list must be what it was built from.
        text_field: the field that is indexed.
        engine: ``pisa``, ``bm25s``, or ``auto`` = PISA where pyterrier-pisa is installed.
        k1: term frequency saturation.
        b: length normalisation, 0 to 1.
        num_results: documents for a query.

    Raises:
        ModuleNotFoundError: if neither engine is installed, saying how to install one.
        FileNotFoundError: if there is no index and no ``documents``.
        FileExistsError: if something else stands at ``path``.
        ValueError: if no document has any words, one has no text, a docno comes twice, PISA meets one with white
            space, or the index was built from another frame or list.

    Example::

        bm25 = ptd.bm25("vaswani.bm25", pt.get_dataset("irds:vaswani"))
        bm25.search("magnetic fields")
    """
    engine = _engine(engine)
    path = Path(check_path(path))
    mark = "pt_meta.json" if engine == "pisa" else Bm25s.META
    built = (path / mark).exists()
    if not built and documents is None:
        raise FileNotFoundError(f"no BM25 index at {path}: pass the documents to build it from.")
    if built and isinstance(documents, (pd.DataFrame, list)):
        _check_same(path, documents, text_field)
    documents = () if built or documents is None else _with_words(_once(given.documents(documents)), text_field)
    if engine == "bm25s":
        if not built:
            Bm25s.build(path, documents, text_field)
        return Bm25s(path, k1=k1, b=b, num_results=num_results)
    import pyterrier_pisa

    settings: dict[str, Any] = {"stemmer": "porter2", "stops": "lucene", "threads": os.cpu_count() or 1}
    with _quiet():
        if not built:
            with written_whole(path, mark) as draft:
                told = _Told(documents, text_field)
                read = Documents(told, text_field)
                try:
                    pyterrier_pisa.PisaIndex(str(draft), text_field, **settings).index(read)
                finally:
                    read.check()  # an engine that gets no documents fails without a word of why
                (draft / DOCUMENTS).write_text(told.digest.hexdigest())
        from .pisa_words import AnyScript

        index = pyterrier_pisa.PisaIndex(str(path), text_field, **settings)
        retriever = AnyScript.of(index.bm25(k1=k1, b=b, num_results=num_results))
        retriever.search("x")  # the scores of this k1 and b are prepared when they are first used, and that is loud too
    return retriever


def _once(documents: Iterable[dict[str, str]]) -> Iterator[dict[str, str]]:
    """The same documents; an engine would keep both of two with one docno, and find either.

    Raises:
        ValueError: if a docno comes twice.
    """
    seen: set[str] = set()
    for document in documents:
        docno = str(document["docno"])
        if docno in seen:
            raise ValueError(f"the documents hold docno {docno!r} more than once: give each its own, or leave one out.")
        seen.add(docno)
        yield document


def _with_words(documents: Iterable[dict[str, str]], text_field: str) -> Iterable[dict[str, str]]:
    """The same documents, once one of them is known to have words: engines fail badly on collections without any."""
    documents = iter(documents)
    seen = []
    for document in documents:
        seen.append(document)
        if words.has_words(document_text(document, text_field)):
            return itertools.chain(seen, documents)
    raise ValueError(f"no document has any words in the field {text_field!r}: there is nothing to index.")


class _Told:
    """The same documents, with a digest of those that were read.

    Args:
        documents: dicts with ``docno`` and text.
        text_field: the field that counts.
    """

    def __init__(self, documents: Iterable[dict[str, str]], text_field: str):
        self.documents = documents
        self.text_field = text_field
        self.digest = hashlib.sha256(text_field.encode())

    def __iter__(self) -> Iterator[dict[str, str]]:
        for document in self.documents:
            told = json.dumps([str(document["docno"]), document_text(document, self.text_field)])
            self.digest.update(f"{told}\n".encode())
            yield document


def _check_same(path: Path, documents: Any, text_field: str) -> None:
    """Check that an index was built from these documents; indexes of earlier versions do not say.

    Raises:
        ValueError: if it was built from others.
    """
    if not (path / DOCUMENTS).is_file():
        return
    told = _Told(_with_words(_once(given.documents(documents)), text_field), text_field)
    for _ in told:
        pass
    if told.digest.hexdigest() != (path / DOCUMENTS).read_text():
        raise ValueError(f"{path} was built from other documents or text_field: name another path or remove it.")


def _engine(engine: str) -> str:
    from importlib.util import find_spec

    modules = {"pisa": "pyterrier_pisa", "bm25s": "bm25s"}
    wanted = list(modules) if engine == "auto" else [engine]
    if engine not in (*modules, "auto"):
        raise ValueError(f"engine must be 'auto', 'pisa' or 'bm25s', not {engine!r}.")
    for name in wanted:
        if find_spec(modules[name]) is not None:
            return name
    extra = "pisa" if engine == "auto" else engine
    raise ModuleNotFoundError(f'BM25 needs an engine: pip install "pyterrier-distill[{extra}]".')


class _quiet:
    """PISA writes its log past Python; keep it out of the user's way, but show it when something fails."""

    def __enter__(self) -> None:
        import sys
        import tempfile

        sys.stdout.flush()
        sys.stderr.flush()
        self.log = tempfile.TemporaryFile()
        self.saved = {stream: os.dup(stream) for stream in (1, 2)}
        for stream in self.saved:
            os.dup2(self.log.fileno(), stream)

    def __exit__(self, kind: object, *_: object) -> None:
        for stream, original in self.saved.items():
            os.dup2(original, stream)
            os.close(original)
        self.log.seek(0)
        if kind is not None and (said := self.log.read().decode(errors="replace").strip()):
            logger.error("PISA said:\n%s", said)
        self.log.close()


class Bm25s(pt.Transformer):
    """BM25 by the bm25s library: Q → R. Made by :func:`bm25`.

    Args:
        path: directory of the index.
        k1: term frequency saturation.
        b: length normalisation, 0 to 1.
        num_results: documents for a query.
    """

    schematic = {"label": "BM25 (bm25s)"}
    META = "pt_bm25s.json"

    def __init__(self, path: str | os.PathLike, *, k1: float = 0.9, b: float = 0.4, num_results: int = 1000):
        self.path = Path(path)
        self.k1 = k1
        self.b = b
        self.num_results = num_results
        self._loaded: tuple[Any, list[str]] | None = None
        self._loaded_for: tuple[float, float] | None = None

    @classmethod
    def build(cls, path: str | os.PathLike, documents: Iterable[dict[str, str]], text_field: str) -> None:
        """Tokenise ``documents`` and keep the tokens at ``path``; k1 and b are chosen when searching."""
        docnos, texts = [], []
        told = _Told(documents, text_field)
        for document in told:
            docnos.append(document["docno"])
            texts.append(document_text(document, text_field))
        with written_whole(path, cls.META) as draft:
            content = {"docnos": docnos, "tokens": _tokens(texts)}
            (draft / cls.META).write_text(json.dumps(content), encoding="utf-8")
            (draft / DOCUMENTS).write_text(told.digest.hexdigest())

    def _index(self) -> tuple[Any, list[str]]:
        if self._loaded is None or self._loaded_for != (self.k1, self.b):
            import bm25s

            content = read_object(self.path / self.META, " Index again.")
            docnos, tokens = content.get("docnos"), content.get("tokens")
            if not isinstance(docnos, list) or not isinstance(tokens, list) or len(docnos) != len(tokens):
                raise ValueError(f"{self.path / self.META} is damaged: it lacks docnos or tokens. Index again.")
            index = bm25s.BM25(method="lucene", k1=self.k1, b=self.b)
            index.index(content["tokens"], show_progress=False)
            self._loaded = (index, content["docnos"])
            self._loaded_for = (self.k1, self.b)
        return self._loaded

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Retrieve for each query."""
        validate.query_frame(inp, ["query"], context=self)
        inp = inp.drop(columns=["docno", "score", "rank"], errors="ignore").reset_index(drop=True)
        rows: list[tuple[int, str, float, int]] = []
        if len(inp):
            index, docnos = self._index()
            depth = min(self.num_results, len(docnos))
            for number, tokens in enumerate(_tokens(inp["query"].tolist())):
                scores = index.get_scores(tokens) if tokens else np.zeros(len(docnos))
                top = np.argsort(-scores, kind="stable")[:depth]
                found = enumerate(top[scores[top] > 0])
                rows += [(number, docnos[place], float(scores[place]), rank) for rank, place in found]
        hits = pd.DataFrame(rows, columns=["row", "docno", "score", "rank"])
        places = hits["row"].to_numpy(dtype=int)
        warn_of_silence(list(zip(range(len(inp)), inp["query"], strict=True)), hits["row"], self.path)
        scores, ranks = carried(places, hits["score"].to_numpy(dtype=float), hits["rank"].to_numpy(dtype=int))
        return inp.iloc[places].reset_index(drop=True).assign(docno=hits["docno"], score=scores, rank=ranks)

    def fuse_rank_cutoff(self, k: int) -> pt.Transformer | None:
        """``bm25 % k`` retrieves k."""
        return pt.inspect.transformer_apply_attributes(self, num_results=k) if k < self.num_results else self

    def __repr__(self) -> str:
        return f"Bm25s({str(self.path)!r}, k1={self.k1}, b={self.b}, num_results={self.num_results})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bm25s) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))


def _tokens(texts: list[str]) -> list[list[str]]:
    import bm25s
    import Stemmer

    readable = [for_bm25s(text) for text in texts]
    return bm25s.tokenize(
        readable, stopwords="en", stemmer=Stemmer.Stemmer("english"), return_ids=False, show_progress=False
    )
