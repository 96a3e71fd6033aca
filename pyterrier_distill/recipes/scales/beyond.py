"""The settings of a student that is better than its teacher."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Settings:
    """What a run is decided by.

    Attributes:
        teacher: a bi-encoder; None = the built-in one.
        max_length: tokens of a text; None = the checkpoint's own.
        queries: made of each collection's documents, for the student of the same size, and for that of two layers.
        titles: share of them that are titles or first sentences.
        depth: of the fused ranking that is learnt.
        sharpness: temperature of the fused scores, which are means of z-scores.
        temperature: of the student's cosines.
        steps: of the student of the same size, and of the one of two layers.
        batch: queries of a step, of the same.
        rate: learning rate, of the same.
        layers: of the small student.
        kept: share of what was learnt that stays when weights are averaged with the start; of the same size alone.
        seeds: of queries and training.
    """

    teacher: str | None = None
    max_length: int | None = None
    queries: tuple[int, int] = (6_000, 60_000)
    titles: float = 0.0
    depth: int = 60
    sharpness: float = 0.125
    temperature: float = 0.05
    steps: tuple[int, int] = (180, 600)
    batch: tuple[int, int] = (32, 128)
    rate: tuple[float, float] = (2e-5, 6e-4)
    layers: tuple[int, ...] = (0, 5)
    kept: float = 0.5
    seeds: tuple[int, ...] = field(default=(1, 2, 3))


SCALES = {
    "small": Settings(),
    "medium": Settings(queries=(100_000, 1_000_000), steps=(3_000, 6_000), batch=(128, 128)),
    "paper": Settings(queries=(500_000, 5_000_000), steps=(15_000, 30_000), batch=(128, 128)),
}
