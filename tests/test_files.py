"""Files of others: what is read is what stands there, and what is wrong is named with its line."""

import errno
import gzip
import json
import os

import pandas as pd
import pyterrier as pt
import pytest

from pyterrier_distill.corpora.loading import load_collection, read_documents
from pyterrier_distill.stores import files, formats

QUERIES = [["q1", "red dog"], ["q2", "blue bird"]]


@pytest.fixture
def folder(tmp_path):
    """Makes a collection of these queries; ``qrels=None`` leaves the judgements out."""

    def make(queries, name="queries.tsv", qrels="query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td1\t1\n", **others):
        content = queries if isinstance(queries, bytes) else queries.encode()
        (tmp_path / name).write_bytes(content)
        (tmp_path / "corpus.jsonl").write_text('{"_id": "d1", "text": "x y"}\n{"_id": "d2", "text": "z"}\n')
        if qrels is not None:
            (tmp_path / "qrels").mkdir(exist_ok=True)
            (tmp_path / "qrels" / "test.tsv").write_bytes(qrels.encode())
        for other, text in others.items():
            (tmp_path / other.replace("__", ".")).write_text(text)
        return pt.get_dataset(f"folder:{tmp_path}")

    return make


@pytest.mark.parametrize("qrels", [True, False])
@pytest.mark.parametrize(
    "content",
    [
        b"q1\tred dog\nq2\tblue bird\n",
        b"q1\tred dog\nq2\tblue bird",
        b"\xef\xbb\xbfq1\tred dog\r\nq2\tblue bird\r\n",
        b"\n\nq1\tred dog\n \nq2\tblue bird\n\n",
        b"query_id\ttext\nq1\tred dog\nq2\tblue bird\n",
        b"_id\ttext\tmetadata\nq1\tred dog\t{}\nq2\tblue bird\t{}\n",
        b"Query\tQID\nred dog\tq1\nblue bird\tq2\n",
        b"q1\tred dog\nq1\tred dog\nq2\tblue bird\n",
        gzip.compress(b"qid\tquery\nq1\tred dog\nq2\tblue bird\n", mtime=0),
    ],
)
def test_queries_in_tsv(folder, content, qrels):
    dataset = folder(content, **({} if qrels else {"qrels": None}))
    assert dataset.get_topics().values.tolist() == QUERIES


@pytest.mark.parametrize("qrels", [True, False])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"q1\tred\tdog\nq2\tblue bird\n", "line 1: expected qid TAB query, found 3 fields"),
        (b"q1\tred dog\nq2\tblue bird\nq3\n", "line 3: expected qid TAB query, found 1 fields"),
        (b"query_id\ttext\nq1\tred dog\nq2\tblue\tbird\n", "line 3: expected query_id TAB text, found 3"),
        (b"q1\tred\rdog\nq2\tblue bird\n", r"line 1: a carriage return"),
        (b"q1\tred dog\rq2\tblue bird\r", r"line 1: a carriage return"),
        (b"q1\tred dog\nq1\tother\nq2\tblue bird\n", "line 2: query 'q1' stands in line 1 already, as 'red dog'"),
        (b"1\tred dog\n1 \tblue bird\n", "line 2: the id of a query has white space at its ends, '1 ': remove it"),
        (b"q1\tred dog\n\tblue bird\n", "line 2: the id of a query must be"),
        (b"q1\tred dog\nq2\tbl\xfce\n", "line 2: no UTF-8"),
        ("q1\tred dog\n".encode("utf-16"), "UTF-16"),
        (gzip.compress(b"q1\tred dog\nq2\tblue bird\n" * 99, mtime=0)[:-20], "damaged gzip file"),
        (gzip.compress(b"q1\tred dog\n" + b" " * (1 << 28), mtime=0), "unpacks to more than 200 times"),
    ],
)
def test_queries_that_cannot_be_read_are_named_by_line(folder, content, message, qrels):
    dataset = folder(content, **({} if qrels else {"qrels": None}))
    with pytest.raises(ValueError, match=message) as caught:
        dataset.get_topics()
    assert "queries.tsv" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"_id": "q1", "text": "a"}\n["q2", "b"]\n', "line 2 of .* is not a JSON object, but"),
        ('{"_id": "q1", "text": "a"}\n{"_id": "q1", "text": "b"}\n', "line 2: query 'q1' stands in line 1"),
        ('{"_id": null, "text": "a"}\n', "line 1: the id of a query must be text or a whole number, not None"),
        ('{"_id": " q1", "text": "a"}\n', "line 1: the id of a query has white space at its ends"),
        ('{"_id": 1.0, "text": "a"}\n', "line 1: the id of a query must be"),
        ('{"_id": "q1", "text": 7}\n', "line 1: the text of query 'q1' is not a string"),
        ('{"_id": "q1", "text": "a \\ud800"}\n', "line 1 of .*lone surrogate"),
        ('{"_id": "q1"}\n', "line 1 of .* has none of the fields query, text"),
        ('{"_id": "q1", "text": "a"}\n{"_id"\n', "line 2 of .* is not JSON"),
    ],
)
def test_json_queries_that_cannot_be_read(folder, content, message):
    with pytest.raises(ValueError, match=message):
        folder(content, "queries.jsonl").get_topics()


def test_json_with_a_mark_windows_ends_and_whole_pairs_is_read(folder):
    content = b'\xef\xbb\xbf{"_id": "q1", "text": "red \\ud83d\\ude00"}\r\n\r\n{"_id": 2, "text": "blue"}\r\n'
    dataset = folder(content, "queries.jsonl", qrels=None)
    assert dataset.get_topics().values.tolist() == [["q1", "red \U0001f600"], ["2", "blue"]]


