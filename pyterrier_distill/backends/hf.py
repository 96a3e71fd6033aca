"""A language model of transformers, in this process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..engine import batching, generation, prefixes
from ..engine.locks import once, using
from ..engine.model_state import Loaded, shown
from ..engine.tokens import control_tokens, one_token_each
from ..prompts import Prompt
from . import permutation
from .base import Backend, answers_as, log_softmax, unfinished
from .completions import Completion, Sampling
from .inputs import decoder_start, encode, keyed, remembered, thawed

if TYPE_CHECKING:
    import torch

#: Tokens of T5 checkpoints, whose positions are relative and whose configuration names no limit.
_UNSAID = 512


class HF(Backend):
    """A causal or encoder-decoder checkpoint, loaded when first used.

    Args:
        name_or_path: a directory, a GGUF file, or a name on the hub.
        kind: ``"causal"`` or ``"seq2seq"``; None = read from the checkpoint's configuration.
        max_length: tokens that a prompt and its answer may have together; None = what tokenizer and configuration say
            (512 where they say nothing).
        precision: ``auto`` | ``fp32`` | ``bf16`` | ``fp16``; ``auto`` = bf16 where the hardware multiplies it natively.
        device: None = the GPU where there is one.
        batch_size: most prompts of one forward pass (a token budget usually cuts earlier).
        revision: of a hub model.
        verbose: True = progress is shown, False = never; None = once it takes more than three seconds.
        trust_remote_code: whether a hub model may bring its own code.
        model_kwargs: what transformers' ``from_pretrained`` takes for the weights besides, such as
            ``{"attn_implementation": "flash_attention_2"}``.

    Raises:
        FileNotFoundError: when first used, if there is no such checkpoint.
        ValueError: when first used, if the checkpoint generates no text.

    Example::

        ptd.ListwiseLLMTeacher(backend=ptd.HF("castorini/rank_zephyr_7b_v1_full", batch_size=4), prompt="rankzephyr")
    """

    constrains = True
    gives_logits = True
    gives_likelihoods = True

    def __init__(
        self,
        name_or_path: str | os.PathLike,
        *,
        kind: str | None = None,
        max_length: int | None = None,
        precision: str = "auto",
        device: str | None = None,
        batch_size: int | None = None,
        revision: str | None = None,
        verbose: bool | None = None,
        trust_remote_code: bool = False,
        model_kwargs: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        from ..engine import pretrained

        self.name_or_path = pretrained.check_name(os.fspath(name_or_path), packed=True)
        self.kind = kind
        self.max_length = max_length
        self.precision = batching.check_precision(precision)
        self.device = device
        self.batch_size = batch_size
        self.revision = revision
        self.verbose = verbose
        self.trust_remote_code = trust_remote_code
        self.model_kwargs = None if model_kwargs is None else dict(model_kwargs)
        self._held = Loaded()

    @property
    def decided_by(self) -> tuple[str, ...]:
        """The settings that decide its answers."""
        names = ("name_or_path", "kind", "max_length", "precision", "revision", "trust_remote_code")
        return names if self.model_kwargs is None else (*names, "model_kwargs")

    # -- the model ----------------------------------------------------------------------------------------------------

    @once
    def _loaded(self) -> tuple[str, Any, Any]:
        """Kind, tokenizer, model."""
        from transformers import GenerationConfig

        from ..engine import pretrained

        kind = self.kind or pretrained.kind_of(self.name_or_path, self._hub)
        if kind not in ("causal", "seq2seq"):
            raise ValueError(f"{self.name_or_path!r} is a {kind} checkpoint: it cannot answer prompts.")
        device = batching.infer_device(self.device)
        tokenizer, model, self._length, _ = pretrained.load(
            self.name_or_path, kind, self._hub, self.precision, device, max_length=self.max_length,
            **(self.model_kwargs or {}),
        )  # fmt: skip
        tokenizer.padding_side = "left" if kind == "causal" else "right"
        ends = getattr(model.generation_config, "eos_token_id", None)
        ends = [ends] if isinstance(ends, int) else ends or []
        self._ends = list(dict.fromkeys([tokenizer.eos_token_id, *ends]))
        # Greedy means greedy: a checkpoint's own penalties and temperatures stay out.
        model.generation_config = GenerationConfig()
        self._held.hold(model, tokenizer, [self.name_or_path])
        return kind, tokenizer, model

    @property
    def _hub(self) -> dict[str, Any]:
        hub: dict[str, Any] = {"trust_remote_code": self.trust_remote_code}
        return hub if self.revision is None else {**hub, "revision": self.revision}

    @property
    def end_tokens(self) -> list[int]:
        """The tokens that end an answer."""
        return self._ends if self._loaded else []

    @property
    def tokenizer(self) -> Any:
        """The checkpoint's tokenizer."""
        return self._loaded[1]

    @property
    def model(self) -> Any:
        """The checkpoint's model."""
        return self._loaded[2]

    def replace_model(self, model: Any) -> None:
        """Answer with other weights of the same architecture from now on."""
        kind, tokenizer, _ = self._loaded
        self.__dict__["_loaded"] = (kind, tokenizer, model)
        self._held.replace(model)

    @property
    def context(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        if self.max_length is not None:
            return self.max_length
        return (self._length if self._loaded else None) or _UNSAID

    @once
    def specials(self) -> Sequence[str]:
        """Control tokens that a text must not contain."""
        return control_tokens(self.tokenizer)

    # -- sizes --------------------------------------------------------------------------------------------------------

    def encode(self, prompts: Sequence[Prompt], padding: bool = False) -> dict[str, Any]:
        """Token ids of prompts; padded tensors if asked. A chat template brings its own control tokens."""
        return encode(self.tokenizer, prompts, padding)

    def tokenised_once(self) -> AbstractContextManager[None]:
        """Within, what is tokenised to be measured need not be tokenised again to be answered."""
        return remembered()

    def room(self, answer: int) -> int:
        """Tokens that a prompt may have; the answer of an encoder-decoder has a decoder of its own."""
        return self.context if self._loaded[0] == "seq2seq" else self.context - answer

    def prompt_sizes(self, prompts: Sequence[Prompt]) -> list[int]:
        """Tokens of each prompt."""
        return [len(ids) for ids in self.encode(prompts)["input_ids"]] if prompts else []

    def sizes(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text."""
        if not texts:
            return []
        tokenizer = self.tokenizer
        with using(tokenizer):
            return [len(ids) for ids in tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]]

    def cut(self, text: str, tokens: int) -> str:
        """The beginning of ``text``, at most ``tokens`` long."""
        with using(self.tokenizer):
            encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        if len(encoded["input_ids"]) <= tokens:
            return text
        return text[: encoded["offset_mapping"][tokens - 1][1]] if tokens > 0 else ""

    # -- answers ------------------------------------------------------------------------------------------------------

    def option_ids(self, options: Sequence[str], *, spaced: bool = True, chat: bool = False) -> torch.Tensor:
        """The token ``[m]`` of each of ``options`` as the answer; see :meth:`choose`.

        Args:
            options: words.
            spaced: whether a space comes before the answer where a prompt is a text that goes on.
            chat: whether prompts are chat messages.
        """
        import torch

        kind, tokenizer, model = self._loaded
        chat = chat and bool(getattr(tokenizer, "chat_template", None))
        # A text goes on with " yes"; after a chat template, or at a decoder's start, it is "yes".
        spaced = spaced and kind == "causal" and not chat
        with using(tokenizer):
            tokens = one_token_each(tokenizer, options, spaced, self.name_or_path)
        return torch.tensor(tokens, device=model.device)

    def next_logits(
        self, features: Any, ids: torch.Tensor, past: prefixes.Past | None = None
    ) -> torch.Tensor:
        """Logits ``[n, m]`` of the tokens ``ids`` as the next one of tokenised prompts, with gradients."""
        import torch

        kind, _, model = self._loaded
        names = ("input_ids", "attention_mask", "shared", "beginning")
        features = {name: features[name] for name in names if name in features}
        if kind == "seq2seq":
            start = torch.full((len(features["input_ids"]), 1), decoder_start(model), device=model.device)
            return model(**features, decoder_input_ids=start).logits[:, 0].index_select(-1, ids)
        return prefixes.last_logits(model, features, 1, past)[:, -1].index_select(-1, ids)

    def option_logits(self, prompts: Sequence[Prompt], options: Sequence[str], *, spaced: bool = True) -> np.ndarray:
        """Raw logits ``[n, m]`` of ``options`` as the next token; see :meth:`choose`."""
        from .scoring import option_logits

        return option_logits(self, prompts, options, spaced)

    def likelihoods(self, prompts: Sequence[Prompt], answers: Sequence[str], *, spaced: bool = True) -> np.ndarray:
        """Mean log-probability ``[n]`` of the tokens of answers to prompts."""
        from .scoring import likelihoods

        return likelihoods(self, prompts, answers, spaced)

    def choose(self, prompts: Sequence[Prompt], options: Sequence[str], *, spaced: bool = True) -> np.ndarray:
        """Log-probabilities ``[n, m]`` of ``options``, normalised over them."""
        normalised = lambda logits: log_softmax(logits).astype(np.float32)  # noqa: E731
        with answers_as(normalised):
            return normalised(self.option_logits(prompts, options, spaced=spaced))

    def generate(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int, permutations: Sequence[int] | None = None
    ) -> list[str]:
        """Complete prompts greedily."""
        if not prompts:
            return []
        if permutations is not None:
            max_new_tokens = max(max_new_tokens, permutation.longest(max(permutations)))

        from .decoding import greedy

        def answer(batch: dict[str, Any], items: list[Any], past: prefixes.Past | None) -> list[tuple[str, int]]:
            numbers = None if permutations is None else [number for _, number in items]
            return greedy(self, batch, past, max_new_tokens, numbers)

        with answers_as(lambda one: one[0]):
            said = self.answered(keyed(prompts, permutations), answer, max_new_tokens, lambda one: one[1])
        return [text for text, _ in said]

    def answered(
        self,
        items: Sequence[tuple[Any, int]],
        answer: Callable[[dict[str, Any], list[Any], prefixes.Past | None], list[Any]],
        tokens: int,
        spoken: Callable[[Any], int],
    ) -> list[Any]:
        """An answer to each prompt, counted.

        Args:
            items: prompts as keys, each with a number, see :func:`~.inputs.keyed`.
            answer: a batch, its items, and what the beginnings left that they share → answers.
            tokens: most tokens of an answer.
            spoken: answer → its tokens.

        Raises:
            BackendError: if the model fails; it carries what was answered.
        """
        started = time.monotonic()

        def count(batch: dict[str, Any], answers: list[Any]) -> None:
            self.usage.add(len(answers), int(batch["attention_mask"].sum()), sum(map(spoken, answers)))

        def split(features: dict[str, Any]) -> Any:
            for part in prefixes.parts(self.model, features, [1] * len(features["input_ids"])):
                yield part.rows, part.features, lambda batch, asked, past=part.past: answer(batch, asked, past)

        try:
            return generation.run(
                items,
                prepare=lambda chunk: dict(self.encode([thawed(key) for key, _ in chunk], padding=True)),
                answer=lambda batch, asked: answer(batch, asked, None),
                split=None if self.model.config.is_encoder_decoder else split,
                done=count,
                device=self.model.device,
                precision=self.precision,
                answer_tokens=tokens,
                batch_size=1 if self.model.config.model_type in prefixes.ALONE else self.batch_size,
                verbose=self.verbose,
            )
        except generation.Unfinished as stopped:
            cause = cast(Exception, stopped.__cause__)
            raise unfinished(self.name_or_path, cause, stopped.answers, stopped.at) from cause
        finally:
            self.usage.add(seconds=time.monotonic() - started)

    def complete(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int,
        sampling: Sampling | None = None,
        seeds: Sequence[int] | None = None,
        until: Callable[[str], bool] | None = None,
    ) -> list[Completion]:
        """Complete prompts with their tokens' log-probabilities; what is drawn does not depend on the batch."""
        from .decoding import complete

        return complete(self, prompts, max_new_tokens, sampling, seeds, until)

    @once
    def speller(self) -> permutation.Speller:
        """Which tokens may come next in a permutation."""
        return permutation.Speller(self.tokenizer)

    def model_changes(self) -> dict[str, str]:
        """How the loaded model is not its checkpoint's: ``trained`` (other weights), ``reset`` (other settings)."""
        return self._held.changes()

    def __repr__(self) -> str:
        defaults = {"kind": None, "max_length": None, "precision": "auto", "revision": None, "model_kwargs": None}
        settings = [f"{n}={getattr(self, n)!r}" for n, default in defaults.items() if getattr(self, n) != default]
        return shown(f"HF({', '.join([repr(self.name_or_path), *settings])})", self.model_changes())

    def __getstate__(self) -> dict[str, Any]:
        """Without the model, which is loaded again when needed, unless it has been changed."""
        held = self._held.carried()
        left = ("speller", "specials") if held.model is not None else ("speller", "specials", "_loaded")
        return {**{k: v for k, v in self.__dict__.items() if k not in left}, "_held": held}
