"""Re-ranking students: they learn, they rank as their libraries do, they are saved and found again."""

import pickle
import shutil

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
import torch
from pyterrier.measures import nDCG

import pyterrier_distill as ptd
from pyterrier_distill.losses import functional

FP32 = {"precision": "fp32", "device": "cpu"}
KINDS = {
    "encoder": (ptd.CrossEncoder, "tiny"),
    "decoder": (ptd.CrossEncoder, "tiny_llm"),
    "t5": (ptd.MonoT5, "tiny_t5"),
    "causal": (ptd.CausalReranker, "tiny_llm"),
}


@pytest.fixture(params=KINDS)
def make(request):
    """A maker of students of one kind."""
    kind, fixture = KINDS[request.param]
    name = request.getfixturevalue(fixture)
    return lambda **settings: kind(name, **{**FP32, **settings})


def fitted(student, loss, frame, **settings):
    defaults = {"precision": "fp32", "verbose": False, "learning_rate": 2e-3, "epochs": 60, "queries_per_batch": 10}
    return ptd.Distiller(student, loss, dropout=0.0, **{**defaults, **settings}).fit(frame)


@pytest.mark.slow
def test_overfits_ten_queries_and_is_found_again(make, ten, tmp_path):
    student = make()
    fitted(student, ptd.RankNet(), ten, epochs=250, learning_rate=4e-3)
    qrels = ten.assign(label=2 - ten["teacher_rank"])[["qid", "docno", "label"]]
    assert pt.Evaluate(student(ten), qrels, [nDCG @ 10])["nDCG@10"] == pytest.approx(1.0)
    before = student(ten)
    saved = student.save(tmp_path / "student")
    for again in (saved, type(student)(tmp_path / "student", **FP32), pt.Artifact.load(str(tmp_path / "student"))):
        again.precision = "fp32"
        pd.testing.assert_frame_equal(again(ten), before, atol=1e-6)
        assert again.manifest["loss"] == "RankNet()" and again.manifest["queries"] == 10
    with pytest.raises(FileExistsError):
        student.save(tmp_path / "student")


def test_a_trained_student_is_pickled_with_its_weights(make, ten):
    student = make()
    fitted(student, ptd.RankNet(), ten, epochs=3)
    again = pickle.loads(pickle.dumps(student))
    pd.testing.assert_frame_equal(again(ten), student(ten))
    assert again == student
    fitted(again, ptd.RankNet(), ten, epochs=1)
    assert not again(ten)["score"].equals(student(ten)["score"])


def test_other_libraries_and_teachers_score_alike(make, ten, tmp_path):
    student = make()
    fitted(student, ptd.RankNet(), ten, epochs=3)
    student.save(tmp_path / "student")
    expected = student(ten)["score"].to_numpy()
    teacher = ptd.PointwiseTeacher(str(tmp_path / "student"), **FP32)
    np.testing.assert_allclose(teacher(ten)["score"], expected, atol=1e-5)
    if isinstance(student, ptd.CrossEncoder):
        from sentence_transformers import CrossEncoder

        model = CrossEncoder(str(tmp_path / "student"), device="cpu")
        pairs = list(zip(ten["query"], ten["text"]))
        np.testing.assert_allclose(model.predict(pairs, show_progress_bar=False), expected, atol=1e-5)
    elif isinstance(student, ptd.MonoT5):  # CausalReranker: test_causal_reranker.py
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "student")
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "student")
        words = [tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("false", "true")]
        for row, score in list(zip(ten.itertuples(), expected))[:5]:
            text = f"Query: {row.query} Document: {row.text} Relevant:"
            ids = tokenizer(text, return_tensors="pt")
            start = torch.tensor([[model.config.decoder_start_token_id]])
            with torch.no_grad():
                logits = model(**ids, decoder_input_ids=start).logits[0, 0, words]
            assert float(logits.log_softmax(-1)[1]) == pytest.approx(score, abs=1e-5)


def test_scores_depend_on_nothing_but_the_pair(make, ten):
    student = make()
    whole = student(ten)["score"].to_numpy()
    alone = np.concatenate([student(ten.iloc[[n]])["score"] for n in range(len(ten))])
    np.testing.assert_allclose(alone, whole, atol=1e-5)
    shuffled = student(ten.sample(frac=1, random_state=0)).sort_index()["score"]
    np.testing.assert_allclose(shuffled, whole, atol=1e-5)
    long = ten.copy()
    long.loc[0, "text"] = " ".join(["river"] * 900)
    np.testing.assert_allclose(student(long)["score"][1:], whole[1:], atol=1e-5)
    assert len(student(ten.iloc[:0])) == 0


