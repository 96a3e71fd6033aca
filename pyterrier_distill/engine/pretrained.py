"""Reading transformers checkpoints: what kind they are, their tokenizer, their model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from . import adapters, batching, gguf, lengths
from .checkpoints import check_name, reading, told
from .locks import loading

if TYPE_CHECKING:
    import torch

__all__ = ["check_name", "kind_of", "load", "load_tokenizer", "num_labels", "read", "weights_dtype"]

_KINDS = {
    "ForSequenceClassification": "cross-encoder",
    "ForConditionalGeneration": "seq2seq",
    "ForCausalLM": "causal",
    "LMHeadModel": "causal",
}


def read(name: str, what: str, load: Callable[[], Any]) -> Any:
    """Call ``load``; say in one line what is wrong if it fails. As ``checkpoints.reading``."""
    return reading(name, what, "transformers", load)


def configuration(name: str, hub: dict[str, Any]) -> Any:
    """The checkpoint's configuration.

    Args:
        name: a directory, a GGUF file, or a name on the hub.
        hub: keyword arguments for loading, such as ``revision``.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        ValueError: if it cannot be read.
    """
    from transformers import AutoConfig

    if gguf.is_gguf(name):
        return gguf.configuration(name)
    return read(name, "configuration", lambda: AutoConfig.from_pretrained(name, **hub))


def kind_of(name: str, hub: dict[str, Any]) -> str:
    """``"cross-encoder"``, ``"seq2seq"`` or ``"causal"``, as the checkpoint's configuration says.

    Args:
        name: a directory, a GGUF file, or a name on the hub; of a LoRA adapter, what it was trained for counts.
        hub: keyword arguments for loading, such as ``revision``.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        ValueError: if its architecture is none of these: an encoder without a head that scores would score at random.
    """
    if (base := adapters.base_of(name)) is not None:
        headed = "cross-encoder" if _has_head_apart(name) else None
        return headed or adapters.kind_of(name) or kind_of(base, base_hub(hub))
    config = configuration(name, hub)
    architectures = getattr(config, "architectures", None) or []
    for architecture in architectures:
        for ending, kind in _KINDS.items():
            if architecture.endswith(ending):
                # Decoders that see images are called ...ForConditionalGeneration, too.
                decodes = kind == "cross-encoder" or (kind == "seq2seq") == config.is_encoder_decoder
                return kind if decodes else "seq2seq" if config.is_encoder_decoder else "causal"
    if _has_head_apart(name):
        return "cross-encoder"
    if not architectures and gguf.is_gguf(name):  # such files hold language models, and no names of classes
        return "seq2seq" if config.is_encoder_decoder else "causal"
    raise ValueError(
        f"{name!r} is a {architectures[0] if architectures else config.model_type} checkpoint, which has no head that"
        " scores: give a ...ForSequenceClassification, ...ForConditionalGeneration or ...ForCausalLM checkpoint, or say"
        " kind= if the configuration is wrong."
    )


def _has_head_apart(name: str) -> bool:
    """Whether sentence-transformers made a cross-encoder of a model that has no head itself."""
    return told(name, "config_sentence_transformers.json").get("model_type") == "CrossEncoder"


def base_hub(hub: dict[str, Any]) -> dict[str, Any]:
    """How the base of an adapter is loaded: a revision is the adapter's."""
    return {key: value for key, value in hub.items() if key != "revision"}


def num_labels(name: str, hub: dict[str, Any]) -> int:
    """Outputs of a sequence classifier, as its configuration says."""
    config = configuration(name, hub)
    # A decoder with a module that subtracts two logits (sentence-transformers' LogitScore) has one score.
    classifier = any(a.endswith("ForSequenceClassification") for a in getattr(config, "architectures", None) or ())
    return config.num_labels if classifier else 1


def weights_dtype(precision: str, device: torch.device) -> torch.dtype:
    """How weights are kept: on a GPU as they are computed with, on a CPU in float32, as autocast wants them."""
    import torch

    resolved = batching.resolve_precision(precision, device)
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(resolved, torch.float32)
    return half if device.type == "cuda" else torch.float32


def load_tokenizer(name: str, hub: dict[str, Any]) -> Any:
    """The checkpoint's tokenizer.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it knows no words, its files being absent.
    """
    from transformers import AutoTokenizer

    place, packed = gguf.source(name)
    tokenizer = read(name, "tokenizer", lambda: AutoTokenizer.from_pretrained(place, **packed, **hub))
    return lengths.check_vocabulary(name, tokenizer)


def load_adapters_tokenizer(name: str, base: str, hub: dict[str, Any]) -> Any:
    """An adapter's tokenizer, which lies beside it, or else is its base's."""
    if told(name, "tokenizer_config.json"):
        return load_tokenizer(name, hub)
    return load_tokenizer(base, base_hub(hub))


class Loaded(NamedTuple):
    """A tokenizer and a model that fit each other.

    Attributes:
        tokenizer: with padding.
        model: on its device, ready to score.
        max_length: tokens to be read; None where positions are relative and nobody names a limit.
        absent: weights that the checkpoint lacks, which are random.
    """

    tokenizer: Any
    model: Any
    max_length: int | None
    absent: list[str]


def load(
    name: str,
    kind: str,
    hub: dict[str, Any],
    precision: str,
    device: torch.device,
    *,
    max_length: int | None = None,
    may_lack: Callable[[str], bool] = lambda weight: False,
    **settings: Any,
) -> Loaded:
    """Load a checkpoint's tokenizer and model: the one way to do so without sentence-transformers.

    Args:
        name: a directory, a GGUF file (whose weights are unpacked), or a name on the hub; a LoRA adapter is put into
            its base.
        kind: ``"causal"``, ``"seq2seq"``, ``"cross-encoder"`` or ``"encoder"`` (without a head).
        hub: keyword arguments for loading, such as ``revision``.
        precision: what is computed; see :func:`weights_dtype`.
        device: where.
        max_length: tokens that shall be read; None = what tokenizer and model say.
        may_lack: names of weights → whether they may be missing, and start at random.
        **settings: of the configuration.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        ValueError: if its tokenizer has no words, weights are missing, or it has fewer positions than ``max_length``.
    """
    import torch
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

    loaders = {
        "causal": AutoModelForCausalLM,
        "seq2seq": AutoModelForSeq2SeqLM,
        "cross-encoder": AutoModelForSequenceClassification,
        "encoder": AutoModel,
    }
    adapter = name
    if (base := adapters.base_of(name)) is not None:
        tokenizer = load_adapters_tokenizer(name, base, hub)
        name, hub = base, base_hub(hub)
    else:
        tokenizer = load_tokenizer(name, hub)
    place, packed = gguf.source(name)
    if packed:
        packed |= {"config": configuration(name, hub), **gguf.plain_weights()}
    settings = {"dtype": weights_dtype(precision, device), **packed, **settings}
    with loading(), torch.inference_mode(False):
        model, info = read(
            name,
            "encoder" if kind == "encoder" else "model",
            lambda: loaders[kind].from_pretrained(place, output_loading_info=True, **settings, **hub),
        )
    if packed:
        gguf.ordinary(model)
    absent = sorted(info.get("missing_keys", ()))
    if missing := [weight for weight in absent if not may_lack(weight)]:
        raise ValueError(
            f"{name!r} lacks {len(missing)} weights of a {kind}, such as {missing[0]!r}: it would score at random."
            " Say the right kind=, or train it first."
        )
    if base is not None:
        adapters.load(model, adapter, trains=False)
    length = lengths.fit(name, tokenizer, model, max_length)
    return Loaded(tokenizer, model.to(device).eval(), length, absent)
