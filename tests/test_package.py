"""The package itself: light to import, complete, and honest about what is missing."""

import ast
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import pyterrier_distill as ptd

ROOT = Path(ptd.__file__).parent
#: DESIGN's layers: a module may import only from rooms before its own.
ROOMS = [
    "_version",
    "randomness",
    "pipelines",
    "redaction",
    "words",
    "control",
    "locks",
    "fitting",
    "layers",
    "ranking",
    "ids",
    "validate",
    "frames",
    "files",
    "seals",
    "texts",
    "prompts",
    "templates",
    "checkpoints",
    "model_state",
    "formats",
    "samplers",
    "scoring",
    "losses",
    "backends",
    "training",
    "teachers",
    "labels",
    "students",
    "generation",
    "mining",
    "corpora",
    "distiller",
    "iteration",
    "demo",
    "cli",
]


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


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_upward_only(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts == ("__init__",):
        return
    room = parts[0]
    tree = ast.parse(path.read_text())
    lazy = {n for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.If)) for n in ast.walk(f)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and node not in lazy:
            base = [*parts[: len(parts) - node.level], *(node.module or "").split(".")]
            names = [base[0]] if base[0] else [alias.name for alias in node.names]
            for target in names:
                assert ROOMS.index(target) <= ROOMS.index(room), f"{room} imports {target}"


def test_ruff_is_content():
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "."], cwd=ROOT.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_python_block_of_the_readme_is_python():
    readme = (ROOT.parent / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert blocks and all(ast.parse(block).body for block in blocks)
