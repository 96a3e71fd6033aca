"""What a model of transformers says of answers that are given: the next token, or a whole text."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engine import batching, prefixes
from ..engine.locks import using
from ..prompts import Prompt
from .base import unfinished
from .inputs import decoder_start, frozen, thawed

if TYPE_CHECKING:
    import torch

    from .hf import HF

#: Marks what is no token of an answer.
_NONE = -100


def option_logits(llm: HF, prompts: Sequence[Prompt], options: Sequence[str], spaced: bool) -> np.ndarray:
    """:meth:`.base.Backend.option_logits` of a model of transformers."""
    if not prompts:
        return np.empty((0, len(options)), dtype=np.float32)
    ids = llm.option_ids(options, spaced=spaced, chat=not isinstance(prompts[0], str))

    def prepare(chunk: list[Any]) -> dict[str, Any]:
        return dict(llm.encode([thawed(key) for key in chunk], padding=True))

    def read(features: Any, past: prefixes.Past | None = None) -> torch.Tensor:
        return llm.next_logits(features, ids, past)

    keys = list(map(_key, prompts))
    return _counted(llm, keys, prepare, read, lambda features: [1] * len(features["input_ids"]), 1)


def likelihoods(llm: HF, prompts: Sequence[Prompt], answers: Sequence[str], spaced: bool) -> np.ndarray:
    """:meth:`.base.Backend.likelihoods` of a model of transformers.

    A decoder reads the prompt, with the special tokens that its tokenizer puts before a text, and the answer as it
    stands behind a word. An encoder reads the prompt, and its decoder's text is the answer with the special tokens that
    the tokenizer puts round it. A special token at the end of a text, such as T5's ``</s>``, is scored like those of
    the answer.
    """
    if not prompts:
        return np.empty(0, dtype=np.float32)
    keys = [(_key(prompt), answer) for prompt, answer in zip(prompts, answers, strict=True)]
    causal = not llm.model.config.is_encoder_decoder
    spaced = spaced and (isinstance(prompts[0], str) or not llm.tokenizer.chat_template)

    def prepare(chunk: list[Any]) -> dict[str, Any]:
        asked, said = [thawed(key) for key, _ in chunk], [answer for _, answer in chunk]
        return _of_decoder(llm, asked, said, spaced) if causal else _of_encoder_decoder(llm, asked, said)

    def read(features: Any, past: prefixes.Past | None = None) -> torch.Tensor:
        return _read(llm.model, features, past) if causal else _read_encoder_decoder(llm.model, features)

    def kept(features: Any) -> list[int]:
        return [count + 1 for count in features["answer_tokens"].tolist()]

    return _counted(llm, keys, prepare, read, kept, 0)


def _key(prompt: Prompt) -> Any:
    return prompt if isinstance(prompt, str) else frozen(prompt)


def _counted(
    llm: HF, keys: Sequence[Any], prepare: Callable, read: Callable, kept: Callable[[Any], list[int]], output: int
) -> np.ndarray:
    """Run the model over ``keys``, beginnings that they share once; count distinct ones, their tokens and the time.

    Args:
        llm: whose model.
        keys: what is asked.
        prepare: m of them → features.
        read: features, and what the beginnings left that they share → tensor ``[m, ...]``.
        kept: features → how many last tokens of each must be read by itself.
        output: tokens of an answer.
    """
    seen, model = [0, 0], llm.model

    def counting(chunk: list[Any]) -> dict[str, Any]:
        features = prepare(chunk)
        seen[0] += len(features["input_ids"])
        seen[1] += int(features["attention_mask"].sum())
        return features

    def split(features: Any) -> Any:
        for part in prefixes.parts(model, features, kept(features)):
            yield part.rows, part.features, partial(read, past=part.past)

    started = time.monotonic()
    try:
        return batching.run(
            keys, prepare=counting, forward=read, split=None if model.config.is_encoder_decoder else split,
            device=model.device, precision=llm.precision, batch_size=llm.batch_size, verbose=llm.verbose,
            desc="Asking", unit="prompt",
        )  # fmt: skip
    except Exception as error:
        if (answers := batching.before(error)) is None:
            raise
        raise unfinished(llm.name_or_path, error, answers) from error
    finally:
        llm.usage.add(seen[0], seen[1], output * seen[0], time.monotonic() - started)


# -- the tokens of an answer ------------------------------------------------------------------------------------------


def _of_decoder(llm: HF, prompts: Sequence[Prompt], answers: Sequence[str], spaced: bool) -> dict[str, Any]:
    """Prompts with their answers, padded on the left; ``answer_tokens`` ``[n]`` of them are the answer's."""
    import torch

    tokenizer = llm.tokenizer
    chat = bool(tokenizer.chat_template) and not isinstance(prompts[0], str)
    with using(tokenizer):
        following = _following(tokenizer, answers, spaced)
        end = [] if chat else _end(tokenizer)
    rows, sizes = [], []
    for prompt, answer in zip(llm.encode(prompts)["input_ids"], following, strict=True):
        start = list(prompt)[: len(prompt) - len(end)] or [_beginning(tokenizer)]
        rows.append([*start, *answer, *end])
        sizes.append(len(answer) + len(end))
    with using(tokenizer):
        features = dict(tokenizer.pad({"input_ids": rows}, padding=True, return_tensors="pt", verbose=False))
    return {**features, "answer_tokens": torch.tensor(sizes)}


