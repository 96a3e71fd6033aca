"""Training: learns, repeats itself, resumes, and refuses what cannot be meant."""

import signal
import subprocess
import sys
import tempfile
import textwrap
import time

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
import torch

import pyterrier_distill as ptd
from pyterrier_distill.losses import functional


@pytest.fixture
def teacher(tiny):
    return ptd.BiEncoder(tiny, precision="fp32", device="cpu")


def student_of(teacher, **settings):
    settings = {"precision": "fp32", "device": "cpu", "doc_encoder": teacher, "freeze_docs": True, **settings}
    return ptd.BiEncoder(ptd.BiEncoder.truncated(teacher, 2), **settings)


def distiller(student, loss, **settings):
    return ptd.Distiller(student, loss, **{"precision": "fp32", "verbose": False, "learning_rate": 1e-3, **settings})


@pytest.fixture
def queries(documents, teacher):
    return (ptd.SpanQueries(n=8) >> ptd.explode_queries() >> teacher.query_encoder())(documents)


def weights(student):
    return torch.cat([p.detach().flatten() for p in student.query_modules().parameters()])


# -- it learns --------------------------------------------------------------------------------------------------------


def test_matching_embeddings_brings_the_student_to_its_teacher(teacher, queries):
    student = student_of(teacher)
    target = np.stack(list(queries["query_vec"]))
    before = np.linalg.norm(student.encode_queries(queries["query"]) - target, axis=1).mean()
    d = distiller(student, ptd.EmbeddingMatch(), epochs=10, queries_per_batch=16, dropout=0.0)
    assert d.fit(queries) is d
    after = np.linalg.norm(student.encode_queries(queries["query"]) - target, axis=1).mean()
    assert after < 0.5 * before
    assert [entry["step"] for entry in d.history if "loss" in entry][-1] == 60


@pytest.mark.parametrize(
    "loss",
    [
        ptd.KLDivergence(temperature=0.1),
        ptd.ListNet(),
        ptd.MSE(),
        ptd.MarginMSE(pairs="all"),
        ptd.ScoreMatch(label="teacher_score"),
        ptd.LocalizedContrastive(),
        ptd.InfoNCE(temperature=0.05),
        ptd.InfoNCE(temperature=0.05) + 3.0 * ptd.KLDivergence(),
        ptd.EmbeddingMatch(on=("query", "document"), distance="mse"),
    ],
    ids=repr,
)
def test_every_loss_falls(loss, teacher, tiny, results, qrels):
    student = ptd.BiEncoder(tiny, layers=2, precision="fp32", device="cpu")
    frame = (teacher.query_encoder() >> teacher.doc_encoder())(results)
    d = distiller(student, loss, epochs=30, queries_per_batch=4, dropout=0.0, warmup=0.0, schedule="constant")
    d.fit(frame, qrels)
    losses = [entry["loss"] for entry in d.history if "loss" in entry]
    assert losses[-1] < losses[0]


def test_overfits_its_qrels(tiny, results, qrels):
    student = ptd.BiEncoder(tiny, precision="fp32", device="cpu")
    distiller(student, ptd.LocalizedContrastive() + ptd.InfoNCE(0.05), epochs=80, dropout=0.0).fit(results, qrels)
    assert pt.Evaluate(student(results), qrels, ["ndcg_cut_10"])["ndcg_cut_10"] > 0.95


def test_only_the_query_side_moves_where_documents_are_frozen(teacher, results, qrels):
    student = student_of(teacher)
    documents = {n: p.clone() for n, p in student.doc_modules().state_dict().items()}
    before = weights(student)
    distiller(student, ptd.KLDivergence() + ptd.InfoNCE(), epochs=2).fit(results, qrels)
    assert not torch.equal(weights(student), before)
    assert all(torch.equal(p, documents[n]) for n, p in student.doc_modules().state_dict().items())


def test_frozen_documents_are_encoded_once_however_many_epochs(teacher, results):
    student = student_of(teacher)
    encoded = []
    encode = student.encode_docs
    student.encode_docs = lambda texts, batch_size=None: encoded.extend(texts) or encode(texts, batch_size)
    distiller(student, ptd.KLDivergence(), epochs=3).fit(results)
    assert sorted(encoded) == sorted(results.drop_duplicates("docno")["text"])


