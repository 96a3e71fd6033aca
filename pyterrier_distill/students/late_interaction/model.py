"""Building the sentence-transformers model behind a LateInteraction student."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...engine import checkpoints, lengths
from ...stores.files import read_object

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Transformer
    from torch import nn

#: What an encoder becomes that was no ColBERT before (Khattab & Zaharia 2020; Santhanam et al. 2022).
DIMENSION = 128
QUERY_LENGTH = 32
DOCUMENT_LENGTH = 180


def build(
    name: str,
    *,
    layers: int | Sequence[int] | None,
    dimension: int | None,
    query_length: int | None,
    document_length: int | None,
    query_expansion: bool | None,
    trust_remote_code: bool,
) -> MultiVectorEncoder:
    """Load a ColBERT, or make one of an encoder, with float32 weights on the CPU; arguments as in LateInteraction.

    New weights are drawn from torch's generator: the caller seeds it.

    Raises:
        FileNotFoundError: if there is no such model.
        ValueError: if a setting does not fit the checkpoint.
    """
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.multi_vector_encoder.modules import BaseTokenPooling

    ready = is_multi_vector(name)
    model = checkpoints.load_sentence_transformer(
        name, MultiVectorEncoder, device="cpu", trust_remote_code=trust_remote_code
    ).float()
    if not isinstance(model[0], Transformer) or model[0].transformer_task == "retrieval":
        raise ValueError(f"{name!r} reads no plain texts: LateInteraction needs a text encoder.")
    if any(isinstance(module, BaseTokenPooling) for module in model):
        raise ValueError(f"{name!r} pools its token vectors: LateInteraction needs a model with a vector a token.")
    if layers is not None:
        checkpoints.cut_layers(model[0].auto_model, layers)
    modules, prompts = list(model), dict(model.prompts)
    if dimension is not None and dimension != model.get_embedding_dimension():
        modules = _projected(modules, dimension)
    if not ready:
        modules, prompts = _as_colbert(modules, prompts)
        most = lengths.limits(model[0].auto_model).most or QUERY_LENGTH
        query_length = query_length or min(QUERY_LENGTH, most)
        document_length = document_length or min(DOCUMENT_LENGTH, model[0].max_seq_length or DOCUMENT_LENGTH)
        query_expansion = True if query_expansion is None else query_expansion
    if modules != list(model):
        model = checkpoints.remade(model, modules, prompts=prompts)
    for what, value in (("query_length", query_length), ("document_length", document_length)):
        lengths.check_length(name, model[0].auto_model, value, what)
    _set_lengths(model[0], query_length, document_length, query_expansion)
    return model


def is_multi_vector(name: str) -> bool:
    """Whether a checkpoint is a ColBERT already: of sentence-transformers, PyLate or Stanford's colbert-ai."""
    settings = _json(name, "config_sentence_transformers.json")
    if settings.get("model_type") in ("MultiVectorEncoder", "ColBERT") or "query_prefix" in settings:
        return True
    architectures = _json(name, "config.json").get("architectures") or []
    return "HF_ColBERT" in architectures or any(one.endswith("ForRetrieval") for one in architectures)


def _json(name: str, filename: str) -> dict:
    from sentence_transformers.util import load_file_path

    path = load_file_path(name, filename)
    return {} if path is None else read_object(path)


def _projected(modules: list[nn.Module], dimension: int) -> list[nn.Module]:
    """``modules`` with a new projection in place of the checkpoint's."""
    import torch
    from sentence_transformers.base.modules import Dense

    width = modules[0].get_embedding_dimension()
    dense = Dense(
        width, dimension, bias=False, activation_function=torch.nn.Identity(), module_input_name="token_embeddings"
    )
    return [modules[0], dense, *(module for module in modules[1:] if not isinstance(module, Dense))]


def _as_colbert(modules: list[nn.Module], prompts: dict[str, str]) -> tuple[list[nn.Module], dict[str, str]]:
    """Modules and prompts that read texts as ColBERT: a marker in front, punctuation of documents left out."""
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    query, document = _add_markers(modules[0])
    vocabulary = modules[0].tokenizer.get_vocab()
    skip = MultiVectorMask(skiplist_words=[mark for mark in string.punctuation if mark in vocabulary])
    return (
        [skip if isinstance(module, MultiVectorMask) else module for module in modules],
        {
            **prompts,
            "query": f"{query} {prompts.get('query') or ''}",
            "document": f"{document} {prompts.get('document') or ''}",
        },
    )


def _add_markers(transformer: Transformer) -> tuple[str, str]:
    """The tokens that tell queries from documents: BERT's unused ones, else new ones."""
    from transformers import AddedToken

    tokenizer, model = transformer.tokenizer, transformer.auto_model
    vocabulary = tokenizer.get_vocab()
    unused = ("[unused0]", "[unused1]")
    markers = unused if all(token in vocabulary for token in unused) else ("[Q]", "[D]")
    # As special tokens, or a tokenizer would take them apart like any other text.
    tokenizer.add_tokens([AddedToken(m, normalized=False, special=True) for m in markers], special_tokens=True)
    needed = max(tokenizer.convert_tokens_to_ids(list(markers))) + 1
    if needed > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(needed, mean_resizing=False)
    return markers


def _set_lengths(
    transformer: Transformer, query_length: int | None, document_length: int | None, expand: bool | None
) -> None:
    if document_length is not None:
        transformer.document_length = document_length
    before = transformer.query_expansion
    if expand is None:
        expand = before is not None
    if expand:
        length = query_length or (before or {}).get("length") or transformer.query_length or QUERY_LENGTH
        transformer.query_length = None  # the expansion says how long queries are
        transformer.query_expansion = {**(before or {"strategy": "fixed", "attend": False}), "length": length}
    else:
        transformer.query_expansion = None
        transformer.query_length = query_length or transformer.query_length or (before or {}).get("length")
