"""What a model of transformers is given besides tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..prompts import Prompt


def decoder_start(model: Any) -> int:
    """The token that a decoder starts from."""
    start = model.config.decoder_start_token_id
    return model.config.pad_token_id if start is None else start


def last_only(model: Any, features: dict[str, Any]) -> dict[str, Any]:
    """Positions counted from the first real token, and logits of the last one alone, where the model takes these."""
    import inspect

    takes = inspect.signature(model.forward).parameters
    extra: dict[str, Any] = {}
    if "position_ids" in takes:
        extra["position_ids"] = (features["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    if "logits_to_keep" in takes:
        extra["logits_to_keep"] = 1
    if "use_cache" in takes:
        extra["use_cache"] = False
    return extra


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
