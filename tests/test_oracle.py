"""Values from other people's tests: loss functions, windows, answers, ties.

Each is asserted in the named project's own tests, or was computed by its code; factors and offsets say how ours relate.
trec_eval's own ``results.test`` and ``qrels.test`` are not at hand: that row alone is no test.
"""

import math

import numpy as np
import pandas as pd
import pytest
import torch

import pyterrier_distill as ptd
from pyterrier_distill.losses import functional as F
from pyterrier_distill.teachers.responses import parse_permutation


def tensor(rows):
    """Lists as one tensor, and which entries are real (None is padding)."""
    width = max(map(len, rows))
    cells = [[*row, *[None] * (width - len(row))] for row in rows]
    mask = torch.tensor([[cell is not None for cell in row] for row in cells])
    return torch.tensor([[cell or 0.0 for cell in row] for row in cells]), mask


def value(function, scores, labels, **settings):
    given, mask = tensor(scores)
    wanted, known = tensor(labels)
    return float(function(given, wanted, mask & known, **settings))


LN2, LN3 = math.log(2), math.log(3)
ORACLE = {
    "ranknet (TF-Ranking)": (
        lambda s, y: value(F.ranknet, s, y),
        [[1, 3, 2], [1, 2, 3]],
        [[0, 0, 1], [0, 0, 2]],
        0.5166782684,
    ),
    "ranknet, ragged (TF-Ranking)": (
        lambda s, y: value(F.ranknet, s, y),
        [[1, 3, 2], [1, 3]],
        [[0, 0, 1], [0, 2]],
        0.584484,
    ),
    "ranknet × 2 (allRank)": (
        lambda s, y: 2 * value(F.ranknet, s, y),
        [[0.5, 0.3, 0.5]],
        [[0.5, 0.3, 0.5]],
        1.1962778568,
    ),
    "lambda_loss × 2 (allRank)": (
        lambda s, y: 2 * value(F.lambda_loss, s, y),
        [[0.5, 0.3, 0.5]],
        [[0.5, 0.3, 0.5]],
        1.1244146823,
    ),
    "lambda_loss, k = 2 (sentence-transformers)": (
        lambda s, y: value(F.lambda_loss, s, y, k=2),
        [[3, 2, 1, 0]],
        [[0, 1, 2, 3]],
        2.372521,
    ),
    "approx_ndcg − 1 (allRank)": (
        lambda s, y: value(F.approx_ndcg, s, y) - 1,
        [[0.5, 0.3, 0.5]],
        [[0.5, 0.3, 0.5]],
        -0.8499219417,
    ),
    "approx_ndcg − 1, label 1000 (TF-Ranking)": (
        lambda s, y: value(F.approx_ndcg, s, y) - 1,
        [[1, 3, 2]],
        [[0, None, 1000]],
        -0.8460098300,
    ),
    "list_mle (TF-Ranking)": (
        lambda s, y: value(F.list_mle, s, y),
        [[0, LN3, LN2], [0, LN2, LN3]],
        [[0, 2, 1], [1, 0, 2]],
        1.4451858789,
    ),
    "list_mle, third padded (allRank)": (
        lambda s, y: value(F.list_mle, s, y),
        [[0.5, 0.3, 0.5]],
        [[1, 0, None]],
        0.5981389284,
    ),
    "list_mle, large (TF-Ranking)": (
        lambda s, y: value(F.list_mle, s, y),
        [[0, math.log(3e30), math.log(2e30)]],
        [[0, 1, 2]],
        0.9162907,
    ),
    "list_net (allRank)": (lambda s, y: value(F.list_net, s, y), [[0.5, 0.2]], [[1, 0]], 0.635038),
    "localized_contrastive (TF-Ranking)": (
        lambda s, y: value(F.localized_contrastive, s, y),
        [[1, 3, 2]],
        [[0, 0, 1]],
        1.407606,
    ),
    "localized_contrastive, first (TF-Ranking)": (
        lambda s, y: value(F.localized_contrastive, s, y),
        [[1, 2, 3]],
        [[0, 0, 2]],
        0.407606,
    ),
    "binary_cross_entropy (TF-Ranking)": (
        lambda s, y: value(F.binary_cross_entropy, s, y),
        [[0.2, 0.5, 0.3], [0.2, 0.3, 0.5]],
        [[0, 0, 1]] * 2,
        0.7421903660,
    ),
    "margin_mse of all pairs (TF-Ranking)": (
        lambda s, y: value(F.margin_mse, s, y, pairs="all"),
        [[1, 3, 2]],
        [[0, 1, 2]],
        2.0,
    ),
}


