"""What a newcomer meets in the first hour: wrong names, datasets as arguments, stops, what objects look like."""

import html
import re
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from labelling import Scorer, pipeline, topics

import pyterrier_distill as ptd
from pyterrier_distill.engine import progress
from pyterrier_distill.training import shown


class Toy(pt.datasets.Dataset):
    """Three documents, two topics of one text each, two judgements."""

    def get_corpus_iter(self, verbose=True):
        yield from ({"docno": f"d{n}", "text": f"red dog number{n}"} for n in range(3))

    def get_topics(self, variant=None):
        return pd.DataFrame({"qid": ["q1", "q2"], "query": ["red dog", "number1"]})

    def get_qrels(self, variant=None):
        return pd.DataFrame({"qid": ["q1", "q2"], "docno": ["d0", "d1"], "label": [1, 1]})


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make, meant",
    [
        (lambda tiny: ptd.KLDivergance, "KLDivergence"),
        (lambda tiny: ptd.Bi_Encoder, "BiEncoder"),
        (lambda tiny: ptd.Distiller(ptd.BiEncoder(tiny), ptd.EmbeddingMatch(), lr=1e-4), "learning_rate="),
        (lambda tiny: ptd.Distiller(ptd.BiEncoder(tiny), ptd.EmbeddingMatch(), epoch=2), "epochs="),
        (lambda tiny: ptd.Distiller(ptd.BiEncoder(tiny), ptd.EmbeddingMatch(), batch_size=2), "queries_per_batch="),
        (lambda tiny: ptd.BiEncoder(tiny, maxlength=2), "max_length="),
        (lambda tiny: ptd.KLDivergence(temprature=2), "temperature="),
        (lambda tiny: ptd.PointwiseTeacher(tiny, promt="x"), "prompt="),
        (lambda tiny: ptd.ListwiseLLMTeacher(tiny, windows=3), "window_size="),
        (lambda tiny: ptd.SpanQueries(num=3), "it has n="),
        (lambda tiny: ptd.ListSampler(8, strateg="top"), "strategy="),
        (lambda tiny: ptd.mine_negatives(ptd.BiEncoder(tiny), deep=3), "depth="),
    ],
)
def test_a_wrong_name_leads_to_the_right_one(make, meant, tiny):
    with pytest.raises((AttributeError, TypeError), match=re.escape(meant)):
        make(tiny)


def test_tab_offers_what_is_public(tiny):
    offered = [name for name in dir(ptd) if not name.startswith("_")]
    assert set(offered) == {name for name in ptd.__all__ if not name.startswith("_")}
    student = ptd.BiEncoder(tiny)
    assert not {"mark_trained", "settle", "snapshot", "collate"} & set(dir(student))
    assert {"save", "encode_queries", "query_encoder", "num_parameters", "summary"} <= set(dir(student))


def test_signatures_are_those_of_constructors():
    import inspect

    for kind in (ptd.BiEncoder, ptd.PointwiseTeacher, ptd.Distiller, ptd.KLDivergence, ptd.ListSampler):
        assert "kwargs" not in inspect.signature(kind).parameters, kind
        assert list(inspect.signature(kind).parameters)[:1] == list(inspect.signature(kind.__init__).parameters)[1:2]


def test_layers_that_are_not_there_fail_when_built(minilm):
    teacher = ptd.BiEncoder(minilm)
    with pytest.raises(ValueError, match="12"):
        ptd.BiEncoder.truncated(teacher, 12)


# -- datasets ----------------------------------------------------------------------------------------------------------


