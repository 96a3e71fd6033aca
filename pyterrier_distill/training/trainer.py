"""A thin subclass of transformers.Trainer: one forward pass, one loss, our evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from ..engine import locks, processes, training_kernels
from ..engine.state import keep_what_trains
from ..losses import Loss
from . import alarms, intact, sampled
from .shown import Progress


class TrainingModule(nn.Module):
    """What the Trainer sees: only the modules that move are parameters, so only they are saved in checkpoints."""

    accepts_loss_kwargs = False  # losses are means over the batch; the Trainer averages accumulated ones

    def __init__(self, student: Any, loss: Loss):
        super().__init__()
        self.trained = student.trainable(loss.needs)
        keep_what_trains(self)
        self.student = student
        self.loss = loss
        self.counting = [column for column, kind in loss.reads().items() if kind.counts_lists]
        self.checkpointed: list[Any] = []
        self.last: tuple[dict[str, Any], Tensor] | None = None

    def gradient_checkpointing_enable(self, **kwargs: Any) -> None:
        """Recompute activations in the backward pass; the Trainer calls it where its arguments ask for it."""
        for module in self.trained.modules():
            if isinstance(module, transformers.PreTrainedModel) and not any(
                getattr(part, "gradient_checkpointing", False) for part in module.modules()
            ):
                module.gradient_checkpointing_enable(**kwargs)
                self.checkpointed.append(module)

    def gradient_checkpointing_disable(self) -> None:
        """Leave the model as it was."""
        for module in self.checkpointed:
            module.gradient_checkpointing_disable()
        self.checkpointed = []

    def forward(
        self, batch: dict[str, Any], mask: Tensor, labels: Mapping[str, Tensor], guest: bool = False
    ) -> dict[str, Tensor]:
        """The loss of one batch; of the batch that all processes hold together, where there are several."""
        self.last = (batch, mask)
        with processes.guest(guest):
            outputs = self.student.forward(batch, mask, self.loss.needs)
            if processes.sharing():
                outputs, labels = processes.gather_batch(outputs, labels, self.counting)
        return {"loss": self.loss.total(outputs, labels)}

    def spread(self) -> float | None:
        """How far apart the student's scores of a query's documents are in the last batch; see ``alarms.spread``."""
        if self.last is None:
            return None
        batch, mask = self.last
        training = self.training
        self.eval()  # dropout alone would tell any two documents apart
        device = next(self.parameters()).device.type
        with torch.no_grad(), processes.alone(), torch.autocast(device, enabled=False):
            found = alarms.spread(self.student.forward(batch, mask, self.loss.needs))
        self.train(training)
        return found


class Epochs(transformers.TrainerCallback):
    """Tells an order which epoch begins: accelerate does not reach one inside the batches of several processes."""

    def __init__(self, order: Any):
        self.order = order

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.order.set_epoch(int((state.epoch or 0) + 1e-9))


class Trainer(transformers.Trainer):
    """Evaluates by calling ``evaluation`` instead of by running batches.

    Args:
        evaluation: gives the metrics of the student as it stands, or None.
        show: whether to show a progress bar.
        compiles: whether the model is compiled, see :func:`compiled`.
        **kwargs: as for transformers.Trainer.
    """

    def __init__(
        self, *, evaluation: Callable[[], dict[str, float]] | None, show: bool, compiles: bool = False, **kwargs: Any
    ):
        # The Trainer asks for an evaluation set before it evaluates; ours is inside `evaluation`.
        super().__init__(eval_dataset=None if evaluation is None else [], **kwargs)
        self.evaluation = evaluation
        self.compiles = compiles
        self.remove_callback(transformers.trainer.DEFAULT_PROGRESS_CALLBACK)  # another one in Jupyter
        for callback in (transformers.ProgressCallback, transformers.PrinterCallback):
            self.remove_callback(callback)
        self.progress = Progress(show)
        self.add_callback(self.progress)
        self.add_callback(alarms.Watcher(self.model, self.args.metric_for_best_model))

    def _get_train_sampler(self, train_dataset=None):
        """A dataset's own order, where it has one."""
        dataset = self.train_dataset if train_dataset is None else train_dataset
        own = getattr(dataset, "sampler", None)
        if own is None:
            return super()._get_train_sampler(train_dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        order = own(seed)
        self.add_callback(Epochs(order))
        return order

    def get_train_dataloader(self) -> Any:
        """This process's part of each batch: the same batches that one process would have."""
        if processes.world() == 1:
            return super().get_train_dataloader()
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        order = sampled.order_of(self.train_dataset, seed)
        batches = sampled.SharedBatches(order, self._train_batch_size, processes.rank(), processes.world())
        self.add_callback(Epochs(batches))
        return torch.utils.data.DataLoader(
            sampled.SharedLists(self.train_dataset),
            batch_sampler=batches,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def _save_checkpoint(self, model, trial):
        """A checkpoint, its digests last; older ones go when it is known to be whole."""
        checkpoint = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save:
            intact.unseal(checkpoint)
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        processes.wait()
        if self.args.should_save:
            intact.seal(checkpoint)
            rotate_checkpoints(str(checkpoint.parent), limit, self.state.best_model_checkpoint)

    def _load_best_model(self):
        """The best checkpoint of this directory, wherever the directory was when it was written.

        Raises:
            ValueError: if it is not there any more, or not what was written.
        """
        best = Path(self._get_output_dir(trial=None)) / Path(self.state.best_model_checkpoint).name
        if wrong := intact.damage(best) if best.is_dir() else "it is not there":
            raise ValueError(
                f"the best checkpoint of this training, {best}, is damaged ({wrong}): run the training again, which"
                " goes on from what is whole."
            )
        self.state.best_model_checkpoint = str(best)
        super()._load_best_model()

    def _save(self, output_dir=None, state_dict=None):
        """The weights, and the arguments beside them without what lets somebody in."""
        token, self.args.hub_token = self.args.hub_token, None
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.args.hub_token = token

    def training_step(self, *args, **kwargs):
        """One step; models that other threads want to load are loaded before it."""
        locks.make_way()
        with self.kernels():
            return super().training_step(*args, **kwargs)

    def kernels(self) -> AbstractContextManager[Any]:
        """How a step computes: attention and dropout of our own where a CPU trains in bf16."""
        again = any(getattr(module, "gradient_checkpointing", False) for module in self.model.modules())
        own = self.args.device.type == "cpu" and self.args.bf16 and not self.compiles and not again
        return training_kernels.Kernels() if own else nullcontext()

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Evaluate, log, and tell the callbacks."""
        training = self.model.training
        self.model.eval()
        found = processes.from_main(self.evaluation or dict)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.model.train(training)
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


@contextmanager
def compiled(module: nn.Module, args: Mapping[str, Any]) -> Iterator[bool]:
    """Within, the transformers in ``module`` run compiled, if ``args`` ask for it as TrainingArguments would.

    Yields whether they do.

    Compiling them and not the whole forward pass leaves the cutting into micro-batches to Python, where it belongs.
    """
    names = ("torch_compile_backend", "torch_compile_mode")
    wanted = args.get("torch_compile", any(args.get(name) for name in names))
    found = [m for m in module.modules() if isinstance(m, transformers.PreTrainedModel)] if wanted else []
    inner = {part for one in found for part in one.modules() if part is not one}
    outermost = [one for one in found if one not in inner]
    options = {name.removeprefix("torch_compile_"): args[name] for name in names if args.get(name)}
    for one in outermost:
        one.forward = torch.compile(one.forward, dynamic=True, **options)  # sentence-transformers calls it by name
    try:
        yield bool(outermost)
    finally:
        for one in outermost:
            del one.forward


class dropout:
    """Sets every dropout probability of ``module`` for a while; None leaves them alone.

    Layers hold one as ``p``; attention that calls a function holds one as a number (T5, ModernBERT, Llama).
    """

    def __init__(self, module: Any, probability: float | None):
        self.probability = probability
        self.before: list[tuple[Any, str, float]] = []
        if probability is None:
            return
        for part in module.modules():
            names = ["p"] if isinstance(part, nn.Dropout) else [n for n in vars(part) if n.endswith("dropout")]
            self.before += [(part, name, vars(part)[name]) for name in names if isinstance(vars(part)[name], float)]

    def __enter__(self) -> None:
        for part, name, _ in self.before:
            setattr(part, name, self.probability)

    def __exit__(self, *_: object) -> None:
        for part, name, value in self.before:
            setattr(part, name, value)
