"""The scale ``paper`` of each recipe has the values that its paper prints, each with the section that prints it."""

from dataclasses import asdict

import pytest

from pyterrier_distill import recipes
from pyterrier_distill.recipes.scales import (
    beyond,
    distill_vs_contrastive,
    inranker,
    pairdistill,
    rank_distillm,
    ustad,
)

#: Recipe → setting → (value, where the paper says it).
PRINTED = {
    pairdistill: {
        "model": ("colbert-ir/colbertv2.0", "§5.2"),
        "other": ("google-bert/bert-base-uncased", "Table 3"),
        "pointwise": ("cross-encoder/ms-marco-MiniLM-L-6-v2", "§5.2, footnote 3"),
        "pairwise": ("castorini/duot5-3b-msmarco", "§5.2, footnote 5"),
        "depth": (100, "§5.2: top-100 passages"),
        "pairs": (50, "§5.2: 50 pairs of passages"),
        "delta": (10, "§5.2"),
        "batch": (32, "C.2, Table 7"),
        "size": (64, "C.2, Table 7: passages per question"),
        "lengths": ((32, 180), "C.2, Table 7"),
        "steps": (100_000, "C.2, Table 7"),
        "rate": (1e-5, "C.2, Table 7"),
        "tau": (1.0, "C.2, Table 7"),
        "weights": ((1.0, 3.0), "C.2, Table 7: λ_KD and λ_pair"),
        "lambdas": ((1.0,), "Table 6"),
        "first": ("student", "§5.2: ColBERTv2 is the initial retriever"),
        "judged": (False, "§5.2: all 800K queries"),
        "rounds": (2, "Table 3: the second iteration is the last that helps"),
    },
    rank_distillm: {
        "model": ("google/electra-base-discriminator", "App. C"),
        "retriever": ("colbert-ir/colbertv2.0", "§3.2"),
        "negatives": (7, "App. C"),
        "depth": (200, "App. C"),
        "batch": ((32, 32), "App. C"),
        "rate": ((1e-5, 1e-5), "App. C"),
        "lengths": ((32, 256), "App. C"),
        "llm": ("castorini/rank_zephyr_7b_v1_full", "§3.2"),
        "ordered": (10_000, "§3.2"),
        "size": (100, "§3.2: the top 100 passages"),
        "measured": (100, "Table 1"),
    },
    ustad: {
        "model": ("google-bert/bert-base-uncased", "§6.1"),
        "dual": ("sentence-transformers/msmarco-bert-base-dot-v5", "§6.3, footnote 5"),
        "students": (("distilbert/distilbert-base-uncased", "google/bert_uncased_L-4_H-256_A-4"), "§6.1"),
        "negatives": (19, "§6.2: one positive and 19 negatives"),
        "depth": (100, "§6.2: of 99 candidates"),
        "batch": ((128, 128, 128), "E.1"),
        "rate": ((2.8e-5, 2.8e-5, 2.8e-5, 1e-4, 1e-4), "E.1: teacher, DE to DE, from USTAD"),
        "warmup": (5_000, "E.1"),
        "weight": (0.02, "E.1: 0.02 and 0.005 were tried"),
        "generated": (2, "App. C: two new queries"),
        "writer": ("facebook/bart-base", "App. C"),
        "measured": (1000, "App. D: 1000 candidates of BM25"),
    },
    distill_vs_contrastive: {
        "retriever": ("Qwen/Qwen2.5-7B", "§4"),
        "trained": (True, "§4: RepQwen"),
        "teacher": ("Qwen/Qwen2.5-7B", "§4: RankQwen-7B-CL"),
        "sizes": (("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-1.5B", "Qwen/Qwen2.5-3B", "Qwen/Qwen2.5-7B"), "Table 1"),
        "lora": ((("r", 16), ("alpha", 32)), "App. B"),
        "batch": (128, "App. B"),
        "negatives": (15, "App. B"),
        "depth": (200, "§4"),
        "epochs": (1, "App. B"),
        "temperature": (1.0, "§3.3"),
        "measured": (200, "Table 1: top-k of the source"),
    },
    inranker: {
        "student": ("google-t5/t5-small", "§4.1: 60M"),
        "teacher": ("castorini/monot5-3b-msmarco-10k", "§4.1: monoT5-3B"),
        "synthetic": (100_000, "§4.3"),
        "negatives": (9, "App. A"),
        "depth": (1000, "§3"),
        "epochs": (10, "§4.3"),
        "batch": (32, "App. A"),
        "rate": (7e-5, "App. A"),
    },
}
FIRST_STEPS = {rank_distillm: (20_000, "App. C: LCE"), ustad: (20_000, "§6.1: the USTAD")}


@pytest.mark.parametrize("module", list(PRINTED), ids=lambda module: module.__name__.rpartition(".")[2])
def test_the_scale_of_the_paper_has_its_values(module):
    settings = module.SCALES["paper"]
    different = {
        name: (getattr(settings, name), value, where)
        for name, (value, where) in PRINTED[module].items()
        if getattr(settings, name) != value
    }
    assert not different
    if module in FIRST_STEPS:
        assert settings.steps[0] == FIRST_STEPS[module][0]


def test_a_learning_rate_of_which_a_range_is_printed_lies_in_it():
    assert 3e-5 <= distill_vs_contrastive.SCALES["paper"].rate <= 1e-4  # App. B


def test_every_recipe_has_three_scales_of_one_kind():
    for name in recipes.NAMES:
        module = {m.__name__.rpartition(".")[2]: m for m in [*PRINTED, beyond]}[name]
        assert list(module.SCALES) == ["small", "medium", "paper"], name
        assert len({tuple(asdict(settings)) for settings in module.SCALES.values()}) == 1
