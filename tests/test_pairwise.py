"""Pairwise teachers: references one pair at a time, sampling, both orders, and a classifier that is trained."""

import hashlib
import random
import tracemalloc

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
import torch

import pyterrier_distill as ptd
from pyterrier_distill.backends.base import Backend
from pyterrier_distill.sampling.samplers import PairSampler

SHARED = dict(precision="fp32", device="cpu")


class Preferring(Backend):
    """Answers by rule: P(first) from the two documents' texts."""

    def __init__(self, rule):
        super().__init__()
        self.rule = rule
        self.prompts = []

    def choose(self, prompts, options):
        self.prompts += prompts
        self.usage.add(len(prompts))
        rows = []
        for prompt in prompts:
            lines = prompt[0]["content"].split("\n")
            p = self.rule(lines[-2].removeprefix("Document A: "), lines[-1].removeprefix("Document B: "))
            rows.append([np.log1p(-p) if p < 1 else -np.inf, np.log(p) if p > 0 else -np.inf])
        return np.array(rows, dtype=np.float32).reshape(len(prompts), len(options))

    def __repr__(self):
        return "Preferring()"


def lists(depth, queries=1):
    rows = [(f"q{q}", f"query {q}", f"d{i}", f"text {i}", -i, i) for q in range(queries) for i in range(depth)]
    return pd.DataFrame(rows, columns=["qid", "query", "docno", "text", "score", "rank"])


def reference_duot5(path, query, a, b):
    from transformers import AutoTokenizer, T5ForConditionalGeneration

    tokenizer = AutoTokenizer.from_pretrained(path)
    model = T5ForConditionalGeneration.from_pretrained(path, dtype=torch.float32).eval()
    ids = tokenizer(f"Query: {query} Document0: {a} Document1: {b} Relevant:", return_tensors="pt").input_ids
    with torch.no_grad():
        logits = model(
            input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=torch.zeros(1, 1, dtype=torch.long)
        ).logits[0, 0]
    return torch.softmax(logits[tokenizer.convert_tokens_to_ids(["▁true", "▁false"])], 0)[0].item()


def preferences(out):
    return {(row.qid, row.docno, other): p for row in out.itertuples() for other, p in row.teacher_prefs.items()}


@pytest.mark.parametrize("batch_size", [1, 3, None])
def test_duot5_equals_one_pair_at_a_time(tiny_t5, results, batch_size):
    out = ptd.PairwiseTeacher(tiny_t5, batch_size=batch_size, **SHARED)(results[results["qid"].isin(["q0", "q2"])])
    text = dict(zip(out["docno"], out["text"]))
    query = dict(zip(out["qid"], out["query"]))
    prefs = preferences(out)
    assert len(prefs) == 3 * 2 + 4 * 3
    for (qid, a, b), p in prefs.items():
        assert p == pytest.approx(reference_duot5(tiny_t5, query[qid], text[a], text[b]), abs=1e-5)
    assert np.std(list(prefs.values())) > 1e-3


def test_both_orders_average_and_report_inconsistency(tiny_t5, results):
    frame = results[results["qid"] == "q1"]
    one = preferences(ptd.PairwiseTeacher(tiny_t5, **SHARED)(frame))
    teacher = ptd.PairwiseTeacher(tiny_t5, both_orders=True, **SHARED)
    assert teacher.inconsistency is None
    both = preferences(teacher(frame))
    for (qid, a, b), p in both.items():
        assert p == pytest.approx((one[qid, a, b] + 1 - one[qid, b, a]) / 2, abs=1e-5)
        assert p + both[qid, b, a] == pytest.approx(1, abs=1e-9)
    disagree = np.mean([(one[q, a, b] > 0.5) == (one[q, b, a] > 0.5) for q, a, b in one if a < b])
    assert teacher.inconsistency == pytest.approx(disagree)


def test_a_liking_for_the_first_place_is_averaged_out():
    biased = ptd.PairwiseTeacher(Preferring(lambda a, b: 1.0), both_orders=True)
    out = biased(lists(4))
    assert biased.inconsistency == 1.0 and np.allclose(out["score"], 0.5, rtol=1e-6)
    assert (out["rank"] == [0, 1, 2, 3]).all()  # equal scores keep their incoming order


def test_score_is_the_mean_preference_and_re_ranks():
    better = Preferring(lambda a, b: 0.9 if a > b else 0.2)
    out = ptd.PairwiseTeacher(better)(lists(3))
    expected = [np.mean([0.2, 1 - 0.9] * 2), np.mean([0.9, 1 - 0.2, 0.2, 1 - 0.9]), np.mean([0.9, 1 - 0.2] * 2)]
    np.testing.assert_allclose(out["score"], expected, atol=1e-6)
    assert list(out["rank"]) == [2, 1, 0]


