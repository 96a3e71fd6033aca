"""Two processes train as one that has the whole batch: the same loss at every step, the same weights."""

import json
import os
import socket
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest

import pyterrier_distill as ptd

SCRIPT = """
    import json, os, sys
    import numpy as np, pandas as pd
    import pyterrier_distill as ptd

    import torch

    jobs, data, out = sys.argv[1:]
    torch.set_num_threads(1)
    world = int(os.environ.get("WORLD_SIZE", 1))
    records = []
    for name, loss, kind, extra in json.load(open(jobs)):
        frame = pd.read_pickle(data)
        settings = {"precision": "fp32", "verbose": False, "dropout": 0.0, "learning_rate": 1e-3, "epochs": 3}
        settings.update(eval(extra))
        student = getattr(ptd, kind)(name, precision="fp32", device="cpu")
        qrels = frame.loc[frame["label"] > 0, ["qid", "docno", "label"]]
        validation, store = settings.pop("validation", False), settings.pop("store", None)
        proportions = settings.pop("proportions", None)
        queries = None  # twice as many without documents: of most batches one process has no other
        if settings.pop("queries", False):
            queries = pd.concat([frame.drop_duplicates("qid")[["qid", "query", "query_vec"]]] * 2)
            queries = queries.assign(qid=[f"a{n}" for n in range(34)], query=queries["query"] + " again")
        settings = {"queries_per_batch": 8 // world, "args": {"logging_steps": 1}, **settings}
        d = ptd.Distiller(student, eval(loss, vars(ptd)), **settings)
        labelled = frame.drop(columns="label") if store is None else ptd.LabelStore(store)
        if proportions is None:
            d.fit(labelled, qrels, *((frame, qrels) if validation else ()), queries=queries)
        else:  # the same ids in two collections
            d.fit([labelled, frame.drop(columns="label")], [qrels, qrels], proportions=proportions)
        records.append({
            "losses": [entry["loss"] for entry in d.history if "loss" in entry],
            "evaluations": [entry["eval_nDCG@10"] for entry in d.history if "eval_nDCG@10" in entry],
            "scores": student(frame)["score"].tolist(),
            "processes": student.manifest["processes"],
        })
    if int(os.environ.get("RANK", 0)) == world - 1:
        json.dump(records, open(out, "w"))
"""

#: Loss, student and settings of a training.
TRAININGS = [
    ("InfoNCE(temperature=0.1) + 0.5 * KLDivergence()", "BiEncoder", "{}"),
    ("RankNet() + PairwiseKL() + LocalizedContrastive()", "CrossEncoder", "{'gradient_cache': True}"),
    ("InfoNCE(temperature=4.0)", "LateInteraction", "{'gradient_cache': True}"),
    ("LocalizedContrastive() + ScoreMatch()", "USTAD", "{}"),
    ("KLDivergence() + LocalizedContrastive()", "CrossEncoder", "{'store': 'labels'}"),
    ("LogitMSE()", "MonoT5", "{}"),
    ("InfoNCE()", "BiEncoder", "{'sampler': ptd.ListSampler(3), 'validation': True, 'eval_every': 2}"),
    ("InfoNCE() + KLDivergence()", "BiEncoder", "{'store': 'labels', 'proportions': [1, 2], 'steps': 9}"),
    ("KLDivergence(in_batch=True) + InfoNCE(own_negatives=False)", "BiEncoder", "{}"),
    ("ListNet(in_batch=True)", "LateInteraction", "{}"),
    (
        "EmbeddingMatch() + KLDivergence() + InfoNCE()", "BiEncoder",
        "{'queries': True, 'queries_per_batch': 2 // world, 'steps': 9, 'learning_rate': 1e-4}",
    ),
]  # fmt: skip


