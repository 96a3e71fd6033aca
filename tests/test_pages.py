"""The pages of the documentation say what was run: commands that there are, claims that are in the results."""

import json
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

import pyterrier_distill
from pyterrier_distill import recipes
from pyterrier_distill.recipes.claims import sentence
from pyterrier_distill.recipes.study import roles

PAGES = Path(pyterrier_distill.__file__).parent / "pt_docs" / "recipes"
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "recipes"


@pytest.mark.parametrize("name", recipes.NAMES)
def test_the_command_of_a_recipes_page_names_the_collections_that_it_needs(name):
    page = (PAGES / f"{name}.md").read_text()
    (command,) = re.findall(rf"^pyterrier-distill recipe {name} ((?:.*\\\n)*.*)$", page, re.MULTILINE)
    words = shlex.split(command.replace("\\\n", " "))
    data = words[words.index("--data") + 1 :]
    given = roles(data[: data.index("--out")] if "--out" in data else data)
    recipe = import_module(f"pyterrier_distill.recipes.{name}")
    assert {*recipe.NEEDS, "test"} <= set(given) <= {*recipe.NEEDS, *recipe.MAY, "test"}


@pytest.mark.parametrize("name", recipes.NAMES)
def test_a_recipes_page_tells_the_claims_of_the_run_that_is_kept(name):
    page = (PAGES / f"{name}.md").read_text()
    told = page.partition("<!-- what was found -->")[2].partition("<!-- until here -->")[0]
    kept = RESULTS / name / "claims.json"
    if not kept.exists():
        assert "holds" not in told and "not here" not in told  # no claim without a run
        return
    sentences = [line[2:] for line in told.splitlines() if line.startswith("* ")]
    assert sentences == [sentence(claim) for claim in json.loads(kept.read_text())]
