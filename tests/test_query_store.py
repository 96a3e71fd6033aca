"""QueryStore: generated queries that last; killed and resumed."""

import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pyterrier as pt
import pytest
from generating import Telling, docs, document_of

import pyterrier_distill as ptd
from pyterrier_distill.backends.base import BackendError
from pyterrier_distill.backends.completions import Completion

FP32 = {"precision": "fp32", "device": "cpu"}


class Breaking(Telling):
    """Fails at a document, with the answers before it."""

    def complete(self, prompts, **settings):
        answers = super().complete(prompts, **settings)
        bad = [i for i, prompt in enumerate(prompts) if "stop" in document_of(prompt)]
        if bad:
            raise BackendError("gone.", [*answers[: bad[0]], *[None] * (len(answers) - bad[0])], bad[0])
        return answers


def test_what_was_written_before_a_failure_is_kept(tmp_path):
    frame = docs("red", "blue", "stop", "green")
    with pytest.raises(ptd.GenerationError, match="document 'd2': gone") as caught:
        ptd.SyntheticQueryGen(Breaking())(frame)
    assert caught.value.generated["querygen"].tolist() == ["about red", "about blue"]
    assert pickle.loads(pickle.dumps(caught.value)).generated.equals(caught.value.generated)
    store = ptd.QueryStore(tmp_path / "q")
    with pytest.raises(ptd.GenerationError):
        store.cache(ptd.SyntheticQueryGen(Breaking()))(frame)
    assert list(ptd.QueryStore(tmp_path / "q").entries()) == ["d0", "d1"]


def test_a_store_answers_what_it_knows(tmp_path):
    store, frame = ptd.QueryStore(tmp_path / "q"), docs("red", "blueish", "", "green")
    expected = ptd.SyntheticQueryGen(Telling())(frame)
    generator = ptd.SyntheticQueryGen(Telling())
    cached = store.cache(generator, batch_size=2)
    pd.testing.assert_frame_equal(cached(frame.iloc[[1]]), expected.iloc[[1]])
    assert cached.estimate(frame).calls == 2
    twice = pd.concat([frame, frame], ignore_index=True).assign(url="u")
    out = cached(twice)
    pd.testing.assert_frame_equal(out.iloc[4:].drop(columns="url").reset_index(drop=True), expected)
    assert generator.usage.calls == 3 and cached(frame).equals(expected)

    fresh = pt.Artifact.load(str(tmp_path / "q"))
    assert isinstance(fresh, ptd.QueryStore) and len(fresh) == 4 and fresh.usage.calls == 3
    other = ptd.SyntheticQueryGen(Telling())
    assert fresh.cache(other)(frame).equals(expected) and other.usage.calls == 0
    fresh.cache(other)(docs("red", "changed", "", "green"))
    assert other.usage.calls == 1 and len(fresh) == 4
    whole = fresh.frame().set_index("docno")
    assert whole["querygen"]["d1"] == "about changed" and whole["querygen_score"]["d0"] == pytest.approx([-2.0])
    with pytest.raises(ValueError, match="another generator: .*seed was 42 and is 7"):
        store.cache(ptd.SyntheticQueryGen(Telling(), seed=7))
    with pytest.raises(ValueError, match="two texts"):
        cached(pd.DataFrame([("x", "a"), ("x", "b")], columns=["docno", "text"]))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("mine")
    with pytest.raises(ValueError, match="not a query store"):
        ptd.QueryStore(tmp_path / "other")
    with pytest.raises(ValueError, match="batch_size"):
        store.cache(generator, batch_size=0)


