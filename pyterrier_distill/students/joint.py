"""Students that read a query and a document together."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyterrier as pt

from .. import frames
from ..engine import batching, checkpoints, randomness
from ..engine.adapters import check_base_dtype, model_settings
from ..engine.locks import loading
from ..frames import validate
from ..frames.ranking import rerank
from ..losses import base as losses
from ..teachers.base import check_length
from . import lora as adapters
from .artifact import Weights
from .base import Student

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..training.lists import QueryList

Pair = tuple[str, str]


class JointStudent(Student, pt.Transformer, pt.Artifact):
    """R → R: re-ranks by a model's score of each (query, document) pair.

    Subclasses build the model (:meth:`_build`), say how pairs are read (:meth:`features`), run it (:meth:`logits`), and
    turn logits into scores (:meth:`score`). With ``lora``, or loaded from an adapter, only adapter and head train.

    Attributes:
        ADAPTER_TASK: peft's name of what an adapter's base does.
    """

    ADAPTER_TASK = "SEQ_CLS"

    def __init__(
        self,
        name_or_path: str | os.PathLike,
        *,
        max_length: int | None,
        precision: str,
        batch_size: int | None,
        text_field: str,
        device: str | None,
        verbose: bool | None,
        trust_remote_code: bool,
        lora: Mapping[str, Any] | None = None,
        base_dtype: str | None = None,
        attn_implementation: str | None = None,
    ):
        self.name_or_path = checkpoints.check_name(os.fspath(name_or_path))
        self.max_length = check_length(max_length)
        self.precision = batching.check_precision(precision)
        self.batch_size = batch_size
        self.text_field = text_field
        self.device = device
        self.verbose = verbose
        self.trust_remote_code = trust_remote_code
        self.lora = adapters.checked(lora)
        if self.lora is not None and self._is_directory() and checkpoints.told(self.name_or_path, adapters.CONFIG):
            raise ValueError(adapters.TWO_ADAPTERS.format(self.name_or_path))
        self.base_dtype = check_base_dtype(base_dtype)
        if base_dtype is not None and lora is None and self._is_directory() and self._adapted is None:
            raise ValueError(adapters.NO_ADAPTER.format(base_dtype))
        self.attn_implementation = attn_implementation
        pt.Artifact.__init__(self, self.name_or_path if self._is_directory() else pt.Artifact.NO_PATH)
        self._weights = Weights()

    # -- the model ----------------------------------------------------------------------------------------------------

    @property
    def model(self) -> nn.Module:
        """What is trained; loaded when first needed."""
        if self._weights.model is None:
            self._load()
        return self._weights.model

    def _load(self) -> None:
        import torch

        # These weights shall be trainable; a head that the checkpoint lacks is drawn, always the same.
        with loading(), torch.inference_mode(False), randomness.seeded(0):
            if self._weights.model is None:  # another thread may have been first
                if self.lora is not None and self._adapted is not None:  # on the hub
                    raise ValueError(adapters.TWO_ADAPTERS.format(self.name_or_path))
                if self.base_dtype is not None and self.lora is None and self._adapted is None:
                    raise ValueError(adapters.NO_ADAPTER.format(self.base_dtype))
                model = self._build()
                if self.lora is not None:
                    self._weights.adapter = adapters.attach(self._inner(model), self.lora, self._adapter_task(model))
                elif self._adapted is not None:
                    self._weights.adapter = adapters.load(self._inner(model), self.name_or_path)
                self._weights.hold(model.eval(), self._state_reader(), self._files())

    @cached_property
    def _adapted(self) -> str | None:
        """The base of the adapter that ``name_or_path`` is, if it is one."""
        return adapters.base_of(self.name_or_path)

    @property
    def base(self) -> str:
        """The checkpoint that is loaded: ``name_or_path``, or what that is an adapter of."""
        return self._adapted or self.name_or_path

    def _reading_length(self) -> int | None:
        """``max_length``, or that of the student whose adapter this is: an adapter's base knows nothing of it."""
        return self._metadata().get("max_length") if self.max_length is None else self.max_length

    def _adapter_task(self, model: nn.Module) -> str:
        """peft's name of what the base of an adapter does."""
        return self.ADAPTER_TASK

    def _base_kept(self) -> str | None:
        """``base_dtype``, or that of the student whose adapter this is; None = float32."""
        saved = self._metadata() if self.lora is None and self._adapted is not None else {}
        kept = self.base_dtype or saved.get("base_dtype")
        return None if kept == "fp32" else kept

    def _model_settings(self) -> dict[str, Any]:
        """What transformers takes for the weights besides."""
        return model_settings(self._base_kept(), self.attn_implementation)

    def _files(self) -> list[Any]:
        return [self.name_or_path, self.base]

    def _state_reader(self) -> Any:
        """The tokenizer, where it is loaded with the model and is no part of it."""
        return None

    def _inner(self, model: nn.Module) -> nn.Module:
        """The transformers model inside."""
        return model

    @property
    def tokenizer(self) -> Any:
        """What cuts texts into tokens."""
        raise TypeError(f"{type(self).__name__} does not say its tokenizer.")

    def _build(self) -> nn.Module:
        """The model with float32 weights, on its device."""
        raise TypeError(f"{type(self).__name__} does not say how it is built.")

    def features(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        """Token ids ``[n, L]`` and what else the model reads."""
        raise TypeError(f"{type(self).__name__} does not say how it reads.")

    def logits(self, features: dict[str, Any]) -> Tensor:
        """Logits ``[n, K]``, with gradients."""
        raise TypeError(f"{type(self).__name__} does not say how it is run.")

    def score(self, logits: Tensor) -> Tensor:
        """Scores ``[n]`` of logits ``[n, K]``."""
        return logits[:, 0]

    def num_trainable_parameters(self) -> int:
        """Number of weights that training changes: all, or those of the adapter and the head."""
        return sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)

    # -- ranking ------------------------------------------------------------------------------------------------------

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Re-rank; every other column, the rows' order and the index stay."""
        validate.result_frame(inp, ["query", self.text_field], context=self)
        frames.check_text(inp, ["query", self.text_field])
        pairs = list(zip(inp["query"], inp[self.text_field], strict=True))
        return rerank(inp, self.scores(pairs))

    def scores(self, pairs: Iterable[Pair]) -> np.ndarray:
        """Scores ``[n]`` of (query, document) pairs; equal pairs are scored once.

        Raises:
            TypeError: for anything else than pairs of texts.
        """
        if not (pairs := checked_pairs(pairs)):
            return np.empty(0, dtype=np.float32)
        return batching.run(
            pairs,
            prepare=self.features,
            forward=lambda features: self.score(self.logits(dict(features))),
            device=batching.infer_device(self.device),
            precision=self.precision,
            batch_size=self.batch_size,
            verbose=self.verbose,
            desc="Scoring",
            unit="d",
            model=self.model,
        )

    # -- what a Distiller calls ---------------------------------------------------------------------------------------

    def trainable(self, needs: frozenset[str]) -> nn.Module:
        """What training shall change: all of it, or the adapter and the head."""
        model = self.model
        if self._weights.adapter is None:
            return model.requires_grad_(True)
        # Reentrant gradient checkpointing trains nothing behind inputs that want no gradient, as a frozen base's.
        self._inner(model).disable_input_require_grads()
        self._inner(model).enable_input_require_grads()
        return adapters.only_trained(model)

    def writes_over_base(self, path: str | os.PathLike) -> bool:
        """Whether ``path`` is the base of this student's adapter."""
        self.model  # noqa: B018 - loaded, it is known whether there is an adapter
        adapted = self._weights.adapter is not None and os.path.isdir(self.base)
        return adapted and os.path.exists(path) and os.path.samefile(path, self.base)

    def settle(self) -> None:
        """Rank again; what is frozen stays frozen."""
        if self._weights.adapter is None:
            return super().settle()
        self.model.eval()
        self._inner(self.model).disable_input_require_grads()

    def _write_adapter(self, draft: Path) -> None:
        """Write the adapter and the tokenizer into an empty directory."""
        # peft would ask the hub whether the base's vocabulary has grown; ours never does.
        self._weights.adapter.save_pretrained(str(draft), save_embedding_layers=False)
        self.tokenizer.save_pretrained(str(draft))

    def _told(self) -> dict[str, Any]:
        kept = self._base_kept() if self._weights.adapter is not None else None
        return {"max_length": self._reading_length(), **({} if kept is None else {"base_dtype": kept})}

    def collate(self, lists: list[QueryList], needs: frozenset[str]) -> dict[str, Any]:
        """A batch: all pairs of all lists, one behind the other."""
        return {"features": self.features([(one.query, text) for one in lists for text in one.texts or ()])}

    def forward(self, batch: dict[str, Any], mask: Tensor, needs: frozenset[str]) -> losses.Outputs:
        """One forward pass over a collated batch; short pairs are not padded to long ones."""
        from ..engine import micro_batches

        device = next(self.model.parameters()).device
        logits = micro_batches.run(batch["features"], self.logits, device, model=self.model)
        mask = mask.to(device)
        outputs = losses.Outputs(mask=mask)
        if losses.SCORES in needs:
            outputs.scores = spread(self.score(logits), mask)
        if losses.LOGITS in needs:
            outputs.logits = spread(logits, mask)
        return outputs


def checked_pairs(pairs: Iterable[Pair]) -> list[Pair]:
    """Pairs as a list, if each is the text of a query and of a document.

    Raises:
        TypeError: naming the first that is none.
    """
    if isinstance(pairs, (pd.DataFrame, str)) or not isinstance(pairs, Iterable):
        raise TypeError(
            f"pairs must be (query, document) pairs, such as zip(frame['query'], frame['text']), not {type(pairs)}."
        )
    found = list(pairs)
    for pair in found:
        two = isinstance(pair, (tuple, list)) and len(pair) == 2
        if not two or not all(isinstance(text, str) for text in pair):
            raise TypeError(f"pairs must be (query, document) pairs of texts, but one is {str(pair)[:80]!r}.")
    return found


def spread(values: Tensor, mask: Tensor) -> Tensor:
    """Values ``[n, ...]`` of the real documents, list by list, as ``[B, N, ...]``; 0 in the padding."""
    spread = values.new_zeros(*mask.shape, *values.shape[1:])
    spread[mask] = values
    return spread
