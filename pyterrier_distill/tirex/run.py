"""One run: a system over a collection of TIRA's, with its metadata, whole or not at all."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import metadata as package
from pathlib import Path
from typing import Any

from ..frames import arguments
from ..stores.drafts import draft_directory
from ..stores.files import written
from ..stores.runs import check_field, write_lines
from ..suites.serving import load_student, served
from . import check, collection, metadata, ranking

RUN = "run.txt.gz"


@dataclass(frozen=True)
class Submission:
    """What is submitted, and what the metadata say of it.

    Attributes:
        student: directory of a saved student; None = ``pipeline`` is.
        pipeline: ``module:name`` of a transformer, or of a function of a :class:`~pyterrier_distill.suites.Context`.
        dataset: TIRA's name of the collection; None = what its sandbox or the collection's ``metadata.json`` says.
        team: who submits.
        name: of the system; None = the student's directory, or the pipeline.
        description: of the system; None = what the student says of itself.
        repository: where the source is; None = this package's.
        depth: documents of a query that are ranked.
    """

    student: str | None = None
    pipeline: str | None = None
    dataset: str | None = None
    team: str = "anonymous"
    name: str | None = None
    description: str | None = None
    repository: str | None = None
    depth: int = ranking.DEPTH

    @property
    def called(self) -> str:
        """The system's name."""
        return self.name or (Path(self.student).resolve().name if self.student else str(self.pipeline))

    def system(self) -> tuple[Any, str]:
        """What ranks, as ``Suite.compare`` takes it, and a description of it.

        Raises:
            ValueError, ImportError: if there is no such student or pipeline.
        """
        if self.student:
            student = load_student(self.student)
            about = f"{student.DESCRIBED}; {student.num_parameters():,} parameters"
            return lambda context: served(student, context, self.depth), about
        module, _, name = str(self.pipeline).partition(":")
        sys.path.insert(0, os.getcwd())  # where python -m looks, too
        try:
            found = getattr(importlib.import_module(module), name or "", None)
        except Exception as error:  # of whatever the module does
            raise ImportError(f"--pipeline {self.pipeline}: {_told_where(error, module)}") from error
        finally:
            sys.path.remove(os.getcwd())
        if not callable(found):
            raise ValueError(f"--pipeline {self.pipeline}: {module} has no {name!r}, a transformer or a function.")
        return found, (getattr(found, "__doc__", None) or f"{found!r}").strip().split("\n")[0]

    def run(self, given: str | None = None, out: str | None = None, environment: Mapping[str, str] = os.environ) -> str:
        """Rank, write and check.

        Args:
            given: directory of the collection; None = what TIRA's environment names.
            out: directory of ``run.txt.gz`` and ``ir-metadata.yml``; None = likewise.
            environment: the process's.

        Returns:
            What was done, in a line.

        Raises:
            ValueError, OSError, ImportError: for bad input; nothing new is in ``out`` then.
        """
        arguments.whole(self.depth, "depth")
        path = collection.named(given, ("inputDataset", "TIRA_INPUT_DATASET"), "--input", environment)
        target = Path(collection.named(out, ("outputDir", "TIRA_OUTPUT_DIR"), "--output", environment))
        dataset = collection.collection(path)
        tag = "-".join(self.called.split()) or "run"
        check_field(tag, "the tag", "Give a --name.")
        with _draft(target) as draft, tempfile.TemporaryDirectory() as indexes:
            system, about = self.system()
            told = {
                "tag": tag,
                "actor": {"team": self.team},
                "research goal": {"description": "Effectiveness of a distilled ranker"},
                "data": {"test collection": {"name": collection.dataset_id(path, self.dataset, environment)}},
                "method": {"name": self.called, "description": self.description or about},
                "implementation": {"source": {"repository": self.repository}},
            }
            without = {"implementation": {"source": {"repository": _repository()}}}
            metadata.check(metadata.merged(without, told))  # before the work
            with metadata.tracked(draft, told, without):
                run = ranking.ranked(system, dataset, indexes, self.called, self.depth)
            with written(draft / RUN) as file:
                write_lines(file, run, tag)
            check.check_run(draft / RUN, set(run["qid"]))
            energy = metadata.energy(metadata.read(draft / metadata.NAME))
            _move(draft, target)
        return f"{target / RUN}: {len(run):,} documents of {run['qid'].nunique()} queries; energy: {energy}."


@contextmanager
def _draft(out: Path) -> Iterator[Path]:
    """A directory in the output's, gone when the block ends.

    Raises:
        FileExistsError: if a run is there that was not written by this program.
        OSError: if nothing can be written there.
    """
    if (out / "run.txt").exists():
        raise FileExistsError(f"{out} holds run.txt, and TIRA takes one run: empty the directory.")
    made = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        draft = draft_directory(out, ".draft-")
    except OSError as error:
        raise OSError(error.errno, f"nothing can be written there ({error.strerror})", str(out)) from error
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        if made and not any(out.iterdir()):
            out.rmdir()


def _move(draft: Path, out: Path) -> None:
    """Everything of the draft to its place; the run last, so that one that is there has its metadata."""
    for part in sorted(draft.iterdir(), key=lambda path: path.name == RUN):
        place = out / part.name
        if part.is_dir():
            shutil.rmtree(place, ignore_errors=True)
        os.replace(part, place)


def _told_where(error: Exception, module: str) -> str:
    """What went wrong while a module was imported, and where in it."""
    if isinstance(error, SyntaxError):
        where = f" ({error.filename}, line {error.lineno})"
    else:
        steps = traceback.extract_tb(error.__traceback__)
        own = [step for step in steps if "importlib" not in step.filename and step.filename != __file__]
        where = f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
    return f"{module!r} cannot be imported: {type(error).__name__}: {getattr(error, 'msg', None) or error}{where}"


def _repository() -> str:
    """Where the source of this package is."""
    told = package("pyterrier-distill").get_all("Project-URL") or []
    return next((url.partition(",")[2].strip() for url in told), "not published")
