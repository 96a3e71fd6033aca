"""The student that answers yes or no with a causal language model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from .. import prompts
from ..engine import pretrained
from ..teachers.pointwise import PointAsker
from .answering import AnsweringStudent


class CausalReranker(AnsweringStudent):
    """R → R: a causal language model asked whether a document is relevant; the score is log p(yes), ≤ 0.

    The probability is that of one answer against the other, from the logits of their two tokens behind the prompt, as
    Qwen3-Reranker ranks. Losses may read the two raw logits (:class:`~pyterrier_distill.LogitMSE`: InRanker's method
    with a decoder) or the score. A model that was trained to answer starts from what it knows: nothing in it is new.
    In half precision the logits themselves are computed in float32: no scores tie because they were rounded.

    Args:
        name_or_path: a directory or hub name of a causal LM, or of a LoRA adapter of one.
        prompt: ``"yes_no"``, ``"qwen3"``, ``"monot5"``, a text with ``{query}`` and ``{document}``, or a ``Template``;
            None = what the checkpoint was saved with, else ``"yes_no"``. A text is what the user says in the model's
            chat template; one that the model shall go on with is a ``Template(..., plain=True)``. The document alone
            is cut when the prompt is too long.
        answers: the two words, (no, yes), each one token; None = the prompt's own.
        lora: train a low-rank adapter instead of all weights; as for :class:`~pyterrier_distill.CrossEncoder`.
        base_dtype: how the weights below an adapter are kept: ``"fp32"`` or ``"bf16"``; None = what an
            adapter was saved with, else float32. The adapter is float32.
        attn_implementation: of transformers, such as ``"flash_attention_2"``; None = its own choice.
        max_length: tokens of a prompt and its answer; None = the checkpoint's own.
        precision: ``auto`` | ``fp32`` | ``bf16`` | ``fp16`` of ranking; ``auto`` = bf16 where the hardware multiplies
            it natively.
        batch_size: most pairs of one forward pass (a token budget usually cuts earlier).
        text_field: the column of document text.
        device: None = the GPU where there is one.
        verbose: True = ranking shows progress, False = never; None = once it takes more than three seconds.
        trust_remote_code: whether a hub model may bring its own code.

    Raises:
        FileNotFoundError: if the path is no directory; on first use, if there is no such model.
        ValueError: for a prompt that lacks a placeholder, answers that are not two words, or a key of ``lora`` that
            peft does not know, or ``base_dtype`` without an adapter; on first use, if the checkpoint is no causal LM,
            or an answer is not one token.
        ModuleNotFoundError: for ``lora`` without peft.

    References:
        InRanker §3, Eq. 1 and 2 (two logits distilled); Zhang et al. 2025 (Qwen3-Reranker); Nogueira et al. 2020.

    Example::

        student = ptd.CausalReranker("Qwen/Qwen3-0.6B", prompt="qwen3", lora=dict(r=16))
        teacher = ptd.PointwiseTeacher("castorini/monot5-3b-msmarco")
        ptd.Distiller(student, ptd.LogitMSE(), learning_rate=1e-4).fit((candidates >> teacher)(topics))
    """

    ARTIFACT_TYPE = "causal_reranker"
    DESCRIBED = "a causal language model asked yes or no: its score of a query and a document is log p(yes)"
    LOADED_BY = "transformers.AutoModelForCausalLM.from_pretrained({name})"
    ADAPTER_LOADED_BY = "peft.AutoPeftModelForCausalLM.from_pretrained({name})"
    ADAPTER_TASK = "CAUSAL_LM"
    ANSWERED_BY = "causal"
    DEFAULT_PROMPT = "yes_no"
    schematic = {"label": "CausalReranker"}

    def __init__(
        self,
        name_or_path: str | os.PathLike,
        *,
        prompt: str | prompts.Template | None = None,
        answers: tuple[str, str] | None = None,
        lora: Mapping[str, Any] | None = None,
        base_dtype: str | None = None,
        attn_implementation: str | None = None,
        max_length: int | None = None,
        precision: str = "auto",
        batch_size: int | None = None,
        text_field: str = "text",
        device: str | None = None,
        verbose: bool | None = None,
        trust_remote_code: bool = False,
    ):
        super().__init__(
            name_or_path, prompt=prompt, answers=answers, lora=lora, base_dtype=base_dtype,
            attn_implementation=attn_implementation, max_length=max_length, precision=precision,
            batch_size=batch_size, text_field=text_field, device=device, verbose=verbose,
            trust_remote_code=trust_remote_code,
        )  # fmt: skip

    def _make_asker(self) -> PointAsker:
        kind = pretrained.kind_of(self.base, {"trust_remote_code": self.trust_remote_code})
        if kind != "causal":
            other = "MonoT5" if kind == "seq2seq" else "CrossEncoder"
            raise ValueError(f"{self.base!r} is a {kind} checkpoint, not a causal LM: it makes a {other}.")
        return super()._make_asker()
