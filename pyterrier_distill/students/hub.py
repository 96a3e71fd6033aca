"""Publishing a student on the Hugging Face hub."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engine import checkpoints
from ..stores import redaction
from . import card

if TYPE_CHECKING:
    from .artifact import StudentArtifact


def push(
    student: StudentArtifact,
    repo_id: str,
    private: bool | None,
    token: str | bool | None,
    merge: bool,
    about: Mapping[str, Any],
    commit_message: str | None,
) -> str:
    """Upload what ``save`` writes; see :meth:`~.artifact.StudentArtifact.push_to_hub`."""
    import huggingface_hub
    from huggingface_hub.utils import validate_repo_id

    if not isinstance(repo_id, str):
        raise TypeError(f"repo_id must be a text such as 'owner/name', not {repo_id!r}.")
    validate_repo_id(repo_id)
    student.model  # noqa: B018 - loaded, it is known whether there is an adapter
    if student._weights.adapter is not None and not merge and os.path.isdir(student.base):
        raise ValueError(
            f"this adapter's base, {student.base!r}, is a directory that nobody else has: publish the whole model with"
            " merge=True, or the base first."
        )
    with tempfile.TemporaryDirectory(prefix="pyterrier-distill-") as folder:
        with student.standing_alone():
            meta = card.publishable(student._write_all(Path(folder), merge, about))
        checkpoints.write_json(Path(folder) / "pt_meta.json", meta)
        try:
            api = huggingface_hub.HfApi(token=token)
            repo = api.create_repo(repo_id, private=private, repo_type="model", exist_ok=True)
            name = getattr(repo, "repo_id", repo_id)  # with its owner
            (Path(folder) / "README.md").write_text(card.card(student, meta, name), encoding="utf-8")
            message = commit_message or "Student distilled with pyterrier-distill"
            api.upload_folder(repo_id=name, folder_path=folder, repo_type="model", commit_message=message)
        except Exception as error:
            text = redaction.hide(str(error), [token])
            # Not chained: a request's error carries the request, and that the token.
            raise RuntimeError(f"the hub did not take {repo_id!r}: {type(error).__name__}: {text}") from None
    return str(repo)
