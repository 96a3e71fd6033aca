"""One rule of what a word is, in every script, wherever words are indexed, cut, counted or compared."""

from __future__ import annotations

import logging
import random
import unicodedata

import pandas as pd
import pytest

import pyterrier_distill as ptd
from pyterrier_distill import prompts
from pyterrier_distill.corpora import engine_words
from pyterrier_distill.frames import words
from pyterrier_distill.generation.answers import key_of
from pyterrier_distill.generation.spans import Uniform

CHINESE = "信息检索是从大量文档中，找到与查询相关的文档的过程。检索模型给文档排序"
#: Script → a text, a word of it that another document lacks.
TEXTS = {
    "Cyrillic": ("информационный поиск и ранжирование документов", "поиск"),
    "Greek": ("ανάκτηση πληροφοριών και κατάταξη εγγράφων", "κατάταξη"),
    "Arabic": ("استرجاع المعلومات وترتيب الوثائق", "المعلومات"),
    "Hebrew": ("אחזור מידע ודירוג מסמכים", "מידע"),
    "Devanagari": ("हिन्दी में सूचना पुनर्प्राप्ति", "सूचना"),
    "Hangul": ("정보 검색 시스템 평가", "검색"),
    "Han": (CHINESE, "排序"),
    "Kana": ("データベースのトランザクションをけんさくする", "けんさく"),
    "Thai": ("การค้นคืนสารสนเทศและการจัดอันดับ", "สารสนเทศ"),
    "Khmer": ("ការស្វែងរកព័ត៌មាន", "ព័ត៌មាន"),
    "Lao": ("ການຄົ້ນຫາຂໍ້ມູນ", "ຂໍ້ມູນ"),
    "Burmese": ("သတင်းအချက်အလက်ရှာဖွေခြင်း", "ရှာဖွေ"),
    "Vietnamese": ("Hệ thống tìm kiếm thông tin bằng tiếng Việt", "kiếm"),
    "full-width": ("ＡＢＣ　検索　ＤＥＦ", "検索"),
}
ENGINES = ["pisa", "bm25s"]
ENGLISH = [
    "The red dog's kennel is well-known (to all); see foo_bar 3.14.",
    "a naïve café served some β-carotene, and much more of it, to a dog that had nothing else to eat: 5 ‘words’",
]


def _found(first, query):
    return first(pd.DataFrame([("q1", query)], columns=["qid", "query"]))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("script", TEXTS)
def test_a_collection_of_any_script_is_searched(script, engine, tmp_path):
    text, query = TEXTS[script]
    documents = [dict(docno="other", text=text[:3]), dict(docno="right", text=text)]
    first = ptd.bm25(tmp_path / "index", documents, engine=engine)
    found = _found(first, query)
    assert found["docno"].iloc[0] == "right" and found["score"].iloc[0] > 0
    assert found["query"].tolist() == [query] * len(found)
    again = _found(ptd.bm25(tmp_path / "index", engine=engine), query)  # from the disk
    assert again["score"].tolist() == found["score"].tolist()


