"""The notebooks: they were run, say nothing of the machine that they were run on, and run again from top to bottom."""

import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_was_run_whole_and_names_no_machine(path):
    if f"({path.name}), not run yet" in (path.parent / "README.md").read_text(encoding="utf-8"):
        assert not [cell for cell in cells(path) if cell.get("outputs")], "it was run: say so in README.md"
        return
    code = [cell for cell in cells(path) if cell["cell_type"] == "code" and "".join(cell["source"])[:4] != "%pip"]
    assert all(cell["execution_count"] for cell in code), "cells that were not run"
    assert not [output for cell in code for output in cell["outputs"] if output["output_type"] == "error"]
    text = path.read_text(encoding="utf-8")
    for place in ("/root/", "/work/", "/tmp/", "/home/"):
        assert place not in text, place


@pytest.mark.slow
@pytest.mark.usefixtures("irds")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path, tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(path, 4)
    notebook.cells = [cell for cell in notebook.cells if not cell.source.startswith("%pip")]
    nbclient.NotebookClient(
        notebook, timeout=1800, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
