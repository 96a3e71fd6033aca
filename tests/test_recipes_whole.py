"""Every recipe whole, with tiny random models on a tiny collection: mechanics, never quality."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest
import torch

import pyterrier_distill as ptd
from pyterrier_distill import recipes
from pyterrier_distill.cli import main
from pyterrier_distill.recipes import beyond, inranker, rank_distillm
from pyterrier_distill.recipes.scales import beyond as settings_of_beyond
from pyterrier_distill.recipes.scales import distill_vs_contrastive, pairdistill, ustad
from pyterrier_distill.recipes.scales import inranker as settings_of_inranker
from pyterrier_distill.recipes.scales import rank_distillm as settings_of_rank_distillm
from pyterrier_distill.recipes.site import Site


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    words = [f"{first}{last}" for first in ("red", "blue", "green", "old") for last in ("dog", "house", "tree", "bird")]
    path = tmp_path / "tiny-collection"
    (path / "qrels").mkdir(parents=True)
    documents = [{"_id": f"d{n}", "text": " ".join(rng.choice(words, 12))} for n in range(40)]
    with gzip.open(path / "corpus.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(document) + "\n" for document in documents)
    queries = [{"_id": f"q{n}", "text": " ".join(documents[n]["text"].split()[:3])} for n in range(8)]
    (path / "queries.jsonl").write_text("".join(json.dumps(query) + "\n" for query in queries))
    judged = "".join(f"q{n}\td{n}\t1\n" for n in range(8))
    (path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return path


def test_beyond_runs_whole_and_goes_on(folder, tiny, tmp_path, monkeypatch, capsys):
    settings = settings_of_beyond.Settings(
        teacher=tiny, queries=(60, 80), depth=8, steps=(3, 3), batch=(8, 8), seeds=(1, 2), layers=(0, 3), kept=0.5
    )
    monkeypatch.setitem(settings_of_beyond.SCALES, "small", settings)
    out = tmp_path / "out"
    command = ["recipe", "beyond", "--data", f"folder:{folder}", "--out", str(out)]
    assert main(command) == 0
    told = capsys.readouterr().out
    table = pd.read_csv(out / "table.csv")
    assert table["name"].tolist() == [beyond.BM25, beyond.DENSE, beyond.FUSED, beyond.SAME, beyond.SMALL]
    assert table["seeds"].tolist() == [1, 1, 1, 2, 2] and table["parameters"].iloc[3] > table["parameters"].iloc[4]
    claims = json.loads((out / "claims.json").read_text())
    assert [claim["better"] for claim in claims] == [beyond.SAME, beyond.SMALL] and beyond.BETTER in told
    assert {p.name for p in out.iterdir()} >= {
        "run.json",
        "per_query.csv",
        "differences.png",
        "students",
        "settings.json",
    }
    before = {path: path.stat().st_mtime_ns for path in (out / "students").rglob("*.safetensors")}
    assert main(command) == 0 and len(before) >= 4  # nothing is trained or asked again
    assert before == {path: path.stat().st_mtime_ns for path in (out / "students").rglob("*.safetensors")}
    pd.testing.assert_frame_equal(pd.read_csv(out / "table.csv"), table)


def test_weights_that_were_not_trained_stay_as_they_are_when_others_are_averaged():
    """A negative zero, too: the frozen documents' encoder is the teacher, which others know by its weights."""
    still = torch.tensor([-0.0, 0.1, 3.0])
    mixed = beyond.averaged(
        {"still": still.clone(), "moved": torch.tensor([1.0, -0.0]), "n": torch.tensor(1)},
        {"still": still, "moved": torch.tensor([2.0, -0.0]), "n": torch.tensor(2)},
        0.5,
    )
    assert mixed["still"].numpy().tobytes() == still.numpy().tobytes()
    assert mixed["moved"].tolist() == [1.5, 0.0] and mixed["n"] == 2


def runs(folder, *ranked):
    """Stored rankings of a folder."""
    (folder / "runs").mkdir(exist_ok=True)
    rng = np.random.default_rng(1)
    for name in ranked:
        rows = [
            f"q{q} Q0 d{d} {rank} {-rank} {name}"
            for q in range(8)
            for rank, d in enumerate(rng.permutation(40)[:20])
        ]
        (folder / "runs" / f"{name}.txt").write_text("\n".join(rows) + "\n")


