"""Answers of a model of transformers with the log-probabilities of their tokens, greedy or drawn.

Every prompt has a seed of its own: what is drawn for it does not depend on what else is in its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import LogitsProcessor, StoppingCriteria

from ..engine import prefixes
from ..engine.locks import using
from ..prompts import Prompt
from . import permutation
from .completions import Completion, Sampling, completion
from .inputs import decoder_start, keyed

if TYPE_CHECKING:
    import torch

    from .hf import HF


class TokenChooser(LogitsProcessor):
    """Chooses each row's next token and notes how likely the model held it.

    Args:
        tokens: most tokens of an answer.
        sampling: how tokens are drawn; None = the likeliest one.
        seeds: one a row.

    Attributes:
        told: for each step, the log-probabilities ``[rows]`` of the chosen tokens, by the model's own distribution:
            temperature 1, nothing left out.
    """

    def __init__(self, tokens: int, sampling: Sampling | None, seeds: Sequence[int]):
        self.sampling = sampling
        self.told: list[torch.Tensor] = []
        if sampling is not None:
            self.draws = np.stack([np.random.default_rng(seed).random(tokens) for seed in seeds])

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores ``[rows, vocabulary]`` in which only the chosen token is possible."""
        import torch

        logs = torch.log_softmax(scores.float(), dim=-1)
        if self.sampling is None:
            chosen = logs.argmax(dim=-1, keepdim=True)
        else:
            draws = torch.as_tensor(self.draws[:, len(self.told), None], device=scores.device)
            chosen = drawn(logs, self.sampling, draws)
        self.told.append(logs.gather(-1, chosen)[:, 0])
        return torch.full_like(scores, float("-inf")).scatter(-1, chosen, 0.0)


def drawn(logs: torch.Tensor, sampling: Sampling, draws: torch.Tensor) -> torch.Tensor:
    """Tokens ``[rows, 1]`` by inverting the distribution function at ``draws``.

    Args:
        logs: log-probabilities ``[rows, vocabulary]``.
        sampling: temperature, then top-k, then top-p.
        draws: ``[rows, 1]``, uniform in [0, 1).
    """
    import torch

    # CPUs and CUDA have float64; where there is none (mps), float32 must do.
    values = (logs.double() if logs.device.type != "mps" else logs) / sampling.temperature
    tokens = None
    if sampling.top_k or sampling.top_p < 1:
        values, tokens = values.sort(dim=-1, descending=True, stable=True)
        if sampling.top_k:
            values[:, sampling.top_k :] = float("-inf")
    probabilities = values.softmax(dim=-1)
    if sampling.top_p < 1:
        before = probabilities.cumsum(dim=-1) - probabilities
        probabilities = probabilities.masked_fill(before >= sampling.top_p, 0.0)
    cumulated = probabilities.cumsum(dim=-1)
    places = torch.searchsorted(cumulated, draws.to(cumulated.dtype) * cumulated[:, -1:], right=True)
    # Rounding may put a draw behind the last token that is possible.
    last = (probabilities > 0).int().cumsum(dim=-1).argmax(dim=-1, keepdim=True)
    chosen = torch.minimum(places, last)
    return chosen if tokens is None else tokens.gather(-1, chosen)


