"""Cutting layers out of transformers models, so that what is saved is what was cut."""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import nn

#: Lists of a configuration that say something else than a thing for each layer, whatever their length.
_NO_LAYERS = re.compile(r"architectures|.*_token_ids?|.*_to_ignore.*|.*_plan|.*labels?|torch_dtype|dtype")


def kept_layers(total: int, layers: int | Sequence[int]) -> list[int]:
    """Which of ``total`` layers ``layers`` means: those listed, or that many, spread evenly from the first to the last.

    Raises:
        ValueError: if there are no such layers.
    """
    _check_kind(layers)
    if isinstance(layers, int):
        if not 1 <= layers <= total:
            raise ValueError(f"layers={layers} is impossible: this model has {total} layers.")
        keep = sorted({round(position) for position in np.linspace(0, total - 1, layers)}) if layers > 1 else [0]
    else:
        keep = list(layers)
        if not keep or len(set(keep)) < len(keep) or any(not 0 <= layer < total for layer in keep):
            raise ValueError(
                f"layers={keep} is impossible: this model has layers 0 to {total - 1}, each to be kept once."
            )
    return keep


def _check_kind(layers: int | Sequence[int]) -> None:
    listed = isinstance(layers, (list, tuple)) and all(isinstance(layer, int) for layer in layers)
    if isinstance(layers, bool) or not (isinstance(layers, int) or listed):
        raise ValueError(f"layers must be a number of layers or a list of them, such as 2 or [0, 5], not {layers!r}.")


def check_layers(source: str | int | None, layers: int | Sequence[int] | None) -> None:
    """Check ``layers`` before any weights are loaded, as far as that is possible.

    Args:
        source: a checkpoint, whose configuration is read if it is a directory; or how many layers there are.
        layers: as :func:`kept_layers` takes them; None = all.

    Raises:
        ValueError: if there are no such layers; if they would not be the same after saving.
    """
    if layers is None:
        return
    _check_kind(layers)
    total = told_layers(source) if isinstance(source, str) else source
    if total is None or kept_layers(total, layers) == list(range(total)) or not isinstance(source, str):
        return
    skeleton = _skeleton(source)
    if skeleton is not None:
        cut_layers(skeleton, layers)


def _told(name: str) -> tuple[str, dict[str, Any]]:
    """The directory of a transformers checkpoint in a directory, and its configuration; empty where there is none."""
    for place in (name, os.path.join(name, "0_Transformer")):
        path = os.path.join(place, "config.json")
        if os.path.isfile(path):
            with open(path, encoding="utf-8") as file:
                return place, json.load(file)
    return name, {}


def told_layers(name: str) -> int | None:
    """Layers of the encoder in a directory; None where its configuration does not say, or is not here."""
    config = _told(name)[1]
    names = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
    return next((config[n] for n in names if isinstance(config.get(n), int)), None)


def configuration(name: str) -> dict[str, Any]:
    """The configuration of the transformers checkpoint in a directory; empty where there is none."""
    return _told(name)[1]


def _skeleton(name: str) -> nn.Module | None:
    """The encoder in a directory without its weights; None where whoever loads it must say more."""
    import torch
    from transformers import AutoConfig, AutoModel

    place, told = _told(name)
    if "auto_map" in told or told.get("is_encoder_decoder"):
        return None
    try:
        config = AutoConfig.from_pretrained(place)
        if config.is_encoder_decoder:
            return None
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return AutoModel.from_config(config)
    except Exception:  # what is wrong with it is said by what loads it
        return None


def cut_layers(model: nn.Module, layers: int | Sequence[int]) -> list[int]:
    """Keep only some layers of a transformers encoder or decoder, in place.

    The result is compared with what transformers builds of the cut configuration: layers of one model may differ by
    where they stand (ModernBERT's first has no norm, T5's first alone knows distances, others attend locally), and a
    layer that would become another one when the saved model is loaded is not cut out at all.

    Args:
        model: the transformers model.
        layers: which ones, from 0; or how many, then spread evenly from the first to the last.

    Returns:
        The layers kept.

    Raises:
        ValueError: if the model has no such layers; if they would not be the same after saving.
    """
    from torch import nn

    total = model.config.num_hidden_layers
    keep = kept_layers(total, layers)
    stacks = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == total]
    if len(stacks) != 1:
        raise ValueError(
            f"cannot tell the layers of {type(model).__name__} from its other modules: cut the checkpoint yourself."
        )
    name, stack = stacks[0]
    kept = [stack[layer] for layer in keep]
    config = _cut_config(model.config, keep)
    if keep != list(range(total)):
        numbers = _numbers(stack)
        fresh = _built(model, config, keep)
        _compare(model, fresh, name, keep, numbers)
        for place, layer in enumerate(kept):
            for path, attribute in numbers:
                module = layer.get_submodule(path)
                setattr(module, attribute, getattr(module, attribute) - keep[place] + place)
    del stack[:]
    stack.extend(kept)
    for owner in {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}.values():
        if getattr(owner, "num_hidden_layers", None) == total:  # T5's encoder has a copy of its own
            for attribute, value in config.items():
                setattr(owner, attribute, value)
    return keep


