"""Students that answer a question about a query and a document with one of two words."""

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
from ..teachers.questions import checked_answers, checked_template, saved_question
from .joint import JointStudent, Pair

if TYPE_CHECKING:
    from torch import Tensor, nn


class AnsweringStudent(JointStudent):
    """R → R: re-ranks by log p(true) ≤ 0 between two answers; losses may read the two raw logits.

    One prompt builder serves training and ranking: the document alone is cut when the prompt is too long.

    Attributes:
        ANSWERED_BY: the kind of language model, ``"causal"`` or ``"seq2seq"``.
        DEFAULT_PROMPT: what is asked if nothing else was said.
    """

    ANSWERED_BY: str
    DEFAULT_PROMPT: str
    ARTIFACT_FORMAT = "transformers"
    gives = frozenset({losses.SCORES, losses.LOGITS})
    score_scale = losses.LOG_PROBABILITY

    def __init__(
        self,
        name_or_path: str | os.PathLike,
        *,
        prompt: str | prompts.Template | None,
        answers: tuple[str, str] | None,
        lora: Mapping[str, Any] | None,
        **settings: Any,
    ):
        if prompt is not None:
            checked_template(prompt, library.POINTWISE, ("document",))
        self.prompt = prompt
        self.answers = checked_answers(answers)
        super().__init__(name_or_path, lora=lora, **settings)

    def _build(self) -> nn.Module:
        self._weights.reader = self._make_asker()
        return self._weights.reader.backend.model

    def _state_reader(self) -> Any:
        return self._weights.reader.backend.tokenizer

    def _make_asker(self) -> PointAsker:
        backend = HF(
            self.base, kind=self.ANSWERED_BY, precision="fp32", max_length=self._reading_length(), device=self.device,
            trust_remote_code=self.trust_remote_code, model_kwargs=self._model_settings() or None,
        )  # fmt: skip
        prompt, answers = self._question()
        return PointAsker(backend, prompt, answers)

    def _question(self) -> tuple[str | prompts.Template, tuple[str, str] | None]:
        """Prompt and answers: as asked for, else as the checkpoint was saved with."""
        return saved_question(self._metadata(), self.prompt, self.answers, self.DEFAULT_PROMPT)

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
        template = asker.template
        words = self._llm.option_ids(asker.answers, chat=not template.plain, **template.going_on)
        return self._llm.next_logits(features, words)

    def score(self, logits: Tensor) -> Tensor:
        """log p(true) ``[n]``."""
        return logits.float().log_softmax(dim=-1)[:, 1]

    def _write(self, draft: Path) -> None:
        self.model.save_pretrained(str(draft))
        self.tokenizer.save_pretrained(str(draft))