def test_the_batchs_loss_is_that_of_the_scores(make, ten):
    """Micro-batches, padding and list places: the training forward pass equals ranking."""
    from pyterrier_distill.training.lists import Collator
    from pyterrier_distill.training.reading import Reader

    ragged = ten.drop(index=[1, 5, 6])
    student, loss = make(), ptd.RankNet()
    lists = Reader(student, loss, None, None, None).read(ragged)
    batch = Collator(student, loss)(lists)
    outputs = student.forward(batch["batch"], batch["mask"], loss.needs)
    scored = student(ragged)
    for row, (_, rows) in enumerate(ragged.groupby("qid", sort=False)):
        expected = scored.loc[rows.index, "score"].to_numpy()
        np.testing.assert_allclose(outputs.scores[row, : len(rows)].detach(), expected, atol=1e-5)
    student.model.zero_grad()
    loss(outputs, batch["labels"]).backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in student.model.parameters())


@pytest.mark.parametrize(
    "loss", [ptd.LocalizedContrastive(), ptd.BinaryCrossEntropy(), ptd.ADRMSE() + 0.1 * ptd.ListMLE(), ptd.LambdaLoss()]
)
def test_a_cross_encoder_learns_from_everything(loss, tiny, ten):
    student = ptd.CrossEncoder(tiny, **FP32)
    qrels = ten[ten["teacher_rank"] < 1][["qid", "docno"]].assign(label=1)
    settings = {"precision": "fp32", "verbose": False, "learning_rate": 2e-3, "epochs": 40, "dropout": 0.0}
    distiller = ptd.Distiller(student, loss, queries_per_batch=10, **settings)
    distiller.fit(ten, qrels if "label" in loss.columns() else None)
    history = [entry["loss"] for entry in distiller.history if "loss" in entry]
    assert history[-1] < history[0]


@pytest.mark.slow
def test_monot5_learns_its_teachers_logits(tiny_t5, ten):
    teacher = ptd.PointwiseTeacher(tiny_t5, **FP32)
    labelled = teacher(ten)
    labelled["teacher_logits"] = [cell * 3 for cell in labelled["teacher_logits"]]
    student = ptd.MonoT5(tiny_t5, **FP32)
    distiller = fitted(student, ptd.LogitMSE(), labelled, epochs=200)
    assert distiller.history[-2]["loss"] < 0.05 * distiller.history[0]["loss"]
    pairs = list(zip(labelled["query"], labelled["text"]))
    with torch.no_grad():
        logits = student.logits(student.features(pairs))
    loss = functional.logit_mse(logits, torch.tensor(np.stack(labelled["teacher_logits"])))
    assert float(loss) < 0.1


def test_a_saved_monot5_asks_as_it_was_trained(tiny_t5, ten, tmp_path):
    texts = "Passage: {document} Query: {query} Relevant:"
    template = ptd.Template((("user", texts),), answers=("no", "yes"))
    for n, prompt in enumerate((texts, template)):
        student = ptd.MonoT5(tiny_t5, prompt=prompt, answers=("no", "yes"), max_length=24, **FP32)
        again = student.save(tmp_path / str(n))
        again.precision = "fp32"
        assert np.ptp(student(ten)["score"]) > 0
        pd.testing.assert_frame_equal(again(ten), student(ten), atol=1e-6)
        other = ptd.MonoT5(tmp_path / str(n), prompt="monot5", **FP32)
        assert not np.allclose(other(ten)["score"], student(ten)["score"], atol=1e-4)


