"""Rounds of retrieving, labelling and training; the adaptation to a collection in one call."""

import shutil

import numpy as np
import pandas as pd
import pyterrier as pt
import pyterrier_dr
import pytest
import torch
from generating import Telling, document_of
from learning import Counting

import pyterrier_distill as ptd
from pyterrier_distill.backends.completions import Completion

FP32 = {"precision": "fp32", "device": "cpu"}
SETTINGS = {"precision": "fp32", "verbose": False, "dropout": 0.0, "learning_rate": 2e-3, "queries_per_batch": 8}


@pytest.fixture
def topics(documents):
    words = " ".join(documents["text"]).split()
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {"qid": [f"q{n}" for n in range(16)], "query": [" ".join(rng.choice(words, 2)) for _ in range(16)]}
    )


@pytest.fixture
def judged(topics, documents):
    rows = [
        (topic.qid, document.docno, 1)
        for topic in topics.itertuples()
        for document in documents.itertuples()
        if set(topic.query.split()) <= set(document.text.split())
    ]
    return pd.DataFrame(rows, columns=["qid", "docno", "label"])


@pytest.fixture
def search(documents, tmp_path):
    """A function that makes a pipeline of a student; ``search.students`` are those it was called with."""

    def made(student):
        made.students.append(str(student))
        index = pyterrier_dr.FlexIndex(str(tmp_path / f"index-{len(made.students)}"))
        (student >> index).index(documents.to_dict("records"))
        texts = pt.apply.generic(lambda found: found.merge(documents, on="docno"))
        return student.query_encoder() >> index.np_retriever(num_results=5) >> texts

    made.students = []
    return made


def test_rounds_retrieve_anew_and_ask_only_what_is_new(tiny, topics, judged, search, tmp_path):
    student, teacher = ptd.BiEncoder(tiny, **FP32), Counting()
    distiller = ptd.Distiller(student, ptd.KLDivergence(temperature=0.1), epochs=4, **SETTINGS)
    rounds = ptd.IterativeDistiller(search, teacher, distiller, tmp_path / "rounds", rounds=2, verbose=False)
    rounds.fit(topics)
    assert len(search.students) == 2 and search.students[0] != search.students[1]
    assert len(teacher.asked) == len(set(teacher.asked))  # nothing twice
    assert [entry["round"] for entry in rounds.rounds_] == [0, 1, 2]
    assert rounds.rounds_[1]["asked"] == 16 * 5 and 0 < rounds.rounds_[2]["asked"] < 16 * 5
    assert sum(entry["asked"] for entry in rounds.rounds_) == len(teacher.asked)
    for number in (1, 2):
        assert len(ptd.LabelStore(tmp_path / "rounds" / f"round-{number}" / "labels")) == 16


def test_a_round_that_does_not_help_is_undone(tiny, topics, judged, search, tmp_path):
    student = ptd.BiEncoder(tiny, **FP32)
    settings = {**SETTINGS, "learning_rate": 5.0}  # ruins the student
    distiller = ptd.Distiller(student, ptd.KLDivergence(), epochs=2, **settings)
    before = student.encode_queries(topics["query"])
    rounds = ptd.IterativeDistiller(search, Counting(), distiller, tmp_path / "rounds", rounds=3, verbose=False)
    rounds.fit(topics, None, topics, judged)
    if rounds.rounds_[-1]["kept"]:
        pytest.skip("chance made the ruined student better")
    assert len(rounds.rounds_) < 5
    best = max(entry["nDCG@10"] for entry in rounds.rounds_)
    found = pt.Evaluate(search(student)(topics), judged, ["ndcg_cut_10"])["ndcg_cut_10"]
    assert found == pytest.approx(best, abs=1e-6)
    if len(rounds.rounds_) == 2:
        assert student.manifest == {} and student == ptd.BiEncoder(tiny, **FP32)
        np.testing.assert_allclose(student.encode_queries(topics["query"]), before, atol=1e-6)


def test_run_again_after_an_interruption_nothing_is_asked_twice(tiny, topics, judged, search, tmp_path):
    class Stop(Exception):
        pass

    class Failing(Counting):
        left = 100

        def transform(self, inp):
            type(self).left -= len(inp)
            if type(self).left < 0:
                type(self).left = 10**9
                raise Stop
            return super().transform(inp)

    def run(teacher, path):
        student = ptd.BiEncoder(tiny, **FP32)
        distiller = ptd.Distiller(student, ptd.KLDivergence(temperature=0.1), epochs=3, **SETTINGS)
        ptd.IterativeDistiller(search, teacher, distiller, path, rounds=2, verbose=False).fit(topics)
        return student

    teacher = Failing()
    with pytest.raises(Stop):
        run(teacher, tmp_path / "stopped")
    again = run(teacher, tmp_path / "stopped")
    assert len(teacher.asked) == len(set(teacher.asked))
    whole = run(Counting(), tmp_path / "whole")
    queries = topics["query"]
    np.testing.assert_allclose(again.encode_queries(queries), whole.encode_queries(queries), atol=1e-6)


