"""README and documentation: every block runs, from the first to the last of a page; every link leads somewhere.

Checkpoints that are named stand for tiny random ones, and vaswani for a few of its kind: blocks show that code runs,
not what it finds.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pyterrier_distill as ptd
from pyterrier_distill.cli import _parser

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "pyterrier_distill" / "pt_docs").rglob("*.md"))
SOURCES = [ROOT / "README.md", *PAGES]


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="session")
def small_vaswani(tmp_path_factory) -> str:
    """Sixty documents and twenty known-item queries, in BEIR layout."""
    rng = np.random.default_rng(0)
    words = "red green blue dog cat bird runs sleeps sings fast slow loud house tree river stone old new".split()
    path = tmp_path_factory.mktemp("vaswani") / "collection"
    (path / "qrels").mkdir(parents=True)
    texts = [" ".join(rng.choice(words, 12)) + f" number{n}" for n in range(60)]
    documents = [json.dumps({"_id": f"d{n}", "title": "", "text": text}) for n, text in enumerate(texts)]
    queries = [json.dumps({"_id": str(n), "text": " ".join(texts[n].split()[:3])}) for n in range(20)]
    (path / "corpus.jsonl").write_text("\n".join(documents) + "\n")
    (path / "queries.jsonl").write_text("\n".join(queries) + "\n")
    judged = "".join(f"{n}\td{n}\t1\n" for n in range(20))
    (path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return str(path)


@pytest.fixture(scope="session")
def stand_ins(tiny, tiny_t5, tiny_llm, plain_llm, tiny_bart, tiny_cross, small_vaswani) -> dict[str, str]:
    """Names on the hub, and what stands for them here."""
    return {
        "irds:vaswani": f"folder:{small_vaswani}",
        "sentence-transformers/all-MiniLM-L6-v2": tiny,
        "prajjwal1/bert-mini": tiny,
        "microsoft/MiniLM-L12-H384-uncased": tiny,
        "castorini/monot5-3b-msmarco": tiny_t5,
        "castorini/duot5-3b-msmarco": tiny_t5,
        "google-t5/t5-small": tiny_t5,
        "cross-encoder/ms-marco-MiniLM-L12-v2": tiny_cross,
        "castorini/rank_zephyr_7b_v1_full": tiny_llm,
        "google/gemma-3-1b-pt": plain_llm,
        "facebook/bart-base": tiny_bart,
        "Qwen/Qwen2.5-0.5B": tiny_llm,
        "Qwen/Qwen3-0.6B-Base": tiny_llm,
    }


@pytest.mark.parametrize("path", [p for p in SOURCES if blocks(p, "python")], ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore")
def test_every_block_runs(path, stand_ins, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "\n\n".join(blocks(path, "python"))
    for name, here in stand_ins.items():
        code = code.replace(name, here)
    (tmp_path / f"{path.stem}.py").write_text(code)
    page = {"__name__": "page"}
    exec(compile(code, str(tmp_path / f"{path.stem}.py"), "exec"), page)
    assert page["ptd"] is ptd  # to its end, and with this package


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_commands_are_those_that_there_are(path):
    for block in [*blocks(path, "bash"), *blocks(path, "")]:
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("pyterrier-distill ") and "…" not in line and "NAME" not in line:
                words = shlex.split(line, comments=True)
                assert _parser().parse_args(words[1:]).command == words[1]  # exits where there is no such option


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


def test_readme_is_short_and_the_wheel_has_the_pages():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200
    index = (PAGES[0].parents[0] / "index.md").read_text() if PAGES[0].name == "index.md" else ""
    index = index or next(page for page in PAGES if page.parent.name == "pt_docs" and page.stem == "index").read_text()
    for page in PAGES:
        if page.parent.name == "pt_docs" and page.stem != "index":
            assert f"\n{page.stem}\n" in index, page


def test_everything_public_is_on_the_api_page():
    page = (ROOT / "pyterrier_distill" / "pt_docs" / "api.md").read_text()
    for name in ptd.__all__:
        if name not in ("__version__", "suites", "published"):
            assert re.search(rf":: {name}$", page, re.MULTILINE), name


@pytest.mark.slow
def test_the_documentation_builds_without_a_warning(tmp_path):
    pytest.importorskip("sphinx")
    pytest.importorskip("furo")
    pytest.importorskip("myst_parser")
    pages = tmp_path / "pages"
    shutil.copytree(ROOT / "pyterrier_distill" / "pt_docs", pages)
    call = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-c", str(ROOT / "tests" / "docs"), str(pages)]
    done = subprocess.run([*call, str(tmp_path / "html")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "html" / "recipes" / "beyond.html").exists()
