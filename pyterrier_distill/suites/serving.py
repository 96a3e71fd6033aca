"""Pipelines for a collection: what a saved student, or a function of one's own, ranks it with."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt

from ..engine.checkpoints import written_whole
from ..frames.columns import DOC_EMBS
from ..frames.ranking import agreed
from ..multi_vector.index import MultiVectorIndex
from ..students.base import Student
from ..students.bi_encoder.bi_encoder import BiEncoder
from ..students.late_interaction.late_interaction import LateInteraction
from .context import Context
from .encoded import encoded

_QUERIES = ["qid", "query"]
_DOCUMENTS = ["qid", "query", "docno", "score", "rank", "text"]


def load_student(path: str | os.PathLike) -> Student:
    """The student that was saved in a directory.

    Raises:
        FileNotFoundError: if there is no such directory.
        ValueError: if no student is in it.
    """
    if not Path(path).is_dir():
        raise FileNotFoundError(f"{path}: no such directory; give one that a student was saved in.")
    try:
        found = pt.Artifact.load(str(path))
    except ValueError as error:
        raise ValueError(
            f"{path} holds no saved student ({' '.join(str(error).split())}): give the directory of student.save(...)."
        ) from error
    if not isinstance(found, Student):
        raise ValueError(f"{path} holds a {type(found).__name__}, no student: give the directory of student.save(...).")
    return found


def pipeline_for(
    name: str, system: Any, context: Context, depth: int, *, drop_self: bool = False
) -> pt.Transformer:
    """The pipeline Q → R of a system for a collection.

    Args:
        name: of the system, for messages.
        system: a function of a :class:`Context` that makes one of the following; a pipeline Q → R; or a re-ranker
            R → R.
        context: the collection.
        depth: how many documents of the context's first stage a re-ranker re-ranks.
        drop_self: whether the document that has the query's id is none of them.

    Raises:
        TypeError: if a function returns no transformer, or one that is neither.
    """
    if not isinstance(system, pt.Transformer):
        system = system(context)
        if not isinstance(system, pt.Transformer):
            raise TypeError(f"{name!r} must return a pipeline Q → R or a re-ranker R → R, and returned {system!r}.")
    if retrieves(system, name):
        return system
    first = context.first_stage % (depth + 1) >> pt.apply.generic(_without_itself) if drop_self else context.first_stage
    return first % depth >> context.text_loader() >> system


def _without_itself(results: pd.DataFrame) -> pd.DataFrame:
    """Rankings without the document that is the query."""
    return agreed(results[results["qid"] != results["docno"]].reset_index(drop=True))


def retrieves(system: pt.Transformer, name: str = "the system") -> bool:
    """Whether a transformer finds documents for queries, Q → R, and not documents' scores, R → R.

    Args:
        system: a transformer. Of a pipeline that fails when it is asked about no queries, its first stage tells.
        name: of the system, for messages.

    Raises:
        TypeError: if it takes neither queries nor documents, or fails on empty frames, saying how.
    """
    wrong = []
    asked = [(system, _QUERIES), (system, _DOCUMENTS)]
    asked += [(system[0], _QUERIES)] if isinstance(system, pt.Compose) else []
    for one, given in asked:
        try:
            if "docno" in pt.inspect.transformer_outputs(one, given):
                return given is _QUERIES
            wrong.append("no column docno")
        except (pt.inspect.InspectError, pt.validate.InputValidationError) as error:
            cause = error.__cause__ or error
            wrong.append(f"{type(cause).__name__}: {' '.join(str(cause).split())[:300]}")
    raise TypeError(
        f"{name!r} ranks neither queries (asked about none: {wrong[0]}) nor documents (likewise: {wrong[1]}). Let it"
        " give its columns for a frame without rows, too."
    )


def served(student: Student, context: Context, num_results: int = 1000) -> pt.Transformer:
    """A student as it is served: with an index of the collection of its own, or as the re-ranker that it is.

    Args:
        student: with one vector a text (``BiEncoder``: a FlexIndex) or one a token (``LateInteraction``: a
            MultiVectorIndex); any other one, and where the collection comes with candidates every one, re-ranks.
        context: the collection. The index is built once, in its directory; interrupted, it goes on.
        num_results: documents of a query.

    Returns:
        Q → R, or the re-ranker R → R.
    """
    dense, tokens = isinstance(student, BiEncoder), isinstance(student, LateInteraction)
    if context.has_candidates or not (dense or tokens):
        return student
    place = Path(context.path) / f"{type(student).__name__}-{student.fingerprint()[:12]}"
    index = _flex_index if dense else MultiVectorIndex
    if not place.exists():
        parts = place.with_name(f"{place.name}-parts")
        documents = encoded(student, context.get_corpus_iter(), "doc_vec" if dense else DOC_EMBS, parts)
        with written_whole(place, "index") as draft:
            index(str(draft / "index")).index(documents)
        shutil.rmtree(parts, ignore_errors=True)
    opened = index(str(place / "index"))
    retriever = opened.np_retriever if dense else opened.retriever
    encoder = student.query_encoder()  # type: ignore[attr-defined]
    return encoder >> retriever(num_results=num_results)


def _flex_index(path: str) -> Any:
    from pyterrier_dr import FlexIndex

    return FlexIndex(path, verbose=False)
