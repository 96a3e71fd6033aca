"""Training of tiny students, shared by tests."""

import pyterrier_distill as ptd


def fitted(student, loss, frame, qrels=None, **settings):
    """The Distiller that has fitted ``student``: few lists, one batch, no dropout."""
    defaults = {"precision": "fp32", "verbose": False, "learning_rate": 4e-3, "epochs": 60, "queries_per_batch": 10}
    distiller = ptd.Distiller(student, loss, dropout=0.0, **{**defaults, **settings})
    distiller.fit(frame, qrels)
    return distiller
