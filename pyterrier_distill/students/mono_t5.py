"""The monoT5 student."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .. import prompts
from ..backends.hf import HF
from ..engine.locks import loading
from ..losses import base as losses
from ..prompts import library
from ..teachers.pointwise import PointAsker
from ..teachers.questions import checked_template
from .joint import JointStudent, Pair

if TYPE_CHECKING:
    from torch import Tensor, nn


class MonoT5(JointStudent):
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
        verbose: whether ranking shows progress.
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
    ARTIFACT_FORMAT = "transformers"
    LOADED_BY = "transformers.AutoModelForSeq2SeqLM.from_pretrained({name})"
    ADAPTER_LOADED_BY = "peft.AutoPeftModelForSeq2SeqLM.from_pretrained({name})"
    gives = frozenset({losses.SCORES, losses.LOGITS})
    score_scale = losses.LOG_PROBABILITY
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
        verbose: bool = False,
        trust_remote_code: bool = False,
    ):
        if prompt is not None:
            checked_template(prompt, library.POINTWISE, ("document",))
        self.prompt = prompt
        self.answers = None if answers is None else tuple(answers)
        super().__init__(
            name_or_path, max_length=max_length, precision=precision, batch_size=batch_size, text_field=text_field,
            device=device, verbose=verbose, trust_remote_code=trust_remote_code, lora=lora,
        )  # fmt: skip

    def _build(self) -> nn.Module:
        self._weights.reader = self._make_asker()
        return self._weights.reader.backend.model

    def _state_reader(self) -> Any:
        return self._weights.reader.backend.tokenizer

    def _make_asker(self) -> PointAsker:
        backend = HF(
            self.base, kind="seq2seq", precision="fp32", max_length=self._reading_length(), device=self.device,
            trust_remote_code=self.trust_remote_code,
        )  # fmt: skip
        prompt, answers = self._question()
        return PointAsker(backend, prompt, answers)

    def _question(self) -> tuple[str | prompts.Template, tuple[str, str] | None]:
        """Prompt and answers: as asked for, else as the checkpoint was saved with."""
        saved = self._metadata()
        prompt = self.prompt or prompts.from_json(saved.get("prompt", "monot5"))
        answers = self.answers or (saved.get("answers") if self.prompt is None else None)
        return prompt, None if answers is None else tuple(answers)

    def _told(self) -> dict[str, Any]:
        prompt, answers = self._question()
        return {**super()._told(), "prompt": prompts.to_json(prompt), "answers": answers}

    @property
    def _asker(self) -> PointAsker:
        model = self.model
        if self._weights.reader is None:  # unpickled: the weights came along, what reads texts for them did not
            with loading():
                if self._weights.reader is None:
                    asker = self._make_asker()
                    cast(HF, asker.backend).replace_model(model)
                    self._weights.reader = asker
        return self._weights.reader

    @property
    def _llm(self) -> HF:
        return cast(HF, self._asker.backend)

    @property
    def tokenizer(self) -> Any:
        """The checkpoint's."""
        return self._llm.tokenizer

    def features(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        """Tokenised prompts ``[n, L]``."""
        asker = self._asker
        return dict(self._llm.encode(asker.prompts(pairs), padding=True))

    def logits(self, features: dict[str, Any]) -> Tensor:
        """Raw logits ``[n, 2]`` of [false, true]."""
        asker = self._asker
        return self._llm.next_logits(features, self._llm.option_ids(asker.answers, **asker.template.going_on))

    def score(self, logits: Tensor) -> Tensor:
        """log p(true) ``[n]``."""
        return logits.float().log_softmax(dim=-1)[:, 1]

    def _write(self, draft: Path) -> None:
        self.model.save_pretrained(str(draft))
        self.tokenizer.save_pretrained(str(draft))
