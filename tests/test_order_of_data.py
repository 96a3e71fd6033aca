"""The same rows in another order are the same training: bit for bit, and resumable."""

import numpy as np
import pandas as pd
import pytest
import torch

import pyterrier_distill as ptd
from pyterrier_distill.training import contents, order, streaming

FP32 = {"precision": "fp32", "device": "cpu"}
SETTINGS = {"precision": "fp32", "verbose": False, "learning_rate": 1e-3, "epochs": 2, "queries_per_batch": 2}


def fingerprint(part, distiller):
    return contents.fingerprint(part, distiller.loss, distiller.sampler, distiller.student.text_field)


def bits(student):
    return torch.cat([p.detach().flatten() for p in student.model.parameters()])


def trained(kind, name, loss, *data, **settings):
    student = kind(name, **FP32)
    distiller = ptd.Distiller(student, loss, **{**SETTINGS, **settings}).fit(*data)
    return bits(student), [entry["loss"] for entry in distiller.history if "loss" in entry]


def orders(frame):
    """The frame's rows in other orders."""
    return {
        "shuffled": frame.sample(frac=1, random_state=4),
        "sorted": frame.sort_values(["text", "qid"], ignore_index=True),
        "by score": frame.sort_values("teacher_score"),
        "queries reversed": frame.iloc[::-1],
        "categories": frame.astype({"qid": "category"}).sample(frac=1, random_state=5),
    }


@pytest.fixture
def labelled(results):
    """With labels of every kind."""
    rng = np.random.default_rng(2)
    frame = results.copy()
    of = {qid: rows["docno"].tolist() for qid, rows in frame.groupby("qid")}
    frame["teacher_prefs"] = [
        {other: float(rng.random()) for other in of[qid] if other > docno}
        for qid, docno in zip(frame["qid"], frame["docno"])
    ]
    vectors = {qid: rng.normal(size=32).astype(np.float32) for qid in of}
    return frame.assign(query_vec=[vectors[qid] for qid in frame["qid"]])


def refilled(frame):
    """The same preferences in dicts that were filled in another order."""
    if "teacher_prefs" not in frame.columns:
        return frame
    return frame.assign(teacher_prefs=[dict(reversed(list(cell.items()))) for cell in frame["teacher_prefs"]])


