"""Losses as pure functions of tensors.

Letters: B queries, N documents of a list (padded), M scored documents of a batch, R rows, D dimensions.
Everywhere a higher score means more relevant, and ``mask`` ``[B, N]`` is bool with True = a real document (None = all
are). Padding never contributes: its values may be anything, NaN included. Computed in float32 whatever comes in.
Labels carry no gradient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_EXCLUDED = float("-inf")


def kl_divergence(student: Tensor, teacher: Tensor, mask: Tensor | None = None, temperature: float = 1.0) -> Tensor:
    """KL(softmax(t / T) ‖ softmax(s / T)), mean over queries.

    There is no T² factor, unlike sentence-transformers' ``DistillKLDivLoss``: multiply the loss by T² to get it.

    Args:
        student: scores ``[B, N]``.
        teacher: scores ``[B, N]``, any scale (the softmax is over one list).
        mask: ``[B, N]``.
        temperature: T > 0, for both sides.

    Returns:
        Scalar ≥ 0. A list of one document gives 0; a teacher that ties all documents asks for equal student scores.

    Raises:
        ValueError: for a temperature that is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature!r}.")
    student, teacher, mask = _lists(student, teacher, mask)
    log_s = _log_softmax(student / temperature, mask)
    log_t = _log_softmax(teacher / temperature, mask)
    return _mean_over_queries((log_t.exp() * (log_t - log_s)).masked_fill(~mask, 0.0).sum(dim=-1), mask)


