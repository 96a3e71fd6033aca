"""The command ``train``: a student from stored labels."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..distiller import Distiller
from ..frames import LABEL
from ..labels.store import LabelStore
from ..students.base import Student
from ..students.bi_encoder.bi_encoder import BiEncoder
from ..students.causal_reranker import CausalReranker
from ..students.cross_encoder import CrossEncoder
from ..students.late_interaction import LateInteraction
from ..students.mono_t5 import MonoT5
from ..students.ustad import USTAD
from ..suites.serving import load_student
from . import sources, spoken

#: Kinds of students of the command line.
STUDENTS: Mapping[str, Callable[..., Student]] = {
    "bi-encoder": BiEncoder, "cross-encoder": CrossEncoder, "late-interaction": LateInteraction, "monot5": MonoT5,
    "causal": CausalReranker, "ustad": USTAD,
}  # fmt: skip


def train(
    labels: Sequence[str | os.PathLike],
    student: str,
    loss: str,
    out: str | os.PathLike,
    *,
    data: str | None = None,
    validation: str | None = None,
    index: str | os.PathLike | None = None,
    depth: int = 100,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    verbose: bool = True,
) -> dict[str, Any]:
    """Train a student on stored labels, and save it.

    Interrupted and called again, it goes on from the last checkpoint.

    Args:
        labels: label stores; with several, one student learns from all of them.
        student: the directory of a saved student, or ``KIND:CHECKPOINT,setting=value``, kinds of :data:`STUDENTS`.
        loss: as it prints itself: ``RankNet() + 0.5 * InfoNCE()``.
        out: a directory, of the trained student; its checkpoints are beside it, in ``<out>-training``.
        data: the collection that the labels are of, for texts that the stores do not hold and for judgements, where the
            loss reads these; None = neither is needed.
        validation: a collection with judgements, on which BM25's first ``depth`` documents are re-ranked to choose the
            best checkpoint.
        index: directory of BM25's index of that; None = beside the student.
        depth: documents of a query of it.
        settings: of the :class:`~pyterrier_distill.Distiller`, by name.
        overwrite: whether a student in ``out`` is replaced.
        verbose: whether to show progress.

    Returns:
        What came of it: ``student``, ``steps``, ``seconds``, ``best``, ``history``.

    Raises:
        FileNotFoundError, FileExistsError, ValueError: for names, files or settings that cannot be meant.
    """
    out = Path(out)
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} is there already: name another directory as --out, or say --overwrite.")
    stores = []
    for path in labels:
        if not Path(path).is_dir():
            raise FileNotFoundError(f"{path}: no such label store; pyterrier-distill label makes one.")
        stores.append(LabelStore(path))
    minimised = spoken.loss(loss)
    ranker = load_student(student) if ":" not in student else spoken.called(student, STUDENTS, "--student")
    dataset = None if data is None else sources.collection(data)
    text = None if dataset is None else sources.JoinedText(dataset)
    qrels = dataset.get_qrels() if dataset is not None and LABEL in minimised.columns() else None
    how = {**_checked(settings or {}), "verbose": verbose, "checkpoints": f"{out}-training"}
    distiller = spoken.made("--set", Distiller, [ranker, minimised], how)
    held = judged = None
    if validation is not None:
        other = sources.collection(validation)
        queries = sources.topics(other)
        judged = other.get_qrels()
        queries = queries[queries["qid"].isin(set(judged["qid"]))]
        found = sources.candidates(other, f"{out}-validation-bm25" if index is None else index, depth)
        held = found(queries)
    if len(stores) == 1:
        distiller.fit(stores[0], qrels, held, judged, text=text)
    elif text is not None or qrels is not None:
        raise ValueError("several --labels hold labels of several collections: store texts with label --with-text.")
    else:
        distiller.fit(stores, None, held, judged)
    distiller.student.save(out, overwrite=overwrite)
    manifest = distiller.student.manifest
    told = {"steps": manifest["steps_taken"], "seconds": manifest["seconds"], "best": manifest["best"]}
    return {"student": str(out), **told, "history": distiller.history}


def _checked(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that only the command decides are refused."""
    for name in ("checkpoints", "verbose", "student", "loss"):
        if name in settings:
            raise ValueError(f"--set {name}=: the command decides that itself.")
    return dict(settings)
