"""Model cards and publishing: the hub can read them, people learn how a student came to be, nobody learns a secret."""

import json
import re
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pandas as pd
import pytest
from huggingface_hub import ModelCard, RepoUrl

import pyterrier_distill as ptd
from pyterrier_distill.students.card import publishable, started_from

FP32 = {"precision": "fp32", "device": "cpu"}
TOKEN = "hf_abcdefghijklmnopqrstuvwxyz012345"
KINDS = {
    "CrossEncoder": ("tiny_cross", ptd.RankNet(label="teacher_score"), "text-ranking", "sentence-transformers"),
    "MonoT5": ("tiny_t5", ptd.RankNet(label="teacher_score"), "text-ranking", "transformers"),
    "CausalReranker": ("tiny_llm", ptd.RankNet(label="teacher_score"), "text-ranking", "transformers"),
    "BiEncoder": ("tiny", ptd.KLDivergence(), "sentence-similarity", "sentence-transformers"),
}


@pytest.fixture(params=KINDS)
def kind(request):
    """Class, checkpoint, loss, and what the front matter shall say."""
    fixture, *rest = KINDS[request.param]
    return getattr(ptd, request.param), request.getfixturevalue(fixture), *rest


def fitted(student, loss, frame, *args, **settings):
    defaults = {"precision": "fp32", "verbose": False, "learning_rate": 1e-3, "steps": 2}
    ptd.Distiller(student, loss, **{**defaults, **settings}).fit(frame, *args)
    return student


class Hub:
    """Stands in for HfApi: keeps a copy of what is uploaded."""

    def __init__(self, monkeypatch, folder):
        self.folder = folder
        self.calls = []
        hub = self

        class Api:
            def __init__(self, token=None):
                hub.calls.append(("token", token))

            def create_repo(self, repo_id, **kwargs):
                hub.calls.append(("create", repo_id, kwargs))
                full = repo_id if "/" in repo_id else f"me/{repo_id}"
                return RepoUrl(f"https://huggingface.co/{full}")

            def upload_folder(self, *, repo_id, folder_path, **kwargs):
                hub.calls.append(("upload", repo_id, kwargs))
                shutil.copytree(folder_path, folder)

        monkeypatch.setattr(huggingface_hub, "HfApi", Api)


def texts_of(folder):
    return {p: p.read_text(encoding="utf-8") for p in Path(folder).rglob("*") if p.suffix in (".json", ".md", ".txt")}


# -- cards ------------------------------------------------------------------------------------------------------------


def test_the_card_tells_every_setting_that_a_training_records(tiny, results, tmp_path):
    student = ptd.BiEncoder(tiny, **FP32)
    fitted(student, ptd.KLDivergence(), results, weight_decay=0.3, max_grad_norm=7.0)
    student.save(tmp_path / "student")
    text = (tmp_path / "student" / "README.md").read_text()
    settings = ptd.Distiller(student, ptd.MSE(), weight_decay=0.3, max_grad_norm=7.0, steps=2).settings()
    told = text.split("## Settings")[1]
    for name, value in settings.items():
        if name not in ("student", "loss", "epochs", "metric") and value != "None":  # metric: of a validation
            assert f"{name} | " in told or f"{name}:" in told or f"`{name}`" in told, name


