"""A generator that remembers: known documents are answered from a store, the rest asked about and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyterrier as pt
import pyterrier_alpha as pta

from ..backends.usage import Usage
from ..engine import progress
from ..frames import arguments, validate
from ..identity.identity import check_told, identity
from ..stores import redaction
from ..stores.pipelines import stages_of, through
from .queries import QUERYGEN, document_texts, written
from .synthetic import GenerationError, SyntheticQueryGen

if TYPE_CHECKING:
    from .store import QueryStore

#: Batches under way at once are told apart by this many locks.
_LOCKS = 64


class CachedQueryGen(pt.Transformer):
    """D → D with ``querygen`` and ``querygen_score``: from the store what is in it, the rest from ``generator``.

    A document of which something that the generator reads has changed is asked about again. Several processes may fill
    one store at once; batches of the same documents wait for one another. Made by :meth:`QueryStore.cache`.

    Args:
        store: where queries are kept.
        generator: who makes them; of a pipeline, what a failing stage had finished goes through the stages behind it.
        batch_size: documents of one commit.

    Raises:
        ValueError: if the generator's queries of one document depend on the others that it is given, or it does not
            say what decides them.
    """

    schematic = {"label": "CachedQueryGen"}

    def __init__(self, store: QueryStore, generator: pt.Transformer, batch_size: int = 64):
        arguments.whole(batch_size, "batch_size")
        for stage in stages_of(generator):
            if getattr(stage, "reads_whole_frame", False):
                raise ValueError(
                    f"{stage!r} looks at all documents at once, and a cache gives it {batch_size} at a time: put it"
                    " behind the cache (of adapt, into filters=), or give KeyphraseQueries the frequencies= of the"
                    " collection."
                )
        check_told(generator)
        self.store = store
        self.generator = generator
        self.batch_size = batch_size
        if self.store.manifest:
            self.store.agree(identity(self.generator))

    @property
    def usage(self) -> Usage:
        """What was really asked."""
        told = [getattr(stage, "usage", None) for stage in stages_of(self.generator)]
        return sum((usage for usage in told if isinstance(usage, Usage)), Usage())

    def estimate(self, inp: pd.DataFrame) -> Usage:
        """The cost of what is not known yet; nothing for generators that ask no model."""
        digests = self._digests(inp)
        todo = self._unknown(inp, digests)
        writers = [stage for stage in stages_of(self.generator) if isinstance(stage, SyntheticQueryGen)]
        return sum((writer.estimate(inp.iloc[todo]) for writer in writers), Usage()) if todo else Usage()

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add ``querygen`` and ``querygen_score``; every other column, the rows' order and the index stay.

        Raises:
            GenerationError: if the generator fails, or what it made cannot be kept; it carries what was finished.
            OSError: if nothing can be written; nothing was asked then.
            FileNotFoundError: if the store was deleted or moved meanwhile.
            ValueError: if the generator is another one by now than the store's.
        """
        digests = self._digests(inp)
        if len(inp) == 0:
            return written(inp, [])
        described = identity(self.generator)
        self.store.agree(described)
        self.store.sweep()
        todo = set(self._unknown(inp, digests))
        if todo:
            self.store.begin(self.generator, described)
        told = [getattr(stage, "verbose", None) for stage in stages_of(self.generator)]
        verbose = bool(todo) and (True if True in told else False if False in told else None)
        # The same batches in every process, whatever is known already: they are claimed as such.
        first = list({docno: row for row, docno in reversed(list(enumerate(inp["docno"].astype(str))))}.values())[::-1]
        batches = [first[at : at + self.batch_size] for at in range(0, len(first), self.batch_size)]
        waiting = [rows for rows in batches if not todo.isdisjoint(rows)]
        with progress.bar(total=len(todo), desc="Generating queries", unit="d", verbose=verbose) as bar:
            for wait in (False, True):  # what other processes hold comes last: whatever they leave undone is done here
                held = []
                for rows in waiting:
                    if self._claimed(inp.iloc[rows], [digests[row] for row in rows], described, wait):
                        bar.update(len(todo.intersection(rows)))
                    else:
                        held.append(rows)
                waiting = held
        self.store.check_there()
        entries = self.store.entries()
        return written(inp, [entries[str(docno)][1:] for docno in inp["docno"]])

    def _digests(self, inp: pd.DataFrame) -> list[str]:
        """Of what the generator reads of each document; of its docno where that is all."""
        modes = pt.inspect.transformer_inputs(self.generator, strict=False) or []
        read = next((mode for mode in modes if "docno" in mode and "qid" not in mode), ["text"])
        columns = [column for column in read if column != "docno"]
        validate.document_frame(inp, columns, context=self)
        texts = [document_texts(inp, column, self) for column in columns] or [inp["docno"].astype(str)]
        return [hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32] for parts in zip(*texts, strict=True)]

    def _unknown(self, inp: pd.DataFrame, digests: Sequence[str]) -> list[int]:
        """Rows of documents that are not in, each document once.

        Raises:
            ValueError: if a document stands in the frame with two texts.
        """
        entries = self.store.entries()
        first: dict[str, int] = {}
        for row, docno in enumerate(inp["docno"].astype(str)):
            before = first.setdefault(docno, row)
            if digests[before] != digests[row]:
                raise ValueError(f"document {docno!r} has two texts in this frame: a store keeps one a document.")
        return [row for docno, row in first.items() if docno not in entries or entries[docno][0] != digests[row]]

    def _claimed(self, batch: pd.DataFrame, digests: list[str], described: Any, wait: bool) -> bool:
        """Do a batch, unless another process holds it."""
        name = hashlib.sha256("\0".join([*batch["docno"].astype(str), *digests]).encode()).hexdigest()
        with self.store.files.claimed(f"batch-{int(name, 16) % _LOCKS}", wait=wait) as mine:
            if mine:
                self._generate(batch, digests, described)
            return mine

    def _generate(self, batch: pd.DataFrame, digests: list[str], described: Any) -> None:
        todo = self._unknown(batch, digests)  # another process may have been here
        if not todo:
            return
        asked = batch.iloc[todo]
        before = Usage() + self.usage
        made, failure = through(
            self.generator, asked, GenerationError, "generated",
            own=lambda stage: isinstance(stage, SyntheticQueryGen), paid=lambda frame: QUERYGEN in frame.columns,
        )  # fmt: skip
        if failure is None or len(made):
            try:
                self._keep(asked, made, digests, todo, described, before)
            except OSError as error:
                raise GenerationError(
                    f"queries were written but could not be kept: {error} They are in this error's .generated.", made
                ) from error
        if failure is not None:
            raise failure

    def _keep(
        self,
        asked: pd.DataFrame,
        made: pd.DataFrame,
        digests: list[str],
        todo: list[int],
        described: Any,
        before: Usage,
    ) -> None:
        digest_of = dict(zip(asked["docno"].astype(str), (digests[row] for row in todo), strict=True))
        docnos = made["docno"].astype(str)
        if docnos.duplicated().any() or not set(docnos) <= set(digest_of) or QUERYGEN not in made.columns:
            raise ValueError(
                f"{self.generator!r} was asked for the {QUERYGEN!r} of {len(asked)} documents and returned others: it"
                " must return the rows that it is given."
            )
        asked_about = [digest_of[docno] for docno in docnos]
        self.store.commit(described, made, asked_about, self.usage - before)

    def __repr__(self) -> str:
        return redaction.text(pta.transformer_repr(self))

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and repr(other) == repr(self)

    def __hash__(self) -> int:
        return hash(repr(self))
