"""Beginnings that several inputs of a decoder share, such as examples or an instruction with a query, read once.

What the shared tokens leave in the model's attention (keys and values) is kept, and the rest of each input reads on
from there. Scores are those of reading each input whole. Models whose state is no such cache, or one with a sliding
window, read each input whole; those that read padding like text read inputs of one length together, without any.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakSet

from . import batching

if TYPE_CHECKING:
    import torch

#: Tokens that take as long as one more call of the model: what shared beginnings save together must be more.
CALL = {"cpu": 128, "cuda": 4096}
#: Tokens that each group of inputs must save: its beginning is padded to those that are read with it.
GROUP = 16

#: Recurrent models whose state or convolution reads padding before a text, whatever the attention mask says.
READ_PADDING = frozenset({"recurrent_gemma", "rwkv", "xlstm"})


#: Those of which transformers' ``generate`` mixes up the states of a batch.
ALONE = frozenset({"rwkv"})


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
        features: theirs. Where they share beginnings: ``shared`` columns of these first, padded on the left, the other
            tokens padded on the left behind them; and ``beginning`` ``[n]`` says which each has.
        past: what the beginnings left; None where nothing is shared.
    """

    rows: torch.Tensor
    features: dict[str, Any]
    past: Past | None = None


class Past(NamedTuple):
    """What beginnings left in a model's cache.

    Attributes:
        all: keys and values of what all inputs share, layer by layer, ``[1, H, P, D]``; empty where that is nothing.
        some: those of the beginnings that follow it, ``[G, H, M, D]``, padded on the left; empty where there are none.
    """

    all: Sequence[Any]
    some: Sequence[Any] = ()


def call(model: Any) -> int:
    """Tokens that take as long as one more call of the model."""
    return CALL.get(model.device.type, CALL["cpu"])


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


