"""All labels of a store, block by block, in a drawn order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from .stored_labels import StoredLabels


def lists(store: StoredLabels, seed: int | None, rank: int, world: int, buffer: int) -> Iterator[pd.DataFrame]:
    """Queries that have documents, as R frames; arguments as of ``LabelStore.lists``."""
    rng = np.random.default_rng(seed)
    blocks = store.blocks()
    if seed is not None:
        blocks = [blocks[n] for n in rng.permutation(len(blocks))]
    blocks = blocks[rank::world]
    for start in range(0, len(blocks), buffer):
        frame = pd.concat([store.read(block) for block in blocks[start : start + buffer]], ignore_index=True)
        codes, qids = pd.factorize(frame["qid"])
        order = np.arange(len(qids)) if seed is None else rng.permutation(len(qids))
        for first in range(0, len(order), 1024):
            part = order[first : first + 1024]
            place = np.full(len(qids), -1)
            place[part] = np.arange(len(part))
            rows = np.flatnonzero(place[codes] >= 0)
            yield frame.iloc[rows[np.argsort(place[codes[rows]], kind="stable")]].reset_index(drop=True)
