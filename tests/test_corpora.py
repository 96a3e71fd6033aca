"""Collections: folders in both layouts, docstrings, and the first stage."""

import gzip
import json
import re

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest

import pyterrier_distill as ptd
from pyterrier_distill.corpora import pydocs
from pyterrier_distill.corpora.loading import load_collection
from pyterrier_distill.frames.texts import text_source


def jsonl(path, rows):
    opener = gzip.open if path.suffix == ".gz" else open
    path.parent.mkdir(parents=True, exist_ok=True)
    with opener(path, "wt", encoding="utf-8") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(params=["plain", "gz"])
def beir(request, tmp_path):
    """Three documents, three queries, two splits, one run."""
    end = ".gz" if request.param == "gz" else ""
    jsonl(
        tmp_path / f"corpus.jsonl{end}",
        [{"_id": f"d{i}", "title": f"title {i}", "text": f"text ü {i}", "metadata": {}} for i in range(3)],
    )
    jsonl(tmp_path / f"queries.jsonl{end}", [{"_id": str(i), "text": f"query {i}"} for i in range(3)])
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n0\td0\t1\n1\td1\t2\n")
    (tmp_path / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n2\td2\t1\n")
    run = "0 Q0 d1 1 5.0 x\n0 Q0 d0 2 5.0 x\n1 Q0 d1 1 0.0 x\n"
    (tmp_path / "runs").mkdir()
    path = tmp_path / "runs" / f"bm25.txt{end}"
    path.write_bytes(gzip.compress(run.encode()) if end else run.encode())
    return tmp_path


def test_beir_layout(beir):
    dataset = pt.get_dataset(f"folder:{beir}")
    assert list(dataset.get_corpus_iter(verbose=False))[1] == {"docno": "d1", "title": "title 1", "text": "text ü 1"}
    assert dataset.get_topics().to_numpy().tolist() == [["0", "query 0"], ["1", "query 1"]]  # test comes first
    assert dataset.get_topics("train")["qid"].tolist() == ["2"]
    assert dataset.get_qrels().to_numpy().tolist() == [["0", "d0", 1], ["1", "d1", 2]]
    assert pt.get_dataset(f"folder:{beir}/train").get_qrels()["docno"].tolist() == ["d2"]
    run = dataset.get_results("bm25")
    assert run.sort_values(["qid", "rank"])[["qid", "docno", "rank", "query"]].to_numpy().tolist() == [
        ["0", "d1", 0, "query 0"],
        ["0", "d0", 1, "query 0"],
        ["1", "d1", 0, "query 1"],
    ]
    loaded = dataset.text_loader()(run)
    assert loaded["text"].tolist() == [f"text ü {docno[1]}" for docno in run["docno"]]
    assert dataset.text_loader("title")(run)["title"].iloc[0] == f"title {run['docno'].iloc[0][1]}"


def test_tira_layout(tmp_path):
    jsonl(
        tmp_path / "documents.jsonl",
        [{"docno": "a", "text": "one", "original_document": {}}, {"docno": "b", "text": "two"}],
    )
    jsonl(tmp_path / "queries.jsonl", [{"qid": "1", "query": "first", "original_query": {}}])
    (tmp_path / "qrels.txt").write_text("1 0 a 1\n1 0 b 0\n")
    jsonl(
        tmp_path / "rerank.jsonl.gz",
        [{"qid": "1", "query": "first", "docno": "a", "text": "one", "score": 1.0, "rank": 0}],
    )
    dataset = pt.get_dataset(f"folder:{tmp_path}")
    assert [d["docno"] for d in dataset.get_corpus_iter(verbose=False)] == ["a", "b"]
    assert dataset.get_topics().to_numpy().tolist() == [["1", "first"]]
    assert dataset.get_qrels().to_numpy().tolist() == [["1", "a", 1], ["1", "b", 0]]
    assert dataset.get_results().iloc[0]["text"] == "one"


def test_missing_parts_are_told(beir, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such directory"):
        pt.get_dataset("folder:/nowhere/at/all")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="neither a corpus"):
        pt.get_dataset(f"folder:{tmp_path}/empty")
    dataset = pt.get_dataset(f"folder:{beir}")
    with pytest.raises(ValueError, match="no split 'dev', only: test, train"):
        dataset.get_topics("dev")
    with pytest.raises(ValueError, match="no run 'bm52', only: bm25"):
        dataset.get_results("bm52")
    with pytest.raises(ValueError, match="holds no document 'zz'"):
        dataset.text_loader()(pd.DataFrame([("1", "zz")], columns=["qid", "docno"]))
    with open(beir / "queries.jsonl", "w") as out:
        out.write('{"_id": "0", "text"\n')
    if (beir / "queries.jsonl.gz").exists():
        (beir / "queries.jsonl.gz").unlink()
    with pytest.raises(ValueError, match="line 1 of .* is not JSON"):
        dataset.get_topics()


def test_odd_but_meant_folders(tmp_path):
    jsonl(tmp_path / "corpus.jsonl", [{"_id": "NA", "text": "a"}, {"_id": "null", "title": "t", "text": "b"}])
    jsonl(tmp_path / "queries.jsonl", [{"_id": "1", "text": "q"}, {"_id": "2", "text": "r"}])
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv.gz").write_bytes(gzip.compress(b"1\tNA\t1.0\n1\tnull\t0\n"))
    (tmp_path / "qrels" / "train.tsv.bak").write_text("not a split")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "all.txt").write_text("1 Q0 NA 1 2.0 x\n2 Q0 null 1 2.0 x\n")
    dataset = pt.get_dataset(f"folder:{tmp_path}/test")
    assert dataset.splits() == ["test"]
    assert dataset.get_qrels().to_numpy().tolist() == [["1", "NA", 1], ["1", "null", 0]]
    assert len(dataset.get_results("all")) == 2  # also of queries outside the split
    frame = pd.DataFrame([("1", "NA"), ("1", "null")], columns=["qid", "docno"])
    assert dataset.text_loader(["title", "text"])(frame)["title"].tolist() == ["", "t"]
    with pytest.raises(ValueError, match="has no field 'nope'"):
        dataset.text_loader("nope")(frame)
    jsonl(tmp_path / "corpus.jsonl", [{"_id": "1", "text": 3}])
    with pytest.raises(ValueError, match="text of document '1' is not a string"):
        list(pt.get_dataset(f"folder:{tmp_path}").get_corpus_iter(verbose=False))


