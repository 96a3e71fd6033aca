"""Teachers, candidates and queries for tests of label stores."""

import numpy as np
import pandas as pd
import pyterrier as pt

from pyterrier_distill.backends.base import Usage
from pyterrier_distill.teachers.base import Teacher, rerank


class Scorer(Teacher):
    """A pointwise teacher that counts its calls; a document's label depends on query and text."""

    unique = False

    def __init__(self, factor=1.0):
        self.factor = factor
        self.spent = Usage()

    @property
    def usage(self):
        return self.spent

    def transform(self, inp):
        self._check(inp)
        self.spent.add(len(inp), 10 * len(inp), len(inp), 0.5)
        scores = [self.factor * (hash_of(q + t) % 1000) / 1000 for q, t in zip(inp["query"], inp["text"])]
        return rerank(inp, scores, teacher_score=np.array(scores, dtype=float))


class Lister(Scorer):
    """A teacher of whole lists: preferences of each document over the next in the incoming order."""

    unique = True

    def transform(self, inp):
        out = super().transform(inp)
        cells = []
        for _, rows in inp.groupby("qid", sort=False):
            docnos = rows["docno"].tolist()
            cells += [{b: 0.25 + 0.5 * (a < b)} for a, b in zip(docnos, docnos[1:] + docnos[:1])]
        return out.assign(teacher_prefs=cells if len(inp) else [])


def hash_of(text):
    return int.from_bytes(text.encode()[-8:], "big") * 2654435761 % 2**32


def topics(n):
    return pd.DataFrame({"qid": [f"q{i}" for i in range(n)], "query": [f"about {i}" for i in range(n)]})


class Shared(pt.Transformer):
    """Six documents whose texts are the same for all queries; none for every tenth query."""

    def transform(self, inp):
        frame = Candidates()(inp)
        return frame.assign(text="text of " + frame["docno"])

    def __repr__(self):
        return "Shared()"


class Candidates(pt.Transformer):
    """Four to six documents a query; none for every tenth."""

    def transform(self, inp):
        pt.validate.query_frame(inp, ["query"])
        rows = []
        for qid, query in zip(inp["qid"], inp["query"]):
            number = int(qid[1:])
            for rank in range(0 if number % 10 == 9 else 4 + number % 3):
                rows.append((qid, query, f"d{rank}", f"text {rank} of {number}", float(-rank), rank))
        return pd.DataFrame(rows, columns=["qid", "query", "docno", "text", "score", "rank"])

    def __repr__(self):
        return "Candidates()"


def pipeline(teacher):
    return Candidates() >> teacher