def test_a_trained_students_card_says_how_it_came_to_be(kind, results, qrels, tmp_path):
    make, name, loss, tag, library = kind
    student = fitted(make(name, **FP32), loss, results, None, results, qrels, metric="RR@10", eval_every=1)
    about = {
        "teacher": "castorini/monot5-3b-msmarco", "data": "four queries about animals", "license": "apache-2.0",
        "language": "en", "datasets": ["irds/vaswani"], "measures": {"nDCG@10": np.float64(0.51234), "RR": 1},
        "contact": "a | b",
    }  # fmt: skip
    saved = student.save(tmp_path / "my student", about=about)
    card = ModelCard.load(tmp_path / "my student" / "README.md")
    assert (card.data.pipeline_tag, card.data.library_name) == (tag, library)
    assert {"pyterrier", "pyterrier-distill"} <= set(card.data.tags) and card.data.base_model is None
    assert (card.data.license, card.data.language, card.data.datasets) == ("apache-2.0", "en", ["irds/vaswani"])
    manifest = student.manifest
    for said in (
        f'ptd.{make.__name__}("my student")', repr(loss), manifest["data"], "4 queries, 18 documents",
        f"RR@10 = {manifest['best']['RR@10']:.4f}", "`teacher_score`", "castorini/monot5-3b-msmarco", "0.5123",
        "four queries about animals", "| learning_rate | 0.001 |", f"| torch | {manifest['versions']['torch']} |",
        f"Started from: directory {Path(name).name}", "contact: a \\| b",
    ):  # fmt: skip
        assert said.replace("`teacher_score`", f"`{loss.label}`") in card.text, said
    assert "not been trained" not in card.text
    assert str(Path(name).parent) not in card.content
    meta = json.loads((tmp_path / "my student" / "pt_meta.json").read_text())
    assert meta["about"]["measures"] == {"nDCG@10": 0.51234, "RR": 1.0}

    saved.save(tmp_path / "copy", about={"license": "mit"})  # what was said stays, unless it is said anew
    copy = ModelCard.load(tmp_path / "copy" / "README.md")
    assert copy.data.license == "mit" and "0.5123" in copy.text and f"directory {Path(name).name}" in copy.text
    saved.precision = "fp32"
    fitted(saved, loss, results).save(tmp_path / "further")  # but not the measures of weights that are gone
    further = ModelCard.load(tmp_path / "further" / "README.md")
    assert "0.5123" not in further.text and further.text.count(f"Loss: `{loss!r}`") == 2


def test_an_untrained_student_says_so(kind, tmp_path):
    make, name, _, tag, _ = kind
    make(name, **FP32).save(tmp_path / "s")
    card = ModelCard.load(tmp_path / "s" / "README.md")
    assert "has not been trained" in card.text and "## Settings" not in card.text and card.data.pipeline_tag == tag