@pytest.mark.parametrize("name", ["text", "contents", "content", "segment", "body", "passage"])
def test_texts_by_the_names_that_files_use(name, tmp_path):
    rows = [{"_id": "1", name: "red cat"}, {"_id": "2", name: None}, {"_id": "3", "title": "t"},
            {"_id": "4", "text": None, "title": "u", name: "blue"}]  # fmt: skip
    jsonl(tmp_path / "corpus.jsonl", rows)
    documents = list(pt.get_dataset(f"folder:{tmp_path}").get_corpus_iter(verbose=False))
    assert documents == [
        {"docno": "1", "text": "red cat"}, {"docno": "2", "text": ""}, {"docno": "3", "text": "", "title": "t"},
        {"docno": "4", "text": "blue", "title": "u"},
    ]  # fmt: skip
    jsonl(tmp_path / "corpus.jsonl", [*rows, {"_id": "5", "abstract": "lost"}])
    with pytest.raises(ValueError, match="line 5 of .*corpus.jsonl has none of .* text, .*it has _id, abstract"):
        list(pt.get_dataset(f"folder:{tmp_path}").get_corpus_iter(verbose=False))


def test_real_collections(collections):
    dataset = pt.get_dataset(f"folder:{collections}/dl19")
    assert len(dataset.get_topics()) == 43
    run, qrels = dataset.get_results("bm25"), dataset.get_qrels()
    assert pt.Evaluate(run, qrels, ["ndcg_cut_10"])["ndcg_cut_10"] == pytest.approx(0.506, abs=5e-4)
    train = pt.get_dataset(f"folder:{collections}/msmarco_dev_sample/train")
    assert len(train.get_topics()) == 6301 and len(train.get_topics("test")) == 679


# -- docstrings -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def docs():
    return pt.get_dataset("pydocs:test")


