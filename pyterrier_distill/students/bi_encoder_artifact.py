"""A BiEncoder on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
