"""What a USTAD gives besides scores: tokens for an index, vectors of pairs, matching towards one of its modes."""

import itertools

import numpy as np
import pytest
import torch

import pyterrier_distill as ptd
from pyterrier_distill.losses.base import Outputs

FP32 = {"precision": "fp32", "device": "cpu"}
START = 16


@pytest.fixture
def student(tiny):
    scale = {"late": 0.1, "cross": 2.0}
    return ptd.USTAD(tiny, modes=("cross", "dual", "late"), query_length=START, scale=scale, **FP32)


def read_together(name, query, text, pooling="mean"):
    """Both vectors of a pair by transformers alone: [CLS] q [SEP] d [SEP], a document at positions from START on."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(name), AutoModel.from_pretrained(name).eval()
    q, d = (tokenizer(one, add_special_tokens=False)["input_ids"] for one in (query, text))
    d = d[: tokenizer.model_max_length - START - 1]
    q, d = [tokenizer.cls_token_id, *q, tokenizer.sep_token_id], [*d, tokenizer.sep_token_id]
    places = [*range(len(q)), *range(START, START + len(d))]
    segments = [0] * len(q) + [1] * len(d)
    ids = {"input_ids": q + d, "position_ids": places, "token_type_ids": segments}
    with torch.no_grad():
        states = model(**{name: torch.tensor([row]) for name, row in ids.items()}).last_hidden_state[0]
    return states[: len(q)].mean(dim=0).numpy(), states[len(q) :].mean(dim=0).numpy()


def test_vectors_of_pairs_are_the_dual_pooled_ones_of_the_cross_mode(student, tiny, results):
    pairs = list(zip(results["query"], results["text"], strict=True))
    queries, documents = student.pair_vectors(pairs)
    assert queries.shape == documents.shape == (len(pairs), 32) and queries.dtype == np.float32
    for row in (0, 5, 17):
        query, document = read_together(tiny, *pairs[row])
        np.testing.assert_allclose(queries[row], query, atol=1e-5)
        np.testing.assert_allclose(documents[row], document, atol=1e-5)
    expected = student.in_mode("cross")(results)["score"]
    np.testing.assert_allclose(2.0 * (queries * documents).sum(axis=1), expected, rtol=1e-5, atol=1e-5)
    alone = student.vectors(results["query"].tolist(), "query")
    assert not np.allclose(queries, alone, atol=1e-3)  # a query in the sight of a document is another
    np.testing.assert_array_equal(student.pair_vectors(zip(results["query"], results["text"]))[0], queries)
    for mode in ("cross", "dual"):
        by_mode = student.in_mode(mode)
        np.testing.assert_array_equal(by_mode.scores(zip(*zip(*pairs))), by_mode.scores(pairs))
    mistakes = [(wrong, "pairs, such as zip") for wrong in (results[["query", "text"]], 5)]
    mistakes += [([wrong], "but one is") for wrong in (("a", "b", "c"), "ab", ("a", None))]
    for wrong, words in mistakes:
        for read in (student.pair_vectors, student.scores):
            with pytest.raises(TypeError, match=words):
                read(wrong)
    for nothing in student.pair_vectors([]):
        assert nothing.shape == (0, 0)


def test_tokens_of_the_late_mode_are_indexed_and_retrieved(student, results, tmp_path):
    encoder = student.as_token_encoder()
    expected = student.in_mode("late")(results)["score"].to_numpy()
    np.testing.assert_allclose(encoder(results)["score"], expected, rtol=1e-5, atol=1e-5)
    index = ptd.MultiVectorIndex(tmp_path / "docs.mvi")
    (encoder >> index).index(results[["docno", "text"]].drop_duplicates().to_dict("records"))
    topics = results[["qid", "query"]].drop_duplicates()
    found = (encoder.query_encoder() >> index.retriever(num_results=12))(topics)
    both = found.merge(results.assign(expected=expected), on=["qid", "docno"])
    assert len(both) == len(results)
    np.testing.assert_allclose(both["score_x"], both["expected"], rtol=2e-3)  # an index holds float16
    again = (encoder.query_encoder() >> index.scorer())(results)["score"]
    np.testing.assert_allclose(again, expected, rtol=2e-3)


def test_a_saved_ustad_gives_the_same_tokens(student, results, tmp_path):
    saved = student.save(tmp_path / "ustad")
    saved.precision = "fp32"
    for task, texts in (("query", results["query"].tolist()), ("document", results["text"].tolist())):
        mine, theirs = (one.as_token_encoder().encode(texts, task) for one in (student, saved))
        assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(mine, theirs, strict=True))
    encoder = student.as_token_encoder()
    assert encoder.encode([], "query") == [] and encoder.dimension == 32
    assert encoder == student.as_token_encoder() != saved.as_token_encoder()
    with pytest.raises(ValueError, match="task must be 'query' or 'document', not 'passage'"):
        encoder.encode(["red"], "passage")


# -- self-distillation ------------------------------------------------------------------------------------------------


def outputs(modes):
    """Scores of three modes of two lists, the second with a document less."""
    torch.manual_seed(0)
    mask = torch.tensor([[True] * 3, [True, True, False]])
    scores = {mode: torch.randn(2, 3, requires_grad=True) for mode in modes}
    each = {mode: Outputs(mask=mask, scores=one) for mode, one in scores.items()}
    return Outputs(mask=mask, modes=each), scores, mask


def test_the_mode_that_stands_gets_no_gradient():
    given, scores, mask = outputs(("cross", "dual", "late"))
    loss = ptd.ScoreMatch(towards="cross").total(given, {})
    stands = scores["cross"].detach()
    expected = sum((scores[mode] - stands)[mask].abs().mean() for mode in ("dual", "late"))
    assert float(loss.detach()) == pytest.approx(float(expected.detach()))
    loss.backward()
    assert scores["cross"].grad is None
    for mode in ("dual", "late"):
        torch.testing.assert_close(scores[mode].grad, torch.sign(scores[mode] - stands).detach() * mask / mask.sum())


def test_without_it_all_pairs_move_as_before():
    given, scores, mask = outputs(("cross", "dual", "late"))
    loss = ptd.ScoreMatch().total(given, {})
    pairs = itertools.combinations(scores.values(), 2)
    assert float(loss.detach()) == pytest.approx(float(sum((a - b)[mask].abs().mean() for a, b in pairs).detach()))
    loss.backward()
    assert all(one.grad is not None for one in scores.values())
    assert repr(ptd.ScoreMatch()) == "ScoreMatch()"
    assert repr(ptd.ScoreMatch(towards="dual")) == "ScoreMatch(towards='dual')"


def test_it_teaches_what_the_scores_of_the_stronger_mode_as_labels_do(tiny, results):
    """Gradients of the weights are those of matching a column that holds the cross mode's scores."""
    from pyterrier_distill.training.lists import Collator
    from pyterrier_distill.training.reading import Reader

    def gradients(student, loss, frame):
        distiller = ptd.Distiller(student, loss, verbose=False)
        batch = Collator(student, loss)(Reader(student, loss, None, None, distiller, None).read(frame))
        out = student.forward(batch["batch"], batch["mask"], loss.needs)
        loss.total(out, batch["labels"]).backward()
        return {name: p.grad for name, p in student.model.named_parameters() if p.grad is not None}

    both, dual = (ptd.USTAD(tiny, modes=modes, query_length=START, **FP32) for modes in (("cross", "dual"), "dual"))
    stands = both.in_mode("cross")(results)["score"]
    found = gradients(both, ptd.ScoreMatch(towards="cross"), results)
    expected = gradients(dual, ptd.ScoreMatch(label="teacher_score"), results.assign(teacher_score=stands))
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_modes_that_are_not_trained_are_refused_when_built(tiny, student):
    loss = ptd.LocalizedContrastive() + 0.1 * ptd.ScoreMatch(towards="crossed")
    with pytest.raises(ValueError, match="the student trains cross, dual, late: towards must be one of these"):
        ptd.Distiller(student, loss)
    two = ptd.USTAD(tiny, modes=("dual", "late"), **FP32)
    with pytest.raises(ValueError, match="the student trains dual, late"):
        ptd.Distiller(two, ptd.ScoreMatch(towards="cross"))
    with pytest.raises(ValueError, match="towards='cross' names a mode of the student and label='teacher_score' a col"):
        ptd.ScoreMatch(label="teacher_score", towards="cross")
