"""The package itself: light to import, complete, and honest about what is missing."""

import ast
import inspect
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import pyterrier_distill as ptd

ROOT = Path(ptd.__file__).parent
#: The rooms, from the ground up: a module may import only from its own room and from those before it.
ROOMS = [
    "_version", "commands", "frames", "measures", "stores", "prompts", "losses", "engine", "identity", "sampling",
    "backends",
    "training", "multi_vector", "teachers", "students", "labels", "generation", "mining", "corpora", "distiller",
    "iteration", "suites", "published", "tirex", "jobs", "demo", "recipes", "cli",
]  # fmt: skip


def test_everything_public_says_what_it_takes_and_shows_it():
    for name in ptd.__all__:
        value = getattr(ptd, name)
        if not callable(value) or (isinstance(value, type) and issubclass(value, Exception)) or name == "Loss":
            continue
        text = inspect.getdoc(value) or ""
        unsaid = [n for n in inspect.signature(value).parameters if n not in ("args", "kwargs") and f"{n}:" not in text]
        assert not [n for n in unsaid if f"{n}`" not in text], f"{name} does not say what {unsaid} is"
        assert "Example" in text, f"{name} shows no example"


def test_importing_loads_no_heavy_library():
    heavy = ("torch", "transformers", "sentence_transformers", "pyterrier_dr", "matplotlib", "accelerate")
    code = f"import sys, pyterrier_distill; print([m for m in {heavy!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_every_public_name_is_there_and_documented():
    for name in ptd.__all__:
        value = getattr(ptd, name)
        assert name in dir(ptd)
        if name not in ("__version__", "LABEL_COLUMNS"):
            assert value.__doc__ and len(value.__doc__.split()) > 5, name
    with pytest.raises(AttributeError, match="no_such_name"):
        ptd.no_such_name  # noqa: B018


def test_version_stands_in_one_place():
    assert metadata.version("pyterrier-distill") == ptd.__version__


def test_entry_points_load():
    for group in ("pyterrier.dataset_provider", "pyterrier.artifact", "console_scripts"):
        ours = [e for e in metadata.entry_points(group=group) if e.value.startswith("pyterrier_distill")]
        assert ours
        for entry in ours:
            assert entry.load() is not None


def modules():
    """Every module of the package as a tuple of names, with its tree."""
    return {path.relative_to(ROOT).with_suffix("").parts: ast.parse(path.read_text()) for path in ROOT.rglob("*.py")}


def imported(parts, tree, known):
    """The modules of this package that one imports, wherever in it; those for annotations alone are left out."""
    for_types = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and node not in for_types:
            base = (*parts[: len(parts) - node.level], *(node.module.split(".") if node.module else ()))
            for alias in node.names:
                for target in ((*base, alias.name), (*base, alias.name, "__init__"), base, (*base, "__init__")):
                    if target in known:
                        yield target
                        break


def test_imports_point_upward_only():
    known = modules()
    for parts, tree in known.items():
        if parts == ("__init__",):
            continue
        for target in imported(parts, tree, known):
            assert ROOMS.index(target[0]) <= ROOMS.index(parts[0]), f"{'.'.join(parts)} imports {'.'.join(target)}"


def test_no_modules_import_each_other():
    known = modules()
    imports = {parts: set(imported(parts, tree, known)) - {parts} for parts, tree in known.items()}
    del imports[("__init__",)]
    while free := [parts for parts, targets in imports.items() if not targets & imports.keys()]:
        for parts in free:
            del imports[parts]
    assert not imports, f"circles among {sorted('.'.join(parts) for parts in imports)}"


def test_no_file_is_long():
    for path in ROOT.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 350, path


def test_types_are_consistent():
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", "/dev/null"], cwd=ROOT.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_ruff_is_content():
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "."], cwd=ROOT.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_python_block_of_the_readme_is_python():
    readme = (ROOT.parent / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert blocks and all(ast.parse(block).body for block in blocks)