CHAT_ROLES_ONLY = (
    "{% for m in messages %}{% if m.role == 'user' %}<|user|>{{ m.content }}{% elif m.role == 'assistant' %}"
    "<|assistant|>{{ m.content }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("template", [None, CHAT_ROLES_ONLY, "{{ raise_exception('user and assistant only') }}"])
def test_decoders_whose_chat_template_knows_no_pair_read_two_named_texts(template, tiny_llm, ten, tmp_path):
    from sentence_transformers import CrossEncoder
    from transformers import AutoTokenizer

    shutil.copytree(tiny_llm, tmp_path / "llm")
    (tmp_path / "llm" / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "llm")
    tokenizer.chat_template = template
    tokenizer.save_pretrained(tmp_path / "llm")
    for n, lora in enumerate((None, {"r": 2})):
        student = ptd.CrossEncoder(tmp_path / "llm", lora=lora, **FP32)
        ids = student.features([("red dog", "green tree")])["input_ids"][0]
        assert "query: red dog document: green tree" in student.tokenizer.decode(ids)
        fitted(student, ptd.RankNet(), ten, epochs=2)
        again = student.save(tmp_path / f"saved-{n}")
        again.precision = "fp32"
        pd.testing.assert_frame_equal(again(ten), student(ten), atol=1e-5)
        student.save(tmp_path / f"whole-{n}", merge=True)
        model = CrossEncoder(str(tmp_path / f"whole-{n}"), device="cpu")
        pairs = list(zip(ten["query"], ten["text"]))
        np.testing.assert_allclose(model.predict(pairs, show_progress_bar=False), student(ten)["score"], atol=1e-5)


def test_cut_to_layers(tiny, tiny_llm, ten, tmp_path):
    for name in (tiny, tiny_llm):
        whole, cut = ptd.CrossEncoder(name, **FP32), ptd.CrossEncoder(name, layers=[0], **FP32)
        assert cut.num_parameters() < whole.num_parameters()
        again = cut.save(tmp_path / str(len(name)) / "cut")
        pd.testing.assert_frame_equal(again(ten), cut(ten), atol=1e-6)


def test_an_interrupted_training_goes_on(make, ten, tmp_path, monkeypatch):
    """Also that of a T5, whose word embeddings have four names."""
    from pyterrier_distill.training.trainer import Trainer

    settings = {"epochs": 6, "queries_per_batch": 5, "save_every": 3}
    undisturbed = make()
    fitted(undisturbed, ptd.RankNet(), ten, **settings)
    step, done = Trainer.training_step, []

    def failing(self, *args, **kwargs):
        done.append(1)
        if len(done) == 8:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "training_step", failing)
    with pytest.raises(KeyboardInterrupt):
        fitted(make(), ptd.RankNet(), ten, checkpoints=tmp_path / "c", **settings)
    monkeypatch.undo()
    for _ in range(2):  # goes on; then finds that it has finished
        student = make()
        fitted(student, ptd.RankNet(), ten, checkpoints=tmp_path / "c", **settings)
        for (name, a), (_, b) in zip(undisturbed.model.named_parameters(), student.model.named_parameters()):
            assert torch.equal(a, b), name


def test_heads_start_the_same_and_other_students_are_other(tiny, ten):
    one, two = ptd.CrossEncoder(tiny, **FP32), ptd.CrossEncoder(tiny, **FP32)
    pd.testing.assert_frame_equal(one(ten), two(ten))
    assert one == two and hash(one) == hash(two)
    fitted(two, ptd.RankNet(), ten, epochs=1)
    assert one != two and "trained" in repr(two)


def test_gradient_checkpointing_changes_no_weight(make, ten):
    weights = []
    for checkpointing in (False, True):
        student = make()
        fitted(student, ptd.RankNet(), ten, epochs=2, args={"gradient_checkpointing": checkpointing})
        weights.append(student(ten)["score"].to_numpy())
    np.testing.assert_allclose(weights[0], weights[1], atol=1e-4)


def test_in_a_pipeline_and_an_experiment(tiny, ten):
    student = ptd.CrossEncoder(tiny, **FP32)
    candidates = pt.Transformer.from_df(ten)
    distiller = ptd.Distiller(student, ptd.RankNet(), precision="fp32", verbose=False)
    topics = ten[["qid", "query"]].drop_duplicates()
    qrels = ten.assign(label=2 - ten["teacher_rank"])[["qid", "docno", "label"]]
    (candidates >> distiller).fit(topics, None)
    table = pt.Experiment(
        [candidates, candidates >> student], topics, qrels, [nDCG @ 10], validate="error", plan="tree"
    )
    assert len(table) == 2
    assert "CrossEncoder" in str(pt.schematic.draw(candidates >> student)) and len("CrossEncoder") <= 20


def test_mistakes(tiny, tiny_cross2, tiny_llm, ten, tmp_path):
    with pytest.raises(ValueError, match="has 2 outputs"):
        ptd.CrossEncoder(tiny_cross2, **FP32)(ten)
    with pytest.raises(FileNotFoundError):
        ptd.CrossEncoder("./nowhere")
    with pytest.raises(pt.validate.InputValidationError):
        ptd.CrossEncoder(tiny, **FP32)(ten.drop(columns=["text"]))
    with pytest.raises(ValueError, match="{document}"):
        ptd.MonoT5(tiny, prompt="Query: {query}")
    with pytest.raises(ptd.MissingLabelError, match="'text'"):
        ptd.Distiller(ptd.CrossEncoder(tiny, **FP32), ptd.RankNet(), verbose=False).fit(ten.drop(columns=["text"]))
    with pytest.raises(ValueError, match="needs logits"):
        ptd.Distiller(ptd.CrossEncoder(tiny), ptd.LogitMSE())
