"""Secrets, in whatever shape settings and messages hold them, are not written down."""

import traceback

import pyterrier as pt
import pytest
from generating import docs
from labelling import Candidates, Scorer, topics

import pyterrier_distill as ptd
from pyterrier_distill.stores import redaction


@pytest.mark.parametrize(
    "told, left",
    [
        ("see https://u:SECRET,p;w)x@host/a, and", "see https://host/a, and"),
        ("https://u:SEC/RET@host/v1", "https://host/v1"),
        ("auth=('user','SECRET')", "auth=***"),
        ("X(api_keys=['SECRETa', 'b)'], n=1)", "X(api_keys=***, n=1)"),
        ("passwd={'a': 'SECRET'}", "passwd=***"),
        ("api_key=Secret('SECRET'), n=1", "api_key=***, n=1"),
        ("h=[('X-Api-Key', 'SECRETkey'), ('Accept', 'json')]", "h=[('X-Api-Key', ***), ('Accept', 'json')]"),
        ("gsk_SECRETSECRETSECRET or npm_SECRETSECRETSECRET", "*** or ***"),
        ("r8_SECRETSECRETSECRET or AIzaSECRETSECRETSECRET", "*** or ***"),
        ("proxy user:SECRETpw@host:8080", "proxy ***@host:8080"),
        ("Key(key='SECRET2xx')", "Key(key=***)"),
        *((same, same) for same in (
            "http://host:8000/v1/x@y", "see http://a.com,b@c.d", "answers=('pass', 'fail')", "mailto:x@y.com",
            "Key(key='text', token='[PAD]')", "sort_key=('a', 'b')", "max_tokens={'a': 'b'}",
        )),
    ],
)  # fmt: skip
def test_secrets_are_told_by_their_shape_and_place(told, left):
    assert redaction.text(told) == left


class Served(Scorer):
    def __init__(self, headers=None, url=None, auth=None):
        super().__init__()
        self.headers, self.url, self.auth = headers, url, auth


class Writing(pt.Transformer):
    """A generator of queries."""

    def __init__(self, header):
        self.header = header

    def transform(self, inp):
        pt.validate.document_frame(inp, ["text"])
        return inp.assign(querygen=inp["text"])


def test_stores_hold_no_secrets_and_ask_for_none(tmp_path):
    pytest.importorskip("pyarrow")

    def served(key):
        return Served([("X-Api-Key", key), ("Accept", "json")], "https://u:SECRET,pw@host/", {"token": key})

    store = ptd.LabelStore(tmp_path / "l").build(Candidates() >> served("SECRET1"), topics(2), verbose=False)
    store.build(Candidates() >> served("SECRET2"), topics(3), verbose=False)
    for _ in range(2):
        ptd.QueryStore(tmp_path / "q").cache(Writing("Authorization: Bearer SECRETabc"))(docs("red"))
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and b"SECRET" in p.read_bytes()]
    server = ptd.OpenAI("m", base_url="https://u:SEC/RET@host/v1", extra={"h": [["X-Api-Key", "SECRET1"]]})
    assert "SEC" not in repr(server)


def test_a_server_that_repeats_the_key_is_not_quoted(results):
    class Echoing:
        def __init__(self):
            self.api_key = "SECRETwords"

        def generate(self, prompts):
            raise RuntimeError("401: wrong key, you sent SECRETwords")

    with pytest.raises(ptd.LabellingError, match="wrong key") as caught:
        ptd.ListwiseLLMTeacher(Echoing())(results)
    assert "SECRETwords" not in "".join(traceback.format_exception(caught.value))
