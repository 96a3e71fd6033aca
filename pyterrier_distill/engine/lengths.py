"""Making a tokenizer and a model fit each other: a vocabulary, padding, and how many tokens may be read.

Whatever loads a checkpoint, for whichever teacher, student or backend, ends here: a checkpoint reads the same texts in
all of them, or is refused by all of them.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import nn

#: From here on a tokenizer's limit says that it has none.
_UNLIMITED = 10**6
#: Learned or sinusoidal tables of positions, as the architectures of transformers call them.
_TABLES = re.compile(r"(char_)?position(al|s)?_embed(ding)?s?|embed_positions|wpe")


class Limits(NamedTuple):
    """Tokens that a model reads.

    Attributes:
        usual: as many as its configuration says; None where it says nothing.
        most: more are impossible; None where positions are relative, and nothing ends.
    """

    usual: int | None
    most: int | None


def _text_config(model: nn.Module) -> Any:
    config = model.config
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _tables(model: nn.Module) -> list[nn.Embedding]:
    from torch import nn

    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and _TABLES.fullmatch(name.rpartition(".")[-1])
    ]


def _first(table: nn.Embedding) -> int:
    """A table's number of the first position: RoBERTa's count from behind that of padding, BART's and OPT's from 2."""
    if "Sinusoidal" in type(table).__name__:
        return 0
    offset = getattr(table, "offset", 0)
    if table.padding_idx is not None:
        return table.padding_idx + 1
    return offset if isinstance(offset, int) else 0


def first_position(model: nn.Module) -> int:
    """The model's number of the first position: 0, but behind that of padding in models such as RoBERTa's."""
    return max(map(_first, _tables(model)), default=0)


def limits(model: nn.Module) -> Limits:
    """How many tokens a transformers model reads.

    Args:
        model: with learned positions (its table ends), rotary ones (its configuration says how far they were trained),
            or relative ones, as T5's, DeBERTa's or XLNet's (any length).
    """
    config = _text_config(model)
    said = [getattr(config, name, None) for name in ("max_position_embeddings", "n_positions")]
    told = min((n for n in said if isinstance(n, int) and 0 < n < _UNLIMITED), default=None)
    sizes = [table.num_embeddings - _first(table) for table in _tables(model)]
    if sizes:
        most = min(sizes) if told is None else min(told, *sizes)
        return Limits(most, most)
    turns = getattr(config, "rope_parameters", None) or getattr(config, "rope_theta", None)
    turns = turns or any("rotary" in name or "rope" in name for name, _ in model.named_modules())
    return Limits(told, told if turns else None)


def check_vocabulary(name: str, tokenizer: Any) -> Any:
    """``tokenizer``, if it knows words.

    transformers makes an empty vocabulary where the files of one are missing; every word is then unknown.

    Raises:
        ValueError: naming these files.
    """
    added = tokenizer.get_added_vocab()
    if not getattr(tokenizer, "vocab_files_names", None) and not hasattr(tokenizer, "backend_tokenizer"):
        return tokenizer  # reads bytes or characters
    if any(token not in added and any(map(str.isalnum, token)) for token in map(str, tokenizer.get_vocab())):
        return tokenizer
    raise ValueError(no_vocabulary(name, tokenizer))


def no_vocabulary(name: str, tokenizer: Any) -> str:
    """What is said of a checkpoint whose tokenizer knows no words."""
    wanted = getattr(tokenizer, "vocab_files_names", None) or {}
    others = [file for kind, file in wanted.items() if kind != "tokenizer_file"]
    files = " or ".join(["tokenizer.json", *([" with ".join(others)] if others else [])])
    here = os.path.isdir(name) and not any(os.path.isfile(os.path.join(name, f)) for f in ("tokenizer.json", *others))
    return (
        f"{name!r} {'lacks' if here else 'has no words in'} {files}: its vocabulary is empty, and every word would be"
        " unknown. Put the tokenizer's files beside the weights."
    )


def check_embedding(name: str, tokenizer: Any, model: nn.Module) -> None:
    """Check that a model has a vector for each token that a text can have.

    Special tokens that nobody puts round texts, and that no text may hold, need none.

    Raises:
        ValueError: naming a token that has none.
    """
    if not getattr(tokenizer, "vocab_files_names", None) and not hasattr(tokenizer, "backend_tokenizer"):
        return  # reads bytes or characters
    try:
        size = getattr(model.get_input_embeddings(), "num_embeddings", None)
    except (AttributeError, NotImplementedError):
        return
    if size is None:
        return
    put = {getattr(tokenizer, f"{kind}_token_id", None) for kind in ("bos", "eos", "unk", "sep", "pad", "cls")}
    idle = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special and i not in put}
    token, most = max(tokenizer.get_vocab().items(), key=lambda item: -1 if item[1] in idle else item[1])
    if most >= size and most not in idle:
        raise ValueError(
            f"the tokenizer of {name!r} has tokens, such as {token!r} with the number {most}, for which its model, with"
            f" {size} embeddings, has none: the files of two checkpoints were mixed. Restore its tokenizer."
        )


def pad(name: str, tokenizer: Any, model: nn.Module) -> None:
    """Give ``tokenizer`` a padding token if it names none, and write it into the model's configuration.

    It is the configuration's own, if that is a special token; else the tokenizer's end of text, or another special one.

    Raises:
        ValueError: if there is no special token at all.
    """
    configs = [model.config] if _text_config(model) is model.config else [model.config, _text_config(model)]
    if tokenizer.pad_token_id is None:
        added = tokenizer.added_tokens_decoder.items()
        special: dict[Any, str] = {int(i): str(token) for i, token in added if token.special}
        special.update(zip(tokenizer.all_special_ids, map(str, tokenizer.all_special_tokens), strict=True))
        told = [special.get(getattr(config, "pad_token_id", None)) for config in configs]
        named = [getattr(tokenizer, f"{kind}_token", None) for kind in ("eos", "sep", "unk", "bos", "cls")]
        usable = [token for token in (*told, *named) if token is not None]
        if not usable:
            raise ValueError(
                f"the tokenizer of {name!r} has no padding token, nor any special token that could stand for one: set"
                " pad_token in its tokenizer_config.json."
            )
        tokenizer.pad_token = usable[0]
    if any(table.padding_idx is not None for table in _tables(model)):
        return  # positions are counted from this number: it belongs to the weights
    for config in configs:  # decoders that classify are read at the last token before padding
        config.pad_token_id = tokenizer.pad_token_id


def check_length(name: str, model: nn.Module, length: int | None, what: str = "max_length") -> None:
    """Check that a model reads that many tokens.

    Args:
        name: of the checkpoint.
        model: a transformers model.
        length: tokens of a text; None = none asked for.
        what: the argument that asks.

    Raises:
        ValueError: saying how many it reads.
    """
    most = limits(model).most
    if length is not None and most is not None and length > most:
        raise ValueError(f"{what}={length}, but {name!r} has {most} positions: it reads at most {most} tokens.")


def fit(name: str, tokenizer: Any, model: nn.Module, max_length: int | None = None) -> int | None:
    """Make tokenizer and model fit each other.

    Args:
        name: of the checkpoint, for what is said of it.
        tokenizer: the checkpoint's; is given padding.
        model: the transformers model.
        max_length: tokens that shall be read; None = as many as tokenizer and model say.

    Returns:
        Tokens to be read; None where positions are relative and nobody names a limit.

    Raises:
        ValueError: for a tokenizer without words or padding, or with words that the model does not know; for more
            tokens than the model has positions.
    """
    check_vocabulary(name, tokenizer)
    pad(name, tokenizer, model)
    check_embedding(name, tokenizer, model)
    check_length(name, model, max_length)
    if max_length is not None:
        return max_length
    usual, most = limits(model)
    own = tokenizer.model_max_length
    if own is None or own >= _UNLIMITED:
        return usual
    return int(own) if most is None else min(int(own), most)


def fit_modules(name: str, model: nn.Module, max_length: int | None = None) -> None:
    """:func:`fit` for each transformer in a model of sentence-transformers, whose tokenizers hold the length.

    Raises:
        ValueError: as :func:`fit`.
    """
    from sentence_transformers.base.modules import Transformer

    for module in model.modules():
        if not isinstance(module, Transformer) or module.tokenizer is None:
            continue
        length = fit(name, module.tokenizer, module.model, max_length)
        if length is not None:
            module.max_seq_length = length
        most = limits(module.model).most
        for task in ("query_length", "document_length"):  # they may be more than the length of other texts
            if most is not None and (getattr(module, task, None) or 0) > most:
                setattr(module, task, most)
