"""The settings of USTAD and EmbedDistill."""

from __future__ import annotations

from dataclasses import dataclass

SUBSETS = ("cross", "late", "dual", "cross+late", "cross+dual", "late+dual", "cross+late+dual")
DE, UNIFIED = "dual encoder", "USTAD"


@dataclass(frozen=True)
class Settings:
    """What a run is decided by.

    Attributes:
        model: what the USTAD starts from; None = the built-in encoder.
        dual: the dual encoder that teaches; None = the built-in one.
        teachers: of the students: :data:`DE`, :data:`UNIFIED`.
        students: their sizes: layers kept of the teacher's checkpoint, or checkpoints.
        subsets: of the modes, in which USTADs are trained; the last one is the teacher.
        negatives: of a list of the USTAD, drawn from BM25's first ``depth``.
        depth: of that.
        match: weight λ of the modes' agreement (Eq. 8).
        scale: of scores of the late mode.
        lengths: tokens of a query, and of query and passage.
        queries: judged ones to train on; None = all.
        steps: of a USTAD, of a student that reads documents, of one that reads queries, of one that learns vectors
            of generated queries alone, the cheapest of all.
        batch: lists or queries of a step, of the first three; of the last as of the third.
        rate: learning rate, of the same; and of a USTAD's students, of both kinds.
        warmup: steps.
        temperatures: of scores, of teacher and student: where a dual encoder teaches, and where a USTAD does.
        weight: of embedding matching beside other losses (App. E.1).
        generated: further queries a judged one (2 by BART), or spans of documents where ``writer`` is None.
        writer: the encoder-decoder that writes them (App. C).
        measured: depth to which the USTAD re-ranks.
        seeds: of draws and training.
    """

    model: str | None = None
    dual: str | None = None
    teachers: tuple[str, ...] = (DE, UNIFIED)
    students: tuple[tuple[int, ...] | str, ...] = ((0, 2, 5), (0, 5))
    subsets: tuple[str, ...] = SUBSETS
    negatives: int = 19
    depth: int = 100
    match: float = 0.1
    scale: float = 1.0
    lengths: tuple[int, int] = (32, 256)
    queries: int | None = None
    steps: tuple[int, int, int, int] = (20_000, 100_000, 100_000, 100_000)
    batch: tuple[int, int, int] = (128, 128, 128)
    rate: tuple[float, float, float, float, float] = (2.8e-5, 2.8e-5, 2.8e-5, 1e-4, 1e-4)
    warmup: int = 5_000
    temperatures: tuple[float, float] = (1.0, 1.0)
    weight: float = 0.02
    generated: int = 2
    writer: str | None = None
    measured: int = 1000
    seeds: tuple[int, ...] = (1,)


SCALES = {
    "small": Settings(
        students=((0, 5),), negatives=3, depth=200, scale=0.02, lengths=(32, 128), steps=(25, 60, 150, 1_000),
        batch=(8, 32, 128), rate=(5e-5, 2e-4, 6e-4, 2e-4, 6e-4), warmup=10,
        temperatures=(0.05, 1.0), weight=1.0, generated=30_000,
        measured=10,
    ),
    "medium": Settings(
        model="google-bert/bert-base-uncased", dual="sentence-transformers/msmarco-bert-base-dot-v5",
        students=("distilbert/distilbert-base-uncased",), subsets=SUBSETS[-1:], queries=50_000,
        steps=(2_000, 4_000, 8_000, 8_000), warmup=200, writer="facebook/bart-base", measured=100,
    ),
    "paper": Settings(
        model="google-bert/bert-base-uncased", dual="sentence-transformers/msmarco-bert-base-dot-v5",
        students=("distilbert/distilbert-base-uncased", "google/bert_uncased_L-4_H-256_A-4"),
        writer="facebook/bart-base",
    ),
}  # fmt: skip