@pytest.mark.parametrize("both_orders, calls", [(False, 50), (True, 100)])
def test_fifty_pairs_are_fifty_calls(both_orders, calls):
    backend = Preferring(lambda a, b: 0.7)
    teacher = ptd.PairwiseTeacher(backend, n_pairs=50, delta=10, both_orders=both_orders)
    frame = lists(100, queries=3)
    assert teacher.estimate(frame).calls == 3 * calls
    out = teacher(frame)
    assert teacher.usage.calls == 3 * calls and len(backend.prompts) == 3 * calls
    near = [abs(int(a[1:]) - int(b[1:])) for _, a, b in preferences(out)]
    assert len(near) == 3 * calls and 0 < min(near) and max(near) < 10


def test_fewer_pairs_than_asked_are_all_of_them():
    assert len(PairSampler(50).draw("q", 5)) == 20
    assert len(PairSampler(50, both_orders=True).draw("q", 5)) == 20
    assert len(PairSampler(50, delta=2).draw("q", 5)) == 8
    assert PairSampler(50).draw("q", 1) == []


def test_pairs_are_uniform_over_their_set():
    """Over many queries every ordered pair within reach comes equally often (chi-square, 3 sigma)."""
    depth, delta, n, draws = 12, 4, 10, 4000
    counts = {}
    for q in range(draws):
        drawn = PairSampler(n, delta).draw(str(q), depth)
        assert len(set(drawn)) == n
        for pair in drawn:
            counts[pair] = counts.get(pair, 0) + 1
    every = [(i, j) for i in range(depth) for j in range(depth) if i != j and abs(i - j) < delta]
    assert set(counts) == set(every)
    expected = draws * n / len(every)
    chi = sum((counts[pair] - expected) ** 2 / expected for pair in every) / (1 - n / len(every))
    assert abs(chi - (len(every) - 1)) < 3 * np.sqrt(2 * (len(every) - 1))


@pytest.mark.parametrize("both_orders", [False, True])
@pytest.mark.parametrize("delta", [None, 2, 4])
def test_pairs_are_those_drawn_from_a_list_of_all(delta, both_orders):
    for depth in range(9):
        pairs = [(i, j) for i in range(depth) for j in range(i + 1, min(depth, i + (delta or depth)))]
        pairs += [] if both_orders else [(j, i) for i, j in pairs]
        for n in (1, 4, None):
            rng = random.Random(hashlib.sha256(b"7\0q").digest())
            drawn = rng.sample(pairs, len(pairs) if n is None else min(n, len(pairs)))
            expected = [pair for i, j in drawn for pair in ((i, j), (j, i))] if both_orders else drawn
            assert PairSampler(n, delta, both_orders, seed=7).draw("q", depth) == expected


def test_few_pairs_of_a_long_list_do_not_need_all_of_them():
    tracemalloc.start()
    assert len(PairSampler(50).draw("q", 10_000)) == 50
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


def test_pairs_follow_the_incoming_ranking_not_the_rows():
    teacher = ptd.PairwiseTeacher(Preferring(lambda a, b: 0.7), n_pairs=5, delta=2)
    frame = lists(20)
    shuffled = frame.sample(frac=1, random_state=2)
    assert preferences(teacher(frame)) == preferences(teacher(shuffled))
    assert preferences(ptd.PairwiseTeacher(Preferring(lambda a, b: 0.7), n_pairs=5, delta=2, seed=7)(frame)) != (
        preferences(teacher(frame))
    )


def test_documents_without_comparison_are_neutral():
    out = ptd.PairwiseTeacher(Preferring(lambda a, b: 0.9), n_pairs=1)(lists(10))
    assert np.isclose(out["score"], 0.5, rtol=1e-6).sum() == 8 and sorted(out["score"])[-1] == pytest.approx(0.9)
    assert sum(bool(cell) for cell in out["teacher_prefs"]) == 1


def test_lists_of_one_need_no_model(tmp_path):
    out = ptd.PairwiseTeacher("no-such/model", kind="seq2seq")(lists(1, queries=2))
    assert list(out["rank"]) == [0, 0] and all(cell == {} for cell in out["teacher_prefs"])


