"""LabelStores that others made: packages, and what is damaged or malicious."""

import json
import os

import pandas as pd
import pyterrier as pt
import pytest
from labelling import Lister, Scorer, Shared, pipeline, topics

import pyterrier_distill as ptd
from pyterrier_distill.labels import shards

pytest.importorskip("pyarrow")


def planted(path, table):
    """A store into which somebody put a table as a shard of a right name."""
    store = ptd.LabelStore(path).build(pipeline(Scorer()), topics(2), verbose=False)
    content = shards.to_bytes(table)
    (path / "shards" / shards.name_of(content, 99)).write_bytes(content)
    return store


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"qid": ["x"], "query": ["q"]}, "its column 'docno' must be"),
        ({"qid": [1], "query": ["q"], "docno": [["d"]]}, "its column 'qid' must be string"),
        ({"qid": ["x"], "query": ["q"], "docno": [["d"]], "teacher_score": [[b"pickle"]]}, "'teacher_score' is list"),
        ({"qid": ["x"], "query": ["q"], "docno": [["d"]], "teacher_score": [b"pickle"]}, "'teacher_score' is binary"),
    ],
)
def test_foreign_tables_are_refused(path, columns, message):
    import pyarrow as pa

    planted(path, pa.table(columns))
    with pytest.raises(shards.DamagedShard, match=message):
        ptd.LabelStore(path).frame()
    assert (ptd.LabelStore(path).verify()["state"] == "ok").sum() == 1 and len(ptd.LabelStore(path)) == 2


def test_names_cannot_lead_elsewhere(path, tmp_path):
    store = ptd.LabelStore(path).build(pipeline(Scorer()), topics(2), verbose=False)
    outside = tmp_path / "outside.parquet"
    outside.write_bytes((path / "shards" / store.directory.names()[0]).read_bytes())
    os.symlink(outside, path / "shards" / ("0000000009-" + "a" * 32 + ".parquet"))
    (path / "shards" / "..evil.parquet").write_bytes(outside.read_bytes())
    assert len(ptd.LabelStore(path)) == 2 and len(ptd.LabelStore(path).directory.names()) == 1


def test_other_directories_are_left_alone(tmp_path):
    (tmp_path / "thing").mkdir()
    (tmp_path / "thing" / "file").write_text("x")
    with pytest.raises(ValueError, match="is not a label store"):
        ptd.LabelStore(tmp_path / "thing")
    (tmp_path / "thing" / "pt_meta.json").write_text(json.dumps({"type": "sparse_index", "format": "x"}))
    with pytest.raises(ValueError, match="'sparse_index'"):
        ptd.LabelStore(tmp_path / "thing")


def test_it_is_an_artifact(path):
    store = ptd.LabelStore(path).build(pipeline(Scorer()), topics(5), verbose=False)
    again = pt.Artifact.load(str(path))
    assert isinstance(again, ptd.LabelStore)
    pd.testing.assert_frame_equal(again.frame(), store.frame())
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["pipeline"]["stages"][1]["class"] == "labelling.Scorer" and manifest["versions"]["python"]


@pytest.mark.parametrize(
    "prefs, message",
    [
        ([{"i": 0, "j": 9, "p": 0.5}], "documents that it lacks"),
        ([{"i": -1, "j": 0, "p": 0.5}], "documents that it lacks"),
    ],
)
def test_preferences_about_nobody_are_refused(path, prefs, message):
    import pyarrow as pa

    kind = pa.list_(shards.preference())
    columns = {
        "qid": ["x"], "query": ["q"], "docno": [["d"]], "teacher_prefs": pa.array([prefs], kind),
        "teacher_prefs:outside": pa.array([[]], pa.list_(pa.string())),
    }  # fmt: skip
    planted(path, pa.table(columns))
    with pytest.raises(shards.DamagedShard, match=message):
        ptd.LabelStore(path).frame()


def test_more_labels_than_documents_are_refused(path):
    import pyarrow as pa

    planted(path, pa.table({"qid": ["x"], "query": ["q"], "docno": [["d"]], "teacher_score": [[1.0, 2.0]]}))
    with pytest.raises(shards.DamagedShard, match="other numbers of 'teacher_score'"):
        ptd.LabelStore(path).frame()


def served(package):
    """The artifact in a package, fetched over HTTP from this machine."""
    import functools
    import http.server
    import threading

    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=os.path.dirname(package))
    handler.func.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        artifact = pt.Artifact.from_url(f"http://127.0.0.1:{server.server_port}/{os.path.basename(package)}")
        server.shutdown()
    return artifact


def test_packages_travel(path, tmp_path, monkeypatch):
    """What to_hf and to_zenodo upload, and from_hf downloads."""
    monkeypatch.setattr(pt.io, "pyterrier_home", lambda: str(tmp_path / "home"))
    store = ptd.LabelStore(path).build((Shared() >> Lister()), topics(9), with_text=True, verbose=False)
    package = store.build_package(str(tmp_path / "labels.tar.lz4"), verbose=False)
    again = served(package)
    assert not (again.path / "claims").exists()
    assert isinstance(again, ptd.LabelStore) and again.path != store.path
    pd.testing.assert_frame_equal(again.frame(with_text=True), store.frame(with_text=True))
    assert again.manifest == store.manifest and (again.verify()["state"] == "ok").all()


def test_a_package_cannot_write_elsewhere(tmp_path, monkeypatch):
    import io
    import tarfile

    import lz4.frame

    monkeypatch.setattr(pt.io, "pyterrier_home", lambda: str(tmp_path / "home"))
    meta = json.dumps({"type": "label_store", "format": "parquet"}).encode()
    with lz4.frame.open(tmp_path / "evil.tar.lz4", "wb") as out, tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in (("../../../escaped", b"x"), ("/tmp/escaped-too", b"x"), ("pt_meta.json", meta)):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    store = served(tmp_path / "evil.tar.lz4")
    assert len(store) == 0 and not list(tmp_path.rglob("escaped*")) and not os.path.exists("/tmp/escaped-too")
