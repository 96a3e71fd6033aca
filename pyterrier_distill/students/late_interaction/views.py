"""The transformers that a token encoder gives: query encoder, document encoder, scorer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyterrier as pt

from ...engine import batching, progress
from ...frames import DOC_EMBS, QUERY_EMBS, check_text, validate
from ...frames.ranking import rerank

if TYPE_CHECKING:
    from .encoder import TokenEncoder

#: Numbers that scoring pairs may hold at once: 64 MB.
_ELEMENTS = 2**24


class _View(pt.Transformer):
    """A part of a student; equal where the student and the settings are."""

    def __init__(self, student: TokenEncoder, verbose: bool | None = None, batch_size: int | None = None):
        self.student = student
        self.verbose = student.verbose if verbose is None else verbose
        self.batch_size = batch_size or student.batch_size

    def __repr__(self) -> str:
        return f"{self.student!r}.{self._made_by}()"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    def subtransformers(self) -> dict:
        """None: the student is a part, not a stage of a pipeline."""
        return {}


class TokenQueryEncoder(_View):
    """Q → Q + ``query_embs``; any frame with ``query`` will do. Each distinct query is encoded once."""

    schematic = {"label": "QueryEncoder"}
    _made_by = "query_encoder"

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add the column ``query_embs``, float32[tokens, dim]."""
        with validate.any(inp, context=self) as v:
            v.query_frame(["query"])
            v.columns(includes=["query"])
        check_text(inp, ["query"])
        return inp.assign(**{QUERY_EMBS: _column(inp, self._encode(inp["query"].tolist()))})

    def _encode(self, texts: list[str]) -> list[np.ndarray]:
        return self.student.encode(texts, "query", batch_size=self.batch_size, verbose=self.verbose)


class TokenDocEncoder(_View):
    """D → D + ``doc_embs``; any frame with text will do. Each distinct text is encoded once."""

    schematic = {"label": "DocEncoder"}
    _made_by = "doc_encoder"

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add the column ``doc_embs``, float32[tokens, dim]."""
        field = self.student.text_field
        with validate.any(inp, context=self) as v:
            v.document_frame([field])
            v.columns(includes=[field])
        check_text(inp, [field])
        found = self.student.encode(inp[field].tolist(), "document", batch_size=self.batch_size, verbose=self.verbose)
        return inp.assign(**{DOC_EMBS: _column(inp, found)})


class MaxSimScorer(_View):
    """R → R: the score is Σ_i max_j ⟨q_i, d_j⟩ over query tokens i and document tokens j (ColBERT, Eq. 3).

    ``query_embs`` and ``doc_embs`` are read where they are; the rest is encoded.
    """

    schematic = {"label": "MaxSim scorer"}
    _made_by = "text_scorer"

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Replace ``score`` and ``rank``; every other column, the rows' order and the index stay."""
        field = self.student.text_field
        with validate.any(inp, context=self) as v:
            for query in ("query", QUERY_EMBS):
                for document in (field, DOC_EMBS):
                    v.result_frame([query, document])
        return rerank(inp, self.scores(inp))

    def scores(self, inp: pd.DataFrame) -> np.ndarray:
        """Scores ``[n]`` of the rows of an R frame; memory does not grow with its number of documents."""
        student, field = self.student, self.student.text_field
        if len(inp) == 0:
            return np.empty(0)
        if QUERY_EMBS in inp.columns:
            queries = inp[QUERY_EMBS].tolist()
        else:
            check_text(inp, ["query"])
            queries = student.encode(inp["query"].tolist(), "query", batch_size=self.batch_size, verbose=self.verbose)
        if DOC_EMBS in inp.columns:
            return pair_scores(queries, inp[DOC_EMBS].tolist(), student.device)
        check_text(inp, [field])
        codes, texts = pd.factorize(inp[field])
        order = np.argsort(codes, kind="stable")
        out = np.empty(len(inp))
        with progress.bar(total=len(texts), desc="Re-ranking", unit="d", verbose=self.verbose) as bar:
            for start in range(0, len(texts), batching.BUFFER):
                chunk = texts[start : start + batching.BUFFER].tolist()
                vectors = student.encode(chunk, "document", batch_size=self.batch_size, verbose=False)
                first, last = np.searchsorted(codes[order], [start, start + len(chunk)])
                rows = order[first:last]
                documents = [vectors[codes[row] - start] for row in rows]
                out[rows] = pair_scores([queries[row] for row in rows], documents, student.device)
                bar.update(len(chunk))
        return out


def pair_scores(queries: Sequence[np.ndarray], documents: Sequence[np.ndarray], device: str | None) -> np.ndarray:
    """MaxSim of n queries with n documents.

    Args:
        queries: n arrays ``[tokens, dim]``.
        documents: n arrays ``[tokens, dim]``.
        device: where it is computed; None = the GPU where there is one.

    Returns:
        float32 ``[n]``.

    Raises:
        ValueError: if the vectors differ in dimension.
    """
    import torch
    from sentence_transformers.util.similarity import maxsim_pairwise

    widths = {(np.shape(q)[-1], np.shape(d)[-1]) for q, d in zip(queries, documents, strict=True)}
    if any(query != document for query, document in widths) or len(widths) > 1:
        raise ValueError(f"{QUERY_EMBS} and {DOC_EMBS} have dimensions {sorted(widths)[:4]}: they are of two models.")
    order = np.argsort([len(document) for document in documents], kind="stable")  # little padding
    found = maxsim_pairwise(
        [torch.as_tensor(np.asarray(queries[row], dtype=np.float32)) for row in order],
        [torch.as_tensor(np.asarray(documents[row], dtype=np.float32)) for row in order],
        chunk_elements=_ELEMENTS,
        device=batching.infer_device(device),
    )
    out = np.empty(len(order), dtype=np.float32)
    out[order] = found.numpy()
    return out


def _column(frame: pd.DataFrame, cells: list[np.ndarray]) -> pd.Series:
    return pd.Series(cells, index=frame.index, dtype=object)
