"""USTAD, EmbedDistill (Kim et al. 2024): a teacher that scores in three ways; the students of Tables 2 and 4.

§4 (Eq. 8), §5.2 (Eq. 10), §6.1, App. A (Eq. 14, 16) and E.1; the defaults are the paper's.
"""

import pandas as pd

import pyterrier_distill as ptd


def ustad_teacher(lists, qrels, *, start="google-bert/bert-base-uncased", runs=None, **training):
    """The teacher: every mode learns from labels, and the weaker ones from the cross mode (Eq. 8)."""
    teacher = ptd.USTAD(start, modes=("cross", "dual", "late"), scale={"late": 0.1}, **(runs or {}))
    loss = ptd.LocalizedContrastive() + 0.1 * ptd.ScoreMatch(towards="cross")
    settings = {"learning_rate": 2.8e-5, "queries_per_batch": 128, "steps": 20_000, **training}
    ptd.Distiller(teacher, loss, **settings).fit(lists, qrels)
    return teacher


def ustad_students(
    teacher, lists, qrels, *, start="distilbert/distilbert-base-uncased", bart="facebook/bart-base", matching=0.02,
    runs=None, **training,
):  # fmt: skip
    """The seven rows of Tables 2 and 4, row → student; the teacher is a USTAD, or any bi-encoder (DE to DE).

    The lists hold what is known to be relevant (the paper takes in-batch negatives alone); ``matching`` weighs Eq. 10.
    """
    runs = runs or {}
    encoder = teacher.as_bi_encoder() if isinstance(teacher, ptd.USTAD) else teacher
    settings = {"learning_rate": 1e-4, "queries_per_batch": 128, "dropout": 0.0, **training}
    frame = (encoder.query_encoder() >> encoder.doc_encoder())(lists)
    few, many = (ptd.QueryPerturbation(bart, noise, keep_original=False, suffix=s, **runs) for s, noise in
                 (("little", 0.1), ("much", 0.2)))  # fmt: skip
    queries = lists[["qid", "query"]].drop_duplicates()
    generated = pd.concat([few(queries), many(queries)], ignore_index=True)
    more = encoder.query_encoder()(generated)

    own = {"pooling": "cls", "similarity": "dot", "projection": encoder.dimension, **runs}
    direct, distil = ptd.InfoNCE(), ptd.KLDivergence(in_batch=True)
    match = ptd.EmbeddingMatch(on=("query",))
    rows = {
        "direct": (False, direct, None),
        "+ distil from teacher": (False, direct + distil, None),
        "+ inherit documents": (True, direct + distil, None),
        "+ query matching": (True, direct + distil + matching * match, None),
        "+ query generation": (True, direct + distil + matching * match, more),
        "matching only": (True, match, None),
        "matching only + query generation": (True, match, more),
    }
    students = {}
    for row, (inherits, loss, queries) in rows.items():
        documents = {"doc_encoder": teacher, "freeze_docs": True} if inherits else {}
        students[row] = ptd.BiEncoder(start, **own, **documents)
        ptd.Distiller(students[row], loss, **settings).fit(frame, qrels, queries=queries)
    return students
