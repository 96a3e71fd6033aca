"""How far a store is, for people."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from ..frames.columns import known
from .directory import META, PROGRESS

if TYPE_CHECKING:
    from .stored_labels import StoredLabels


def state(store: StoredLabels) -> str:
    """Queries, of how many, labels, documents, texts; or that there is nothing."""
    directory = store.directory
    if not directory.json(META):
        return "nothing there yet"
    done, asked = len(store), directory.json(PROGRESS).get("queries", 0)
    of = f" of {asked:,}" if asked > done else ""
    labels = [column for column in store.columns() if known(column) is not None]
    told = [f"{done:,}{of} queries", f"{store.documents:,} documents", ", ".join(labels) or "no labels"]
    if len(store.texts):
        told.append(f"texts of {len(store.texts):,} documents")
    return f"{'; '.join(told)}{' (build again to go on)' if of else ''}"


def line(store: StoredLabels) -> str:
    """The store and its state."""
    return f"{type(store).__name__} at {store.directory}: {state(store)}"


def shown(store: StoredLabels) -> str:
    """The same as HTML, with the first rows."""
    rows = store.head().to_html(index=False) if len(store) else ""
    return f"<p>{html.escape(line(store))}</p>{rows}"
