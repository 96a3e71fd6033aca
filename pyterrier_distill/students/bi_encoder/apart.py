"""Documents that are encoded apart: by an encoder that is no part of a BiEncoder's model, and to which it refers."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyterrier as pt
import pyterrier_dr
from pyterrier_dr import SimFn

from ...engine import checkpoints
from ...identity.content import checkpoint
from ...identity.identity import digest, identity
from ...stores import redaction, seals
from ..artifact import StudentArtifact
from . import similarity as compared

if TYPE_CHECKING:
    from .bi_encoder import BiEncoder

logger = logging.getLogger(__name__)

#: Where an encoder that is saved nowhere else lies in the directory of the student that needs it.
FOLDER = "document_encoder"
_USTAD = "ustad"
_WITHIN: ContextVar[bool] = ContextVar("_WITHIN", default=False)


class Vectors(NamedTuple):
    """What is known of the vectors of documents that are encoded apart.

    Attributes:
        dimension: their length.
        similarity: ``"dot"`` or ``"cos"``, as their encoder compares.
    """

    dimension: int
    similarity: str

    def agreed(self, similarity: str | None) -> str:
        """How a student with these documents compares, if it asks for ``similarity`` (None = as their encoder).

        Raises:
            ValueError: for cosines of vectors that are compared by inner products.
        """
        if similarity == compared.COSINE != self.similarity:
            raise ValueError(compared.OTHERWISE)
        return similarity or self.similarity


def chosen(doc_encoder: Any, kind: type[BiEncoder], **runs: Any) -> Any:
    """The encoder that ``doc_encoder`` names.

    Args:
        doc_encoder: as in BiEncoder.
        kind: the class of BiEncoders.
        **runs: how a named one is run.

    Returns:
        A BiEncoder, which becomes a part of the student's model; another ``pyterrier_dr.BiEncoder``; or None.

    Raises:
        TypeError: for anything else.
    """
    if isinstance(doc_encoder, (str, os.PathLike)):
        name = checkpoints.check_name(os.fspath(doc_encoder))
        return _saved_ustad(name, **runs) if _holds_ustad(name) else kind(name, **runs)
    if isinstance(doc_encoder, kind) and doc_encoder.apart:
        return encoder(doc_encoder)
    if doc_encoder is None or isinstance(doc_encoder, pyterrier_dr.BiEncoder):
        return doc_encoder
    if hasattr(doc_encoder, "as_bi_encoder"):
        return doc_encoder.as_bi_encoder()
    raise TypeError(
        "doc_encoder must be a BiEncoder, a USTAD, another pyterrier_dr.BiEncoder, or the name of one of the first two,"
        f" not {doc_encoder!r}."
    )


def is_apart(student: BiEncoder) -> bool:
    """Whether a student's documents are encoded by an encoder that is no part of its model."""
    if student._doc_encoder is not None:
        return is_given(student)
    source = student.name_or_path
    return _told(student) is not None if isinstance(source, str) else source.apart


def is_given(student: BiEncoder) -> bool:
    """Whether such an encoder was passed; nothing is looked up for this."""
    return student._doc_encoder is not None and not isinstance(student._doc_encoder, StudentArtifact)


def _told(student: BiEncoder) -> dict[str, Any] | None:
    """What a saved student remembers of its document encoder."""
    return student._metadata().get("doc_encoder")


def encoder(student: BiEncoder) -> pyterrier_dr.BiEncoder:
    """The encoder of a student's documents.

    Raises:
        FileNotFoundError: if it is not where the saved student says.
        ValueError: if it is another one now, or was not saved with the student.
    """
    if student._doc_encoder is not None:
        return student._doc_encoder
    if not isinstance(student.name_or_path, str):
        return encoder(student.name_or_path)
    if student._referred is None:
        student._referred = _referred(student, _told(student) or {})
    return student._referred


def _referred(student: BiEncoder, told: dict[str, Any]) -> pyterrier_dr.BiEncoder:
    name, path, what = student.name_or_path, told.get("path"), told.get("is")
    if path is None:
        raise ValueError(f"{name!r} was saved without {what}, which encodes its documents: pass it as doc_encoder=.")
    where = os.path.join(_directory(name), FOLDER) if path == FOLDER else path
    if not _holds_ustad(where):
        raise FileNotFoundError(
            f"the documents of {name!r} are encoded by {what}, which is not at {where!r}: put it there, or pass it as"
            " doc_encoder=."
        )
    if path != FOLDER and digest(checkpoint(where)) != told["identity"]:
        raise ValueError(
            f"{where!r}, which encodes the documents of {name!r}, holds another model than it was trained with: restore"
            " that, or pass doc_encoder= what shall encode them now."
        )
    return _saved_ustad(where, precision=student.precision, device=student.device)


def _directory(name: str) -> str:
    """The directory of a saved student; of one on the hub, with the encoder that it holds."""
    if os.path.isdir(name):
        return name
    from huggingface_hub import snapshot_download

    return str(snapshot_download(name, allow_patterns=f"{FOLDER}/*"))


def _holds_ustad(name: str) -> bool:
    return os.path.isdir(name) and checkpoints.told(name, seals.META).get("type") == _USTAD


def _saved_ustad(name: str, **runs: Any) -> Any:
    found: Any = pt.Artifact.load(name)
    return type(found)(name, **runs).as_bi_encoder()


