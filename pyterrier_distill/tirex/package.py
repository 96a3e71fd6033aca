"""A folder that holds a whole submission: the student, this package, what it needs, and how it is run."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata as installed
from pathlib import Path
from typing import Any

from ..engine.checkpoints import written_whole
from ..stores import seals
from ..stores.files import read_object
from ..suites.serving import load_student
from .run import Submission

DISTRIBUTION = "pyterrier-distill"
#: What a submission needs besides what every installation has.
EXTRAS = frozenset({"pisa", "tirex"})
COMMAND = "python -m pyterrier_distill.tirex --student /submission/student"

_DOCKERFILE = """\
# The processor's image; for a card: docker build --build-arg BASE=pytorch/pytorch:2.9.0-cuda12.8-cudnn9-runtime .
ARG BASE=python:{python}-slim
FROM ${{BASE}}
ARG PIP_OPTIONS=""
ENV PIP_OPTIONS=${{PIP_OPTIONS}} HF_HUB_OFFLINE=1
WORKDIR /submission
COPY . /submission
RUN sh install.sh
"""
_INSTALL = """\
#!/bin/sh
# Installs the submission into the Python that is first on the path; PIP_OPTIONS go to pip.
set -eu
cd "$(dirname "$0")"
python -m pip install --no-cache-dir ${PIP_OPTIONS:-} -r requirements.txt
python -m pip install --no-cache-dir --no-deps ./package
"""


@contextmanager
def packed(submission: Submission, out: str | os.PathLike, *, overwrite: bool = False) -> Iterator[Path]:
    """The folder: Dockerfile, install.sh, requirements.txt, package, student, README.md; it may be tried in the block.

    Args:
        submission: of a student.
        out: where it goes when the block ends without an error; it appears whole or not at all.
        overwrite: whether a folder that was written here before is replaced.

    Yields:
        Where it is meanwhile.

    Raises:
        FileNotFoundError, ValueError: if there is no such student, or it needs files that it does not hold.
        FileExistsError: if something stands there.
    """
    student = load_student(str(submission.student))
    if Path(str(submission.student)).resolve() in Path(out).resolve().parents:
        raise ValueError(f"{out} lies in the student's directory, which is copied there: choose another --out.")
    with written_whole(out, "Dockerfile", overwrite=overwrite) as draft:
        if (Path(str(submission.student)) / "adapter_config.json").exists():
            student.save(draft / "student", merge=True)  # with its base
        else:
            shutil.copytree(str(submission.student), draft / "student")
        if place := _elsewhere(read_object(draft / "student" / seals.META)):
            raise ValueError(
                f"{submission.student} needs {place}, which it does not hold: a submission takes students that are one"
                " directory."
            )
        _write_package(draft / "package")
        pins = requirements()
        (draft / "requirements.txt").write_text("".join(f"{line}\n" for line in pins))
        (draft / "Dockerfile").write_text(_DOCKERFILE.format(python=".".join(map(str, sys.version_info[:2]))))
        (draft / "install.sh").write_text(_INSTALL)
        (draft / "README.md").write_text(_readme(submission))
        yield draft


def command(submission: Submission) -> str:
    """What runs in the sandbox."""
    told = [("--team", submission.team), ("--name", submission.called), ("--repository", submission.repository)]
    told += [("--description", submission.description)]
    more = [part for option, value in told if value for part in (option, value)]
    more += ["--depth", str(submission.depth)] if submission.depth != Submission.depth else []
    return " ".join([COMMAND, *map(shlex.quote, more)])


def tira_command(submission: Submission, folder: str | os.PathLike, *, dry_run: bool) -> list[str]:
    """The call of tira-cli that submits the folder.

    Args:
        submission: with the dataset.
        folder: of :func:`packed`.
        dry_run: whether tira-cli shall only try it.
    """
    call = ["tira-cli", "code-submission", "--path", str(folder), "--task", "ir-benchmarks"]
    call += ["--dataset", str(submission.dataset), "--command", command(submission)]
    return [*call, "--dry-run"] if dry_run else call


def requirements() -> list[str]:
    """Everything that a submission imports, with the versions that are installed here, and what these need.

    Raises:
        ModuleNotFoundError: if something that it needs is not installed here.
    """
    from packaging.requirements import Requirement

    pins: dict[str, str] = {}
    left: list[tuple[str, frozenset[str], bool]] = [(DISTRIBUTION, EXTRAS, True)]
    seen: set[tuple[str, frozenset[str]]] = set()
    while left:
        name, extras, must = left.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            found = installed.distribution(name)
        except installed.PackageNotFoundError:
            if must:
                raise ModuleNotFoundError(
                    f'a submission needs {name}, which is not installed: pip install "pyterrier-distill[pisa,tirex]".'
                ) from None
            continue
        if name != DISTRIBUTION:
            pins[name] = found.version.partition("+")[0]  # builds for a processor alone have one of their own
        for line in found.requires or []:
            need = Requirement(line)
            wanted = any(
                need.marker is None or need.marker.evaluate({"extra": extra}) for extra in (extras or {""}) | {""}
            )
            if wanted:
                own = need.name.lower().replace("_", "-") == DISTRIBUTION
                required = name == DISTRIBUTION and need.name.lower() not in ("tira",)
                key = DISTRIBUTION if own else need.name.lower().replace("_", "-").replace(".", "-")
                left.append((key, frozenset(need.extras), required))
    return [f"{name}=={version}" for name, version in sorted(pins.items())]


def _write_package(folder: Path) -> None:
    """This package as source, to be installed by pip."""
    here = Path(__file__).parents[1]
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(here, folder / here.name, ignore=ignored)
    found = installed.distribution(DISTRIBUTION)
    groups: dict[str, dict[str, str]] = {}
    for entry in found.entry_points:
        groups.setdefault(entry.group, {})[entry.name] = entry.value
    lines = [
        "[build-system]", 'requires = ["setuptools"]', 'build-backend = "setuptools.build_meta"', "", "[project]",
        f"name = {json.dumps(DISTRIBUTION)}", f"version = {json.dumps(found.version)}", "",
    ]  # fmt: skip
    lines += _tables("scripts", groups.pop("console_scripts", {}))
    for group, entries in groups.items():
        lines += _tables(f"entry-points.{json.dumps(group)}", entries)
    lines += ["[tool.setuptools.packages.find]", f"include = [{json.dumps(here.name + '*')}]", ""]
    lines += ["[tool.setuptools.package-data]", '"*" = ["*.csv", "*.txt", "py.typed"]', ""]
    (folder / "pyproject.toml").write_text("\n".join(lines))


def _tables(name: str, entries: dict[str, str]) -> Iterable[str]:
    if entries:
        yield f"[project.{name}]"
        yield from (f"{json.dumps(key)} = {json.dumps(value)}" for key, value in entries.items())
        yield ""


def _elsewhere(told: Any) -> str | None:
    """A directory outside of its own that a saved student refers to, such as the encoder of its documents."""
    if not isinstance(told, dict):
        return None
    if isinstance(told.get("path"), str) and os.path.isabs(told["path"]):
        return told["path"]
    return next((found for value in told.values() if (found := _elsewhere(value))), None)


def _readme(submission: Submission) -> str:
    return (
        f"# {submission.called}\n\n{submission.description or 'A ranker, distilled with PyTerrier.'}\n\n"
        f"Built by `docker build .`, run by\n\n    {command(submission)}\n\n"
        "which reads `$inputDataset` and writes `$outputDir/run.txt.gz` and `ir-metadata.yml`.\n"
    )