def last_logits(model: Any, features: dict[str, Any], count: int, past: Past | None = None) -> torch.Tensor:
    """Logits ``[n, count, vocabulary]`` at the last ``count`` tokens of inputs that are padded on the left.

    Args:
        model: a decoder of transformers.
        features: ``input_ids`` and ``attention_mask`` ``[n, L]``, and what a :class:`Part` has besides.
        count: how many.
        past: what the beginnings left that the inputs share.
    """
    mask, may, shared = features["attention_mask"], takes(model), features.get("shared", 0)
    extra: dict[str, Any] = {}
    if "position_ids" in may:
        extra["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, shared:]
    if "logits_to_keep" in may:
        extra["logits_to_keep"] = count
    if "use_cache" in may:
        extra["use_cache"] = False
    if past is not None:
        extra["past_key_values"] = _reading_on(past, features["beginning"])
    return model(input_ids=features["input_ids"][:, shared:], attention_mask=mask, **extra).logits[:, -count:]


def parts(model: Any, features: dict[str, Any], keep: Sequence[int]) -> Iterator[Part]:
    """Inputs in parts that share beginnings, which are read once; the other inputs as they are.

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
    outer, found = _worth(inputs, keep, call(model)) if len(inputs) > 1 and _shares(model) else (0, [])
    base = _read(model, [inputs[0][:outer]]) if outer else ()
    if base is None or not found:
        yield Part(torch.arange(len(inputs)), features)
        return
    for group in (group for group in found if not group.shared):
        rows = torch.tensor(group.rows)
        if outer:
            yield Part(rows, _beginning_first(features, inputs, [group], outer), Past(base))
        else:
            yield Part(rows, {name: value[rows] for name, value in features.items()})
    deep = sorted((group for group in found if group.shared), key=lambda group: group.shared)
    while deep:
        # Those of like length together, no more than a batch may read at once.
        size = batching.size(outer + deep[-1].shared, _budget(model), outer)
        some, deep = deep[-size:], deep[:-size]
        left = _read(model, [inputs[group.rows[0]][outer : outer + group.shared] for group in some], base)
        rows = torch.tensor([row for group in some for row in group.rows])
        if left is None:
            yield Part(rows, {name: value[rows] for name, value in features.items()})
        else:
            yield Part(rows, _beginning_first(features, inputs, some, outer), Past(base, left))


def _worth(inputs: Sequence[Sequence[int]], keep: Sequence[int], call: int) -> tuple[int, list[Group]]:
    """How many first tokens all inputs share, and groups of those that share some more; nothing if it does not pay."""
    # What all have in common, such as examples, and then what some have besides, such as a query.
    most = min(len(ids) - kept for ids, kept in zip(inputs, keep, strict=True))
    ends = [list(end) for end in (min(inputs, key=list), max(inputs, key=list))]
    outer = min(common(*ends), most)
    outer = outer if (len(inputs) - 1) * outer > call else 0
    found = groups([ids[outer:] for ids in inputs], keep, GROUP)
    if sum((len(group.rows) - 1) * group.shared for group in found) <= call:
        found = [Group(0, list(range(len(inputs))))] if outer else []
    return outer, found


def _beginning_first(
    features: dict[str, Any], inputs: Sequence[Sequence[int]], found: Sequence[Group], outer: int
) -> dict[str, Any]:
    """The features of groups of inputs: see :class:`Part`."""
    import torch

    deepest = max(group.shared for group in found)
    rows = [(inputs[row], group.shared) for group in found for row in group.rows]
    longest = max(len(ids) - outer - depth for ids, depth in rows)
    ids = features["input_ids"].new_zeros((len(rows), outer + deepest + longest))
    mask = features["attention_mask"].new_zeros(ids.shape)
    ids[:, :outer], mask[:, :outer] = ids.new_tensor(rows[0][0][:outer]), 1
    middle, end = outer + deepest, ids.shape[1]
    for place, (tokens, depth) in enumerate(rows):
        own = len(tokens) - outer - depth
        ids[place, middle - depth : middle] = ids.new_tensor(tokens[outer : outer + depth])
        ids[place, end - own :] = ids.new_tensor(tokens[outer + depth :])
        mask[place, middle - depth : middle] = mask[place, end - own :] = 1
    which = torch.tensor([row for group in found for row in group.rows])
    others = {name: value[which] for name, value in features.items()}
    kinds = [kind for kind, group in enumerate(found) for _ in group.rows]
    more = {"shared": middle, "beginning": torch.tensor(kinds)}
    return {**others, "input_ids": ids, "attention_mask": mask, **more}


def _reading_on(past: Past, which: torch.Tensor) -> Any:
    """A cache for inputs that read on from beginnings, ``which`` of them ``[n]``; it is no copy of them."""
    from .shared_prefix import reading_on

    return reading_on(past.all, past.some, which)


def before_answers(model: Any, features: dict[str, Any], past: Past | None) -> Any:
    """The cache that a batch is answered from, all but each input's last token read; None = nothing is read yet.

    Inputs are read in parts of like length; those that are equal, of which several answers are drawn, once.

    Args:
        model: a decoder of transformers.
        features: of a :class:`Part`, on the model's device.
        past: what the beginnings left that the inputs share.
    """
    import torch

    from .shared_prefix import joined, shareable

    def read_on(rows: Any) -> Any:
        return None if past is None else _reading_on(past, features["beginning"][rows])

    ids, mask, shared = features["input_ids"], features["attention_mask"], features.get("shared", 0)
    place: dict[tuple, int] = {}
    kinds = [place.setdefault((*row, *told), len(place)) for row, told in zip(ids.tolist(), mask.tolist(), strict=True)]
    firsts = torch.tensor([kinds.index(kind) for kind in range(len(place))], device=ids.device)
    told = {"input_ids": ids[firsts], "attention_mask": mask[firsts], "shared": shared}
    read_together = [positions for positions, _ in batching.pack(told, _budget(model))]
    width = ids.shape[1] - shared
    if (len(place) == len(kinds) and len(read_together) == 1) or width < 2 or not _shares(model):
        return read_on(slice(None))
    parts: list[Any] = []
    for positions in read_together:
        rows = firsts[positions.to(ids.device)]
        own = max(2, int(mask[rows, shared:].sum(dim=1).max()))
        cut = torch.cat([mask[rows, :shared], mask[rows, -own:-1]], dim=1)
        left = _left(model, ids[rows, -own:-1], cut, read_on(rows))
        if past is None and not shareable(left):
            _unfit.add(model)
            return None
        parts.append(left)
    order = torch.cat(read_together).argsort().to(ids.device)
    return joined(parts, order[torch.tensor(kinds, device=ids.device)], width - 1, read_on(slice(None)))


def _left(model: Any, ids: torch.Tensor, mask: torch.Tensor, past: Any) -> Any:
    """What tokens leave in a model's cache, behind those that left ``past``, which grows by them."""
    extra = {"logits_to_keep": 1} if "logits_to_keep" in takes(model) else {}
    at = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    output = model(
        input_ids=ids, attention_mask=mask, position_ids=at, past_key_values=past, use_cache=True, **extra
    )
    # RecurrentGemma takes them, and keeps its state in its layers.
    return getattr(output, "past_key_values", None)


def _budget(model: Any) -> int:
    """Tokens that are read at once."""
    return batching.TOKEN_BUDGET.get(model.device.type, batching.TOKEN_BUDGET["cpu"])


def takes(model: Any) -> set[str]:
    """What a model's ``forward`` may be given."""
    return set(inspect.signature(model.forward).parameters)


#: Models whose state is no cache that can be shared.
_unfit: WeakSet[Any] = WeakSet()


def _shares(model: Any) -> bool:
    """Whether a model may read on from what a beginning left."""
    needed = {"past_key_values", "use_cache", "position_ids", "attention_mask"}
    fit = needed <= takes(model) and model not in _unfit
    return fit and not model.config.is_encoder_decoder and _turns_alike(model)


def _turns_alike(model: Any) -> bool:
    """Whether a position is turned alike whatever comes behind it; long texts may turn their beginning otherwise."""
    rope = getattr(model.config.get_text_config(decoder=True), "rope_parameters", None) or {}
    each = [rope, *(one for one in rope.values() if isinstance(one, dict))]
    return not any(one.get("rope_type") in ("dynamic", "longrope") for one in each)


def _read(model: Any, beginnings: Sequence[Sequence[int]], base: Sequence[Any] = ()) -> Any:
    """Keys and values of beginnings ``[G, H, M, D]``, layer by layer, behind ``base``; None if not to be shared."""
    import torch

    from .shared_prefix import held, reading_on, shareable

    longest, device = max(map(len, beginnings)), model.device
    ids = torch.tensor([[0] * (longest - len(ids)) + list(ids) for ids in beginnings], device=device)
    mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in beginnings], device=device)
    cache = None
    if base:
        cache = reading_on(base, (), torch.zeros(len(ids), dtype=torch.long, device=device))
        mask = torch.cat([mask.new_ones((len(ids), base[0][0].shape[-2])), mask], dim=1)
    left = _left(model, ids, mask, cache)
    if base or shareable(left):
        return held(left)
    _unfit.add(model)
    return None
