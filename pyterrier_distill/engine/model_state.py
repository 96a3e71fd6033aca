"""Whether a loaded model is still what was loaded: its weights, and the settings that its library keeps beside them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..stores import seals
from . import checkpoints

#: Models of up to this many weights are read whole each time (30 ms),
#: larger ones where a counter says that they changed.
_WHOLE = 1 << 26
#: Numbers of a tensor that are looked at where not all are.
_SAMPLE = 4096
#: Length of the blocks that a checksum is made of: prime, or moving rows about would not change it.
_BLOCK = 4099
_PLAIN = (str, int, float, bool, type(None))
#: What libraries keep with a module that says nothing of its vectors.
_ASIDE = frozenset(
    """training trust_remote_code backend is_hpu_graph_enabled module_kwargs processing_kwargs model_forward_params
    can_flatten_inputs modality_config transformer_task default_prompt_name""".split()
)
_BESIDES = ("_similarity_fn_name", "_query_expansion")
_PEFT = ("scaling", "active_adapters", "merged_adapters", "_disable_adapters", "disable_adapters")
_CONFIG_ASIDE = (
    "_", "output_", "use_cache", "dtype", "torch_dtype", "transformers_version", "return_dict", "problem_type",
    "gradient_checkpointing", "architectures",
)  # fmt: skip


class ModelState:
    """What a model is now, to be compared with what it is later.

    Args:
        model: a torch module.
        reader: its tokenizer, where the model does not hold it itself.
        files: what it was loaded from; paths that are not here (names on the hub) are passed over.
    """

    def __init__(self, model: Any, reader: Any = None, files: Sequence[Any] = ()):
        self.model = model
        self.reader = reader
        self.files = [str(name) for name in files if isinstance(name, (str, os.PathLike)) and os.path.exists(name)]
        self._stats = dict(zip(self.files, _stats(self.files), strict=True))
        self._settings = settings(model, reader)
        self._printed: tuple[Any, str] | None = None
        self.rebase()

    def rebase(self) -> None:
        """Take the weights as they are for those that were loaded."""
        self._weights = self._seen()

    @property
    def rewritten(self) -> bool:
        """Whether the weights are others than those that were loaded."""
        return self._seen() != self._weights

    @property
    def moved(self) -> bool:
        """Whether the weights are others than those that were loaded, or their files hold others now."""
        if self.rewritten:
            return True
        return any(self._stats[name] != now for name, now in zip(self.files, _stats(self.files), strict=True))

    @property
    def reset(self) -> str | None:
        """A digest of the model's settings if they are others than when it was loaded: prompts, lengths, pooling."""
        now = settings(self.model, self.reader)
        return None if now == self._settings else now

    def fingerprint(self) -> str:
        """Of all weights; computed again only when they have changed."""
        seen = self._seen()
        if self._printed is None or self._printed[0] != seen:
            self._printed = (seen, checkpoints.fingerprint(self.model))
        return self._printed[1]

    def _seen(self) -> Any:
        tensors = sorted(self.model.state_dict(keep_vars=True).items())
        whole = sum(tensor.numel() for _, tensor in tensors) <= _WHOLE
        return [(name, tuple(tensor.shape), str(tensor.dtype), *_told(tensor, whole)) for name, tensor in tensors]


