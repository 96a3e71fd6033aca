"""One student trained on several collections: ids kept apart, in proportion, streamed, resumed."""

import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from test_order_of_data import Stop, bits, stopping

import pyterrier_distill as ptd
from pyterrier_distill.losses import base as losses
from pyterrier_distill.training import several, sources, streaming

FP32 = {"precision": "fp32", "device": "cpu"}
SETTINGS = {"precision": "fp32", "verbose": False, "learning_rate": 1e-3, "queries_per_batch": 4, "dropout": 0.1}
WORDS = "red green blue dog cat bird runs sleeps sings fast slow loud house tree river".split()


def collection(seed, queries, column="teacher_score"):
    """Queries q0, q1, ... with three documents each of d0 ... d5: ids that other collections have, too."""
    rng = np.random.default_rng(seed)
    texts = {f"d{n}": " ".join(rng.choice(WORDS, size=6)) for n in range(6)}
    rows = []
    for n in range(queries):
        query = " ".join(rng.choice(WORDS, size=2)) + f" {seed}"
        for rank, docno in enumerate(rng.choice(sorted(texts), size=3, replace=False)):
            rows.append((f"q{n}", query, docno, texts[docno], rank, float(rng.normal())))
    return pd.DataFrame(rows, columns=["qid", "query", "docno", "text", "rank", column])


@pytest.fixture
def frames():
    return [collection(1, 12), collection(2, 5)]


def stores_of(frames, path, **settings):
    return [
        ptd.LabelStore.from_frame(path / f"labels{n}", frame, with_text=True, **settings)
        for n, frame in enumerate(frames)
    ]


def trained(tiny, data, loss=None, *, epochs=2, kind=ptd.CrossEncoder, qrels=None, settings=None, **where):
    student = kind(tiny, **FP32)
    distiller = ptd.Distiller(student, loss or ptd.KLDivergence(), epochs=epochs, **{**SETTINGS, **(settings or {})})
    distiller.fit(data, qrels, **where)
    return student


def test_one_batch_of_all_collections_is_one_batch_of_one_frame_with_ids_of_their_own(tiny, frames, tmp_path):
    """What is learnt is what a frame teaches in which ids were told apart by hand."""
    named = [
        frame.assign(qid=f"{n}-" + frame["qid"], docno=f"{n}-" + frame["docno"]) for n, frame in enumerate(frames)
    ]
    settings = {"queries_per_batch": 20, "dropout": 0.0}
    qrels = [frame[frame["rank"] == 1][["qid", "docno"]].assign(label=1) for frame in frames]
    together = pd.concat([f[f["rank"] == 1][["qid", "docno"]].assign(label=1) for f in named])
    loss = ptd.InfoNCE(temperature=0.05) + ptd.KLDivergence(temperature=0.05)
    expected = trained(tiny, pd.concat(named), loss, kind=ptd.BiEncoder, qrels=together, settings=settings)
    for data in (frames, stores_of(frames, tmp_path), [frames[0], ptd.LabelStore(tmp_path / "labels1")]):
        student = trained(tiny, data, loss, kind=ptd.BiEncoder, qrels=qrels, settings=settings)
        vectors = [one.encode_queries(WORDS) for one in (student, expected)]
        np.testing.assert_allclose(*vectors, atol=1e-5)
        assert student.manifest["queries"] == 17 and student.manifest["documents"] == 51


def test_an_id_means_another_document_in_each(tiny, frames):
    """d0 of one collection is a negative for the other's queries, also where the other's d0 is relevant to them."""
    qrels = [frame[["qid", "docno"]].assign(label=1) for frame in frames]  # all that is retrieved is relevant
    loss = ptd.InfoNCE(temperature=0.05)
    student = ptd.BiEncoder(tiny, **FP32)
    lists = sources.read(sources.sources(frames, qrels), student, loss, None)
    assert isinstance(lists, several.SeveralLists) and len(lists) == 17
    known, keys = lists[0].known, lists[16].keys
    assert not np.isin(keys[keys != 0], known).any()
    same = sources.read(sources.sources(frames[0], qrels[0]), student, loss, None)
    assert np.isin(same[0].keys, same[0].known).all()
    seen = ptd.ListSampler(2)
    twins = sources.read(sources.sources([frames[0], frames[0]]), student, ptd.KLDivergence(), None, seen)
    assert losses.BATCH_SCORES in loss.needs and twins[0].docnos == twins[12].docnos


