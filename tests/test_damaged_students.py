"""A model, store or index of which a file is lost or damaged is told, never taken for another."""

import json
import shutil

import pandas as pd
import pyterrier as pt
import pytest
import transformers

import pyterrier_distill as ptd
from pyterrier_distill.stores import seals

FP32 = {"precision": "fp32", "device": "cpu"}
STUDENTS = {
    "BiEncoder": lambda m: ptd.BiEncoder(m["tiny"], **FP32),
    "LateInteraction": lambda m: ptd.LateInteraction(m["tiny"], **FP32),
    "USTAD": lambda m: ptd.USTAD(m["tiny"], mode="late", modes=["late"], query_length=16, **FP32),
    "CrossEncoder": lambda m: ptd.CrossEncoder(m["tiny"], **FP32),
    "MonoT5": lambda m: ptd.MonoT5(m["tiny_t5"], **FP32),
    "CausalReranker": lambda m: ptd.CausalReranker(m["tiny_llm"], **FP32),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tiny, tiny_t5, tiny_llm):
    """Each student, saved."""
    folder = tmp_path_factory.mktemp("saved")
    for name, make in STUDENTS.items():
        make({"tiny": tiny, "tiny_t5": tiny_t5, "tiny_llm": tiny_llm}).save(folder / name)
    return folder


def flip(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


HARMS = {"removed": None, "emptied": lambda content: b"{}", "a bit": flip}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("kind", STUDENTS)
def test_no_file_may_be_lost_or_changed(kind, harm, saved, results):
    folder = saved / kind
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name not in ("README.md", seals.META)]
    assert len(files) >= 3
    for file in files:
        before = file.read_bytes()
        if harm == "emptied" and (file.suffix != ".json" or before.strip() == b"{}"):
            continue
        file.unlink() if harm == "removed" else file.write_bytes(HARMS[harm](before))
        try:
            with pytest.raises((ValueError, OSError), match=f"{file.name}|holds no|{kind}"):
                getattr(ptd, kind)(str(folder), **FP32)(results)
        finally:
            file.write_bytes(before)
    assert len(getattr(ptd, kind)(str(folder), **FP32)(results)) == len(results)


def test_what_is_wrong_and_what_to_do_is_said(saved, results):
    file = saved / "LateInteraction" / "modules.json"
    before = file.read_bytes()
    file.unlink()
    try:
        with pytest.raises(ValueError, match="modules.json is missing: restore it.*on purpose, take 'digests' out of"):
            ptd.LateInteraction(str(file.parent), **FP32)(results)
    finally:
        file.write_bytes(before)


def test_teachers_are_told_too(saved, results):
    file = saved / "CrossEncoder" / "tokenizer_config.json"
    before = file.read_bytes()
    file.write_bytes(flip(before).replace(b"\x00", b" "))
    try:
        with pytest.raises(ValueError, match="tokenizer_config.json"):
            ptd.PointwiseTeacher(str(file.parent), **FP32)(results)
    finally:
        file.write_bytes(before)


@pytest.mark.parametrize("lost", ["the file", "all", "type", "format", "mode", "query_length"])
def test_settings_may_not_be_lost(lost, saved):
    file = saved / "USTAD" / seals.META
    before = file.read_text()
    told = {} if lost == "all" else {name: value for name, value in json.loads(before).items() if name != lost}
    if lost == "type":
        told["type"] = 7
    file.unlink() if lost == "the file" else file.write_text(json.dumps(told))
    try:
        with pytest.raises(ValueError, match=f"{seals.META}.*damaged.*Restore it"):
            ptd.USTAD(str(file.parent), **FP32).mode  # noqa: B018
    finally:
        file.write_text(before)
    assert ptd.USTAD(str(file.parent), **FP32).mode == "late"


def test_what_was_changed_on_purpose_is_read(saved, tmp_path, results):
    student = ptd.CrossEncoder(str(saved / "CrossEncoder"), **FP32)
    student.save(tmp_path / "s")
    (tmp_path / "s" / "README.md").write_text("A card of my own.")
    (tmp_path / "s" / "notes.txt").write_text("And something beside it.")
    expected = student(results)
    assert len(pt.Artifact.load(str(tmp_path / "s"))(results)) == len(results)
    pd.testing.assert_frame_equal(ptd.CrossEncoder(str(tmp_path / "s"), **FP32)(results), expected, rtol=1e-5)
    config = tmp_path / "s" / "tokenizer_config.json"
    config.write_text(config.read_text() + "\n")
    with pytest.raises(ValueError, match="tokenizer_config.json is not what was saved"):
        ptd.CrossEncoder(str(tmp_path / "s"), **FP32)(results)
    told = json.loads((tmp_path / "s" / seals.META).read_text())
    del told[seals.DIGESTS]
    (tmp_path / "s" / seals.META).write_text(json.dumps(told))
    pd.testing.assert_frame_equal(ptd.CrossEncoder(str(tmp_path / "s"), **FP32)(results), expected, rtol=1e-5)


