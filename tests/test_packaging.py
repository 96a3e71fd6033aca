"""What is shipped: a wheel with everything in it, extras where messages name them, files that say what it is."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
TABLE = PROJECT.split("[project.optional-dependencies]")[1].split("\n[")[0]
EXTRAS = set(re.findall(r"^([a-z0-9-]+) = \[", TABLE, re.M))
MESSAGES = sorted(
    {
        (path.name, extra)
        for path in (ROOT / "pyterrier_distill").rglob("*.py")
        for named in re.findall(r"pyterrier-distill\[([a-z0-9,-]+)\]", path.read_text(encoding="utf-8"))
        for extra in named.split(",")
    }
)


@pytest.mark.parametrize("where, extra", MESSAGES)
def test_messages_name_extras_that_there_are(where, extra):
    assert extra in EXTRAS


def test_the_readme_names_every_extra():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    part = readme[readme.index("Extras, ") : readme.index("## Citation")]
    assert EXTRAS <= set(re.findall(r"`([a-z0-9-]+)`", part))


def test_files_say_what_it_is():
    for name in ("LICENSE", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "pyterrier_distill/py.typed"):
        assert (ROOT / name).exists(), name
    for url in ("Homepage", "Documentation", "Issues", "Changelog"):
        assert re.search(rf"^{url} = ", PROJECT, re.M)
    cff = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert {"cff-version", "title", "message", "authors"} <= {line.split(":")[0] for line in cff.splitlines()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_what_is_built_is_whole_and_runs(kind, tmp_path):
    source = tmp_path / "source"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("no checkout to build from")
    for name in filter(None, tracked.stdout.split("\0")):
        if name.startswith(("pyterrier_distill/", "README", "LICENSE", "pyproject", "setup.py")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    what: Path = source
    if kind == "sdist":
        code = "import setuptools.build_meta as b; print(b.build_sdist('dist'))"
        made = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=True)
        what = source / "dist" / made.stdout.strip().splitlines()[-1]
    pip = [sys.executable, "-m", "pip"]
    built = [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(what)]
    done = subprocess.run(built, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "pyterrier_distill").rglob("*"):
        if path.suffix in (".py", ".md", ".csv", ".typed", ".png") and "__pycache__" not in path.parts:
            assert str(path.relative_to(ROOT)) in names, path
    there = tmp_path / "installed"
    subprocess.run([*pip, "install", "-q", "--no-deps", "--target", str(there), str(wheel)], check=True)
    code = "import pyterrier_distill as p; print(p.__file__); import pyterrier_distill.cli as c; c.main(['--version'])"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(there)},
    )  # fmt: skip
    assert ran.returncode == 0 and ran.stdout.startswith(str(there)), ran.stderr