def passes(lists, seed, epochs):
    order = lists.sampler(seed)
    for epoch in range(epochs):
        order.set_epoch(epoch)
        yield list(order)


@pytest.mark.parametrize("stored", [False, True])
def test_an_epoch_has_so_many_of_each_as_the_proportions_say(stored, tiny, frames, tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "BLOCK", 4)
    given = sources.sources(stores_of(frames, tmp_path) if stored else frames)
    student = ptd.CrossEncoder(tiny, **FP32)
    of = lambda p: sources.read(given, student, ptd.KLDivergence(), None, proportions=p)  # noqa: E731
    for epoch in passes(of(None), 7, 3):
        assert sorted(epoch) == list(range(17))
    lists = of([1, 3])
    orders = list(passes(lists, 7, 6))
    assert {len(epoch) for epoch in orders} == {17} == {len(lists)}
    assert [sum(n < 12 for n in epoch) for epoch in orders] == [4, 5, 4, 4, 4, 5]  # of 17 lists 4.25 and 12.75
    counts = Counter(n for epoch in orders for n in epoch)
    assert {counts[n] for n in range(12)} == {2, 3}  # 26 places for twelve lists
    assert {counts[n] for n in range(12, 17)} <= {15, 16}  # 76 for five
    assert orders == list(passes(lists, 7, 6)) != list(passes(lists, 8, 6))
    assert orders[0] != orders[1]
    first = [n for epoch in orders for n in epoch if n >= 12][:10]
    assert sorted(first[:5]) == sorted(first[5:]) == list(range(12, 17))  # none again before all have come


def test_a_list_that_comes_again_within_an_epoch_has_other_documents(tiny, frames):
    sampler, loss = ptd.ListSampler(2), ptd.KLDivergence()
    student = ptd.CrossEncoder(tiny, **FP32)
    lists = sources.read(sources.sources(frames), student, loss, None, sampler, proportions=[1, 50])
    from pyterrier_distill.training.sampled import SampledLists

    order = SampledLists(lists, sampler, loss).sampler(1)
    order.set_epoch(0)
    places = [place for place in order if place[1] == 13]
    assert [epoch for epoch, _ in places] == [0, 1, 2]
    drawn = SampledLists(lists, sampler, loss)
    assert len({tuple(drawn[epoch, 13].docnos) for epoch in range(9)}) == 3


def test_over_epochs_each_collection_comes_as_often_as_asked(tiny, caplog):
    """Also one whose share of an epoch is less than a list; each epoch tells by itself where it begins."""
    given = sources.sources([collection(1, 9), collection(2, 1)])
    lists = sources.read(given, ptd.CrossEncoder(tiny, **FP32), ptd.KLDivergence(), None, proportions=[100, 1])
    assert "of collection 2 none comes in the first" in caplog.text
    orders = list(passes(lists, 7, 101))
    assert sum(n == 9 for epoch in orders for n in epoch) == 10 and {len(epoch) for epoch in orders} == {10}
    counts = Counter(n for epoch in orders for n in epoch)
    assert {counts[n] for n in range(9)} <= {111, 112}
    order = lists.sampler(7)
    order.set_epoch(57)
    assert list(order) == orders[57]


def test_shares_never_fall():
    rng = np.random.default_rng(0)
    for proportions in ([500] * 15 + [1], *(rng.random(9).tolist() for _ in range(20)), [1e-9, 1.0, 3.0]):
        dealt = np.array([several.shares(total, proportions) for total in range(200)])
        assert (np.diff(dealt, axis=0) >= 0).all() and (dealt.sum(axis=1) == np.arange(200)).all()
        far = np.array(several.shares(10**7, proportions)) - 1e7 * np.array(proportions) / sum(proportions)
        assert np.abs(far).max() < 2


