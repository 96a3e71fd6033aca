"""Training from a LabelStore: the same as from its frame, with memory that does not grow."""

import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest

import pyterrier_distill as ptd
from pyterrier_distill.training import streaming

pytest.importorskip("pyarrow")


@pytest.fixture
def teacher(tiny):
    return ptd.BiEncoder(tiny, precision="fp32", device="cpu")


@pytest.fixture
def labelled(documents):
    """Seventy queries with two to four documents each, scores and vectors of a teacher, and text."""
    rng = np.random.default_rng(3)
    rows = []
    for n in range(70):
        query = " ".join(rng.choice(documents["text"].iloc[n % 12].split(), size=2))
        for docno in rng.choice(documents["docno"], size=2 + n % 3, replace=False):
            rows.append((f"q{n}", query, docno, float(rng.normal())))
    return pd.DataFrame(rows, columns=["qid", "query", "docno", "teacher_score"]).merge(documents, on="docno")


@pytest.fixture
def store(labelled, tmp_path):
    """A store of four shards, one query of which has no documents; texts are in it, too."""
    store = ptd.LabelStore(tmp_path / "labels")
    for part in range(4):
        rows = labelled[[int(qid[1:]) % 4 == part for qid in labelled["qid"]]]
        topics = pd.concat([rows[["qid", "query"]], pd.DataFrame({"qid": [f"none{part}"], "query": ["x"]})])
        store.add(rows, topics, with_text=True)
    return store


def trained(student_name, loss, *data, **settings):
    """Vectors of queries after training on one batch that holds everything, so that order does not matter."""
    student = ptd.BiEncoder(student_name, precision="fp32", device="cpu")
    where = {key: settings.pop(key) for key in ("text",) if key in settings}
    defaults = {"precision": "fp32", "verbose": False, "learning_rate": 1e-3, "queries_per_batch": 80, "epochs": 3}
    ptd.Distiller(student, loss, dropout=0.0, **{**defaults, **settings}).fit(*data, **where)
    return student.encode_queries(["red dog", "blue bird sings"])


def test_a_store_teaches_what_its_frame_teaches(tiny, labelled, store, documents):
    expected = trained(tiny, ptd.KLDivergence(), labelled)
    for text in (None, documents, store.text_loader()):
        np.testing.assert_allclose(trained(tiny, ptd.KLDivergence(), store, text=text), expected, atol=1e-5)
    without = ptd.LabelStore.from_frame(store.path.parent / "without", labelled)
    np.testing.assert_allclose(trained(tiny, ptd.KLDivergence(), without, text=documents), expected, atol=1e-5)


def test_judgements_join_block_by_block(tiny, labelled, store, monkeypatch):
    qrels = labelled.groupby("qid").head(1)[["qid", "docno"]].assign(label=1).iloc[:30]
    judged = labelled[labelled["qid"].isin(qrels["qid"])]
    expected = trained(tiny, ptd.LocalizedContrastive(), judged, qrels)
    some = ptd.LabelStore.from_frame(store.path.parent / "judged", judged)
    out = trained(tiny, ptd.LocalizedContrastive(), some, qrels, text=store)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    trained(tiny, ptd.LocalizedContrastive(), store, qrels)  # a block without judged documents is no mistake


def test_frozen_documents_and_vectors(tiny, teacher, labelled, store):
    frame = teacher.query_encoder()(labelled)
    with_vectors = ptd.LabelStore.from_frame(store.path.parent / "vectors", frame)
    loss = ptd.EmbeddingMatch() + ptd.KLDivergence()
    outs = []
    for data in (frame, with_vectors):
        student = ptd.BiEncoder(
            ptd.BiEncoder.truncated(teacher, 2), doc_encoder=teacher, freeze_docs=True, precision="fp32", device="cpu"
        )
        settings = {"precision": "fp32", "verbose": False, "queries_per_batch": 80, "epochs": 3, "learning_rate": 1e-3}
        ptd.Distiller(student, loss, dropout=0.0, **settings).fit(data, text=store)
        outs.append(student.encode_queries(["red dog"]))
    np.testing.assert_allclose(outs[0], outs[1], atol=1e-5)


def test_a_store_validates(tiny, store, labelled):
    student = ptd.BiEncoder(tiny, precision="fp32", device="cpu")
    distiller = ptd.Distiller(student, ptd.KLDivergence(), precision="fp32", verbose=False, epochs=2)
    distiller.fit(store, None, store)
    assert any("eval_loss" in entry for entry in distiller.history)
    assert student.manifest["queries"] == 70 and student.manifest["documents"] == len(labelled)


