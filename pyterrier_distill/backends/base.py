"""What teachers ask of a language model, whoever runs it: ``generate`` and ``choose``."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np

from ..prompts import Prompt, flatten
from ..stores import redaction
from .completions import Completion, Sampling
from .usage import Usage


class BackendError(RuntimeError):
    """A model gave no answer to a prompt, and further tries will not help.

    Attributes:
        answers: what was answered before, in the order of the prompts; None where nothing was.
        failed: the position of the prompt that failed.
    """

    def __init__(self, message: str, answers: Sequence[Any] = (), failed: int = 0):
        super().__init__(message)
        self.answers = list(answers)
        self.failed = failed


def unfinished(who: Any, error: Exception, answers: Sequence[Any], failed: int | None = None) -> BackendError:
    """Whatever stopped ``who``, as an error that carries what was answered before.

    Args:
        who: what failed.
        error: what it raised.
        answers: in the order of the prompts; None where there is none.
        failed: the position of the prompt that failed; None = the first without an answer.
    """
    said = (str(error).strip().splitlines() or [""])[0][:200]
    if failed is None:
        failed = next((n for n, answer in enumerate(answers) if answer is None), 0)
    return BackendError(f"{who} failed ({type(error).__name__}: {said}).", answers, failed)


@contextmanager
def answers_as(change: Callable[[Any], Any]) -> Iterator[None]:
    """Within, the answers that a :class:`BackendError` carries become what ``change`` makes of each."""
    try:
        yield
    except BackendError as error:
        error.answers = [None if answer is None else change(answer) for answer in error.answers]
        raise


class Backend:
    """A language model that completes prompts and chooses between answers.

    What decides its answers, for caches and manifests, a backend says as ``decided_by``: a method that gives settings
    by name, or the names of attributes. One that says nothing is known by its repr, or else by its constructor's
    arguments.

    Attributes:
        usage: what its calls have cost so far.
        context: tokens that a prompt and its answer may have together; None = not known.
        at_once: queries worth asking about together, where one question waits for the answer to another.
    """

    #: Whether ``generate`` can be held to a permutation of identifiers.
    constrains = False
    #: Whether :meth:`option_logits` is there: raw logits of the options besides their log-probabilities.
    gives_logits = False
    #: Whether :meth:`likelihoods` is there.
    gives_likelihoods = False
    at_once = 64
    #: Whether it answers from several threads side by side, each waiting for its own answer, as a server's client does.
    side_by_side = False
    #: Whether identities name its class beside its repr.
    told_with_class = True

    def __init__(self) -> None:
        self.usage = Usage()

    @property
    def context(self) -> int | None:
        """Tokens that a prompt and its answer may have together; None = not known."""
        return None

    def generate(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int, permutations: Sequence[int] | None = None
    ) -> list[str]:
        """Complete prompts.

        Args:
            prompts: n strings or lists of chat messages.
            max_new_tokens: most tokens of one answer.
            permutations: for each prompt, how many passages it lists: the answer is then held to a permutation
                ``[2] > [1] > [3]`` of their identifiers.

        Returns:
            n texts, without the prompts.

        Raises:
            BackendError: if an answer cannot be had; it carries those that came before.
        """
        raise TypeError(f"{type(self).__name__} does not generate.")

    def complete(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int,
        sampling: Sampling | None = None,
        seeds: Sequence[int] | None = None,
        until: Callable[[str], bool] | None = None,
    ) -> list[Completion]:
        """Complete prompts, and give each token's log-probability where it is known.

        Args:
            prompts: n strings or lists of chat messages.
            max_new_tokens: most tokens of one answer.
            sampling: how tokens are drawn; None = the likeliest one each time.
            seeds: one a prompt; None = 0 for all. The same prompt with the same seed gives the same answer.
            until: asked at the end of each line whether the text so far is complete, so that the rest need not be
                written. A backend that cannot ask ends plain texts with their first line; chat answers end themselves.

        Returns:
            n completions, without the prompts. Log-probabilities are those of the model's own distribution.

        Raises:
            TypeError: if the backend cannot sample.
            BackendError: if an answer cannot be had; it carries those that came before.
        """
        if sampling is not None:
            raise TypeError(f"{type(self).__name__} does not sample: ask for one greedy answer (temperature=0).")
        return [Completion(text) for text in self.generate(prompts, max_new_tokens=max_new_tokens)]

    def option_logits(self, prompts: Sequence[Prompt], options: Sequence[str], *, spaced: bool = True) -> np.ndarray:
        """Raw logits float32 ``[n, m]`` of ``options`` as the next token, of backends with ``gives_logits``."""
        raise TypeError(f"{type(self).__name__} tells no logits.")

    def likelihoods(self, prompts: Sequence[Prompt], answers: Sequence[str], *, spaced: bool = True) -> np.ndarray:
        """How likely each answer is, of backends with ``gives_likelihoods``.

        Args:
            prompts: n strings or lists of chat messages.
            answers: n texts, what follows each prompt.
            spaced: whether, where a prompt is a text that goes on, a space comes before the answer.

        Returns:
            float32 ``[n]``: log p(token | prompt, tokens before it), the mean over the answer's tokens; at most 0.
        """
        raise TypeError(f"{type(self).__name__} tells no likelihoods.")

    def tokenised_once(self) -> AbstractContextManager[None]:
        """Within, what is tokenised to be measured need not be tokenised again to be answered."""
        return nullcontext()

    def choose(self, prompts: Sequence[Prompt], options: Sequence[str], *, spaced: bool = True) -> np.ndarray:
        """How likely each of ``options`` is as the answer, given that it is one of them.

        Args:
            prompts: n strings or lists of chat messages.
            options: m words, each a single token.
            spaced: whether, where a prompt is a text that goes on, a space comes before the answer.

        Returns:
            float32 ``[n, m]``: log-probabilities that sum to 1 over the options.

        Raises:
            ValueError: if an option is not one token.
            BackendError: if an answer cannot be had, or says nothing about the options.
        """
        raise TypeError(f"{type(self).__name__} does not choose.")

    # -- the size of texts; overridden where a tokenizer is at hand ---------------------------------------------------

    #: Control tokens that a text must not contain, besides those that look like one (``prompts.control.neutralise``).
    specials: Sequence[str] = ()

    def room(self, answer: int) -> int | None:
        """Tokens that a prompt may have if its answer has up to ``answer`` of them; None = not known."""
        return None if self.context is None else self.context - answer

    def prompt_sizes(self, prompts: Sequence[Prompt]) -> list[int]:
        """Tokens of each prompt.

        Without a tokenizer an estimate on the safe side: each digit and sign is one, each word one for 3 UTF-8 bytes.
        """
        return [_estimate(flatten(p)) + (0 if isinstance(p, str) else 8 * len(p)) for p in prompts]

    def sizes(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, as :meth:`prompt_sizes` counts them."""
        return [_estimate(text) for text in texts]

    def cut(self, text: str, tokens: int) -> str:
        """The beginning of ``text``, at most ``tokens`` long."""
        end = 0
        for piece in _PIECES.finditer(text):
            size = _estimate(piece.group(0))
            if size > tokens:  # words stay whole; scripts without spaces do not have to
                rest = "" if piece.group(0).isascii() else piece.group(0).encode()[: 3 * tokens].decode(errors="ignore")
                return text[: piece.start()] + rest if rest else text[:end]
            tokens -= size
            end = piece.end()
        return text