def test_shares_add_up():
    assert several.shares(17, [1, 3]) == [4, 13]
    assert several.shares(10, [1, 1, 1]) == [4, 3, 3]
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = rng.random(5) + 1e-3
        out = several.shares(1000, p.tolist())
        assert sum(out) == 1000 and np.abs(np.array(out) - 1000 * p / p.sum()).max() < 1


def test_little_of_each_store_is_in_memory(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "BLOCK", 2)
    many = stores_of([collection(n, 40) for n in range(4)], tmp_path)
    student = ptd.CrossEncoder(tiny, **FP32)
    lists = sources.read(sources.sources(many), student, ptd.KLDivergence(), None)
    for n in lists.sampler(3):
        lists[n]
        assert sum(len(part._kept) for part in lists.parts) <= streaming.BUFFER


@pytest.mark.parametrize("stored", [False, True])
def test_the_same_seed_gives_the_same_student_and_a_stopped_training_goes_on(stored, tiny, frames, tmp_path):
    data = stores_of(frames, tmp_path) if stored else frames
    settings = {"sampler": ptd.ListSampler(2), "save_every": 1}
    where = {"proportions": [2, 3], "epochs": 4}
    whole = trained(tiny, data, settings={"sampler": settings["sampler"]}, **where)
    assert torch.equal(bits(whole), bits(trained(tiny, data, settings={"sampler": settings["sampler"]}, **where)))
    saved = {**SETTINGS, **settings, "epochs": 4, "checkpoints": tmp_path / "c"}
    student = stopping(ptd.CrossEncoder(tiny, **FP32), 7)
    with pytest.raises(Stop):
        ptd.Distiller(student, ptd.KLDivergence(), **saved).fit(data, proportions=[2, 3])
    again = ptd.CrossEncoder(tiny, **FP32)
    for other in ({"proportions": [3, 2]}, {}):
        with pytest.raises(ValueError, match="are of another training: data was"):
            ptd.Distiller(again, ptd.KLDivergence(), **saved).fit(data, **other)
    with pytest.raises(ValueError, match="are of another training: data was"):
        ptd.Distiller(again, ptd.KLDivergence(), **saved).fit(data[::-1], proportions=[2, 3])
    ptd.Distiller(again, ptd.KLDivergence(), **saved).fit(data, proportions=[4, 6])
    assert torch.equal(bits(again), bits(whole))


def test_a_list_of_one_is_that_one(tiny, frames):
    one, same = (trained(tiny, data, settings={"dropout": 0.0}) for data in (frames[:1], frames[0]))
    assert torch.equal(bits(one), bits(same)) and one.manifest["data"] == same.manifest["data"]


def test_each_collection_brings_its_own_texts_queries_and_judgements(tiny, frames):
    bare = [frame.drop(columns="text") for frame in frames]
    texts = [frame[["docno", "text"]].drop_duplicates() for frame in frames]
    topics = [None, frames[1][["qid", "query"]].drop_duplicates()]
    bare[1] = bare[1].assign(query="what the teacher read")
    settings = {"dropout": 0.0}
    student = trained(tiny, bare, text=texts, topics=topics, settings=settings)
    assert torch.equal(bits(student), bits(trained(tiny, frames, settings=settings)))


def test_the_card_names_all_stores(tiny, frames, tmp_path):
    made = []
    for n, frame in enumerate(frames):
        teacher = ptd.RunTeacher(frame[["qid", "docno", "teacher_score"]], by="score")
        topics = frame[["qid", "query"]].drop_duplicates()
        made.append(ptd.LabelStore(tmp_path / str(n)).build(teacher, topics, verbose=False))
    texts = [frame[["docno", "text"]].drop_duplicates() for frame in frames]
    student = trained(tiny, made, text=texts)
    assert json.dumps(student.manifest["labels"]).count("RunTeacher") >= 2
    student.save(tmp_path / "student")
    card = (tmp_path / "student" / "README.md").read_text()
    assert card.count("(label store, key ") == 2


