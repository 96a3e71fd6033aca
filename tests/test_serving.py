"""Students exported to ONNX and OpenVINO: they rank as they did, are artifacts like others, and are not trained on."""

import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest

import pyterrier_distill as ptd
from pyterrier_distill.engine import runtimes

FP32 = {"precision": "fp32", "device": "cpu"}
QUERIES = [f"red dog {'and a blue house ' * (n % 7)} {n}" for n in range(60)]
PAIRS = [(query, f"a green bird in the tree {query} " * (1 + n % 3)) for n, query in enumerate(QUERIES)]
FORMATS = ["onnx", "openvino"]


@pytest.mark.parametrize("format", FORMATS)
def test_an_exported_encoder_gives_the_vectors_that_it_gave(tiny, tmp_path, format):
    student = ptd.BiEncoder(tiny, **FP32)
    served = student.export(format, tmp_path / "served")
    known = student.encode_queries(QUERIES)
    for found in (served, pt.Artifact.load(tmp_path / "served"), pickle.loads(pickle.dumps(served))):
        assert np.abs(found.encode_queries(QUERIES) - known).max() < 1e-5
        assert np.abs(found.encode_docs(QUERIES) - student.encode_docs(QUERIES)).max() < 1e-5
    assert served.served["format"] == format and served.served["quantize"] is None and student.served is None
    assert served != student and served.fingerprint() != student.fingerprint()


@pytest.mark.parametrize("format", FORMATS)
def test_an_exported_cross_encoder_ranks_as_it_did(tiny_cross, tmp_path, format):
    student = ptd.CrossEncoder(tiny_cross, **FP32)
    served = student.export(format, tmp_path / "served", texts=PAIRS[:8])
    assert np.abs(served.scores(PAIRS) - student.scores(PAIRS)).max() < 1e-5
    frame = pd.DataFrame({"qid": "1", "query": "red dog", "docno": ["a", "b", "c"], "text": QUERIES[:3], "score": 0.0})
    assert served(frame).sort_values("rank")["docno"].tolist() == student(frame).sort_values("rank")["docno"].tolist()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.slow
def test_int8_is_near_and_says_what_it_is(tiny, tmp_path, format):
    student = ptd.BiEncoder(tiny, **FP32)
    plain = student.export(format, tmp_path / "plain")
    served = student.export(format, tmp_path / "int8", quantize="int8", texts=QUERIES)
    known, found = student.encode_queries(QUERIES), served.encode_queries(QUERIES)
    likeness = (known * found).sum(axis=1) / np.linalg.norm(known, axis=1) / np.linalg.norm(found, axis=1)
    assert likeness.min() > 0.95 and not np.array_equal(known, found)
    assert served.fingerprint() not in (student.fingerprint(), plain.fingerprint())
    sizes = [sum(f.stat().st_size for f in (tmp_path / d / format).iterdir()) for d in ("int8", "plain")]
    assert sizes[0] < sizes[1] and json.loads((tmp_path / "int8" / "pt_meta.json").read_text())["runtime"]


def test_only_what_encodes_queries_of_an_asymmetric_student_is_exported(tiny, tmp_path):
    teacher = ptd.BiEncoder(tiny, **FP32)
    student = ptd.BiEncoder(ptd.BiEncoder.truncated(tiny, 2, **FP32), doc_encoder=teacher, freeze_docs=True, **FP32)
    served = student.export("onnx", tmp_path / "served")
    assert np.abs(served.encode_queries(QUERIES) - student.encode_queries(QUERIES)).max() < 1e-5
    assert np.array_equal(served.encode_docs(QUERIES), student.encode_docs(QUERIES))


def test_an_exported_student_is_not_trained(tiny, tmp_path):
    served = ptd.BiEncoder(tiny, **FP32).export("onnx", tmp_path / "served")
    frame = pd.DataFrame({"qid": ["1", "2"], "query": ["red", "blue"], "query_vec": [np.ones(32, np.float32)] * 2})
    with pytest.raises(ValueError, match="was exported for serving"):
        ptd.Distiller(served, ptd.EmbeddingMatch(), verbose=False).fit(frame)
    with pytest.raises(ValueError, match="exported already"):
        served.export("onnx", tmp_path / "again")


def test_what_cannot_be_exported_is_told(tiny, tmp_path, monkeypatch):
    student = ptd.BiEncoder(tiny, **FP32)
    with pytest.raises(ValueError, match="'onnx' or 'openvino'"):
        student.export("torchscript", tmp_path / "a")
    with pytest.raises(ValueError, match="None or 'int8'"):
        student.export("onnx", tmp_path / "a", quantize="int4")
    with pytest.raises(ValueError, match="needs texts=, at least 50"):
        student.export("openvino", tmp_path / "a", quantize="int8", texts=QUERIES[:49])
    monkeypatch.setattr(runtimes, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r'onnxruntime.*pip install "pyterrier-distill\[onnx\]"'):
        student.export("onnx", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_an_export_that_computes_something_else_is_refused(tiny, tmp_path, monkeypatch):
    student = ptd.BiEncoder(tiny, **FP32)
    whole = runtimes.served

    def off(told):
        forward = whole(told)
        return lambda **features: type(found := forward(**features))(last_hidden_state=found[0] * 1.01)

    monkeypatch.setattr(runtimes, "served", off)
    with pytest.raises(ValueError, match="computes something else"):
        student.export("onnx", tmp_path / "a")
    assert not Path(tmp_path / "a").exists()


def test_a_damaged_export_is_told(tiny, tmp_path):
    served = ptd.BiEncoder(tiny, **FP32).export("onnx", tmp_path / "served")
    (tmp_path / "served" / "onnx" / "model.onnx").unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=r"model\.onnx is (missing|not there)"):
        served.encode_queries(["red"])


def test_an_exported_student_is_what_it_was_exported_as(tiny, tmp_path):
    """Whole: what would cut it, save it without its runtime or ask its layers is refused."""
    student = ptd.BiEncoder(tiny, **FP32)
    served = student.export("onnx", tmp_path / "served")
    for settings in ({"layers": 2}, {"lora": {"r": 2}}):
        with pytest.raises(ValueError, match="was exported whole"):
            ptd.BiEncoder(tmp_path / "served", **settings, **FP32).encode_queries(["red"])
    with pytest.raises(ValueError, match="make a student of the one that it was made of"):
        ptd.BiEncoder.truncated(served, 2)
    with pytest.raises(ValueError, match="or copy the directory"):
        served.save(tmp_path / "again")
    assert not (tmp_path / "again").exists()
    with pytest.raises(ValueError, match="gives no states"):
        served.encode_query_states(["red"], [1])
    served.model.prompts["query"] = "query: "
    again = pickle.loads(pickle.dumps(served))
    assert np.array_equal(again.encode_queries(["red"]), served.encode_queries(["red"]))


def test_few_texts_are_enough_to_compare_and_none_are_told(tiny, tmp_path):
    student = ptd.BiEncoder(tiny, **FP32)
    assert student.export("onnx", tmp_path / "one", texts=["red dog"]).served is not None
    with pytest.raises(ValueError, match="texts is empty"):
        student.export("onnx", tmp_path / "none", texts=[])