def test_a_re_ranking_student_keeps_its_candidates(tiny, topics, judged, documents, tmp_path):
    student, teacher = ptd.CrossEncoder(tiny, **FP32), Counting()
    everything = pt.Transformer.from_df(topics.merge(documents, how="cross").assign(score=0.0, rank=0))
    distiller = ptd.Distiller(student, ptd.RankNet(), epochs=2, **SETTINGS)
    rounds = ptd.IterativeDistiller(everything, teacher, distiller, tmp_path / "r", rounds=2, verbose=False)
    rounds.fit(topics, None, topics, judged)
    assert len(teacher.asked) == 16 * 12
    assert all("nDCG@10" in entry for entry in rounds.rounds_)


def test_mistakes(tiny, topics, judged, tmp_path):
    distiller = ptd.Distiller(ptd.BiEncoder(tiny, **FP32), ptd.KLDivergence(), **SETTINGS)
    with pytest.raises(TypeError, match="make_candidates"):
        ptd.IterativeDistiller(3, Counting(), distiller, tmp_path)
    with pytest.raises(TypeError, match="Distiller"):
        ptd.IterativeDistiller(lambda s: s, Counting(), ptd.KLDivergence(), tmp_path)
    with pytest.raises(ValueError, match="rounds"):
        ptd.IterativeDistiller(lambda s: s, Counting(), distiller, tmp_path, rounds=0)
    with pytest.raises(TypeError, match="pipeline"):
        ptd.IterativeDistiller(lambda s: 3, Counting(), distiller, tmp_path, verbose=False).fit(topics)
    with pytest.raises(ValueError, match="both"):
        ptd.IterativeDistiller(lambda s: s, Counting(), distiller, tmp_path).fit(topics, None, topics)


def test_adapting_needs_no_query_and_no_judgement(tiny, documents, tmp_path):
    student, teacher = ptd.BiEncoder(tiny, **FP32), Counting()
    before = student.encode_docs(documents["text"])
    adapted = ptd.adapt(
        student, teacher, documents, tmp_path / "adapted", loss=ptd.KLDivergence(temperature=0.1), depth=5, **SETTINGS
    )
    assert adapted is student and len(teacher.asked) > 0
    assert not np.allclose(student.encode_docs(documents["text"]), before, atol=1e-3)
    asked, again = len(teacher.asked), ptd.BiEncoder(tiny, **FP32)
    ptd.adapt(
        again, teacher, documents, tmp_path / "adapted", loss=ptd.KLDivergence(temperature=0.1), depth=5, **SETTINGS
    )
    assert len(teacher.asked) == asked
    assert torch.equal(
        torch.from_numpy(again.encode_docs(documents["text"])), torch.from_numpy(student.encode_docs(documents["text"]))
    )


def test_the_loss_that_is_taken_suits_the_students_scores(tiny, minilm, documents, topics, tmp_path):
    everything = pt.Transformer.from_df(topics.merge(documents, how="cross").assign(score=0.0, rank=0))
    settings = {**SETTINGS, "topics": topics, "candidates": everything}
    cosines, logits = ptd.BiEncoder(minilm, layers=1, max_length=8, **FP32), ptd.CrossEncoder(tiny, **FP32)
    for student, loss in ((cosines, ptd.RankNet("teacher_score", 0.05)), (logits, ptd.RankNet("teacher_score"))):
        ptd.adapt(student, Counting(), documents, tmp_path / type(student).__name__, steps=1, **settings)
        assert student.manifest["loss"] == repr(loss)


@pytest.mark.slow
def test_collections_are_read_by_name():
    from pyterrier_distill.corpora.loading import read_documents

    assert list(read_documents("pydocs").columns) == ["docno", "text"]
    with pytest.raises(ValueError, match="no dataset 'nowhere'"):
        read_documents("nowhere")


def test_titles_of_a_collection_can_be_queries(collections, tmp_path):
    from pyterrier_distill.corpora.loading import read_documents

    titled = read_documents(f"folder:{collections / 'cacm'}")
    assert titled["title"][0] == "Preliminary Report-International Algebraic Language" == titled["text"][0]
    assert ptd.TitleQueries()(titled)["querygen"][0] == "Preliminary Report-International Algebraic Language"
    assert list(read_documents(f"folder:{collections / 'medline'}").columns) == ["docno", "text"]  # has none


def test_adapting_to_given_queries_and_candidates(tiny, documents, topics, tmp_path):
    everything = pt.Transformer.from_df(topics.merge(documents, how="cross").assign(score=0.0, rank=0))
    student = ptd.CrossEncoder(tiny, **FP32)
    ptd.adapt(student, Counting(), documents, tmp_path / "a", topics=topics, candidates=everything, **SETTINGS)
    assert student.manifest["queries"] == 16 and student.manifest["loss"].startswith("RankNet(")


class Answering(Telling):
    """Writes a query of two words of the document."""

    def complete(self, prompts, **settings):
        self.usage.add(len(prompts))
        return [Completion(" ".join(document_of(prompt).split()[:2])) for prompt in prompts]


