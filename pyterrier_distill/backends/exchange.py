"""One request to an OpenAI-compatible server and its answer: within its time, tried again, given up when asked to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from typing import Any

#: Seconds of the longest pause between two tries.
_LONGEST_PAUSE = 8.0
#: Bytes of the longest answer that is read: a hundred times what one with all its log-probabilities has.
_LONGEST_ANSWER = 64 << 20
#: Seconds after which it is noticed at the latest that nobody waits any more.
_NOTICED = 0.1


class Elsewhere(ValueError):
    """A server wants a request to go to another host."""


class GivenUp(RuntimeError):
    """Nobody waits for the answer any more."""


def client(url: str | None, key: str, timeout: float) -> Any:
    """A client that sends nothing to any other host than that of ``url``, and tries nothing again by itself."""
    import openai

    made = openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=timeout)
    home = (made.base_url.host, made.base_url.port)

    def stay(request: Any) -> None:
        if (request.url.host, request.url.port) != home:  # keys may stand in headers that nobody knows as such
            raise Elsewhere(
                f"the server sends requests on to another host, {request.url.host}: pass that one's address as base_url"
            )

    made._client.event_hooks["request"].append(stay)
    return made


def ask(client: Any, fields: Mapping[str, Any], *, retries: int, timeout: float, stop: threading.Event) -> Any:
    """The completion that a server sends.

    Args:
        client: from :func:`client`.
        fields: of the request, as the package openai takes them.
        retries: further tries after a 408, 409, 429 or 5xx, a time-out or a lost connection, with growing pauses.
        timeout: seconds of one try, from the request to the last byte of the answer.
        stop: when it is set, nothing further is sent, and what is under way is not waited for.

    Raises:
        GivenUp: if ``stop`` was set.
        ValueError: if what came is no completion.
    """
    for attempt in range(retries + 1):
        if stop.is_set():
            raise GivenUp("no further request is sent")
        try:
            return completion(_once(client, fields, timeout, stop))
        except Exception as error:
            if attempt == retries or not _passing(error):
                raise
            stop.wait(_pause(error, attempt))
    raise AssertionError("unreachable")


def _once(client: Any, fields: Mapping[str, Any], timeout: float, stop: threading.Event) -> bytes:
    """The bytes of an answer.

    A server may send a byte of its head now and then, and none of the limits that a client knows counts that. So the
    request has a thread of its own, which is not waited for when its time is over, nor when the process ends.
    """
    ends = time.monotonic() + timeout
    told: list[bytes | BaseException] = []
    over, given_up = threading.Event(), threading.Event()

    def request() -> None:
        try:
            told.append(_read(client, fields, given_up))
        except BaseException as error:
            told.append(error)
        finally:
            over.set()

    threading.Thread(target=request, name="request", daemon=True).start()
    try:
        while not over.wait(max(0.0, min(_NOTICED, ends - time.monotonic()))):
            if stop.is_set():
                raise GivenUp("the answer is not waited for")
            if time.monotonic() >= ends:
                raise TimeoutError(f"the answer was not complete within {timeout:g} seconds")
    finally:
        given_up.set()
    if isinstance(told[0], BaseException):
        raise told[0]
    return told[0]


def _read(client: Any, fields: Mapping[str, Any], given_up: threading.Event) -> bytes:
    """Send a request and read the answer, as long as somebody waits for it."""
    parts, size = [], 0
    with client.chat.completions.with_streaming_response.create(**fields) as response:
        for part in response.iter_bytes():
            parts.append(part)
            size += len(part)
            if size > _LONGEST_ANSWER:
                most = _LONGEST_ANSWER >> 20
                raise ValueError(f"the server's answer is longer than {most} MiB: it is not a completion")
            if given_up.is_set():
                break
    return b"".join(parts)


def completion(content: bytes) -> Any:
    """An answer's bytes as a completion whose texts are texts.

    Raises:
        ValueError: saying what came instead.
    """
    from openai.types.chat import ChatCompletion

    try:
        told = json.loads(content, parse_int=lambda digits: int(digits) if len(digits) < 20 else float(digits))
    except ValueError:
        raise ValueError(f"the server sent no JSON, but {content[:60].decode(errors='replace')!r}") from None
    choices = told.get("choices") if isinstance(told, dict) else None
    if not isinstance(choices, list) or not choices:
        raise ValueError(f"the server sent no choice, but {json.dumps(told)[:60]}")
    message = choices[0].get("message") if isinstance(choices[0], dict) else None
    if not isinstance(message, dict):
        raise ValueError(f"the server sent a choice without a message: {json.dumps(choices[0])[:60]}")
    message["content"] = _text(message.get("content"))
    return ChatCompletion.construct(**told)


def _text(content: Any) -> str | None:
    """The text of a message; of one in parts, that of its parts. Half characters become signs of replacement."""
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        content = "".join(part for part in parts if isinstance(part, str))
    if content is None:
        return None
    if not isinstance(content, str):
        raise ValueError(f"the server sent a message that is not text: {json.dumps(content)[:60]}")
    return content.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _passing(error: Exception) -> bool:
    """Whether a further try may help."""
    import openai

    if isinstance(error, openai.APIStatusError):
        return error.status_code in (408, 409, 429) or error.status_code >= 500
    if isinstance(error, openai.APIConnectionError):
        return not isinstance(error.__cause__, Elsewhere)
    # What breaks while an answer is read comes as the transport's own error, whichever one openai was built with.
    return isinstance(error, TimeoutError) or any(kind.__name__ == "TransportError" for kind in type(error).__mro__)


def _pause(error: Exception, attempt: int) -> float:
    """Seconds to wait: as long as the server says, up to a minute, else longer each time."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            wanted = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        if 0 < wanted <= 60:
            return wanted
    return min(_LONGEST_PAUSE, 0.5 * 2**attempt)
