"""What a server's answer says: its text, tokens, log-probabilities and cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .completions import Completion


def completion(choice: Any) -> Completion:
    """The answer, with its tokens where they spell it."""
    text = choice.message.content
    if not isinstance(text, str):
        return Completion(None)
    told = (getattr(choice.logprobs, "content", None) if choice.logprobs else None) or []
    ends: list[int] = []
    logprobs: list[float] = []
    end, lost = 0, False
    for token in told:
        if not text[end:].strip():  # what ends the answer is a token, too, but no text
            break
        # Pieces of a character are spelt as bytes, which are not in the text; the spaces round an answer may be gone.
        for piece in (token.token, token.token.strip()):
            found = text.find(piece, end) if piece else -1
            if found >= 0 and (lost or not text[end:found].strip()):
                end, lost = found + len(piece), False
                break
        else:
            lost = True
        logprob = _logprob(token.logprob)
        if logprob is None or math.isinf(logprob):
            return Completion(text)  # what is no log-probability says nothing of the answer
        ends.append(max(end, 1))
        logprobs.append(logprob)
    return Completion(text, tuple(ends), tuple(logprobs))


def _logprob(told: Any) -> float | None:
    """A log-probability that a server returned, a little rounding above 0 included; None if it is none."""
    if isinstance(told, bool) or not isinstance(told, (int, float)) or not told <= 1e-3:
        return None
    return float(told) if told > -1e300 else -math.inf


def count(told: Any) -> int:
    """A number of tokens that a server returned; 0 if it is none."""
    if isinstance(told, bool) or not isinstance(told, (int, float)) or not 0 <= told < 2**53 or told % 1:
        return 0
    return int(told)


def option_logprobs(choice: Any, options: Sequence[str], model: str) -> np.ndarray:
    """Log-probability of each option, from the likeliest first tokens."""
    content = getattr(choice.logprobs, "content", None) if choice.logprobs else None
    top = content[0].top_logprobs if content else None
    if not top:
        raise ValueError(
            f"the server returned no log-probabilities of {model}: ask one that does, or pass logprobs=False to count"
            " its answers as certain"
        )
    known: list[tuple[str, float]] = []
    for one in top:
        logprob = _logprob(one.logprob)
        if logprob is None:
            wrong = str(one.logprob)[:40]
            raise ValueError(f"the server returned a log-probability that is not a number of at most 0: {wrong}")
        known.append((one.token.strip(), logprob))
    found = {option: [logprob for token, logprob in known if token == option] for option in options}
    if not any(math.isfinite(logprob) for told in found.values() for logprob in told):
        tokens = ", ".join(repr(t.token) for t in top[:5])
        raise ValueError(f"none of {list(options)} is among the {len(top)} likeliest answers ({tokens}, ...)")
    # What was not returned is at most as likely as the last one that was, and as all that those leave.
    left = max(1e-7, 1 - sum(np.exp(logprob) for _, logprob in known))
    floor = min(*(logprob for _, logprob in known), np.log(left))
    told = np.array([np.logaddexp.reduce(found[option]) if found[option] else floor for option in options])
    return (told - np.logaddexp.reduce(told)).astype(np.float32)


def option_spoken(choice: Any, options: Sequence[str]) -> np.ndarray:
    """0 for the option that the answer begins with, −inf for the others; all equal where it is none of them."""
    words = (choice.message.content or "").replace("Passage", " ").replace("Document", " ").split()
    first = words[0].strip(".,:;!'\"()[]*") if words else ""
    spoken = np.array([option.lower() == first.lower() for option in options])
    if not spoken.any():
        return np.full(len(options), -np.log(len(options)), dtype=np.float32)
    return np.where(spoken, 0.0, -np.inf).astype(np.float32)