def _following(tokenizer: Any, texts: Sequence[str], spaced: bool) -> list[list[int]]:
    """The tokens of texts as they stand behind a word and a space; or by themselves."""
    alone = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    if not spaced:
        return alone
    word = tokenizer("a", add_special_tokens=False)["input_ids"]
    behind = tokenizer([f"a {text}" for text in texts], add_special_tokens=False, verbose=False)["input_ids"]
    return [
        ids[len(word) :] if ids[: len(word)] == word else bare for ids, bare in zip(behind, alone, strict=True)
    ]


def _end(tokenizer: Any) -> list[int]:
    """The special tokens that a tokenizer puts behind a text."""
    bare, whole = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    start = next((n for n in range(len(whole)) if whole[n : n + len(bare)] == bare), len(whole))
    return list(whole[start + len(bare) :])


def _beginning(tokenizer: Any) -> int:
    """What an answer follows where the prompt is empty."""
    named = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return next(token for token in named if token is not None)


def _of_encoder_decoder(llm: HF, prompts: Sequence[Prompt], answers: Sequence[str]) -> dict[str, Any]:
    """Prompts for the encoder; ``answer`` ``[n, 1, K]`` for the decoder, padded on the right with what is no token."""
    import torch

    features = dict(llm.encode(prompts, padding=True))
    with using(llm.tokenizer):
        rows = llm.tokenizer(list(answers), verbose=False)["input_ids"]
    longest = max(map(len, rows))
    padded = torch.tensor([[*row, *[_NONE] * (longest - len(row))] for row in rows])
    return {**features, "answer": padded[:, None], "answer_tokens": torch.tensor([len(row) for row in rows])}


# -- the model --------------------------------------------------------------------------------------------------------


def _read(model: Any, features: Any, past: prefixes.Past | None) -> torch.Tensor:
    """Mean log-probability ``[n]`` of the last ``answer_tokens`` of a decoder's input."""
    sizes = features["answer_tokens"]
    longest = int(sizes.max())
    logits = prefixes.last_logits(model, features, longest + 1, past)[:, :-1]
    tokens = features["input_ids"][:, -longest:]
    places = longest - sizes[:, None]
    told = tokens.new_tensor(range(longest))[None] >= places
    return _mean(logits, tokens, told)


def _read_encoder_decoder(model: Any, features: Any) -> torch.Tensor:
    """Mean log-probability ``[n]`` of ``answer`` ``[n, 1, K]``."""
    tokens = features["answer"][:, 0, : int(features["answer_tokens"].max())]
    told = tokens != _NONE
    tokens = tokens.clamp(min=0)
    start = tokens.new_full((len(tokens), 1), decoder_start(model))
    import torch

    logits = model(
        input_ids=features["input_ids"],
        attention_mask=features["attention_mask"],
        decoder_input_ids=torch.cat([start, tokens[:, :-1]], dim=1),
    ).logits
    return _mean(logits, tokens, told)


def _mean(logits: torch.Tensor, tokens: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
    """Mean log-probability ``[n]`` of ``tokens`` ``[n, K]``, where ``told``, under logits ``[n, K, vocabulary]``."""
    logits = logits.float()
    chosen = logits.gather(-1, tokens[..., None])[..., 0] - logits.logsumexp(dim=-1)
    return (chosen * told).sum(dim=1) / told.sum(dim=1)
