"""``pt.get_dataset("pydocs:test")``: a known-item collection that every installation carries, made of docstrings.

The documents are the public classes, functions and methods of the Python standard library and of the installed numpy,
pandas, scipy and torch, read from source with ``ast``; nothing is imported or run. A document is the qualified name,
the signature and the docstring without its summary; the summary sentence is the query that shall find it again. Private
files count (and numpy's ``_core``), since numpy and scipy keep their code there, but not in the name:
``scipy.signal.butter``. Other private directories do not.

* A docstring without at least ten words after its summary gives no document.
* Documents with the same text after the summary (inherited or copied docstrings) are kept once, the first by name.
* A summary is no query if it is not 3 to 30 words long, if several documents share it, or if it gives the answer away:
  if all words of the object's own name stand in it (``create_server``: "Create a TCP server"), or the document repeats
  it. Such documents stay in the collection and distract.
* One query in ten, by a hash of the docno, is ``pydocs:test``, the others are ``pydocs:train``.

The collection follows the installed versions: figures compare only between equal ones (:meth:`Pydocs.versions`).
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import re
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

import pandas as pd
import pyterrier as pt

from ..engine import progress
from .text_loader import InMemoryDataset

PACKAGES = ("numpy", "pandas", "scipy", "torch")
SPLITS = ("train", "test")
_SKIPPED = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "testing",
    "idlelib",
    "lib2to3",
    "turtledemo",
    "ensurepip",
}
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_NAME_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_TEST_SHARE = 0.1


class Pydocs(InMemoryDataset):
    """The docstring collection, with the queries of one split.

    Args:
        split: ``test`` or ``train``. Both share the documents.

    Raises:
        KeyError: for another split.
    """

    def __init__(self, split: str = "test"):
        if split not in SPLITS:
            raise KeyError(f"pydocs has the splits {' and '.join(SPLITS)}, not {split!r}")
        self.split = split

    def __repr__(self) -> str:
        return f"Pydocs({self.split!r})"

    def text_fields(self) -> list[str]:
        """``text``."""
        return ["text"]

    def get_corpus_iter(self, *, verbose: bool = True) -> Iterator[dict[str, str]]:
        """Documents as dicts of ``docno`` (the qualified name) and ``text``."""
        documents, _ = _collection(verbose)
        shown = progress.bar(documents, verbose=verbose, desc="pydocs documents", unit="d")
        return (dict(document) for document in shown)

    def get_topics(self, variant: str | None = None) -> pd.DataFrame:
        """Queries: ``qid``, ``query``.

        Args:
            variant: another split.
        """
        return self._queries(variant)[["qid", "query"]]

    def get_qrels(self, variant: str | None = None) -> pd.DataFrame:
        """Judgements: each query has the one document that it was taken from, label 1."""
        return self._queries(variant)[["qid", "docno", "label"]]

    def _queries(self, variant: str | None) -> pd.DataFrame:
        split = Pydocs(variant or self.split).split
        _, queries = _collection(False)
        rows = [(f"q-{docno}", query, docno, 1) for docno, query in queries if split_of(docno) == split]
        return pd.DataFrame(rows, columns=["qid", "query", "docno", "label"])

    def versions(self) -> dict[str, str]:
        """The versions that the texts come from."""
        return {
            "python": sysconfig.get_python_version(),
            **{name: metadata.version(name) for name, _ in _sources()[1:]},
        }


class PydocsProvider(pt.datasets.DatasetProvider):
    """Gives ``pt.get_dataset("pydocs:test")`` and ``pydocs:train``."""

    def get_dataset(self, name: str) -> Pydocs:
        """The split ``name``."""
        return Pydocs(name)

    def list_dataset_names(self) -> Iterable[str]:
        """The splits."""
        return list(SPLITS)


def split_of(docno: str) -> str:
    """``test`` for one docno in ten, ``train`` for the others, by its hash."""
    share = int.from_bytes(hashlib.sha256(docno.encode()).digest()[:4], "big") / 2**32
    return "test" if share < _TEST_SHARE else "train"


def _sources() -> list[tuple[str, Path]]:
    """(package, directory of its source), the standard library first, under the name ''."""
    sources = [("", Path(sysconfig.get_path("stdlib")))]
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            sources.append((package, Path(spec.origin).parent))
    return sources


_Collection = tuple[list[dict[str, str]], list[tuple[str, str]]]
_read: list[_Collection] = []  # the collection, once it has been read


def _collection(verbose: bool = False) -> _Collection:
    """(documents, [(docno, query)]), both sorted by docno; read once a process."""
    if not _read:
        _read.append(_read_sources(verbose))
    return _read[0]


def _read_sources(verbose: bool) -> _Collection:
    files = [(package, root, path) for package, root in _sources() for path in _modules(root)]
    found: dict[str, tuple[str, str, str]] = {}
    for package, root, path in progress.bar(files, verbose=verbose, desc="reading docstrings", unit="file"):
        parts = (package, *path.relative_to(root).with_suffix("").parts)
        module = ".".join(part for part in parts if part and not part.startswith("_"))
        for docno, head, summary, rest in _entries(path, module):
            found.setdefault(docno, (head, summary, rest))

    documents, candidates, bodies = [], [], set()
    for docno, (head, summary, rest) in sorted(found.items()):
        body = " ".join(rest.split())
        if len(body.split()) < 10 or body in bodies:
            continue
        bodies.add(body)
        documents.append({"docno": docno, "text": f"{head} {body}"})
        candidates.append((docno, summary))
    shared = Counter(summary.lower() for _, summary in candidates)
    texts = {document["docno"]: document["text"] for document in documents}
    queries = [(docno, s) for docno, s in candidates if shared[s.lower()] == 1 and _is_query(docno, s, texts[docno])]
    return documents, queries


def _is_query(docno: str, summary: str, text: str) -> bool:
    said = summary.lower().rstrip(".!? ")
    name = {part.lower() for part in _NAME_PARTS.findall(docno.rsplit(".", 1)[-1])}
    words = {part.lower() for part in _NAME_PARTS.findall(summary)}
    return 3 <= len(summary.split()) <= 30 and said not in text.lower() and not name <= words


def _modules(root: Path) -> Iterator[Path]:
    """Python files below ``root``, in a fixed order."""
    for directory, subdirectories, names in os.walk(root):
        subdirectories[:] = sorted(
            d for d in subdirectories if d not in _SKIPPED and (d == "_core" or not d.startswith(("_", ".")))
        )
        for name in sorted(names):
            if name.endswith(".py") and not name.startswith(("test_", "conftest", "__main__")):
                yield Path(directory) / name


def _entries(path: Path, module: str) -> Iterator[tuple[str, str, str, str]]:
    """(qualified name, name with signature, summary, rest) of the documented objects of one file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes and the like in other people's source
            tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return
    for parent, node in _public(tree, module):
        docstring = ast.get_docstring(node)
        if docstring:
            name = f"{parent}.{node.name}".lstrip(".")
            summary, rest = _summary(docstring)
            yield name, f"{name}{_signature(node)}", summary, rest


def _public(node: ast.AST, parent: str) -> Iterator[tuple[str, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]]:
    for child in getattr(node, "body", ()):
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and not child.name.startswith("_"):
            yield parent, child
            if isinstance(child, ast.ClassDef):
                yield from _public(child, f"{parent}.{child.name}")


def _signature(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    if isinstance(node, ast.ClassDef):
        return ""
    return f"({ast.unparse(node.args)})"


def _summary(docstring: str) -> tuple[str, str]:
    """The first sentence of the first paragraph, and everything after it."""
    paragraph, _, rest = docstring.strip().partition("\n\n")
    sentence, *others = _SENTENCE.split(" ".join(paragraph.split()), maxsplit=1)
    return sentence, " ".join([*others, rest])
