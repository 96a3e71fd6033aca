"""How cross-encoders read a query and a document: the chat templates of decoders, and texts cut one by one."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from ..prompts import Template, fit, flatten
from .checkpoints import default_prompt
from .locks import using
from .tokens import chat_text, disarmed

Pair = tuple[str, str]

#: What stands for the two texts while it is looked where a template puts them.
_PLACES = ("QUERY0PLACE", "DOCUMENT0PLACE")
#: How decoders read a pair if nothing else is said.
_TWO_NAMED = "query: {query} document: {document}"
_TEXT = (
    "{%- set NAME = messages | selectattr('role', 'equalto', 'NAME') | map(attribute='content') | first -%}"
    "{{ NAME if NAME is string else NAME[0]['text'] }}"
)
_EARLIER = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] if m['content'] is string else m['content'][0]['text'] }}"
    "{% if not loop.last %} {% endif %}{% endfor %}"
)


def rendered(tokenizer: Any, query: str, document: str) -> str:
    """What the tokenizer's chat template makes of messages of the roles ``query`` and ``document``."""
    return str(tokenizer.apply_chat_template(_messages(query, document), tokenize=False))


def _messages(query: str, document: str) -> list[dict[str, str]]:
    return [{"role": "query", "content": query}, {"role": "document", "content": document}]


def carries(tokenizer: Any) -> bool:
    """Whether the tokenizer's own chat template renders queries and documents; chat roles alone are what most know."""
    if not isinstance(tokenizer.chat_template, str):
        return False
    try:
        base = rendered(tokenizer, "one", "two")
        return base not in (rendered(tokenizer, "three", "two"), rendered(tokenizer, "one", "three"))
    except Exception:  # a template may raise whatever it likes
        return False


def pair_template(tokenizer: Any, prompt: Template | None = None, append_eos: bool = False) -> str:
    """The chat template by which a decoder reads a query and a document.

    Args:
        tokenizer: of the decoder.
        prompt: with ``{query}`` and ``{document}``; None = the tokenizer's own template if it carries a pair, else two
            named texts. A text that goes to the model as it is begins and ends as the tokenizer lets texts begin and
            end; a chat template brings its own control tokens.
        append_eos: whether it ends with the end of text, whatever the tokenizer does.

    Raises:
        ValueError: for ``append_eos`` if the tokenizer has no end of text.
    """
    end = tokenizer.eos_token if append_eos else ""
    if end is None:
        raise ValueError(
            f"append_eos=True, but the tokenizer of {tokenizer.name_or_path!r} has no end of text: set eos_token in its"
            " tokenizer_config.json."
        )
    if prompt is None and carries(tokenizer):
        ends = not end or rendered(tokenizer, "one", "two").endswith(end)
        return tokenizer.chat_template + ("" if ends else _literal(end))
    text, start = _filled(tokenizer, prompt), ""
    if prompt is None or isinstance(_asked(prompt), str) or not tokenizer.chat_template:
        start, rule = _rule(tokenizer, text)
        end = rule or end
    if prompt is None and not start and not end:
        return _EARLIER
    text = f"{start}{text}" + ("" if end and text.endswith(end) else end)
    pieces = re.split(f"({'|'.join(_PLACES)})", text)
    names = dict(zip(_PLACES, ("query", "document"), strict=True))
    return "".join(_TEXT.replace("NAME", names[p]) if p in names else _literal(p) for p in pieces if p)


def _asked(prompt: Template) -> Any:
    return prompt.render(dict(zip(("query", "document"), _PLACES, strict=True)))


def _filled(tokenizer: Any, prompt: Template | None) -> str:
    """The prompt as text, with :data:`_PLACES` in it."""
    asked = _asked(prompt or Template((("user", _TWO_NAMED),), plain=True))
    return chat_text(tokenizer, asked) if not isinstance(asked, str) and tokenizer.chat_template else flatten(asked)


def _literal(text: str) -> str:
    return "{{ " + json.dumps(text, ensure_ascii=False) + " }}"


def _rule(tokenizer: Any, text: str) -> tuple[str, str]:
    """The control tokens that a tokenizer puts before and behind a text, as text that it reads as these tokens."""
    plain = tokenizer(text, add_special_tokens=False)["input_ids"]
    whole = tokenizer(text)["input_ids"]
    places = [n for n in range(len(whole) - len(plain) + 1) if whole[n : n + len(plain)] == plain]
    if not places:
        return "", ""
    start = places[0]
    words = tokenizer.convert_ids_to_tokens(whole)
    before, behind = "".join(words[:start]), "".join(words[start + len(plain) :])
    for gap in ("", " "):  # some read the first word as one in the middle if a control token stands before it
        if tokenizer(f"{before}{gap if before else ''}{text}{behind}", add_special_tokens=False)["input_ids"] == whole:
            return f"{before}{gap if before else ''}", behind
    return before, behind