@pytest.mark.parametrize(
    ("qrels", "message"),
    [
        ("q1\td1\t1\nq2\td1\n", "line 2: expected query-id TAB corpus-id TAB score, found 2"),
        ("q1\td1\t1\nq2\td1 \t1\n", "line 2: the id has white space at its ends, 'd1 '"),
        ("q1\td1\t1\nq2\td1\t1_0\n", "line 2: '1_0' is not a whole-number label"),
        ("q1\td1\tyes\nq2\td1\t1\n", "line 1: 'yes' is not a whole-number label"),
        ("query-id\tcorpus-id\tscore\nq1\td1\t0.5\n", "line 2: '0.5' is not a whole-number label"),
        ("q1\td1\t1\nq1\td1\t0\n", "line 2: the pair of query and document .* stands in line 1 already"),
        ("q8\td1\t1\n", "none of its 2 queries is judged in 'test'.*'q1'.*'q8'"),
    ],
)
def test_judgements_that_cannot_be_read(folder, qrels, message):
    with pytest.raises(ValueError, match=message):
        folder("q1\ta\nq2\tb\n", qrels=qrels).get_topics()


def test_judged_queries_without_text_are_told(folder, caplog):
    dataset = folder("q1\ta\n", qrels="q1\td1\t1\nq1\td1\t1.0\nq9\td1\t1\n")
    assert dataset.get_topics()["qid"].tolist() == ["q1"] and "such as 'q9'" in caplog.text
    assert dataset.get_qrels().values.tolist() == [["q1", "d1", 1], ["q9", "d1", 1]]


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("q1 Q0 d1 1 2.0 x\nq1 Q0 d 2 2 1.0 x\n", "line 2: expected qid q0 docno run_rank run_score tag, found 7"),
        ("q1 Q0 d1 1 2.0 x\nq1 Q0 d2 2 1_0 x\n", "line 2: run_score must be a number, not '1_0'"),
        ("q1 Q0 d1 1 nan x\n", "line 1: run_score must be a number"),
        ("q1 Q0 d1 1 2.0 x\nq1 Q0 d1 2 1.0 x\n", "more than once"),
        ("q1 Q0 d1 1 2.0\r x\n", "line 1: a carriage return"),
        ("", "no ranking"),
    ],
)
def test_runs_that_cannot_be_read(folder, run, message):
    dataset = folder("q1\ta\nq2\tb\n")
    (dataset.path / "runs").mkdir()
    (dataset.path / "runs" / "bm25.txt").write_text(run, newline="")
    with pytest.raises(ValueError, match=message):
        dataset.get_results("bm25")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"qid": "1", "docno": "a", "score": 1.0}, "line 1: the rank must be a number, not None"),
        ({"qid": "1", "rank": 1}, "line 1 of .* has none of the fields docno"),
        ({"qid": None, "docno": "a", "rank": 1}, "line 1: the qid must be"),
    ],
)
def test_a_ranking_in_json(folder, row, message):
    dataset = folder("1\ta\n", rerank__jsonl=json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=message):
        dataset.get_results()


def test_documents_stand_once(folder):
    dataset = folder("q1\ta\nq2\tb\n")
    with open(dataset.path / "corpus.jsonl", "a") as out:
        out.write('{"_id": "d1", "text": "another"}\n')
    for read in (dataset.documents, lambda: read_documents(dataset), lambda: load_collection(f"folder:{dataset.path}")):
        with pytest.raises(ValueError, match="document 'd1' more than once"):
            read()
    with open(dataset.path / "corpus.jsonl", "w") as out:
        out.write('{"_id": "d1", "text": "x"}\n[1, 2]\n')
    with pytest.raises(ValueError, match="line 2 of .*corpus.jsonl is not a JSON object"):
        list(dataset.get_corpus_iter(verbose=False))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"query": "q", "contents": "d", "true_logit": NaN, "false_logit": 1}\n', "entry 1: ValueError nan"),
        ('{"query": {"qid": null}, "candidates": [{"docid": "a"}]}\n', "line 1: the qid must be"),
        ('[{"query": {"qid": 1}, "candidates": [{"docid": "a"}]}, 7]', "entry 2: expected a JSON object"),
        ("\xef\xbb\xbf1 Q0 a 1 0.5 x\n1 Q0 b b 2 0.5 x\n", "line 2: expected"),
    ],
)
def test_labels_of_others_that_cannot_be_read(tmp_path, content, message):
    (tmp_path / "labels").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=message):
        formats.read_labels(tmp_path / "labels")


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError), files.written(path) as out:
        out.write("half")
        1 / 0  # noqa: B018
    assert path.read_text() == "before" and os.listdir(tmp_path) == ["out.txt"]
    with files.written(path) as out:
        out.write("after")
    assert path.read_text() == "after" and os.listdir(tmp_path) == ["out.txt"]
    with files.written(tmp_path / "out.gz") as out:
        out.write("packed")
    assert gzip.decompress((tmp_path / "out.gz").read_bytes()) == b"packed"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_full_disk_is_told_with_the_name():
    with pytest.raises(OSError, match="/dev/full") as caught, files.written("/dev/full") as out:
        out.write("x" * 100_000)
    assert caught.value.errno == errno.ENOSPC


def test_read_documents_of_a_frame_says_what_is_wrong():
    with pytest.raises(ValueError, match="'a' has two texts"):
        read_documents(pd.DataFrame({"docno": ["a", "a"], "text": ["x", "y"]}))