def test_instruction_through_a_chat_template(tiny_llm, results):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = ptd.PairwiseTeacher(tiny_llm, **SHARED)(results[results["qid"] == "q0"])
    tokenizer = AutoTokenizer.from_pretrained(tiny_llm)
    model = AutoModelForCausalLM.from_pretrained(tiny_llm, dtype=torch.float32).eval()
    text, query = dict(zip(out["docno"], out["text"])), out["query"].iloc[0]
    for (_, a, b), p in preferences(out).items():
        content = (
            "Which document is more relevant to the query?\nAnswer only 'A' or 'B'.\n"
            f"Query: {query}\nDocument A: {text[a]}\nDocument B: {text[b]}"
        )
        chat = [{"role": "user", "content": content}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        with torch.no_grad():
            logits = model(ids["input_ids"]).logits[0, -1]
        first, second = (tokenizer(w, add_special_tokens=False).input_ids[0] for w in ("A", "B"))
        assert p == pytest.approx(torch.softmax(logits[[first, second]], 0)[0].item(), abs=1e-5)


def test_long_documents_are_cut_alike(tiny_t5):
    from pyterrier_distill.backends.hf import HF
    from pyterrier_distill.teachers.pairwise import PairAsker

    asker = PairAsker(HF(tiny_t5, max_length=80, **SHARED), "duot5", None)
    (prompt,) = asker.prompts([("dog", "red " * 300, "blue " * 300)])
    assert asker.backend.prompt_sizes([prompt])[0] <= 80 and prompt.endswith("Relevant:")
    assert abs(prompt.count("red") - prompt.count("blue")) <= 1
    (prompt,) = asker.prompts([("dog", "red " * 300, "blue " * 3)])
    assert prompt.count("blue") == 3 and prompt.count("red") > 20


# -- the classifier ---------------------------------------------------------------------------------------------------


def test_classifier_equals_one_sequence_at_a_time(tiny_cross, results):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_cross)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_cross).eval()
    out = ptd.PairwiseTeacher(tiny_cross, **SHARED)(results)
    text, query = dict(zip(out["docno"], out["text"])), dict(zip(out["qid"], out["query"]))
    compared = 0
    for (qid, a, b), p in preferences(out).items():
        encoded = tokenizer(query[qid], f"{text[a]} [SEP] {text[b]}", return_tensors="pt", verbose=False)
        if encoded["input_ids"].shape[1] > 128:  # the classifier cuts these, both documents alike
            continue
        compared += 1
        with torch.no_grad():
            assert p == pytest.approx(torch.sigmoid(model(**encoded).logits[0, 0]).item(), abs=1e-5)
    assert compared > 5


def test_classifier_learns_what_it_is_shown(tiny_cross, tmp_path):
    """The longer document is the relevant one: after training, unseen pairs are told apart."""
    rng = np.random.default_rng(0)
    rows = []
    for q in range(60):
        for i in range(4):
            rows.append((f"q{q}", "red dog", f"q{q}d{i}", "cat " * int(rng.integers(1, 4) if i else 12), i))
    frame = pd.DataFrame(rows, columns=["qid", "query", "docno", "text", "rank"])
    qrels = pd.DataFrame({"qid": [f"q{q}" for q in range(60)], "docno": [f"q{q}d0" for q in range(60)], "label": 1})
    training = ptd.PairTraining(learning_rate=3e-3, epochs=4, pairs_per_query=3)
    teacher = ptd.PairwiseTeacher(tiny_cross, training=training, **SHARED)
    before = repr(teacher)
    assert teacher.fit(frame[:160], qrels, frame[160:], qrels) is teacher
    assert "eval_loss" in {key for entry in teacher.history for key in entry}
    out = teacher(frame[160:])
    assert (out.loc[out["docno"].str.endswith("d0"), "rank"] == 0).mean() > 0.9
    assert repr(teacher) != before and "trained=" in repr(teacher)
    again = ptd.PairwiseTeacher(tiny_cross, training=training, **SHARED).fit(frame[:160], qrels)
    assert repr(again) == repr(teacher)  # the same seed, the same weights
    saved = teacher.save(tmp_path / "pairs")
    np.testing.assert_allclose(saved(frame[160:])["score"], out["score"], atol=1e-6)
    loaded = ptd.PairwiseTeacher(str(tmp_path / "pairs"), **SHARED)
    np.testing.assert_allclose(loaded(frame[160:])["score"], out["score"], atol=1e-6)
    with pytest.raises(FileExistsError):
        teacher.save(tmp_path / "pairs")
    few = pt.inspect.transformer_apply_attributes(teacher, n_pairs=2)  # a copy compares with the same weights
    assert "trained=" in repr(few) and few(frame[160:])["score"].nunique() > 2
    shuffled = frame[:160].sample(frac=1, random_state=1)
    again = ptd.PairwiseTeacher(tiny_cross, training=training, **SHARED).fit(shuffled, qrels)
    assert repr(again) == repr(teacher)  # the order of rows is no setting


