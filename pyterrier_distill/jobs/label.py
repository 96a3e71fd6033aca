"""The command ``label``: a collection's queries through teachers, into a label store."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import pyterrier as pt

from ..frames import arguments
from ..labels.store import LabelStore
from ..students.bi_encoder.bi_encoder import BiEncoder
from ..teachers.listwise import ListwiseLLMTeacher
from ..teachers.pairwise import PairwiseTeacher
from ..teachers.pointwise import PointwiseTeacher
from ..teachers.run import RunTeacher
from ..teachers.setwise import SetwiseTeacher
from . import sources, spoken


def _likelihood(name: str, **settings: Any) -> PointwiseTeacher:
    return PointwiseTeacher(name, kind="query_likelihood", **settings)


def _vectors(name: str, **settings: Any) -> pt.Transformer:
    return BiEncoder(name, **settings).query_encoder()


def _run(path: str, **settings: Any) -> RunTeacher:
    return RunTeacher(path, **{"by": "rank", **settings})


#: Kinds of teachers of the command line.
TEACHERS: Mapping[str, Callable[..., pt.Transformer]] = {
    "pointwise": PointwiseTeacher, "pairwise": PairwiseTeacher, "listwise": ListwiseLLMTeacher,
    "setwise": SetwiseTeacher, "query_likelihood": _likelihood, "vectors": _vectors, "run": _run,
}  # fmt: skip


def label(
    data: str,
    teachers: Sequence[str],
    out: str | os.PathLike,
    *,
    topics: str | os.PathLike | None = None,
    candidates: str | os.PathLike | None = None,
    index: str | os.PathLike | None = None,
    depth: int = 100,
    queries: int | None = None,
    batch_size: int = 64,
    with_text: bool = False,
    verbose: bool = True,
) -> LabelStore:
    """Label queries of a collection.

    Interrupted and called again, it goes on behind the last batch.

    Args:
        data: the collection: ``irds:ID``, ``folder:PATH`` or ``pydocs``.
        teachers: one behind the other, each ``KIND:NAME,setting=value``; kinds are those of :data:`TEACHERS`.
        out: a directory, of the store.
        topics: a file of queries; None = the collection's.
        candidates: a TREC run that says which documents are labelled; None = BM25's first ``depth``.
        index: directory of BM25's index; None = beside the store.
        depth: documents of a query.
        queries: only the first so many; None = all.
        batch_size: queries of one commit.
        with_text: whether texts are stored, so that training needs nothing else.
        verbose: whether to show progress.

    Raises:
        FileNotFoundError, ValueError: for names, files or settings that cannot be meant.
        LabellingError: if a teacher failed; what it had finished is kept.
    """
    arguments.whole(depth, "depth")
    arguments.whole(queries, "queries", absent=True)
    if not teachers:
        raise ValueError("name a teacher: --teacher KIND:NAME, such as pointwise:cross-encoder/ms-marco-MiniLM-L6-v2.")
    stages = [spoken.called(text, TEACHERS, "--teacher") for text in teachers]
    dataset = sources.collection(data)
    asked = sources.topics(dataset, topics)
    asked = asked if queries is None else asked.head(queries)
    store = LabelStore(out)
    alone = candidates is None and all(isinstance(stage, RunTeacher) for stage in stages)
    beside = f"{os.fspath(out).rstrip('/')}-bm25" if index is None else index
    first = [] if alone else [sources.candidates(dataset, beside, depth, candidates)]
    pipeline = reduce(lambda before, stage: before >> stage, [*first, *stages])
    if alone and with_text:
        pipeline = pipeline >> sources.JoinedText(dataset)
    return store.build(pipeline, asked, batch_size=batch_size, with_text=with_text, verbose=verbose)
