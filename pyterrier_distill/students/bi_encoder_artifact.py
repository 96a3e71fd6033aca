"""A BiEncoder on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import checkpoints
from ..losses import base as losses
from .artifact import StudentArtifact


class BiEncoderArtifact(StudentArtifact):
    """The part of :class:`~pyterrier_distill.BiEncoder` that saves it: as a sentence-transformers checkpoint."""

    ARTIFACT_TYPE = "bi_encoder"
    ARTIFACT_FORMAT = "sentence_transformers"
    PIPELINE_TAG = "sentence-similarity"
    LOADED_BY = "sentence_transformers.SentenceTransformer({name})"

    _RUNTIME = ("doc_index", "precision", "batch_size", "text_field", "verbose")

    def _write(self, draft: Path) -> None:
        self.model.save_pretrained(str(draft), create_model_card=False)

    def _told(self) -> dict[str, Any]:
        return {"freeze_docs": self.freeze_docs}

    @property
    def model_name(self) -> str:
        """What pyterrier_dr's encoders compare two models by."""
        return repr(self)

    @property
    def score_scale(self) -> str:
        """On what scale its scores are; losses ask for it."""
        return losses.COSINE if self.scores_cosines else losses.DOT

    def known_scale(self) -> str | None:
        """:attr:`score_scale`, if that takes no loading: of a model that is loaded, or as a directory's files say."""
        if self._weights.model is not None:
            return self.score_scale
        source = self._doc_encoder or (self.name_or_path if isinstance(self.name_or_path, BiEncoderArtifact) else None)
        if source is not None:
            return source.known_scale()
        if not self._is_directory():
            return None
        told = checkpoints.told(self.name_or_path, "config_sentence_transformers.json")
        cosine = told.get("similarity_fn_name") in (None, "cosine")  # sentence-transformers' default
        return losses.COSINE if cosine else None