@pytest.mark.parametrize("name", ORACLE)
def test_losses(name):
    loss, scores, labels, expected = ORACLE[name]
    assert loss(scores, labels) == pytest.approx(expected, abs=2e-6, rel=1e-5)


def test_mse_of_several_label_lists():
    """TF-Ranking: [.2, .5, .3], [.2, .3, .5] twice against [0, 0, 1], [0, 0, 2], [0, 0, 0]."""
    scores = [[0.2, 0.5, 0.3], [0.2, 0.3, 0.5], [0.2, 0.3, 0.5]]
    assert value(F.mse, scores, [[0, 0, 1], [0, 0, 2], [0, 0, 0]]) == pytest.approx(0.3933333, abs=1e-6)


def test_approx_ndcg_with_another_slope():
    """TF-Ranking: 2 (approx_ndcg(α=10) − 1), mean over lists, a list without a relevant document as 0."""
    scores = [[1.4, -2.8, -0.4], [0, 1.8, 10.2], [1, 1.2, -3.2]]
    labels = [[0, 2, 1], [1, 0, 3], [0, 0, 0]]
    each = [value(F.approx_ndcg, [s], [y], alpha=10.0) for s, y in zip(scores, labels)]
    assert each[2] == 0.0
    assert sum(2 * (one - 1) for one in each[:2]) / 2 == pytest.approx(-1.5697248993, abs=1e-5)


def test_smooth_ranks_of_far_scores():
    """TF-Ranking: [100, 300, 200, 0] stand at [3, 1, 2, 4]: ADR-MSE against these ranks is 0."""
    assert value(F.adr_mse, [[100, 300, 200, 0]], [[1, 3, 2, 0]]) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("n, windows", [(25, 2), (8, 1), (40, 3)])
def test_windows(n, windows):
    """rank_llm: windows of 20 that move by 10."""

    class Counting:
        asked = 0

        def generate(self, prompts):
            from types import SimpleNamespace

            Counting.asked += len(prompts)
            return [SimpleNamespace(text="[1] > [2]") for _ in prompts]

        def __repr__(self):
            return "Counting()"

    frame = pd.DataFrame(
        {"qid": "q", "query": "red", "docno": [f"d{i}" for i in range(n)], "text": "dog", "rank": range(n)}
    )
    ptd.ListwiseLLMTeacher(Counting(), window_size=20, stride=10)(frame)
    assert Counting.asked == windows


def test_permutation():
    """rank_llm."""
    assert list(parse_permutation("【3】 > 【1】 > 【2】", 3)[0]) == [2, 0, 1]


def test_tied_scores_share_their_rank():
    run = pd.DataFrame({"qid": "q", "docno": list("bacd"), "score": [5.0, 5.0, 5.0, 1.0], "rank": range(4)})
    out = ptd.RunTeacher(run, by="score")(pd.DataFrame({"qid": ["q"], "query": ["x"]}))
    ranks = dict(zip(out["docno"], out["teacher_rank"]))
    assert ranks["a"] == ranks["b"] == ranks["c"] < ranks["d"]
    assert np.unique(out["score"].to_numpy().astype(np.float32)).size == 4  # what is measured has an order
