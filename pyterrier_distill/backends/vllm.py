"""A language model in vLLM, in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..engine import batching
from ..engine.locks import loading, once
from ..engine.tokens import chat_text, control_tokens, one_token_each
from ..identity import idle
from ..prompts import Prompt, flatten
from ..stores import redaction
from .base import Backend, BackendError
from .completions import Completion, Sampling, completion


class VLLM(Backend):
    """A causal checkpoint run by vLLM, loaded when first used.

    Args:
        name_or_path: a directory or hub name.
        max_length: tokens that a prompt and its answer may have together; None = the checkpoint's own.
        precision: ``auto`` | ``fp32`` | ``bf16`` | ``fp16``; ``auto`` = the checkpoint's own.
        revision: of a hub model.
        trust_remote_code: whether a hub model may bring its own code.
        options: further arguments of ``vllm.LLM``, such as ``{"tensor_parallel_size": 2}``.

    Raises:
        ModuleNotFoundError: on first use, without the package vllm.

    Example::

        teacher = ptd.ListwiseLLMTeacher(backend=ptd.VLLM("castorini/rank_zephyr_7b_v1_full"), prompt="rankzephyr")
    """

    constrains = True
    at_once = 256

    def __init__(
        self,
        name_or_path: str,
        *,
        max_length: int | None = None,
        precision: str = "auto",
        revision: str | None = None,
        trust_remote_code: bool = False,
        options: dict[str, Any] | None = None,
    ):
        super().__init__()
        from ..engine.pretrained import check_name

        self.name_or_path = check_name(name_or_path, packed=True)
        self.max_length = max_length
        self.precision = batching.check_precision(precision)
        self.revision = revision
        self.trust_remote_code = trust_remote_code
        self.options = dict(options or {})

    @once
    def llm(self) -> Any:
        """The vllm.LLM."""
        try:
            from vllm import LLM
        except ModuleNotFoundError:
            raise ModuleNotFoundError('this backend needs vllm: pip install "pyterrier-distill[vllm]".') from None
        dtype = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}.get(self.precision, "auto")
        with loading():  # an engine inside this process seeds all of it
            return LLM(
                self.name_or_path,
                dtype=dtype,
                revision=self.revision,
                max_model_len=self.max_length,
                trust_remote_code=self.trust_remote_code,
                enable_prefix_caching=True,
                # Probabilities of what may be said, not of what would be said without limits.
                logprobs_mode="processed_logprobs",
                **{"max_logprobs": 32, **self.options},
            )

    @property
    def tokenizer(self) -> Any:
        """The checkpoint's tokenizer."""
        return self.llm.get_tokenizer()

    @property
    def context(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        return self.max_length or self.llm.llm_engine.model_config.max_model_len

    @once
    def specials(self) -> Sequence[str]:
        """Control tokens that a text must not contain."""
        return control_tokens(self.tokenizer)

    def _text(self, prompt: Prompt) -> str:
        if isinstance(prompt, str) or not getattr(self.tokenizer, "chat_template", None):
            return flatten(prompt)
        return chat_text(self.tokenizer, prompt)

    def _ids(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        chat = bool(getattr(self.tokenizer, "chat_template", None))
        return [
            self.tokenizer(self._text(p), add_special_tokens=isinstance(p, str) or not chat)["input_ids"]
            for p in prompts
        ]

    def prompt_sizes(self, prompts: Sequence[Prompt]) -> list[int]:
        """Tokens of each prompt."""
        return [len(ids) for ids in self._ids(prompts)]

    def sizes(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text."""
        return [len(self.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]

    def cut(self, text: str, tokens: int) -> str:
        """The beginning of ``text``, at most ``tokens`` long."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return text if len(ids) <= tokens else self.tokenizer.decode(ids[:tokens], skip_special_tokens=True)

    def generate(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int, permutations: Sequence[int] | None = None
    ) -> list[str]:
        """Complete prompts greedily.

        Held to a permutation, an answer is put together from n short ones, one identifier at a time of those that are
        left; the prompt is read once, as prefixes are cached. :attr:`usage` counts each of them as a call.
        """
        if not prompts:
            return []
        ids = self._ids(prompts)
        if permutations is None:
            return self._run(ids, [{"max_tokens": max_new_tokens}] * len(ids))
        answers = [""] * len(ids)
        left = [[f"[{i}]" for i in range(1, n + 1)] for n in permutations]
        while rows := [row for row, names in enumerate(left) if names]:
            starts = [answers[row] + (" > " if answers[row] else "") for row in rows]
            continued = [
                ids[row] + self.tokenizer(start, add_special_tokens=False)["input_ids"] if start else ids[row]
                for row, start in zip(rows, starts, strict=True)
            ]
            settings = [{"max_tokens": 16, "choice": left[row]} for row in rows]
            for row, start, name in zip(rows, starts, self._run(continued, settings), strict=True):
                if name not in left[row]:
                    raise BackendError(f"vLLM answered {name!r}, which is none of {left[row]}.", failed=row)
                left[row].remove(name)
                answers[row] = start + name
        return answers

    def complete(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int,
        sampling: Sampling | None = None,
        seeds: Sequence[int] | None = None,
        until: Callable[[str], bool] | None = None,
    ) -> list[Completion]:
        """Complete prompts, and give each token's log-probability.

        Where tokens are drawn, that is by the distribution that they are drawn from, after temperature, top-k and
        top-p. Plain texts end with their first line if ``until`` is given.
        """
        if not prompts:
            return []
        from vllm import SamplingParams

        params = []
        for prompt, seed in zip(prompts, seeds or [0] * len(prompts), strict=True):
            drawn: dict[str, Any] = {"temperature": 0}
            if sampling is not None:
                drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": seed}
                drawn["top_k"] = sampling.top_k or -1
            if until is not None and isinstance(prompt, str):
                drawn["stop"] = ["\n"]
            params.append(SamplingParams(max_tokens=max_new_tokens, logprobs=0, **drawn))
        answers = []
        for output in self._outputs(self._ids(prompts), params):
            said = output.outputs[0]
            told = [step[token].logprob for step, token in zip(said.logprobs, said.token_ids, strict=True)]
            answers.append(completion(self.tokenizer, said.token_ids, told, [self.tokenizer.eos_token_id]))
        return answers

    def choose(self, prompts: Sequence[Prompt], options: Sequence[str], *, spaced: bool = True) -> np.ndarray:
        """Log-probabilities ``[n, m]`` of ``options``, normalised over them: nothing else may be said."""
        if not prompts:
            return np.empty((0, len(options)), dtype=np.float32)
        chat = not isinstance(prompts[0], str) and bool(getattr(self.tokenizer, "chat_template", None))
        tokens = one_token_each(self.tokenizer, options, spaced and not chat, self.name_or_path)
        from vllm import SamplingParams

        params = SamplingParams(temperature=0, max_tokens=1, logprobs=len(tokens), allowed_token_ids=tokens)
        outputs = self._outputs(self._ids(prompts), [params] * len(prompts))
        table = np.full((len(prompts), len(tokens)), -np.inf)
        for row, output in enumerate(outputs):
            told = output.outputs[0].logprobs[0]
            for column, token in enumerate(tokens):
                if token in told:
                    table[row, column] = told[token].logprob
        total = np.logaddexp.reduce(table, axis=1, keepdims=True)
        if not np.isfinite(total).all():
            raise BackendError("vLLM returned no log-probability of any option.", failed=int(np.argmin(total[:, 0])))
        return (table - total).astype(np.float32)

    def _run(self, ids: list[list[int]], settings: list[dict[str, Any]]) -> list[str]:
        from vllm import SamplingParams

        params = []
        for setting in settings:
            limited = {}
            if "choice" in setting:
                from vllm.sampling_params import StructuredOutputsParams

                limited["structured_outputs"] = StructuredOutputsParams(choice=setting["choice"])
            params.append(SamplingParams(temperature=0, max_tokens=setting["max_tokens"], **limited))
        return [output.outputs[0].text for output in self._outputs(ids, params)]

    def _outputs(self, ids: list[list[int]], params: list[Any]) -> list[Any]:
        started = time.monotonic()
        outputs = self.llm.generate([{"prompt_token_ids": i} for i in ids], params, use_tqdm=False)
        spoken = sum(len(output.outputs[0].token_ids) for output in outputs)
        self.usage.add(len(ids), sum(map(len, ids)), spoken, time.monotonic() - started)
        return outputs

    def decided_by(self) -> dict[str, Any]:
        """What decides the answers: the model and how it is computed, not on how many devices."""
        names = ("name_or_path", "max_length", "precision", "revision", "trust_remote_code")
        options = {name: value for name, value in self.options.items() if name not in idle.ENGINE}
        return {**{name: getattr(self, name) for name in names}, "options": options}

    def __repr__(self) -> str:
        defaults: dict[str, Any] = {"max_length": None, "precision": "auto", "revision": None, "options": {}}
        told = {name: getattr(self, name) for name in defaults} | {"options": redaction.redacted(self.options)}
        settings = [f"{n}={told[n]!r}" for n, default in defaults.items() if told[n] != default]
        return f"VLLM({', '.join([repr(self.name_or_path), *settings])})"

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("llm", "specials")}