def test_documents_of_an_index_need_no_text_and_cannot_move(teacher, documents, results, tmp_path):
    import pyterrier_dr

    index = pyterrier_dr.FlexIndex(str(tmp_path / "i"), verbose=False)
    (teacher >> index).index(documents.to_dict("records"))
    trained = []
    for frame in (results, results.drop(columns="text")):
        student = student_of(teacher, doc_index=index)
        distiller(student, ptd.KLDivergence(), epochs=2).fit(frame)
        trained.append(weights(student))
    torch.testing.assert_close(trained[0], trained[1])
    for student in (ptd.BiEncoder(teacher, doc_index=index), student_of(teacher, doc_index=index, freeze_docs=False)):
        with pytest.raises(ValueError, match="doc_index holds vectors of documents whose encoder this training would"):
            distiller(student, ptd.KLDivergence()).fit(results)


def test_training_leaves_the_teacher_trainable(teacher, queries):
    distiller(student_of(teacher), ptd.EmbeddingMatch()).fit(queries)
    assert teacher.encode_queries_torch(["red"]).requires_grad


def test_students_trained_differently_are_different(teacher, results):
    frame = teacher.doc_encoder()(results)
    students = [student_of(teacher, freeze_docs=False) for _ in range(2)]
    for student, rate in zip(students, (1e-2, 1e-3)):
        distiller(student, ptd.EmbeddingMatch(on=("document",)), learning_rate=rate).fit(frame)
    assert students[0] != students[1]


def test_a_thawed_document_encoder_moves_and_the_teacher_does_not(teacher, results):
    student = student_of(teacher, freeze_docs=False)
    before = {n: p.clone() for n, p in teacher.model.state_dict().items()}
    distiller(student, ptd.KLDivergence(), epochs=2).fit(results)
    pairs = list(zip(student.doc_modules().state_dict().values(), before.values(), strict=True))
    assert any(not torch.equal(new, old) for new, old in pairs)
    assert all(torch.equal(p, before[n]) for n, p in teacher.model.state_dict().items())


def test_a_batchs_loss_equals_the_functional_one(tiny, results):
    """What training minimises on ragged lists is exactly the function of the student's own scores."""
    from pyterrier_distill.losses import functional
    from pyterrier_distill.training.lists import Collator, read_lists

    student, loss = ptd.BiEncoder(tiny, precision="fp32", device="cpu"), ptd.KLDivergence(temperature=0.3)
    lists = read_lists(results, loss, "text")
    batch = Collator(student, loss)(lists)
    outputs = student.forward(batch["batch"], batch["mask"], loss.needs)
    value = float(loss(outputs, batch["labels"]).detach())
    scored = student(results)
    rows = [scored[scored["qid"] == qid] for qid in results["qid"].unique()]
    tensors = [(torch.tensor([r["score"].to_list()]), torch.tensor([r["teacher_score"].to_list()])) for r in rows]
    expected = np.mean([float(functional.kl_divergence(s, t, temperature=0.3)) for s, t in tensors])
    assert value == pytest.approx(expected, abs=1e-5)


# -- as a PyTerrier estimator -----------------------------------------------------------------------------------------


def test_stands_last_in_a_pipeline_that_is_fitted(teacher, documents, results):
    candidates = pt.Transformer.from_df(results.drop(columns=["teacher_score", "query"]))
    student = student_of(teacher)
    pipeline = candidates >> teacher.query_encoder() >> distiller(student, ptd.EmbeddingMatch())
    topics = results[["qid", "query"]].drop_duplicates()
    before = weights(student)
    pipeline.fit(topics, None)
    assert not torch.equal(weights(student), before)
    ranked = pipeline(topics)
    assert set(ranked["qid"]) == set(topics["qid"]) and {"score", "rank"} <= set(ranked.columns)