def whole(monkeypatch, module, settings, name, out, data, capsys):
    """The recipe run by its command, and again; gives table, claims and what was printed."""
    monkeypatch.setitem(module.SCALES, "small", settings)
    command = ["recipe", name, "--data", *data, "--out", str(out)]
    assert main(command) == 0
    told = capsys.readouterr().out
    table, claims = pd.read_csv(out / "table.csv"), json.loads((out / "claims.json").read_text())
    before = {path: path.stat().st_mtime_ns for path in (out / "students").rglob("*.safetensors")}
    assert main(command) == 0  # nothing is trained or asked again
    assert before == {path: path.stat().st_mtime_ns for path in (out / "students").rglob("*.safetensors")}
    pd.testing.assert_frame_equal(pd.read_csv(out / "table.csv"), table)
    assert {"run.json", "per_query.csv", "differences.png"} <= {path.name for path in out.iterdir()}
    assert {claim["verdict"] for claim in claims} <= {"holds", "not here", "the opposite", "not tested"}
    return table, claims, told


@pytest.mark.slow
def test_rank_distillm(folder, tiny, tmp_path, monkeypatch, capsys):
    runs(folder, "bm25", "tasb", "teacher.llm.bm25", "teacher.llm.tasb")
    settings = settings_of_rank_distillm.Settings(
        model=tiny, retriever=tiny, lengths=(16, 16), negatives=3, depth=10, steps=(2, 2), batch=(4, 4),
        strong=("llm.tasb",), weak=("llm.bm25",), size=8, patience=(2, 1), validated=(4, 8), measured=10,
        grid=((5,), (0.5,)),
    )  # fmt: skip
    here = f"folder:{folder}"
    data = [f"train={here}", f"valid={here}", f"orders={here}", here]
    table, claims, _ = whole(
        monkeypatch, settings_of_rank_distillm, settings, "rank_distillm", tmp_path / "out", data, capsys
    )
    named = rank_distillm
    wanted = [named.BM25, named.LLM, named.LABELS, named.ALONE, named.TWO, named.ADR, named.WEAK]
    assert table["name"].tolist() == [*wanted, "two stages, first 5, 50% of the queries"]
    assert "ms a query" in table.columns
    assert [claim["verdict"] for claim in claims].count("not tested") == 1  # no other domain


@pytest.mark.slow
def test_distill_vs_contrastive(folder, tiny, tmp_path, monkeypatch, capsys):
    settings = distill_vs_contrastive.Settings(
        retriever=tiny, model=tiny, teacher=4, sizes=(1, 4), lengths=(16, 16), negatives=3, depth=10, batch=4,
        reranked="retriever", measured=10, shares=(0.5,),
    )  # fmt: skip
    here = f"folder:{folder}"
    table, claims, _ = whole(
        monkeypatch, distill_vs_contrastive, settings, "distill_vs_contrastive", tmp_path / "out",
        [f"train={here}", here], capsys,
    )  # fmt: skip
    assert table["name"].tolist() == [
        "first stage", "4 layers, contrastive", "1 layers, contrastive", "1 layers, distilled", "4 layers, distilled",
        "1 layers, contrastive, 50% of the pairs", "1 layers, distilled, 50% of the pairs",
    ]  # fmt: skip
    assert [claim["verdict"] for claim in claims].count("not tested") == 3  # no other domain, no symmetric task


@pytest.mark.slow
def test_ustad(folder, tiny, tmp_path, monkeypatch, capsys):
    settings = ustad.Settings(
        model=tiny, dual=tiny, students=((0, 3),), subsets=("dual", "cross+late+dual"), negatives=3, depth=10,
        lengths=(16, 40), steps=(2, 2, 2, 2), batch=(4, 4, 4), warmup=1, generated=60, measured=10,
    )  # fmt: skip
    here = f"folder:{folder}"
    table, claims, _ = whole(
        monkeypatch, ustad, settings, "ustad", tmp_path / "out", [f"train={here}", here], capsys
    )  # fmt: skip
    assert len(table) == 2 * 3 + 2 + 2 * 7  # modes of two USTADs, two teachers, seven rows of each
    assert any("RR@10" in column for column in table.columns)
    assert all(claim["verdict"] != "not tested" for claim in claims)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["causal", "cross-encoder"])
def test_inranker(kind, folder, tiny, tiny_llm, tiny_cross2, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ptd, "SyntheticQueryGen", lambda *_: ptd.SpanQueries(1))  # a random model writes no words
    settings = settings_of_inranker.Settings(
        student=tiny_llm if kind == "causal" else tiny, kind=kind, teacher=tiny_cross2, writer=tiny_llm,
        max_length=128 if kind == "causal" else 60, synthetic=12, negatives=2, depth=20, epochs=1, batch=4, measured=5,
        ablations=kind == "causal",
    )  # fmt: skip
    here = f"folder:{folder}"
    data = [f"train={here}", f"domain={here}", here]
    table, claims, _ = whole(monkeypatch, settings_of_inranker, settings, "inranker", tmp_path / "out", data, capsys)
    assert table["name"].tolist() == [
        inranker.BM25, inranker.TEACHER, inranker.HARD, inranker.SOFT, inranker.INRANKER, inranker.HARD_SYNTHETIC,
        inranker.REAL, *([inranker.TRUE_ONLY, inranker.KL] if kind == "causal" else []),
    ]  # fmt: skip
    assert [claim["verdict"] for claim in claims].count("not tested") == (1 if kind == "causal" else 3)  # T5, App. C


