"""What must not be written down: one rule of what a secret is, for manifests, cards, reprs, messages and logs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

MARK = "***"

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
#: Words that make a name that of a secret, whatever else is in it.
_ALWAYS = frozenset(
    """secret secrets password passwords passwd passphrase pwd pw authorization authentication bearer credential
    credentials apikey apikeys authtoken accesstoken cookie cookies""".split()
)
#: Words that do where no harmless one stands beside them: an ``hf_token``, not an ``eos_token``.
_OFTEN = frozenset("key token auth pass signature sig sas".split())
_ENDS = ("token", "secret", "password", "apikey", "credentials")
_HARMLESS = frozenset(
    """eos bos pad padding sep cls mask unk unknown stop end start begin special image audio video type types budget
    limit length len count counts max min num number per level ids index position decoder forced suppress embedding
    embeddings logits logprob logprobs sort cache text label field column name names primary foreign query queries
    document documents prompt separator size sizes usage states vector vectors added last first next total value values
    head heads dim columns""".split()
)
#: Parameters of an address that say which answers come, and let nobody in.
_PARAMETERS = frozenset({"api-version", "api_version", "version", "model", "deployment", "region"})

#: An address; a password may hold what would end it elsewhere.
_URL = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]*://(?:[^\s'\"`<>/@:]*:(?!\d*/)[^\s'\"`<>@]*@)?[^\s'\"`<>|\\,;)\]}]+"
)
#: An address without a scheme: user:password@host:port.
_USER = re.compile(r"(?<![\w/:.@-])[\w.+-]+:[^\s'\"`<>@/]+@(?=[\w.-]+:\d{2,5}\b)")
_SHAPES = re.compile(
    r"\b(?:hf_|sk-|sk_|pk_|ghp_|gho_|ghs_|github_pat_|glpat-|xox[abprs]-|gsk_|npm_|r8_|AIza)[A-Za-z0-9_-]{12,}\b"
    r"|\bAKIA[0-9A-Z]{16}\b|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"
)
_SCHEME = re.compile(
    r"\b([Bb]earer)\s+[A-Za-z0-9+/=_.~-]{4,}|\b([Bb]asic)\s+(?=[A-Za-z+/]*[0-9=])[A-Za-z0-9+/=]{8,}|"
    r"(?<=[Aa]uthorization: )(\w+)\s+[^\s'\"]+"
)
#: Names that stand for a column or a word as often as for a secret, and how such a value looks.
_PLAIN_NAMES = frozenset({"key", "token"})
_PLAIN_WORD = re.compile(r"[a-z]{1,12}(_[a-z]{1,12}){0,2}|\[[A-Z]{1,8}\]|</?[a-z]{1,8}>")
#: A digest of ours, in manifests of label stores.
_DIGEST = re.compile(r"[0-9a-f]{4,16}")
_VALUE = r"(?:'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\"|[^\s,'\"(){}\[\]]+)"
#: ``name=value``, ``'name': value``, ``"name": "value"``; what follows in brackets is looked at by itself.
_NAME = r"\b[\w-]{0,60}?(?:key|token|secret|pass|pwd|auth|bearer|credential|cookie|sig|sas)[\w-]{0,60}"
_PAIR = re.compile(rf"(?P<name>{_NAME})(?P<between>['\"]?\s*[:=]\s*(?:b(?=['\"]))?)(?P<value>{_VALUE})", re.IGNORECASE)
#: ``('name', 'value')``, and a name before a list, a dict or a call.
_COUPLE = re.compile(
    rf"(?P<before>[(\[]\s*(?P<quote>['\"])(?P<name>{_NAME})(?P=quote)\s*,\s*)(?P<value>{_VALUE})(?=\s*,?\s*[)\]])",
    re.IGNORECASE,
)
_OPENING = re.compile(rf"(?P<name>{_NAME})['\"]?\s*[:=]\s*(?:[A-Za-z_][\w.]*)?(?=[(\[{{])", re.IGNORECASE)
_QUOTED = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"")


def is_secret(name: Any) -> bool:
    """Whether something of this name lets somebody in: ``api_key``, ``hf_token``, ``Authorization``, ``dbPassword``.

    Names that only sound like it are none: ``max_tokens``, ``eos_token``, ``token_budget``, ``sort_key``.
    """
    words = {word.lower() for word in _WORD.findall(str(name))}
    if words & _ALWAYS:
        return True
    if "keys" in words and words & {"api", "access", "private"}:
        return True
    often = words & _OFTEN or any(word.endswith(_ENDS) for word in words)
    return bool(often) and not words & _HARMLESS


def address(url: str, mark: str = MARK) -> str:
    """A URL without user and password, and without what its query says but for the version asked for.

    Args:
        url: an address, or any other text, which stays as it is.
        mark: what stands in place of a parameter's value; ``""`` = the parameter is left out.
    """
    scheme, _, rest = url.partition("://")
    first = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in rest and "@" not in first and re.search(r":\D", first) and not first.startswith("["):
        url = f"{scheme}://{rest.rpartition('@')[2]}"  # a password with a slash
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return re.sub(r"(?<=://)[^/]*@", "", url)
    if not parts.scheme or "://" not in url:
        return url
    host = parts.netloc.rpartition("@")[2]
    if port is None and host.endswith(":"):
        host = host[:-1]
    told = []
    for pair in filter(None, parts.query.split("&")):
        name, equals, value = pair.partition("=")
        if name.lower() in _PARAMETERS:
            told.append(pair)
        elif mark:
            told.append(f"{name}={mark}" if equals and value else name if not equals else pair)
    # What stands behind # reaches no server; some put keys there.
    return urlunsplit((parts.scheme, host, parts.path, "&".join(told), ""))


def parameters(query: Mapping[str, Any]) -> dict[str, Any]:
    """Of the parameters of an address those that say which answers come, such as ``api-version``."""
    return {name: value for name, value in query.items() if str(name).lower() in _PARAMETERS}


def text(value: str, mark: str = MARK) -> str:
    """A text without the secrets in it: users and queries of URLs, values named as secrets, known tokens."""

    def paired(match: re.Match[str]) -> str:
        value = match["value"].strip("'\"")
        if not is_secret(match["name"]) or value.startswith(mark):
            return match[0]
        if value.lower() in ("", "none", "null", "true", "false"):
            return match[0]
        if (match["name"] == "key" and _DIGEST.fullmatch(value)) or _is_word(match["name"], value):
            return match[0]
        return f"{match['name']}{match['between']}{mark}"

    def coupled(match: re.Match[str]) -> str:
        hidden = is_couple([match["name"], match["value"].strip("'\"")])
        return f"{match['before']}{mark}" if hidden else match[0]

    value = _URL.sub(lambda match: address(match[0], mark), value)
    value = _USER.sub(f"{mark}@", value)
    value = _COUPLE.sub(coupled, _without_contents(value, mark))
    value = _SCHEME.sub(lambda match: f"{match[1] or match[2] or match[3]} {mark}", value)
    return _SHAPES.sub(mark, _PAIR.sub(paired, value))


def _without_contents(value: str, mark: str) -> str:
    """A text without what stands in brackets behind the name of a secret."""
    done, at = [], 0
    for match in _OPENING.finditer(value):
        if match.start() < at or not is_secret(match["name"]):
            continue
        end = _closing(value, match.end())
        inside = value[match.end() : end]
        words = [one or other for one, other in _QUOTED.findall(inside)]
        if not words or all(_is_word(match["name"], word) or word.startswith(mark) for word in words):
            continue
        done += [value[at : match.end()], mark]
        at = end
    return "".join([*done, value[at:]])


def _closing(value: str, start: int) -> int:
    """Where the bracket that opens at ``start`` is closed; the end of the text if it is not."""
    depth, quote, n = 0, "", start
    while n < len(value):
        letter = value[n]
        if quote:
            n += letter == "\\"
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
            if depth == 0:
                return n + 1
        n += 1
    return len(value)


def is_couple(value: Any) -> bool:
    """Whether something is the name of a secret and its value, as headers are given: ``("X-Api-Key", "...")``."""
    if not isinstance(value, (list, tuple)) or len(value) != 2 or not isinstance(value[0], str):
        return False
    name, part = value
    if not isinstance(part, (str, bytes)) or not part or not is_secret(name):
        return False
    return isinstance(part, bytes) or _PLAIN_WORD.fullmatch(part) is None


def redacted(value: Any, mark: str = MARK) -> Any:
    """Plain data without secrets: what stands under a secret's name at any depth, and what :func:`text` finds.

    The ``key`` of a label store's manifest is a digest, and stays.
    """
    if isinstance(value, Mapping):
        return {name: mark if _hidden(name, part) else redacted(part, mark) for name, part in value.items()}
    if is_couple(value):
        return [value[0], mark]
    if isinstance(value, (list, tuple)):
        return [redacted(part, mark) for part in value]
    if isinstance(value, bytes):
        return mark
    return text(value, mark) if isinstance(value, str) else value


def without(value: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping without what stands under a secret's name: having another key changes nothing."""
    return {str(name): part for name, part in value.items() if not _hidden(name, part)}


def _hidden(name: Any, part: Any) -> bool:
    if part is None or isinstance(part, bool) or (isinstance(part, str) and not part) or not is_secret(name):
        return False
    if (isinstance(part, str) and _is_word(name, part)) or (isinstance(part, (int, float)) and name in _PLAIN_NAMES):
        return False
    return not (name == "key" and isinstance(part, str) and _DIGEST.fullmatch(part))


def _is_word(name: Any, value: str) -> bool:
    """Whether a setting called ``key`` or ``token`` is a column or a word of the vocabulary, no secret."""
    return name in _PLAIN_NAMES and _PLAIN_WORD.fullmatch(value) is not None


def hide(message: str, secrets: Any, mark: str = MARK) -> str:
    """``message`` without the secrets that are known, and without those that can be recognised.

    Args:
        message: what a server or library says.
        secrets: texts; those of fewer than four characters are left, for they are in every message.
        mark: what stands in their place.
    """
    for secret in sorted({s for s in secrets if isinstance(s, str) and len(s) >= 4}, key=len, reverse=True):
        message = message.replace(secret, mark)
    return text(message, mark)
