"""Students found again by their names on the hub: a cache of it on disk is all that loading sees of it."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

SCRIPT = """
    import json, pathlib, shutil, sys
    import huggingface_hub, pandas as pd
    import pyterrier_distill as ptd
    from huggingface_hub.constants import HF_HUB_CACHE

    frame, bert, t5, llm = pd.read_pickle(sys.argv[1]), *sys.argv[2:]
    FP32 = {"precision": "fp32", "device": "cpu"}

    class Api(huggingface_hub.HfApi):
        def create_repo(self, repo_id, **kwargs): return huggingface_hub.RepoUrl("https://huggingface.co/" + repo_id)
        def upload_folder(self, *, repo_id, folder_path, **kwargs):
            root = pathlib.Path(HF_HUB_CACHE) / ("models--" + repo_id.replace("/", "--"))
            revision = "0123456789abcdef0123456789abcdef01234567"
            (root / "refs").mkdir(parents=True)
            (root / "refs" / "main").write_text(revision)
            shutil.copytree(folder_path, root / "snapshots" / revision)
            if not (root / "snapshots" / revision / "config.json").exists():  # as a cache remembers of an adapter
                (root / ".no_exist" / revision).mkdir(parents=True)
                (root / ".no_exist" / revision / "config.json").touch()

    huggingface_hub.HfApi = Api

    def fitted(student):
        loss = ptd.RankNet(label="teacher_score")
        ptd.Distiller(student, loss, precision="fp32", verbose=False, learning_rate=1e-3, steps=2).fit(frame)
        return student

    ptd.CrossEncoder(llm, **FP32).push_to_hub("me/base")
    teacher = ptd.BiEncoder(bert, **FP32)
    students = {
        "mono": fitted(ptd.MonoT5(t5, prompt="Is {document} on {query}? ", max_length=24, **FP32)),
        "ustad": fitted(ptd.USTAD(bert, mode="late", modes=("dual", "late"), query_length=12, scale=0.1, **FP32)),
        "adapter": fitted(ptd.CrossEncoder("me/base", lora=dict(r=2), max_length=10, **FP32)),
        "bi": ptd.BiEncoder(bert, layers=2, doc_encoder=teacher, freeze_docs=True, **FP32),
        "apart": fitted(ptd.BiEncoder(bert, layers=2, doc_encoder=ptd.USTAD(bert, query_length=12, **FP32), **FP32)),
        "retriever": fitted(ptd.BiEncoder("me/base", pooling="lasttoken", append_eos=True, lora=dict(r=2), **FP32)),
    }
    told = {}
    for name, student in students.items():
        student.push_to_hub("me/" + name)
        again = type(student)("me/" + name, **FP32)
        told[name] = {
            "difference": float((again(frame)["score"] - student(frame)["score"]).abs().max()),
            "manifest": sorted(again.manifest),
            "freeze_docs": getattr(again, "freeze_docs", None),
        }
    print(json.dumps(told))
"""


@pytest.fixture
def told(tmp_path, results, tiny, tiny_t5, tiny_llm):
    (tmp_path / "hub.py").write_text(textwrap.dedent(SCRIPT))
    results.to_pickle(tmp_path / "frame")
    command = [sys.executable, "hub.py", "frame", tiny, tiny_t5, tiny_llm]
    env = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


def test_students_loaded_by_name_are_those_that_were_pushed(told):
    assert set(told) == {"mono", "ustad", "adapter", "bi", "apart", "retriever"}
    for name, one in told.items():
        assert one["difference"] < 1e-5, name
        assert bool(one["manifest"]) == (name != "bi")
    assert told["bi"]["freeze_docs"] is True and told["apart"]["freeze_docs"] is True
