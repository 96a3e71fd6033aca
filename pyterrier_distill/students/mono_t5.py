"""The monoT5 student."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from .. import prompts
from .answering import AnsweringStudent


class MonoT5(AnsweringStudent):
    """R → R: an encoder-decoder asked whether a document is relevant; the score is log p(true), ≤ 0.

    One prompt builder serves training and ranking: the document alone is cut when the prompt is too long, which then
    ends two tokens before the limit (510 of 512), although it need not. Losses may read its two raw logits
    (:class:`~pyterrier_distill.LogitMSE`, InRanker) or its score.

    Args:
        name_or_path: a directory or hub name of a T5-style checkpoint.
        prompt: ``"monot5"`` (InRanker's, too), a text with ``{query}`` and ``{document}``, or a ``Template``;
            None = what the checkpoint was saved with, else ``"monot5"``.
        answers: the two words, (false, true), each one token; None = the prompt's own.
        lora: train a low-rank adapter instead of all weights; as for :class:`~pyterrier_distill.CrossEncoder`.
        max_length: tokens of a prompt; None = the checkpoint's own.
        precision: ``auto`` | ``fp32`` | ``bf16`` | ``fp16`` of ranking; ``auto`` = bf16 where the hardware multiplies
            it natively.
        batch_size: most pairs of one forward pass (a token budget usually cuts earlier).
        text_field: the column of document text.
        device: None = the GPU where there is one.
        verbose: True = ranking shows progress, False = never; None = once it takes more than three seconds.
        trust_remote_code: whether a hub model may bring its own code.

    Raises:
        FileNotFoundError: if the path is no directory; on first use, if there is no such model.
        ValueError: for a key of ``lora`` that peft does not know; on first use, if the checkpoint is no
            encoder-decoder, or an answer is not one token.
        ModuleNotFoundError: for ``lora`` without peft.

    References:
        Nogueira et al. 2020 (monoT5); InRanker (Laitz et al. 2024).

    Example::

        student = ptd.MonoT5("google-t5/t5-small")
        teacher = ptd.PointwiseTeacher("castorini/monot5-3b-msmarco")
        ptd.Distiller(student, ptd.LogitMSE(), learning_rate=7e-5).fit((candidates >> teacher)(topics))
    """

    ARTIFACT_TYPE = "mono_t5"
    DESCRIBED = "a monoT5: its score of a query and a document is log p(true)"
    LOADED_BY = "transformers.AutoModelForSeq2SeqLM.from_pretrained({name})"
    ADAPTER_LOADED_BY = "peft.AutoPeftModelForSeq2SeqLM.from_pretrained({name})"
    ADAPTER_TASK = "SEQ_2_SEQ_LM"
    ANSWERED_BY = "seq2seq"
    DEFAULT_PROMPT = "monot5"
    schematic = {"label": "MonoT5"}

    def __init__(
        self,
        name_or_path: str | os.PathLike,
        *,
        prompt: str | prompts.Template | None = None,
        answers: tuple[str, str] | None = None,
        lora: Mapping[str, Any] | None = None,
        max_length: int | None = None,
        precision: str = "auto",
        batch_size: int | None = None,
        text_field: str = "text",
        device: str | None = None,
        verbose: bool | None = None,
        trust_remote_code: bool = False,
    ):
        super().__init__(
            name_or_path, prompt=prompt, answers=answers, lora=lora, max_length=max_length, precision=precision,
            batch_size=batch_size, text_field=text_field, device=device, verbose=verbose,
            trust_remote_code=trust_remote_code,
        )  # fmt: skip