def test_a_fitted_pipeline_ranks_and_validates_with_the_student_not_with_its_labels(teacher, results, qrels):
    student = student_of(teacher)
    candidates = pt.Transformer.from_df(results.drop(columns=["teacher_score", "query"]))
    d = distiller(student, ptd.EmbeddingMatch(), epochs=20, eval_every=5)
    pipeline = candidates >> teacher.query_encoder() >> teacher.doc_encoder() >> d
    topics = results[["qid", "query"]].drop_duplicates()
    pipeline.fit(topics, None, topics, qrels)
    scores = pipeline(topics).set_index(["qid", "docno"])["score"]
    expected = student(results).set_index(["qid", "docno"])["score"]
    np.testing.assert_allclose(scores[expected.index], expected, atol=1e-6)
    assert not np.allclose(expected, teacher(results).set_index(["qid", "docno"])["score"], atol=1e-3)


def test_a_schematic_shows_the_student(teacher, results):
    candidates = pt.Transformer.from_df(results)
    pipeline = candidates >> teacher.query_encoder() >> distiller(student_of(teacher), ptd.EmbeddingMatch())
    schematic = pt.schematic.transformer_schematic(pipeline)["transformers"][-1]
    assert schematic["label"] == "Distiller" and schematic["inner_pipelines_labels"] == ["student, by EmbeddingMatch"]
    assert "BiEncoder" in pt.schematic.draw(pipeline)


def test_ranks_with_the_student(tiny, results):
    student = ptd.BiEncoder(tiny, precision="fp32", device="cpu")
    pd.testing.assert_frame_equal(distiller(student, ptd.KLDivergence())(results), student(results))


def test_a_trained_student_is_another_one(teacher, queries):
    student, untrained = student_of(teacher), student_of(teacher)
    assert student == untrained
    distiller(student, ptd.EmbeddingMatch()).fit(queries)
    assert student != untrained and student.query_encoder() != untrained.query_encoder()
    assert student.manifest["loss"] == "EmbeddingMatch()" and student.manifest["versions"]["torch"]
    with pytest.raises(pt.inspect.InspectError, match="trained"):
        pt.inspect.transformer_apply_attributes(student, layers=1)


def test_a_trained_student_is_saved_and_pickled_with_its_weights(teacher, queries, tmp_path):
    import pickle

    student = student_of(teacher)
    distiller(student, ptd.EmbeddingMatch(), epochs=3).fit(queries)
    vectors = student.encode_queries(queries["query"])
    loaded = pt.inspect.transformer_apply_attributes(student.save(tmp_path / "s"), precision="fp32")
    np.testing.assert_allclose(loaded.encode_queries(queries["query"]), vectors, atol=1e-5)
    assert loaded.manifest["data"] == student.manifest["data"]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(student)).encode_queries(queries["query"]), vectors)


# -- validation -------------------------------------------------------------------------------------------------------


def test_the_best_checkpoint_on_the_validation_measure_is_kept(tiny, results, qrels):
    student = ptd.BiEncoder(tiny, precision="fp32", device="cpu")
    d = distiller(
        student, ptd.LocalizedContrastive(), epochs=30, eval_every=3, metric="RR(rel=1)@10", learning_rate=5e-3
    )
    d.fit(results, qrels, results, qrels)
    evaluations = [e["eval_RR@10"] for e in d.history if "eval_RR@10" in e]
    evaluations = evaluations[1:]  # the first is that of the student before training
    assert len(evaluations) == 10 and max(evaluations) > evaluations[0] or evaluations[0] == 1.0
    measured = pt.Evaluate(student(results), qrels, ["recip_rank"])["recip_rank"]
    assert measured == pytest.approx(max(evaluations), abs=1e-6)
    assert student.manifest["best"] == {"RR@10": pytest.approx(max(evaluations))}


def test_validation_without_qrels_measures_the_loss(teacher, queries):
    student = student_of(teacher)
    d = distiller(student, ptd.EmbeddingMatch(), epochs=4, eval_every=6)
    d.fit(queries.iloc[::2], None, queries.iloc[1::2])
    start, *evaluations = [e["eval_loss"] for e in d.history if "eval_loss" in e]
    assert len(evaluations) >= 2 and evaluations[-1] < evaluations[0]
    assert [e["step"] for e in d.history if e.get("eval_loss") == start][0] == 0


