"""How a USTAD trains: one batch read once, the scores of each mode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...losses import base as losses
from ..joint import spread
from . import modes

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ...training.lists import QueryList
    from .ustad import USTAD


def check(needs: frozenset[str]) -> None:
    """Check what training would trip over.

    Raises:
        ValueError: for in-batch negatives in several processes.
    """
    from ...engine import processes

    if losses.BATCH_SCORES in needs and processes.planned() > 1:
        raise ValueError(
            "USTAD takes in-batch negatives from one process: train it with LocalizedContrastive() in several, or"
            " with InfoNCE() in one, where gradient_cache=True makes room for a large batch."
        )


def collate(student: USTAD, lists: list[QueryList]) -> dict[str, Any]:
    """A batch: all pairs of all lists; the distinct queries and documents, and which pair has which."""
    import torch

    pairs = [(one.query, text) for one in lists for text in one.texts or ()]
    batch: dict[str, Any] = {}
    if modes.CROSS in student.modes:
        batch["pairs"] = student.reader.pairs(pairs)
    if set(student.modes) - {modes.CROSS}:
        for name, texts in zip(("query", "document"), zip(*pairs, strict=True), strict=True):
            place = {text: n for n, text in enumerate(dict.fromkeys(texts))}
            batch[name] = getattr(student.reader, {"query": "queries", "document": "documents"}[name])(list(place))
            batch[f"{name}_of"] = torch.tensor([place[text] for text in texts])
    return batch


def forward(student: USTAD, batch: dict[str, Any], mask: Tensor, needs: frozenset[str]) -> losses.Outputs:
    """One forward pass over a collated batch in all modes that are trained.

    Queries and documents are encoded once for the dual and the late mode. The result holds the outputs of each mode
    under ``modes`` where there are several, and those of the mode that ranks (or the first trained one) besides.
    """
    mask = mask.to(_where(student))
    outputs = {}
    if modes.CROSS in student.modes:
        scores = _together(student, batch["pairs"])
        outputs[modes.CROSS] = losses.Outputs(mask=mask, scores=spread(scores, mask))
    apart = [mode for mode in student.modes if mode != modes.CROSS]
    if apart:
        query_of, document_of = (batch[name].to(mask.device) for name in ("query_of", "document_of"))
        whole = losses.BATCH_SCORES in needs
        every = _apart(student, batch["query"], batch["document"], query_of, document_of, apart, whole)
        for mode, scores in every.items():
            outputs[mode] = _outputs(scores, query_of, document_of, mask, whole)
    main = outputs[student.mode if student.mode in outputs else student.modes[0]]
    if len(outputs) == 1:
        return main
    return losses.Outputs(
        mask=mask,
        scores=main.scores,
        batch_scores=main.batch_scores,
        batch_index=main.batch_index,
        modes={mode: outputs[mode] for mode in student.modes},
    )


def _outputs(scores: Tensor, query_of: Tensor, document_of: Tensor, mask: Tensor, whole: bool) -> losses.Outputs:
    """Of scores ``[n]`` of the pairs; or ``[queries, documents]``, where the whole batch is scored."""
    if not whole:
        return losses.Outputs(mask=mask, scores=spread(scores, mask))
    first = mask.sum(dim=1).cumsum(dim=0) - mask.sum(dim=1)  # each list's first pair holds its query
    return losses.Outputs(
        mask=mask,
        scores=spread(scores[query_of, document_of], mask),
        batch_scores=scores[query_of[first]],
        batch_index=spread(document_of, mask),
    )


def _together(student: USTAD, features: dict[str, Any]) -> Tensor:
    """Scores ``[n]`` of pairs read together; short pairs are not padded to long ones."""
    from ...engine import micro_batches

    return micro_batches.run(features, student.logits, _where(student), model=student.model).squeeze(-1)


def _apart(
    student: USTAD,
    queries: dict[str, Any],
    documents: dict[str, Any],
    query_of: Tensor,
    document_of: Tensor,
    ranked: Sequence[str],
    whole: bool,
) -> dict[str, Tensor]:
    """Scores of the dual and late modes: ``[n]`` of the pairs, or ``[queries, documents]``.

    Token vectors of documents are compared where they come out of the model, one packed batch after another: they
    are never padded to the longest document.
    """
    import torch

    from ...engine import micro_batches
    from .scores import inner_products, pool, sum_max

    q_states, q_mask = _queries(student, queries)
    q_vectors = pool(q_states, q_mask, student.pooling)
    count = len(documents["input_ids"])
    if whole:
        query_of = torch.arange(len(q_states), device=q_states.device).repeat_interleave(count)
        document_of = torch.arange(count, device=q_states.device).repeat(len(q_states))

    def forward(part: dict[str, Any]) -> tuple[Tensor, ...]:
        rows = part.pop("row")
        states, _, mask = student.encode(part)
        row_of = torch.full((count,), -1, device=states.device)
        row_of[rows] = torch.arange(len(rows), device=states.device)
        pairs = (row_of[document_of] >= 0).nonzero().squeeze(-1)
        q, d = query_of[pairs], row_of[document_of[pairs]]
        found = [pairs]
        for mode in ranked:
            if mode == modes.DUAL:
                products = inner_products(q_vectors[q], pool(states, mask, student.pooling)[d])
            else:
                products = sum_max(q_states[q], q_mask[q], states[d], mask[d])
            found.append(student.scale_of(mode) * products)
        return tuple(found)

    numbered = {**documents, "row": torch.arange(count)}
    results = [
        result for _, _, result in micro_batches.pieces(numbered, lambda part: forward(dict(part)), _where(student))
    ]
    order, *parts = (torch.cat(column) for column in zip(*results, strict=True))
    back = torch.argsort(order)
    scores = {mode: values[back] for mode, values in zip(ranked, parts, strict=True)}
    return {mode: values.view(-1, count) for mode, values in scores.items()} if whole else scores


def _queries(student: USTAD, features: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Token vectors ``[n, Q, D]`` of queries and which are real; queries are short, and may be padded."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    from ...engine import micro_batches

    states: dict[int, torch.Tensor] = {}
    for positions, _, (encoded, mask, _) in micro_batches.pieces(features, student.encode, _where(student)):
        states.update(zip(positions.tolist(), encoded[mask].split(mask.sum(dim=1).tolist()), strict=True))
    tokens = [states[n] for n in range(len(states))]
    real = [torch.ones(len(one), dtype=torch.bool, device=one.device) for one in tokens]
    return pad_sequence(tokens, batch_first=True), pad_sequence(real, batch_first=True)


def _where(student: USTAD) -> torch.device:
    return next(student.model.parameters()).device
