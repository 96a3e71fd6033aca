"""What all students share: a checkpoint on disk that is an artifact, and an identity that changes with the weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pyterrier as pt
import pyterrier_alpha as pta

from ..engine import checkpoints
from ..engine.model_state import Loaded, shown
from ..frames.arguments import Named
from ..stores import redaction, seals
from . import card, hub, lora, summary


@dataclass
class Weights(Loaded):
    """The model, and what reads texts for it, shared by copies of a student that differ in how it is run alone.

    Attributes:
        sources: students that the model was copied from, by the setting that names them: their repr and their identity
            when it was; what they become later is not this model's.
    """

    reader: Any = None
    adapter: Any = None
    manifest: dict[str, Any] | None = None
    sources: dict[str, tuple[str, Any]] = field(default_factory=dict)


class StudentArtifact(Named):
    """The part of a student that saves it, describes it and copies it.

    Subclasses keep their model in ``_weights``, say how it is written (:meth:`_write`), and name the settings that
    change how it is run, not what it is (``_RUNTIME``).
    """

    ARTIFACT_PACKAGE_HINT = "pyterrier-distill"
    #: For model cards: the hub's name of the task, and what loads the full checkpoint without this package.
    PIPELINE_TAG = "text-ranking"
    LOADED_BY = ""
    DESCRIBED = "a ranker"
    ADAPTER_LOADED_BY = ""
    ARTIFACT_SCHEMATIC_SHOW_AS_TRANSFORMER = True  # a Distiller's schematic shows its student

    _RUNTIME: tuple[str, ...] = ("precision", "batch_size", "text_field", "verbose")
    ARTIFACT_TYPE: str
    ARTIFACT_FORMAT: str
    _weights: Weights
    name_or_path: Any
    device: str | None

    @property
    def model(self) -> Any:
        """What is saved; loaded when first needed."""
        raise TypeError(f"{type(self).__name__} does not say its model.")

    @property
    def base(self) -> Any:
        """The checkpoint that is loaded: ``name_or_path``, or what that is an adapter of."""
        return self.name_or_path

    @property
    def manifest(self) -> dict[str, Any]:
        """How the weights came to be: what the Distiller recorded; empty for an untrained student."""
        if self._weights.manifest is None:  # not in the constructor, which may only have to draw a schematic
            self._weights.manifest = self._metadata().get("manifest", {})
        return self._weights.manifest

    def known_scale(self) -> str | None:
        """``score_scale``, the scale of its scores; None where only the model knows, and is not loaded yet."""
        return getattr(self, "score_scale", None)

    def _is_directory(self) -> bool:
        return isinstance(self.name_or_path, str) and os.path.isdir(self.name_or_path)

    def _metadata(self) -> dict[str, Any]:
        """What :meth:`save` wrote beside the checkpoint; empty for others' checkpoints.

        Raises:
            ValueError: if something of it is gone; without it the student would be another.
        """
        if not isinstance(self.name_or_path, str):
            return {}
        told = checkpoints.told(self.name_or_path, seals.META)
        lacks = [name for name in ("type", "format") if not isinstance(told.get(name), str)]
        lacks += [name for name in told.get("settings", ()) if name not in told]
        if lacks and (told or seals.is_saved(self.name_or_path)):
            raise ValueError(
                f"{seals.META} of {self.name_or_path} says no {lacks[0]!r}: it is lost or damaged. Restore it from a"
                " copy, or save the student again; to load the checkpoint with settings of your own, delete it and"
                " README.md, which says that a student was saved here."
            )
        return told

    def _write(self, draft: Path) -> None:
        """Write the checkpoint into an empty directory."""
        raise TypeError(f"{type(self).__name__} does not say how it is written.")

    def _told(self) -> dict[str, Any]:
        """What the metadata remember besides."""
        return {}

    def save(
        self,
        path: str | os.PathLike,
        *,
        overwrite: bool = False,
        merge: bool = False,
        about: Mapping[str, Any] | None = None,
        _also: Callable[[Path], Mapping[str, Any]] | None = None,
    ) -> Any:
        """Save as an ordinary checkpoint, with a model card, that is a PyTerrier artifact too.

        Args:
            path: a directory that this class, ``pt.Artifact.load(path)`` and the library of its format load. It appears
                whole or not at all.
            overwrite: whether to replace a saved student that is there.
            merge: whether to add an adapter to its base and write the whole model. False = the adapter alone, as peft
                writes it. Nothing changes for a student without one.
            about: what is not recorded but belongs on the card: ``teacher``, ``data``, ``measures`` (name → number),
                ``license``, ``language``, ``datasets`` (names on the hub), and anything else, under its own name.

        Returns:
            The student loaded from ``path`` when it is first needed.

        Raises:
            FileExistsError: if something stands there that is no saved student, or may not be replaced.
            ValueError, TypeError: for an ``about`` that no card can show.
        """
        about = card.checked(about)
        if not merge and self.writes_over_base(path):
            raise ValueError(
                f"{path} holds what this student needs, the base of its adapter or the encoder of its documents: save"
                " it elsewhere, or an adapter's whole model with merge=True."
            )
        with checkpoints.written_whole(path, "pt_meta.json", overwrite=overwrite) as draft:
            meta = self._write_all(draft, merge, about, _also)
            checkpoints.write_json(draft / "pt_meta.json", meta)
            (draft / "README.md").write_text(card.card(self, meta, Path(path).absolute().name), encoding="utf-8")
        again: Any = type(self)
        return again(path, **{name: getattr(self, name) for name in self._RUNTIME}, device=self.device)

    def standing_alone(self) -> AbstractContextManager[None]:
        """Within, what is written needs no directory of this machine."""
        return nullcontext()

    def writes_over_base(self, path: str | os.PathLike) -> bool:
        """Whether saving to ``path`` would replace what the saved student needs."""
        return False

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        merge: bool = False,
        about: Mapping[str, Any] | None = None,
        commit_message: str | None = None,
    ) -> str:
        """Publish on the Hugging Face hub: what :meth:`save` writes, without paths of this machine.

        Args:
            repo_id: ``"name"`` or ``"owner/name"``; made if it is not there.
            private: whether a new repository shall be; None = as its owner has chosen.
            token: as ``huggingface_hub`` takes it; None = that of this machine. It is not kept anywhere.
            merge: as for :meth:`save`.
            about: as for :meth:`save`.
            commit_message: None = one that names this package.

        Returns:
            The address of the repository.

        Raises:
            ValueError: for an impossible name, or an adapter whose base nobody else has.
            RuntimeError: with the hub's own words, if it refuses.
        """
        return hub.push(self, repo_id, private, token, merge, card.checked(about), commit_message)

    def _write_all(
        self, draft: Path, merge: bool, about: Mapping[str, Any], also: Callable[[Path], Any] | None = None
    ) -> dict[str, Any]:
        """Write the checkpoint; gives what ``pt_meta.json`` shall hold."""
        self.model  # noqa: B018 - loaded, it is known whether there is an adapter
        adapted = self._weights.adapter is not None
        with checkpoints.quiet():
            if not adapted:
                self._write(draft)
            elif merge:
                lora.merged(cast(Any, self))._write(draft)
            else:
                lora.write(cast(Any, self), draft)
        settings = {n: value for n, value in self._told().items() if not (merge and n == "base_dtype")}
        settings |= {} if also is None else also(draft)
        changes = self.model_changes()
        earlier = {} if changes else self._metadata().get("about", {})  # measured before it was trained
        return {
            "type": self.ARTIFACT_TYPE,
            "format": "peft" if adapted and not merge else self.ARTIFACT_FORMAT,
            "package_hint": self.ARTIFACT_PACKAGE_HINT,
            **settings,
            "settings": sorted(settings),
            seals.DIGESTS: seals.digests(draft),
            "student": repr(self),
            "started_from": card.started_from(self),
            "manifest": redaction.redacted(self.manifest),
            **({"changed": changes} if self._changed_besides(changes) else {}),
            "about": redaction.redacted({**earlier, **about}),
            "versions": checkpoints.versions(),
        }

    def mark_trained(self, manifest: dict[str, Any]) -> None:
        """Record that the weights are no longer the checkpoint's: repr, equality and the manifest change with them.

        What was recorded of an earlier training stays, as ``earlier`` in the manifest.
        """
        earlier = {"earlier": self.manifest} if self.manifest else {}
        self._weights.manifest = redaction.redacted({**manifest, **earlier})
        self._weights.retrained()
        self.path = pt.Artifact.NO_PATH

    def snapshot(self) -> tuple[dict[str, Any], Weights, Any]:
        """The student as it is, for :meth:`restore`: a copy of its weights, and what is recorded of them."""
        weights = {name: tensor.detach().cpu().clone() for name, tensor in self.model.state_dict().items()}
        return weights, self.recorded(), self.path

    def restore(self, snapshot: tuple[dict[str, Any], Weights, Any]) -> None:
        """Be again as :meth:`snapshot` found it."""
        weights, recorded, self.path = snapshot
        self.model.load_state_dict(weights)
        self.recall(recorded)

    def recorded(self) -> Weights:
        """What is known of the weights as they are, for :meth:`recall`."""
        return replace(self._weights, manifest=self.manifest, trained=self.model_changes().get("trained"))

    def recall(self, recorded: Weights) -> None:
        """Know again what :meth:`recorded` gave, now that the weights are those again."""
        self._weights.manifest = recorded.manifest
        self._weights.rebased(recorded.trained)

    # -- for people ---------------------------------------------------------------------------------------------------

    def summary(self) -> str:
        """What it is, in a line: layers, width and parameters where they are known without loading, source, training.

        The repr is the long form, which tells any two students apart.
        """
        return summary.line(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(self.summary())

    def _repr_html_(self) -> str:
        return summary.table(self)

    def __dir__(self) -> list[str]:
        """What Tab offers: not what a Distiller and stores call."""
        return [name for name in super().__dir__() if name not in summary.CONTRACT]

    # -- what it is ---------------------------------------------------------------------------------------------------

    def model_changes(self) -> dict[str, str]:
        """How the loaded model is not what the settings name: ``trained`` (other weights), ``reset`` (other settings).

        By whatever means it was changed. Nothing is loaded for this; empty for a model that is not loaded yet.
        """
        changes = self._weights.changes()
        if "trained" not in changes and self._weights.state is not None:
            sources = self._weights.sources
            if any(repr(getattr(self, name)) != source[0] for name, source in sources.items()):
                changes = {"trained": self._weights.state.fingerprint(), **changes}
        return changes

    def _changed_besides(self, changes: Mapping[str, str]) -> bool:
        """Whether the model was changed by others than a Distiller since the manifest was written."""
        state = self._weights.state
        return "reset" in changes or (state is not None and state.rewritten)

    def decided_by(self) -> dict[str, Any]:
        """The settings that decide the scores, and what the model was made of."""
        told = {a.name: a.value for a in pt.inspect.transformer_attributes(self, strict=False)}
        copied = {name.removeprefix("_"): source[1] for name, source in self._weights.sources.items()}
        return {**told, **copied}

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits of what decides its scores, settings and weights, wherever these lie.

        For names of what is made of a student as it is now, such as an index. Nothing is loaded for this.
        """
        from ..identity.identity import digest, identity

        return digest(identity(self))

    def _files(self) -> list[Any]:
        """What the model is read from."""
        return [self.name_or_path]

    def __repr__(self) -> str:
        text = redaction.text(pta.transformer_repr(self))
        for name, (source, _) in self._weights.sources.items():
            text = text.replace(repr(getattr(self, name)), source)
        return shown(text, self.model_changes())

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
        if self.model_changes():
            raise pt.inspect.InspectError(
                f"cannot change {', '.join(sorted(kwargs))} of a trained student, or of one whose model was changed:"
                " save it and load it with others."
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
        changes = self.model_changes()
        if not changes:  # the model can be loaded again
            state["_weights"] = Weights(manifest=self.manifest)
        else:
            told: dict[str, Any] = {"trained": changes.get("trained"), "reset": changes.get("reset")}
            state["_weights"] = replace(self._weights, reader=None, manifest=self.manifest, state=None, **told)
        return state