def test_the_python_of_a_card_runs(tiny_cross, results, tmp_path, monkeypatch):
    ptd.CrossEncoder(tiny_cross, **FP32).save(tmp_path / "s")
    code = re.search(r"```python\n(.*?)```", (tmp_path / "s" / "README.md").read_text(), re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    import pyterrier as pt

    names = {
        "bm25": pt.Transformer.from_df(results),
        "dataset": type("D", (), {"text_loader": pt.Transformer.identity}),
    }
    exec(code, names)
    assert len(names["pipeline"](results[["qid", "query"]].drop_duplicates())) == len(results)
    elsewhere = re.search(r"Without PyTerrier: `(.*?)\((.*)\)`", (tmp_path / "s" / "README.md").read_text())
    from sentence_transformers import CrossEncoder

    assert elsewhere[1] == "sentence_transformers.CrossEncoder"
    assert CrossEncoder(json.loads(elsewhere[2])).predict([("red", "dog")], show_progress_bar=False).shape == (1,)


def test_what_opens_doors_is_left_out():
    told = publishable({"wandb_key": "abc", "api_key": "x", "key": "d5e4", "hub_token": "t", "n": "my_key='s'"})
    assert told == {n: "(left out)" for n in ("wandb_key", "api_key", "hub_token")} | {"key": "d5e4", "n": told["n"]}
    assert "'s'" not in told["n"]


def test_a_store_tells_its_teacher(tiny_cross, results, tmp_path):
    teacher = ptd.PointwiseTeacher(tiny_cross, **FP32)
    import pyterrier as pt

    pipeline = pt.Transformer.from_df(results.drop(columns="teacher_score")) >> teacher
    topics = results[["qid", "query"]].drop_duplicates()
    store = ptd.LabelStore(tmp_path / "labels").build(pipeline, topics, with_text=True, verbose=False)
    student = fitted(ptd.CrossEncoder(tiny_cross, **FP32), ptd.RankNet(), store)
    assert student.manifest["labels"]["key"] == store.manifest["key"]
    student.save(tmp_path / "s")
    text = (tmp_path / "s" / "README.md").read_text()
    assert "PointwiseTeacher" in text and store.manifest["key"] in text and str(Path(tiny_cross).parent) not in text


def test_hub_names_are_the_base_and_local_ones_are_not(tiny, tmp_path, monkeypatch):
    assert started_from(ptd.CrossEncoder("owner/some-model")) == ["owner/some-model"]
    assert started_from(ptd.MonoT5("t5-small")) == ["t5-small"]
    teacher = ptd.BiEncoder("owner/teacher")
    student = ptd.BiEncoder(ptd.BiEncoder.truncated("owner/start", 2), doc_encoder=teacher, freeze_docs=True)
    assert started_from(student) == ["owner/start", "owner/teacher"]
    one = ptd.CrossEncoder(tiny, **FP32)
    model = one.model  # as if it came from the hub
    one.name_or_path = "owner/some-model"
    assert one.model is model
    one.save(tmp_path / "s").save(tmp_path / "again")
    for name in ("s", "again"):
        assert ModelCard.load(tmp_path / name / "README.md").data.base_model == "owner/some-model"
    assert started_from(ptd.CrossEncoder(tmp_path / "again")) == ["owner/some-model"]
    student = ptd.BiEncoder(tiny, **FP32)
    assert started_from(ptd.BiEncoder(student.save(tmp_path / "b"))) == [f"directory {Path(tiny).name}"]


def test_what_is_published_names_no_place_and_no_secret():
    said = {
        "student": "CrossEncoder('/home/me/my models/base', max_length=3)",
        "args": f"{{'hub_token': '{TOKEN}', 'b': 1}}",
        "log": f"read /data/x/run.gz, ~/y/z.gz; ../up/k; C:\\Users\\me\\m and {TOKEN}", "api_key": "abc",
        "kept": ["nDCG@10", "https://example.org/a/b", "me/model", "1/2", "a / b", 3, None],
    }  # fmt: skip
    told = publishable(said)
    assert told["student"] == "CrossEncoder('base', max_length=3)"
    assert told["args"] == "{'hub_token': (left out), 'b': 1}" and told["api_key"] == "(left out)"
    assert told["log"] == "read run.gz, z.gz; k; m and (left out)"
    assert told["kept"] == said["kept"]


def test_secrets_of_training_arguments_are_not_on_the_card(tiny_cross, results, tmp_path):
    student = ptd.CrossEncoder(tiny_cross, **FP32)
    fitted(student, ptd.RankNet(), results, args={"hub_token": TOKEN, "logging_steps": 1})
    student.save(tmp_path / "s")
    text = (tmp_path / "s" / "README.md").read_text()
    assert TOKEN not in text and "logging_steps" in text


@pytest.mark.parametrize(
    "about, words",
    [
        (["teacher"], "about must be a dict"),
        ({1: "x"}, "about must be a dict"),
        ({"measures": 0.5}, "dict of names and numbers"),
        ({"measures": {"nDCG": float("nan")}}, "must be a finite number"),
        ({"license": ["mit"]}, "must be a text"),
        ({"language": 3}, "must be a text or a list"),
        ({"data": object()}, "plain texts"),
    ],
)
def test_abouts_that_no_card_can_show(about, words, tiny_cross, tmp_path):
    with pytest.raises((TypeError, ValueError), match=words):
        ptd.CrossEncoder(tiny_cross, **FP32).save(tmp_path / "s", about=about)
    assert not (tmp_path / "s").exists()


# -- publishing -------------------------------------------------------------------------------------------------------


def test_pushed_students_load_in_the_library_of_their_format(kind, results, tmp_path, monkeypatch):
    make, name, loss, _, _ = kind
    student = fitted(make(name, **FP32), loss, results)
    hub = Hub(monkeypatch, tmp_path / "hub")
    url = student.push_to_hub("ranker", private=True, token=TOKEN, about={"teacher": "T"}, commit_message="hello")
    assert url == "https://huggingface.co/me/ranker"
    told = dict((call[0], call[1:]) for call in hub.calls)
    assert told["token"] == (TOKEN,)
    assert told["create"] == ("ranker", {"private": True, "repo_type": "model", "exist_ok": True})
    assert told["upload"] == ("me/ranker", {"repo_type": "model", "commit_message": "hello"})
    card = ModelCard.load(tmp_path / "hub" / "README.md")
    assert f'ptd.{make.__name__}("me/ranker")' in card.text and "Teacher: T" in card.text
    for path, text in texts_of(tmp_path / "hub").items():
        assert TOKEN not in text and str(Path(name).parent) not in text and str(tmp_path) not in text, path
    assert TOKEN not in repr(student) + json.dumps(student.manifest, default=repr)

    copy = tmp_path / "hub"
    expected = student(results)["score"].to_numpy()
    pairs = list(zip(results["query"], results["text"]))
    np.testing.assert_allclose(make(copy, **FP32)(results)["score"], expected, atol=1e-5)
    if make is ptd.CrossEncoder:
        from sentence_transformers import CrossEncoder

        scores = CrossEncoder(str(copy), device="cpu").predict(pairs, show_progress_bar=False)
    elif make is ptd.BiEncoder:
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(copy), device="cpu")
        scores = [float(a @ b) for a, b in zip(*(model.encode(list(part)) for part in zip(*pairs)))]
    elif make is ptd.CausalReranker:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model, tokenizer = AutoModelForCausalLM.from_pretrained(copy), AutoTokenizer.from_pretrained(copy)
        words = [tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("No", "Yes")]
        asked = "Is the document relevant to the query (Yes or No)?\nQuery: {}\nDocument: {}"
        scores = []
        for pair in pairs:
            said = [{"role": "user", "content": asked.format(*pair)}]
            text = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
            ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)
            with torch.no_grad():
                scores.append(float(model(**ids).logits[0, -1, words].log_softmax(-1)[1]))
    else:
        import torch
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(copy), AutoTokenizer.from_pretrained(copy)
        words = [tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("false", "true")]
        scores = []
        for query, text in pairs:
            ids = tokenizer(f"Query: {query} Document: {text} Relevant:", return_tensors="pt")
            with torch.no_grad():
                logits = model(**ids, decoder_input_ids=torch.tensor([[0]])).logits[0, 0, words]
            scores.append(float(logits.log_softmax(-1)[1]))
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_adapters_are_published_whole_or_for_a_base_that_others_have(tiny_llm, results, tmp_path, monkeypatch):
    pytest.importorskip("peft")
    student = fitted(ptd.CrossEncoder(tiny_llm, lora={"r": 4}, **FP32), ptd.RankNet(), results)
    expected = student(results)["score"].to_numpy()
    hub = Hub(monkeypatch, tmp_path / "hub")
    with pytest.raises(ValueError, match="merge=True"):
        student.push_to_hub("me/ranker")
    assert hub.calls == []
    student.push_to_hub("me/ranker", merge=True)
    np.testing.assert_allclose(ptd.CrossEncoder(tmp_path / "hub", **FP32)(results)["score"], expected, atol=1e-5)

    shutil.rmtree(tmp_path / "hub")
    student.name_or_path = "owner/base"  # as if it came from the hub
    del student.__dict__["_adapted"]
    student.push_to_hub("me/ranker")
    config = json.loads((tmp_path / "hub" / "adapter_config.json").read_text())
    card = ModelCard.load(tmp_path / "hub" / "README.md")
    assert config["base_model_name_or_path"] == card.data.base_model == "owner/base"
    assert card.data.library_name == "peft" and "lora" in card.data.tags
    (tmp_path / "hub" / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": tiny_llm}))
    np.testing.assert_allclose(ptd.CrossEncoder(tmp_path / "hub", **FP32)(results)["score"], expected, atol=1e-5)


def test_refusals_do_not_tell_the_token(tiny_cross, tmp_path, monkeypatch):
    class Api:
        def __init__(self, token=None):
            self.token = token

        def create_repo(self, *args, **kwargs):
            raise OSError(f"401 for Bearer {self.token}")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    student = ptd.CrossEncoder(tiny_cross, **FP32)
    with pytest.raises(RuntimeError, match="the hub did not take 'me/ranker': OSError: 401") as caught:
        student.push_to_hub("me/ranker", token="not-the-usual-shape")
    told = caught.value
    assert "not-the-usual-shape" not in str(told) and told.__suppress_context__
    with pytest.raises(ValueError, match="Repo id must"):
        student.push_to_hub("not a name!")


def test_a_saved_student_is_scored_alike_after_all_this(kind, results, tmp_path):
    make, name, loss, *_ = kind
    student = fitted(make(name, **FP32), loss, results)
    again = student.save(tmp_path / "s", about={"teacher": "T"})
    again.precision = "fp32"
    pd.testing.assert_frame_equal(again(results), student(results), atol=1e-6)