def test_early_stopping(teacher, queries):
    d = distiller(
        student_of(teacher), ptd.EmbeddingMatch(), epochs=50, eval_every=1, early_stopping=2, learning_rate=1e-12
    )
    d.fit(queries, None, queries.head(10))
    assert d.student.manifest["steps_taken"] < 20


# -- the same again ---------------------------------------------------------------------------------------------------


def test_same_seed_same_weights_other_seed_others(teacher, queries):
    trained = []
    for seed in (1, 1, 2):
        student = student_of(teacher)
        distiller(student, ptd.EmbeddingMatch(), epochs=2, queries_per_batch=8, seed=seed).fit(queries)
        trained.append(weights(student))
    assert torch.equal(trained[0], trained[1])
    assert not torch.equal(trained[0], trained[2])


def test_accumulation_equals_larger_batches(teacher, queries):
    queries = queries.head(64)
    trained = []
    for batch, accumulation in ((16, 1), (8, 2)):
        student = student_of(teacher)
        settings = {"queries_per_batch": batch, "accumulation": accumulation, "dropout": 0.0, "learning_rate": 1e-4}
        distiller(student, ptd.EmbeddingMatch(), **settings).fit(queries)
        trained.append(student.encode_queries(queries["query"]))
    np.testing.assert_allclose(trained[0], trained[1], atol=1e-4)


SCRIPT = """
    import sys
    import numpy as np, pandas as pd, pyterrier_distill as ptd
    model, data, checkpoints, out = sys.argv[1:]
    teacher = ptd.BiEncoder(model, precision="fp32", device="cpu")
    frame = pd.read_pickle(data)
    student = ptd.BiEncoder(ptd.BiEncoder.truncated(teacher, 2), doc_encoder=teacher, freeze_docs=True,
                            precision="fp32", device="cpu")
    ptd.Distiller(student, ptd.EmbeddingMatch(), epochs=40, queries_per_batch=8, precision="fp32", learning_rate=1e-3,
                  checkpoints=checkpoints, save_every=7, verbose=False).fit(frame)
    np.save(out, student.encode_queries(frame["query"]))
"""


@pytest.mark.slow
def test_killed_and_run_again_ends_where_an_undisturbed_run_ends(tiny, queries, tmp_path):
    queries[["qid", "query", "query_vec"]].to_pickle(tmp_path / "data")
    (tmp_path / "train.py").write_text(textwrap.dedent(SCRIPT))

    def start(name):
        arguments = [tiny, tmp_path / "data", tmp_path / f"{name}-checkpoints", tmp_path / f"{name}.npy"]
        return subprocess.Popen([sys.executable, tmp_path / "train.py", *map(str, arguments)], cwd=tmp_path)

    assert start("whole").wait() == 0
    kills = 0
    for wanted in (2, 6):  # kill twice, each time after some more checkpoints
        process = start("killed")
        while process.poll() is None:
            done = [int(p.name.split("-")[1]) for p in (tmp_path / "killed-checkpoints").glob("checkpoint-*")]
            if max(done, default=0) >= 7 * wanted:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
            time.sleep(0.02)
    assert kills == 2
    assert start("killed").wait() == 0
    np.testing.assert_allclose(np.load(tmp_path / "killed.npy"), np.load(tmp_path / "whole.npy"), atol=1e-6)


def test_a_finished_training_is_not_trained_again(teacher, queries, tmp_path):
    settings = {
        "checkpoints": tmp_path / "c",
        "epochs": 50,
        "eval_every": 2,
        "early_stopping": 2,
        "learning_rate": 1e-9,
    }
    first, second = student_of(teacher), student_of(teacher)
    distiller(first, ptd.EmbeddingMatch(), **settings).fit(queries, None, queries.head(8))
    d = distiller(second, ptd.EmbeddingMatch(), **settings)
    d.fit(queries, None, queries.head(8))
    assert torch.equal(weights(first), weights(second)) and second.manifest == first.manifest
    assert d.history and second == first