@pytest.mark.slow
def test_pairdistill(folder, tiny, tiny_cross, tmp_path, monkeypatch, capsys):
    settings = pairdistill.Settings(
        model=tiny, layers=(0, 3), other=tiny, pointwise=tiny_cross, pairwise=None, compared=(4, 2, 1e-4), depth=10,
        compared_first=5, pairs=6, delta=5, size=6, lengths=(16, 16), tau=1.0, temperatures=(0.05, 1.0), steps=2,
        batch=4, queries=4, judged=True, students=("dense", "late"),
    )  # fmt: skip
    here = f"folder:{folder}"
    table, claims, _ = whole(
        monkeypatch, pairdistill, settings, "pairdistill", tmp_path / "out", [f"train={here}", here], capsys
    )  # fmt: skip
    names = table["name"].tolist()
    assert names[:3] == ["BM25", "pointwise teacher", "pairwise teacher, top 5"]
    wanted = {"PairDistill", "PairDistill, round 1", "PairDistill, round 3", "PairDistill, late interaction"}
    assert wanted <= set(names)
    untested = [claim["claim"] for claim in claims if claim["verdict"] == "not tested"]
    other = "in another domain, too, the pair loss helps"
    assert untested == ["a dense student is better than before, too", other]  # it is the main one


def test_a_recipe_says_which_collections_it_needs(tmp_path, capsys):
    assert main(["recipe", "inranker", "--data", "train=irds:vaswani", "--out", str(tmp_path / "a")]) == 2
    assert "inranker needs collections for which queries are written: --data domain=irds:ID" in capsys.readouterr().err
    assert main(["recipe", "beyond", "--data", "train=irds:vaswani", "--out", str(tmp_path / "a")]) == 2
    assert "beyond has no role train=, only: none" in capsys.readouterr().err


def test_settings_of_ones_own_are_a_scale_too(folder, tiny, tmp_path):
    settings = settings_of_beyond.Settings(
        teacher=tiny, queries=(30, 40), depth=8, steps=(1, 1), batch=(8, 8), seeds=(1,), layers=(0, 3)
    )
    table = recipes.run("beyond", settings, [f"folder:{folder}"], tmp_path / "out", verbose=False)
    assert len(table) == 5 and json.loads((tmp_path / "out" / "run.json").read_text())["scale"] == "own"
    with pytest.raises(ValueError, match="no scale Settings"):
        recipes.run("ustad", settings, [f"train=folder:{folder}", f"folder:{folder}"], tmp_path / "other")


def test_two_collections_of_a_role_that_takes_one_are_refused(folder, tmp_path, capsys):
    data = [f"train=folder:{folder}", "train=irds:vaswani", f"folder:{folder}"]
    assert main(["recipe", "pairdistill", "--data", *data, "--out", str(tmp_path / "a")]) == 2
    assert "pairdistill takes one collection train=, and was given 2" in capsys.readouterr().err


def test_queries_that_one_model_learns_are_not_those_of_another(folder, tmp_path):
    site = Site(f"folder:{folder}", tmp_path)
    first, behind = site.judged(3, seed=1), site.judged(3, seed=1, skip=3)
    assert len(first) == len(behind) == 3 and not set(first["qid"]) & set(behind["qid"])
    assert len(site.drawn(None, 1)) == 8 and site.drawn(5, 1)["qid"].tolist() == site.judged(5, 1)["qid"].tolist()


def test_a_query_of_many_relevant_documents_is_one_pair(folder, tmp_path):
    """Else a batch of 32 queries of nfcorpus reads more than a thousand documents at once."""
    file = folder / "qrels" / "test.tsv"
    file.write_text(file.read_text() + "".join(f"q0\td{n}\t1\n" for n in range(1, 30)))
    site = Site(f"folder:{folder}", tmp_path)
    one, other = (site.pairs(site.judged(None, 1), seed) for seed in (1, 2))
    assert one["qid"].is_unique and len(one) == 8
    assert one["docno"].tolist() != other["docno"].tolist()
    pd.testing.assert_frame_equal(one, site.pairs(site.judged(None, 1), 1))
