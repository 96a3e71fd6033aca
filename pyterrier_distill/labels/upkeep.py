"""Keeping a store in order: damage found and set aside, small shards made into large ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from ..backends.usage import Usage
from . import shards, tables
from .directory import DAMAGED, NOTES, SHARDS, TEXTS

if TYPE_CHECKING:
    from .store import LabelStore


def verify(store: LabelStore, repair: bool) -> pd.DataFrame:
    """Check every shard; see :meth:`~pyterrier_distill.LabelStore.verify`."""
    rows = []
    for folder, key, mend in (
        (SHARDS, "qid", "build again: its queries are labelled anew (or add() them again)"),
        (TEXTS, "docno", "call add_texts(documents): its texts are missing"),
        (NOTES, "qid", "topics() lacks what it said of its queries: read their files into a new store"),
    ):
        seen: set[str] = set()
        for name in store.directory.names(folder):
            count, state, advice = 0, "ok", ""
            try:
                count, twice = _examine(store, folder, name, key, seen)
                if twice:
                    state = f"{twice} of its rows stand elsewhere, too; the first ones count"
                    advice = "compact() removes the copies"
            except shards.DamagedShard as error:
                state, advice = f"{type(error).__name__}: {error}", _aside(store, folder, name, mend, repair)
            except Exception as error:  # says something about this machine or this version, not about the shard
                state = f"could not be checked ({type(error).__name__}: {error})"
                advice = "it was left where it is: mend the cause and verify() again"
            rows.append((f"{folder}/{name}", count, state, advice))
    store._forget()
    return pd.DataFrame(rows, columns=["shard", "queries", "state", "advice"])


def _aside(store: LabelStore, folder: str, name: str, mend: str, repair: bool) -> str:
    """Set a damaged shard aside; gives the advice."""
    if not repair:
        return mend
    try:
        store.directory.set_aside(name, folder)
    except OSError as error:
        return f"it could not be moved to {DAMAGED}/ ({error}): move it yourself; then {mend}"
    return f"moved to {DAMAGED}/; {mend}"


def _examine(store: LabelStore, folder: str, name: str, key: str, seen: set[str]) -> tuple[int, int]:
    """Rows of a shard, and how many of them stand elsewhere; ``seen`` grows by their keys.

    Raises:
        DamagedShard: if it is damaged.
        Exception: if that cannot be known.
    """
    content = store.directory.bytes_of(name, folder)
    if name[11:].removesuffix(".parquet") != shards.digest_of(content):
        raise shards.DamagedShard("its bytes are not those that were written")
    try:
        file = store.directory.parse(content, name, folder)
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


def compact(store: LabelStore, queries: int) -> None:
    """Join small shards; see :meth:`~pyterrier_distill.LabelStore.compact`."""
    with store.directory.claimed("commit", wait=True):
        for folder in (SHARDS, TEXTS):
            group: list[str] = []
            size, kind = 0, None
            for name in _whole(store, folder):
                file = store.directory.open(name, folder)
                now = (file.schema_arrow.remove_metadata(), shards.meta_of(file.schema_arrow).get("shapes"))
                if group and now != kind:
                    _join(store, group, folder)
                    group, size = [], 0
                group.append(name)
                size, kind = size + int(file.ends[-1] if len(file.ends) else 0), now
                if size >= queries:
                    _join(store, group, folder)
                    group, size = [], 0
            _join(store, group, folder)
        store.directory.files.forget_claims()
    store._forget()
    store.__dict__.pop("texts", None)


def _whole(store: LabelStore, folder: str) -> list[str]:
    """The shards that count, once those are gone that a compaction replaced and was killed before it deleted."""
    if folder == TEXTS:
        return store.directory.names(TEXTS)
    store._index()
    if store._replaced:
        for name in store._shards:  # what replaces them must be as it was written
            if shards.digest_of(store.directory.bytes_of(name)) not in name:
                raise shards.DamagedShard(f"{name} is damaged: run verify() on {store.directory} first.")
        _drop(store, sorted(store._replaced), SHARDS)
        store._index()
    return sorted(store._shards)


def _join(store: LabelStore, names: list[str], folder: str) -> None:
    """One shard in place of several."""
    pa = shards.arrow()
    if folder == TEXTS:
        if len(names) > 1:
            table = pa.concat_tables([store.directory.open(name, TEXTS).read() for name in names])
            docnos = pd.Series(table.column("docno").to_pylist())
            table = table.take((~docnos.duplicated()).to_numpy().nonzero()[0])  # copies that a kill left
            joined = store.directory.write(table, int(names[0][:10]), TEXTS)
            _drop(store, [name for name in names if name != joined], TEXTS)
        return
    whole = len(names) == 1 and len(store._shards[names[0]].rows) == store._shards[names[0]].ends[-1]
    if not names or whole:
        return
    parts, usage, empty, documents, told, start = [], Usage(), [], 0, {}, 0
    for name in names:
        file, known = store.directory.open(name), store._shards[name]
        told = shards.meta_of(file.schema_arrow)
        usage += shards.usage_of(told)
        kept = {row: n for n, row in enumerate(known.rows.tolist())}
        empty += [start + kept[row] for row in known.empty.tolist() if row in kept]
        parts.append(file.read().take(known.rows).replace_schema_metadata(None))
        documents += pa.compute.sum(pa.compute.list_value_length(parts[-1].column("docno"))).as_py() or 0
        start += len(known.rows)
    told = {**told, "usage": usage.as_dict(), "documents": documents, "empty": empty, "replaces": names}
    joined = store.directory.write(shards.with_meta(pa.concat_tables(parts), told), int(names[0][:10]))
    _drop(store, [name for name in names if name != joined], SHARDS)


def _drop(store: LabelStore, names: list[str], folder: str) -> None:
    for name in names:
        store.directory.remove(name, folder)