def vectors(student: BiEncoder) -> Vectors | None:
    """What is known of documents that are encoded apart; None without them.

    An encoder to which a saved student refers was looked at when it was built; it is looked at again, and so must be
    there, where the student shall have vectors that may not fit it.

    Raises:
        FileNotFoundError: as :func:`encoder`.
        ValueError: if it compares by distances; as :func:`encoder`.
    """
    given = student._doc_encoder
    if given is None or not is_given(student):
        if not student.apart or not _changes(student):
            return None
        given = encoder(student)
        return Vectors(_dimension(student, given), similarity_of(given))
    told = _told(student)
    if told is not None and told.get("path") is None and told["identity"] != digest(identity(given)):
        logger.warning(
            "%r was trained with the documents of %s; %r encodes them now.", student.name_or_path, told["is"], given
        )
    return Vectors(_dimension(student, given), similarity_of(given))


def _changes(student: BiEncoder) -> bool:
    """Whether a student wants vectors that those of its documents may not fit, other than what it is made of has."""
    if student.projection is not None or student.similarity != compared.COSINE:
        return student.projection is not None
    source = student.name_or_path
    return not (compared.told_cosine(source) if isinstance(source, str) else source.scores_cosines)


def similarity_of(given: pyterrier_dr.BiEncoder) -> str:
    """How another library's encoder compares."""
    return compared.COSINE if given.sim_fn == SimFn.cos else compared.DOT


def _dimension(student: BiEncoder, given: pyterrier_dr.BiEncoder) -> int:
    if student.doc_index is not None:
        return int(student.doc_index.payload()[1].shape[1])
    if hasattr(given, "dimension"):
        return int(given.dimension)
    return int(np.shape(given.encode_docs(["a"]))[1])


def encode(student: BiEncoder, texts: list[str]) -> np.ndarray:
    """Vectors float32 ``[n, dimension]`` of n ≥ 1 documents, in batches of their encoder's own size.

    Raises:
        ValueError: if the encoder gives others.
    """
    given = encoder(student)
    distinct = list(dict.fromkeys(texts))
    found = np.asarray(given.encode_docs(distinct), dtype=np.float32)
    if found.shape != (len(distinct), student.dimension):
        raise ValueError(
            f"{given!r} gives documents float{list(found.shape)} where float{[len(distinct), student.dimension]} is"
            " wanted: it is not the encoder that this student was built for."
        )
    if similarity_of(given) == compared.COSINE:
        found = compared.unit_rows(found)
    place = {text: row for row, text in enumerate(distinct)}
    return found[[place[text] for text in texts]]


def is_at(student: BiEncoder, path: str | os.PathLike) -> bool:
    """Whether ``path`` is the directory of the USTAD that encodes a student's documents."""
    where = reference(student)["path"] if student.apart else None
    return where not in (None, FOLDER) and os.path.exists(path) and os.path.samefile(path, where)


def num_parameters(student: BiEncoder) -> int:
    """Number of weights of the encoder of documents."""
    given: Any = encoder(student)
    model = getattr(given, "ustad", given).model
    return sum(parameter.numel() for parameter in model.parameters())


@contextmanager
def within() -> Iterator[None]:
    """Within, students are written with the USTAD that encodes their documents, wherever that is saved."""
    token = _WITHIN.set(True)
    try:
        yield
    finally:
        _WITHIN.reset(token)


# -- saving -----------------------------------------------------------------------------------------------------------


def write(student: BiEncoder, draft: Path) -> None:
    """Write a USTAD that is saved nowhere else beside the student that needs it."""
    ustad = _ustad(student)
    if ustad is not None and saved_at(ustad) is None:
        ustad.save(draft / FOLDER)


def reference(student: BiEncoder) -> dict[str, Any]:
    """What a saved student remembers of its document encoder: its repr, where it is, what decides its vectors."""
    if student._doc_encoder is None and isinstance(student.name_or_path, str):
        told = _told(student)
        if told is not None and told.get("path") is None:  # it was not passed again
            return told
    given, ustad = encoder(student), _ustad(student)
    if ustad is None:
        return {"is": redaction.text(repr(given)), "path": None, "identity": digest(identity(given))}
    where = saved_at(ustad)
    content = None if where is None else digest(checkpoint(where))
    return {"is": redaction.text(repr(given)), "path": where or FOLDER, "identity": content}


def _ustad(student: BiEncoder) -> Any:
    """The USTAD that encodes documents; None where another encoder does."""
    if student._doc_encoder is None and isinstance(student.name_or_path, str):
        told = _told(student)
        if told is None or told.get("path") is None:
            return None
    return getattr(encoder(student), "ustad", None)


def saved_at(ustad: Any) -> str | None:
    """The directory from which a USTAD is loaded as it is; None where there is none outside of another student."""
    name = ustad.name_or_path
    inside = _WITHIN.get() or os.path.basename(name) == FOLDER
    if inside or not _holds_ustad(name) or ustad.model_changes():
        return None
    again = type(ustad)(name)
    same = all(
        getattr(again, one) == getattr(ustad, one)
        for one in ("layers", "pooling", "query_length", "scale", "max_length")
    )
    return os.path.abspath(name) if same else None
