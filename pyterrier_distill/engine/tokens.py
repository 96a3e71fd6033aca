"""What prompts and answers are to a tokenizer: chat templates, control tokens, words of one token."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from ..prompts.control import AnyCase, Guard, guard


def control_tokens(tokenizer: Any) -> list[str]:
    """What a tokenizer takes for control tokens: the special ones, and added ones that look like markup.

    Those that it finds in any case are of type :class:`~pyterrier_distill.prompts.control.AnyCase`.

    Args:
        tokenizer: of transformers or of tokenizers; others have none.
    """
    if hasattr(tokenizer, "get_added_tokens_decoder"):
        added = tokenizer.get_added_tokens_decoder().values()
    else:
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    special = [str(token) for token in getattr(tokenizer, "all_special_tokens", ())]
    marked = {}
    for token in added:
        text = token.content
        core = text.strip()  # PyLate's markers end in a space
        if token.special or text in special or (core[:1] in ("<", "[") and core[-1:] in (">", "]")):
            marked[text] = AnyCase(text) if token.normalized and _any_case(tokenizer, text) else text
    return list({**dict(zip(special, special, strict=True)), **marked}.values())


def _any_case(tokenizer: Any, token: str) -> bool:
    """Whether a tokenizer lowers texts before it looks for ``token``."""
    normalizer = getattr(getattr(tokenizer, "backend_tokenizer", tokenizer), "normalizer", None)
    if normalizer is None:
        return False
    return normalizer.normalize_str(token.upper()) == normalizer.normalize_str(token.lower())


def disarmed(tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """``texts`` that ``tokenizer`` reads as text: without its control tokens, else as they are."""
    specials = tuple(getattr(tokenizer, "all_special_tokens", ()))
    state = (len(tokenizer), specials) if hasattr(tokenizer, "__len__") else ()
    try:
        known = _guards.get(tokenizer)
    except TypeError:  # no weak references to it
        return list(map(guard(control_tokens(tokenizer), common=False), texts))
    if known is None or known[0] != state:
        _guards[tokenizer] = known = (state, guard(control_tokens(tokenizer), common=False))
    return list(map(known[1], texts))


_guards: WeakKeyDictionary[Any, tuple[tuple, Guard]] = WeakKeyDictionary()


def append_end(name: str, tokenizer: Any) -> None:
    """Make a tokenizer put its end-of-text token behind each text, in place, where it does not do so already.

    The rule is a part of the tokenizer's file: whatever loads that ends texts alike. Texts that are cut end so, too.

    Args:
        name: of the checkpoint, for what is said of it.
        tokenizer: of transformers.

    Raises:
        ValueError: if it has no end of text, or keeps no rule for control tokens round a text.
    """
    number = getattr(tokenizer, "eos_token_id", None)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if number is None or backend is None:
        lacks = "end of text: set eos_token in its tokenizer_config.json"
        lacks = lacks if number is None else "tokenizer.json, which would say so: save it as a fast tokenizer"
        raise ValueError(f"append_eos=True, but the tokenizer of {name!r} has no {lacks}.")
    if tokenizer("a")["input_ids"][-1:] == [number]:
        return
    from tokenizers import processors

    end = tokenizer.eos_token
    own = backend.post_processor
    told: dict[str, Any] = {"type": "Sequence", "processors": []} if own is None else json.loads(own.__getstate__())
    if told["type"] != "Sequence":
        told = {"type": "Sequence", "processors": [told]}
    templates = [one for one in told["processors"] if one["type"] == "TemplateProcessing"]
    if not templates:
        first, second = ({"Sequence": {"id": name, "type_id": n}} for n, name in enumerate("AB"))
        bare: dict[str, Any] = {"single": [first], "pair": [first, second], "special_tokens": {}}
        bare["type"] = "TemplateProcessing"
        told["processors"].append(bare)
        templates = [bare]
    put: dict[str, Any] = {"SpecialToken": {"id": end, "type_id": 0}}
    for text in ("single", "pair"):
        pieces = templates[-1][text]
        place = next(n for n, piece in enumerate(pieces) if piece.get("Sequence", {}).get("id") == "A") + 1
        templates[-1][text] = [*pieces, put] if text == "single" else [*pieces[:place], put, *pieces[place:], put]
    templates[-1]["special_tokens"][end] = {"id": end, "ids": [number], "tokens": [end]}
    rule = processors.Sequence([])
    rule.__setstate__(json.dumps(told).encode())
    backend.post_processor = rule


def chat_text(tokenizer: Any, messages: list[dict[str, str]]) -> str:
    """Messages through a chat template; where it knows no system role, what the system says begins the user's turn."""
    from jinja2 import TemplateError, TemplateSyntaxError

    options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
    try:
        return tokenizer.apply_chat_template(messages, **options)
    except TemplateSyntaxError as error:
        raise ValueError(
            f"the chat template of {tokenizer.name_or_path!r} is damaged ({error}): restore chat_template.jinja, or"
            " chat_template in tokenizer_config.json, from a copy."
        ) from error
    except TemplateError:
        system = [m["content"] for m in messages if m["role"] == "system"]
        rest = [dict(m) for m in messages if m["role"] != "system"]
        if not system or not rest:
            raise
        rest[0]["content"] = "\n\n".join([*system, rest[0]["content"]])
        return tokenizer.apply_chat_template(rest, **options)


def one_token_each(tokenizer: Any, options: Sequence[str], spaced: bool, name: str) -> list[int]:
    """The token of each of ``options``, as the next one of a prompt.

    Args:
        tokenizer: a transformers tokenizer.
        options: words.
        spaced: whether a space comes before the word; the other form is taken where this one is not one token each.
        name: the model, for the message.

    Raises:
        ValueError: naming the word that is not one token, and its pieces; or two words that are the same token.
    """
    forms = [[f" {option}" for option in options], list(options)]
    for form in forms if spaced else reversed(forms):
        ids = tokenizer(form, add_special_tokens=False)["input_ids"]
        if all(len(pieces) == 1 and pieces[0] != tokenizer.unk_token_id for pieces in ids):
            tokens = [pieces[0] for pieces in ids]
            if len(set(tokens)) == len(tokens):
                return tokens
    pieces = {option: tokenizer.tokenize(option) for option in options}
    word = next((option for option, parts in pieces.items() if len(parts) != 1), options[0])
    raise ValueError(
        f"{word!r} is not one token for {name!r}, but {pieces[word]}: choose answers that are one token each, such as"
        " answers=('no', 'yes')."
    )