@pytest.fixture
def frame(documents) -> pd.DataFrame:
    """Seventeen queries with two to six documents; the documents of one are relevant to another."""
    rng = np.random.default_rng(3)
    rows = []
    for n in range(17):  # two batches of eight, and one of one: a process is left without a list
        for rank, docno in enumerate(rng.choice(documents["docno"], size=rng.integers(2, 7), replace=False)):
            rows.append((f"q{n}", f"{'red green dog tree'.split()[n % 4]} {n}", docno, rank, float(rng.normal())))
    frame = pd.DataFrame(rows, columns=["qid", "query", "docno", "rank", "teacher_score"]).merge(documents, on="docno")
    frame = frame.sort_values(["qid", "rank"], ignore_index=True)
    frame["label"] = ((frame["rank"] == 0) & (frame["qid"] != "q5")).astype(int)
    others = {qid: rows["docno"].tolist() for qid, rows in frame.groupby("qid")}
    frame["teacher_prefs"] = [
        {other: float(rng.random()) for other in others[row.qid] if other > row.docno} for row in frame.itertuples()
    ]
    frame["teacher_logits"] = list(rng.normal(size=(len(frame), 2)).astype(np.float32))
    of = {text: rng.normal(size=32).astype(np.float32) for c in ("query", "docno") for text in sorted(set(frame[c]))}
    frame = frame.assign(query_vec=frame["query"].map(of), doc_vec=frame["docno"].map(of))
    return frame.assign(score=-frame["rank"].astype(float))


def trained(tmp_path, frame, jobs, processes):
    """What trainings, one after another in so many processes, recorded; a job is model, loss, student, settings."""
    script, data, out = tmp_path / "train.py", tmp_path / "data", tmp_path / f"{processes}.json"
    script.write_text(textwrap.dedent(SCRIPT))
    frame.to_pickle(data)
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    command = [sys.executable, str(script), str(tmp_path / "jobs.json"), str(data), str(out)]
    running = []
    for rank in range(processes):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), **shared} if processes > 1 else dict(os.environ)
        running.append(subprocess.Popen(command, env=own, stderr=subprocess.PIPE, text=True, cwd=tmp_path))
    errors = [process.communicate(timeout=600)[1] for process in running]
    assert all(process.returncode == 0 for process in running), errors[-1][-3000:]
    return json.loads(out.read_text())


@pytest.mark.slow
def test_two_processes_train_as_one(tiny, tiny_t5, frame, tmp_path, subtests):
    store, queries = ptd.LabelStore(tmp_path / "labels"), frame[["qid", "query"]].drop_duplicates()
    for n in range(0, 17, 5):  # several blocks
        part = queries.iloc[n : n + 5]
        rows = frame[frame["qid"].isin(part["qid"])]
        store.add(rows.drop(columns=["label", "teacher_logits", "query_vec", "doc_vec"]), part, with_text=True)
    jobs = [(tiny_t5 if kind == "MonoT5" else tiny, loss, kind, extra) for loss, kind, extra in TRAININGS]
    alone, together = trained(tmp_path, frame, jobs, 1), trained(tmp_path, frame, jobs, 2)
    assert len(alone) == len(together) == len(TRAININGS)
    for training, one, two in zip(TRAININGS, alone, together):
        with subtests.test(training=training):
            assert (one["processes"], two["processes"]) == (1, 2)
            assert len(one["losses"]) == 9 and len(set(one["losses"])) > 1
            np.testing.assert_allclose(two["losses"], one["losses"], atol=1e-4)
            np.testing.assert_allclose(two["evaluations"], one["evaluations"], atol=1e-6)
            scores = np.array([two["scores"], one["scores"]])  # up to a constant, which most losses leave to rounding
            np.testing.assert_allclose(*(scores - scores.mean(axis=1, keepdims=True)), atol=1e-3)


@pytest.mark.slow
def test_a_mistake_ends_both_processes(tiny, frame, tmp_path):
    extra = "{'validation': True, 'eval_every': 2, 'save_every': 3}"
    with pytest.raises(AssertionError, match="save_every=3 must be a multiple"):
        trained(tmp_path, frame, [(tiny, "InfoNCE()", "BiEncoder", extra)], 2)