def test_large_files_are_read_in_blocks(tmp_path):
    large = tmp_path / "model.safetensors"
    with open(large, "wb") as file:
        file.truncate(1 << 29)
    (before,) = seals.digests(tmp_path)
    with open(large, "r+b") as file:
        file.seek(1 << 28)
        file.write(b"\1" * (1 << 18))
    (after,) = seals.digests(tmp_path)
    assert before != after and before.endswith(" model.safetensors")


NO_CONFIGURATION = {"null": "null", "a list": "[]", "a number": "7", "nested": "[" * 100_000, "nothing": "{}"}
NO_CONFIGURATION |= {"wrong types": '{"model_type": [], "hidden_size": {}}'}


@pytest.mark.parametrize("content", NO_CONFIGURATION)
@pytest.mark.parametrize("kind", ["PointwiseTeacher", "BiEncoder", "ListwiseLLMTeacher"])
def test_a_damaged_configuration_is_told_with_its_place(kind, content, tiny, tiny_cross, tiny_llm, results, tmp_path):
    source = {"PointwiseTeacher": tiny_cross, "BiEncoder": tiny, "ListwiseLLMTeacher": tiny_llm}[kind]
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "modules.json"):
        path = tmp_path / f"checkpoint-{name}"
        shutil.copytree(source, path)
        if not (path / name).is_file():
            continue
        (path / name).write_text(NO_CONFIGURATION[content])
        try:
            getattr(ptd, kind)(str(path), **FP32)(results)
        except (ValueError, OSError, ptd.LabellingError) as error:
            assert path.name in str(error)


def test_a_damaged_chat_template_is_told(tiny_llm, results, tmp_path):
    path = tmp_path / "llm"
    shutil.copytree(tiny_llm, path)
    (path / "chat_template.jinja").write_text("{% for m in messages %}{{ m[")
    with pytest.raises(ValueError, match=r"chat template of '.*llm' is damaged.*restore chat_template.jinja"):
        ptd.ListwiseLLMTeacher(str(path), **FP32)(results)


@pytest.mark.parametrize("kind", ["PointwiseTeacher", "BiEncoder", "ListwiseLLMTeacher"])
def test_a_tokenizer_of_another_model_is_told(kind, tiny, tiny_cross, tiny_llm, results, tmp_path):
    source = {"PointwiseTeacher": tiny_cross, "BiEncoder": tiny, "ListwiseLLMTeacher": tiny_llm}[kind]
    path = tmp_path / "mixed"
    shutil.copytree(source, path)
    for file in path.rglob("tokenizer.json"):
        told = json.loads(file.read_text())
        told["model"]["vocab"]["zebra"] = 70_000
        file.write_text(json.dumps(told))
    with pytest.raises(ValueError, match=r"tokenizer of '.*mixed' has tokens, such as 'zebra'.*Restore its tokenizer"):
        getattr(ptd, kind)(str(path), **FP32)(results)


def test_special_tokens_that_nothing_holds_need_no_vector(tiny_cross, results, tmp_path):
    path = tmp_path / "added"
    shutil.copytree(tiny_cross, path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(path))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|extra|>"]})
    tokenizer.save_pretrained(str(path))
    expected = ptd.PointwiseTeacher(tiny_cross, **FP32)(results)
    pd.testing.assert_frame_equal(ptd.PointwiseTeacher(str(path), **FP32)(results), expected)


def test_stores_and_indexes_name_the_file_that_is_damaged(documents, tmp_path):
    store = ptd.QueryStore(tmp_path / "q")
    store.cache(ptd.SpanQueries(n=2))(documents)
    (tmp_path / "q" / "manifest.json").write_text('{"type": 7, "format": []}')
    with pytest.raises(ValueError, match=r"manifest.json says no 'generator'.*Restore it"):
        ptd.QueryStore(tmp_path / "q").cache(ptd.SpanQueries(n=2))(documents)
    pytest.importorskip("bm25s")
    ptd.bm25(tmp_path / "b", documents.to_dict("records"), engine="bm25s")
    (tmp_path / "b" / "pt_bm25s.json").write_text("{}")
    with pytest.raises(ValueError, match="pt_bm25s.json is damaged.*Index again"):
        ptd.bm25(tmp_path / "b", engine="bm25s").search("red dog")
