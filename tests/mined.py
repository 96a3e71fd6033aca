"""Stored retrievers, positives and what was mined, for tests of hard negatives."""

import pandas as pd
import pyterrier as pt


def run(scores, **columns):
    """A retriever of stored results: qid → docno → score."""
    rows = [(qid, docno, score) for qid, listed in scores.items() for docno, score in listed.items()]
    frame = pd.DataFrame(rows, columns=["qid", "docno", "score"]).assign(**columns)
    return pt.Transformer.from_df(pt.model.add_ranks(frame))


def topics(*qids):
    return pd.DataFrame({"qid": list(qids), "query": [f"query {qid}" for qid in qids]})


def positives(**docnos):
    rows = [(qid, f"query {qid}", docno) for qid, listed in docnos.items() for docno in listed]
    return pd.DataFrame(rows, columns=["qid", "query", "docno"])


def negatives(out, qid=None):
    return out[(out["label"] == 0) & ((out["qid"] == qid) if qid else True)]["docno"].tolist()


TEN = {f"d{n}": 10.0 - n for n in range(10)}
