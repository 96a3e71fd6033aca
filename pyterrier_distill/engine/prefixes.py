"""Beginnings that several inputs of a decoder share, such as examples or an instruction with a query, read once.

What the shared tokens leave in the model's attention (keys and values) is kept, and the rest of each input reads on
from there. Scores are those of reading each input whole. Models whose state is no such cache, or one with a sliding
window, read each input whole; those that read padding like text read inputs of one length together, without any.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakSet

if TYPE_CHECKING:
    import torch

#: Tokens that take as long as one more call of the model: what a shared beginning saves must be more.
CALL = {"cpu": 32, "cuda": 4096}

#: Recurrent models whose state or convolution reads padding before a text, whatever the attention mask says.
READ_PADDING = frozenset({"recurrent_gemma", "rwkv", "xlstm"})


class Group(NamedTuple):
    """Inputs that are read together.

    Attributes:
        shared: how many first tokens they share and read once; 0 = none.
        rows: which inputs.
    """

    shared: int
    rows: list[int]


class Part(NamedTuple):
    """Inputs that are read together, as tensors.

    Attributes:
        rows: which inputs ``[n]``.
        features: theirs: the shared tokens first, the others padded on the left.
        shared: how many first tokens they share.
        past: what these left; None where nothing is shared.
    """

    rows: torch.Tensor
    features: dict[str, Any]
    shared: int = 0
    past: Any = None


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many first tokens two inputs share."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def groups(inputs: Sequence[Sequence[int]], keep: Sequence[int], call: int) -> list[Group]:
    """Inputs in groups that save most tokens.

    A group of k inputs that share d tokens saves (k − 1) · d, and takes one call more. Of a group and the groups that
    its members form among themselves, those are taken that save more.

    Args:
        inputs: token ids of each.
        keep: how many last tokens of each must be read by itself: those whose logits are wanted.
        call: tokens that one more call takes as long as.

    Returns:
        Groups that save something; the other inputs in one with ``shared`` 0, which comes first.
    """
    order = sorted(range(len(inputs)), key=lambda n: list(inputs[n]))
    most = [len(ids) - kept for ids, kept in zip(inputs, keep, strict=True)]
    open_: list[tuple[int, list[_Piece]]] = []  # of growing depth: the branches on the way to the present input
    for place, row in enumerate(order):
        piece = _Piece(0, 1, [Group(0, [row])])
        following = order[place + 1] if place + 1 < len(order) else None
        depth = -1
        if following is not None:
            depth = min(common(inputs[row], inputs[following]), most[row], most[following])
        while open_ and open_[-1][0] > depth:
            shared, pieces = open_.pop()
            piece = _closed(shared, [*pieces, piece], call)
        if open_ and open_[-1][0] == depth:
            open_[-1][1].append(piece)
        else:
            open_.append((depth, [piece]))
    found = [group for _, pieces in open_ for piece in pieces for group in piece.groups]
    alone = sorted(row for group in found if group.shared == 0 for row in group.rows)
    return [*([Group(0, alone)] if alone else []), *(group for group in found if group.shared)]


class _Piece(NamedTuple):
    """A branch of inputs: tokens saved by its best groups, how many inputs it has, and these groups."""

    saved: int
    size: int
    groups: list[Group]


def _closed(shared: int, pieces: Sequence[_Piece], call: int) -> _Piece:
    size, apart = sum(piece.size for piece in pieces), sum(piece.saved for piece in pieces)
    together = (size - 1) * shared - call
    found = [group for piece in pieces for group in piece.groups]
    if together <= max(apart, 0):
        return _Piece(apart, size, found)
    return _Piece(together, size, [Group(shared, [row for group in found for row in group.rows])])


def last_logits(model: Any, features: dict[str, Any], count: int, shared: int = 0, past: Any = None) -> torch.Tensor:
    """Logits ``[n, count, vocabulary]`` at the last ``count`` tokens of inputs that are padded on the left.

    Args:
        model: a decoder of transformers.
        features: ``input_ids`` and ``attention_mask`` ``[n, L]``.
        count: how many.
        shared: first tokens that are in ``past`` already.
        past: what they left; it is used up.
    """
    mask, takes = features["attention_mask"], inspect.signature(model.forward).parameters
    extra: dict[str, Any] = {}
    if "position_ids" in takes:
        extra["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, shared:]
    if "logits_to_keep" in takes:
        extra["logits_to_keep"] = count
    if "use_cache" in takes:
        extra["use_cache"] = False
    if past is not None:
        extra["past_key_values"] = past
    return model(input_ids=features["input_ids"][:, shared:], attention_mask=mask, **extra).logits[:, -count:]


def parts(model: Any, features: dict[str, Any], keep: Sequence[int]) -> Iterator[Part]:
    """Inputs in parts that share a beginning, which is read once; the other inputs as they are.

    Args:
        model: a decoder of transformers.
        features: ``input_ids`` and ``attention_mask`` ``[n, L]``, padded on the left, and other tensors of n rows.
        keep: how many last tokens of each must be read by itself.
    """
    import torch

    sizes = features["attention_mask"].sum(dim=1).tolist()
    if model.config.model_type in READ_PADDING and min(sizes) < max(sizes):
        for size in sorted(set(sizes)):
            rows = torch.tensor([n for n, one in enumerate(sizes) if one == size])
            part = {name: value[rows] for name, value in features.items()}
            unpadded = {name: part[name][:, -size:] for name in ("input_ids", "attention_mask")}
            yield Part(rows, {**part, **unpadded})
        return
    inputs = [row[len(row) - size :] for row, size in zip(features["input_ids"].tolist(), sizes, strict=True)]
    call = CALL.get(model.device.type, CALL["cpu"])
    outer, found = 0, []
    if len(inputs) > 1 and _shares(model):
        # What all have in common, such as examples, and then what some have besides, such as a query.
        most = min(size - kept for size, kept in zip(sizes, keep, strict=True))
        outer = min(common(min(inputs), max(inputs)), most)
        outer = outer if (len(inputs) - 1) * outer > call else 0
        found = groups([ids[outer:] for ids in inputs], keep, call)
    base = _read(model, inputs[0][:outer]) if outer else None
    if not any(outer + group.shared for group in found) or (outer and base is None):
        yield Part(torch.arange(len(inputs)), features)
        return
    for group in found:
        rows, shared = torch.tensor(group.rows), outer + group.shared
        past = _read(model, inputs[group.rows[0]][:shared], base, outer) if group.shared else base
        if past is None:
            yield Part(rows, {name: value[rows] for name, value in features.items()})
        else:
            yield Part(rows, _beginning_first(features, rows, shared), shared, past)


def _beginning_first(features: dict[str, Any], rows: torch.Tensor, shared: int) -> dict[str, Any]:
    """The ``rows`` of features with their first ``shared`` tokens in the first columns, padding behind them."""
    import torch

    part = {name: value[rows] for name, value in features.items()}
    width, sizes = part["input_ids"].shape[1], part["attention_mask"].sum(dim=1, keepdim=True)
    columns, starts = torch.arange(width), width - sizes
    part["attention_mask"] = ((columns < shared) | (columns >= starts + shared)).to(part["attention_mask"].dtype)
    first = part["input_ids"][0, starts[0, 0] : starts[0, 0] + shared].clone()
    part["input_ids"][:, :shared] = first
    return part


def repeated(past: Any, rows: int) -> Any:
    """A copy of what a beginning left, for each of ``rows`` inputs."""
    past = copy.deepcopy(past)
    past.batch_repeat_interleave(rows)
    return past


#: Models whose state is no cache that can be shared.
_unfit: WeakSet[Any] = WeakSet()


def _shares(model: Any) -> bool:
    """Whether a model may read on from what a beginning left."""
    takes = set(inspect.signature(model.forward).parameters)
    needed = {"past_key_values", "use_cache", "position_ids", "attention_mask"}
    return not model.config.is_encoder_decoder and needed <= takes and model not in _unfit


def _read(model: Any, ids: Sequence[int], past: Any = None, shared: int = 0) -> Any:
    """What the tokens of a beginning leave, the first ``shared`` of which left ``past``; None if nothing to share."""
    import torch
    from transformers.cache_utils import DynamicCache, DynamicLayer

    at = torch.arange(len(ids), device=model.device)[None]
    extra = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    output = model(
        input_ids=torch.tensor([list(ids[shared:])], device=model.device), attention_mask=torch.ones_like(at),
        position_ids=at[:, shared:], past_key_values=copy.deepcopy(past), use_cache=True, **extra,
    )  # fmt: skip
    left: Any = getattr(output, "past_key_values", None)  # RecurrentGemma takes them, and keeps its state in its layers
    if type(left) is DynamicCache and left.layers and all(type(layer) is DynamicLayer for layer in left.layers):
        return left
    _unfit.add(model)
    return None
