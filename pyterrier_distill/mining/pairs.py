"""Lists of one positive each: a query has as many of them as positives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

#: The query's own id, where each of its positives has a list of its own.
QID_OF_QUERY = "qid_of_query"
_NUMBER = "number of the positive"


def names(positives: pd.DataFrame) -> pd.Series:
    """What the lists of some pairs of query and positive are called."""
    return positives["qid"] + "+" + positives["docno"]


def check_names(positives: pd.DataFrame) -> None:
    """Check that no two pairs of query and positive would have the same name.

    Raises:
        ValueError: if two would.
    """
    told = names(positives)
    if (twice := told.duplicated().to_numpy()).any():
        name = told[twice].iloc[0]
        raise ValueError(f"two pairs of query and positive would both be called {name!r}: rename one of the queries.")


def each_pair(topics: pd.DataFrame, positives: pd.DataFrame, mine: Callable[..., pd.DataFrame]) -> pd.DataFrame:
    """The lists of all pairs, query by query, each query's in the order of its positives.

    Args:
        topics: indexed by qid.
        positives: of these, all with a positive.
        mine: topics, one positive of each, qid → name of the pair, → an R frame by qid.
    """
    number = positives.groupby("qid", sort=False).cumcount().to_numpy()
    parts = []
    for n in range(number.max() + 1 if len(number) else 1):  # the first positive of each, then the second, ...
        some = positives[number == n]
        called: dict[str, Any] = dict(zip(some["qid"], names(some), strict=True))
        mined = mine(topics[topics.index.isin(some["qid"])], some, called)
        qids = mined["qid"]
        parts.append(mined.assign(**{QID_OF_QUERY: qids, "qid": [called[qid] for qid in qids], _NUMBER: n}))
    rows = pd.concat(parts, ignore_index=True)
    place = {qid: n for n, qid in enumerate(topics.index)}
    rows = rows.iloc[np.lexsort((rows[_NUMBER].to_numpy(), rows[QID_OF_QUERY].map(place).to_numpy(dtype=int)))]
    columns = [column for column in rows.columns if column not in (_NUMBER, QID_OF_QUERY)]
    columns.insert(columns.index("qid") + 1, QID_OF_QUERY)
    return rows[columns].reset_index(drop=True)