def test_a_mistake_leaves_no_trace_that_hinders_the_corrected_call(teacher, queries, results, qrels, tmp_path):
    for mistake in ({"args": {"nope": 1}}, {"schedule": "bogus"}):
        with pytest.raises((TypeError, ValueError)):
            distiller(student_of(teacher), ptd.EmbeddingMatch(), checkpoints=tmp_path / "c", **mistake).fit(queries)
    distiller(student_of(teacher), ptd.EmbeddingMatch(), checkpoints=tmp_path / "c").fit(queries)


def test_a_half_written_checkpoint_is_passed_over(tmp_path):
    from pyterrier_distill.training.resuming import last_checkpoint

    assert last_checkpoint(tmp_path / "none") is None
    for step, state in ((5, '{"global_step": 5}'), (10, '{"global_st'), (15, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-5"


def test_checkpoints_of_another_training_are_refused(teacher, queries, tmp_path):
    distiller(student_of(teacher), ptd.EmbeddingMatch(), checkpoints=tmp_path / "c").fit(queries)
    for changed, settings, frame in (
        ("learning_rate", {"learning_rate": 2e-3}, queries),
        ("data", {}, queries.iloc[1:]),
        ("loss", {"loss": ptd.EmbeddingMatch(distance="mse")}, queries),
    ):
        settings = {"checkpoints": tmp_path / "c", **settings}
        loss = settings.pop("loss", ptd.EmbeddingMatch())
        with pytest.raises(ValueError, match=f"another training: {changed} was"):
            distiller(student_of(teacher), loss, **settings).fit(frame)


# -- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="teacher_score"), "needs the column 'teacher_score'.*PointwiseTeacher"),
        (lambda f: f.drop(columns="query"), "needs the column 'query'"),
        (lambda f: f.drop(columns="text"), "needs the column 'text'"),
        (lambda f: f.head(0), "training frame is empty"),
        (lambda f: f[f["qid"] == "q0"], "holds 1 query"),
        (lambda f: f.drop_duplicates("qid"), "no query of the training frame has more than 1"),
        (lambda f: pd.concat([f, f.head(1)]), "more than once"),
        (lambda f: f.assign(text=[None, *f["text"].iloc[1:]]), "'text' must hold text"),
        (lambda f: f.assign(query=[np.nan, *f["query"].iloc[1:]]), "'query' must hold text"),
        (lambda f: f.assign(teacher_score=[np.nan, *f["teacher_score"].iloc[1:]]), "finite"),
    ],
)
def test_bad_training_frames_are_refused_before_the_model_is_loaded(change, message, results, tmp_path):
    student = ptd.BiEncoder("nobody/has-this-model")
    d = ptd.Distiller(student, ptd.KLDivergence(), checkpoints=tmp_path / "c")
    with pytest.raises((ValueError, KeyError), match=message) as caught:
        d.fit(change(results))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "c").exists()


def test_a_loss_on_judgements_without_judgements(tiny, results, qrels):
    d = distiller(ptd.BiEncoder(tiny), ptd.KLDivergence() + ptd.InfoNCE())
    with pytest.raises(ptd.MissingLabelError, match=r"InfoNCE\(\) needs the column 'label'.*qrels"):
        d.fit(results)
    d.fit(results.assign(label=1))  # a frame that has the column needs no qrels


