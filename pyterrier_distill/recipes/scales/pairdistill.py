"""The settings of PairDistill."""

from __future__ import annotations

from dataclasses import dataclass

START, WHOLE = "before distillation", "PairDistill"
NO_PAIR, NO_KD = f"{WHOLE} without L_pair", f"{WHOLE} without L_KD"
NO_DELTA, OTHER = f"{WHOLE} without δ", f"{WHOLE}, another initialisation"
ZERO, CONTRASTIVE = f"{WHOLE} without labels", "labels alone"
LATE = "late interaction"


@dataclass(frozen=True)
class Settings:
    """What a run is decided by.

    Attributes:
        model: what students start from: a bi-encoder's or a ColBERT's checkpoint; None = the built-in encoder.
        layers: kept of it; None = all.
        other: another initialisation (Table 3), of which all layers are kept; None = it is left out.
        pointwise: the pointwise teacher; None = the built-in encoder, whole.
        pairwise: the pairwise teacher; None = the built-in encoder, trained to compare two passages on the labels.
        compared: queries and pairs of a query that it is trained on where it is None, and its learning rate.
        compared_first: of the pointwise teacher's ranking, how many it puts in order where it is measured itself.
        queries: of the distillation; None = all of the collection, judged or not.
        judged: whether they are drawn from judged ones alone.
        labels: whether judgements are learnt, too.
        first: whose ranking the first round labels: ``"BM25"``'s or the ``"student"``'s, where it can retrieve already.
        similarity: of dense students: ``"dot"``, ``"cos"``, None = the checkpoint's own.
        pooling: of dense students; None = the checkpoint's own.
        depth: of the candidates.
        pairs: compared, of a query.
        delta: ranks apart, exclusive; None = any.
        size: passages of a query that a step reads.
        lengths: tokens of a query and of a passage.
        weights: λ_KD and λ_pair.
        tau: temperature of the teacher's scores (τ).
        temperatures: of a dense student's scores, of a late interaction's.
        steps: of a round.
        batch: queries of a step.
        rate: learning rate.
        rounds: §4.3.
        third: whether a round more is tried, too.
        alike: rounds of ablations, and of students but the first.
        students: ``"dense"``, ``"late"``.
        ablations: of Tables 3 and 6: names among them; and further λ_pair.
        lambdas: those.
        seeds: of draws and training.
    """

    model: str | None = None
    layers: tuple[int, ...] | None = None
    other: str | None = None
    pointwise: str | None = None
    pairwise: str | None = None
    compared: tuple[int, int, float] = (1_200, 4, 1e-4)
    compared_first: int = 10
    queries: int | None = None
    judged: bool = False
    labels: bool = True
    first: str = "BM25"
    similarity: str | None = None
    pooling: str | None = None
    depth: int = 100
    pairs: int = 50
    delta: int | None = 10
    size: int = 64
    lengths: tuple[int, int] = (32, 180)
    weights: tuple[float, float] = (1.0, 3.0)
    tau: float = 1.0
    temperatures: tuple[float, float] = (1.0, 1.0)
    steps: int = 100_000
    batch: int = 32
    rate: float = 1e-5
    rounds: int = 2
    third: bool = True
    alike: int = 2
    students: tuple[str, ...] = ("late", "dense")
    ablations: tuple[str, ...] = (NO_PAIR, NO_KD, NO_DELTA, OTHER, ZERO, CONTRASTIVE)
    lambdas: tuple[float, ...] = (1.0,)
    seeds: tuple[int, ...] = (1,)


SCALES = {
    "small": Settings(
        layers=(0, 5), compared=(500, 4, 1e-4), compared_first=5, queries=240, judged=True, depth=20, pairs=20, size=20,
        lengths=(32, 128), tau=0.05, temperatures=(0.05, 1.0), steps=25, batch=8, rate=2e-4,
        students=("dense", "late"), ablations=(NO_PAIR, NO_KD, ZERO, CONTRASTIVE), lambdas=(), third=False, alike=1,
    ),
    "medium": Settings(
        model="distilbert/distilbert-base-uncased", pointwise="cross-encoder/ms-marco-MiniLM-L-6-v2",
        pairwise="castorini/duot5-base-msmarco", similarity="dot", pooling="cls", queries=20_000, steps=2_000,
        students=("dense", "late"), lambdas=(), third=False, alike=1,
    ),
    "paper": Settings(
        model="colbert-ir/colbertv2.0", first="student", similarity="dot", pooling="cls",
        other="google-bert/bert-base-uncased", pointwise="cross-encoder/ms-marco-MiniLM-L-6-v2",
        pairwise="castorini/duot5-3b-msmarco",
    ),
}  # fmt: skip