def test_a_store_knows_its_examples_and_its_model(tmp_path, plain_llm, results, qrels, documents):
    few = ptd.FewShot(results[["qid", "query"]].drop_duplicates(), qrels, documents, n=2)
    make = lambda: ptd.SyntheticQueryGen(ptd.HF(plain_llm, **FP32), "promptagator", few, max_new_tokens=4)  # noqa: E731
    ptd.QueryStore(tmp_path / "q").cache(make())(documents)
    manifest = ptd.QueryStore(tmp_path / "q").manifest
    assert manifest["example_qids"] == few.example_qids and "content" in str(manifest["generator"])
    piped = ptd.QueryStore(tmp_path / "p")
    piped.cache(make() >> ptd.LengthFilter(1))(documents.head(1))
    assert piped.manifest["example_qids"] == few.example_qids
    again = make()  # not loaded yet: the same generator all the same
    ptd.QueryStore(tmp_path / "q").cache(again)(documents)
    assert again.usage.calls == 0


def test_a_cached_pipeline_writes_what_the_pipeline_writes(tmp_path):
    class Several(Breaking):
        """Of each document's three queries the second has one word."""

        def complete(self, prompts, **settings):
            try:
                return self.several(super().complete(prompts, **settings))
            except BackendError as error:
                raise BackendError("gone.", self.several(error.answers), error.failed) from None

        def several(self, made):
            return [a and Completion([a.text, "word", f"{a.text} again"][n % 3]) for n, a in enumerate(made)]

    pipeline = lambda: ptd.SyntheticQueryGen(Several(), n=3) >> (ptd.LengthFilter(2) >> ptd.LanguageFilter())  # noqa: E731
    frame = docs("red", "blue", "green")
    told = lambda frame: ptd.explode_queries()(frame)[["qid", "query", "docno"]].to_numpy().tolist()  # noqa: E731
    expected = told(pipeline()(frame))
    assert [qid for qid, *_ in expected] == [f"d{i}-{k}" for i in range(3) for k in (0, 2)]
    store = ptd.QueryStore(tmp_path / "q")
    cached = store.cache(pipeline())
    assert cached.estimate(frame).calls == 9
    assert told(cached(frame)) == told(ptd.QueryStore(tmp_path / "q").frame()) == expected
    assert cached.usage.calls == store.usage.calls == 9

    failing = ptd.QueryStore(tmp_path / "f")
    with pytest.raises(ptd.GenerationError, match="gone"):
        failing.cache(pipeline())(docs("red", "blue", "stop"))
    assert told(failing.frame()) == expected[:4]  # through the filters, too


def test_an_error_behind_a_writer_loses_no_query(tmp_path):
    def bug(inp):
        raise ZeroDivisionError("a bug of mine")

    store = ptd.QueryStore(tmp_path / "q")
    pipeline = ptd.SyntheticQueryGen(Breaking()) >> pt.apply.generic(bug)
    with pytest.raises(ptd.GenerationError, match="ZeroDivisionError: a bug of mine.*not stored") as caught:
        store.cache(pipeline)(docs("red", "blue"))
    assert caught.value.generated["querygen"].tolist() == ["about red", "about blue"] and len(store) == 0
    with pytest.raises(ptd.GenerationError, match="(?s)gone.*ZeroDivisionError: a bug of mine") as caught:
        store.cache(pipeline)(docs("red", "stop", "blue"))
    assert caught.value.generated["querygen"].tolist() == ["about red"] and len(store) == 0
    with pytest.raises(ptd.GenerationError, match="gone") as caught:
        store.cache(pipeline)(docs("stop", "blue"))
    assert "ZeroDivisionError" not in str(caught.value) and len(store) == 0


def test_what_a_writer_had_finished_is_not_taken_for_the_result_of_what_it_is_in(tmp_path):
    class Louder(pt.Transformer):
        """Somebody's transformer that changes what a generator writes."""

        def __init__(self, generator):
            self.generator = generator

        def transform(self, inp):
            return self.generator(inp).assign(querygen="LOUD")

    store = ptd.QueryStore(tmp_path / "q")
    with pytest.raises(ptd.GenerationError, match="gone"):
        store.cache(Louder(ptd.SyntheticQueryGen(Breaking())))(docs("red", "stop"))
    assert len(store) == 0


