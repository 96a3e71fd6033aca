"""How a USTAD trains: one batch read once, the scores of each mode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..losses import base as losses
from . import ustad_modes
from .joint import spread

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ..training.lists import QueryList
    from .ustad_reading import Reader


class USTADTraining:
    """The part of :class:`~pyterrier_distill.USTAD` that a Distiller calls."""

    modes: tuple[str, ...]
    mode: str
    pooling: str
    model: nn.Module
    reader: Reader

    @property
    def score_scale(self) -> str:
        """On what scale the scores of the trained modes are: inner products, which the late mode sums over tokens."""
        return losses.MAX_SIM if ustad_modes.LATE in self.modes else losses.DOT

    @property
    def gives(self) -> frozenset[str]:
        """What a loss may ask of this student: scores; of several modes, these side by side; without the cross mode,
        scores of a query against others' documents."""
        gives = {losses.SCORES}
        if len(self.modes) > 1:
            gives.add(losses.MODES)
        if ustad_modes.CROSS not in self.modes:
            gives.add(losses.BATCH_SCORES)
        return frozenset(gives)

    def check_training(self, needs: frozenset[str], vectors: dict[str, int]) -> None:
        """Check what training would trip over.

        Raises:
            ValueError: for in-batch negatives in several processes.
        """
        from ..training import parallel

        if losses.BATCH_SCORES in needs and parallel.planned() > 1:
            raise ValueError(
                "USTAD takes in-batch negatives from one process: train it with LocalizedContrastive() in several, or"
                " with InfoNCE() in one, where gradient_cache=True makes room for a large batch."
            )

    def encode(self, features: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """The model's last states, with gradients.

        Args:
            features: as the reader gives them, ``[n, L]``, anywhere.

        Returns:
            float32 ``[n, L, D]``, and bool ``[n, L]`` twice: the query's tokens, the document's.
        """
        device = next(self.model.parameters()).device
        features = {name: value.to(device) for name, value in features.items()}
        document = features.pop("document")
        states = self.model(**features).last_hidden_state.float()
        return states, features["attention_mask"].bool() & ~document, document

    def logits(self, features: dict[str, Any]) -> Tensor:
        """Scores ``[n, 1]`` of pairs read together (Eq. 4), with gradients."""
        from .ustad_scores import inner_products, pool

        states, query, document = self.encode(features)
        products = inner_products(pool(states, query, self.pooling), pool(states, document, self.pooling))
        return self.scale_of(ustad_modes.CROSS) * products.unsqueeze(-1)

    def collate(self, lists: list[QueryList], needs: frozenset[str]) -> dict[str, Any]:
        """A batch: all pairs of all lists; the distinct queries and documents, and which pair has which."""
        import torch

        pairs = [(one.query, text) for one in lists for text in one.texts or ()]
        batch: dict[str, Any] = {}
        if ustad_modes.CROSS in self.modes:
            batch["pairs"] = self.reader.pairs(pairs)
        if set(self.modes) - {ustad_modes.CROSS}:
            for name, texts in zip(("query", "document"), zip(*pairs, strict=True), strict=True):
                place = {text: n for n, text in enumerate(dict.fromkeys(texts))}
                batch[name] = getattr(self.reader, {"query": "queries", "document": "documents"}[name])(list(place))
                batch[f"{name}_of"] = torch.tensor([place[text] for text in texts])
        return batch

    def forward(self, batch: dict[str, Any], mask: Tensor, needs: frozenset[str]) -> losses.Outputs:
        """One forward pass over a collated batch in all modes that are trained.

        Queries and documents are encoded once for the dual and the late mode. The result holds the outputs of each mode
        under ``modes`` where there are several, and those of the mode that ranks (or the first trained one) besides.
        """
        mask = mask.to(self._where())
        outputs = {}
        if ustad_modes.CROSS in self.modes:
            scores = self._together(batch["pairs"])
            outputs[ustad_modes.CROSS] = losses.Outputs(mask=mask, scores=spread(scores, mask))
        apart = [mode for mode in self.modes if mode != ustad_modes.CROSS]
        if apart:
            query_of, document_of = (batch[name].to(mask.device) for name in ("query_of", "document_of"))
            whole = losses.BATCH_SCORES in needs
            every = self._apart(batch["query"], batch["document"], query_of, document_of, apart, whole)
            for mode, scores in every.items():
                outputs[mode] = self._outputs(scores, query_of, document_of, mask, whole)
        main = outputs[self.mode if self.mode in outputs else self.modes[0]]
        if len(outputs) == 1:
            return main
        return losses.Outputs(
            mask=mask,
            scores=main.scores,
            batch_scores=main.batch_scores,
            batch_index=main.batch_index,
            modes={mode: outputs[mode] for mode in self.modes},
        )

    @staticmethod
    def _outputs(scores: Tensor, query_of: Tensor, document_of: Tensor, mask: Tensor, whole: bool) -> losses.Outputs:
        """Of scores ``[n]`` of the pairs; or ``[queries, documents]``, where the whole batch is scored."""
        if not whole:
            return losses.Outputs(mask=mask, scores=spread(scores, mask))
        first = mask.sum(dim=1).cumsum(dim=0) - mask.sum(dim=1)  # each list's first pair tells its query
        return losses.Outputs(
            mask=mask,
            scores=spread(scores[query_of, document_of], mask),
            batch_scores=scores[query_of[first]],
            batch_index=spread(document_of, mask),
        )

    def _together(self, features: dict[str, Any]) -> Tensor:
        """Scores ``[n]`` of pairs read together; short pairs are not padded to long ones."""
        from ..training import micro_batches

        return micro_batches.run(features, self.logits, self._where()).squeeze(-1)

    def _apart(
        self,
        queries: dict[str, Any],
        documents: dict[str, Any],
        query_of: Tensor,
        document_of: Tensor,
        modes: Sequence[str],
        whole: bool,
    ) -> dict[str, Tensor]:
        """Scores of the dual and late modes: ``[n]`` of the pairs, or ``[queries, documents]``.

        Token vectors of documents are compared where they come out of the model, one packed batch after another: they
        are never padded to the longest document.
        """
        import torch

        from ..training import micro_batches
        from .ustad_scores import inner_products, pool, sum_max

        q_states, q_mask = self._queries(queries)
        q_vectors = pool(q_states, q_mask, self.pooling)
        count = len(documents["input_ids"])
        if whole:
            query_of = torch.arange(len(q_states), device=q_states.device).repeat_interleave(count)
            document_of = torch.arange(count, device=q_states.device).repeat(len(q_states))

        def forward(part: dict[str, Any]) -> tuple[Tensor, ...]:
            rows = part.pop("row")
            states, _, mask = self.encode(part)
            row_of = torch.full((count,), -1, device=states.device)
            row_of[rows] = torch.arange(len(rows), device=states.device)
            pairs = (row_of[document_of] >= 0).nonzero().squeeze(-1)
            q, d = query_of[pairs], row_of[document_of[pairs]]
            found = [pairs]
            for mode in modes:
                if mode == ustad_modes.DUAL:
                    products = inner_products(q_vectors[q], pool(states, mask, self.pooling)[d])
                else:
                    products = sum_max(q_states[q], q_mask[q], states[d], mask[d])
                found.append(self.scale_of(mode) * products)
            return tuple(found)

        numbered = {**documents, "row": torch.arange(count)}
        results = [
            result for _, _, result in micro_batches.pieces(numbered, lambda part: forward(dict(part)), self._where())
        ]
        order, *parts = (torch.cat(column) for column in zip(*results, strict=True))
        back = torch.argsort(order)
        scores = {mode: values[back] for mode, values in zip(modes, parts, strict=True)}
        return {mode: values.view(-1, count) for mode, values in scores.items()} if whole else scores

    def _queries(self, features: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Token vectors ``[n, Q, D]`` of queries and which are real; queries are short, and may be padded."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        from ..training import micro_batches

        states: dict[int, torch.Tensor] = {}
        for positions, _, (encoded, mask, _) in micro_batches.pieces(features, self.encode, self._where()):
            states.update(zip(positions.tolist(), encoded[mask].split(mask.sum(dim=1).tolist()), strict=True))
        tokens = [states[n] for n in range(len(states))]
        real = [torch.ones(len(one), dtype=torch.bool, device=one.device) for one in tokens]
        return pad_sequence(tokens, batch_first=True), pad_sequence(real, batch_first=True)

    def _where(self) -> torch.device:
        return next(self.model.parameters()).device