def _cut_config(config: Any, keep: list[int]) -> dict[str, Any]:
    """What changes in a configuration: the number of layers, and every list with an entry for each of them."""
    total = config.num_hidden_layers
    changed = {
        name: [value[layer] for layer in keep]
        for name, value in vars(config).items()
        if isinstance(value, (list, tuple)) and len(value) == total and not _NO_LAYERS.fullmatch(name.lstrip("_"))
    }
    return {**changed, "num_hidden_layers": len(keep)}


def _built(model: nn.Module, changed: dict[str, Any], keep: list[int]) -> nn.Module:
    """What transformers builds of the cut configuration, without weights.

    Raises:
        ValueError: if it builds nothing.
    """
    import torch

    config = copy.deepcopy(model.config)
    try:
        for name, value in changed.items():
            setattr(config, name, value)
        # As saved and read again: what a configuration derives from its number of layers is derived anew.
        config = type(config).from_dict(json.loads(config.to_json_string(use_diff=True)))
        config._attn_implementation = model.config._attn_implementation
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return type(model)(config)
    except Exception as error:
        raise ValueError(
            f"layers={keep} is impossible: {type(model).__name__} cannot be built with these layers alone"
            f" ({type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''})."
        ) from error


def _attributes(module: nn.Module) -> Iterator[tuple[str, str, Any]]:
    """(path, name, value) of each plain setting in a module and what is inside it."""
    plain = (bool, int, float, str, type(None))
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            listed = isinstance(value, (list, tuple)) and all(isinstance(one, plain) for one in value)
            if name != "training" and not name.startswith("_") and (isinstance(value, plain) or listed):
                yield path, name, list(value) if listed else value


def _numbers(stack: nn.ModuleList) -> list[tuple[str, str]]:
    """Settings of layers that say but where a layer stands: equal to its number, or off by the same everywhere."""
    each = [{(path, name): value for path, name, value in _attributes(layer)} for layer in stack]
    if len(each) < 2:
        return []
    shared = set.intersection(*(set(one) for one in each))
    return sorted(
        key
        for key in shared
        if all(type(one[key]) is int for one in each)
        and all(one[key] - place == each[0][key] for place, one in enumerate(each))
    )


def _compare(model: nn.Module, fresh: nn.Module, name: str, keep: list[int], numbers: list[tuple[str, str]]) -> None:
    """Check that the layers kept are what ``fresh`` has in their place.

    Raises:
        ValueError: naming the layer and what is different.
    """
    stack, places = model.get_submodule(name), fresh.get_submodule(name)

    def refuse(layer: int, place: int, path: str, what: str) -> None:
        where = f"{name}.{place}{'.' if path else ''}{path}"
        raise ValueError(
            f"layers={keep} is impossible: layer {layer} of {type(model).__name__} would stand as layer {place}, where"
            f" {where} {what}. Saved and loaded, it would be another model: keep layers whose places are alike, such as"
            " the first ones."
        )

    if len(places) != len(keep):
        refuse(keep[0], 0, "", f"is one of {len(places)} layers")
    for place, layer in enumerate(keep):
        old, new = dict(stack[layer].named_modules()), dict(places[place].named_modules())
        for path in sorted({*old, *new}):
            have, wanted = (type(one[path]).__name__ if path in one else "nothing" for one in (old, new))
            if have != wanted:
                refuse(layer, place, path, f"is {wanted}, not {have}")
        kept, there = ({(p, n): v for p, n, v in _attributes(one)} for one in (stack[layer], places[place]))
        for path, attribute in sorted({*kept, *there} - set(numbers)):
            a, b = kept.get((path, attribute)), there.get((path, attribute))
            if a != b:
                refuse(layer, place, path, f"has {attribute}={b!r}, not {a!r}")
        held, asked = stack[layer].state_dict(), places[place].state_dict()
        for path in sorted({*held, *asked}):
            a, b = (tuple(one[path].shape) if path in one else None for one in (held, asked))
            if a != b:
                refuse(layer, place, path, f"has the shape {b}, not {a}")
