"""A thin subclass of transformers.Trainer: one forward pass, one loss, our evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyterrier as pt
import transformers
from torch import Tensor, nn

from ..losses import Loss
from .state import keep_what_trains


class TrainingModule(nn.Module):
    """What the Trainer sees: only the modules that move are parameters, so only they are saved in checkpoints."""

    accepts_loss_kwargs = False  # losses are means over the batch; the Trainer averages accumulated ones

    def __init__(self, student: Any, loss: Loss):
        super().__init__()
        self.trained = student.trainable(loss.needs)
        keep_what_trains(self)
        self.student = student
        self.loss = loss

    def gradient_checkpointing_enable(self, **kwargs: Any) -> None:
        """Recompute activations in the backward pass; the Trainer calls it where its arguments ask for it."""
        for module in self.trained.modules():
            if isinstance(module, transformers.PreTrainedModel):
                module.gradient_checkpointing_enable(**kwargs)

    def forward(self, batch: dict[str, Any], mask: Tensor, labels: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The loss of one batch."""
        return {"loss": self.loss(self.student.forward(batch, mask, self.loss.needs), labels)}


class Progress(transformers.TrainerCallback):
    """PyTerrier's progress bar, with the last loss and the last evaluation."""

    def __init__(self, show: bool):
        self.show = show
        self.bar: Any = None
        self.shown: dict[str, str] = {}

    def on_train_begin(self, args, state, control, **kwargs):
        self.bar = pt.tqdm(
            total=state.max_steps, initial=state.global_step, desc="Distilling", unit="step", disable=not self.show
        )

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update(1)

    def on_log(self, args, state, control, logs=None, **kwargs):
        for name, value in (logs or {}).items():
            if name == "loss" or (name.startswith("eval_") and name != "eval_seconds"):
                self.shown[name.removeprefix("eval_")] = f"{float(value):.4f}"
        if self.bar is not None:
            self.bar.set_postfix(self.shown)

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()


class NonFinite(transformers.TrainerCallback):
    """Stops a training whose loss is no number any more, and says what to try."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        loss = float((logs or {}).get("loss", 0.0))
        if loss != loss or loss in (float("inf"), float("-inf")):
            raise FloatingPointError(
                f"the loss became {loss} at step {state.global_step}: lower the learning rate, lengthen the warm-up, or"
                " train with precision='fp32'."
            )


class Trainer(transformers.Trainer):
    """Evaluates by calling ``evaluation`` instead of by running batches.

    Args:
        evaluation: gives the metrics of the student as it stands, or None.
        show: whether to show a progress bar.
        **kwargs: as for transformers.Trainer.
    """

    def __init__(self, *, evaluation: Callable[[], dict[str, float]] | None, show: bool, **kwargs: Any):
        # The Trainer asks for an evaluation set before it evaluates; ours is inside `evaluation`.
        super().__init__(eval_dataset=None if evaluation is None else [], **kwargs)
        self.evaluation = evaluation
        for callback in (transformers.ProgressCallback, transformers.PrinterCallback):
            self.remove_callback(callback)
        self.add_callback(Progress(show))
        self.add_callback(NonFinite())

    def _get_train_sampler(self, train_dataset=None):
        """A dataset's own order, where it has one."""
        dataset = self.train_dataset if train_dataset is None else train_dataset
        own = getattr(dataset, "sampler", None)
        if own is None:
            return super()._get_train_sampler(train_dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return own(seed, self.args.world_size)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Evaluate, log, and tell the callbacks."""
        training = self.model.training
        self.model.eval()
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in self.evaluation().items()}
        self.model.train(training)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class dropout:
    """Sets the probability of every dropout layer of ``module`` for a while; None leaves them alone."""

    def __init__(self, module: Any, probability: float | None):
        from torch import nn

        self.layers = [] if probability is None else [m for m in module.modules() if isinstance(m, nn.Dropout)]
        self.before = [layer.p for layer in self.layers]
        self.probability = probability

    def __enter__(self) -> None:
        for layer in self.layers:
            layer.p = self.probability

    def __exit__(self, *_: object) -> None:
        for layer, p in zip(self.layers, self.before, strict=True):
            layer.p = p
