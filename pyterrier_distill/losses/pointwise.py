"""Losses that compare single scores or single margins with the teacher's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..frames import TEACHER_LOGITS, TEACHER_SCORE
from ..frames.kinds import LOGITS, Kind
from . import base

if TYPE_CHECKING:
    from torch import Tensor


class MSE(base.Loss):
    """Mean squared difference of student and teacher scores.

    Args:
        label: the teacher's scores, on the scale the student shall learn.

    References:
        USTAD (Kim et al. 2024) Eq. 18.

    Labels:
        ``teacher_score``: float a document, ``[B, N]``. Raw scores, not ranks.

    Relations:
        :class:`MarginMSE` frees the student from the teacher's offset, :class:`KLDivergence` from the offset while
        weighting the top of the list. :func:`~pyterrier_distill.losses.functional.mse` is the function.

    Example:
        >>> MSE() + 0.5 * MSE(label="teacher_score_minilm")
        MSE() + 0.5 * MSE(label='teacher_score_minilm')
    """

    min_documents = 1

    def __init__(self, label: str = TEACHER_SCORE):
        self.label = label

    def __call__(self, outputs: base.Outputs, labels: Mapping[str, Tensor]) -> Tensor:
        from . import functional

        return functional.mse(outputs.scores, labels[self.label], outputs.mask)


class MarginMSE(base.Loss):
    """Squared difference of the student's and the teacher's score margins.

    Args:
        pairs: ``"first"`` = the list's first document against each other one, by ``rank``, else by ``score``: give the
            positive rank 0. ``"all"`` = every pair the teacher orders.
        label: the teacher's scores, raw: probabilities flatten the margins.

    References:
        Hofstätter et al. 2020, Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge
        Distillation.

    Labels:
        ``teacher_score``: float a document, ``[B, N]``. With ``"all"``, all-tied lists give 0. Lists of one give 0.

    Relations:
        ``"first"`` equals sentence-transformers' ``MarginMSELoss``; ``"all"`` lightning-ir's ``SupervisedMarginMSE``.

    Example:
        >>> MarginMSE(pairs="all")
        MarginMSE(pairs='all')
    """

    def __init__(self, pairs: str = "first", label: str = TEACHER_SCORE):
        if pairs not in ("first", "all"):
            raise ValueError(f"pairs must be 'first' or 'all', not {pairs!r}.")
        self.pairs = pairs
        self.label = label

    @property
    def reads_order(self) -> bool:  # type: ignore[override]
        return self.pairs == "first"

    def __call__(self, outputs: base.Outputs, labels: Mapping[str, Tensor]) -> Tensor:
        from . import functional

        return functional.margin_mse(outputs.scores, labels[self.label], outputs.mask, pairs=self.pairs)


class LogitMSE(base.Loss):
    """Squared difference of the logits of [false, true], the teacher's centred on their mean.

    Args:
        label: the teacher's logits.

    References:
        InRanker (Laitz et al. 2024) Eq. 1-2.

    Labels:
        ``teacher_logits``: float32[2] a document, raw; ``[B, N, 2]``.

    Relations:
        For students with two answers, such as MonoT5; :class:`MSE` for those with one score.

    Example:
        >>> LogitMSE()
        LogitMSE()
    """

    needs = frozenset({base.LOGITS})
    min_documents = 1

    def __init__(self, label: str = TEACHER_LOGITS):
        self.label = label

    def reads(self) -> dict[str, Kind]:
        return {self.label: LOGITS}

    def __call__(self, outputs: base.Outputs, labels: Mapping[str, Tensor]) -> Tensor:
        from . import functional

        return functional.logit_mse(outputs.logits[outputs.mask], labels[self.label][outputs.mask])
