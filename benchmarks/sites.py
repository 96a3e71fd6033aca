"""Collections on which a small query encoder is trained, its documents' vectors the teacher's."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt
import pyterrier_dr
from common import machine
from pyterrier.measures import R, nDCG
from scipy.stats import ttest_rel

import pyterrier_distill as ptd
from pyterrier_distill.corpora.loading import Collection

MEASURES = [nDCG @ 10, R @ 100]


class Site:
    """A collection with its indexes.

    Args:
        collection: documents, and topics and judgements to test on.
        original: the teacher, which encodes the documents.
        work: directory of the indexes.
        depth: documents that a query is trained with.
    """

    def __init__(self, collection: Collection, original: ptd.BiEncoder, work: Path, depth: int):
        self.name = collection.name.replace(":", "-").replace("/", "-")
        self.collection = collection
        self.original = original
        self.directory = work / self.name
        self.depth = depth
        documents = collection.documents.to_dict("records")
        self.lexical = ptd.bm25(self.directory / "bm25", documents, num_results=100)
        self.index = pyterrier_dr.FlexIndex(str(self.directory / "teacher.flex"), verbose=False)
        if not self.index.built():
            (original >> self.index.indexer(mode="overwrite")).index(documents)  # also over one that was not finished
        self.teacher = ptd.BiEncoder(original, doc_index=self.index)
        texts = collection.documents[["docno", "text"]]
        self.text = pt.apply.generic(lambda found: found.merge(texts, on="docno"), required_columns=["docno"])

    def student(self, start: ptd.BiEncoder) -> ptd.BiEncoder:
        """A copy of a query encoder."""
        return ptd.BiEncoder(start, doc_encoder=self.original, freeze_docs=True, doc_index=self.index)

    def candidates(self, encoder: ptd.BiEncoder) -> pt.Transformer:
        """Q → R with text: an encoder's first documents."""
        return encoder.query_encoder() >> self.index.np_retriever(num_results=self.depth) >> self.text

    def retrieved(self, encoder: ptd.BiEncoder) -> dict[str, dict[str, float]]:
        """Measures by query of an encoder's ranking of the whole collection."""
        return self.measured(encoder.query_encoder() >> self.index.np_retriever(num_results=100))

    def measured(self, pipeline: pt.Transformer) -> dict[str, dict[str, float]]:
        """Measures by query."""
        table = pt.Evaluate(pipeline(self.collection.topics), self.collection.qrels, MEASURES, perquery=True)
        return {qid: {str(m): round(value, 4) for m, value in row.items()} for qid, row in table.items()}


class Rows:
    """Rows of an experiment in a file, which an interrupted run goes on with.

    Args:
        out: the file, or None.
        settings: all that decides the figures; rows of others are refused.
        against: whose row the others of its collection are tested against.
    """

    def __init__(self, out: str | None, settings: dict[str, Any], against: str):
        self.out = out
        self.settings = settings
        self.against = against
        self.rows: list[dict[str, Any]] = []
        if out and Path(out).exists():
            earlier = json.loads(Path(out).read_text())
            if earlier["settings"] != settings:
                raise SystemExit(f"{out} holds rows of other settings: choose another --out.")
            self.rows = earlier["rows"]

    def add(self, collection: str, name: str, seed: int, make: Callable[[], dict[str, Any]]) -> None:
        """Make a row, with ``per_query``, unless it is there."""
        if any((row["collection"], row["name"], row["seed"]) == (collection, name, seed) for row in self.rows):
            return
        self.rows.append({"collection": collection, "name": name, "seed": seed, **make()})
        row = {n: value for n, value in self.rows[-1].items() if n != "per_query"}
        print(json.dumps({**row, **self._means([self.rows[-1]])}), flush=True)
        if self.out:
            draft = Path(self.out).with_suffix(".draft")
            content = {"machine": machine(), "settings": self.settings, "summary": self.summary(), "rows": self.rows}
            draft.write_text(json.dumps(content) + "\n")
            os.replace(draft, self.out)

    def summary(self) -> list[dict[str, Any]]:
        """Means over seeds; p of a paired t-test over queries, each query's value being its mean over seeds."""
        lines = []
        for collection in dict.fromkeys(row["collection"] for row in self.rows):
            here = [row for row in self.rows if row["collection"] == collection]
            names = dict.fromkeys(row["name"] for row in here)
            tables = {name: self._table([row for row in here if row["name"] == name]) for name in names}
            for name, table in tables.items():
                of_name = [row for row in here if row["name"] == name]
                told = {key: of_name[0][key] for key in of_name[0] if key not in ("per_query", "seed", "seconds")}
                line = {**told, "seeds": len(of_name), **self._means(of_name)}
                if self.against in tables and name != self.against:
                    for measure in table:
                        before = tables[self.against][measure].reindex(table.index)
                        line[f"{measure} p"] = float(f"{ttest_rel(table[measure], before).pvalue:.2g}")
                lines.append(line)
        return lines

    def _means(self, rows: Sequence[dict[str, Any]]) -> dict[str, float]:
        return {measure: round(float(values.mean()), 4) for measure, values in self._table(rows).items()}

    def _table(self, rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
        """Measures by query, means over the rows."""
        found = [pd.DataFrame(row["per_query"]).T for row in rows]
        return sum(found[1:], found[0]) / len(found)
