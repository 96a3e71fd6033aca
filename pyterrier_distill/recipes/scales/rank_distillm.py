"""The settings of Rank-DistiLLM."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """What a run is decided by.

    Attributes:
        model: what the cross-encoder starts from; None = the built-in encoder.
        retriever: the strong first stage, a bi-encoder; None = the built-in one.
        late: whether that is a ColBERT.
        lengths: tokens of a query and of a passage, the rest is cut.
        queries: of the first stage; None = all that are judged.
        negatives: of a list of the first stage, drawn from the strong retriever's first ``depth``.
        depth: of that.
        steps: of the first stage, and of the second at most.
        batch: lists of a step, of both stages.
        rate: learning rate, of both.
        llm: what orders passages; None = stored orders.
        prompt: that it is asked.
        strong: stored orders of strong first stages' lists.
        weak: of BM25's lists.
        ordered: queries that the LLM ranks the first hundred passages of.
        schedule: of the second stage's learning rate, and its warm-up; constant where it ends when nothing is gained.
        size: passages of a list that a step of the second stage reads.
        patience: steps without a better nDCG@10 after which the second stage ends, and between two looks.
        validated: queries of each collection on which it is measured, and the depth of their lists.
        measured: depth to which systems re-rank.
        grid: of Figure 1: depths by the first stage's rank, and shares of the queries; none = it is left out.
        seeds: of draws and training.
    """

    model: str | None = None
    retriever: str | None = None
    late: bool = False
    lengths: tuple[int, int] = (32, 256)
    queries: int | None = None
    negatives: int = 7
    depth: int = 200
    steps: tuple[int, int] = (20_000, 10_000)
    batch: tuple[int, int] = (32, 32)
    rate: tuple[float, float] = (1e-5, 1e-5)
    llm: str | None = None
    prompt: str = "rankzephyr"
    strong: tuple[str, ...] = ("rankvicuna.splade_pp_ed", "rankvicuna.tasb", "rankvicuna.ada2")
    weak: tuple[str, ...] = ("rankvicuna.bm25", "rankvicuna.bm25_rm3")
    ordered: int = 10_000
    schedule: tuple[str, float] = ("constant_with_warmup", 0.0)
    size: int = 100
    patience: tuple[int, int] = (100, 20)
    validated: tuple[int, int] = (1_000, 100)
    measured: int = 100
    grid: tuple[tuple[int, ...], tuple[float, ...]] = ((), ())
    seeds: tuple[int, ...] = (1,)


SCALES = {
    "small": Settings(
        lengths=(32, 128), queries=3_000, negatives=5, depth=30, steps=(190, 120), batch=(16, 8), rate=(1e-4, 5e-5),
        size=16, schedule=("linear", 0.1), patience=(60, 20), validated=(60, 20),
    ),
    "medium": Settings(
        model="google/electra-base-discriminator", retriever="sentence-transformers/msmarco-distilbert-base-tas-b",
        queries=60_000, steps=(2_000, 1_000), ordered=2_000, size=50, llm="castorini/rank_zephyr_7b_v1_full",
    ),
    "paper": Settings(
        model="google/electra-base-discriminator", retriever="colbert-ir/colbertv2.0", late=True,
        llm="castorini/rank_zephyr_7b_v1_full", grid=((10, 25, 50, 100), (0.01, 0.1, 0.25, 0.5, 1.0)), seeds=(1, 2, 3),
    ),
}  # fmt: skip