#: Words, numbers by the digit, and every other sign by itself: what tokenizers cut texts into at the least.
_PIECES = re.compile(r"[^\W\d_]+|\d|\S")


def _estimate(text: str) -> int:
    return sum(max(1, -(-len(piece.encode()) // 3)) for piece in _PIECES.findall(text))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, in float64: a certain no must not become -0.0 or -inf."""
    wide = logits.astype(np.float64)
    shifted = wide - wide.max(axis=-1, keepdims=True, initial=-np.inf)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


class Wrapped(Backend):
    """Anything with ``generate(list of prompts) -> outputs with .text`` (pyterrier_rag's backends) as a backend.

    Args:
        inner: the object. It gets chat messages if its ``supports_message_input`` is true, strings otherwise.
    """

    def __init__(self, inner: Any):
        super().__init__()
        self.inner = inner
        self.at_once = int(getattr(inner, "batch_size", None) or 64)

    @property
    def context(self) -> int | None:
        """What the wrapped backend says: ``max_model_len`` or ``max_input_length``."""
        for name in ("max_model_len", "max_input_length"):
            length = getattr(self.inner, name, None)
            if isinstance(length, int):
                return length
        return None

    def generate(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int, permutations: Sequence[int] | None = None
    ) -> list[str]:
        """Ask the wrapped backend; how many tokens it may answer is its own setting."""
        if permutations is not None:
            raise ValueError(f"{self!r} cannot be held to a permutation: leave constrained=True out.")
        return ["" if text is None else str(text) for text in self._asked(prompts)]

    def complete(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int,
        sampling: Sampling | None = None,
        seeds: Sequence[int] | None = None,
        until: Callable[[str], bool] | None = None,
    ) -> list[Completion]:
        """Ask the wrapped backend; how it chooses its words, and how many, are its own settings."""
        return [Completion(text if isinstance(text, str) else None) for text in self._asked(prompts)]

    def _asked(self, prompts: Sequence[Prompt]) -> list[Any]:
        """One answer a prompt, whatever it is."""
        if not prompts:
            return []
        messages = bool(getattr(self.inner, "supports_message_input", False))
        started = time.monotonic()
        try:
            outputs = list(self.inner.generate([p if messages else flatten(p) for p in prompts]))
        except Exception as error:
            said = f"{self!r} failed ({type(error).__name__}: {error})."
            held = getattr(self.inner, "__dict__", {})
            told = redaction.hide(said, [value for name, value in held.items() if redaction.is_secret(name)])
            # A cause is shown, too, with all that it says.
            raise BackendError(told) from (error if told == said else None)
        texts = [getattr(output, "text", output) for output in outputs]
        if len(texts) != len(prompts):
            raise BackendError(f"{self!r} gave {len(texts)} answers to {len(prompts)} prompts.")
        self.usage.add(
            len(prompts), sum(self.prompt_sizes(prompts)), sum(self.sizes([str(text or "") for text in texts])),
            time.monotonic() - started,
        )  # fmt: skip
        return texts

    def __repr__(self) -> str:
        return f"Wrapped({redaction.text(repr(self.inner))})"


def as_backend(model: Any) -> Backend | None:
    """``model`` as a backend if it is one or generates like one; None if it is a name or something else."""
    if isinstance(model, Backend):
        return model
    return Wrapped(model) if callable(getattr(model, "generate", None)) else None