def list_net(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """ListNet's top-one cross-entropy −Σ softmax(t) log softmax(s), mean over queries (Cao et al. 2007).

    It is :func:`kl_divergence` at T = 1 plus the teacher's entropy: the same gradient, another value.

    Args:
        student: scores ``[B, N]``.
        teacher: scores ``[B, N]``.
        mask: ``[B, N]``.

    Returns:
        Scalar ≥ 0. A list of one document gives 0.
    """
    student, teacher, mask = _lists(student, teacher, mask)
    log_s = _log_softmax(student, mask)
    target = _log_softmax(teacher, mask).exp()
    return _mean_over_queries(-(target * log_s).masked_fill(~mask, 0.0).sum(dim=-1), mask)


def mse(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference of scores over real documents, pooled over the batch (USTAD Eq. 18, as a mean).

    Args:
        student: scores ``[B, N]``.
        teacher: scores ``[B, N]`` on the scale the student shall learn.
        mask: ``[B, N]``.

    Returns:
        Scalar ≥ 0.
    """
    student, teacher, mask = _lists(student, teacher, mask)
    return _masked_mean((student - teacher).square(), mask)


def margin_mse(student: Tensor, teacher: Tensor, mask: Tensor | None = None, pairs: str = "first") -> Tensor:
    """Squared difference of the student's and the teacher's margins, mean over pairs (Hofstätter et al. 2020).

    Margins are signed. Adding a constant to all scores of a list changes nothing; scaling does.

    Args:
        student: scores ``[B, N]``.
        teacher: scores ``[B, N]``, raw scores rather than probabilities (a sigmoid flattens the margins).
        mask: ``[B, N]``.
        pairs: ``"first"``: document 0 against each other one of its list (put the positive first; as in
            sentence-transformers). ``"all"``: every pair with t_i > t_j, so that document order does not matter.

    Returns:
        Scalar ≥ 0; 0 where no list has a pair. With ``"all"`` an all-tied list has none.

    Raises:
        ValueError: for another word in ``pairs``.
    """
    student, teacher, mask = _lists(student, teacher, mask)
    if pairs == "first":
        difference = (student[:, :1] - student[:, 1:]) - (teacher[:, :1] - teacher[:, 1:])
        return _masked_mean(difference.square(), mask[:, 1:] & mask[:, :1])
    if pairs != "all":
        raise ValueError(f"pairs must be 'first' or 'all', not {pairs!r}.")
    student_margin = student[:, :, None] - student[:, None, :]
    teacher_margin = teacher[:, :, None] - teacher[:, None, :]
    ordered = (teacher_margin > 0) & mask[:, :, None] & mask[:, None, :]
    return _masked_mean((student_margin - teacher_margin).square(), ordered)


def localized_contrastive(student: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """−log softmax at each relevant document over its own list, mean over relevant documents (LCE, Gao et al. 2021).

    Args:
        student: scores ``[B, N]``.
        labels: judgements ``[B, N]``; > 0 is relevant. With one relevant document in each list this is the
            cross-entropy of peers; with several, each counts alike and the others stay in its denominator.
        mask: ``[B, N]``.

    Returns:
        Scalar ≥ 0; 0 where nothing is relevant.
    """
    student, labels, mask = _lists(student, labels, mask)
    return _masked_mean(-_log_softmax(student, mask), (labels > 0) & mask)


def info_nce(scores: Tensor, target: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross-entropy over a query's own list and the batch's other documents, mean over queries with a positive.

    Args:
        scores: ``[B, M]``, each query against its candidates; −inf leaves a candidate out (a second positive, say).
        target: int ``[B]``, the column of each query's positive; −1 = none, the query does not count.
        temperature: scores are divided by it.

    Returns:
        Scalar ≥ 0; 0 where no query has a positive.
    """
    counted = target >= 0
    scores = scores.float().masked_fill(~counted.unsqueeze(-1), 0.0)  # whatever stands there, it has no gradient
    log_p = F.log_softmax(scores / temperature, dim=-1)
    picked = log_p.gather(-1, target.clamp_min(0).long().unsqueeze(-1)).squeeze(-1)
    return _masked_mean(-picked, counted)


def embedding_match(student: Tensor, teacher: Tensor, distance: str = "l2") -> Tensor:
    """Distance of student and teacher embeddings, mean over rows (USTAD / EmbedDistill Eq. 10-11).

    Args:
        student: ``[R, D]``, already projected to the teacher's dimension.
        teacher: ``[R, D]``.
        distance: ``"l2"`` the Euclidean norm, not squared (the paper's); ``"mse"`` the squared difference, mean over
            dimensions; ``"cosine"`` 1 − cosine similarity.

    Returns:
        Scalar ≥ 0; 0 for no rows.

    Raises:
        ValueError: if the shapes differ, or for another distance.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"student and teacher embeddings differ in shape, {tuple(student.shape)} and {tuple(teacher.shape)}:"
            " give the student a projection to the teacher's dimension, e.g. BiEncoder(..., projection=384)."
        )
    student, teacher = student.float(), teacher.detach().float()
    if distance == "l2":
        rows = torch.linalg.vector_norm(student - teacher, dim=-1)
    elif distance == "mse":
        rows = (student - teacher).square().mean(dim=-1)
    elif distance == "cosine":
        rows = 1 - F.cosine_similarity(student, teacher, dim=-1)
    else:
        raise ValueError(f"distance must be 'l2', 'mse' or 'cosine', not {distance!r}.")
    return rows.sum() / max(1, rows.numel())


def hidden_state_match(student: Tensor, teacher: Tensor) -> Tensor:
    """Euclidean distance of the directions of student and teacher states, mean over tokens, sum over layers.

    Args:
        student: ``[T, K, D]``: K layers' states of T tokens.
        teacher: ``[T, K, D]``.

    Returns:
        Scalar between 0 and 2 K; 0 for no tokens. Lengths do not matter: each state is divided by its norm.

    Raises:
        ValueError: if the shapes differ.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"student and teacher states differ in shape, {tuple(student.shape)} and {tuple(teacher.shape)}:"
            " tokens, number of layers and width must agree."
        )
    student, teacher = F.normalize(student.float(), dim=-1), F.normalize(teacher.detach().float(), dim=-1)
    return torch.linalg.vector_norm(student - teacher, dim=-1).sum() / max(1, len(student))


def score_match(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean absolute difference of two modes' scores over real documents (USTAD Eq. 8). Both sides get gradients.

    Args:
        a: scores ``[B, N]`` of one mode.
        b: scores ``[B, N]`` of another; detach it to let only ``a`` move.
        mask: ``[B, N]``.

    Returns:
        Scalar ≥ 0.
    """
    if a.shape != b.shape:
        raise ValueError(f"the two modes' scores differ in shape: {tuple(a.shape)} and {tuple(b.shape)}.")
    mask = torch.ones_like(a, dtype=torch.bool) if mask is None else mask.bool()
    return _masked_mean((a.float() - b.float()).masked_fill(~mask, 0.0).abs(), mask)


def _lists(student: Tensor, labels: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """float32 student, float32 labels without gradient, bool mask; padding overwritten by 0."""
    if student.shape != labels.shape:
        raise ValueError(f"scores and labels differ in shape: {tuple(student.shape)} and {tuple(labels.shape)}.")
    mask = torch.ones_like(student, dtype=torch.bool) if mask is None else mask.bool()
    return student.float().masked_fill(~mask, 0.0), labels.detach().float().masked_fill(~mask, 0.0), mask


def _log_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """log softmax over real documents; 0 in the padding, so that products with it stay finite."""
    empty = ~mask.any(dim=-1, keepdim=True)
    return F.log_softmax(scores.masked_fill(~(mask | empty), _EXCLUDED), dim=-1).masked_fill(~mask, 0.0)


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return values.masked_fill(~mask, 0.0).sum() / mask.sum().clamp_min(1)


def _mean_over_queries(per_query: Tensor, mask: Tensor) -> Tensor:
    return _masked_mean(per_query, mask.any(dim=-1))
