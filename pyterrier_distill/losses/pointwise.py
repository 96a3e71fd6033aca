"""Losses on one score at a time: a teacher's, a judgement, or that of another mode."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..frames import LABEL, TEACHER_LOGITS, TEACHER_SCORE, arguments
from ..frames.kinds import LOGITS, Kind
from . import base

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MSE", "LogitMSE", "LogitKL", "LogitCrossEntropy", "BinaryCrossEntropy", "ScoreMatch"]


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
        self.label = arguments.column(label)

    def __call__(self, outputs: base.Outputs, labels: Mapping[str, Tensor]) -> Tensor:
        from . import functional

        return functional.mse(outputs.scores, labels[self.label], outputs.mask)


class LogitMSE(base.Loss):
    """Squared difference of the logits of [false, true], the teacher's centred on their mean; mean over documents.

    Args:
        label: the teacher's logits.
        only: ``"true"`` compares the logit of true alone, which the paper found worse; None = both.

    References:
        InRanker (Laitz et al. 2024) Eq. 1-2; App. C for ``only``.

    Labels:
        ``teacher_logits``: float32[2] a document, raw; ``[B, N, 2]``.

    Relations:
        For students with two answers, such as MonoT5; :class:`MSE` for those with one score. :class:`LogitKL` compares
        probabilities.

    Example:
        >>> LogitMSE(only="true")
        LogitMSE(only='true')
    """

    needs = frozenset({base.LOGITS})
    min_documents = 1

    def __init__(self, label: str = TEACHER_LOGITS, only: str | None = None):
        if only not in ("true", None):
            raise ValueError(f"only must be 'true' (the logit of true alone) or None (both), not {only!r}.")
        self.label = arguments.column(label)
        self.only = only

    def reads(self) -> dict[str, Kind]:
        return {self.label: LOGITS}

    def __call__(self, outputs: base.Outputs, labels: Mapping[str, Tensor]) -> Tensor:
        from . import functional

        return functional.logit_mse(outputs.logits[outputs.mask], labels[self.label][outputs.mask], self.only)


class LogitKL(base.Loss):
    """KL divergence from the teacher's to the student's probabilities of [false, true], mean over documents.

    Args:
        temperature: T > 0 divides both sides' logits. No T² factor.
        label: the teacher's logits.

    References:
        InRanker (Laitz et al. 2024) App. C.

    Labels:
        ``teacher_logits``: float32[2] a document, raw; ``[B, N, 2]``.

    Relations:
        :class:`LogitMSE` also learns how large the two logits are; this one their difference alone.
        :class:`KLDivergence` compares the documents of a list, this one the two answers about each.

    Example:
        >>> LogitKL()
        LogitKL()
    """

    needs = frozenset({base.LOGITS})
    min_documents = 1

    def __init__(self, temperature: float = 1.0, label: str = TEACHER_LOGITS):
        self.temperature = arguments.positive(temperature, "temperature")
        self.label = arguments.column(label)

    def reads(self) -> dict[str, Kind]:
        return {self.label: LOGITS}

    def __call__(self, outputs: base.Outputs, labels: Mapping[str, Tensor]) -> Tensor:
        from . import functional

        return functional.logit_kl(outputs.logits[outputs.mask], labels[self.label][outputs.mask], self.temperature)


class LogitCrossEntropy(base.Loss):
    """Cross-entropy of the two answers [false, true] about each document by itself, mean over documents.

    −log p(true) of relevant documents, −log p(false) of the others. How many of the others there are is the sampler's:
    the paper's one a relevant document is ``ListSampler(2, strategy="with_positive")``.

    Lists without a relevant document give no gradient: nothing says that anybody judged them.

    Args:
        label: the judgements: relevant where ≥ 1, not relevant where ≤ 0, a probability in between.

    References:
        InRanker (Laitz et al. 2024) Eq. 3, its human-hard phase; Nogueira et al. 2020 (monoT5's objective).

    Labels:
        ``label``: int a document, ``[B, N]``; joined from the qrels by ``fit``.

    Relations:
        For students with two answers, such as MonoT5; :class:`BinaryCrossEntropy` of the difference of the two logits.
        :class:`LogitMSE` and :class:`LogitKL` learn a teacher's.

    Example:
        >>> LogitCrossEntropy()
        LogitCrossEntropy()
    """

    needs = frozenset({base.LOGITS})
    min_documents = 1

    def __init__(self, label: str = LABEL):
        self.label = arguments.column(label)

    def __call__(self, outputs: base.Outputs, labels: Mapping[str, Tensor]) -> Tensor:
        from . import functional

        relevance = labels[self.label]
        counted = outputs.mask & base.judged_lists(relevance, outputs.mask)
        return functional.logit_cross_entropy(outputs.logits[counted], relevance[counted])


class BinaryCrossEntropy(base.Loss):
    """Cross-entropy of σ(score), each document by itself, mean over documents.

    For students whose score is a logit (CrossEncoder), or a dot product; others are refused: σ of a log-probability
    (MonoT5) is p / (1 + p) ≤ 0.5, of a cosine between 0.27 and 0.73, of a sum of similarities (LateInteraction) nearly
    1 for any document.

    Lists without a relevant document give no gradient: nothing says that anybody judged them.

    Args:
        label: the judgements: relevant where ≥ 1, not relevant where ≤ 0, a probability in between.

    References:
        Nogueira & Cho 2019 (monoBERT's objective); PairDistill §4.1 for pairs.

    Labels:
        ``label``: int a document, ``[B, N]``; joined from the qrels by ``fit``.

    Relations:
        sentence-transformers' ``BinaryCrossEntropyLoss``. :class:`LocalizedContrastive` compares documents instead;
        :class:`LogitCrossEntropy` is for students with two answers, such as MonoT5.

    Example:
        >>> BinaryCrossEntropy()
        BinaryCrossEntropy()
    """

    min_documents = 1
    scales = frozenset({base.LOGIT, base.DOT})

    def __init__(self, label: str = LABEL):
        self.label = arguments.column(label)

    def misfit(self, scale: str) -> str:
        return "applies σ to the score, " + {
            base.LOG_PROBABILITY: (
                "and σ(log p) is p / (1 + p), at most 0.5. LogitCrossEntropy() learns from judgements, LogitMSE() from"
                " a teacher's logits"
            ),
            base.COSINE: (
                "and σ of a cosine is between 0.27 and 0.73. LocalizedContrastive(temperature=0.05) or"
                " InfoNCE(temperature=0.05) learn from judgements"
            ),
            base.MAX_SIM: (
                "and σ of a sum of similarities is nearly 1 for any document. LocalizedContrastive() or InfoNCE()"
                " learn from judgements"
            ),
        }.get(scale, "which must be a logit")

    def __call__(self, outputs: base.Outputs, labels: Mapping[str, Tensor]) -> Tensor:
        from . import functional

        relevance = labels[self.label]
        counted = outputs.mask & base.judged_lists(relevance, outputs.mask)
        return functional.binary_cross_entropy(outputs.scores, relevance, counted)


class ScoreMatch(base.Loss):
    """Mean absolute difference between two scorings of the same documents.

    Without ``label``, between the modes of a student that trains several (:class:`~pyterrier_distill.USTAD`): summed
    over the pairs of modes, so its weight is Eq. 8's λ for each pair (that norm is not named;
    here it is the mean absolute difference). Both modes of a pair move, unless ``towards`` names the one that stands:
    the others then learn from it, and not it from them. With ``label``,
    between the student's scores, in each mode, and that column.

    Args:
        label: the other scores, on the student's scale, such as ``"teacher_score"``; None = the student's other modes.
        towards: the mode that the others are matched to, such as ``"cross"``: pairs without it are left out, and its
            scores pass no gradient. The weights are shared, so it moves all the same where no loss on labels holds it.
            None = all pairs, and both sides move.

    Raises:
        ValueError: for ``towards`` with ``label``, or a mode that the student does not train.

    References:
        USTAD (Kim et al. 2024) Eq. 8, the λ term; §4, where it is self-distillation "from the stronger (say CE) mode to
        the weaker (say DE) mode".

    Labels:
        none; with ``label``, float a document, ``[B, N]``.

    Relations:
        :class:`MSE` with absolute instead of squared differences.

    Example:
        >>> ScoreMatch(label="teacher_score")
        ScoreMatch(label='teacher_score')
        >>> LocalizedContrastive() + 0.1 * ScoreMatch(towards="cross")
        LocalizedContrastive() + 0.1 * ScoreMatch(towards='cross')
    """

    min_documents = 1

    def __init__(self, label: str | None = None, towards: str | None = None):
        if towards is not None and label is not None:
            raise ValueError(
                f"towards={towards!r} names a mode of the student and label={label!r} a column: the scores of a column"
                " do not move anyway. Give one of the two."
            )
        self.label = arguments.column(label, absent=True)
        self.towards = towards
        self.needs = frozenset({base.MODES if label is None else base.SCORES})

    def reads(self) -> dict[str, Kind]:
        return {} if self.label is None else super().reads()

    def __call__(self, outputs: base.Outputs, labels: Mapping[str, Tensor]) -> Tensor:
        from . import functional

        if self.label is not None:
            return functional.score_match(outputs.scores, labels[self.label], outputs.mask)
        scores = {name: mode.scores for name, mode in (outputs.modes or {}).items()}
        if self.towards is None:
            pairs = list(itertools.combinations(scores.values(), 2))
        else:
            self._check_mode(scores)
            stands = scores.pop(self.towards).detach()
            pairs = [(one, stands) for one in scores.values()]
        first, *others = (functional.score_match(a, b, outputs.mask) for a, b in pairs)
        return sum(others, start=first)

    def check_student(self, student: Any) -> None:
        self._check_mode(getattr(student, "modes", ()))

    def _check_mode(self, modes: Iterable[str]) -> None:
        if self.towards is not None and self.towards not in (modes := tuple(modes)):
            raise ValueError(f"{self!r}: the student trains {', '.join(modes)}: towards must be one of these modes.")

    def total(self, outputs: base.Outputs, labels: Mapping[str, Tensor]) -> Tensor:
        return self(outputs, labels) if self.label is None else super().total(outputs, labels)
