"""The keys and values of a beginning that a batch of inputs shares, held once, whatever the size of the batch.

A :class:`SharedLayer` stands where transformers keeps a layer's keys and values: the beginning's once, and those of
each input's own tokens. Attention sees them one after the other, as if each input had been read whole; what is put
together for that lives no longer than the layer's attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from transformers.cache_utils import DynamicCache, DynamicLayer

if TYPE_CHECKING:
    import torch


class SharedLayer(DynamicLayer):
    """One layer's keys and values: a beginning's ``[1, H, P, D]``, and those of inputs' own tokens ``[B, H, n, D]``.

    B are inputs, H heads, P and n tokens, D the dimensions of a head. Under autocast both are held in the precision
    that attention computes with.

    Args:
        keys: of the beginning.
        values: of the beginning.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor):
        super().__init__()
        self.beginning = _computed(keys), _computed(values)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep the next tokens' ``[B, H, m, D]``; all keys and values ``[B, H, P + n + m, D]``."""
        import torch

        keys, values = super().update(_computed(key_states), _computed(value_states), *args, **kwargs)
        first, others = self.beginning
        rows = (len(keys), -1, -1, -1)
        return torch.cat([first.expand(rows), keys], dim=-2), torch.cat([others.expand(rows), values], dim=-2)

    def get_seq_length(self) -> int:
        """Tokens of the beginning, and of each input besides."""
        return self.beginning[0].shape[-2] + super().get_seq_length()

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these inputs, any of them more than once."""
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys[indices], self.values[indices]

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last ``-tokens_to_remove`` tokens of each input."""
        if tokens_to_remove < 0 and self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys[..., :tokens_to_remove, :], self.values[..., :tokens_to_remove, :]


def _computed(states: torch.Tensor) -> torch.Tensor:
    """Keys or values as attention computes with them: autocast would round them each time anew."""
    import torch

    kind = states.device.type
    return states.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else states


def shareable(past: Any) -> bool:
    """Whether what a model left is a cache of keys and values of all tokens, and nothing else."""
    layers = getattr(past, "layers", None)
    return type(past) is DynamicCache and bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def reading_on(past: DynamicCache) -> DynamicCache:
    """A cache for a batch of inputs that read on from what a beginning left, which stays as it is."""
    cache = DynamicCache()
    cache.layers = [SharedLayer(layer.keys, layer.values) for layer in past.layers]
    return cache


def joined(parts: Sequence[DynamicCache], rows: torch.Tensor, width: int, cache: DynamicCache | None) -> DynamicCache:
    """What inputs left that were read in parts, in one cache.

    Args:
        parts: the parts' caches, which are emptied.
        rows: which input of the parts each row is ``[n]``, any of them more than once.
        width: tokens of a row; shorter ones are padded on the left.
        cache: what holds their beginning, if they share one.
    """
    import torch
    from torch.nn.functional import pad

    cache = cache or DynamicCache()
    for place in range(len(parts[0].layers)):
        if len(cache.layers) == place:
            cache.layers.append(DynamicLayer())
        layers: list[Any] = [part.layers[place] for part in parts]
        states = []
        for name in ("keys", "values"):
            each = [getattr(layer, name) for layer in layers]
            states.append(torch.cat([pad(it, (0, 0, width - it.shape[-2], 0)) for it in each])[rows])
        for layer in layers:
            layer.keys = layer.values = None
        layer = cache.layers[place]
        layer.lazy_initialization(*states)
        layer.keys, layer.values = states
    return cache