def test_a_model_that_counts_stays_itself(tmp_path):
    class Counting:
        def __init__(self):
            self.calls = 0

        def generate(self, asked):
            self.calls += len(asked)
            return [SimpleNamespace(text="what is it")] * len(asked)

    frame = docs("red", "blue", "green")
    for rows in (2, 3):  # the second time in another process, say
        inner = Counting()
        cached = ptd.QueryStore(tmp_path / "q").cache(ptd.SyntheticQueryGen(inner), batch_size=1)
        assert cached(frame.head(rows))["querygen"].tolist() == ["what is it"] * rows
        assert cached(frame.head(rows))["docno"].tolist() == [f"d{i}" for i in range(rows)]
    assert inner.calls == 1


def test_what_a_generator_reads_decides_whether_it_is_asked_again(tmp_path):
    frame = docs("red", "blue").assign(title=["A", "B"], body=["one", "two"])
    titles = ptd.QueryStore(tmp_path / "t").cache(ptd.TitleQueries())
    assert pt.inspect.transformer_inputs(titles) == [["docno", "title", "text"]]
    assert titles(frame)["querygen"].tolist() == ["A", "B"]
    assert titles(frame.assign(title=["A", "C"]))["querygen"].tolist() == ["A", "C"]
    bodies = ptd.QueryStore(tmp_path / "b").cache(ptd.SpanQueries(1, text_field="body") >> ptd.LengthFilter(1))
    assert bodies(frame.drop(columns="text"))["querygen"].tolist() == ["one", "two"]
    loader = pt.apply.generic(lambda inp: inp.assign(text=inp["docno"] + " text"), required_columns=["docno"])
    loaded = ptd.QueryStore(tmp_path / "l").cache(loader >> ptd.TitleQueries(None))
    assert loaded(frame[["docno"]])["querygen"].tolist() == ["d0 text", "d1 text"]
    assert bodies(frame.assign(body="three"))["querygen"].tolist() == ["three", "three"]


def test_what_looks_at_all_documents_is_not_cached(tmp_path, documents):
    store = ptd.QueryStore(tmp_path / "q")
    for whole in (ptd.KeyphraseQueries(), ptd.SyntheticQueryGen(Telling()) >> ptd.TopQueries(3)):
        with pytest.raises(ValueError, match="looks at all documents at once"):
            store.cache(whole, batch_size=2)
    phrases = ptd.KeyphraseQueries(frequencies=ptd.KeyphraseQueries.frequencies_of(documents.to_dict("records")))
    out = store.cache(phrases, batch_size=2)(documents)
    assert out["querygen"].equals(phrases(documents)["querygen"])


def test_damage_is_told(tmp_path):
    ptd.QueryStore(tmp_path / "q").cache(ptd.SyntheticQueryGen(Telling()))(docs("red"))
    (file,) = (tmp_path / "q" / "queries").iterdir()
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(ValueError, match="delete it"):
        ptd.QueryStore(tmp_path / "q").entries()


def test_any_generator_can_be_cached(tmp_path, documents):
    spans = ptd.SpanQueries(n=2)
    out = ptd.QueryStore(tmp_path / "q").cache(spans)(documents)
    assert out["querygen"].tolist() == spans(documents)["querygen"].tolist()
    wrong = pt.apply.generic(lambda frame: frame.iloc[:0].assign(querygen=""))
    with pytest.raises(KeyError):
        ptd.QueryStore(tmp_path / "w").cache(wrong)(documents)