def test_a_dataset_is_taken_wherever_its_parts_are(tmp_path, tiny):
    toy, documents = Toy(), pd.DataFrame(Toy().get_corpus_iter())
    found = ptd.bm25(tmp_path / "one", toy)(toy.get_topics())
    pd.testing.assert_frame_equal(ptd.bm25(tmp_path / "two", documents)(toy.get_topics()), found)
    spans = ptd.SpanQueries(2)
    pd.testing.assert_frame_equal(spans(toy), spans(documents))
    exploded = (spans >> ptd.explode_queries())(toy)
    assert len(pd.DataFrame(exploded)) == len((spans >> ptd.explode_queries())(documents))
    labelled = ptd.bm25(tmp_path / "one") >> pt.apply.text(lambda row: row["docno"])
    store = ptd.LabelStore(tmp_path / "labels").build(labelled >> Scorer(), toy, verbose=False)
    assert store.qids() == ["q1", "q2"]
    frame = store.frame().assign(text="red dog")
    distiller = ptd.Distiller(ptd.BiEncoder(tiny), ptd.InfoNCE(temperature=0.05), steps=1, verbose=False)
    assert distiller.fit(frame, toy).history
    assert len(ptd.mine_negatives(ptd.bm25(tmp_path / "one"), n=1, exclude=toy, text=toy_text)(toy.get_topics()))
    assert ptd.AddPositives(toy).qrels.equals(toy.get_qrels())


toy_text = pd.DataFrame(Toy().get_corpus_iter())


def test_what_is_no_dataset_is_told(tmp_path):
    with pytest.raises(TypeError, match="a dataset, a frame with docno and text, or dicts"):
        ptd.bm25(tmp_path / "x", "vaswani")
    with pytest.raises(TypeError, match="topics must be a frame of qid and query, or a dataset"):
        ptd.LabelStore(tmp_path / "y").build(pipeline(Scorer()), "vaswani")

    class Trec(Toy):
        def get_topics(self, variant=None):
            return pd.DataFrame({"qid": ["1"], "title": ["red"], "description": ["a red dog"]})

    with pytest.raises(ValueError, match=r"title, description: choose one: dataset.get_topics\('title'\)"):
        ptd.LabelStore(tmp_path / "z").build(pipeline(Scorer()), Trec())


# -- what objects look like -------------------------------------------------------------------------------------------


def test_a_student_says_what_it_is(minilm):
    teacher = ptd.BiEncoder(minilm)
    student = ptd.BiEncoder(ptd.BiEncoder.truncated(teacher, 2), max_length=64)
    assert "2 layers of width 384" in student.summary() and "not trained here" in student.summary()
    assert "(" not in student.summary()
    student.model  # noqa: B018
    assert "15.6M parameters" in student.summary() and "<td>15.6M parameters</td>" in student._repr_html_()
    assert html.escape(repr(student)) in student._repr_html_()
    assert ptd.BiEncoder("sentence-transformers/all-MiniLM-L6-v2").summary().startswith(
        "BiEncoder from sentence-transformers/all-MiniLM-L6-v2"
    )


def test_a_store_says_how_far_it_is(tmp_path):
    assert "nothing there yet" in str(ptd.LabelStore(tmp_path / "typo"))

    class Stops(Scorer):
        def transform(self, inp):
            if "q8" in set(inp["qid"]):
                raise KeyboardInterrupt
            return super().transform(inp)

    store = ptd.LabelStore(tmp_path / "store")
    with pytest.raises(KeyboardInterrupt, match="8 of 20 queries are labelled and kept in .*store; the same call"):
        store.build(pipeline(Stops()), topics(20), batch_size=4, verbose=False)
    assert "8 of 20 queries" in str(store) and "teacher_score" in str(store) and "build again" in store._repr_html_()
    store.build(pipeline(Scorer()), topics(20), batch_size=4, verbose=False, overwrite=True)
    assert "20 queries" in str(store) and " of 20" not in str(store)
    assert store["q1"]["qid"].unique().tolist() == ["q1"] and len(store.head(3)) == 3
    with pytest.raises(KeyError, match="q99"):
        store["q99"]
    assert repr(store) == f"LabelStore({str(tmp_path / 'store')!r})"


