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
    """One layer's keys and values: of beginnings ``[1 or G, H, P, D]``, and of inputs' own tokens ``[B, H, n, D]``.

    B are inputs, G beginnings, H heads, P and n tokens, D the dimensions of a head. Under autocast all are held in the
    precision that attention computes with.

    Args:
        beginnings: keys and values of what stands before the inputs, in order: of one for all, or of several.
        which: of several, that of each input ``[B]``.
    """

    def __init__(self, beginnings: Sequence[tuple[torch.Tensor, torch.Tensor]], which: torch.Tensor):
        super().__init__()
        self.beginnings = beginnings
        self.which = which

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep the next tokens' ``[B, H, m, D]``; all keys and values ``[B, H, P + n + m, D]``."""
        import torch

        own = super().update(_computed(key_states), _computed(value_states), *args, **kwargs)
        first = [[self._of_each(states) for states in pair] for pair in self.beginnings]
        keys, values = (torch.cat([*(pair[n] for pair in first), own[n]], dim=-2) for n in (0, 1))
        return keys, values

    def _of_each(self, states: torch.Tensor) -> torch.Tensor:
        return states.expand(len(self.which), -1, -1, -1) if len(states) == 1 else states[self.which]

    def get_seq_length(self) -> int:
        """Tokens of the beginning, and of each input besides."""
        return sum(keys.shape[-2] for keys, _ in self.beginnings) + super().get_seq_length()


def _computed(states: torch.Tensor) -> torch.Tensor:
    """Keys or values as attention computes with them: autocast would round them each time anew."""
    import torch

    kind = states.device.type
    return states.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else states


def shareable(past: Any) -> bool:
    """Whether what a model left is a cache of keys and values of all tokens, and nothing else."""
    layers = getattr(past, "layers", None) or []
    return type(past) is DynamicCache and len(layers) > 0 and all(type(layer) is DynamicLayer for layer in layers)


def held(cache: DynamicCache) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values of inputs' own tokens, layer by layer, as a :class:`SharedLayer` takes them."""
    layers: list[Any] = cache.layers
    return [(_computed(layer.keys), _computed(layer.values)) for layer in layers]


def reading_on(base: Sequence[Any], some: Sequence[Any], which: torch.Tensor) -> DynamicCache:
    """A cache for a batch of inputs that read on from beginnings, of which it is no copy.

    Args:
        base: keys and values ``[1, H, P, D]`` of what all share, layer by layer; empty where that is nothing.
        some: those of beginnings behind it ``[G, H, M, D]``; empty where there are none.
        which: of these, that of each input ``[B]``.
    """
    cache = DynamicCache()
    stages = [stage for stage in (base, some) if stage]
    cache.layers = [SharedLayer(pairs, which) for pairs in zip(*stages, strict=True)]
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
