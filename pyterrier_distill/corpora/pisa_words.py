"""PISA's retriever for queries in any script."""

from __future__ import annotations

import pandas as pd

from .engine_words import for_pisa_search, warn_of_silence
from .pisa import InOrder


class AnyScript(InOrder):
    """An ordered ``PisaRetrieve`` that searches words of other letters than ASCII under the names they are indexed by.

    A frame with ``query_toks`` is searched as it stands.
    """

    def transform(self, queries: pd.DataFrame) -> pd.DataFrame:
        """Retrieve for each query; the queries stay as they are."""
        if "query_toks" in queries.columns or "query" not in queries.columns or not len(queries):
            return super().transform(queries)
        texts = queries["query"].to_numpy(dtype=object)
        row = pd.RangeIndex(len(queries))
        found = super().transform(queries.assign(query=[for_pisa_search(text) for text in texts], **{_ROW: row}))
        rows = found[_ROW].to_numpy(dtype=int)
        warn_of_silence(list(enumerate(texts)), rows.tolist(), self.index.path)
        return found.drop(columns=_ROW).assign(query=texts[rows])


#: A column by which results find back to their query; dropped before anybody sees it.
_ROW = "__query_row__"
