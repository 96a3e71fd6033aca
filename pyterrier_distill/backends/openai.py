"""A language model behind an OpenAI-compatible server: OpenAI itself, vLLM, transformers serve, Ollama, ..."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from ..engine import progress
from ..engine.locks import once, others_go_on
from ..frames import arguments
from ..identity import idle
from ..prompts import Prompt
from ..stores import redaction
from . import exchange, served
from .base import Backend, BackendError
from .completions import Completion, Sampling

_KEY = "OPENAI_API_KEY"
_URL = "OPENAI_BASE_URL"


class OpenAI(Backend):
    """Chat completions of a model that a server names.

    Answers are remembered as long as this object lives: asked again after an interruption, it goes on where it stopped,
    and nothing is paid twice.

    Args:
        model: what the server calls it.
        base_url: of the server, such as ``http://localhost:8000/v1``; None = the environment's ``OPENAI_BASE_URL``,
            else OpenAI's.
        api_key: None = the environment's ``OPENAI_API_KEY``. It is never shown, in a repr or elsewhere.
        concurrency: requests under way at once.
        retries: further tries after a 429, a 5xx, a time-out or a lost connection, with growing pauses.
        timeout: seconds that one try of a request may take, from its beginning to the last byte of the answer.
        logprobs: whether the server returns log-probabilities. Without them ``choose`` reads the answer's text, and a
            chosen option has probability 1.
        max_length: tokens that a prompt and its answer may have together; None = not known, nothing is cut to it.
            Tokens are estimated, a token for each 3 UTF-8 bytes.
        extra: further fields of each request; None takes one out. A model that reasons and wants its own field for the
            length of an answer: ``{"max_tokens": None, "max_completion_tokens": 4000, "temperature": None}``.
        verbose: True = progress is shown, False = never; None = once it takes more than three seconds.

    Raises:
        ValueError: for impossible settings.
        ModuleNotFoundError: on first use, without the package openai.

    Example::

        llm = ptd.OpenAI("gpt-4.1-mini", base_url="https://api.openai.com/v1")  # key: OPENAI_API_KEY
        teacher = ptd.ListwiseLLMTeacher(backend=llm, prompt="rankgpt")
    """

    side_by_side = True
    #: Its model is somewhere else: nobody here knows how many weights it has.
    remote = True

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        concurrency: int = 16,
        retries: int = 5,
        timeout: float = 120.0,
        logprobs: bool = True,
        max_length: int | None = None,
        extra: dict[str, Any] | None = None,
        verbose: bool | None = None,
    ):
        super().__init__()
        for name, value, least in (("concurrency", concurrency, 1), ("retries", retries, 0)):
            arguments.whole(value, name, least)
        if not timeout > 0:
            raise ValueError(f"timeout must be positive, not {timeout!r}.")
        self.model = model
        self.base_url = base_url
        self._api_key = api_key
        self.concurrency = concurrency
        self.retries = retries
        self.timeout = timeout
        self.logprobs = logprobs
        self.max_length = max_length
        self.extra = dict(extra or {})
        self.verbose = verbose
        self._remembered: dict[str, Any] = {}

    @property
    def context(self) -> int | None:
        """Tokens that a prompt and its answer may have together; None = not known."""
        return self.max_length

    @property
    def at_once(self) -> int:  # type: ignore[override]
        """Queries worth asking about together: as many as requests may be under way."""
        return self.concurrency

    @once
    def _client(self) -> Any:
        try:
            import openai  # noqa: F401
        except ModuleNotFoundError:
            raise ModuleNotFoundError('this backend needs openai: pip install "pyterrier-distill[llm]".') from None
        url = self.base_url or os.environ.get(_URL)
        key = self._api_key or os.environ.get(_KEY)
        if key is None and url is None:
            raise ValueError(f"no key: set {_KEY} in the environment, or pass base_url= of a server that needs none.")
        return exchange.client(url, key or "none", self.timeout)

    # -- answers ------------------------------------------------------------------------------------------------------

    def generate(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int, permutations: Sequence[int] | None = None
    ) -> list[str]:
        """Complete prompts greedily."""
        if permutations is not None:
            raise ValueError("a server cannot be held to a permutation here: leave constrained=True out.")
        return self._all(prompts, {"max_tokens": max_new_tokens}, lambda choice: choice.message.content or "")

    def complete(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int,
        sampling: Sampling | None = None,
        seeds: Sequence[int] | None = None,
        until: Callable[[str], bool] | None = None,
    ) -> list[Completion]:
        """Complete prompts, and give each token's log-probability where the server does (``logprobs=True``).

        These answers are not remembered. A seed is the server's to keep. An answer ends by itself.
        """
        requests: list[dict[str, Any]] = []
        for seed in seeds or [0] * len(prompts):
            request: dict[str, Any] = {"max_tokens": max_new_tokens, **({"logprobs": True} if self.logprobs else {})}
            if sampling is not None:
                request |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": seed}
                request |= {"top_k": sampling.top_k} if sampling.top_k else {}
            requests.append(request)
        return self._all(prompts, requests, served.completion, remember=False)

    def choose(self, prompts: Sequence[Prompt], options: Sequence[str], *, spaced: bool = True) -> np.ndarray:
        """Log-probabilities ``[n, m]`` of ``options``, normalised over them, from the server's 20 likeliest tokens.

        An option that is not among them gets the most that it can have: the probability of the last one returned, or
        what all those returned leave. With ``logprobs=False`` the option that the answer begins with has probability 1.

        Raises:
            BackendError: if the server returns no log-probabilities, or none of an option.
        """
        if not prompts:
            return np.empty((0, len(options)), dtype=np.float32)
        if self.logprobs:
            request = {"max_tokens": 1, "logprobs": True, "top_logprobs": 20}
            rows = self._all(prompts, request, lambda choice: served.option_logprobs(choice, options, self.model))
        else:
            rows = self._all(prompts, {"max_tokens": 8}, lambda choice: served.option_spoken(choice, options))
        return np.stack(rows)

    def _all(
        self,
        prompts: Sequence[Prompt],
        request: dict[str, Any] | list[dict[str, Any]],
        read: Callable[[Any], Any],
        remember: bool = True,
    ) -> list[Any]:
        """``read`` of the answer to each prompt; several requests under way at once."""
        requests = [request] * len(prompts) if isinstance(request, dict) else request
        client = self._client
        answers: list[Any] = [None] * len(prompts)
        failures: list[tuple[int, Exception]] = []
        stop = threading.Event()

        def one(position: int) -> None:
            if stop.is_set():
                return
            try:
                answers[position] = self._one(client, prompts[position], requests[position], read, remember, stop)
            except exchange.GivenUp:
                return
            except Exception as error:
                failures.append((position, error))
                stop.set()
            bar.update(1)

        pool = ThreadPoolExecutor(self.concurrency)
        several = len(prompts) > 1
        with (
            self.usage.timed(),
            others_go_on(),
            progress.bar(
                total=len(prompts), desc="Asking", unit="prompt", verbose=self.verbose if several else False
            ) as bar,
        ):
            try:
                list((pool.map if several else map)(one, range(len(prompts))))
                pool.shutdown()
            except BaseException:  # nothing further is sent, and nobody waits for what is under way
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        if failures:
            position, error = min(failures, key=lambda failure: failure[0])
            reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
            reason = redaction.hide(reason, self._secrets())
            # The cause would show what the server echoed, such as the request's headers.
            raise BackendError(
                f"{self.model} gave no answer ({type(error).__name__}: {reason[:300]}).", answers, position
            ) from None
        return answers

    def _one(
        self,
        client: Any,
        prompt: Prompt,
        request: dict[str, Any],
        read: Callable[[Any], Any],
        remember: bool,
        stop: threading.Event,
    ) -> Any:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        fields = {"model": self.model, "messages": messages, "temperature": 0, **request, **self.extra}
        fields = {name: value for name, value in fields.items() if value is not None}
        key = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
        if key not in self._remembered:
            known = {"model", "messages", "temperature", "max_tokens", "logprobs", "top_logprobs", "top_p", "seed"}
            known |= {name for name in fields if name.startswith("extra_")}
            direct = {name: value for name, value in fields.items() if name in known}
            other = {name: value for name, value in fields.items() if name not in known}
            if other:
                direct["extra_body"] = {**direct.get("extra_body", {}), **other}
            response = exchange.ask(client, direct, retries=self.retries, timeout=self.timeout, stop=stop)
            told = [getattr(response.usage, name, 0) for name in ("prompt_tokens", "completion_tokens")]
            self.usage.add(1, *map(served.count, told))
            answer = read(response.choices[0])
            if remember:  # only what could be read
                self._remembered[key] = response.choices[0]
            return answer
        return read(self._remembered[key])

    def decided_by(self) -> dict[str, Any]:
        """What decides the answers: the server, its model, what is asked for; neither keys nor patience."""
        url = self.base_url or os.environ.get(_URL)
        extra = {name: value for name, value in self.extra.items() if name not in idle.REQUEST}
        query = extra.pop("extra_query", None)
        if isinstance(query, Mapping) and (kept := redaction.parameters(query)):
            extra["extra_query"] = kept
        return {
            "model": self.model,
            "base_url": None if url is None else redaction.address(str(url), mark="").rstrip("/"),
            "logprobs": self.logprobs,
            "max_length": self.max_length,
            "extra": extra,
        }

    def _secrets(self) -> list[Any]:
        """What must not be shown, wherever the server repeats it."""
        url = urlsplit(str(self.base_url or os.environ.get(_URL) or ""))
        given = [v for n in ("extra_headers", "extra_query") for v in dict(self.extra.get(n) or {}).values()]
        told = [value for value in given if len(str(value)) > 7]
        told += [pair.partition("=")[2] for pair in url.query.split("&")]
        return [self._api_key or os.environ.get(_KEY), url.password, *map(str, told)]

    def __repr__(self) -> str:
        defaults = {"logprobs": True, "max_length": None}
        settings = [f"{n}={getattr(self, n)!r}" for n, default in defaults.items() if getattr(self, n) != default]
        if self.base_url is not None:  # a URL may name a user, a password, a key
            settings.insert(0, f"base_url={redaction.address(str(self.base_url), mark='')!r}")
        if self.extra:  # headers may be secrets
            shown = {name: value for name, value in self.extra.items() if not name.startswith("extra_")}
            settings.append(f"extra={redaction.redacted(shown)!r}")
        return f"OpenAI({', '.join([repr(self.model), *settings])})"

    def __getstate__(self) -> dict[str, Any]:
        """Without the connection, and without the key: it is read from the environment again."""
        return {**{k: v for k, v in self.__dict__.items() if k != "_client"}, "_api_key": None}
