"""Indexes and collections are known by what is in them, wherever they lie; a setting of a backend only as one."""

import json
import shutil

import pandas as pd
import pyterrier as pt
import pytest
from labelling import Candidates, Scorer, topics

import pyterrier_distill as ptd
from pyterrier_distill.identity.identity import difference, digest, identity

pytest.importorskip("pyarrow")
FP32 = {"precision": "fp32", "device": "cpu"}
DOCUMENTS = [{"docno": f"d{n}", "text": f"red dog number {n}"} for n in range(6)]
OTHERS = [{"docno": f"e{n}", "text": f"red dog number {n}"} for n in range(6)]


def bm25s(path, documents, tiny):
    return ptd.bm25(path, documents, engine="bm25s")


def pisa(path, documents, tiny):
    pytest.importorskip("pyterrier_pisa")
    return ptd.bm25(path, documents, engine="pisa")


def flex(path, documents, tiny):
    import pyterrier_dr

    index = pyterrier_dr.FlexIndex(str(path))
    if not path.exists():
        (ptd.BiEncoder(tiny, **FP32) >> index).index(documents)
    return index.np_retriever()


def multi(path, documents, tiny):
    index = ptd.MultiVectorIndex(path)
    if not path.exists():
        (ptd.LateInteraction(tiny, **FP32) >> index).index(documents)
    return index.scorer()


def folder(path, documents, tiny):
    if not path.exists():
        path.mkdir()
        (path / "corpus.jsonl").write_text("".join(json.dumps(d) + "\n" for d in documents))
    return pt.get_dataset(f"folder:{path}").text_loader()


@pytest.mark.parametrize("make", [bm25s, pisa, flex, multi, folder])
def test_places_are_known_by_their_content(make, tmp_path, tiny):
    first = tmp_path / "first"
    before = identity(make(first, DOCUMENTS, tiny))
    shutil.copytree(first, tmp_path / "copy")
    assert identity(make(tmp_path / "copy", DOCUMENTS, tiny)) == before
    assert identity(make(tmp_path / "again", DOCUMENTS, tiny)) == before
    shutil.rmtree(first)
    other = identity(make(first, OTHERS, tiny))
    assert digest(other) != digest(before) and difference(json.loads(json.dumps(before)), other) is not None


def test_searching_an_index_does_not_change_it(tmp_path, tiny):
    search = pisa(tmp_path / "pisa", DOCUMENTS, tiny)
    (tmp_path / "pisa" / "documents.sha256").unlink()  # as an earlier version made it
    before = identity(search)
    ptd.bm25(tmp_path / "pisa", engine="pisa", k1=1.7)(pd.DataFrame({"qid": ["1"], "query": ["dog"]}))
    assert identity(search) == before


def test_places_as_they_were_written_once_are_the_same(tmp_path, tiny):
    told = identity(bm25s(tmp_path / "index", DOCUMENTS, tiny))
    assert difference({**told, "path": str((tmp_path / "index").resolve())}, told) is None
    assert difference({**told, "path": "/elsewhere"}, told) is not None
    told = identity(folder(tmp_path / "folder", DOCUMENTS, tiny))
    assert difference({**told, "dataset": f"FolderDataset({str(tmp_path / 'folder')!r})"}, told) is None


def test_a_build_over_another_index_is_refused_and_over_a_moved_one_goes_on(path, tmp_path, tiny):
    text = pt.apply.generic(lambda rows: rows.assign(text="t" + rows["docno"]))
    queries = topics(3).assign(query="red dog")
    store = ptd.LabelStore(path)
    store.build(bm25s(tmp_path / "index", DOCUMENTS, tiny) >> text >> Scorer(), queries.head(1), verbose=False)
    shutil.move(tmp_path / "index", tmp_path / "moved")
    store.build(bm25s(tmp_path / "moved", None, tiny) >> text >> Scorer(), queries.head(2), verbose=False)
    with pytest.raises(ValueError, match="built otherwise.*path"):
        store.build(bm25s(tmp_path / "index", OTHERS, tiny) >> text >> Scorer(), queries, verbose=False)


class Passager(pt.Transformer):
    def __init__(self, options):
        self.options = options

    def transform(self, inp):
        return inp.assign(text=inp["text"].str[: self.options["block_size"]])


def test_options_of_others_are_not_those_of_vllm(path):
    store = ptd.LabelStore(path)
    store.build(Candidates() >> Passager({"block_size": 3}) >> Scorer(), topics(1), verbose=False)
    with pytest.raises(ValueError, match="block_size was 3 and is 9"):
        store.build(Candidates() >> Passager({"block_size": 9}) >> Scorer(), topics(2), verbose=False)


def test_trusting_a_directory_without_code_changes_nothing(tmp_path, tiny_cross):
    shutil.copytree(tiny_cross, tmp_path / "m")

    def same():
        given = [ptd.PointwiseTeacher(tmp_path / "m", trust_remote_code=trust) for trust in (False, True)]
        return difference(*map(identity, given)) is None and len({digest(identity(one)) for one in given}) == 1

    assert same()
    (tmp_path / "m" / "modeling_own.py").write_text("")
    assert not same()


def test_settings_of_an_open_index_count(tmp_path, tiny):
    documents = [{"docno": f"d{n}", "text": "red " * (n + 1) + "dog"} for n in range(4)]
    query = pd.DataFrame({"qid": ["1"], "query": ["red"]})
    search = bm25s(tmp_path / "index", documents, tiny)
    search(query)
    search.k1 = 3.0
    expected = ptd.bm25(tmp_path / "index", engine="bm25s", k1=3.0)(query)
    pd.testing.assert_frame_equal(search(query), expected)


def test_a_re_ranker_that_gives_no_number_is_named():
    lost = pt.apply.generic(lambda rows: rows.assign(score=[float("nan"), *rows["score"][1:]]))
    with pytest.raises(ValueError, match="no number as the score of 1 of 4 documents, such as 'd0' of query 'q0'"):
        ptd.PointwiseTeacher(lost)(Candidates()(topics(1)))


class Newer(Scorer):
    """A teacher that got a setting since a store was built."""

    def __init__(self, factor=1.0, depth=None, mode="plain"):
        super().__init__(factor)
        self.depth, self.mode = depth, mode


def test_a_setting_that_is_newer_than_the_store_refuses_nothing_at_its_default():
    told = json.loads(json.dumps(identity(Candidates() >> Newer(2.0))))
    for name in ("depth", "mode"):
        told["stages"][1].pop(name)
    assert difference(told, identity(Candidates() >> Newer(2.0))) is None
    assert "mode was None and is 'other'" in difference(told, identity(Candidates() >> Newer(2.0, mode="other")))
    told["stages"][1].pop("factor")
    assert difference(told, identity(Candidates() >> Newer(2.0))) is not None
    told = json.loads(json.dumps(identity(ptd.PairTraining())))
    told.pop("weight_decay")
    assert difference(told, identity(ptd.PairTraining())) is None
    assert difference(told, identity(ptd.PairTraining(weight_decay=0.5))) is not None