def test_adapting_asks_a_language_model_once(tiny, documents, tmp_path):
    llm = Answering()
    settings = {"generator": ptd.SyntheticQueryGen(llm) >> ptd.LengthFilter(1), "depth": 5, **SETTINGS}
    with pytest.raises(ValueError, match="12 were generated, and the filters leave none"):
        ptd.adapt(None, Counting(), documents, tmp_path / "a", filters=ptd.LengthFilter(30, 40), **settings)
    student = ptd.BiEncoder(tiny, **FP32)
    ptd.adapt(student, Counting(), documents, tmp_path / "a", **settings)
    assert llm.usage.calls == 12 and len(ptd.QueryStore(tmp_path / "a" / "queries")) == 12


def test_adapting_takes_a_querys_own_document_as_relevant(tiny, documents, tmp_path):
    student = ptd.BiEncoder(tiny, **FP32)
    numbered = documents.assign(docno=range(len(documents)))
    ptd.adapt(student, Counting(), numbered, tmp_path / "a", loss=ptd.InfoNCE(), depth=5, **SETTINGS)
    assert student.manifest["loss"].startswith("InfoNCE(")
    sampled = {"sampler": ptd.ListSampler(2, strategy="with_positive"), "epochs": 1, "depth": 5, **SETTINGS}
    ptd.adapt(ptd.BiEncoder(tiny, **FP32), Counting(), documents, tmp_path / "b", **sampled)


def test_other_documents_are_indexed_anew(tiny, documents, topics, tmp_path):
    ptd.adapt(ptd.BiEncoder(tiny, **FP32), Counting(), documents, tmp_path / "a", topics=topics, **SETTINGS)
    more = pd.concat([documents, documents.assign(docno="new-" + documents["docno"])], ignore_index=True)
    shutil.rmtree(tmp_path / "a" / "labels")
    shutil.rmtree(tmp_path / "a" / "training")
    teacher = Counting()
    ptd.adapt(ptd.BiEncoder(tiny, **FP32), teacher, more, tmp_path / "a", topics=topics, **SETTINGS)
    assert {docno[:4] for _, docno in teacher.asked} == {"new-"}  # the others' labels are known


def test_what_cannot_be_adapted_to_is_told(tiny, documents, topics, tmp_path):
    with pytest.raises(ValueError, match="leave generator= and filters= out"):
        ptd.adapt(None, Counting(), documents, tmp_path / "a", topics=topics, filters=ptd.LengthFilter())
    with pytest.raises(ValueError, match="'d0' has two texts"):
        ptd.adapt(None, Counting(), pd.concat([documents, documents.head(1).assign(text="x")]), tmp_path / "a")
    with pytest.raises(ValueError, match="none of 2 queries finds a document"):
        unknown = topics.head(2).assign(query=["qqq", "zzz"])
        student = ptd.BiEncoder(tiny, **FP32)
        ptd.adapt(student, Counting(), documents, tmp_path / "b", topics=unknown, **SETTINGS)


def test_rounds_of_other_queries_need_another_path(tiny, topics, judged, search, tmp_path):
    def run(topics, *validation):
        distiller = ptd.Distiller(ptd.BiEncoder(tiny, **FP32), ptd.KLDivergence(temperature=0.1), steps=1, **SETTINGS)
        rounds = ptd.IterativeDistiller(search, Counting(), distiller, tmp_path / "r", rounds=1, verbose=False)
        return rounds.fit(topics, None, *validation)

    run(topics)
    run(topics)
    with pytest.raises(ValueError, match="query"):
        run(topics.assign(query=topics["query"].to_numpy()[::-1]))
    with pytest.raises(ValueError, match="8 queries that the topics do not"):
        run(topics.head(8))
    with pytest.raises(ValueError, match="check their qids"):
        run(topics, topics, judged.assign(qid="x" + judged["qid"]))


def test_two_teachers_over_two_rounds_as_without_a_cache(tiny, tiny_cross, tiny_t5, topics, search, tmp_path):
    def teacher():
        pairs = ptd.PairwiseTeacher(tiny_t5, both_orders=True, **FP32)
        return ptd.PointwiseTeacher(tiny_cross, **FP32) >> pairs

    student = ptd.BiEncoder(tiny, **FP32)
    loss = ptd.KLDivergence(temperature=0.1) + ptd.PairwiseKL(temperature=0.1)
    distiller = ptd.Distiller(student, loss, epochs=2, **SETTINGS)
    ptd.IterativeDistiller(search, teacher(), distiller, tmp_path / "r", rounds=2, verbose=False).fit(topics.head(6))
    found = []
    for number in (1, 2):
        store = ptd.LabelStore(tmp_path / "r" / f"round-{number}" / "labels")
        stored = store.frame(with_text=True)
        expected = teacher()(stored[["qid", "query", "docno", "text"]])
        np.testing.assert_allclose(stored["teacher_score"], expected["teacher_score"], rtol=1e-4, atol=1e-5)
        for one, other in zip(stored["teacher_prefs"], expected["teacher_prefs"], strict=True):
            assert one == pytest.approx(other, abs=1e-5)
        found.append(set(zip(stored["qid"], stored["docno"], strict=True)))
    assert found[0] != found[1] and found[0] & found[1]  # the second round met both new and known documents
