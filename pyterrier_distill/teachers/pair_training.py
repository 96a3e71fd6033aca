"""How a pair classifier is trained: binary cross-entropy on (query, document i, document j, is i more relevant?)."""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from .. import frames
from ..engine import batching
from ..frames import arguments
from ..frames.copies import labelled_alike, same_text
from ..training import process
from ..training.settings import Settings

if TYPE_CHECKING:
    from .pair_classifier import PairClassifier
    from .pairwise import PairwiseTeacher


@dataclass(frozen=True)
class PairTraining:
    """Settings of :meth:`~pyterrier_distill.PairwiseTeacher.fit`.

    The optimiser is AdamW (betas 0.9 and 0.999), as of :class:`~pyterrier_distill.Distiller`: customary values, no
    paper's.

    Attributes:
        learning_rate: peak, reached after ``warmup``, then falling linearly to 0.
        epochs: passes over the pairs.
        batch_size: pairs of a step.
        pairs_per_query: pairs drawn from a query's list, half of them with the more relevant document first.
        warmup: share of all steps.
        dropout: probability while training; None = the checkpoint's own.
        weight_decay: AdamW's, on all weights but biases and norms.
        max_grad_norm: gradients are clipped to this norm; 0 = never.

    Example::

        teacher = ptd.PairwiseTeacher(encoder, kind="classifier", training=ptd.PairTraining(epochs=2))
        teacher.fit(candidates, qrels)
    """

    learning_rate: float = 5e-5
    epochs: float = 1
    batch_size: int = 32
    pairs_per_query: int = 8
    warmup: float = 0.1
    dropout: float | None = None
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        for name in ("batch_size", "pairs_per_query"):
            value = getattr(self, name)
            arguments.whole(value, name)
        for name in ("learning_rate", "epochs"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)!r}.")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be None or a probability below 1, not {self.dropout!r}.")
        for name in ("weight_decay", "max_grad_norm"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)!r}.")
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"warmup is a share of all steps, between 0 and 1, not {self.warmup!r}.")

    def settings(self, precision: str, seed: int, verbose: bool) -> Settings:
        """As the settings of a training; nothing is kept on disk, and the last weights are those that count."""
        return Settings(
            learning_rate=self.learning_rate, warmup=self.warmup, weight_decay=self.weight_decay,
            max_grad_norm=self.max_grad_norm, epochs=self.epochs, queries_per_batch=self.batch_size,
            precision=precision, dropout=self.dropout, seed=seed, verbose=verbose,
            args={"save_strategy": "no", "load_best_model_at_end": False},
        )  # fmt: skip


#: Query, document i, document j, and 1 if i is the more relevant.
Example = tuple[str, str, str, float]


def read_pairs(
    res: pd.DataFrame, qrels: pd.DataFrame, teacher: PairwiseTeacher, training: PairTraining
) -> list[Example]:
    """Pairs of documents of different relevance and text, drawn by seed and query id.

    Raises:
        ValueError: if there is none.
    """
    needed = ("qid", teacher.query_field, "docno", teacher.text_field)
    frames.require_columns(res, needed, reader=repr(teacher), context=teacher)
    frames.check_results(res)
    frames.check_text(res, [teacher.query_field, teacher.text_field])
    res = frames.join_qrels(res, qrels).reset_index(drop=True).sort_values(["qid", "docno"], kind="stable")
    res = labelled_alike(res, teacher.text_field)
    examples: list[Example] = []
    for qid, rows in res.groupby(res["qid"].to_numpy(), sort=False):
        rng = random.Random(hashlib.sha256(f"{teacher.seed}\0{qid}".encode()).digest())
        query = rows[teacher.query_field].iloc[0]
        texts, labels = rows[teacher.text_field].tolist(), rows["label"].tolist()
        said = [same_text(text) for text in texts]
        better = [(i, j) for i, a in enumerate(labels) for j, b in enumerate(labels) if a > b and said[i] != said[j]]
        turn = rng.randrange(2)
        for n, (i, j) in enumerate(rng.sample(better, min(len(better), training.pairs_per_query)), turn):
            examples.append((query, texts[i], texts[j], 1.0) if n % 2 else (query, texts[j], texts[i], 0.0))
    if not examples:
        raise ValueError(
            "no query of the training frame has two documents of different relevance: pass qrels that judge them, and"
            " candidates with other documents besides the relevant ones."
        )
    return examples


@process.training()
def train(
    classifier: PairClassifier,
    examples: list[Example],
    validation: list[Example] | None,
    training: PairTraining,
    seed: int,
    verbose: bool,
) -> list[dict[str, Any]]:
    """Train in place; after an error the weights are what they were, and the rest of the process always is.

    Returns:
        The log: a dict an entry.
    """
    import torch
    import torch.nn.functional as F

    from ..training.arguments import training_arguments
    from ..training.resuming import open_directory
    from ..training.run import run
    from ..training.shown import history

    device = classifier.model.device
    precision = batching.resolve_precision(classifier.precision, device)
    budget = 4 * batching.TRAINING_BUDGET.get(device.type, batching.TRAINING_BUDGET["cpu"])  # pairs are long
    settings = training.settings(classifier.precision, seed, verbose)
    metric = None if validation is None else "eval_loss"

    class Module(torch.nn.Module):
        """What the Trainer sees."""

        accepts_loss_kwargs = False

        def __init__(self) -> None:
            super().__init__()
            self.trained = classifier.model

        def forward(self, features: dict[str, Any], labels: torch.Tensor) -> dict[str, torch.Tensor]:
            """The loss of one batch; short pairs are not padded to long ones."""
            losses = []
            for positions, part in batching.pack(features, budget):
                target = labels[positions.to(labels.device)]
                logits = classifier.logits(part).float()
                losses.append(F.binary_cross_entropy_with_logits(logits, target, reduction="sum"))
            return {"loss": torch.stack(losses).sum() / len(labels)}

    def collate(batch: list[Example]) -> dict[str, Any]:
        features = classifier.features([example[:3] for example in batch])
        return {"features": features, "labels": torch.tensor([example[3] for example in batch])}

    def evaluate() -> dict[str, float]:
        with torch.inference_mode(), batching.autocast(precision, device):
            held = validation or []
            parts = [held[n : n + 64] for n in range(0, len(held), 64)]
            sums = [float(module(**collate(part))["loss"]) * len(part) for part in parts]
        return {"loss": sum(sums) / len(held)}

    torch.manual_seed(seed)
    module = Module()
    before = {name: tensor.detach().cpu().clone() for name, tensor in module.trained.state_dict().items()}
    try:
        state = run(
            module,
            examples,
            collate,
            settings=settings,
            arguments=training_arguments(settings, len(examples), precision, device, metric),
            device=device,
            directory=open_directory(None, {}),
            evaluate=None if validation is None else evaluate,
        )
    except BaseException:
        module.trained.load_state_dict(before)
        raise
    finally:
        module.trained.eval()
    classifier.mark_trained()
    return history(state.log_history)
