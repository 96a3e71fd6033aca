"""A BiEncoder's low-rank adapter: put into its transformer, found again, written as its libraries do."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ...engine import checkpoints, randomness
from .. import lora as adapters
from .modules import routed

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import nn

    from .bi_encoder import BiEncoder

_TASK = "FEATURE_EXTRACTION"


def checked(lora: Mapping[str, Any] | None, source: Any, layers: Any, documents: Any) -> dict[str, Any] | None:
    """A copy of ``lora``, if an adapter can be made of it, and saved.

    Args:
        lora: as in BiEncoder.
        source: its checkpoint, or the BiEncoder whose model it takes.
        layers: as in BiEncoder.
        documents: a document encoder that becomes a part of the model, or None.

    Raises:
        TypeError: if it is no mapping.
        ValueError: for what peft does not know, and for an adapter whose base nobody would have.
        ModuleNotFoundError: without peft.
    """
    lora = adapters.checked(lora)
    if lora is None:
        return None
    if not isinstance(source, str):
        raise ValueError("lora= needs the name of a checkpoint, not a BiEncoder: save that, and put the adapter on it.")
    if layers is not None:
        raise ValueError(
            "layers= with lora= would be an adapter of a base that nobody has: save the cut student, and put the"
            " adapter on that."
        )
    if documents is not None:
        raise ValueError(
            "lora= with a BiEncoder as doc_encoder= cannot be saved: train all of the query encoder, or a student whose"
            " one encoder reads queries and documents."
        )
    if os.path.isdir(source):
        if checkpoints.told(source, adapters.CONFIG):
            raise ValueError(adapters.TWO_ADAPTERS.format(source))
        if not os.path.isfile(os.path.join(source, "config.json")):
            raise ValueError(f"lora= is impossible: {source!r} holds no config.json of a transformer, as peft wants.")
    return lora


def base_of(source: Any) -> str | None:
    """The base of the adapter that a checkpoint is; None for one that is none."""
    return adapters.base_of(source) if isinstance(source, str) else None


def check_source(student: BiEncoder) -> None:
    """Check that a student asks for nothing that the adapter which its checkpoint is cannot be.

    Raises:
        ValueError: for a second adapter, or for some of its layers.
        FileNotFoundError: if its base is a directory that is not here.
    """
    name = student.name_or_path
    if base_of(name) is None:
        return
    if student.lora is not None:  # on the hub
        raise ValueError(adapters.TWO_ADAPTERS.format(name))
    if student.layers is not None:
        raise ValueError(f"layers={student.layers} is impossible: {name!r} is an adapter of all layers.")


def put(student: BiEncoder, model: SentenceTransformer) -> Any:
    """Put a new adapter into a student's model, or make ready for training the one that was loaded.

    Returns:
        The ``PeftModel`` around its transformer; None where there is no adapter.

    Raises:
        ValueError: if peft does not know which modules of the architecture to adapt.
    """
    import torch

    # Whoever asks first, these weights shall be trainable; those of a new adapter are drawn, always the same.
    with torch.inference_mode(False), randomness.seeded(0):
        if student.lora is not None:
            return adapters.attach(inner(model), student.lora, _TASK)
        if base_of(student.name_or_path) is None:
            return None
        _bare(student, model)
        return adapters.load(inner(model), student.name_or_path)


def inner(model: Any) -> Any:
    """The transformers model that an adapter is in."""
    return model[0].auto_model


def _bare(student: BiEncoder, model: Any) -> None:
    """Put the base in the place of base and adapter, in place: transformers loads adapters that do not train."""
    import torch

    kind, config, device = type(inner(model)), inner(model).config, inner(model).device
    model[0].model = None  # two of a size would not fit everywhere
    hub = {"trust_remote_code": student.trust_remote_code}
    load = partial(kind.from_pretrained, student.base, config=config, dtype=torch.float32, **hub)
    model[0].model = checkpoints.reading(student.base, "model", "transformers", load).to(device)


def whole(student: BiEncoder) -> SentenceTransformer:
    """A student's model; of one with an adapter a copy, to whose weights that is added."""
    model = student.model
    return model if student._weights.adapter is None else adapters.merged(cast(Any, student)).model


def copied(student: BiEncoder) -> SentenceTransformer:
    """A copy of a student's model, without an adapter."""
    model = whole(student)
    return copy.deepcopy(model) if student._weights.adapter is None else model


def write(student: BiEncoder, draft: Path) -> None:
    """Write a student's modules as sentence-transformers does, of the transformer the adapter alone."""
    from torch import nn

    class Alone(nn.Module):
        """What is saved in the place of the transformer."""

        def save_pretrained(self, path: str, **_: Any) -> None:
            # peft would ask the hub whether the base's vocabulary has grown; ours never does.
            student._weights.adapter.save_pretrained(path, save_embedding_layers=False)

    model = copy.copy(student.model)
    body = copy.copy(model[0])
    body._modules = {**body._modules, "model": Alone()}
    model._modules = {**model._modules, next(iter(model._modules)): body}
    model.save_pretrained(str(draft), create_model_card=False)


def trainable(student: BiEncoder) -> nn.Module:
    """What training shall change: the adapter, and the modules behind the transformer."""
    # Reentrant gradient checkpointing trains nothing behind inputs that want no gradient, as a frozen base's.
    inner(student.model).disable_input_require_grads()
    inner(student.model).enable_input_require_grads()
    return adapters.only_trained(student.model)


def settle(student: BiEncoder) -> None:
    """Rank again; what is frozen stays frozen."""
    student.model.eval()
    inner(student.model).disable_input_require_grads()


def is_base(student: BiEncoder, path: str | os.PathLike) -> bool:
    """Whether ``path`` is the base of a student's adapter."""
    adapted = not routed(student.model) and student._weights.adapter is not None
    base = student.base
    return adapted and os.path.isdir(base) and os.path.exists(path) and os.path.samefile(path, base)
