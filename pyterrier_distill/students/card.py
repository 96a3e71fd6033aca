"""The model card of a student: what the hub reads, and what made it, for people."""

from __future__ import annotations

import json
import math
import ntpath
import numbers
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..stores import redaction
from ..stores.files import read_object

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_SETTINGS = (
    "sampler", "learning_rate", "warmup", "weight_decay", "max_grad_norm", "schedule", "epochs", "steps",
    "queries_per_batch", "processes", "accumulation", "precision", "dropout", "seed", "metric", "eval_every",
    "early_stopping", "args", "device",
)  # fmt: skip
_SPECIAL = ("teacher", "data", "measures", "license", "language", "datasets")

_ROOT = r"(?:~?/|\.{1,2}/|[A-Za-z]:\\)"
_PATHS = (
    re.compile(rf"(?P<quote>['\"`])(?P<path>{_ROOT}[^'\"`\n]+)(?P=quote)"),
    re.compile(rf"(?<![\w:/.~\\])(?P<path>{_ROOT}[^\s'\"`,;()\[\]{{}}<>|]+)"),
)
_QUOTED = re.compile(r"(?P<quote>['\"`])(?P<path>[^'\"`\n]+/[^'\"`\n]+)(?P=quote)")
_LEFT_OUT = "(left out)"


