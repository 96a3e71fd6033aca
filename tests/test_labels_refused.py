"""What a label store refuses, because it would come back otherwise; and what it finds again although a part is lost."""


import numpy as np
import pandas as pd
import pytest
from labelling import Candidates, Scorer, topics

import pyterrier_distill as ptd

pytest.importorskip("pyarrow")
BASE = Candidates()(topics(1)).head(2)


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"query_vec": [np.zeros(3), np.ones(3)]}, "'query_vec'.*d1.*another one than in the query's first row"),
        ({"teacher_logits": [np.array([1e39, 0]), np.zeros(2)]}, "'teacher_logits'.*1e\\+39 is more than"),
        ({"teacher_score": [1.0, 2.0], "score": [np.nan, 1.0]}, "'score' cannot be stored"),
        ({"teacher_score": [1.0, 2.0], "rank": [np.nan, 1.0]}, "'rank' cannot be stored"),
        ({"teacher_score": [1.0, 2.0], "qid": ""}, "empty 'qid'"),
        ({"teacher_score": ["1", "2"]}, "column 'teacher_score' holds text, such as '1'"),
        ({"teacher_prefs": [{"d1": 0.8}, {"d1": 0.5}]}, "'teacher_prefs' compares docno 'd1' with itself, 0.5"),
    ],
)
def test_what_would_not_come_back_is_refused(columns, message, path):
    with pytest.raises(ValueError, match=message):
        ptd.LabelStore(path).add(BASE.assign(**columns))


def test_training_refuses_a_document_compared_with_itself(tiny_cross):
    frame = BASE.assign(teacher_prefs=[{"d1": 0.8}, {"d1": 0.5}], text="one")
    with pytest.raises(ValueError, match="'teacher_prefs' compares docno 'd1' with itself"):
        ptd.Distiller(ptd.CrossEncoder(tiny_cross), ptd.losses.PairwiseKL()).fit(frame)


def test_vectors_of_one_query_may_be_copies(path):
    ptd.LabelStore(path).add(BASE.assign(query_vec=[np.ones(3), np.ones(3)], teacher_score=[1.0, 2.0]))
    assert len(ptd.LabelStore(path)) == 1


def test_a_lost_part_of_a_query_loses_nothing_else(path, tiny_cross):
    def asked(rows):
        teacher = ptd.PointwiseTeacher(tiny_cross, precision="fp32", device="cpu")
        out = ptd.LabelStore(path).cache(teacher)(rows)
        return teacher.usage.calls, out

    frame = Candidates()(topics(3))
    frame = frame[frame["qid"] == "q2"]
    expected = ptd.PointwiseTeacher(tiny_cross, precision="fp32", device="cpu")(frame)
    for n in range(3):
        asked(frame[frame["docno"].isin([f"d{2 * n}", f"d{2 * n + 1}"])])
    first = min((path / "shards").iterdir())
    first.write_bytes(first.read_bytes()[:-9])
    assert "DamagedShard" in "".join(ptd.LabelStore(path).verify()["state"])
    for calls in (2, 0):
        told, out = asked(frame)
        assert told == calls
        pd.testing.assert_frame_equal(out, expected, check_dtype=False)


def test_arrow_that_cannot_unpack_a_whole_shard_damages_nothing(path, monkeypatch):
    from pyterrier_distill.labels.directory import ShardFile

    store = ptd.LabelStore(path).build(Candidates() >> Scorer(), topics(2), verbose=False)

    def read(self, *args):
        return self._try(fail)

    def fail():
        raise OSError("ZSTD decompression failed: Allocation error : not enough memory")

    monkeypatch.setattr(ShardFile, "read", read)
    told = store.verify()
    assert told["state"].str.startswith("could not be checked (OSError").all() and not (path / "damaged").exists()
    monkeypatch.undo()
    assert len(ptd.LabelStore(path)) == 2