def test_losses_and_histories_are_tables():
    loss = ptd.InfoNCE(temperature=0.05) + 3.0 * ptd.KLDivergence()
    assert loss.named() == "InfoNCE + 3 KLDivergence"
    assert "temperature=0.05" in loss._repr_html_() and "teacher_score" in loss._repr_html_()
    log = [
        {"step": 0, "eval_nDCG@10": 0.1, "eval_seconds": 1.0}, {"step": 5, "loss": 2.0, "epoch": 0.5},
        {"step": 5, "eval_nDCG@10": 0.2}, {"step": 10, "loss": 1.0},
        {"step": 10, "train_runtime": 3.0, "total_flos": 0.0, "train_loss": 1.5},
    ]  # fmt: skip
    rows = shown.history(log)
    assert [row["step"] for row in rows] == [0, 5, 10] and rows[1] == {**log[1], **log[2]}
    assert shown.totals(log) == {"train_runtime": 3.0, "train_loss": 1.5}
    drawn = shown.table(rows)
    assert "<th>nDCG@10</th>" in drawn and "Ndcg" not in drawn and "No log" not in drawn
    assert shown.curve(rows).count("<svg") == 2


def test_a_distiller_is_drawn_with_its_loss(tiny, results):
    distiller = ptd.Distiller(ptd.BiEncoder(tiny), ptd.InfoNCE(temperature=0.05), steps=2, verbose=False)
    drawn = distiller._repr_html_()
    assert "student, by InfoNCE" in drawn and "learning_rate" in drawn and "<svg" not in drawn.rsplit("</details>")[-1]
    qrels = results[["qid", "docno"]].assign(label=(results["rank"] == 0).astype(int))
    distiller.fit(results, qrels)
    rows = pd.DataFrame(distiller.history)
    assert rows["step"].is_unique and not {"train_runtime", "total_flos"} & set(rows.columns)
    assert distiller.student.manifest["totals"]["train_runtime"] > 0
    assert "history" in distiller._repr_html_() and "trained by" in distiller.student.summary()


# -- bars, stops, going on --------------------------------------------------------------------------------------------


def test_bars_wait_where_nobody_asked_for_them(capfd):
    for verbose, seen in ((True, True), (False, False), (None, False)):
        with progress.bar(total=3, desc="Working", verbose=verbose) as bar:
            bar.update(3)
        assert ("Working" in capfd.readouterr().err) == seen
    with progress.bar(total=3, desc="Working", verbose=None) as bar:
        bar.start_t -= 10  # as if it had taken ten seconds
        bar.update(1)
        bar.refresh()
    assert "Working" in capfd.readouterr().err


def test_a_bar_moves_for_people_and_now_and_then_in_a_log(monkeypatch, capfd):
    for seen, seconds in ((True, 0.1), (False, progress.IN_A_LOG)):
        monkeypatch.setattr(sys.stderr, "isatty", lambda seen=seen: seen)
        with progress.bar(total=3, verbose=True) as bar:
            assert bar.mininterval == seconds


def test_one_bar_and_it_is_closed(tiny, results, monkeypatch):
    import transformers

    class Notebooks(transformers.TrainerCallback):
        """Stands for the callback that transformers adds in Jupyter."""

        def on_train_begin(self, *args, **kwargs):
            raise AssertionError("a second bar")

    monkeypatch.setattr(transformers.trainer, "DEFAULT_PROGRESS_CALLBACK", Notebooks)
    bars = []
    made = progress.bar
    monkeypatch.setattr(progress, "bar", lambda *a, **k: bars.append(made(*a, **k)) or bars[-1])
    qrels = results[["qid", "docno"]].assign(label=(results["rank"] == 0).astype(int))

    class Breaks(ptd.InfoNCE):
        def __call__(self, outputs, labels):
            raise KeyboardInterrupt

    distiller = ptd.Distiller(ptd.BiEncoder(tiny), Breaks(temperature=0.05), steps=2)
    with pytest.raises(KeyboardInterrupt, match="nothing is kept; with checkpoints='DIRECTORY'"):
        distiller.fit(results, qrels)
    training = [bar for bar in bars if bar.desc and bar.desc.startswith("Distilling")]
    assert len(training) == 1 and training[0].disable  # which is how tqdm says that a bar is closed


