"""Every public transformer once: how to make it, what it takes, what it is. What all must do is tested over this list.

Groups are read from it, never written beside it, and ``test_conformance.py`` looks for transformers that it lacks.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import pyterrier_distill as ptd
from pyterrier_distill.corpora.on_disk import DocumentsOnDisk
from pyterrier_distill.corpora.text_loader import InMemoryDataset, TextLoader
from pyterrier_distill.frames.document_text import JoinedText


class Entry(NamedTuple):
    """A transformer of the list.

    Attributes:
        make: environment → the transformer.
        takes: the kind of frame, a name of the fixture ``frames``.
        role: what it is: ``"re-ranker"`` (its score of a document depends on nothing but query and document),
            ``"pointwise teacher"`` (the same), ``"teacher"``, ``"retriever"``, ``"miner"``, or something that does not
            rank.
    """

    make: Callable[[dict[str, Any]], Any]
    takes: str
    role: str = "other"


class Documents(InMemoryDataset):
    """A dataset of a frame."""

    def __init__(self, frame):
        self.frame = frame

    def text_fields(self):
        return ["text"]

    def get_corpus_iter(self, *, verbose=True):
        return iter(self.frame.to_dict("records"))

    def __repr__(self):
        return "Documents()"


def bi_encoder(env):
    return ptd.BiEncoder(env["tiny"], precision="fp32", device="cpu")


def asymmetric(env):
    return ptd.BiEncoder(
        ptd.BiEncoder.truncated(bi_encoder(env), 2),
        doc_encoder=bi_encoder(env),
        freeze_docs=True,
        precision="fp32",
        device="cpu",
    )


def late_interaction(env):
    return ptd.LateInteraction(env["tiny"], precision="fp32", device="cpu")


def token_index(env):
    index = ptd.MultiVectorIndex(env["path"] / "docs.mvi")
    return index if index.built() else (late_interaction(env) >> index).index(env["records"])


class FirstWins:
    """Generates for listwise teachers: the order as it is shown, reversed."""

    def generate(self, prompts):
        return [SimpleNamespace(text=" > ".join(f"[{i}]" for i in range(6, 0, -1))) for _ in prompts]

    def __repr__(self):
        return "FirstWins()"


def teacher(cls, model, **settings):
    return lambda env: cls(env[model], precision="fp32", device="cpu", **settings)


def ustad_bi_encoder(env):
    return ptd.USTAD(env["tiny"], query_length=16, precision="fp32", device="cpu").as_bi_encoder()


def ustad_tokens(env):
    return ptd.USTAD(env["tiny"], query_length=16, precision="fp32", device="cpu").as_token_encoder()


def documents_apart(env):
    return ptd.BiEncoder(env["tiny"], layers=2, doc_encoder=ustad_bi_encoder(env), precision="fp32", device="cpu")


def retriever_of_a_decoder(env):
    settings = {"pooling": "lasttoken", "append_eos": True, "lora": {"r": 4}, "similarity": "dot"}
    return ptd.BiEncoder(env["tiny_llm"], **settings, precision="fp32", device="cpu")


def cached_queries(env):
    generator = teacher(ptd.SyntheticQueryGen, "plain_llm", max_new_tokens=6)(env)
    return ptd.QueryStore(env["path"] / "queries").cache(generator, batch_size=5)


def lexical(env):
    return ptd.bm25(env["path"] / "bm25s", env["records"], engine="bm25s")


def stored(env):
    return ptd.RunTeacher(env["results"].assign(teacher_score=env["results"]["teacher_score"]))


def retrieved(env):
    return ptd.RetrieverTeacher(ptd.bm25(env["path"] / "bm25s", env["records"], engine="bm25s"))


def orders(**settings):
    def make(env):
        frame = env["results"]
        turned = frame.assign(rank=frame.groupby("qid")["rank"].transform("max") - frame["rank"])
        return ptd.OrdersTeacher([frame[["qid", "docno", "rank"]], turned[["qid", "docno", "rank"]], frame], **settings)

    return make


def miner(**settings):
    def make(env):
        bm25 = ptd.bm25(env["path"] / "bm25s", env["records"], engine="bm25s")
        return ptd.mine_negatives(bm25, 10, 2, exclude=env["qrels"], text=env["documents"], **settings)

    return make


def several(env):
    bm25 = ptd.bm25(env["path"] / "bm25s", env["records"], engine="bm25s")
    judge = ptd.FalseNegativeFilter(teacher(ptd.PointwiseTeacher, "tiny_cross")(env), margin=0.0)
    settings = {"mix": "equal", "text": TextLoader(Documents(env["documents"])), "false_negatives": judge}
    return ptd.mine_negatives({"whole": bm25, "top": bm25 % 3}, n=4, **settings)


def completed(env):
    qrels = env["results"].drop_duplicates("qid")[["qid"]].merge(env["documents"][["docno"]].iloc[:9], how="cross")
    return ptd.AddPositives(qrels.assign(label=1), text=env["documents"])


def judged_by(kind, model, **rule):
    return lambda env: ptd.FalseNegativeFilter(kind(env[model], precision="fp32", device="cpu"), **rule)


def remembering(env):
    return ptd.LabelStore(env["path"] / "answers").cache(teacher(ptd.PointwiseTeacher, "tiny_cross")(env))


def texts_on_disk(env):
    return DocumentsOnDisk.write(env["path"] / "documents", env["records"]).text_loader()


def texts_of_a_store(env):
    store = ptd.LabelStore(env["path"] / "texts")
    store.add_texts(env["documents"])
    return store.text_loader()


def iterative(env):
    distiller = ptd.Distiller(bi_encoder(env), ptd.KLDivergence())
    return ptd.IterativeDistiller(lexical(env), teacher(ptd.PointwiseTeacher, "tiny_cross")(env), distiller, "rounds")


TRANSFORMERS = {
    "BiEncoder on results": Entry(bi_encoder, "R", "re-ranker"),
    "BiEncoder on queries": Entry(bi_encoder, "Q"),
    "BiEncoder on documents": Entry(bi_encoder, "D"),
    "asymmetric BiEncoder": Entry(asymmetric, "R", "re-ranker"),
    "BiEncoder of a USTAD's documents": Entry(documents_apart, "R", "re-ranker"),
    "BiEncoder (decoder, adapter)": Entry(retriever_of_a_decoder, "R", "re-ranker"),
    "query encoder": Entry(lambda env: bi_encoder(env).query_encoder(), "Q"),
    "query encoder with states": Entry(lambda env: bi_encoder(env).query_encoder(states=[2, -1]), "Q"),
    "document encoder": Entry(lambda env: bi_encoder(env).doc_encoder(), "D"),
    "scorer": Entry(lambda env: bi_encoder(env).text_scorer(), "R", "re-ranker"),
    "Distiller": Entry(lambda env: ptd.Distiller(bi_encoder(env), ptd.KLDivergence()), "R", "re-ranker"),
    "CrossEncoder": Entry(teacher(ptd.CrossEncoder, "tiny"), "R", "re-ranker"),
    "CrossEncoder (decoder)": Entry(teacher(ptd.CrossEncoder, "tiny_llm"), "R", "re-ranker"),
    "CrossEncoder (adapter)": Entry(teacher(ptd.CrossEncoder, "tiny_llm", lora={"r": 4}), "R", "re-ranker"),
    "MonoT5": Entry(teacher(ptd.MonoT5, "tiny_t5"), "R", "re-ranker"),
    "CausalReranker": Entry(teacher(ptd.CausalReranker, "tiny_llm"), "R", "re-ranker"),
    "CausalReranker (adapter)": Entry(teacher(ptd.CausalReranker, "tiny_llm", lora={"r": 4}), "R", "re-ranker"),
    "USTAD (cross)": Entry(teacher(ptd.USTAD, "tiny", mode="cross", query_length=16), "R", "re-ranker"),
    "USTAD (dual)": Entry(teacher(ptd.USTAD, "tiny", mode="dual", query_length=16), "R", "re-ranker"),
    "USTAD (late)": Entry(teacher(ptd.USTAD, "tiny", mode="late", query_length=16), "R", "re-ranker"),
    "USTAD as bi-encoder on results": Entry(ustad_bi_encoder, "R", "re-ranker"),
    "USTAD as bi-encoder on queries": Entry(ustad_bi_encoder, "Q"),
    "USTAD as bi-encoder on documents": Entry(ustad_bi_encoder, "D"),
    "USTAD as token encoder on results": Entry(ustad_tokens, "R", "re-ranker"),
    "USTAD as token encoder on queries": Entry(ustad_tokens, "Q"),
    "USTAD as token encoder on documents": Entry(ustad_tokens, "D"),
    "LateInteraction on results": Entry(late_interaction, "R", "re-ranker"),
    "LateInteraction on queries": Entry(late_interaction, "Q"),
    "LateInteraction on documents": Entry(late_interaction, "D"),
    "token query encoder": Entry(lambda env: late_interaction(env).query_encoder(), "Q"),
    "token document encoder": Entry(lambda env: late_interaction(env).doc_encoder(), "D"),
    "MaxSim scorer": Entry(lambda env: late_interaction(env).text_scorer(), "R", "re-ranker"),
    "MultiVectorIndex": Entry(token_index, "Q+tokens", "retriever"),
    "MultiVectorIndex retriever": Entry(
        lambda env: token_index(env).retriever(num_results=5, device="cpu"), "Q+tokens", "retriever"
    ),
    "MultiVectorIndex scorer": Entry(lambda env: token_index(env).scorer(device="cpu"), "R+tokens", "re-ranker"),
    "PointwiseTeacher (cross-encoder)": Entry(teacher(ptd.PointwiseTeacher, "tiny_cross"), "R", "pointwise teacher"),
    "PointwiseTeacher (monoT5)": Entry(teacher(ptd.PointwiseTeacher, "tiny_t5"), "R", "pointwise teacher"),
    "PointwiseTeacher (LLM)": Entry(teacher(ptd.PointwiseTeacher, "tiny_llm"), "R", "pointwise teacher"),
    "PointwiseTeacher (query likelihood)": Entry(
        teacher(ptd.PointwiseTeacher, "tiny_llm", kind="query_likelihood"), "R", "pointwise teacher"
    ),
    "PointwiseTeacher (re-ranker)": Entry(lambda env: ptd.PointwiseTeacher(bi_encoder(env)), "R", "pointwise teacher"),
    "PairwiseTeacher (duoT5)": Entry(teacher(ptd.PairwiseTeacher, "tiny_t5", n_pairs=6), "R", "teacher"),
    "PairwiseTeacher (LLM)": Entry(teacher(ptd.PairwiseTeacher, "tiny_llm", both_orders=True), "R", "teacher"),
    "pairs of disagreement": Entry(teacher(ptd.PairwiseTeacher, "tiny_t5", n_pairs=2, disagreement={}), "R", "teacher"),
    "PairwiseTeacher (classifier)": Entry(teacher(ptd.PairwiseTeacher, "tiny_cross"), "R", "teacher"),
    "ListwiseLLMTeacher": Entry(
        teacher(ptd.ListwiseLLMTeacher, "tiny_llm", window_size=3, stride=2, max_words=5), "R", "teacher"
    ),
    "ListwiseLLMTeacher (any)": Entry(
        lambda env: ptd.ListwiseLLMTeacher(FirstWins(), n_permutations=2), "R", "teacher"
    ),
    "SetwiseTeacher": Entry(teacher(ptd.SetwiseTeacher, "tiny_llm", k=2, set_size=3), "R", "teacher"),
    "RunTeacher": Entry(stored, "R", "teacher"),
    "RunTeacher on queries": Entry(stored, "Q", "retriever"),
    "OrdersTeacher": Entry(orders(), "R", "teacher"),
    "OrdersTeacher on queries": Entry(orders(n_pairs=3), "Q", "retriever"),
    "RetrieverTeacher": Entry(retrieved, "R", "teacher"),
    "first_stage_rank": Entry(lambda env: ptd.first_stage_rank(), "R"),
    "fuse_teachers": Entry(lambda env: ptd.fuse_teachers("score", "teacher_score"), "R", "teacher"),
    "NegativeMiner on positives": Entry(miner(), "R", "miner"),
    "NegativeMiner on queries": Entry(miner(strategy="top", max_score=9.0), "Q", "miner"),
    "NegativeMiner of pairs": Entry(miner(per="pair"), "R", "miner"),
    "AddPositives": Entry(completed, "R"),
    "NegativeMiner of several": Entry(lambda env: several(env), "R", "miner"),
    "FalseNegativeFilter": Entry(lambda env: ptd.FalseNegativeFilter(margin=0.0), "R+label"),
    "FalseNegativeFilter (scores)": Entry(judged_by(ptd.PointwiseTeacher, "tiny_cross", margin=0.0), "R+label"),
    "FalseNegativeFilter (verdicts)": Entry(judged_by(ptd.PairwiseTeacher, "tiny_t5", preference=0.5), "R+label"),
    "SpanQueries": Entry(lambda env: ptd.SpanQueries(n=3), "D"),
    "SyntheticQueryGen": Entry(teacher(ptd.SyntheticQueryGen, "plain_llm", max_new_tokens=6), "D"),
    "SyntheticQueryGen (several)": Entry(
        teacher(ptd.SyntheticQueryGen, "tiny_t5", prompt="doc2query", n=2, max_new_tokens=6), "D"
    ),
    "QueryStore": Entry(cached_queries, "D"),
    "TitleQueries": Entry(lambda env: ptd.TitleQueries(None), "D"),
    "KeyphraseQueries": Entry(
        lambda env: ptd.KeyphraseQueries(frequencies=ptd.KeyphraseQueries.frequencies_of(env["records"])), "D"
    ),
    "TopQueries": Entry(lambda env: ptd.TopQueries(100), "R+queries"),
    "TopQueries on documents": Entry(lambda env: ptd.TopQueries(100), "D+querygen"),
    "ConsistencyFilter": Entry(lambda env: ptd.ConsistencyFilter(lexical(env), depth=3), "R+queries"),
    "ConsistencyFilter on documents": Entry(lambda env: ptd.ConsistencyFilter(lexical(env), depth=3), "D+querygen"),
    "LengthFilter": Entry(lambda env: ptd.LengthFilter(2, 3), "R+queries"),
    "LanguageFilter on documents": Entry(lambda env: ptd.LanguageFilter(), "D+querygen"),
    "QueryPerturbation": Entry(teacher(ptd.QueryPerturbation, "tiny_t5", noise=0.5, max_length=8), "Q"),
    "explode_queries": Entry(lambda env: ptd.explode_queries(), "D+querygen"),
    "LabelStore.cache": Entry(remembering, "R", "teacher"),
    "LabelStore.text_loader": Entry(texts_of_a_store, "R-text"),
    "IterativeDistiller": Entry(iterative, "R", "re-ranker"),
    "TextsOnDisk": Entry(texts_on_disk, "R-text"),
    "TextLoader": Entry(lambda env: TextLoader(Documents(env["documents"])), "R-text"),
    "JoinedText": Entry(lambda env: JoinedText(Documents(env["documents"])), "R-text"),
    "BM25 (bm25s)": Entry(lambda env: lexical(env), "Q", "retriever"),
}


def named(*roles, takes=None):
    """The names of all entries of some roles."""
    return [n for n, entry in TRANSFORMERS.items() if entry.role in roles and takes in (None, entry.takes)]


RE_RANKERS = named("re-ranker", takes="R")
TEACHERS = named("teacher", "pointwise teacher", takes="R")
#: Those whose score of a document depends on nothing but the query and the document.
POINTWISE = named("re-ranker", "pointwise teacher", takes="R")
#: All that write ``score`` and ``rank``.
RANKING = named("re-ranker", "pointwise teacher", "teacher", "retriever", "miner")
