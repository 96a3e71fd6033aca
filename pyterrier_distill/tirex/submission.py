"""A student packed, tried and checked: the command ``submit``."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

from ..corpora.loading import read_topics
from . import check, collection, package
from .run import Submission

#: The parts of what :func:`submit` writes.
FOLDER, RUN = "submission", "run"


def submit(
    submission: Submission,
    out: str | os.PathLike,
    *,
    data: str | None = None,
    dry_run: bool = False,
    overwrite: bool = False,
) -> list[str]:
    """Pack a student, rank a collection with it as TIRA will, check the run, and hand it to tira-cli.

    Args:
        submission: of a student, with TIRA's name of a dataset.
        out: a directory for ``submission/`` (see :func:`.package.packed`), which is there once it was tried, and
            ``run/``.
        data: a collection in TIRA's layout to try it on; None = nothing is tried.
        dry_run: whether tira-cli is named only, not called.
        overwrite: whether what was written here before is replaced.

    Returns:
        What was done, line by line; the last one is the call of tira-cli.

    Raises:
        FileNotFoundError, FileExistsError, ValueError: for bad input, or a run that is not as it must be.
        ModuleNotFoundError: without tira, unless ``dry_run``.
    """
    for name in ("dataset", "team"):
        if not str(getattr(submission, name) or "").strip():
            raise ValueError(f"--{name} must be TIRA's name of the {name}.")
    out = Path(out)
    qids = None if data is None else set(read_topics(collection.collection(data))["qid"].astype(str))
    folder = out / FOLDER
    told = [f"{folder}: Dockerfile, install.sh, requirements.txt, package, student."]
    with package.packed(submission, folder, overwrite=overwrite) as draft:
        if data is not None:
            as_packed = replace(submission, student=str(draft / "student"), name=submission.called)
            told.append(as_packed.run(data, str(out / RUN), environment={}))
            check.check_output(out / RUN, qids)
            by_tira = check.check_by_tira(out / RUN)
            told.append(f"{out / RUN}: checked{', by tira, too' if by_tira else '; tira is not installed here'}.")
    call = package.tira_command(submission, folder, dry_run=dry_run)
    if not dry_run:
        if shutil.which(call[0]) is None:
            advice = 'pip install "pyterrier-distill[tirex]"'
            raise ModuleNotFoundError(f"tira-cli is not installed ({advice}); it is called so: {shlex.join(call)}")
        done = subprocess.run(call)
        if done.returncode != 0:
            raise ValueError(f"tira-cli ended with {done.returncode}: {shlex.join(call)}")
    return [*told, shlex.join(call)]
