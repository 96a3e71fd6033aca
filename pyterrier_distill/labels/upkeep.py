"""Keeping a store in order: damage found and set aside, small shards made into large ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from ..backends.base import Usage
from . import shards
from .directory import DAMAGED, SHARDS, TEXTS, Directory

if TYPE_CHECKING:
    from .store import LabelStore


class Upkeep:
    """The part of :class:`~pyterrier_distill.LabelStore` that keeps order."""

    directory: Directory

    def verify(self, repair: bool = True) -> pd.DataFrame:
        """Check every shard: checksum, schema, no query or document twice.

        Args:
            repair: whether damaged shards are set aside, so that the next build labels their queries again.

        Returns:
            A row a shard: ``shard``, ``queries`` (or texts), ``state`` (``ok`` or what is wrong) and ``advice``.
        """
        rows = []
        for folder, key, mend in (
            (SHARDS, "qid", "build again: its queries are labelled anew"),
            (TEXTS, "docno", "call add_texts(documents): its texts are missing"),
        ):
            seen: set[str] = set()
            for name in self.directory.names(folder):
                count, state, damaged = self._examine(folder, name, key, seen)
                advice = ""
                if damaged:
                    advice = f"moved to {DAMAGED}/; {mend}" if repair else mend
                    if repair:
                        self.directory.set_aside(name, folder)
                elif state != "ok":
                    advice = "compact() removes the copies"
                rows.append((f"{folder}/{name}", count, state, advice))
        self._forget()
        return pd.DataFrame(rows, columns=["shard", "queries", "state", "advice"])

    def _examine(self, folder: str, name: str, key: str, seen: set[str]) -> tuple[int, str, bool]:
        """Rows, state, and whether a shard is damaged; ``seen`` grows by its keys."""
        try:
            if not self.directory.intact(name, folder):
                return 0, "its bytes are not those that were written", True
            keys = self.directory.open(name, folder).read(columns=[key]).column(key).to_pylist()
        except ValueError as error:
            return 0, str(error), True
        twice = len(keys) - len(set(keys) - seen)
        seen |= set(keys)
        return len(keys), f"{twice} of its rows stand elsewhere, too; the first ones count" if twice else "ok", False

    def compact(self, queries: int = 10_000) -> LabelStore:
        """Join small shards into some of at least so many queries, which open and stream faster.

        Nothing is lost when it is killed: a joined shard is in before those it was made of go. Nobody else may read or
        build the store meanwhile.

        Args:
            queries: of one shard, at least.

        Returns:
            self.
        """
        with self.directory.claimed("commit", wait=True):
            self._index()
            known = dict(sorted(self._shards.items()))
            group: list[str] = []
            for name in known:
                group.append(name)
                if sum(len(known[n].rows) for n in group) >= queries:
                    self._join(group)
                    group = []
            self._join(group)
        self._forget()
        return self

    def _join(self, names: list[str]) -> None:
        """One shard in place of several."""
        whole = len(names) == 1 and len(self._shards[names[0]].rows) == self._shards[names[0]].ends[-1]
        if not names or whole:
            return
        pa = shards.arrow()
        parts, usage, empty, documents, shapes, start = [], Usage(), [], 0, {}, 0
        for name in names:
            file, known = self.directory.open(name), self._shards[name]
            told = shards.meta_of(file.schema_arrow)
            usage += Usage(**told.get("usage", {}))
            shapes.update(told.get("shapes", {}))
            kept = {row: n for n, row in enumerate(known.rows.tolist())}
            empty += [start + kept[row] for row in known.empty.tolist() if row in kept]
            parts.append(file.read().take(known.rows).replace_schema_metadata(None))
            documents += pa.compute.sum(pa.compute.list_value_length(parts[-1].column("docno"))).as_py() or 0
            start += len(known.rows)
        told = {"usage": usage.as_dict(), "documents": documents, "empty": empty, "shapes": shapes}
        table = pa.concat_tables(parts, promote_options="default")
        joined = self.directory.write(shards.with_meta(table, told), int(names[0][:10]))
        for name in names:
            if name != joined:
                self.directory.remove(name)