def test_a_teacher_of_another_dimension(teacher, tiny_wide, queries):
    d = distiller(ptd.BiEncoder(tiny_wide, device="cpu"), ptd.EmbeddingMatch())
    with pytest.raises(ValueError, match="'query_vec' has 32 dimensions and the student 48.*projection=32"):
        d.fit(queries)
    distiller(ptd.BiEncoder(tiny_wide, projection=32, device="cpu"), ptd.EmbeddingMatch()).fit(queries)


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 0}, {"epochs": 0}, {"queries_per_batch": 0}, {"accumulation": 0}, {"eval_every": -1}, {"warmup": 5},
        {"learning_rate": -1}, {"seed": -1}, {"dropout": 1.0}, {"early_stopping": 0}, {"precision": "int8"},
    ],
    ids=repr,
)  # fmt: skip
def test_impossible_settings_are_refused_at_once(tiny, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        distiller(ptd.BiEncoder(tiny), ptd.KLDivergence(), **settings)


def test_settings_that_need_something_else_say_so(tiny, results, qrels):
    student = ptd.BiEncoder(tiny, device="cpu")
    with pytest.raises(ValueError, match="early_stopping needs a validation frame"):
        distiller(student, ptd.KLDivergence(), early_stopping=2).fit(results)
    with pytest.raises(ValueError, match="multiple of eval_every"):
        distiller(student, ptd.KLDivergence(), eval_every=3, save_every=2).fit(results, None, results, qrels)
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        distiller(student, ptd.KLDivergence(), precision="fp16").fit(results)


@pytest.mark.parametrize(
    ("loss", "change", "message"),
    [
        (ptd.EmbeddingMatch(), lambda f: f.assign(query_vec=1.0), "'query_vec' must hold vectors"),
        (ptd.InfoNCE(), lambda f: f.assign(label=0), "no document of the training frame is relevant"),
        (ptd.KLDivergence(), lambda f: f.assign(qid=[None, *f["qid"].iloc[1:]]), "'qid' has 1 missing"),
    ],
    ids=["scalar", "nothing relevant", "no qid"],
)
def test_labels_that_cannot_teach(loss, change, message, tiny, results):
    with pytest.raises(ValueError, match=message):
        distiller(ptd.BiEncoder(tiny), loss).fit(change(results))


def test_qrels_must_be_whole_numbers_and_int_ids_will_do(tiny, results, qrels):
    d = distiller(ptd.BiEncoder(tiny, device="cpu"), ptd.LocalizedContrastive())
    with pytest.raises(ValueError, match="must hold whole numbers, but holds 0.7"):
        d.fit(results, qrels.assign(label=0.7))
    numbered = {f"q{i}": i for i in range(4)}
    frame, judged = results.assign(qid=results["qid"].map(numbered)), qrels.assign(qid=qrels["qid"].map(numbered))
    d.fit(frame, judged, frame, judged.assign(label=judged["label"].astype(str)))


def test_memory_is_kept_and_given_back():
    from pyterrier_distill.engine import memory

    for wanted in (True, False):
        with memory.kept(wanted):
            assert float(torch.ones(20_000_000).sum()) == 20_000_000
        assert float(torch.ones(20_000_000).sum()) == 20_000_000


def test_what_is_no_student_or_no_loss(tiny):
    with pytest.raises(TypeError, match="loss must be"):
        ptd.Distiller(ptd.BiEncoder(tiny), "kl")
    with pytest.raises(TypeError, match="student must be"):
        ptd.Distiller(pt.Transformer.identity(), ptd.MSE())


def test_validation_mistakes(tiny, results, qrels):
    d = distiller(ptd.BiEncoder(tiny), ptd.KLDivergence())
    with pytest.raises(ValueError, match="validation frame is empty"):
        d.fit(results, None, results.head(0), qrels)
    with pytest.raises(ValueError, match="qrels_va without res_va"):
        d.fit(results, None, None, qrels)
    with pytest.raises(ValueError, match="no query of the validation frame has judgements"):
        d.fit(results, None, results, qrels.assign(qid="other-" + qrels["qid"]))
    with pytest.raises(ValueError, match="unknown measure 'nDCP'"):
        distiller(ptd.BiEncoder(tiny), ptd.KLDivergence(), metric="nDCP").fit(results, None, results, qrels)


def test_a_loss_that_is_no_number_stops_training_and_leaves_the_student_as_it_was(tiny, results, tmp_path, monkeypatch):
    class Broken(ptd.MSE):
        def __call__(self, outputs, labels):
            return super().__call__(outputs, labels) * float("nan")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    student = ptd.BiEncoder(tiny, precision="fp32", device="cpu")
    before = weights(student)
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        distiller(student, Broken()).fit(results)
    assert torch.equal(weights(student), before)
    assert not list(tmp_path.iterdir())


def test_further_training_arguments_reach_the_trainer(teacher, queries, tmp_path):
    d = distiller(
        student_of(teacher),
        ptd.EmbeddingMatch(),
        args={"max_steps": 3, "logging_steps": 1, "warmup_steps": 0},
    )
    d.fit(queries)
    assert d.student.manifest["steps_taken"] == 3
    with pytest.raises(ValueError, match="checkpoints="):
        distiller(student_of(teacher), ptd.EmbeddingMatch(), args={"output_dir": str(tmp_path)}).fit(queries)


def test_steps_given_as_arguments_decide_the_schedule(teacher, queries):
    d = distiller(student_of(teacher), ptd.EmbeddingMatch(), epochs=100, args={"max_steps": 10, "logging_steps": 1})
    d.fit(queries)
    rates = [entry["learning_rate"] for entry in d.history if "learning_rate" in entry]
    assert max(rates) == pytest.approx(1e-3) and rates[-1] < 2e-4


def test_states_of_tokens_are_learnt(tiny, documents):
    """A student of layers [0, 3] learns what the teacher's layers 3 and 4 say of each token."""
    teacher = ptd.BiEncoder(tiny, precision="fp32", device="cpu")
    queries = (ptd.SpanQueries(n=6, seed=1) >> ptd.explode_queries())(documents)[["qid", "query"]]
    labelled = teacher.query_encoder(states=[3, 4])(queries)
    lengths = teacher.tokenise(queries["query"].tolist(), "query")["attention_mask"].sum(dim=1).tolist()
    assert [len(cell) for cell in labelled["query_states"]] == lengths
    first = labelled["query_states"].iloc[0]
    assert first.shape[1:] == (2, 32) and first.dtype == np.float16
    student = ptd.BiEncoder(
        ptd.BiEncoder.truncated(teacher, [0, 3]), doc_encoder=teacher, freeze_docs=True, precision="fp32", device="cpu"
    )
    loss = ptd.EmbeddingMatch() + ptd.HiddenStateMatch(layers=(1, 2))
    torch.manual_seed(0)
    for parameter in student.query_modules().parameters():  # random layers are near enough to each other otherwise
        parameter.data += 0.2 * torch.randn_like(parameter)

    def distance():
        own = student.query_encoder(states=[1, 2])(queries)["query_states"]
        pairs = zip(map(torch.tensor, own), map(torch.tensor, labelled["query_states"]))
        return float(torch.stack([functional.hidden_state_match(a, b) for a, b in pairs]).mean())

    before = distance()
    settings = {"epochs": 6, "learning_rate": 3e-3, "queries_per_batch": 8, "dropout": 0.0, "verbose": False}
    ptd.Distiller(student, loss, **settings).fit(labelled)
    assert distance() < 0.7 * before
    assert not student.query_modules()[0].model.config.output_hidden_states


def test_states_that_do_not_fit_are_refused(tiny, tiny_wide, documents):
    teacher = ptd.BiEncoder(tiny, device="cpu")
    queries = (ptd.SpanQueries(n=2) >> ptd.explode_queries())(documents)[["qid", "query"]]
    distiller = ptd.Distiller(ptd.BiEncoder(tiny, layers=2, device="cpu"), ptd.HiddenStateMatch((1, 2)), verbose=False)
    with pytest.raises(ptd.MissingLabelError, match="query_encoder\\(states="):
        distiller.fit(teacher.query_encoder()(queries))
    with pytest.raises(ValueError, match="states of 2 layers"):
        distiller.fit(teacher.query_encoder(states=[4])(queries))
    with pytest.raises(ValueError, match="this model has layers 1 to 4"):
        teacher.query_encoder(states=[5])(queries)
    labelled = teacher.query_encoder(states=[3, 4])(queries)
    short = labelled.assign(query_states=[cell[:-1] for cell in labelled["query_states"]])
    with pytest.raises(ValueError, match="one tokenizer"):
        distiller.fit(short)
    wide = ptd.BiEncoder(tiny_wide, device="cpu").query_encoder(states=[3, 4])(queries)
    with pytest.raises(ValueError, match="differ in shape"):
        distiller.fit(wide)
