"""What a model of transformers is given besides tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from ..engine.locks import using
from ..engine.tokens import chat_text
from ..prompts import Prompt, flatten


def decoder_start(model: Any) -> int:
    """The token that a decoder starts from."""
    start = model.config.decoder_start_token_id
    return model.config.pad_token_id if start is None else start


def frozen(prompt: list[dict[str, str]]) -> tuple:
    """Chat messages as a key."""
    return tuple((message["role"], message["content"]) for message in prompt)


def keyed(prompts: Sequence[Prompt], numbers: Sequence[int] | None) -> list[tuple[Any, int]]:
    """Each prompt as a key, with its number; None = 0 for all."""
    numbers = [0] * len(prompts) if numbers is None else numbers
    return [(p if isinstance(p, str) else frozen(p), n) for p, n in zip(prompts, numbers, strict=True)]


def thawed(key: Any) -> Prompt:
    """The messages, or the text, of a key."""
    return key if isinstance(key, str) else [{"role": role, "content": content} for role, content in key]


# -- tokens -----------------------------------------------------------------------------------------------------------

#: Prompts as keys → their token ids, within :func:`remembered`.
_IDS: ContextVar[dict[Any, np.ndarray] | None] = ContextVar("ids", default=None)


@contextmanager
def remembered() -> Iterator[None]:
    """Within, prompts that were tokenised once without padding are not tokenised again: int32 ids are kept of each."""
    token = _IDS.set({})
    try:
        yield
    finally:
        _IDS.reset(token)


def encode(tokenizer: Any, prompts: Sequence[Prompt], padding: bool) -> dict[str, Any]:
    """Token ids of prompts; padded tensors if asked. A chat template brings its own control tokens.

    Raises:
        ValueError: for texts and chat messages at once.
    """
    chat = bool(getattr(tokenizer, "chat_template", None))
    wrapped = [chat and not isinstance(prompt, str) for prompt in prompts]
    if any(wrapped) != all(wrapped):
        raise ValueError("prompts are strings or chat messages, not both at once.")
    known, keys = _IDS.get(), [prompt if isinstance(prompt, str) else frozen(prompt) for prompt in prompts]
    with using(tokenizer):
        if known is not None and all(key in known for key in keys):
            rows = {"input_ids": [known[key].tolist() for key in keys]}
            if not padding:
                return rows
            return dict(tokenizer.pad(rows, padding=True, return_tensors="pt", verbose=False))
        options: dict[str, Any] = {"padding": True, "return_tensors": "pt"} if padding else {}
        texts = [flatten(p) if isinstance(p, str) or not chat else chat_text(tokenizer, p) for p in prompts]
        found = tokenizer(
            texts, add_special_tokens=not any(wrapped), return_attention_mask=True, verbose=False, **options
        )
    if known is not None and not padding:
        known.update((key, np.asarray(ids, dtype=np.int32)) for key, ids in zip(keys, found["input_ids"], strict=True))
    return found
