"""Keeping a store in order: damage found and set aside, small shards made into large ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from ..backends.base import Usage
from . import shards, tables
from .directory import DAMAGED, SHARDS, TEXTS, Directory

if TYPE_CHECKING:
    from .store import LabelStore


class Upkeep:
    """The part of :class:`~pyterrier_distill.LabelStore` that keeps order."""

    directory: Directory

    def verify(self, repair: bool = True) -> pd.DataFrame:
        """Check every shard: checksum, schema, that it can be read, no query or document twice.

        Damaged is a shard whose bytes are not those that were written, or that is no shard by its schema. Whatever else
        keeps it from being read (permissions, too many open files, memory, a newer version's format) is told, and
        nothing is moved.

        Args:
            repair: whether damaged shards are set aside, so that the next build labels their queries again.

        Returns:
            A row a shard: ``shard``, ``queries`` (or texts), ``state`` (``ok`` or what is wrong) and ``advice``.
        """
        rows = []
        for folder, key, mend in (
            (SHARDS, "qid", "build again: its queries are labelled anew (or add() them again)"),
            (TEXTS, "docno", "call add_texts(documents): its texts are missing"),
        ):
            seen: set[str] = set()
            for name in self.directory.names(folder):
                count, state, advice = 0, "ok", ""
                try:
                    count, twice = self._examine(folder, name, key, seen)
                    if twice:
                        state = f"{twice} of its rows stand elsewhere, too; the first ones count"
                        advice = "compact() removes the copies"
                except shards.DamagedShard as error:
                    state, advice = f"{type(error).__name__}: {error}", self._aside(folder, name, mend, repair)
                except Exception as error:  # says something about this machine or this version, not about the shard
                    state = f"could not be checked ({type(error).__name__}: {error})"
                    advice = "it was left where it is: mend the cause and verify() again"
                rows.append((f"{folder}/{name}", count, state, advice))
        self._forget()
        return pd.DataFrame(rows, columns=["shard", "queries", "state", "advice"])

    def _aside(self, folder: str, name: str, mend: str, repair: bool) -> str:
        """Set a damaged shard aside; gives the advice."""
        if not repair:
            return mend
        try:
            self.directory.set_aside(name, folder)
        except OSError as error:
            return f"it could not be moved to {DAMAGED}/ ({error}): move it yourself; then {mend}"
        return f"moved to {DAMAGED}/; {mend}"

    def _examine(self, folder: str, name: str, key: str, seen: set[str]) -> tuple[int, int]:
        """Rows of a shard, and how many of them stand elsewhere; ``seen`` grows by their keys.

        Raises:
            DamagedShard: if it is damaged.
            Exception: if that cannot be told.
        """
        content = self.directory.bytes_of(name, folder)
        if name[11:].removesuffix(".parquet") != shards.digest_of(content):
            raise shards.DamagedShard("its bytes are not those that were written")
        try:
            file = self.directory.parse(content, name, folder)
            table = file.read()
        except shards.DamagedShard as error:
            if isinstance(error.__cause__, OSError):  # the bytes are as they were written: arrow could not unpack them
                raise error.__cause__ from None
            raise
        keys = table.column(key).to_pylist()
        if folder == SHARDS:
            tables.to_frame(table)
            shards.usage_of(shards.meta_of(table.schema))
        twice = len(keys) - len(set(keys) - seen)
        seen |= set(keys)
        return len(keys), twice

    def compact(self, queries: int = 10_000) -> LabelStore:
        """Join small shards into some of at least so many queries, which open and stream faster; texts likewise.

        Only shards of the same columns are joined. Nothing is lost, or counted twice, when it is killed: a joined shard
        is in before those it was made of go, and says which they are. Nobody else may read or build the store then.

        Args:
            queries: of one shard, at least.

        Returns:
            self.
        """
        with self.directory.claimed("commit", wait=True):
            for folder in (SHARDS, TEXTS):
                group: list[str] = []
                size, kind = 0, None
                for name in self._whole(folder):
                    file = self.directory.open(name, folder)
                    now = (file.schema_arrow.remove_metadata(), shards.meta_of(file.schema_arrow).get("shapes"))
                    if group and now != kind:
                        self._join(group, folder)
                        group, size = [], 0
                    group.append(name)
                    size, kind = size + int(file.ends[-1] if len(file.ends) else 0), now
                    if size >= queries:
                        self._join(group, folder)
                        group, size = [], 0
                self._join(group, folder)
            self.directory.files.forget_claims()
        self._forget()
        self.__dict__.pop("texts", None)
        return self

    def _whole(self, folder: str) -> list[str]:
        """The shards that count, once those are gone that a compaction replaced and was killed before it deleted."""
        if folder == TEXTS:
            return self.directory.names(TEXTS)
        self._index()
        if self._replaced:
            for name in self._shards:  # what replaces them must be as it was written
                if shards.digest_of(self.directory.bytes_of(name)) not in name:
                    raise shards.DamagedShard(f"{name} is damaged: run verify() on {self.directory} first.")
            self._drop(sorted(self._replaced), SHARDS)
            self._index()
        return sorted(self._shards)

    def _join(self, names: list[str], folder: str) -> None:
        """One shard in place of several."""
        pa = shards.arrow()
        if folder == TEXTS:
            if len(names) > 1:
                table = pa.concat_tables([self.directory.open(name, TEXTS).read() for name in names])
                docnos = pd.Series(table.column("docno").to_pylist())
                table = table.take((~docnos.duplicated()).to_numpy().nonzero()[0])  # copies that a kill left
                joined = self.directory.write(table, int(names[0][:10]), TEXTS)
                self._drop([name for name in names if name != joined], TEXTS)
            return
        whole = len(names) == 1 and len(self._shards[names[0]].rows) == self._shards[names[0]].ends[-1]
        if not names or whole:
            return
        parts, usage, empty, documents, told, start = [], Usage(), [], 0, {}, 0
        for name in names:
            file, known = self.directory.open(name), self._shards[name]
            told = shards.meta_of(file.schema_arrow)
            usage += shards.usage_of(told)
            kept = {row: n for n, row in enumerate(known.rows.tolist())}
            empty += [start + kept[row] for row in known.empty.tolist() if row in kept]
            parts.append(file.read().take(known.rows).replace_schema_metadata(None))
            documents += pa.compute.sum(pa.compute.list_value_length(parts[-1].column("docno"))).as_py() or 0
            start += len(known.rows)
        told = {**told, "usage": usage.as_dict(), "documents": documents, "empty": empty, "replaces": names}
        joined = self.directory.write(shards.with_meta(pa.concat_tables(parts), told), int(names[0][:10]))
        self._drop([name for name in names if name != joined], SHARDS)

    def _drop(self, names: list[str], folder: str) -> None:
        for name in names:
            self.directory.remove(name, folder)