@pytest.mark.parametrize("engine", ENGINES)
def test_all_scripts_in_one_collection_beside_english(engine, tmp_path):
    documents = [dict(docno=script, text=text) for script, (text, _) in TEXTS.items()]
    documents += [dict(docno=f"e{n}", text=text) for n, text in enumerate(ENGLISH)]
    first = ptd.bm25(tmp_path / "index", documents, engine=engine)
    for script, (_, query) in TEXTS.items():
        assert script in _found(first, query)["docno"].tolist(), script
    assert _found(first, "kennel")["docno"].tolist() == ["e0"]
    topics = pd.DataFrame([(f"q{n}", q) for n, (_, q) in enumerate(TEXTS.values())], columns=["qid", "query"])
    together = first(topics)
    assert together["qid"].drop_duplicates().tolist() == topics["qid"].tolist()
    assert dict(zip(topics["qid"], topics["query"], strict=True)).items() >= set(
        zip(together["qid"], together["query"], strict=True)
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_case_and_full_width_do_not_matter(engine, tmp_path):
    documents = [dict(docno="d1", text="Информационный Поиск ＤＮＡ検査"), dict(docno="d2", text="другой документ")]
    first = ptd.bm25(tmp_path / "index", documents, engine=engine)
    for query in ("ПОИСК", "поиск", "検査"):
        assert _found(first, query)["docno"].tolist() == ["d1"], query


PLAIN = "we met in the old {} near the river bank on sunday"
VIETNAMESE, KOREAN = TEXTS["Vietnamese"][0], TEXTS["Hangul"][0]


def decomposed(text):
    return unicodedata.normalize("NFD", text)


@pytest.mark.parametrize("engine", ENGINES)
def test_forms_of_one_word_are_one(engine, tmp_path):
    """Composed or not, full width, ligatures, soft hyphens, joiners, case: in English documents and in others."""
    cases = [
        (PLAIN.format("café"), decomposed("café")), (decomposed(PLAIN.format("café")), "café"),
        (PLAIN.format("ＣＡＦＥ"), "cafe"), (PLAIN.format("cafe"), "ＣＡＦＥ"), (PLAIN.format("ﬁnally"), "finally"),
        ("café crème", decomposed("café")), (decomposed("café crème"), "café"), ("ﬁne ﬂow", "fine"),
        ("straße", "STRASSE"), ("m²", "m2"), (KOREAN, decomposed("검색")),
        (decomposed(VIETNAMESE), "kiếm"), (VIETNAMESE, decomposed("kiếm")),
        (PLAIN.format("infor\u00admation"), "information"), (PLAIN.format("information"), "infor\u00admation"),
        ("ශ්\u200dරී ලංකා", "ශ්රී"), ("می\u200cخواهم بروم", "میخواهم"), (PLAIN.format("Java™"), "java"),
        (PLAIN.format("cafe\u200bbar"), "bar"),
    ]  # fmt: skip
    documents = [dict(docno=str(n), text=text) for n, (text, _) in enumerate(cases)]
    other = dict(docno="other", text="other words in another plain document")
    for n, (document, (_, query)) in enumerate(zip(documents, cases, strict=True)):
        first = ptd.bm25(tmp_path / str(n), [other, document], engine=engine)
        assert _found(first, query)["docno"].tolist() == [str(n)], query


def test_ascii_is_indexed_as_it_stands():
    text = "The red dog's kennel -- 3.14 (foo_bar) ~ A^2"
    for read in (engine_words.for_bm25s, engine_words.for_pisa_index, engine_words.for_pisa_search):
        assert read(text) is text


@pytest.mark.parametrize("engine", ENGINES)
def test_a_null_character_is_a_space(engine, tmp_path):
    documents = [dict(docno="d1", text="red\0dog"), dict(docno="d2", text="blue bird")]
    first = ptd.bm25(tmp_path / "index", documents, engine=engine)
    for query in ("red\0", "dog", "\0dog\0red"):
        assert _found(first, query)["docno"].tolist() == ["d1"]
    assert not len(_found(first, "\0"))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_query_that_cannot_be_found_is_told(engine, tmp_path, caplog):
    first = ptd.bm25(
        tmp_path / "index", [dict(docno="d1", text="an English text"), dict(docno="d2", text=CHINESE)], engine=engine
    )
    with caplog.at_level(logging.WARNING):
        assert len(_found(first, "排序")) == 1 and len(_found(first, "english")) == 1
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        assert len(_found(first, "поиск")) == 0
    assert "поиск" in caplog.text and "find nothing" in caplog.text


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("text", ["", "?! …", "😀 🎉", "___", "\u0301"])
def test_a_collection_without_any_word_is_refused(text, engine, tmp_path):
    with pytest.raises(ValueError, match="no document has any words"):
        ptd.bm25(tmp_path / "index", [dict(docno="d1", text=text), dict(docno="d2", text=" ")], engine=engine)


def test_english_documents_are_indexed_as_pisa_reads_them(tmp_path):
    import pyterrier_pisa

    documents = [
        dict(docno=str(n), text=text)
        for n, text in enumerate([*ENGLISH, "a dog’s naïveté in a café where people who know about it tell each other"])
    ]
    plain = pyterrier_pisa.PisaIndex(str(tmp_path / "plain"), "text", stemmer="porter2", stops="lucene")
    plain.index(documents)
    ours = ptd.bm25(tmp_path / "ours", documents, engine="pisa")
    for query in ("red dog", "café", "naïve carotene", "β-carotene", "words"):
        theirs = _found(plain.bm25(k1=0.9, b=0.4), query).sort_values("docno")
        found = _found(ours, query).sort_values("docno")
        assert found[["docno", "score"]].values.tolist() == theirs[["docno", "score"]].values.tolist()


def test_names_of_words_survive_the_stemmer():
    import pyterrier_pisa

    from pyterrier_distill.corpora.engine_words import name

    rng = random.Random(0)
    terms = ["".join(chr(rng.randrange(0x400, 0x500)) for _ in range(rng.randrange(1, 60))) for _ in range(300)]
    names = [name(term) for term in terms]
    assert len(set(names)) == len(set(terms))
    assert pyterrier_pisa.tokenize(" ".join(names), "porter2") == names


def test_a_document_without_text_is_no_end_of_the_collection(tmp_path):
    documents = [dict(docno="d1", text="red dog"), dict(docno="d2"), dict(docno="d3", text="blue bird")]
    for engine in ENGINES:
        with pytest.raises(ValueError, match="document 'd2' has no text"):
            ptd.bm25(tmp_path / engine, iter(documents), engine=engine)
        assert not (tmp_path / engine).exists()


def test_pisa_refuses_a_docno_that_it_would_cut(tmp_path):
    documents = [dict(docno="d1", text="red dog"), dict(docno="d 2", text="blue bird")]
    for given in (documents, documents[::-1], iter(documents[1:])):  # also the first, when PISA has read none yet
        with pytest.raises(ValueError, match="'d 2'.*bm25s"):
            ptd.bm25(tmp_path / "pisa", given, engine="pisa")
    assert not (tmp_path / "pisa").exists()
    assert _found(ptd.bm25(tmp_path / "bm25s", documents, engine="bm25s"), "bird")["docno"].tolist() == ["d 2"]


@pytest.mark.parametrize("script", TEXTS)
def test_spans_have_the_length_that_was_asked_for(script):
    text = " ".join([TEXTS[script][0]] * 12)
    out = ptd.SpanQueries(n=20, lengths=Uniform(2, 5))(pd.DataFrame([("d1", text)], columns=["docno", "text"]))
    spans = out["querygen"][0].split("\n")
    assert len(spans) == 20 and len(set(spans)) > 5
    for span in spans:
        assert span in text.replace("\u3000", " ") and 2 <= len(words.pieces(span)) <= 5 and len(span) < len(text) / 2


def test_a_chinese_span_has_as_many_letters():
    text = "".join(chr(0x4E00 + n) for n in range(400))
    out = ptd.SpanQueries(n=50, lengths=Uniform(3, 9))(pd.DataFrame([("d1", text)], columns=["docno", "text"]))
    spans = out["querygen"][0].split("\n")
    assert {len(span) for span in spans} <= set(range(3, 10)) and all(span in text for span in spans)


@pytest.mark.parametrize(
    "text", [*ENGLISH, "  two\tspaces \n\n and — dashes… “quoted” (x)  ", "don’t 1,000.5 a/b e-mail"]
)
def test_english_is_cut_where_white_space_is(text):
    parts = words.pieces(text)
    assert [part.text for part in parts] == text.split()
    assert words.joined(parts) == " ".join(text.split()) and words.count(text) == len(text.split())


@pytest.mark.parametrize(
    "parts",
    [["བོད་", "ཡིག་", "ནི་", "ཡིན།"], ["བོད༌", "ཡིག།"], ["ሰላም፡", "ለዓለም፡", "ሁሉ።"], ["one\u200b", "two\u200b\u200b", "three"],
     ["ab་", "信", "息，"]],
)  # fmt: skip
def test_words_end_where_a_sign_stands_for_the_space(parts):
    text = "".join(parts)
    assert [part.text for part in words.pieces(text)] == parts and words.joined(words.pieces(text)) == text
    assert words.count(text) == len(parts) and words.count(f"{text} {text}") == 2 * len(parts)
    assert [words.first(text, n) for n in range(len(parts) + 1)] == ["".join(parts[:n]) for n in range(len(parts) + 1)]


def test_spans_of_tibetan_have_the_length_that_was_asked_for():
    documents = pd.DataFrame([("d", "བོད་ཡིག་ནི་བོད་པའི་ཡི་གེ་ཡིན་" * 20)], columns=["docno", "text"])
    spans = ptd.SpanQueries(n=20, lengths=Uniform(2, 5))(documents)["querygen"].iloc[0].split("\n")
    assert {span.count("་") for span in spans} == {2, 3, 4, 5}


def test_unspaced_text_is_put_together_as_it_was():
    for text in [*(text for text, _ in TEXTS.values()), "使用BM25（检索）模型 v2.0。", "- 检", "“检索”很好！"]:
        assert words.joined(words.pieces(text)) == " ".join(text.split())
        assert words.first(text, 10**6) == text and text.startswith(words.first(text, 3))
    assert [part.text for part in words.pieces("使用BM25（检索）模型。")] == [
        "使",
        "用",
        "BM25",
        "（检",
        "索）",
        "模",
        "型。",
    ]


def test_lengths_of_queries_are_words_in_every_script():
    queries = pd.DataFrame(
        [("q1", "信息检索"), ("q2", "信息"), ("q3", "信息检索" * 10), ("q4", "red dog runs"), ("q5", "red dog")],
        columns=["qid", "query"],
    ).assign(docno="d1")
    assert ptd.LengthFilter(3, 32)(queries)["qid"].tolist() == ["q1", "q4"]
    assert prompts.first_words(CHINESE, 6) == "信息检索是从" and prompts.first_words("a  b c", 2) == "a  b"


def test_keyphrases_of_other_scripts():
    documents = pd.DataFrame(
        [
            ("c", "检索模型排序。检索模型评价，检索模型训练"),
            ("h", "सूचना पुनर्प्राप्ति। सूचना पुनर्प्राप्ति"),
            ("r", "поиск документов, поиск документов"),
        ],
        columns=["docno", "text"],
    )
    out = ptd.KeyphraseQueries(n=1)(documents).set_index("docno")["querygen"]
    assert out["c"] == "检索模型" and out["h"] == "सूचना पुनर्प्राप्ति" and out["r"] == "поиск документов"


def test_titles_of_other_scripts_end_with_their_sentence():
    texts = ["信息检索很有用。排序模型", "सूचना अच्छी है। दूसरा वाक्य", "ما هو البحث؟ هذا نص"]
    out = ptd.TitleQueries(None)(pd.DataFrame({"docno": list("abc"), "text": texts}))["querygen"].tolist()
    assert out == ["信息检索很有用。", "सूचना अच्छी है।", "ما هو البحث؟"]
    cut = ptd.TitleQueries(None, max_words=4)(pd.DataFrame({"docno": ["a"], "text": ["信息检索很有用"]}))
    assert cut["querygen"].tolist() == ["信息检索"]


def test_marks_tell_words_apart():
    assert key_of("हिन्दी") != key_of("हनद") and key_of("नही") != key_of("नहीं")
    assert key_of("The Red-Dog!") == "the red dog"
