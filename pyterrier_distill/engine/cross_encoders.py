"""Loading cross-encoders with sentence-transformers: encoders, decoders, and decoders without a classifier's head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..prompts import Template
from . import adapters, checkpoints, pretrained
from .pairs import pair_template

if TYPE_CHECKING:
    import torch

def load(
    name: str,
    hub: dict[str, Any],
    device: torch.device,
    *,
    max_length: int | None = None,
    prompt: Template | None = None,
    append_eos: bool = False,
    **settings: Any,
) -> Any:
    """A cross-encoder of one output, without activation, without an adapter.

    Args:
        name: a directory or hub name; of an adapter, its base is loaded, with the adapter's tokenizer.
        hub: keyword arguments for loading, such as ``revision``.
        device: where it shall be.
        max_length: tokens of a pair; None = the checkpoint's own.
        prompt: how a decoder reads a pair; see :func:`~.pairs.pair_template`.
        append_eos: likewise.
        **settings: for the weights; see :func:`.adapters.model_settings`.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        ValueError: if it has more than one output; if it can have no head; for ``prompt`` or ``append_eos`` of an
            encoder; if a decoder's padding would be taken for the end of a text.
    """
    import torch
    from sentence_transformers import CrossEncoder
    from transformers import AutoConfig

    base, reads = adapters.base_of(name), name
    if base is None:
        base = name
    else:
        hub, reads = pretrained.base_hub(hub), name if checkpoints.told(name, "tokenizer_config.json") else base
    outputs = pretrained.num_labels(base, hub)
    if outputs != 1:
        raise ValueError(f"{base!r} has {outputs} outputs: a cross-encoder student has one.")
    config = pretrained.read(base, "configuration", lambda: AutoConfig.from_pretrained(base, **hub))
    decodes = _decodes(config)
    if not decodes and (prompt is not None or append_eos):
        raise ValueError(
            f"{base!r} is a {config.model_type} encoder, which reads two texts by its tokenizer's own rule: prompt= and"
            " append_eos= are for decoders."
        )
    reading: dict[str, Any] = {}
    kinds = [a for a in getattr(config, "architectures", None) or () if a.endswith("ForCausalLM")]
    if kinds or prompt is not None or append_eos:
        tokenizer = pretrained.load_tokenizer(reads, hub)
        reading["chat_template"] = pair_template(tokenizer, prompt, append_eos)
    shared: dict[str, Any] = {
        "what": "cross-encoder", "max_length": max_length, "processor_kwargs": reading, "device": str(device),
        "activation_fn": torch.nn.Identity(), "model_settings": settings,
    }  # fmt: skip
    if not kinds or _has_classifier(config):
        classifier = [kinds[0].replace("ForCausalLM", "ForSequenceClassification")] if kinds else None
        model = checkpoints.load_sentence_transformer(
            base, CrossEncoder, num_labels=1, config_kwargs={"architectures": classifier} if classifier else {},
            **shared, **hub,
        )  # fmt: skip
    else:
        model = checkpoints.load_sentence_transformer(base, _with_linear_head, **shared, hub=hub)
        if base != name:
            if not checkpoints.told(name, "config_sentence_transformers.json"):
                raise ValueError(f"the adapter {name!r} has no head: it was not trained as a cross-encoder.")
            head = f"{len(model) - 1}_Dense"
            model[-1] = pretrained.read(name, "head", lambda: type(model[-1]).load(name, subfolder=head)).to(device)
    if decodes and reading:  # a classifier that was trained elsewhere is read where it was trained
        _check_padding(base, model)
    return model


def has_head_apart(model: Any) -> bool:
    """Whether the head of a cross-encoder is a module of its own behind the transformers model."""
    return len(model) > 1 and hasattr(model[-1], "linear")


def _decodes(config: Any) -> bool:
    """Whether an architecture predicts the next token and nothing else."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    kind = type(config)
    causal = kind in AutoModelForCausalLM._model_mapping and kind not in AutoModelForMaskedLM._model_mapping
    remote = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    return (causal or remote) and not config.is_encoder_decoder


def _has_classifier(config: Any) -> bool:
    """Whether transformers, or the checkpoint's own code, has a sequence classifier of an architecture."""
    from transformers import AutoModelForSequenceClassification

    remote = getattr(config, "auto_map", None) or {}
    return type(config) in AutoModelForSequenceClassification._model_mapping or (
        "AutoModelForSequenceClassification" in remote
    )


def _with_linear_head(
    name: str, *, model_kwargs: dict[str, Any], processor_kwargs: dict[str, Any], device: str, activation_fn: Any,
    hub: dict[str, Any],
) -> Any:  # fmt: skip
    """A decoder for which transformers has no sequence classifier, its last token's state projected to one number."""
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from torch import nn
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(name, **hub)
    if type(config) not in AutoModel._model_mapping and "AutoModel" not in (getattr(config, "auto_map", None) or {}):
        raise ValueError(
            f"transformers has neither a sequence classifier nor a bare model of {config.architectures[0]}: a"
            " cross-encoder cannot be made of it."
        )
    body = Transformer(
        name, transformer_task="feature-extraction", model_kwargs={**model_kwargs, **hub},
        processor_kwargs={**processor_kwargs, **hub}, config_kwargs=dict(hub),
    )  # fmt: skip
    size = body.get_embedding_dimension()
    head = Dense(size, 1, bias=False, activation_function=nn.Identity(), module_output_name="scores")
    nn.init.normal_(head.linear.weight, std=getattr(config, "initializer_range", None) or 0.02)
    modules = [body, Pooling(size, "lasttoken"), head]
    return CrossEncoder(modules=modules, device=device, activation_fn=activation_fn)


def _check_padding(name: str, model: Any) -> None:
    """Make a decoder be read at the last token of a pair, by whatever library.

    transformers takes the last token that is no padding. Where pairs end with the token that pads, that would be the
    one before it: another special token pads then, which changes nothing else, as padding is masked.

    Raises:
        ValueError: if there is no other special token.
    """
    tokenizer = model.tokenizer
    last = read_end(model)
    if last != tokenizer.pad_token_id:
        return
    added = [(number, str(token)) for number, token in tokenizer.added_tokens_decoder.items() if token.special]
    known = [*zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True), *added]
    other = next((str(token) for number, token in known if number != last), None)
    if other is None:
        raise ValueError(
            f"the tokenizer of {name!r} has no special token besides {tokenizer.pad_token!r}, with which pairs end and"
            " are padded: transformers would read them at the token before. Add a pad_token to the tokenizer and the"
            " model, or leave append_eos out."
        )
    tokenizer.pad_token = other
    for config in (model[0].model.config, model[0].model.config.get_text_config()):
        config.pad_token_id = tokenizer.pad_token_id


def pads_with(model: Any) -> int | None:
    """The token that a decoder's classifier skips to find the last one of a pair; None of encoders, which skip none."""
    config = model[0].model.config
    return config.get_text_config().pad_token_id if _decodes(config) else None


def read_end(model: Any) -> int:
    """The token at which a decoder reads a pair."""
    features = model.preprocess([["one", "two"]])
    return int(features["input_ids"][0, int(features["attention_mask"][0].sum()) - 1])
