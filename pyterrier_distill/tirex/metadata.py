"""``ir-metadata.yml``: what TIRA requires of a run, and what tirex-tracker recorded while it was made."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAME = "ir-metadata.yml"
#: What ``tira.check_format(..., "run-with-metadata")`` requires.
REQUIRED = (
    ("actor", "team"),
    ("implementation", "source", "repository"),
    ("data", "test collection", "name"),
    ("method", "name"),
    ("method", "description"),
)


@contextmanager
def tracked(directory: Path, told: Mapping[str, Any], without: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Record what happens within by tirex-tracker, where it is installed, and write the metadata into a directory.

    Args:
        directory: where ``ir-metadata.yml`` is written once the block has ended, with what the tracker keeps besides.
        told: our own metadata; they win over what the tracker found out.
        without: what stands where neither says anything.

    Raises:
        ValueError: if something that TIRA requires is in neither.
    """
    try:
        from tirex_tracker import ExportFormat, tracking
    except ModuleNotFoundError:
        yield
        write(directory / NAME, merged(merged({"schema version": "0.2"}, without or {}), told))
        return
    with tempfile.TemporaryDirectory(dir=directory) as draft:
        path = Path(draft) / NAME  # the tracker refuses a file that is there
        with tracking(export_file_path=path, export_format=ExportFormat.IR_METADATA):
            yield
        recorded = _moved(read(path), draft)
        path.unlink()
        for part in sorted(Path(draft).iterdir()):
            part.rename(directory / part.name)
    write(directory / NAME, merged(merged(without or {}, recorded), told))


def _moved(content: Any, draft: str) -> Any:
    """Paths into the draft's directory, relative to where it goes."""
    if isinstance(content, dict):
        return {key: _moved(value, draft) for key, value in content.items()}
    if isinstance(content, list):
        return [_moved(value, draft) for value in content]
    return content.removeprefix(f"{draft}/") if isinstance(content, str) else content


def merged(recorded: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """Both, section by section; where both say something, what is told, and None tells nothing."""
    out = dict(recorded)
    for key, value in told.items():
        before = out.get(key)
        if isinstance(value, Mapping):
            out[key] = merged(before if isinstance(before, Mapping) else {}, value)
        elif value is not None:
            out[key] = value
    return out


def read(path: Path) -> dict[str, Any]:
    """Metadata from a file.

    Raises:
        ValueError: if they are no YAML, or no sections.
    """
    import yaml

    class Loader(yaml.SafeLoader):  # times stay as they are written, to the nanosecond
        yaml_implicit_resolvers = {
            sign: [known for known in resolvers if known[0] != "tag:yaml.org,2002:timestamp"]
            for sign, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Loader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no sections, but {type(found).__name__}.")
    return found


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write metadata, complete.

    Raises:
        ValueError: naming what TIRA requires and is missing.
    """
    import yaml

    check(content)
    path.write_text(yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True), encoding="utf-8")


def check(content: Mapping[str, Any]) -> None:
    """Check that all is there that TIRA requires.

    Raises:
        ValueError: naming what is not.
    """
    if lacking := missing(content):
        raise ValueError(f"{NAME} would lack {', '.join(lacking)}, which TIRA requires.")


def missing(content: Mapping[str, Any]) -> list[str]:
    """What TIRA requires and the metadata lack."""
    return [".".join(keys) for keys in REQUIRED if not _said(content, keys)]


def _said(content: Any, keys: tuple[str, ...]) -> bool:
    for key in keys:
        content = content.get(key) if isinstance(content, Mapping) else None
    return isinstance(content, str) and bool(content.strip()) and content != "ENTER_VALUE_HERE"


def energy(content: Mapping[str, Any]) -> str:
    """What the tracker measured, for people: joules of processor, memory and card, or ``not measured``."""
    found = []
    for part in ("cpu", "ram", "gpu"):
        section = content.get("resources", {}).get(part) or {}
        number = str(section.get("energy used system", "null J")).removesuffix(" J")
        if number not in ("null", "None", ""):
            found.append(f"{part} {float(number):.0f} J")
    return ", ".join(found) or "not measured"
