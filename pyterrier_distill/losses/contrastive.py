"""Losses that contrast relevant documents with the others of a list or batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..frames import LABEL, arguments
from . import base, in_batch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LocalizedContrastive", "InfoNCE"]


class LocalizedContrastive(base.Loss):
    """−log softmax at each relevant document over its own list.

    Args:
        label: the judgements; > 0 is relevant.
        temperature: divides the student's scores: 1 for logits, about 0.05 for cosines.
        positives: of a list with several: ``"together"``: each has the whole list in its denominator, so that they
            compete with each other; ``"each_alone"``: each competes with the documents that are not relevant alone, as
            if it stood in a list of its own with them.

    References:
        Gao, Dai & Callan 2021, Rethink Training of BERT Rerankers in Multi-Stage Retrieval Pipeline (LCE);
        Rank-DistiLLM (Schlatt et al. 2025) §3.1 and App. C: its first stage is trained with it; Distillation versus
        Contrastive Learning (Xu et al. 2025) §3.2, a mean over pairs of query and positive: ``"each_alone"``.

    Labels:
        ``label``: int a document, ``[B, N]``; joined from the qrels by ``fit``. Lists without a relevant document
        give no gradient.

    Relations:
        :class:`InfoNCE` also contrasts with the other queries' documents. ``mine_negatives(..., per="pair")`` makes
        lists of one positive each, with negatives of their own.

    Example:
        >>> LocalizedContrastive(positives="each_alone")
        LocalizedContrastive(positives='each_alone')
    """

    def __init__(self, label: str = LABEL, temperature: float = 1.0, positives: str = "together"):
        if positives not in ("together", "each_alone"):
            raise ValueError(f"positives must be 'together' or 'each_alone', not {positives!r}.")
        self.label = arguments.column(label)
        self.temperature = arguments.positive(temperature, "temperature")
        self.positives = positives

    def __call__(self, outputs: base.Outputs, labels: Mapping[str, Tensor]) -> Tensor:
        from . import functional

        scores = outputs.scores / self.temperature
        return functional.localized_contrastive(scores, labels[self.label], outputs.mask, self.positives)


class InfoNCE(base.Loss):
    """Cross-entropy of the positive over the query's own list and every other document of the batch.

    A query's positive is its document with the highest label; its other relevant documents are left out of the
    denominator, wherever in the batch they stand, and so are copies: documents with the text of a relevant one of its
    list, but for white space at the ends. Queries without a relevant document give no gradient, so labelled and
    unlabelled queries can share a training set (PairDistill). A document that stands in several lists counts once.
    Queries of the same text are one query: what is relevant to one is no negative of another.

    Args:
        temperature: divides the scores; 0.05 is usual for cosine similarities, 1 for dot products.
        label: the judgements; > 0 is relevant.
        own_negatives: whether the other documents of a query's own list are negatives. False: only those of other
            queries are. Hits that nobody judged may well be relevant, and distillation terms of a sum read them anyway.

    References:
        van den Oord et al. 2018; Karpukhin et al. 2020 (in-batch negatives); PairDistill §3.1; Santhanam et al. 2022
        (ColBERTv2), whose in-batch term, which PairDistill starts from, is ``own_negatives=False``.

    Labels:
        ``label``: int a document, ``[B, N]``; joined from the qrels by ``fit``.

    Relations:
        With scale = 1 / temperature, sentence-transformers' ``MultipleNegativesRankingLoss``, which counts a document
        once for each list in which it stands.

    Example:
        >>> InfoNCE(temperature=0.05)
        InfoNCE(temperature=0.05)
    """

    needs = frozenset({base.BATCH_SCORES})
    min_documents = 1

    def __init__(self, temperature: float = 1.0, label: str = LABEL, own_negatives: bool = True):
        if not isinstance(own_negatives, bool):
            raise ValueError(f"own_negatives must be True or False, not {own_negatives!r}.")
        self.temperature = arguments.positive(temperature, "temperature")
        self.label = arguments.column(label)
        self.own_negatives = own_negatives

    def __call__(self, outputs: base.Outputs, labels: Mapping[str, Tensor]) -> Tensor:
        import torch

        from . import functional

        relevance = labels[self.label].masked_fill(~outputs.mask, 0)
        best, slot = relevance.max(dim=-1)
        batch = outputs.batch_index  # [B, N]: the column of batch_scores where each document of the lists stands
        target = torch.where(best > 0, batch.gather(-1, slot.unsqueeze(-1)).squeeze(-1), torch.full_like(slot, -1))
        others = in_batch.no_negatives(outputs, labels, relevance > 0 if self.own_negatives else outputs.mask)
        counted = target >= 0
        others[counted, target[counted]] = False
        return functional.info_nce(outputs.batch_scores.masked_fill(others, float("-inf")), target, self.temperature)
