"""Training files of others, streamed into a store: see :meth:`~pyterrier_distill.LabelStore.from_files`.

In a first pass documents' texts go into the store, and everything else into a spool, parted by query. In a second pass
part after part is read, its rows are joined by query and document, and blocks of queries are committed. After a kill
both do the same again, and what is in is passed over: the store comes out the same.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .. import frames
from ..engine import progress
from ..frames import validate
from ..frames.ids import check_ids
from ..identity.content import checkpoint
from ..identity.identity import difference, digest
from ..stores import entry_formats, formats, redaction, rows
from ..stores.files import fields
from ..stores.storage import is_remote
from .directory import MANIFEST
from .joining import Joined
from .spool import Spool
from .texts import _hash

if TYPE_CHECKING:
    from .store import LabelStore

logger = logging.getLogger(__name__)

#: Characters of texts that are committed at once, and queries.
_CHARACTERS, _QUERIES = 1 << 25, 2000
#: Formats that hold no texts of queries, and those that hold no texts of documents.
_IDS_ONLY = frozenset({"inranker", "pairdistill", "pairdistill-pairs", "colbert"})


class Intake:
    """One reading of files into a store; arguments and errors as of ``LabelStore.from_files``."""

    def __init__(
        self,
        store: LabelStore,
        files: str | os.PathLike | Sequence[str | os.PathLike],
        format: str | None,
        topics: pd.DataFrame | str | os.PathLike | None,
        permutations: str | os.PathLike | None,
        missing: str,
        ids: str,
        with_text: bool,
    ):
        for name, value, known in (("missing", missing, ("error", "drop")), ("ids", ids, ("file", "text"))):
            if value not in known:
                raise ValueError(f"{name} must be {known[0]!r} or {known[1]!r}, not {value!r}.")
        given = [files] if isinstance(files, (str, os.PathLike)) else list(files)
        if not given:
            raise ValueError("files must be a file or a list of some, not an empty list.")
        self.store = store
        self.files = [Path(one).expanduser() for one in given]
        self.formats = [formats.format_of(file, format, formats.TRAINING) for file in self.files]
        self.topics = _topics(topics)
        self.permutations = None if permutations is None else Path(permutations).expanduser()
        self.missing = missing
        self.ids = ids
        self.with_text = with_text
        for file, name in zip(self.files, self.formats, strict=True):
            if name in _IDS_ONLY and topics is None:
                raise ValueError(f"{file} holds no texts of queries: pass topics=, a frame or a file of qid TAB query.")
            if name in _IDS_ONLY and ids == "text":
                raise ValueError(f"{file} holds no texts of documents: ids='text' needs them.")
        if self.permutations is not None:
            if self.formats != ["rankgpt-train"]:
                raise ValueError(f"permutations= orders one file of RankGPT's training data, not {self.formats}.")
            if not self.permutations.is_file():
                raise FileNotFoundError(f"no file of permutations at {self.permutations}.")
        elif "rankgpt-train" in self.formats:
            entry_formats.rankgpt_training(self.files[self.formats.index("rankgpt-train")])  # says what is missing

    def run(self, verbose: bool) -> None:
        """Read, or go on reading."""
        described = self._described()
        if self._agree(described):
            return
        if not len(self.store):  # an attempt that came to nothing may have been another one
            self.store._create({})
            self._tell({"read": described})
        with self.store.directory.claimed("reading") as mine:
            if not mine:
                raise ValueError(f"another process reads files into {self.store.directory}: wait until it is done.")
            self.store.directory.sweep()
            size = sum(_unpacked(file) for file in self.files)
            with Spool(self._folder(), digest(described), size) as spool:
                if not spool.done:
                    self._spool(spool, verbose)
                queries = self._commit(spool, verbose)
                if not queries:
                    raise ValueError(f"{self.files[0]} holds no labels.")
            self._tell({"read": described, "missing": self.missing, "queries": queries})
            spool.remove()

    def _tell(self, manifest: dict[str, Any]) -> None:
        told = redaction.redacted({"files": [file.name for file in self.files], **manifest})
        self.store.directory.files.write(MANIFEST, json.dumps(told, indent=2).encode())

    def _described(self) -> dict[str, Any]:
        """What decides the labels: what the files hold, wherever they lie, and how they are read."""
        topics: Any = None
        if isinstance(self.topics, pd.DataFrame):
            topics = f"{pd.util.hash_pandas_object(self.topics.astype(object), index=False).sum():x}"
        elif self.topics is not None:
            topics = checkpoint(str(self.topics))
        return {
            "files": [
                {"format": format, **checkpoint(str(file))}
                for file, format in zip(self.files, self.formats, strict=True)
            ],
            "topics": topics,
            "permutations": None if self.permutations is None else checkpoint(str(self.permutations)),
            "ids": self.ids,
            "with_text": self.with_text,
        }

    def _agree(self, described: dict[str, Any]) -> bool:
        """Whether all of it is in already.

        Raises:
            ValueError: if the store holds labels from elsewhere.
        """
        manifest = self.store.manifest
        told = None if "read" not in manifest else difference(manifest["read"], redaction.redacted(described))
        if len(self.store):
            if "read" not in manifest:
                told = "its labels come from elsewhere"
            if told is not None:
                raise ValueError(
                    f"{self.store.directory} holds {len(self.store)} queries that were not read from these files so:"
                    f" {told}. Take another path."
                )
        elif "pipeline" in manifest or "cache of" in manifest:
            raise ValueError(f"{self.store.directory} was begun otherwise: take another path, or delete it.")
        return manifest.get("queries") == len(self.store) > 0

    def _folder(self) -> Path:
        """Where rows are spooled: beside the store."""
        where = str(self.store.directory.files)
        if is_remote(where):
            return Path(tempfile.gettempdir()) / f"pyterrier-distill-{digest(where)}"
        root = Path(where).expanduser().absolute()
        return root.with_name(f".{root.name}.reading")

    # -- first pass ---------------------------------------------------------------------------------------------------

    def _spool(self, spool: Spool, verbose: bool) -> None:
        """Read the files: texts into the store, all else into the spool.

        Raises:
            ValueError: for what the files hold; if the topics hold none of their queries.
        """
        single = dict.fromkeys(map(str, range(len(self.files))), True)
        held: list[pd.DataFrame] = []
        characters = 0
        known = [np.empty(0, dtype=np.uint64)]
        for block in self._topic_blocks():
            spool.write("topics", block)
            known.append(_hash(block["qid"].tolist()))
        spool.close()
        topics, matched, strange = np.concatenate(known), self.topics is None, ""
        with progress.bar(desc="Reading", unit="row", verbose=verbose) as bar:
            for number, block in self._blocks():
                bar.update(len(block))
                if "first" in block.columns:
                    single[str(number)] &= rows.is_single(block)
                block = self._with_ids(block, number)
                strange = strange or str(block["qid"].iloc[0])
                matched = matched or bool(np.isin(_hash(block["qid"].unique().tolist()), topics).any())
                if "text" in block.columns and self.with_text:
                    held.append(block[["docno", "text"]].dropna().drop_duplicates())
                    characters += int(held[-1]["text"].str.len().sum())
                    if characters >= _CHARACTERS:
                        self._keep_texts(held)
                        held, characters = [], 0
                self._put(spool, block.assign(file=number))
        self._keep_texts(held)
        if strange and not matched:
            raise ValueError(
                f"the topics hold none of the queries of the files, such as {strange!r}: give them the ids of the files"
                " (a query without an id has the digest of its text), or leave topics= out."
            )
        spool.finish(single=single)

    def _blocks(self) -> Iterator[tuple[int, pd.DataFrame]]:
        """All blocks of all files, with the files' numbers."""
        for number, (file, name) in enumerate(zip(self.files, self.formats, strict=True)):
            reader = formats.TRAINING[name]
            if self.permutations is not None:
                reader = partial(entry_formats.rankgpt_training, permutations=self.permutations)
            for block in reader(file):
                yield number, block

    def _topic_blocks(self) -> Iterator[pd.DataFrame]:
        if isinstance(self.topics, pd.DataFrame):
            yield self.topics
        elif self.topics is not None:
            told = (row for _, row in fields(self.topics, ["qid", "query"], "\t"))
            yield from rows.in_blocks(told, ["qid", "query"])

    def _with_ids(self, block: pd.DataFrame, number: int) -> pd.DataFrame:
        """A block whose queries and documents have ids: digests of their texts where the file has none.

        Raises:
            ValueError: naming the place, if there is no text either, or one that is no text.
        """
        for column, text in (("qid", "query"), ("docno", "text")):
            if text in block.columns:
                odd = block[text].map(lambda cell: not isinstance(cell, str)) & block[text].notna()
                if odd.any():
                    row = block[odd.to_numpy()].iloc[0]
                    where = self.where(number, row["line"])
                    raise ValueError(f"{where}: its {text} must be text, not {str(row[text])[:60]!r}.")
            ids = block[column] if column in block.columns else pd.Series(None, index=block.index, dtype=object)
            if column == "docno" and self.ids == "text":
                ids = pd.Series(None, index=block.index, dtype=object)
            without = ids.isna().to_numpy()
            if without.any():
                texts = block[text] if text in block.columns else pd.Series(None, index=block.index, dtype=object)
                none = without & texts.isna().to_numpy()
                if none.any():
                    line = block.loc[none, "line"].iloc[0]
                    raise ValueError(f"{self.where(number, line)}: it has neither {column} nor {text}.")
                made = [f"{value:016x}" for value in _hash(texts[without].tolist())]
                ids = ids.astype(object)
                ids[without] = made
            block = block.assign(**{column: ids})
        return block

    def _put(self, spool: Spool, block: pd.DataFrame) -> None:
        """Spool a block, what is said of queries apart from what is said of documents."""
        notes = [name for name in rows.NOTES if name in block.columns and block[name].notna().any()]
        if "query" in block.columns:
            queries = block[["qid", "query", "file", "line", *notes]]
            told = ["qid", "query", *(["line"] if notes else [])]  # what each entry says of it, if anything
            spool.write("queries", queries[queries["query"].notna()].drop_duplicates(told))
        block = block.drop(columns=["query", "text", *rows.NOTES], errors="ignore")
        empty = [name for name in block.columns if block[name].isna().all()]
        spool.write("pairs" if "other" in block.columns else "documents", block.drop(columns=empty))

    def _keep_texts(self, held: Sequence[pd.DataFrame]) -> None:
        if held:
            try:
                self.store.add_texts(pd.concat(held, ignore_index=True).drop_duplicates())
            except ValueError as error:
                advice = " Pass ids='text' to name documents by their texts, or with_text=False to leave texts out."
                raise ValueError(f"{', '.join(map(str, self.files[:3]))}: {error}{advice}") from error

    # -- second pass --------------------------------------------------------------------------------------------------

    def _commit(self, spool: Spool, verbose: bool) -> int:
        """Join the rows of each part by query and commit them; gives how many queries there are."""
        total = without = 0
        with progress.bar(desc="Joining", unit="q", verbose=verbose) as bar:
            for part in range(spool.parts):
                joined = Joined(spool, part, self.files, self.where, self.missing)
                without += joined.without_topic
                for block in joined.blocks(_QUERIES):
                    total += block.queries
                    bar.update(block.queries)
                    for frame in block.frames():
                        block.commit(self.store, frame)
        if without:
            logger.warning("%d of %d queries are not among the topics: they keep the files' texts.", without, total)
        return total

    def where(self, file: int, line: int) -> str:
        """Names the place of a row."""
        return f"{self.files[file]}, {formats.place(self.formats[file])} {line}"


def _topics(given: pd.DataFrame | str | os.PathLike | None) -> pd.DataFrame | Path | None:
    """Texts of queries, checked.

    Raises:
        ValueError: if they are none.
        FileNotFoundError: if there is no such file.
    """
    if isinstance(given, pd.DataFrame):
        validate.query_frame(given, ["query"])
        check_ids(given, ["qid"], "the topics")
        frames.check_text(given, ["query"])
        topics = given[["qid", "query"]].astype({"qid": str})
        frames.check_unique(topics[["qid"]])
        return topics
    if given is not None and not Path(given).expanduser().is_file():
        raise FileNotFoundError(f"no file of topics at {given}.")
    return None if given is None else Path(given).expanduser()


def _unpacked(file: Path) -> int:
    """About how many bytes a file has, unpacked."""
    with open(file, "rb") as raw:
        packed = raw.read(4)[:2] in (b"\x1f\x8b", b"PA")
    return file.stat().st_size * (4 if packed else 1)
