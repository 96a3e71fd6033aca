"""Attention and dropout while a CPU trains in bfloat16, where torch's own take most of the time of a step.

The backward pass of torch's attention takes a dozen times as long as its forward pass on a CPU; with dropout, its
random numbers, drawn one by one in one thread, take a quarter of a step. Both are the same functions here, computed
otherwise: attention as products of matrices, and dropout by sixteen random bits a number, drawn in bulk.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

Result = TypeVar("Result")

#: The half precision in which this context's training computes so, if it does.
_ACTIVE: ContextVar[torch.dtype | None] = ContextVar("training_kernels", default=None)
#: Random bits of a number that dropout keeps or not: its probability is a multiple of one in 65,536.
_BITS = 16


def generator() -> np.random.Generator:
    """Random numbers that follow from torch's own generator, of whose numbers one is used up."""
    return np.random.Generator(np.random.SFC64(int(torch.randint(2**63 - 1, ()))))


def keeping(shape: tuple[int, ...], probability: float, dtype: torch.dtype, generator: np.random.Generator) -> Tensor:
    """What dropout multiplies by: 0 with ``probability``, else what leaves the mean as it is.

    Args:
        shape: of the result.
        probability: from 0 to less than 1.
        dtype: of the result.
        generator: where the random numbers come from.
    """
    count = int(np.prod(shape))
    each = 64 // _BITS
    drawn = generator.integers(0, 2**64, size=-(-count // each), dtype=np.uint64).view(np.int16)[:count]
    dropped = round(probability * 2**_BITS)
    kept = torch.tensor(2**_BITS / (2**_BITS - dropped), dtype=dtype)
    return torch.where(torch.from_numpy(drawn).view(shape) >= dropped - 2 ** (_BITS - 1), kept, kept.new_zeros(()))


class _Attention(torch.autograd.Function):
    """softmax(q kᵀ · scale + mask) v, of ``[B, H, L, D]``; ``keep`` ``[B, H, L, S]`` multiplies the probabilities."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, scale: float, keep: Any) -> Tensor:
        batch, heads, length, width = query.shape
        rows = batch * heads
        queries = (query * scale).reshape(rows, length, width)
        keys = key.reshape(rows, -1, width)
        # What all keys have in common changes no probability, but rounds the scores: taken off, these are exacter.
        keys = (keys - keys.mean(dim=1, keepdim=True, dtype=torch.float32)).to(keys.dtype)
        values = value.reshape(rows, -1, value.shape[-1])
        scores = torch.bmm(queries, keys.transpose(1, 2)).view(batch, heads, length, -1)
        probabilities = torch.softmax(scores if mask is None else scores.add_(mask), dim=-1)
        kept = probabilities if keep is None else probabilities * keep
        ctx.scale = scale
        ctx.save_for_backward(queries, keys, values, probabilities, kept, keep)
        return torch.bmm(kept.view(rows, length, -1), values).view(batch, heads, length, -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        queries, keys, values, probabilities, kept, keep = ctx.saved_tensors
        batch, heads, length, _ = probabilities.shape
        rows = batch * heads
        gradient = gradients[0].reshape(rows, length, -1)
        of_values = torch.bmm(kept.view(rows, length, -1).transpose(1, 2), gradient)
        of_kept = torch.bmm(gradient, values.transpose(1, 2)).view(probabilities.shape)
        of_kept = of_kept if keep is None else of_kept.mul_(keep)
        of_scores = torch._softmax_backward_data(of_kept, probabilities, -1, probabilities.dtype)
        of_scores = of_scores.view(rows, length, -1)
        of_queries = torch.bmm(of_scores, keys).mul_(ctx.scale)  # rows sum to 0: what all keys share adds nothing
        of_keys = torch.bmm(of_scores.transpose(1, 2), queries)
        shaped = [part.view(batch, heads, *part.shape[1:]) for part in (of_queries, of_keys, of_values)]
        return (*shaped, None, None, None)


def active() -> torch.dtype | None:
    """The half precision of the :class:`Kernels` within which this is called; None outside of them."""
    return _ACTIVE.get()


class Kernels(TorchFunctionMode):
    """A context in which attention and dropout are computed so; whatever they are not made for is left to torch.

    Torch leaves it for the backward pass: what that computes again has to be computed within one of its own.

    Args:
        dtype: that of autocast.
        generator: of dropout's random numbers, for work beside other threads; None = torch's, in each call.
    """

    def __init__(self, dtype: torch.dtype = torch.bfloat16, generator: np.random.Generator | None = None):
        super().__init__()
        self.dtype = dtype
        self._generator = generator
        self._mask: tuple[Tensor, Tensor] | None = None
        self._token: Any = None

    def __enter__(self) -> Kernels:
        self._token = _ACTIVE.set(self.dtype)
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        _ACTIVE.reset(self._token)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Attention by :meth:`attention`, dropout by :meth:`dropout`, everything else as it is."""
        if func is F.scaled_dot_product_attention:
            return self.attention(*args, **(kwargs or {}))
        if func is F.dropout:
            return self.dropout(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """As ``torch.nn.functional.scaled_dot_product_attention``."""
        learns = torch.is_grad_enabled() and any(part.requires_grad for part in (query, key, value))
        shapes = query.dim() == 4 and query.shape[:2] == key.shape[:2] == value.shape[:2]
        mask_moves = attn_mask is not None and attn_mask.requires_grad
        if not learns or not shapes or mask_moves or is_causal or enable_gqa or dropout_p >= 1:
            return F.scaled_dot_product_attention(
                query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
            )
        with torch.autocast(query.device.type, enabled=False):
            query, key, value = (part.to(self.dtype) for part in (query, key, value))
            scores = (*query.shape[:3], key.shape[2])
            keep = self.keeping(scores, dropout_p, self.dtype) if dropout_p > 0 else None
            mask = None if attn_mask is None else self.added(attn_mask)
            return _Attention.apply(query, key, value, mask, scale or query.shape[-1] ** -0.5, keep)  # type: ignore

    def added(self, mask: Tensor) -> Tensor:
        """A mask as finite numbers that are added to scores, made once for all layers."""
        if self._mask is None or self._mask[0] is not mask:
            least = torch.finfo(self.dtype).min
            if mask.dtype == torch.bool:
                numbers = torch.zeros(mask.shape, dtype=self.dtype).masked_fill_(~mask, least)
            else:
                numbers = mask.to(self.dtype).clamp_min(least)
            self._mask = (mask, numbers)
        return self._mask[1]

    def dropout(self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        """As ``torch.nn.functional.dropout``."""
        if not training or inplace or not 0 < p < 1 or not input.is_floating_point():
            return F.dropout(input, p, training, inplace)
        return input * self.keeping(tuple(input.shape), p, input.dtype)

    def keeping(self, shape: tuple[int, ...], probability: float, dtype: torch.dtype) -> Tensor:
        """As the function of this name."""
        return keeping(shape, probability, dtype, self._generator or generator())


def carried(forward: Callable[..., Result]) -> Callable[..., Result]:
    """``forward``, which computes as here wherever it is called, also where the backward pass computes it again."""
    dtype = active()
    if dtype is None:
        return forward

    def within(*args: Any) -> Result:
        with Kernels(dtype):
            return forward(*args)

    return within