def checked(about: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a user says of a student, if a card can show it.

    Raises:
        TypeError: if it is no mapping of texts to plain data.
        ValueError: if a measure is no finite number.
    """
    if about is None:
        return {}
    if not isinstance(about, Mapping) or not all(isinstance(key, str) for key in about):
        raise TypeError(f'about must be a dict, such as {{"teacher": "...", "measures": {{...}}}}, not {about!r}.')
    told = dict(about)
    if "measures" in told:
        if not isinstance(told["measures"], Mapping):
            raise TypeError(f'about["measures"] must be a dict of names and numbers, not {told["measures"]!r}.')
        for name, value in told["measures"].items():
            if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
                raise ValueError(f'about["measures"][{str(name)!r}] must be a finite number, not {value!r}.')
        told["measures"] = {str(name): float(value) for name, value in told["measures"].items()}
    for name in ("license", "language", "datasets"):
        values = told.get(name, [])
        if not isinstance(values, str) and not (
            name != "license" and isinstance(values, (list, tuple)) and all(isinstance(v, str) for v in values)
        ) and values != []:  # fmt: skip
            raise TypeError(f'about["{name}"] must be a text{"" if name == "license" else " or a list of texts"}.')
    try:
        json.dumps(told)
    except (TypeError, ValueError) as error:
        raise TypeError(f"about must hold plain texts, numbers, lists and dicts: {error}.") from error
    return told


def publishable(value: Any) -> Any:
    """``value`` with paths of this machine cut to their last part, and secrets left out, in all its texts."""
    return _placeless(redaction.redacted(value, _LEFT_OUT))


def _placeless(value: Any) -> Any:
    """``value`` with paths of this machine cut to their last part in all its texts."""
    if isinstance(value, Mapping):
        return {name: _placeless(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_placeless(part) for part in value]
    if not isinstance(value, str):
        return value
    for pattern in _PATHS:
        value = pattern.sub(_last_part, value)
    return _QUOTED.sub(lambda match: _last_part(match) if os.path.exists(match["path"]) else match[0], value)


def _last_part(match: re.Match[str]) -> str:
    quote = match.groupdict().get("quote") or ""
    return quote + ntpath.basename(match["path"].rstrip("/\\")) + quote


def started_from(student: Any) -> list[str]:
    """The checkpoints that a student was built from, those of its parts last; local ones by directory name."""
    source = student.name_or_path
    if isinstance(source, str):
        found = list(student._metadata().get("started_from", []))
        if not found:
            base = getattr(student, "base", source)  # of an adapter: what it adapts
            found = started_from_path(base)
    else:
        found = started_from(source)
    documents = getattr(student, "_doc_encoder", None)
    documents = getattr(documents, "ustad", documents)
    if hasattr(documents, "name_or_path"):
        found += started_from(documents)
    elif isinstance(name := getattr(documents, "model_name", None), str):  # another library's
        found.append(name)
    return list(dict.fromkeys(found))


def started_from_path(name: str) -> list[str]:
    """A checkpoint as its name on the hub, or a directory by what it was started from, or else by its own name."""
    if not os.path.exists(name) and _HUB_NAME.fullmatch(name):
        return [name]
    meta = os.path.join(name, "pt_meta.json")
    if os.path.isfile(meta):
        if earlier := read_object(meta).get("started_from"):
            return list(earlier)
    return [f"directory {os.path.basename(os.path.abspath(name))}"]


def card(student: Any, meta: Mapping[str, Any], name: str) -> str:
    """The card, as markdown behind YAML.

    Args:
        student: is described.
        meta: what ``pt_meta.json`` says of it.
        name: what it can be loaded by.
    """
    from huggingface_hub import ModelCardData

    about, form = meta["about"], meta["format"].replace("_", "-")
    bases = [base for base in meta["started_from"] if not base.startswith("directory ")]
    adapter = form == "peft"
    data = ModelCardData(
        language=_listed(about.get("language")),
        license=about.get("license"),
        library_name=form,
        pipeline_tag=student.PIPELINE_TAG,
        base_model=bases[0] if len(bases) == 1 else bases or None,
        datasets=_listed(about.get("datasets")),
        tags=["pyterrier", "pyterrier-distill", meta["type"].replace("_", "-"), *(["lora"] if adapter else [])],
    )
    lines = [f"---\n{data.to_yaml()}\n---\n", f"# {name}\n", *_body(student, publishable(meta), name)]
    return "\n".join(lines) + "\n"


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value or None


def _body(student: Any, meta: Mapping[str, Any], name: str) -> Iterator[str]:
    kind, adapter = type(student).__name__, meta["format"] == "peft"
    manifest, about = meta["manifest"], meta["about"]
    what = student.DESCRIBED
    yield f"`{kind}` of [PyTerrier](https://pyterrier.readthedocs.io)'s plugin `pyterrier-distill`, {what}.\n"
    if adapter:
        yield "This is a LoRA adapter (and the head); its base is loaded with it.\n"
    changed = meta.get("changed") or {}
    if "trained" in changed:
        since = " after the training that is told here" if manifest else ""
        yield f"**Its weights were changed** by other means than this package's training{since}.\n"
    elif not manifest:
        yield "**It has not been trained** by this package: its weights are those it started from.\n"
    if "reset" in changed:
        yield "**Its model's settings** (prompts, lengths or the like) are not those that it started from.\n"
    yield "```python"
    yield "import pyterrier_distill as ptd"
    yield f"student = ptd.{kind}({json.dumps(name, ensure_ascii=False)})"
    yield "pipeline = bm25 % 100 >> dataset.text_loader() >> student"
    yield "```\n"
    loader = student.ADAPTER_LOADED_BY if adapter else student.LOADED_BY
    if loader:
        yield f"Without PyTerrier: `{loader.format(name=json.dumps(name, ensure_ascii=False))}`.\n"
    if meta["type"] == "cross_encoder" and (cut := list(_cut(meta))):
        elsewhere = "Other libraries cut the pair as a whole, and score longer texts otherwise"
        yield f"It reads at most {' and '.join(cut)}. {elsewhere}: cut these first.\n"
    if documents := meta.get("doc_encoder"):
        yield f"It encodes queries; its documents are encoded by `{_line(documents['is'])}`.\n"
    yield "## How it came to be\n"
    yield from _points({"Started from": ", ".join(meta["started_from"])})
    if meta.get("prompt"):
        yield from _points({"Asked": f"`{_line(meta['prompt'])}`", "Answers": meta.get("answers")})
    yield from _lineage(manifest, about)
    if about.get("measures"):
        yield "\n## Measures\n"
        yield from _table("measure", "value", {n: f"{v:.4f}" for n, v in about["measures"].items()})
    if manifest:
        yield "\n## Settings\n"
        idle = {"epochs" if manifest.get("steps") != "None" else "steps", *([] if manifest.get("best") else ["metric"])}
        told = {n: manifest[n] for n in _SETTINGS if n not in idle and manifest.get(n) not in (None, "None")}
        yield from _table("setting", "value", told)
    while manifest.get("earlier"):
        manifest = manifest["earlier"]
        yield "\n## Trained before that\n"
        yield from _lineage(manifest, {})
    yield "\n## Versions\n"
    yield from _table("package", "version", meta["manifest"].get("versions") or meta["versions"])


def _cut(meta: Mapping[str, Any]) -> Iterator[str]:
    """The lengths to which a cross-encoder cuts each text by itself."""
    for name in ("query", "document"):
        if length := meta.get(f"{name}_length"):
            yield f"{length} tokens of a {name}"


def _lineage(manifest: Mapping[str, Any], about: Mapping[str, Any]) -> Iterator[str]:
    """What one training was, as a list."""
    labels = manifest.get("labels") or {}
    stores = [one for one in (labels if isinstance(labels, list) else [labels]) if one.get("reads")]
    points: dict[str, Any] = {
        "Teacher": about.get("teacher"),
        "Labels made by": "; ".join(f"`{one['reads']}` (label store, key {one.get('key')})" for one in stores),
        "Data": about.get("data"),
    }
    if manifest:
        best = manifest.get("best") or {}
        points |= {
            "Student before": f"`{manifest['student']}`",
            "Loss": f"`{manifest['loss']}`",
            "Labels read": ", ".join(f"`{column}`" for column in manifest.get("columns", [])),
            "Training data": f"{manifest['queries']:,} queries, {manifest['documents']:,} documents in their lists,"
            f" fingerprint {manifest['data']}",
            "Best on validation": ", ".join(f"{n} = {v:.4f}" for n, v in best.items() if v is not None),
            "Training": f"{manifest['steps_taken']:,} steps in {manifest['seconds']} s",
        }
    rest = {name: value for name, value in about.items() if name not in _SPECIAL}
    yield from _points({**points, **rest})


def _points(points: Mapping[str, Any]) -> Iterator[str]:
    for name, value in points.items():
        if value:
            yield f"* {name}: {_line(value)}"


def _table(first: str, second: str, rows: Mapping[str, Any]) -> Iterator[str]:
    yield f"| {first} | {second} |"
    yield "|---|---|"
    for name, value in rows.items():
        yield f"| {_line(name)} | {_line(value)} |"


def _line(value: Any) -> str:
    """A value on one line of markdown."""
    text = value if isinstance(value, str) else json.dumps(value)
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()
