"""What all students share: a checkpoint on disk that is an artifact, and an identity that changes with the weights."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyterrier as pt
import pyterrier_alpha as pta

from .. import checkpoints


@dataclass
class Weights:
    """The model, and what reads texts for it, shared by copies of a student that differ in how it is run alone."""

    model: Any = None
    reader: Any = None
    trained: str | None = None
    manifest: dict[str, Any] = field(default_factory=dict)


class StudentArtifact:
    """The part of a student that saves it, describes it and copies it.

    Subclasses keep their model in ``_weights``, say how it is written (:meth:`_write`), and name the settings that
    change how it is run, not what it is (``_RUNTIME``).
    """

    ARTIFACT_PACKAGE_HINT = "pyterrier-distill"
    ARTIFACT_SCHEMATIC_SHOW_AS_TRANSFORMER = True  # a Distiller's schematic shows its student

    _RUNTIME: tuple[str, ...] = ("precision", "batch_size", "text_field", "verbose")
    _weights: Weights
    name_or_path: Any
    device: str | None

    @property
    def manifest(self) -> dict[str, Any]:
        """How the weights came to be: what the Distiller recorded; empty for an untrained student."""
        return self._weights.manifest

    def _is_directory(self) -> bool:
        return isinstance(self.name_or_path, str) and os.path.isdir(self.name_or_path)

    def _metadata(self) -> dict[str, Any]:
        """What :meth:`save` wrote beside the checkpoint; empty for others' checkpoints."""
        path = os.path.join(self.name_or_path, "pt_meta.json") if self._is_directory() else ""
        return json.loads(Path(path).read_text(encoding="utf-8")) if os.path.isfile(path) else {}

    def _write(self, draft: Path) -> None:
        """Write the checkpoint into an empty directory."""
        raise TypeError(f"{type(self).__name__} does not say how it is written.")

    def _told(self) -> dict[str, Any]:
        """What the metadata remember besides."""
        return {}

    def save(self, path: str | os.PathLike, *, overwrite: bool = False) -> Any:
        """Save as an ordinary checkpoint that is a PyTerrier artifact too.

        Args:
            path: a directory that this class, ``pt.Artifact.load(path)`` and the library of its format load. It appears
                whole or not at all.
            overwrite: whether to replace a saved student that is there.

        Returns:
            The student loaded from ``path`` when it is first needed.

        Raises:
            FileExistsError: if something stands there that is no saved student, or may not be replaced.
        """
        with checkpoints.written_whole(path, "pt_meta.json", overwrite=overwrite) as draft:
            with checkpoints.quiet():
                self._write(draft)
            meta = {
                "type": self.ARTIFACT_TYPE,
                "format": self.ARTIFACT_FORMAT,
                "package_hint": self.ARTIFACT_PACKAGE_HINT,
                **self._told(),
                "student": repr(self),
                "manifest": self.manifest,
                "versions": checkpoints.versions(),
            }
            checkpoints.write_json(draft / "pt_meta.json", meta)
        return type(self)(path, **{name: getattr(self, name) for name in self._RUNTIME}, device=self.device)

    def mark_trained(self, manifest: dict[str, Any]) -> None:
        """Record that the weights are no longer the checkpoint's: repr, equality and the manifest change with them."""
        self._weights.manifest = manifest
        self._weights.trained = checkpoints.fingerprint(self.model)
        self.path = pt.Artifact.NO_PATH

    def __repr__(self) -> str:
        shown = pta.transformer_repr(self)
        trained = self._weights.trained
        return shown if trained is None else f"<{shown} trained {trained}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StudentArtifact) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    def apply_attributes(self, **kwargs: Any) -> Any:
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
            raise pt.inspect.InspectError(f"{type(self).__name__} has no {', '.join(sorted(unknown))}.")
        return type(self)(**{**settings, **kwargs})

    def subtransformers(self) -> dict:
        """None: what a student is made of are parts, not stages of a pipeline."""
        return {}

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        if self._weights.trained is None:  # the model can be loaded again
            state["_weights"] = Weights(manifest=self.manifest)
        else:
            state["_weights"] = replace(self._weights, reader=None)
        return state