CASES = {
    "bi-encoder, in-batch": (ptd.BiEncoder, ptd.InfoNCE(temperature=0.05), {}),
    "cross-encoder, dropout": (ptd.CrossEncoder, ptd.RankNet("teacher_score"), {"dropout": 0.2}),
    "preferences": (ptd.CrossEncoder, ptd.PairwiseKL() + ptd.KLDivergence(), {}),
    "first document": (ptd.CrossEncoder, ptd.MarginMSE(), {}),
    "vectors": (ptd.BiEncoder, ptd.EmbeddingMatch(), {}),
    "late interaction": (ptd.LateInteraction, ptd.KLDivergence(), {}),
    "drawn uniformly": (ptd.CrossEncoder, ptd.KLDivergence(), {"sampler": ptd.ListSampler(2)}),
    "drawn by rank": (ptd.CrossEncoder, ptd.KLDivergence(), {"sampler": ptd.ListSampler(2, 4, "log_random")}),
    "drawn with a positive": (
        ptd.CrossEncoder,
        ptd.KLDivergence(),
        {"sampler": ptd.ListSampler(2, 3, "with_positive")},
    ),
    "drawn by errors": (ptd.CrossEncoder, ptd.KLDivergence(), {"sampler": ptd.ListSampler(2, None, "disagreement")}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_same_student_whatever_the_order_of_rows(case, tiny, labelled, qrels):
    kind, loss, settings = CASES[case]
    expected, losses = trained(kind, tiny, loss, labelled, qrels, **settings)
    names = ["shuffled", "categories"] if case != "cross-encoder, dropout" else list(orders(labelled))
    for name in names:
        weights, found = trained(kind, tiny, loss, refilled(orders(labelled)[name]), orders_of(qrels), **settings)
        assert found == losses and torch.equal(weights, expected), name


def orders_of(qrels):
    return qrels.sample(frac=1, random_state=1)


def test_other_rows_are_another_training(tiny, labelled, qrels):
    distiller = ptd.Distiller(ptd.CrossEncoder(tiny, **FP32), ptd.KLDivergence() + ptd.PairwiseKL(), **SETTINGS)
    told = fingerprint(labelled, distiller)
    for other in (
        labelled.iloc[1:],
        labelled.assign(teacher_score=labelled["teacher_score"] + 1e-3),
        labelled.assign(teacher_score=labelled["teacher_score"].to_numpy()[::-1]),
        labelled.assign(text=labelled["text"].to_numpy()[::-1]),
        labelled.assign(qid=labelled["qid"].to_numpy()[::-1], query=labelled["query"].to_numpy()[::-1]),
        labelled.assign(teacher_prefs=[{o: 1 - p for o, p in cell.items()} for cell in labelled["teacher_prefs"]]),
    ):
        assert fingerprint(other, distiller) != told
    assert fingerprint(labelled.assign(rank=0, score=0.0), distiller) == told  # nobody reads them here
    assert fingerprint(labelled.astype({"teacher_score": np.float32}), distiller) == told
    first = ptd.Distiller(ptd.CrossEncoder(tiny, **FP32), ptd.MarginMSE(), **SETTINGS)
    turned = labelled.assign(rank=-labelled["rank"])
    assert fingerprint(turned, first) != fingerprint(labelled, first)
    assert fingerprint(labelled.assign(rank=labelled["rank"] + 1), first) == fingerprint(
        labelled, first
    )


def test_validation_frames_may_stand_in_any_order(tiny, labelled, qrels):
    loss, settings = ptd.RankNet("teacher_score"), {"eval_every": 1, "learning_rate": 5e-3}
    for judged in (qrels, None):
        expected, _ = trained(ptd.CrossEncoder, tiny, loss, labelled, None, labelled, judged, **settings)
        for other in (orders(labelled)["shuffled"], orders(labelled)["by score"]):
            weights, _ = trained(ptd.CrossEncoder, tiny, loss, other, None, other, judged, **settings)
            assert torch.equal(weights, expected)


# -- a ranking is a column --------------------------------------------------------------------------------------------


def lists_of(student, loss, frame, sampler=None):
    from pyterrier_distill.training.reading import Reader

    return Reader(student, loss, None, None, None, sampler).read(frame, by_content=True)


def test_documents_stand_by_rank_or_score_where_somebody_reads_it_and_by_docno_elsewhere(tiny, labelled):
    student = ptd.CrossEncoder(tiny, **FP32)
    ranked = labelled.sort_values(["qid", "rank"]).groupby("qid")["docno"].apply(list).tolist()
    named = labelled.sort_values(["qid", "docno"]).groupby("qid")["docno"].apply(list).tolist()
    shuffled = labelled.sample(frac=1, random_state=9)
    for frame in (shuffled, shuffled.drop(columns="rank"), shuffled.assign(rank=0)):
        assert [one.docnos for one in lists_of(student, ptd.MarginMSE(), frame)] == ranked
        top = lists_of(student, ptd.KLDivergence(), frame, ptd.ListSampler(2, strategy="top"))
        assert [one.docnos for one in top] == ranked
        assert [one.docnos for one in lists_of(student, ptd.KLDivergence(), frame)] == named


def first_two(student, frame):
    """qid → what stands first for a loss, and what a sampler draws from the top."""
    lists = lists_of(student, ptd.MarginMSE(), frame)
    sampler = ptd.ListSampler(2, strategy="top")
    drawn = lists_of(student, ptd.KLDivergence(), frame, sampler)
    top = {one.qid: [one.docnos[n] for n in sampler.draw(one.query, one.ranking)] for one in drawn}
    assert top == {one.qid: list(one.docnos[:2]) for one in lists}
    return top


def test_each_query_is_ranked_by_what_tells_its_order(tiny):
    """One rule everywhere: rank, then score, then docno; query by query, and numbers may be text."""
    student = ptd.CrossEncoder(tiny, **FP32)
    frame = pd.DataFrame({"qid": ["q1"] * 3 + ["q2"] * 3, "docno": list("abcabc"), "score": [1.0, 2.0, 3.0] * 2})
    frame = frame.assign(query=frame["qid"], text="t", teacher_score=[1.0, 2.0, 3.0] * 2)
    assert first_two(student, frame.assign(rank=[1, 1, 1, 0, 1, 2])) == {"q1": ["c", "b"], "q2": ["a", "b"]}
    assert first_two(student, frame.assign(rank=[1, 0, 1, 0, 0, 2])) == {"q1": ["b", "c"], "q2": ["b", "a"]}
    silent = frame.assign(rank=[1, 1, 1, 2, 1, 0], score=0.0)
    assert first_two(student, silent.iloc[::-1]) == {"q1": ["a", "b"], "q2": ["c", "b"]}
    places = [7, 8, 9, 11, 10, 9]
    as_text = frame.assign(rank=[str(place) for place in places])
    assert first_two(student, as_text) == first_two(student, frame.assign(rank=places))


@pytest.mark.parametrize(
    "reader",
    [
        {"loss": ptd.MarginMSE()},
        {"sampler": ptd.ListSampler(2, depth=3)},
        {"sampler": ptd.ListSampler(2, strategy="top")},
    ],
)
def test_a_frame_that_tells_no_ranking_is_refused_where_one_is_read(reader, tiny, labelled):
    settings = {"loss": ptd.KLDivergence(), **reader}
    student = ptd.CrossEncoder(tiny, **FP32)
    bare = labelled.drop(columns=["rank", "score"])
    for frame in (bare, bare.assign(score=0.0)):
        with pytest.raises(ValueError, match="comes first, and neither 'rank' nor 'score' tells.*cumcount"):
            ptd.Distiller(student, **settings, **SETTINGS).fit(frame)
    ptd.Distiller(student, **settings, **SETTINGS).fit(bare.assign(rank=bare.groupby("qid").cumcount()))
    ptd.Distiller(student, ptd.MarginMSE(pairs="all"), sampler=ptd.ListSampler(3), **SETTINGS).fit(bare)


def test_ids_are_ordered_as_text_whatever_they_are(labelled):
    frame = pd.DataFrame({"qid": [10, 9, 9, 10], "docno": ["b", "a", "B", "a"]})
    for given in (frame, frame.astype({"qid": str}), frame.astype({"qid": "category"}), frame.iloc[::-1]):
        out = order.canonical(given)
        assert list(zip(out["qid"].astype(str), out["docno"])) == [("10", "a"), ("10", "b"), ("9", "B"), ("9", "a")]
    assert order.canonical(frame.iloc[:0]).empty


# -- stores -----------------------------------------------------------------------------------------------------------


def stores(frame, path, with_text=True):
    """The same labels in stores whose queries were committed in other orders, and of which one was compacted."""
    queries = frame[["qid", "query"]].drop_duplicates()
    made = []
    for n, qids in enumerate(
        (queries["qid"], queries["qid"].iloc[::-1], queries["qid"].sample(frac=1, random_state=3))
    ):
        store = ptd.LabelStore(path / f"store{n}")
        for qid in qids:
            rows = frame[frame["qid"] == qid].sample(frac=1, random_state=n)
            store.add(rows, queries[queries["qid"] == qid], with_text=with_text)
        made.append(store)
    made[2].compact()
    return made


@pytest.mark.parametrize("sampler", [None, ptd.ListSampler(2, depth=4, strategy="log_random")], ids=["whole", "drawn"])
@pytest.mark.parametrize("block", [2, 256])
def test_stores_of_the_same_labels_train_the_same_student(sampler, block, tiny, ten, tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "BLOCK", block)
    frame = ten.assign(teacher_score=-1.0 * ten["teacher_rank"], score=-1.0 * ten["teacher_rank"])
    expected = None
    for store in stores(frame.drop(columns="teacher_rank"), tmp_path):
        settings = {"sampler": sampler, "epochs": 1, "dropout": 0.1}
        weights, losses = trained(ptd.CrossEncoder, tiny, ptd.KLDivergence(), store, **settings)
        expected = expected or (losses, weights)
        assert losses == expected[0] and torch.equal(weights, expected[1])


def test_fingerprints_of_stores_know_what_is_in_and_not_where(tiny, labelled, tmp_path):
    distiller = ptd.Distiller(ptd.CrossEncoder(tiny, **FP32), ptd.KLDivergence(), **SETTINGS)
    made = stores(labelled, tmp_path)
    assert len({fingerprint(store, distiller) for store in made}) == 1
    assert len({fingerprint(store.text_loader(), distiller) for store in made}) == 1
    other = ptd.LabelStore.from_frame(tmp_path / "other", labelled.assign(teacher_score=0.5), with_text=True)
    texts = ptd.LabelStore.from_frame(tmp_path / "texts", labelled.assign(text=labelled["text"] + "."), with_text=True)
    told = {fingerprint(store, distiller) for store in (made[0], other, texts)}
    assert len(told) == 3


# -- resuming ---------------------------------------------------------------------------------------------------------


class Stop(Exception):
    pass


def stopping(student, after):
    forward, calls = student.forward, []

    def counted(*args):
        calls.append(1)
        if len(calls) > after:
            raise Stop
        return forward(*args)

    student.forward = counted
    return student


@pytest.mark.parametrize("stored", [False, True], ids=["frame", "store"])
def test_a_training_goes_on_with_labels_made_again(stored, tiny, labelled, qrels, tmp_path):
    frame = labelled.drop(columns=["teacher_prefs", "query_vec"])
    data = [s for s in stores(frame, tmp_path)] if stored else [frame, *orders(frame).values()][:3]
    settings = {**SETTINGS, "epochs": 4, "sampler": ptd.ListSampler(2), "dropout": 0.1}
    whole = ptd.CrossEncoder(tiny, **FP32)
    ptd.Distiller(whole, ptd.KLDivergence(), **settings).fit(data[0])
    saved = {**settings, "checkpoints": tmp_path / "c", "save_every": 1}
    student = stopping(ptd.CrossEncoder(tiny, **FP32), 5)
    with pytest.raises(Stop):
        ptd.Distiller(student, ptd.KLDivergence(), **saved).fit(data[0])
    again = ptd.CrossEncoder(tiny, **FP32)
    ptd.Distiller(again, ptd.KLDivergence(), **saved).fit(data[1])
    assert torch.equal(bits(again), bits(whole))
    finished = ptd.CrossEncoder(tiny, **FP32)
    ptd.Distiller(finished, ptd.KLDivergence(), **saved).fit(data[2])
    assert torch.equal(bits(finished), bits(whole))


def test_checkpoints_that_took_rows_as_they_came_are_refused_by_name(tiny, labelled, tmp_path):
    import json

    settings = {**SETTINGS, "checkpoints": tmp_path / "c"}
    ptd.Distiller(ptd.CrossEncoder(tiny, **FP32), ptd.KLDivergence(), **settings).fit(labelled)
    record = json.loads((tmp_path / "c" / "training.json").read_text())
    (tmp_path / "c" / "training.json").write_text(json.dumps({**record, "data": "1e84a0b1c2d3"}))
    with pytest.raises(ValueError, match="earlier version, which trained on rows in the order"):
        ptd.Distiller(ptd.CrossEncoder(tiny, **FP32), ptd.KLDivergence(), **settings).fit(labelled)


# -- other draws ------------------------------------------------------------------------------------------------------


def test_a_pair_classifier_trains_the_same_whatever_the_order(tiny_cross, labelled, qrels):
    found = []
    for frame, judged in ((labelled, qrels), (orders(labelled)["shuffled"], orders_of(qrels))):
        teacher = ptd.PairwiseTeacher(tiny_cross, kind="classifier", **FP32)
        teacher.fit(frame, judged)
        found.append(torch.cat([p.detach().flatten() for p in teacher._comparer.model.parameters()]))
    assert torch.equal(*found)


def test_negatives_are_drawn_the_same_whatever_the_order(documents, labelled, qrels):
    topics = labelled[["qid", "query"]].drop_duplicates()
    ranked = labelled[["qid", "docno", "score", "rank"]]

    def retriever(frame):
        import pyterrier as pt

        return pt.apply.generic(
            lambda queries: queries[["qid", "query"]].merge(frame, on="qid"), required_columns=["query"]
        )

    mined = [
        ptd.NegativeMiner(retriever(frame), n=2, exclude=judged)(topics)
        for frame, judged in ((ranked, qrels), (ranked.sample(frac=1, random_state=2), orders_of(qrels)))
    ]
    pd.testing.assert_frame_equal(*mined)


# -- retrievers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["pisa", "bm25s"])
def test_retrievers_keep_the_order_of_the_topics(engine, tmp_path):
    pytest.importorskip({"pisa": "pyterrier_pisa", "bm25s": "bm25s"}[engine])
    words = "amp bit core disk ether flux gate hertz ion joule kernel laser mesh node ohm photon quark relay".split()
    documents = [{"docno": f"d{n}", "text": " ".join(words[(n * k) % 18] for k in (1, 5, 7, 11))} for n in range(300)]
    topics = [(f"q{n * 37 % 100}", f"{words[n % 18]} {words[(n * 7) % 18]}", n) for n in range(100)]
    topics = pd.DataFrame(topics, columns=["qid", "query", "extra"])
    retriever = ptd.bm25(tmp_path / "i", documents, num_results=5, engine=engine)
    first = retriever(topics)
    assert first["qid"].drop_duplicates().tolist() == topics["qid"].tolist()
    assert (first.groupby("qid", sort=False).cumcount() == first["rank"]).all()
    assert list(first.columns) == ["qid", "query", "extra", "docno", "score", "rank"]
    for _ in range(4):
        pd.testing.assert_frame_equal(retriever(topics), first)
    cut = (retriever % 2)(topics)
    assert cut["qid"].drop_duplicates().tolist() == topics["qid"].tolist() and cut["rank"].max() == 1
    assert list(retriever(topics.iloc[:0]).columns) == list(first.columns)


def test_a_token_index_keeps_the_order_of_the_topics(tiny, documents, tmp_path):
    student = ptd.LateInteraction(tiny, **FP32)
    index = ptd.MultiVectorIndex(tmp_path / "i")
    (student >> index).index(documents.to_dict("records"))
    topics = pd.DataFrame({"qid": ["b", "a", "c"], "query": ["red dog", "blue bird", "tree"]})
    found = (student.query_encoder() >> index.retriever(num_results=3, batch_size=2))(topics)
    assert found["qid"].drop_duplicates().tolist() == ["b", "a", "c"]


def test_stored_runs_come_in_the_order_of_the_topics(tmp_path):
    import pyterrier as pt

    (tmp_path / "runs").mkdir()
    (tmp_path / "queries.jsonl").write_text('{"_id": "2", "text": "red"}\n{"_id": "10", "text": "dog"}\n')
    lines = ["10 Q0 b 2 1.0 r", "2 Q0 a 1 3.0 r", "10 Q0 c 1 2.0 r", "2 Q0 b 2 2.0 r"]
    (tmp_path / "runs" / "r.txt").write_text("\n".join(lines) + "\n")
    found = pt.get_dataset(f"folder:{tmp_path}").get_results("r")
    assert list(zip(found["qid"], found["docno"])) == [("2", "a"), ("2", "b"), ("10", "c"), ("10", "b")]
    rerank = ['{"qid": "10", "query": "dog", "docno": "b", "text": "x", "rank": 1, "score": 1}',
              '{"qid": "2", "query": "red", "docno": "a", "text": "y", "rank": 1, "score": 1}']  # fmt: skip
    (tmp_path / "rerank.jsonl").write_text("\n".join(rerank) + "\n")
    assert pt.get_dataset(f"folder:{tmp_path}").get_results()["qid"].tolist() == ["2", "10"]
