"""A BiEncoder on disk, and what makes two of them the same."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyterrier as pt
import pyterrier_alpha as pta

from .. import checkpoints

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


@dataclass
class Weights:
    """The model, shared by all copies of a student that differ in settings of running it alone."""

    model: SentenceTransformer | None = None
    trained: str | None = None
    manifest: dict[str, Any] = field(default_factory=dict)


class BiEncoderArtifact:
    """The part of :class:`~pyterrier_distill.BiEncoder` that saves it, describes it and copies it."""

    ARTIFACT_TYPE = "bi_encoder"
    ARTIFACT_FORMAT = "sentence_transformers"
    ARTIFACT_PACKAGE_HINT = "pyterrier-distill"
    ARTIFACT_SCHEMATIC_SHOW_AS_TRANSFORMER = True  # a Distiller's schematic shows its student

    #: Settings of running the model; copies that differ in them alone share its weights.
    _RUNTIME = ("doc_index", "precision", "batch_size", "text_field", "verbose")

    def _metadata(self) -> dict[str, Any]:
        """What :meth:`save` wrote beside the checkpoint; empty for others' checkpoints."""
        path = os.path.join(self.name_or_path, "pt_meta.json") if self._is_directory() else ""
        return json.loads(Path(path).read_text(encoding="utf-8")) if os.path.isfile(path) else {}

    def save(self, path: str | os.PathLike, *, overwrite: bool = False) -> BiEncoderArtifact:
        """Save as a sentence-transformers checkpoint that is a PyTerrier artifact too.

        Args:
            path: a directory that ``BiEncoder(path)``, ``pt.Artifact.load(path)`` and ``SentenceTransformer(path)``
                load. It appears whole or not at all.
            overwrite: whether to replace a saved student that is there.

        Returns:
            The student loaded from ``path`` when it is first needed.

        Raises:
            FileExistsError: if something stands there that is no saved student, or may not be replaced.
        """
        with checkpoints.written_whole(path, "pt_meta.json", overwrite=overwrite) as draft:
            with checkpoints.quiet():
                self.model.save_pretrained(str(draft), create_model_card=False)
            meta = {
                "type": self.ARTIFACT_TYPE,
                "format": self.ARTIFACT_FORMAT,
                "package_hint": self.ARTIFACT_PACKAGE_HINT,
                "freeze_docs": self.freeze_docs,
                "student": repr(self),
                "manifest": self.manifest,
                "versions": checkpoints.versions(),
            }
            checkpoints.write_json(draft / "pt_meta.json", meta)
        return type(self)(path, **{name: getattr(self, name) for name in self._RUNTIME}, device=self.device)

    @property
    def model_name(self) -> str:
        """What pyterrier_dr's encoders compare two models by."""
        return repr(self)

    def __repr__(self) -> str:
        shown = pta.transformer_repr(self)
        trained = self._weights.trained
        return shown if trained is None else f"<{shown} trained {trained}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BiEncoderArtifact) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    def apply_attributes(self, **kwargs: Any) -> BiEncoderArtifact:
        """A copy with other settings; the weights are shared where only settings of running it change."""
        if set(kwargs) <= set(self._RUNTIME):
            changed = object.__new__(type(self))  # copy.copy would ask __getstate__, which leaves the weights behind
            changed.__dict__.update(self.__dict__)
            for name, value in kwargs.items():
                setattr(changed, name, value)
            return changed
        if self._weights.trained is not None:
            raise pt.inspect.InspectError(
                f"cannot change {', '.join(sorted(kwargs))} of a trained student: save it and load it with others."
            )
        settings = {a.name: a.value for a in pt.inspect.transformer_attributes(self)}
        if unknown := set(kwargs) - set(settings):
            raise pt.inspect.InspectError(f"BiEncoder has no {', '.join(sorted(unknown))}.")
        return type(self)(**{**settings, **kwargs})

    def subtransformers(self) -> dict:
        """None: the document encoder is a part, not a stage of a pipeline."""
        return {}

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        if self._weights.trained is None:  # the model can be loaded again
            state["_weights"] = Weights(manifest=self.manifest)
        return state