def test_what_a_store_lacks_is_named(tiny, store, labelled, tmp_path):
    student = ptd.BiEncoder(tiny, precision="fp32", device="cpu")
    with pytest.raises(ptd.MissingLabelError, match="query_vec.*query_encoder"):
        ptd.Distiller(student, ptd.EmbeddingMatch(), verbose=False).fit(store)
    without = ptd.LabelStore.from_frame(tmp_path / "without", labelled)
    with pytest.raises(ptd.MissingLabelError, match="'text'"):
        ptd.Distiller(student, ptd.KLDivergence(), verbose=False).fit(without)
    with pytest.raises(ValueError, match="no document 'd"):
        ptd.Distiller(student, ptd.KLDivergence(), verbose=False).fit(
            without, text=pd.DataFrame({"docno": ["x"], "text": ["y"]})
        )
    with pytest.raises(TypeError, match="text must be a dataset"):
        ptd.Distiller(student, ptd.KLDivergence(), verbose=False).fit(without, text=7)
    with pytest.raises(ValueError, match="holds no labelled documents"):
        ptd.Distiller(student, ptd.KLDivergence(), verbose=False).fit(ptd.LabelStore(tmp_path / "empty"))


def test_only_a_few_blocks_are_in_memory_and_each_is_read_once_an_epoch(tiny, store, monkeypatch):
    from pyterrier_distill.training.reading import Reader

    monkeypatch.setattr(streaming, "BUFFER", 2)
    reader = Reader(ptd.BiEncoder(tiny), ptd.KLDivergence(), None, store, None)
    lists = streaming.StoredLists(store, reader)
    reads = []

    def read(block, columns):
        reads.append(block.shard)
        return ptd.LabelStore.read(store, block, columns)

    monkeypatch.setattr(store, "read", read)
    seen = []
    for n in lists.sampler(seed=1):
        seen.append(lists[n].query)
        assert len(lists._kept) <= 2
    assert len(seen) == 70 == len(lists) and sorted(reads) == sorted(set(reads)) and len(reads) == 4