def test_pydocs_is_a_known_item_collection(docs):
    documents, topics, qrels = docs.documents(), docs.get_topics(), docs.get_qrels()
    assert len(documents) > 3000 and len(topics) > 300
    assert {name.split(".")[0] for name in documents} >= {"numpy", "pandas", "scipy", "torch", "asyncio"}
    assert qrels["docno"].isin(documents.keys()).all() and qrels["docno"].is_unique
    assert qrels["qid"].tolist() == topics["qid"].tolist()
    texts = [document["text"].split(" ", 1)[1] for document in documents.values()]
    assert len(set(texts)) == len(texts)


def test_pydocs_queries_do_not_give_the_answer_away(docs):
    topics = docs.get_topics().merge(docs.get_qrels())
    for query, docno in zip(topics["query"], topics["docno"]):
        words = set(re.findall("[a-z0-9]+", query.lower()))
        name = docno.rsplit(".", 1)[-1]
        if name.islower():
            assert not set(name.split("_")) <= words, (query, docno)
        assert query.lower().rstrip(".") not in docs.documents()[docno]["text"].lower()
        assert 3 <= len(query.split()) <= 30
    assert topics["query"].str.lower().is_unique


def test_pydocs_splits_share_documents_but_no_query(docs):
    train, test = docs.get_topics("train"), docs.get_topics("test")
    assert not set(train["qid"]) & set(test["qid"])
    assert len(test) / (len(test) + len(train)) == pytest.approx(0.1, abs=0.02)
    with pytest.raises(KeyError):
        pt.get_dataset("pydocs:dev")


@pytest.mark.slow
def test_pydocs_is_the_same_every_time(docs):
    before = (list(docs.documents().items()), docs.get_topics())
    pydocs._read.clear()
    again = pt.get_dataset("pydocs:test")
    assert list(again.documents().items()) == before[0]
    pd.testing.assert_frame_equal(again.get_topics(), before[1])


def test_docstrings_are_read_not_run(tmp_path, monkeypatch):
    source = tmp_path / "loud.py"
    source.write_text(
        'raise SystemExit("imported!")\n\n\ndef public(a, *, b=1):\n    """Do the thing. Always.\n\n'
        + "word " * 12
        + '"""\n\n\ndef _private():\n    """No.\n\n' + "word " * 12 + '"""\n\n\n'
        "class Shape:\n    def area(self):\n        '''Area.\n\n" + "other " * 12 + "'''\n"
    )  # fmt: skip
    monkeypatch.setattr(pydocs, "_sources", lambda: [("pkg", tmp_path)])
    documents, _ = pydocs._read_sources(False)
    assert [d["docno"] for d in documents] == ["pkg.loud.Shape.area", "pkg.loud.public"]
    assert documents[1]["text"] == "pkg.loud.public(a, *, b=1) Always. " + " ".join(["word"] * 12)


# -- first stage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["pisa", "bm25s"])
def test_bm25_finds_what_shares_rare_words(engine, tmp_path, documents):
    pytest.importorskip({"pisa": "pyterrier_pisa", "bm25s": "bm25s"}[engine])
    rows = [*documents.to_dict("records"), {"docno": "zebra", "text": "the only zebras here"}]
    topics = pd.DataFrame([("1", "zebra"), ("2", "nothing matches qwerty")], columns=["qid", "query"])
    retriever = ptd.bm25(tmp_path / "index", rows, engine=engine, num_results=5)
    assert retriever(topics)[["qid", "docno"]].to_numpy().tolist() == [["1", "zebra"]]
    again = ptd.bm25(tmp_path / "index", None, engine=engine)  # now from disk
    assert again(topics)["docno"].tolist() == ["zebra"]
    assert (again % 2)(pd.DataFrame([("1", "red")], columns=["qid", "query"]))["rank"].tolist() == [0, 1]
    assert len(again(topics.head(0))) == 0


