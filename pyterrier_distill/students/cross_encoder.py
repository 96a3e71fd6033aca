"""The cross-encoder student."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engine import batching, checkpoints
from ..engine.tokens import read_pairs
from .joint import JointStudent, Pair

if TYPE_CHECKING:
    from torch import Tensor, nn


class CrossEncoder(JointStudent):
    """R → R: a sentence-transformers cross-encoder with one output; its raw logit is the score.

    Any encoder makes one, or any decoder LM, read at its last token. A decoder reads what its chat template makes of
    messages of the roles ``query`` and ``document``; if it knows none of these, ``query: … document: …``, which is
    saved with it. A head that the checkpoint lacks starts at random, always the same. There is no activation, in
    training as in ranking, and the saved checkpoint says so.

    Args:
        name_or_path: a directory or hub name of a transformers or sentence-transformers checkpoint.
        layers: keep these layers (from 0), or this many spread evenly; None = all.
        lora: train a low-rank adapter and the head instead of all weights: ``dict(r=16, alpha=32)``, its rank and its
            scale (alpha / r); also ``dropout`` (0), ``target_modules`` (None = peft's own for the architecture, or
            ``"all-linear"``), and what else ``peft.LoraConfig`` takes. None = no adapter.
        max_length: tokens of query and document together, the rest is cut; None = the checkpoint's own.
        precision: ``auto`` | ``fp32`` | ``bf16`` | ``fp16`` of ranking; ``auto`` = bf16 where the hardware multiplies
            it natively.
        batch_size: most pairs of one forward pass (a token budget usually cuts earlier).
        text_field: the column of document text.
        device: None = the GPU where there is one.
        verbose: whether ranking shows progress.
        trust_remote_code: whether a hub model may bring its own code.

    Raises:
        FileNotFoundError: if the path is no directory; on first use, if there is no such model.
        ValueError: for a key of ``lora`` that peft does not know, or ``lora`` with ``layers``; on first use, if the
            checkpoint has more than one output, or a layer does not exist.
        ModuleNotFoundError: for ``lora`` without peft.

    References:
        Nogueira & Cho 2019; Rank-DistiLLM (Schlatt et al. 2025); Distillation versus Contrastive Learning (Xu et al.
        2025) for decoder LMs; Hu et al. 2022 (LoRA), Eq. 3.

    Example::

        student = ptd.CrossEncoder("microsoft/MiniLM-L12-H384-uncased")
        ptd.Distiller(student, ptd.RankNet()).fit((candidates >> zephyr)(topics))
        pt.Experiment([bm25, candidates >> student], topics, qrels, ["nDCG@10"])
    """

    ARTIFACT_TYPE = "cross_encoder"
    DESCRIBED = "a cross-encoder: its score of a query and a document is a raw logit"
    ARTIFACT_FORMAT = "sentence_transformers"
    LOADED_BY = "sentence_transformers.CrossEncoder({name})"
    ADAPTER_LOADED_BY = "peft.AutoPeftModelForSequenceClassification.from_pretrained({name}, num_labels=1)"
    schematic = {"label": "CrossEncoder"}

    def __init__(
        self,
        name_or_path: str | os.PathLike,
        *,
        layers: int | Sequence[int] | None = None,
        lora: Mapping[str, Any] | None = None,
        max_length: int | None = None,
        precision: str = "auto",
        batch_size: int | None = None,
        text_field: str = "text",
        device: str | None = None,
        verbose: bool = False,
        trust_remote_code: bool = False,
    ):
        if layers is not None and lora is not None:
            raise ValueError(
                "layers= with lora= would be an adapter of a base that nobody has: save the cut student, and put the"
                " adapter on that."
            )
        self.layers = list(layers) if isinstance(layers, tuple) else layers
        super().__init__(
            name_or_path, max_length=max_length, precision=precision, batch_size=batch_size, text_field=text_field,
            device=device, verbose=verbose, trust_remote_code=trust_remote_code, lora=lora,
        )  # fmt: skip
        checkpoints.check_layers(self.name_or_path, layers)

    def _build(self) -> nn.Module:
        import torch
        from sentence_transformers import CrossEncoder as Model

        from ..engine import pretrained

        hub = {"trust_remote_code": self.trust_remote_code}
        if self.layers is not None and self._adapted is not None:
            raise ValueError(f"layers={self.layers} is impossible: {self.name_or_path!r} is an adapter of all layers.")
        outputs = pretrained.num_labels(self.base, hub)
        if outputs != 1:
            raise ValueError(f"{self.base!r} has {outputs} outputs: a cross-encoder student has one.")
        decoder = pretrained.as_classifier(self.base, hub)
        reading = {}
        if decoder:
            told = self.name_or_path if checkpoints.told(self.name_or_path, "tokenizer_config.json") else self.base
            reading = {"chat_template": pretrained.pair_template(pretrained.load_tokenizer(told, hub))}
        model = checkpoints.load_sentence_transformer(
            self.base,
            Model,
            what="cross-encoder",
            max_length=self._reading_length(),
            num_labels=1,
            device=str(batching.infer_device(self.device)),
            activation_fn=torch.nn.Identity(),
            trust_remote_code=self.trust_remote_code,
            config_kwargs=decoder,
            processor_kwargs=reading,
        )
        if self.layers is not None:
            checkpoints.cut_layers(model[0].auto_model, self.layers)
        return model

    def _inner(self, model: nn.Module) -> nn.Module:
        return model[0].auto_model

    @property
    def tokenizer(self) -> Any:
        """The checkpoint's."""
        return self.model.tokenizer

    def features(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        """As sentence-transformers reads pairs."""
        return read_pairs(self.model, pairs)

    def logits(self, features: dict[str, Any]) -> Tensor:
        """Raw logits ``[n, 1]``."""
        return self.model(dict(features))["scores"].reshape(-1, 1)

    def _write(self, draft: Path) -> None:
        self.model.save_pretrained(str(draft), create_model_card=False)