def cut(tokenizer: Any, texts: Sequence[str], tokens: int | None) -> list[str]:
    """The beginnings of texts, at most ``tokens`` long, control tokens around them not counted; None = whole."""
    if tokens is None:
        return list(texts)
    found = {text: text for text in texts}
    todo, room = list(found), dict.fromkeys(found, tokens)
    while todo:  # what is cut can be read differently, by a token or two
        with using(tokenizer):
            read = tokenizer(
                [found[text] for text in todo], add_special_tokens=False, return_offsets_mapping=True, verbose=False
            )
        long = [(text, ends) for text, ends in zip(todo, read["offset_mapping"], strict=True) if len(ends) > tokens]
        for text, ends in long:
            found[text] = found[text][: ends[room[text] - 1][1]] if room[text] > 0 else ""
            room[text] -= 1
        todo = [text for text, _ in long]
    return [found[text] for text in texts]


def check_text_length(length: int | None, what: str) -> int | None:
    """``length``, if it is a number of tokens, or None.

    Raises:
        ValueError: naming the argument ``what``.
    """
    if length is not None and (isinstance(length, bool) or not isinstance(length, int) or length < 1):
        raise ValueError(f"{what} must be None or a whole number of at least 1 token, not {length!r}.")
    return length


def check_lengths(name: str, model: Any, query_length: int | None, document_length: int | None) -> None:
    """Check that a query and a document of these lengths fit into one pair.

    Raises:
        ValueError: saying how many tokens that takes.
    """
    limit = model.tokenizer.model_max_length
    around = int(model.preprocess([["", ""]])["attention_mask"].sum())
    taken = (query_length or 0) + (document_length or 0) + around
    if (query_length or document_length) and taken > limit:
        raise ValueError(
            f"query_length={query_length} and document_length={document_length} take {taken} tokens with those around"
            f" them, but {name!r} reads {limit}: lower them, or raise max_length."
        )


def read_pairs(
    model: Any, pairs: Sequence[Sequence[str]], query_length: int | None = None, document_length: int | None = None
) -> dict[str, Any]:
    """Pairs of texts as a sentence-transformers cross-encoder reads them, control tokens in texts as text.

    Args:
        model: the cross-encoder.
        pairs: n (query, document).
        query_length: tokens of a query, the rest is cut; None = as many as fit.
        document_length: likewise of a document.
    """
    tokenizer = model.tokenizer
    first, second = (disarmed(tokenizer, texts) for texts in zip(*pairs, strict=True))
    first, second = cut(tokenizer, first, query_length), cut(tokenizer, second, document_length)
    texts = list(zip(first, second, strict=True))
    if _query_last(model):  # to cut the end would cut the query
        fitted = fit(lambda query, documents: _messages(query, documents[0]), [(q, [d]) for q, d in texts],
                     tokenizer.model_max_length, _Sizer(tokenizer))  # fmt: skip
        texts = [(messages[0]["content"], messages[1]["content"]) for messages in fitted]  # type: ignore[index]
    with using(tokenizer):
        return dict(model.preprocess([list(pair) for pair in texts], prompt=default_prompt(model)))


def _query_last(model: Any) -> bool:
    """Whether a model reads the document before the query."""
    tokenizer = model.tokenizer
    if not isinstance(getattr(tokenizer, "chat_template", None), str) or not carries(tokenizer):
        return False
    text = rendered(tokenizer, *_PLACES)
    return text.rfind(_PLACES[0]) > text.rfind(_PLACES[1]) >= 0


class _Sizer:
    """Counts tokens of pairs that a chat template renders."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer

    def sizes(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text."""
        with using(self.tokenizer):
            read = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)
        return [len(ids) for ids in read["input_ids"]]

    def prompt_sizes(self, prompts: Sequence[Any]) -> list[int]:
        """Tokens of each pair."""
        return self.sizes([rendered(self.tokenizer, *(message["content"] for message in p)) for p in prompts])

    def cut(self, text: str, tokens: int) -> str:
        """The beginning of ``text``, at most ``tokens`` long."""
        return cut(self.tokenizer, [text], tokens)[0]
