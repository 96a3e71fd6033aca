"""The settings of InRanker."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """What a run is decided by.

    Attributes:
        student: a checkpoint; None = the built-in encoder, or of causal models SmolLM2-135M-Instruct.
        kind: ``"t5"``, ``"causal"`` (answers yes or no), or ``"cross-encoder"``, whose one score stands for the
            difference of the two logits: of centred logits, Eq. 2 is half the squared difference of these.
        lora: of the student; None = all weights are trained.
        max_length: tokens of a prompt; None = the checkpoint's own.
        teacher: a checkpoint with two answers; None = the built-in sentence encoder, whose cosine c stands for the
            logits ±(spread · c − shift) / 2.
        spread: of that; and its shift.
        writer: of queries; None = SmolLM2-135M-Instruct.
        queries: of people, judged; None = all.
        synthetic: queries written for each collection of the domain.
        negatives: of a relevant document, drawn from BM25's first ``depth``.
        depth: of that.
        epochs: over the pairs.
        batch: pairs of a step.
        rate: learning rate.
        measured: depth to which BM25's ranking is re-ranked.
        ablations: whether the losses of App. C are tried, too.
        seeds: of draws and training.
    """

    student: str | None = None
    kind: str = "t5"
    lora: tuple[tuple[str, int], ...] | None = None
    max_length: int | None = None
    teacher: str | None = None
    spread: tuple[float, float] = (20.0, 10.0)
    writer: str | None = None
    queries: int | None = None
    synthetic: int = 100_000
    negatives: int = 9
    depth: int = 1000
    epochs: float = 10
    batch: int = 32
    rate: float = 7e-5
    measured: int = 1000
    ablations: bool = True
    seeds: tuple[int, ...] = (1,)


SCALES = {
    "small": Settings(
        kind="cross-encoder", max_length=160, queries=400, synthetic=200, negatives=5, depth=100, epochs=1, batch=32,
        rate=1e-4, measured=20, ablations=False,
    ),
    "medium": Settings(
        student="google-t5/t5-small", teacher="castorini/monot5-3b-msmarco-10k",
        writer="EleutherAI/gpt-j-6b", queries=5_000, synthetic=5_000, epochs=2, measured=100,
    ),
    "paper": Settings(
        student="google-t5/t5-small", teacher="castorini/monot5-3b-msmarco-10k",
        writer="EleutherAI/gpt-j-6b",
    ),
}  # fmt: skip