def test_different_labels_are_refused(tiny, frames, tmp_path):
    other = frames[1].rename(columns={"teacher_score": "teacher_rank"}).assign(teacher_rank=frames[1]["rank"])
    student = ptd.CrossEncoder(tiny, **FP32)
    for data in ([frames[0], other], stores_of([frames[0], other], tmp_path)):
        message = "'teacher_score', which collection 1 has and collection 2 lacks .it has .*teacher_rank"
        with pytest.raises(ValueError, match=message):
            ptd.Distiller(student, ptd.KLDivergence(), **SETTINGS).fit(data)
        with pytest.raises(ValueError, match="need the same label columns"):
            ptd.Distiller(student, ptd.RankNet(), **SETTINGS).fit(data)  # whichever of the two
    vectors = [frame.assign(query_vec=[np.ones(size)] * len(frame)) for frame, size in zip(frames, (32, 16))]
    with pytest.raises(ValueError, match="'query_vec' have 32, 16 dimensions"):
        ptd.Distiller(ptd.BiEncoder(tiny, **FP32), ptd.EmbeddingMatch(), **SETTINGS).fit(vectors)
    with pytest.raises(ptd.MissingLabelError, match="'teacher_logits'"):
        ptd.Distiller(ptd.CrossEncoder(tiny, **FP32), ptd.KLDivergence(label="teacher_logits"), **SETTINGS).fit(frames)


def test_what_does_not_fit_is_told_with_its_collection(tiny, frames, tmp_path):
    fit = ptd.Distiller(ptd.CrossEncoder(tiny, **FP32), ptd.KLDivergence(), **SETTINGS).fit
    qrels = frames[0][["qid", "docno"]].assign(label=1)
    lacking = frames[1][["qid", "query"]].drop_duplicates().iloc[1:]
    for settings, message in (
        ({"qrels": qrels}, "qrels must be a list of 2, one for each collection"),
        ({"text": [None]}, "text must be a list of 2"),
        ({"topics": frames[0][["qid", "query"]]}, "topics must be a list of 2"),
        ({"proportions": [1]}, "proportions must be 2 positive numbers"),
        ({"proportions": [1, 0]}, "proportions must be 2 positive numbers"),
        ({"proportions": [1, "x"]}, "proportions must be 2 positive numbers"),
        ({"topics": [None, lacking]}, "collection 2 of 2: topics= holds no"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(frames, **settings)
    with pytest.raises(ValueError, match="proportions= are those of several"):
        fit(frames[0], proportions=[1])
    with pytest.raises(ValueError, match="not an empty list"):
        fit([])
    with pytest.raises(TypeError, match="each collection must be a labelled frame or a LabelStore, not 'labels'"):
        fit([frames[0], "labels"])
    with pytest.raises(ValueError, match="collection 2 of 2: .*holds no labelled documents"):
        fit([frames[0], ptd.LabelStore(tmp_path / "empty")])
    with pytest.raises(ValueError, match="collection 2 of 2: .*'teacher_score' is the same"):
        fit([frames[0], frames[1].assign(teacher_score=1.0)])
    bare = frames[1].drop(columns="text")
    for labels in (bare, ptd.LabelStore.from_frame(tmp_path / "bare", bare)):
        with pytest.raises(ptd.MissingLabelError, match="^collection 2 of 2: .*needs the column 'text'"):
            fit([frames[0], labels])
        some = ptd.LabelStore(tmp_path / f"texts-{type(labels).__name__}")
        some.add_texts(frames[1].head(1)[["docno", "text"]])
        with pytest.raises(KeyError, match="collection 2 of 2: .*holds no text of document"):
            fit([frames[0], labels], text=[None, some.text_loader()])