@pytest.mark.parametrize("engine", ["pisa", "bm25s"])
def test_what_bm25_ranks_first_is_what_is_measured_first(engine, tmp_path):
    pytest.importorskip({"pisa": "pyterrier_pisa", "bm25s": "bm25s"}[engine])
    rows = [{"docno": docno, "text": "red cat"} for docno in ("d3", "d1", "d5", "d2", "d4")]
    run = ptd.bm25(tmp_path / "index", rows, engine=engine)(pd.DataFrame([("1", "cat")], columns=["qid", "query"]))
    assert run["rank"].tolist() == list(range(5)) and (np.diff(run["score"].astype(np.float32)) < 0).all()
    qrels = pd.DataFrame([("1", run["docno"].iloc[0], 1)], columns=["qid", "docno", "label"])
    assert pt.Evaluate(run, qrels, ["recip_rank"])["recip_rank"] == 1


def test_bm25_on_real_queries_is_where_it_should_be(irds, tmp_path):
    """The figures of two other implementations (Anserini-like settings): 0.445."""
    collection = load_collection("irds:vaswani")
    rows = collection.documents.to_dict("records")
    for engine in ("pisa", "bm25s"):
        pytest.importorskip({"pisa": "pyterrier_pisa", "bm25s": "bm25s"}[engine])
        run = ptd.bm25(tmp_path / engine, rows, engine=engine)(collection.topics)
        assert pt.Evaluate(run, collection.qrels, ["ndcg_cut_10"])["ndcg_cut_10"] == pytest.approx(0.445, abs=0.01)


@pytest.mark.parametrize("engine", ["pisa", "bm25s"])
def test_bm25_leaves_other_peoples_directories_alone(engine, tmp_path, documents):
    pytest.importorskip({"pisa": "pyterrier_pisa", "bm25s": "bm25s"}[engine])
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "a.tex").write_text("work")
    with pytest.raises(FileExistsError, match="was not made by this program"):
        ptd.bm25(tmp_path / "thesis", documents.to_dict("records"), engine=engine)
    assert (tmp_path / "thesis" / "a.tex").read_text() == "work"
    for rows in ([], [{"docno": "1", "text": ""}, {"docno": "2", "text": "--"}]):
        with pytest.raises(ValueError, match="no document has any words"):
            ptd.bm25(tmp_path / "new", rows, engine=engine)
    with pytest.raises(ValueError, match="no text in the field 'text'"):
        ptd.bm25(tmp_path / "new", [{"docno": "1"}], engine=engine)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("engine", ["pisa", "bm25s"])
def test_bm25_takes_each_document_once(engine, tmp_path):
    pytest.importorskip({"pisa": "pyterrier_pisa", "bm25s": "bm25s"}[engine])
    rows = [{"docno": docno, "text": "red cat"} for docno in ("d1", "d2", "d1")]
    with pytest.raises(ValueError, match="docno 'd1' more than once"):
        ptd.bm25(tmp_path / "index", rows, engine=engine)
    assert not (tmp_path / "index").exists()


def test_a_frame_of_texts_gives_each_document_one():
    frame = pd.DataFrame([("1", "red"), ("2", "blue"), ("1", "red")], columns=["docno", "text"])
    wanted = pd.DataFrame([("q", "2"), ("q", "1")], columns=["qid", "docno"])
    assert text_source(frame)(wanted)["text"].tolist() == ["blue", "red"]
    with pytest.raises(ValueError, match="document '1' several texts"):
        text_source(frame.assign(text=["red", "blue", "green"]))


def test_bm25_mistakes(tmp_path):
    with pytest.raises(FileNotFoundError, match="pass the documents"):
        ptd.bm25(tmp_path / "none", engine="bm25s")
    with pytest.raises(ValueError, match="'auto', 'pisa' or 'bm25s'"):
        ptd.bm25(tmp_path / "none", engine="terrier")


def test_whole_collections_by_name(beir, irds):
    collection = load_collection(f"folder:{beir}")
    assert collection.documents.to_numpy().tolist() == [[f"d{i}", f"title {i} text ü {i}"] for i in range(3)]
    nfcorpus = load_collection("irds:beir/nfcorpus/test")
    assert len(nfcorpus.topics) == 323 and len(nfcorpus.documents) == 3633
    for name in ("pydocs:dev", "irds:no/such", "nonsense:x", "no-such-dataset"):
        with pytest.raises(ValueError, match="no dataset") as caught:
            load_collection(name)
        assert "\n" not in str(caught.value)
