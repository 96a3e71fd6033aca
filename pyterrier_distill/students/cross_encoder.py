"""The cross-encoder student."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import prompts
from ..engine import batching, checkpoints, cross_encoders
from ..engine.adapters import keep_in_float32
from ..engine.pairs import check_lengths, check_text_length, read_pairs
from ..frames import arguments
from ..prompts import library
from ..teachers.questions import checked_template
from . import lora as adapters
from .joint import JointStudent, Pair
from .serving import Servable

if TYPE_CHECKING:
    from torch import Tensor, nn


class CrossEncoder(Servable, JointStudent):
    """R → R: a sentence-transformers cross-encoder with one output; its raw logit is the score.

    Any encoder makes one, or any decoder LM, read at its last token. A decoder reads ``prompt``; without one, what its
    chat template makes of messages of the roles ``query`` and ``document``, or if it knows none of these, ``query: …
    document: …``. How it reads is saved with it, as a chat template. Where transformers has no sequence classifier of a
    decoder (RecurrentGemma, Mamba, Mamba-2), a linear head is put on the state of the last token. A head
    that the checkpoint lacks starts at random, always the same. There is no activation, in training as in ranking, and
    the saved checkpoint says so.

    Args:
        name_or_path: a directory or hub name of a transformers or sentence-transformers checkpoint.
        layers: keep these layers (from 0), or this many spread evenly; None = all.
        lora: train a low-rank adapter and the head instead of all weights: ``dict(r=16, alpha=32)``, its rank and its
            scale (alpha / r); also ``dropout`` (0), ``target_modules`` (None = peft's own for the architecture, or
            ``"all-linear"``), and what else ``peft.LoraConfig`` takes. None = no adapter.
        base_dtype: how the weights below an adapter are kept: ``"fp32"`` or ``"bf16"``; None = what an
            adapter was saved with, else float32. Adapter and head are float32.
        attn_implementation: of transformers, such as ``"flash_attention_2"``; None = its own choice.
        prompt: how a decoder reads a pair: a text with ``{query}`` and ``{document}``, which the model reads as it
            is, between the control tokens that its tokenizer puts round texts; the name of a teacher's prompt; or a
            ``Template``, in the model's chat template unless it is ``plain``.
        append_eos: whether what a decoder reads ends with the end-of-text token, also where its tokenizer puts none.
        query_length: tokens of a query, the rest is cut, before pairs are cut to ``max_length``; control tokens are
            not counted. None = what the checkpoint was saved with, else as many as fit.
        document_length: likewise of a document.
        max_length: tokens of query and document together, the rest is cut; None = the checkpoint's own.
        precision: ``auto`` | ``fp32`` | ``bf16`` | ``fp16`` of ranking; ``auto`` = bf16 where the hardware multiplies
            it natively.
        batch_size: most pairs of one forward pass (a token budget usually cuts earlier).
        text_field: the column of document text.
        device: None = the GPU where there is one.
        verbose: True = ranking shows progress, False = never; None = once it takes more than three seconds.
        trust_remote_code: whether a hub model may bring its own code.

    Raises:
        FileNotFoundError: if the path is no directory; on first use, if there is no such model.
        ValueError: for a key of ``lora`` that peft does not know, or ``lora`` with ``layers``; on first use, if the
            checkpoint has more than one output, or a layer does not exist.
        ValueError: for ``base_dtype`` without an adapter, or a prompt without a placeholder; on first use, for
            ``prompt`` or ``append_eos`` of an encoder, or lengths of query and document that do not fit together.
        ModuleNotFoundError: for ``lora`` without peft.

    References:
        Nogueira & Cho 2019; Rank-DistiLLM (Schlatt et al. 2025; App. C: queries of 32 tokens, passages of 256);
        Distillation versus Contrastive Learning (Xu et al. 2025) and RankLlama (Ma et al. 2023) for decoders; Hu et al.
        2022 (LoRA), Eq. 3.

    Example::

        student = ptd.CrossEncoder("microsoft/MiniLM-L12-H384-uncased")
        ptd.Distiller(student, ptd.RankNet()).fit((candidates >> zephyr)(topics))
        pt.Experiment([bm25, candidates >> student], topics, qrels, [nDCG @ 10])
    """

    ARTIFACT_TYPE = "cross_encoder"
    DESCRIBED = "a cross-encoder: its score of a query and a document is a raw logit"
    ARTIFACT_FORMAT = "sentence_transformers"
    LOADED_BY = "sentence_transformers.CrossEncoder({name})"
    ADAPTER_LOADED_BY = "peft.AutoPeftModelForSequenceClassification.from_pretrained({name}, num_labels=1)"
    schematic = {"label": "CrossEncoder"}
    added_later = {
        "base_dtype": None, "attn_implementation": None, "prompt": None, "append_eos": False, "query_length": None,
        "document_length": None,
    }  # fmt: skip

    def __init__(
        self,
        name_or_path: str | os.PathLike,
        *,
        layers: int | Sequence[int] | None = None,
        lora: Mapping[str, Any] | None = None,
        base_dtype: str | None = None,
        attn_implementation: str | None = None,
        prompt: str | prompts.Template | None = None,
        append_eos: bool = False,
        query_length: int | None = None,
        document_length: int | None = None,
        max_length: int | None = None,
        precision: str = "auto",
        batch_size: int | None = None,
        text_field: str = "text",
        device: str | None = None,
        verbose: bool | None = None,
        trust_remote_code: bool = False,
    ):
        self.prompt = prompt
        self._template()  # is one
        self.append_eos = arguments.choice(append_eos, "append_eos", (False, True))
        self.query_length = check_text_length(query_length, "query_length")
        self.document_length = check_text_length(document_length, "document_length")
        if layers is not None and lora is not None:
            raise ValueError(
                "layers= with lora= would be an adapter of a base that nobody has: save the cut student, and put the"
                " adapter on that."
            )
        self.layers = list(layers) if isinstance(layers, tuple) else layers
        super().__init__(
            name_or_path, max_length=max_length, precision=precision, batch_size=batch_size, text_field=text_field,
            device=device, verbose=verbose, trust_remote_code=trust_remote_code, lora=lora, base_dtype=base_dtype,
            attn_implementation=attn_implementation,
        )  # fmt: skip
        checkpoints.check_layers(self.name_or_path, layers)

    def _build(self) -> nn.Module:
        if self.layers is not None and self._adapted is not None:
            raise ValueError(f"layers={self.layers} is impossible: {self.name_or_path!r} is an adapter of all layers.")
        model = cross_encoders.load(
            self.name_or_path,
            {"trust_remote_code": self.trust_remote_code},
            batching.infer_device(self.device),
            max_length=self._reading_length(),
            prompt=self._template(),
            append_eos=self.append_eos,
            **self._model_settings(),
        )
        if cross_encoders.has_head_apart(model):  # peft alone would not find its head
            self.ADAPTER_LOADED_BY = self.LOADED_BY
        elif (pad := cross_encoders.pads_with(model)) is not None:  # peft alone would skip what pads its base
            self.ADAPTER_LOADED_BY = f"{type(self).ADAPTER_LOADED_BY[:-1]}, pad_token_id={pad})"
        check_lengths(self.name_or_path, model, *self._lengths())
        if self.layers is not None:
            checkpoints.cut_layers(model[0].auto_model, self.layers)
        if self._base_kept() is not None:
            inner = self._inner(model)
            apart = cross_encoders.has_head_apart(model)
            keep_in_float32([model[-1].linear] if apart else adapters.head_modules(inner))
        self._serve(model)
        return model

    def _reader(self, model: Any) -> Any:
        return None if cross_encoders.has_head_apart(model) else model[0]

    def _read(self, texts: Sequence[Any]) -> dict[str, Any]:
        return self.features([(query, text) for query, text in texts])

    def _examples(self) -> list[Any]:
        return [(text, text) for text in super()._examples()]

    def _adapter_task(self, model: nn.Module) -> str:
        return "FEATURE_EXTRACTION" if cross_encoders.has_head_apart(model) else self.ADAPTER_TASK

    def _template(self) -> prompts.Template | None:
        """How a decoder shall read a pair, if that was said."""
        if self.prompt is None:
            return None
        prompt = self.prompt
        if isinstance(prompt, str) and "{" in prompt:
            prompt = prompts.Template((("user", prompt),), plain=True)
        return checked_template(prompt, library.POINTWISE, ("document",))

    def _lengths(self) -> tuple[int | None, int | None]:
        """Tokens of a query and of a document: as asked for, else as the checkpoint was saved with."""
        told = self._metadata()
        query, document = self.query_length, self.document_length
        return query or told.get("query_length"), document or told.get("document_length")

    def _inner(self, model: nn.Module) -> nn.Module:
        return model[0].auto_model

    @property
    def tokenizer(self) -> Any:
        """The checkpoint's."""
        return self.model.tokenizer

    def features(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        """As sentence-transformers reads pairs."""
        return read_pairs(self.model, pairs, *self._lengths())

    def logits(self, features: dict[str, Any]) -> Tensor:
        """Raw logits ``[n, 1]``."""
        return self.model(dict(features))["scores"].reshape(-1, 1)

    def _told(self) -> dict[str, Any]:
        lengths = dict(zip(("query_length", "document_length"), self._lengths(), strict=True))
        return {**super()._told(), **{name: length for name, length in lengths.items() if length is not None}}

    def _write_adapter(self, draft: Path) -> None:
        model = self.model
        if not cross_encoders.has_head_apart(model):
            return super()._write_adapter(draft)
        inner, write = self._inner(model), super()._write_adapter
        inner.save_pretrained = lambda path, **_: write(Path(path))  # its head is a module of sentence-transformers
        try:
            model.save_pretrained(str(draft), create_model_card=False)
        finally:
            del inner.save_pretrained

    def _write(self, draft: Path) -> None:
        self.model.save_pretrained(str(draft), create_model_card=False)
