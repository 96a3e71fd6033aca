"""What a student is, for people: a line, and a table in Jupyter."""

from __future__ import annotations

import html
import os
from typing import TYPE_CHECKING, Any

from ..engine import layers
from . import card

if TYPE_CHECKING:
    from .artifact import StudentArtifact

#: What a Distiller, stores and other students call, and people need not.
CONTRACT = frozenset(
    {
        "added_later", "collate", "check_training", "decided_by", "documents_move", "forward", "gives", "known_scale",
        "mark_trained", "model_changes", "prepare_frame", "prepare_lists", "recall", "recorded", "restore", "settle",
        "snapshot", "standing_alone", "subtransformers", "tokenise", "trainable", "training_columns",
        "writes_over_base",
    }
)  # fmt: skip


def facts(student: StudentArtifact) -> dict[str, str]:
    """What is known of a student without loading it, by name."""
    name, kept = _checkpoint(student)
    local = os.path.isdir(name)
    started = card.started_from(student)[0]
    where = "/".join(os.path.abspath(name).split(os.sep)[-2:]) if local else name
    told: dict[str, str] = {"from": where if started.startswith("directory ") else started}
    loaded = student._weights.model is not None
    config = _config(student) if loaded else layers.configuration(name) if local else {}
    total = next((config[n] for n in ("num_hidden_layers", "n_layer", "num_layers") if config.get(n)), None)
    own = total if loaded or kept is None else kept
    if own is not None:
        told["layers"] = f"{own}"
    width = next((config[n] for n in ("hidden_size", "d_model", "n_embd") if config.get(n)), None)
    if width is not None:
        told["width"] = f"{width}"
    if loaded:
        told["parameters"] = _rounded(student.num_parameters())  # type: ignore[attr-defined]
    changed = student.model_changes()
    loss = student.manifest.get("loss")
    told["state"] = f"trained by {loss}" if loss else "changed since it was loaded" if changed else "not trained here"
    return told


def line(student: StudentArtifact) -> str:
    """``BiEncoder from all-MiniLM-L6-v2: 2 layers of width 384, 15.6M parameters, not trained here``."""
    told = facts(student)
    size = f"{told['layers']} layers" if "layers" in told else ""
    size += f" of width {told['width']}" if size and "width" in told else ""
    parts = [part for part in (size, told.get("parameters", ""), told["state"]) if part]
    return f"{type(student).__name__} from {told['from']}: {', '.join(parts)}"


def table(student: StudentArtifact) -> str:
    """The same as HTML, with the long form behind a click."""
    told = {type(student).__name__: type(student).DESCRIBED, **facts(student)}
    rows = "".join(f"<tr><th>{html.escape(n)}</th><td>{html.escape(v)}</td></tr>" for n, v in told.items())
    long = html.escape(repr(student))
    return f"<table>{rows}</table><details><summary>all settings</summary><code>{long}</code></details>"


def _checkpoint(student: StudentArtifact) -> tuple[str, int | None]:
    """The checkpoint that the first of a row of students is loaded from, and how many layers the last cut leaves."""
    source: Any = student
    kept: int | None = None
    while not isinstance(source, str):
        cut = getattr(source, "layers", None)
        if kept is None and cut is not None:
            kept = cut if isinstance(cut, int) else len(cut)
        source = source.name_or_path
    return source, kept


def _config(student: StudentArtifact) -> dict[str, Any]:
    """The configuration of the first transformer inside a loaded model."""
    parts = (getattr(part, "config", None) for part in student.model.modules())
    return next((vars(config) for config in parts if hasattr(config, "to_dict")), {})


def _rounded(number: int) -> str:
    return f"{number / 1e6:.1f}M parameters" if number >= 1e6 else f"{number:,} parameters"