def test_orders_are_seeded_and_mix_near_blocks():
    ends = np.cumsum([10] * 40)
    order = lambda epoch: list(_at(streaming.BlockSampler(ends, 7), epoch))  # noqa: E731
    assert sorted(order(0)) == list(range(400)) and order(0) == order(0) != order(1)
    assert len({n // 10 for n in order(0)[: 10 * streaming.BUFFER]}) == streaming.BUFFER


def _at(sampler, epoch):
    sampler.set_epoch(epoch)
    return sampler


SCRIPT = """
    import sys
    import numpy as np, pyterrier_distill as ptd
    model, store, checkpoints, out = sys.argv[1:]
    student = ptd.BiEncoder(model, precision="fp32", device="cpu")
    ptd.Distiller(student, ptd.KLDivergence(), epochs=12, queries_per_batch=8, precision="fp32", learning_rate=1e-3,
                  checkpoints=checkpoints, save_every=7, verbose=False).fit(ptd.LabelStore(store))
    np.save(out, student.encode_queries(["red dog", "blue bird sings"]))
"""


@pytest.mark.slow
def test_killed_and_run_again_ends_where_an_undisturbed_run_ends(tiny, store, tmp_path):
    (tmp_path / "train.py").write_text(textwrap.dedent(SCRIPT))

    def start(name):
        arguments = [tiny, store.path, tmp_path / f"{name}-checkpoints", tmp_path / f"{name}.npy"]
        return subprocess.Popen([sys.executable, tmp_path / "train.py", *map(str, arguments)], cwd=tmp_path)

    assert start("whole").wait() == 0
    process = start("killed")
    while process.poll() is None:
        done = [int(p.name.split("-")[1]) for p in (tmp_path / "killed-checkpoints").glob("checkpoint-*")]
        if max(done, default=0) >= 28:  # in the fourth epoch
            process.send_signal(signal.SIGKILL)
        time.sleep(0.02)
    assert process.wait() == -signal.SIGKILL
    assert start("killed").wait() == 0
    np.testing.assert_allclose(np.load(tmp_path / "killed.npy"), np.load(tmp_path / "whole.npy"), atol=1e-6)


def test_batches_follow_the_seeded_order(tiny, store):
    from pyterrier_distill.training import trainer

    seen = []
    forward = trainer.TrainingModule.forward

    class Watched(trainer.TrainingModule):
        def forward(self, batch, mask, labels):
            seen.append(tuple(labels["teacher_score"].flatten().tolist()))
            return forward(self, batch, mask, labels)

    orders = []
    for seed in (1, 1, 2):
        seen.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trainer, "TrainingModule", Watched)
            student = ptd.BiEncoder(tiny, precision="fp32", device="cpu")
            settings = {"precision": "fp32", "verbose": False, "queries_per_batch": 8, "epochs": 2, "seed": seed}
            ptd.Distiller(student, ptd.KLDivergence(), **settings).fit(store)
        orders.append(list(seen))
    assert orders[0] == orders[1] != orders[2]
    assert len(orders[0]) == 18 and orders[0][:9] != orders[0][9:]  # another order in the second epoch


def test_judgements_that_match_nothing_are_told(tiny, store):
    student = ptd.BiEncoder(tiny, precision="fp32", device="cpu")
    for qrels in (
        pd.DataFrame({"qid": ["other"], "docno": ["d1"], "label": [1]}),
        pd.DataFrame({"qid": ["q0"], "docno": ["other"], "label": [1]}),
        pd.DataFrame({"qid": ["q0"], "docno": ["d1"], "label": [0]}),
    ):
        with pytest.raises(ValueError, match="judge no document of the store relevant"):
            ptd.Distiller(student, ptd.InfoNCE(), verbose=False).fit(store, qrels)


def test_each_store_brings_its_own_texts(tiny, store, labelled, tmp_path):
    other = labelled.assign(docno="v" + labelled["docno"], text=labelled["text"] + " tree")
    validation = ptd.LabelStore.from_frame(tmp_path / "validation", other, with_text=True)
    for train in (store, labelled):
        student = ptd.BiEncoder(tiny, precision="fp32", device="cpu")
        distiller = ptd.Distiller(student, ptd.KLDivergence(), precision="fp32", verbose=False)
        distiller.fit(train, None, validation)
        assert any("eval_loss" in entry for entry in distiller.history)


def test_some_other_block_may_have_enough_documents(tiny, labelled, tmp_path):
    store = ptd.LabelStore(tmp_path / "labels")
    store.add(labelled[labelled["qid"] == "q0"].head(1), with_text=True)
    store.add(labelled[labelled["qid"] != "q0"], with_text=True)
    student = ptd.BiEncoder(tiny, precision="fp32", device="cpu")
    ptd.Distiller(student, ptd.KLDivergence(), precision="fp32", verbose=False).fit(store)
    assert student.manifest["queries"] == 70


def test_sources_of_text(tiny, store, labelled, documents, tmp_path):
    without = ptd.LabelStore.from_frame(tmp_path / "without", labelled)
    student = ptd.BiEncoder(tiny, precision="fp32", device="cpu")
    distiller = ptd.Distiller(student, ptd.KLDivergence(), precision="fp32", verbose=False)
    twice = pd.concat([documents, documents])
    distiller.fit(without, text=twice)
    with pytest.raises(ValueError, match="it gave other rows"):
        distiller.fit(without, text=store.text_loader() >> pt.apply.generic(lambda frame: frame.iloc[1:]))
    with pytest.raises(ValueError, match="must hold text"):
        distiller.fit(without, text=documents.assign(text=None))
    body = ptd.BiEncoder(tiny, precision="fp32", device="cpu", text_field="body")
    ptd.Distiller(body, ptd.KLDivergence(), precision="fp32", verbose=False).fit(store)
    with pytest.raises(TypeError, match="res must be a labelled frame or a LabelStore"):
        distiller.fit("labels")


def test_a_collection_brings_its_texts(tiny, collections, irds, tmp_path):
    """Real rankings without texts; the texts come from a folder's dataset and from ir_datasets'."""
    folder = pt.get_dataset(f"folder:{collections / 'dl20'}")
    run = collections / "dl20" / "runs" / "teacher.rankvicuna.bm25.txt.gz"
    ranked = ptd.LabelStore.from_run(tmp_path / "run", run, folder.get_topics())
    vaswani = pt.get_dataset("irds:vaswani")
    rows = vaswani.get_qrels().groupby("qid").head(4).merge(vaswani.get_topics(), on="qid")
    judged = ptd.LabelStore.from_frame(
        tmp_path / "judged", rows.assign(teacher_score=rows.groupby("qid").cumcount() * 1.0)
    )
    for store, dataset in ((ranked, folder), (judged, vaswani)):
        student = ptd.BiEncoder(tiny, precision="fp32", device="cpu", max_length=16)
        settings = {"precision": "fp32", "verbose": False, "steps": 2, "queries_per_batch": 2}
        ptd.Distiller(student, ptd.RankNet(), **settings).fit(store, text=dataset)
        assert student.manifest["steps_taken"] == 2 and student.manifest["queries"] == len(store)
