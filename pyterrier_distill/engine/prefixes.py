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

from . import batching

if TYPE_CHECKING:
    import torch

#: Tokens that take as long as one more call of the model: what a shared beginning saves must be more.
CALL = {"cpu": 32, "cuda": 4096}

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


class Beginning(NamedTuple):
    """What inputs share.

    Attributes:
        shared: how many first tokens.
        past: what these left; None where nothing is shared.
    """

    shared: int = 0
    past: Any = None


NONE = Beginning()


class Part(NamedTuple):
    """Inputs that are read together, as tensors.

    Attributes:
        rows: which inputs ``[n]``.
        features: theirs: the shared tokens first, the others padded on the left.
        beginning: what they share.
    """

    rows: torch.Tensor
    features: dict[str, Any]
    beginning: Beginning = NONE

    @property
    def shared(self) -> int:
        """How many first tokens they share."""
        return self.beginning.shared


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


def last_logits(model: Any, features: dict[str, Any], count: int, beginning: Beginning = NONE) -> torch.Tensor:
    """Logits ``[n, count, vocabulary]`` at the last ``count`` tokens of inputs that are padded on the left.

    Args:
        model: a decoder of transformers.
        features: ``input_ids`` and ``attention_mask`` ``[n, L]``.
        count: how many.
        beginning: what they share, read already.
    """
    shared = beginning.shared
    mask, may = features["attention_mask"], takes(model)
    extra: dict[str, Any] = {}
    if "position_ids" in may:
        extra["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, shared:]
    if "logits_to_keep" in may:
        extra["logits_to_keep"] = count
    if "use_cache" in may:
        extra["use_cache"] = False
    if beginning.past is not None:
        extra["past_key_values"] = reading_on(beginning.past)
    return model(input_ids=features["input_ids"][:, shared:], attention_mask=mask, **extra).logits[:, -count:]


def parts(model: Any, features: dict[str, Any], keep: Sequence[int], apart: int | None = None) -> Iterator[Part]:
    """Inputs in parts that share a beginning, which is read once; the other inputs as they are.

    Args:
        model: a decoder of transformers.
        features: ``input_ids`` and ``attention_mask`` ``[n, L]``, padded on the left, and other tensors of n rows.
        keep: how many last tokens of each must be read by itself.
        apart: tokens that one more part takes as long as; None = one more call of the model.
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
    one = call(model)
    outer, found = 0, []
    if len(inputs) > 1 and _shares(model):
        # What all have in common, such as examples, and then what some have besides, such as a query.
        most = min(size - kept for size, kept in zip(sizes, keep, strict=True))
        outer = min(common(min(inputs), max(inputs)), most)
        outer = outer if (len(inputs) - 1) * outer > one else 0
        found = groups([ids[outer:] for ids in inputs], keep, one if apart is None else apart)
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
            yield Part(rows, _beginning_first(features, rows, shared), Beginning(shared, past))


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


def reading_on(past: Any) -> Any:
    """A cache for a batch of inputs that read on from what a beginning left, of which that is no copy."""
    from .shared_prefix import reading_on

    return reading_on(past)


def before_answers(model: Any, features: dict[str, Any], beginning: Beginning) -> Any:
    """The cache that a batch is answered from, all but each input's last token read; None = nothing is read yet.

    Inputs are read in parts of like length; those that are equal, of which several answers are drawn, once.

    Args:
        model: a decoder of transformers.
        features: ``input_ids`` and ``attention_mask`` ``[n, L]``, on the model's device, padded on the left.
        beginning: what all share.
    """
    import torch

    from .shared_prefix import joined, shareable

    shared, past = beginning
    nothing = None if past is None else reading_on(past)
    ids, mask = features["input_ids"], features["attention_mask"]
    place: dict[tuple, int] = {}
    rows = zip(ids.tolist(), mask.tolist(), strict=True)
    kinds = [place.setdefault((*row, *told), len(place)) for row, told in rows]
    firsts = torch.tensor([kinds.index(kind) for kind in range(len(place))], device=ids.device)
    budget = batching.TOKEN_BUDGET.get(ids.device.type, batching.TOKEN_BUDGET["cpu"])
    told = {"input_ids": ids[firsts], "attention_mask": mask[firsts]}
    read_together = [positions for positions, _ in batching.pack(told, budget, None, shared)]
    width = ids.shape[1] - shared
    if (len(place) == len(kinds) and len(read_together) == 1) or width < 2 or not _shares(model):
        return nothing
    parts: list[Any] = []
    for positions in read_together:
        own = max(2, int(told["attention_mask"][positions].sum(dim=1).max()) - shared)
        part = {name: torch.cat([it[positions, :shared], it[positions, -own:]], dim=1) for name, it in told.items()}
        left = _left(model, part["input_ids"][:, shared:-1], part["attention_mask"][:, :-1], nothing)
        if past is None and not shareable(left):
            _unfit.add(model)
            return None
        parts.append(left)
        nothing = None if past is None else reading_on(past)
    order = torch.cat(read_together).argsort().to(ids.device)
    return joined(parts, order[torch.tensor(kinds, device=ids.device)], width - 1, nothing)


def _left(model: Any, ids: torch.Tensor, mask: torch.Tensor, past: Any) -> Any:
    """What tokens leave in a model's cache, behind those that left ``past``, which grows by them."""
    extra = {"logits_to_keep": 1} if "logits_to_keep" in takes(model) else {}
    at = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    output = model(
        input_ids=ids, attention_mask=mask, position_ids=at, past_key_values=past, use_cache=True, **extra
    )
    # RecurrentGemma takes them, and keeps its state in its layers.
    return getattr(output, "past_key_values", None)


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


def _read(model: Any, ids: Sequence[int], past: Any = None, shared: int = 0) -> Any:
    """What the tokens of a beginning leave, the first ``shared`` of which left ``past``; None if nothing to share."""
    import torch

    from .shared_prefix import shareable

    whole = torch.tensor([list(ids)], device=model.device)
    left = _left(model, whole[:, shared:], torch.ones_like(whole), copy.deepcopy(past))
    if shareable(left):
        return left
    _unfit.add(model)
    return None
