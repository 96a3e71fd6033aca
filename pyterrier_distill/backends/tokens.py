"""What prompts and answers are to a tokenizer: chat templates, control tokens, words of one token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def control_tokens(tokenizer: Any) -> list[str]:
    """What a tokenizer takes for control tokens: the special ones, and added ones that look like markup."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    marked = [str(t) for t in added if t.special or (str(t)[:1] in "<[" and str(t)[-1:] in ">]")]
    return [token for token in dict.fromkeys([*tokenizer.all_special_tokens, *marked]) if len(token) > 1]


def chat_text(tokenizer: Any, messages: list[dict[str, str]]) -> str:
    """Messages through a chat template; where it knows no system role, what the system says begins the user's turn."""
    from jinja2 import TemplateError

    options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
    try:
        return tokenizer.apply_chat_template(messages, **options)
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