RUN = """
    import os, signal, sys
    from pathlib import Path
    from types import SimpleNamespace
    import pandas as pd
    import pyterrier_distill as ptd

    store, log_path, result, where, count = sys.argv[1:]
    left = {where: int(count)}

    def may_die(here):  # as kill -9 does it: nothing is flushed, no handler runs
        left[here] = left.get(here, 0) - 1
        if left[here] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def dying(here, real):
        def call(*args):
            may_die(here)
            return real(*args)
        return call

    os.fsync, Path.rename = dying("fsync", os.fsync), dying("rename", Path.rename)

    class Counting:
        def generate(self, prompts):
            out = []
            with open(log_path, "a") as log:
                for prompt in prompts:
                    name = prompt.rsplit("Document: ", 1)[1].split(chr(10))[0]
                    log.write(name + chr(10))
                    log.flush()
                    may_die("ask")
                    out.append(SimpleNamespace(text="" if name.endswith("7") else "what about " + name))
            return out

        def __repr__(self):
            return "Counting()"

    frame = pd.DataFrame({"docno": [f"d{i}" for i in range(1000)], "text": [f"thing{i}" for i in range(1000)]})
    ptd.QueryStore(store).cache(ptd.SyntheticQueryGen(Counting()), batch_size=20)(frame).to_pickle(result)
"""


@pytest.fixture
def run(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(RUN))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(ptd.__file__).parents[1]), *sys.path[1:]])}

    def start(log="log", out="out", where="ask", count=0):
        paths = [str(tmp_path / name) for name in ("q", log, out)]
        return subprocess.Popen([sys.executable, str(script), *paths, where, str(count)], env=env)

    return start


def lines(path):
    return path.read_text().split() if path.exists() else []


@pytest.mark.skipif(os.name != "posix", reason="kills as POSIX does")
@pytest.mark.slow
def test_killed_at_any_moment_no_finished_document_is_asked_about_again(tmp_path, run):
    """Killed while asking, before a file is synced, before it is renamed in, before the store says that it is one."""
    finished = {}
    deaths = [("rename", 2), ("ask", 157), ("fsync", 6), ("rename", 9), ("ask", 1), ("fsync", 15), (None, 0)]
    for where, count in deaths:
        before = len(lines(tmp_path / "log"))
        process = run(where=where or "ask", count=count)
        assert process.wait(timeout=300) == (0 if where is None else -9)
        asked = lines(tmp_path / "log")[before:]
        assert not {f"d{name[5:]}" for name in asked} & set(finished)  # none that was finished before
        now = dict(ptd.QueryStore(tmp_path / "q").entries())
        assert all(now[docno] == entry for docno, entry in finished.items())  # none is lost or changed
        finished = now
    assert len(finished) == 1000
    assert not [name for name in os.listdir(tmp_path / "q" / "queries") if name[0] == "."]  # no drafts are left
    asked = lines(tmp_path / "log")
    assert len(set(asked)) == 1000 and len(asked) - 1000 <= (len(deaths) - 1) * 20  # a batch a kill at most
    out = pd.read_pickle(tmp_path / "out")
    expected = ["" if i % 10 == 7 else f"what about thing{i}" for i in range(1000)]
    assert out["querygen"].tolist() == expected and out["docno"].tolist() == [f"d{i}" for i in range(1000)]


def test_two_processes_share_the_work(tmp_path, run):
    both = [run(f"log{i}", f"out{i}") for i in range(2)]
    assert [process.wait(timeout=300) for process in both] == [0, 0]
    asked = lines(tmp_path / "log0") + lines(tmp_path / "log1")
    assert len(asked) == len(set(asked)) == 1000
    one, other = (pd.read_pickle(tmp_path / f"out{i}") for i in range(2))
    pd.testing.assert_frame_equal(one, other)


def test_a_store_may_lie_on_another_file_system():
    pytest.importorskip("fsspec")
    frame = docs("red", "blue")
    out = ptd.QueryStore("memory://generated").cache(ptd.SyntheticQueryGen(Telling()))(frame)
    pd.testing.assert_frame_equal(out, ptd.SyntheticQueryGen(Telling())(frame))
    again = ptd.QueryStore("memory://generated")
    assert len(again) == 2 and again.frame()["querygen"].tolist() == out["querygen"].tolist()