def _told(tensor: Any, whole: bool) -> Iterator[int]:
    """Numbers that change with a tensor's content; with its place in memory, too, where not all of it is read."""
    if tensor.device.type == "meta":
        return
    if not whole:
        # What writes into a tensor counts up its version, unless it goes round torch.
        yield tensor.data_ptr()
        yield -1 if tensor.is_inference() else tensor._version
    try:
        flat = tensor.detach().reshape(-1)
        if not whole and len(flat) > _SAMPLE:
            flat = flat[:: len(flat) // _SAMPLE]
        yield checksum(flat)
    except (RuntimeError, TypeError):  # of a kind that cannot be read as plain numbers, such as a quantised one
        yield id(tensor)


def checksum(flat: Any) -> int:
    """Sixty-four bits of a tensor ``[n]`` that change with its numbers and their order, the same on every device."""
    import torch

    content = flat.cpu().contiguous().view(torch.uint8).numpy()
    words = content[: len(content) // 8 * 8].view(np.int64)
    blocks = words[: len(words) // _BLOCK * _BLOCK].reshape(-1, _BLOCK)
    with np.errstate(over="ignore"):
        total = (blocks @ _factors(_BLOCK)) @ _factors(len(blocks))
        rest = words[blocks.size :]
        total += rest @ _factors(len(rest)) * np.int64(3)
    tail = int.from_bytes(content[len(words) * 8 :].tobytes(), "little")
    return (int(total) ^ (tail * 0x9E3779B97F4A7C15)) & (2**64 - 1)


def _factors(n: int) -> np.ndarray:
    """n odd numbers."""
    with np.errstate(over="ignore"):
        return np.arange(1, 2 * n, 2, dtype=np.int64) * np.int64(0x1E3779B97F4A7C15)


def _stats(files: Sequence[str]) -> Any:
    """What changes when anybody writes to files or directories, without reading them."""
    found = []
    for name in files:
        path = Path(name)
        inside = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
        states = [(p, p.stat()) for p in inside if p.suffix.lower() != ".md"]
        found.append(sorted((str(p), s.st_size, s.st_mtime_ns) for p, s in states))
    return found


def settings(model: Any, reader: Any = None) -> str:
    """A digest of how a model is set besides its weights."""
    told: list[Any] = [tokenizer_settings(reader)]
    for name, module in model.named_modules():
        kind = type(module)
        one: dict[str, Any] = {}
        if kind.__module__.startswith("sentence_transformers"):
            kept = {n: v for n, v in vars(module).items() if n in _BESIDES or (n[:1] != "_" and n not in _ASIDE)}
            one = {n: v for n, v in kept.items() if _is_plain(v)}
            one["reads"] = tokenizer_settings(vars(module).get("processor") or vars(module).get("tokenizer"))
        elif kind.__module__.startswith("peft"):
            one = {n: v for n in _PEFT if _is_plain(v := getattr(module, n, None))}
        if hasattr(config := vars(module).get("config"), "to_dict"):
            one["config"] = {n: v for n, v in config.to_dict().items() if not n.startswith(_CONFIG_ASIDE)}
            one["config"] = {n: v for n, v in one["config"].items() if "dropout" not in n}
        told.append([name, kind.__name__, one])
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=repr).encode()).hexdigest()[:8]


def tokenizer_settings(tokenizer: Any) -> Any:
    """What of a tokenizer may be set after it was loaded."""
    if not hasattr(tokenizer, "special_tokens_map"):
        return None
    names = ("model_max_length", "chat_template", "truncation_side")
    told = {name: getattr(tokenizer, name, None) for name in names}
    return {**told, "special": {k: str(v) for k, v in tokenizer.special_tokens_map.items()}, "size": len(tokenizer)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(_is_plain(part) for part in value)
    if isinstance(value, dict):
        return all(isinstance(k, _PLAIN) and _is_plain(v) for k, v in value.items())
    return isinstance(value, _PLAIN)


@dataclass
class Loaded:
    """A model that is loaded when it is first needed, and what is known of how it differs from its checkpoint.

    Attributes:
        model: None before it is loaded.
        trained: fingerprint of the weights that it was last known to have, if they were not its checkpoint's.
        reset: likewise a digest of its settings.
    """

    model: Any = None
    trained: str | None = None
    reset: str | None = None
    state: ModelState | None = field(default=None, repr=False, compare=False)

    def hold(self, model: Any, reader: Any = None, files: Sequence[Any] = ()) -> Any:
        """Keep ``model`` as it was just loaded; gives it back.

        Raises:
            ValueError: if it was loaded from a saved student of which a file is missing or another.
        """
        for name in files:
            if isinstance(name, (str, os.PathLike)) and os.path.isdir(name):
                seals.check(name)
        self.model = model
        self.state = ModelState(model, reader, files)
        return model

    def changes(self) -> dict[str, str]:
        """How the model differs from what its checkpoint gives: ``trained`` (weights), ``reset`` (settings).

        Empty where it does not, or is not loaded: nothing is loaded for this.
        """
        trained, reset = self.trained, self.reset
        if self.model is not None:
            if self.state is None or self.state.model is not self.model:  # a copy: it is what it was when copied
                self.state = ModelState(self.model)
            if self.state.moved:
                trained = self.state.fingerprint()
            reset = self.state.reset or reset
        return {n: v for n, v in (("trained", trained), ("reset", reset)) if v is not None}

    def replace(self, model: Any) -> None:
        """Another model in the place of the one that was loaded, and to be compared with that."""
        self.changes()
        self.model = model
        if self.state is not None:
            self.state.model = model

    def retrained(self) -> None:
        """Note that the weights are others now, and are meant to be."""
        self.rebased(checkpoints.fingerprint(self.model))

    def rebased(self, trained: str | None) -> None:
        """Note that the weights are now those with the fingerprint ``trained``; None = the checkpoint's."""
        self.changes()  # of a copy, there is no state yet
        if self.state is not None:
            if trained is not None:
                self.state.files = []  # what lies there is not this model
            self.state.rebase()
        self.trained = trained

    def carried(self) -> Any:
        """A copy to pickle: with the model if it cannot be loaded again as it is."""
        changes = self.changes()
        if not changes:
            return type(self)()
        return replace(self, trained=changes.get("trained"), reset=changes.get("reset"), state=None)


def shown(text: str, changes: dict[str, str]) -> str:
    """A repr, and how the model is not the one that it names."""
    return f"<{text} {' '.join(f'{n} {v}' for n, v in changes.items())}>" if changes else text
