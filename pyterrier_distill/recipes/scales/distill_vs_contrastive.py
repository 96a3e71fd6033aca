"""The settings of Distillation versus Contrastive Learning."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """What a run is decided by.

    Attributes:
        retriever: a bi-encoder; None = the built-in one.
        trained: whether the retriever is trained, by InfoNCE with in-batch negatives, or taken as it is.
        model: what layers are taken of where a size is a number; None = the built-in encoder.
        teacher: its size.
        sizes: of the students: layers of ``model``, or checkpoints.
        lora: of all models; None = all weights are trained.
        lengths: tokens of a query and of a passage; None = no such limits.
        queries: each relevant document of which is a pair with it; None = all.
        negatives: of a pair, drawn from the retriever's first ``depth``.
        depth: of that.
        batch: pairs of a step.
        epochs: over the pairs.
        rate: learning rate.
        temperature: T of both softmaxes.
        reranked: ``"retriever"`` or ``"BM25"``: whose ranking is re-ranked, and how deep.
        measured: that depth.
        shares: of the pairs that the smallest student learns in Figure 2; none = it is left out.
        seeds: of draws and training.
    """

    retriever: str | None = None
    trained: bool = False
    model: str | None = None
    teacher: int | str = 6
    sizes: tuple[int | str, ...] = (2, 3, 6)
    lora: tuple[tuple[str, int], ...] | None = None
    lengths: tuple[int, int] | None = None
    queries: int | None = None
    negatives: int = 15
    depth: int = 200
    batch: int = 128
    epochs: float = 1
    rate: float = 1e-4
    temperature: float = 1.0
    reranked: str = "retriever"
    measured: int = 200
    shares: tuple[float, ...] = ()
    seeds: tuple[int, ...] = (1,)


QWEN = ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-1.5B", "Qwen/Qwen2.5-3B", "Qwen/Qwen2.5-7B")
LORA = (("r", 16), ("alpha", 32))
SCALES = {
    "small": Settings(
        lengths=(32, 128), queries=500, negatives=5, batch=16, rate=2e-4, reranked="BM25", measured=30, sizes=(2, 3, 6)
    ),
    "medium": Settings(
        teacher="Qwen/Qwen2.5-1.5B", sizes=("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-1.5B"), lora=LORA, queries=20_000,
        measured=100,
    ),
    "paper": Settings(
        retriever="Qwen/Qwen2.5-7B", trained=True, teacher=QWEN[-1], sizes=QWEN, lora=LORA, shares=(0.1, 0.25, 0.5),
    ),
}  # fmt: skip