def test_any_encoder_can_be_trained_but_not_asked_before(tiny, results, qrels):
    teacher = ptd.PairwiseTeacher(f"{tiny}/../plain", kind="classifier", **SHARED)
    with pytest.raises(ValueError, match="train one with fit"):
        teacher(results)
    with pytest.raises(ValueError, match="no trained classifier to save"):
        teacher.save("/tmp/never")
    assert teacher.fit(results, qrels)(results)["score"].between(0, 1).all()


def test_documents_cannot_set_their_own_boundaries(tiny_cross):
    classifier = ptd.PairwiseTeacher(tiny_cross, **SHARED)._comparer
    sep = classifier.tokenizer.sep_token_id
    ids = classifier.features([("dog", "cat [SEP] bird", "[CLS] tree [PAD]")])["input_ids"][0].tolist()
    assert ids.count(sep) == 3 and ids.count(classifier.tokenizer.cls_token_id) == 1


def test_classifier_settings_are_checked(tiny_cross, tiny_cross2, results):
    wrong = {"batch_size": 0, "pairs_per_query": -1, "epochs": 0, "learning_rate": 0, "warmup": 2, "max_grad_norm": -1}
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=name):
            ptd.PairTraining(**{name: value})
    with pytest.raises(TypeError, match="training must be a PairTraining"):
        ptd.PairwiseTeacher(tiny_cross, training={})
    with pytest.raises(ValueError, match="has 2 outputs: a pair classifier has one"):
        ptd.PairwiseTeacher(tiny_cross2, **SHARED)(results)
    with pytest.raises(ValueError, match="max_length=500, but .* has 128 positions"):
        ptd.PairwiseTeacher(tiny_cross, max_length=500, **SHARED)(results)


def test_equal_documents_are_no_inconsistency():
    teacher = ptd.PairwiseTeacher(Preferring(lambda a, b: 0.9), both_orders=True)
    teacher(lists(2).assign(text="same"))
    assert teacher.inconsistency is None


def test_fit_refuses_what_cannot_be_learnt(tiny_t5, tiny_cross, results, qrels):
    with pytest.raises(ValueError, match="validation needs both"):
        ptd.PairwiseTeacher(tiny_cross, **SHARED).fit(results, qrels, results)
    with pytest.raises(ValueError, match="only a classifier can be trained"):
        ptd.PairwiseTeacher(tiny_t5, **SHARED).fit(results, qrels)
    with pytest.raises(ValueError, match="two documents of different relevance"):
        ptd.PairwiseTeacher(tiny_cross, **SHARED).fit(results, qrels.assign(label=0))


def test_training_in_a_pipeline(tiny_cross, results, qrels):
    teacher = ptd.PairwiseTeacher(tiny_cross, **SHARED)
    first = pt.Transformer.from_df(results[["qid", "docno", "text", "score", "rank"]])
    (first >> teacher).fit(results[["qid", "query"]].drop_duplicates(), qrels)
    assert "trained=" in repr(teacher)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"n_pairs": 0}, "n_pairs must be"),
        ({"delta": 1}, "delta must be"),
        ({"kind": "cross-encoder"}, "kind must be one of"),
        ({"prompt": "{query} {document}"}, "lacks the placeholder {document_a}"),
    ],
)
def test_bad_settings_are_refused_at_once(tiny_t5, settings, message):
    with pytest.raises(ValueError, match=message):
        ptd.PairwiseTeacher(tiny_t5, **settings)


def test_a_document_twice_in_a_list_is_refused(tiny_t5, results):
    with pytest.raises(ValueError, match="must be unique"):
        ptd.PairwiseTeacher(tiny_t5)(pd.concat([results, results]))


def test_training_without_dropout_sees_equal_pairs_alike(tiny_cross):
    rows = [(f"q{q}", "red dog", f"q{q}d{i}", text, i) for q in range(8) for i, text in enumerate(("red dog", "cat"))]
    frame = pd.DataFrame(rows, columns=["qid", "query", "docno", "text", "rank"])
    qrels = frame[frame["rank"] == 0][["qid", "docno"]].assign(label=1)
    spread = {}
    for dropout in (0.0, 0.5):
        settings = {"learning_rate": 1e-12, "epochs": 4, "batch_size": 8, "pairs_per_query": 1, "dropout": dropout}
        teacher = ptd.PairwiseTeacher(tiny_cross, training=ptd.PairTraining(**settings), **SHARED).fit(frame, qrels)
        losses = [entry["loss"] for entry in teacher.history if "loss" in entry]
        spread[dropout] = max(losses) - min(losses)
    assert spread[0.0] < 1e-5 < spread[0.5]
    with pytest.raises(ValueError, match="dropout"):
        ptd.PairTraining(dropout=1.5)