class Until(StoppingCriteria):
    """Ends each row where, at the end of a line, ``ended`` says that its text is complete.

    Args:
        tokenizer: that of the model.
        start: tokens before the answer.
        ended: text so far → whether it is complete.
    """

    def __init__(self, tokenizer: Any, start: int, ended: Callable[[str], bool]):
        self.tokenizer, self.start, self.ended = tokenizer, start, ended
        self.breaks: dict[int, bool] = {}

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Which rows are complete: bool ``[rows]``."""
        import torch

        done = [self._breaks(token) for token in input_ids[:, -1].tolist()]
        rows = [row for row, at_end in enumerate(done) if at_end]
        texts = self.tokenizer.batch_decode(input_ids[rows, self.start :], skip_special_tokens=True) if rows else []
        for row, text in zip(rows, texts, strict=True):
            done[row] = self.ended(text)
        return torch.tensor(done, device=input_ids.device)

    def _breaks(self, token: int) -> bool:
        """Whether a token ends a line."""
        if token not in self.breaks:
            self.breaks[token] = breaks_line(self.tokenizer.decode([token]))
        return self.breaks[token]


def breaks_line(text: str) -> bool:
    """Whether a line ends in ``text``."""
    return "\n" in text or "\r" in text


def complete(
    llm: HF,
    prompts: Sequence[Prompt],
    max_new_tokens: int,
    sampling: Sampling | None,
    seeds: Sequence[int] | None,
    until: Callable[[str], bool] | None,
) -> list[Completion]:
    """:meth:`.base.Backend.complete` of a model of transformers."""
    if not prompts:
        return []
    return llm.answered(
        keyed(prompts, seeds),
        lambda batch, items, past: _completed(
            llm, batch, past, max_new_tokens, sampling, [seed for _, seed in items], until
        ),
        max_new_tokens,
        lambda answer: len(answer.logprobs),
    )


def greedy(
    llm: HF, batch: dict[str, Any], past: prefixes.Past | None, tokens: int, numbers: Sequence[int] | None
) -> list[tuple[str, int]]:
    """Greedy answers to one batch, each with how many tokens it took.

    With ``numbers``, one a row, they are permutations of that many identifiers.
    """
    tokenizer, ends = llm.tokenizer, llm.end_tokens
    processors = []
    if numbers is not None:
        start = _start(llm, batch)
        processors.append(permutation.PermutationProcessor(llm.speller, numbers, start, tokenizer.eos_token_id))
    ids = _written(llm, batch, past, tokens, processors, []).cpu()
    ended = sum((ids == token) for token in ends).cumsum(1)
    spoken = ((ended == 0) | ((ended == 1) & (ended.diff(dim=1, prepend=ended[:, :1] * 0) == 1))).sum(dim=1)
    with using(tokenizer):
        texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    return list(zip(texts, spoken.tolist(), strict=True))


def _completed(
    llm: HF,
    batch: dict[str, Any],
    past: prefixes.Past | None,
    tokens: int,
    sampling: Sampling | None,
    seeds: Sequence[int],
    until: Callable[[str], bool] | None,
) -> list[Completion]:
    """Answers of one batch."""
    import torch

    tokenizer = llm.tokenizer
    chooser = TokenChooser(tokens, sampling, seeds)
    stopping = [] if until is None else [Until(tokenizer, _start(llm, batch), until)]
    ids = _written(llm, batch, past, tokens, [chooser], stopping)
    told = torch.stack(chooser.told, dim=1).float().cpu().tolist()
    return [
        _cut(completion(tokenizer, row, logprobs, llm.end_tokens), until)
        for row, logprobs in zip(ids.cpu().tolist(), told, strict=True)
    ]


def _start(llm: HF, batch: dict[str, Any]) -> int:
    """Tokens before the answers."""
    return 1 if llm.model.config.is_encoder_decoder else batch["input_ids"].shape[1]


def _written(
    llm: HF,
    batch: dict[str, Any],
    past: prefixes.Past | None,
    tokens: int,
    processors: list[Any],
    stopping: list[Any],
) -> torch.Tensor:
    """The tokens of answers ``[rows, at most tokens]``, the likeliest that ``processors`` leave."""
    from transformers import GenerationConfig

    tokenizer, model = llm.tokenizer, llm.model
    seq2seq = model.config.is_encoder_decoder
    config = GenerationConfig(
        max_new_tokens=tokens,
        do_sample=False,  # where tokens are drawn, a processor does it
        eos_token_id=llm.end_tokens,
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=decoder_start(model) if seq2seq else None,
    )
    batch = {name: it.to(model.device) if hasattr(it, "to") else it for name, it in batch.items()}
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    cache = None if seq2seq else prefixes.before_answers(model, batch, past)
    more = {} if cache is None else {"past_key_values": cache}
    ids = model.generate(
        **inputs, **more, generation_config=config, logits_processor=processors, stopping_criteria=stopping
    )
    return ids[:, _start(llm, batch) :]


def _cut(answer: Completion, until: Callable[[str], bool] | None) -> Completion:
    """Without the padding of a row that was complete before the others of its batch."""
    if until is None or answer.text is None:
        return answer
    before = 0
    for count, end in enumerate(answer.ends, 1):
        if breaks_line(answer.text[before:end]) and until(answer.text[:end]):
            return Completion(answer.text[:end], answer.ends[:count], answer.logprobs[:count])
        before = end
    return answer
