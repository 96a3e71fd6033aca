"""Training of tiny students and a teacher for it, shared by tests."""

import numpy as np
import pyterrier as pt

import pyterrier_distill as ptd


def fitted(student, loss, frame, qrels=None, **settings):
    """The Distiller that has fitted ``student``: few lists, one batch, no dropout."""
    defaults = {"precision": "fp32", "verbose": False, "learning_rate": 4e-3, "epochs": 60, "queries_per_batch": 10}
    distiller = ptd.Distiller(student, loss, dropout=0.0, **{**defaults, **settings})
    distiller.fit(frame, qrels)
    return distiller


class Counting(pt.Transformer):
    """A teacher that likes documents which share letters with the query, and counts what it is asked."""

    schematic = {"label": "Counting"}
    unique = False  # it judges each document by itself

    def __init__(self):
        self.asked = []

    def transform(self, inp):
        self.asked += list(zip(inp["query"], inp["docno"]))
        shared = [len(set(q) & set(t)) / len(set(q) | set(t)) for q, t in zip(inp["query"], inp["text"])]
        return pt.model.add_ranks(inp.assign(score=np.array(shared)))

    def __repr__(self):
        return "Counting()"
