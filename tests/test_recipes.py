"""Recipes: their claims as tests, runs that go on, and one of them whole on a tiny collection."""

import ast
import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import pyterrier_distill as ptd
from pyterrier_distill import recipes
from pyterrier_distill.cli import main
from pyterrier_distill.recipes.claims import Claim, sentence
from pyterrier_distill.recipes.study import Study

ROOM = Path(recipes.__file__).parent
OWN = ("claims", "site", "study", "embed_distill")


def measured(**systems):
    """Systems → values of ten queries and two seeds."""
    rows = [
        ("a", name, seed, f"q{n}", "nDCG@10", value + 0.01 * seed * (-1) ** n)
        for name, values in systems.items()
        for seed in (1, 2)
        for n, value in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=["dataset", "name", "seed", "qid", "measure", "value"])


def test_a_claim_holds_only_where_the_difference_is_significant():
    noise = np.random.default_rng(0).normal(0, 0.02, 10)
    table = measured(one=0.5 + noise, two=0.4 + noise[::-1], three=0.5 - noise)
    found = Claim("one is better", "Table 1", "one", "two").tested(table, "nDCG@10")
    assert found["verdict"] == "holds" and found["p"] < 0.05 and found["difference"] == pytest.approx(0.1, abs=1e-3)
    assert (found["one"], found["two"], found["queries"], found["seeds"]) == (
        pytest.approx(0.5 + noise.mean(), abs=1e-3), pytest.approx(0.4 + noise.mean(), abs=1e-3), 10, 2,
    )  # fmt: skip
    assert Claim("two is better", "Table 1", "two", "one").tested(table, "nDCG@10")["verdict"] == "the opposite"
    assert Claim("three is better", "Table 1", "three", "one").tested(table, "nDCG@10")["verdict"] == "not here"
    assert "holds (+0.1" in sentence(found)


def test_a_claim_about_a_share_is_no_matter_of_significance():
    table = measured(student=[0.49] * 10, teacher=[0.5] * 10)
    assert Claim("keeps 95%", "§7", "student", "teacher", share=0.95).tested(table, "nDCG@10")["verdict"] == "holds"
    assert Claim("keeps 99%", "§7", "student", "teacher", share=0.99).tested(table, "nDCG@10")["verdict"] == "not here"


def test_that_one_is_no_better_holds_until_it_is_significantly_better():
    noise = np.random.default_rng(0).normal(0, 0.02, 10)
    table = measured(one=0.5 + noise, two=0.4 + noise[::-1], three=0.5 - noise)
    verdicts = [
        Claim("no better", "Table 3", better, worse, no_better=True).tested(table, "nDCG@10")["verdict"]
        for better, worse in (("one", "two"), ("one", "three"), ("two", "one"))
    ]
    assert verdicts == ["not here", "holds", "holds"]


def test_a_claim_that_cannot_be_tested_says_why():
    table = measured(one=[0.5] * 10)
    found = Claim("large models", "Table 2", why_not="they need a GPU").tested(table, "nDCG@10")
    assert found["verdict"] == "not tested" and "they need a GPU" in sentence(found)
    assert "two was not measured" in Claim("x", "y", "one", "two").tested(table, "nDCG@10")["why"]


@dataclasses.dataclass(frozen=True)
class Some:
    steps: int = 3
    seeds: tuple = (1, 2)


def test_a_directory_is_of_one_run(tmp_path):
    Study(tmp_path / "out", "beyond", "small", Some(), ["irds:vaswani"])
    Study(tmp_path / "out", "beyond", "small", Some(), ["irds:vaswani"])
    for other in (("beyond", "medium", Some(), ["irds:vaswani"]), ("beyond", "small", Some(4), ["irds:vaswani"])):
        with pytest.raises(ValueError, match="holds another run, whose (scale|settings) differ: name another --out"):
            Study(tmp_path / "out", *other)


def test_collections_of_one_name_are_told_apart(tmp_path):
    names = []
    for place in ("one", "two"):
        (tmp_path / place / "tiny").mkdir(parents=True)
        (tmp_path / place / "tiny" / "queries.jsonl").write_text('{"_id": "q1", "text": "red dog"}\n')
        names.append(f"folder:{tmp_path / place / 'tiny'}")
    study = Study(tmp_path / "out", "beyond", "small", Some(), names)
    assert study.called(names[0]) != study.called(names[1])


def test_a_collection_that_has_changed_is_told(tmp_path):
    study = Study(tmp_path / "out", "beyond", "small", Some(), ["irds:vaswani"])
    study.same("irds:vaswani", collection="a", teacher="b")
    study.same("irds:vaswani", collection="a", teacher="b")
    with pytest.raises(ValueError, match="the teacher of irds:vaswani has changed"):
        study.same("irds:vaswani", collection="a", teacher="c")


def test_recipes_use_public_names_only():
    """What a recipe needs everybody can write: names of the package, and of this room."""
    for name in recipes.NAMES:
        source = (ROOM / f"{name}.py").read_text()
        assert len(source.splitlines()) <= 180, name
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1 and node.module in {*OWN, f"scales.{name}"}, node.module
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ptd":
                assert node.attr in ptd.__all__, node.attr


def test_what_is_no_recipe_is_told(tmp_path, capsys):
    assert main(["recipe", "nothing", "--data", "irds:vaswani", "--out", str(tmp_path / "a")]) == 2
    assert "no recipe 'nothing', only: pairdistill, rank_distillm" in capsys.readouterr().err
    assert main(["recipe", "beyond", "--scale", "huge", "--data", "irds:vaswani", "--out", str(tmp_path / "a")]) == 2
    assert main(["recipe", "beyond", "--out", str(tmp_path / "a")]) == 2
    assert "name a collection" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_the_command_names_the_roles_of_each_recipe(capsys):
    from importlib import import_module

    from pyterrier_distill.cli import ROLES

    assert list(ROLES) == list(recipes.NAMES)
    for name, told in ROLES.items():
        module = import_module(f"pyterrier_distill.recipes.{name}")
        roles = [role.strip("[]=") for role in told.split()] if told != "none" else []
        assert roles == [*module.NEEDS, *module.MAY], name
    with pytest.raises(SystemExit):
        main(["recipe", "--help"])
    assert "train= domain=" in " ".join(capsys.readouterr().out.split())