def test_a_training_that_goes_on_or_is_loaded_says_so(tiny, results, tmp_path, capfd):
    qrels = results[["qid", "docno"]].assign(label=(results["rank"] == 0).astype(int))
    calls = []

    class Breaks(ptd.InfoNCE):
        def __call__(self, outputs, labels):
            calls.append(1)
            if len(calls) == 5:
                raise KeyboardInterrupt
            return super().__call__(outputs, labels)

    def distiller():
        how = dict(steps=8, save_every=2, checkpoints=tmp_path / "training", queries_per_batch=2)
        return ptd.Distiller(ptd.BiEncoder(tiny), Breaks(temperature=0.05), **how)

    first = distiller()
    before = first.student.encode_queries(["red"])
    with pytest.raises(KeyboardInterrupt, match="keeps it as of step 4: the same call goes on from there") as stopped:
        first.fit(results, qrels)
    assert len(stopped.traceback) < 8 and stopped.value.__suppress_context__
    np.testing.assert_array_equal(first.student.encode_queries(["red"]), before)
    distiller().fit(results, qrels)
    assert "Going on from" in capfd.readouterr().err and len(calls) == 5 + 4
    again = distiller().fit(results, qrels)
    assert "nothing was trained" in capfd.readouterr().err and len(calls) == 9
    assert [row["step"] for row in again.history] == list(range(1, 9))
    trained = again.student.encode_queries(["red"])
    again.fit(results, qrels)  # the same cell once more, with the student that it made
    assert "nothing was trained" in capfd.readouterr().err and len(calls) == 9
    np.testing.assert_array_equal(again.student.encode_queries(["red"]), trained)
    assert [row["step"] for row in again.history] == list(range(1, 9))
    other = ptd.Distiller(again.student, Breaks(temperature=0.1), steps=8, checkpoints=tmp_path / "training")
    with pytest.raises(ValueError, match="are of another training"):
        other.fit(results, qrels)


def test_ctrl_c_on_the_command_line_says_what_is_kept(tmp_path):
    code = textwrap.dedent(
        """
        import sys, time
        sys.path[:0] = TESTS
        from labelling import Scorer, pipeline, topics
        import pyterrier_distill as ptd
        from pyterrier_distill.commands import ended, MISTAKES
        class Slow(Scorer):
            def transform(self, inp):
                print("batch", flush=True)
                time.sleep(0 if "q0" in set(inp["qid"]) else 60)
                return super().transform(inp)
        store = ptd.LabelStore(PATH)
        work = lambda: store.build(pipeline(Slow()), topics(20), batch_size=4, verbose=False)
        sys.exit(ended("pyterrier-distill", work, mistakes=MISTAKES, stopped="stopped"))
        """
    )
    from pathlib import Path

    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    code = code.replace("TESTS", repr(paths)).replace("PATH", repr(str(tmp_path / "store")))
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout.readline() and process.stdout.readline()  # the second batch is under way
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "4 of 20 queries are labelled and kept" in err and "Traceback" not in err


def test_columns_that_are_no_labels_have_their_own_advice(tiny):
    labelled = pd.DataFrame({"qid": ["q"], "query": "red", "docno": "d", "score": 1.0, "teacher_score": 1.0})
    distiller = ptd.Distiller(ptd.CrossEncoder(ptd.CrossEncoder(tiny).name_or_path), ptd.RankNet(), verbose=False)
    with pytest.raises(ptd.MissingLabelError, match=r"the CrossEncoder needs the column 'text'.*JoinedText\(dataset\)"):
        distiller.fit(labelled)
