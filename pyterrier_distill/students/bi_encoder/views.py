"""The transformers that an encoder gives: query encoder, document encoder, scorer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyterrier_dr
from pyterrier_dr import SimFn

from ...frames import DOC_VEC, QUERY_STATES, QUERY_VEC, check_text, validate
from ...frames.ranking import rerank
from .similarity import unit_rows

if TYPE_CHECKING:
    from .encoder import Encoder


class QueryEncoder(pyterrier_dr.BiQueryEncoder):
    """Q → Q + ``query_vec``; any frame with ``query`` will do. Each distinct query is encoded once."""

    schematic = {"label": "QueryEncoder"}

    def __init__(self, bi_encoder_model: Encoder, verbose=None, batch_size=None, states=None):
        super().__init__(bi_encoder_model, verbose=verbose, batch_size=batch_size)
        self.states = None if states is None else list(states)

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add the column ``query_vec``, float32[dimension], and ``query_states`` if asked for."""
        with validate.any(inp, context=self) as v:
            v.query_frame(["query"])
            v.columns(includes=["query"])
        return self.encoded(inp)

    def encoded(self, inp: pd.DataFrame) -> pd.DataFrame:
        """The same of a frame that is checked."""
        check_text(inp, ["query"])
        if self.states is None:
            return inp.assign(**{QUERY_VEC: list(self.encode(inp["query"]))})
        vectors, states = self.bi_encoder_model.encode_query_states(inp["query"].tolist(), self.states)
        return inp.assign(**{QUERY_VEC: list(vectors), QUERY_STATES: pd.Series(states, index=inp.index, dtype=object)})

    def __repr__(self) -> str:
        return f"{self.bi_encoder_model!r}.query_encoder({'' if self.states is None else f'states={self.states}'})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, QueryEncoder) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))


class DocEncoder(pyterrier_dr.BiDocEncoder):
    """D → D + ``doc_vec``; any frame with text will do. What the model's ``doc_index`` holds is looked up."""

    schematic = {"label": "DocEncoder"}

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add the column ``doc_vec``, float32[dimension]."""
        index = self.bi_encoder_model.doc_index
        with validate.any(inp, context=self) as v:
            v.document_frame([self.text_field])
            v.columns(includes=[self.text_field])
            if index is not None:
                v.columns(includes=["docno"])
        return self.encoded(inp)

    def encoded(self, inp: pd.DataFrame) -> pd.DataFrame:
        """The same of a frame that is checked."""
        index = self.bi_encoder_model.doc_index
        if index is None or "docno" not in inp.columns or len(inp) == 0:
            if self.text_field in inp.columns:
                check_text(inp, [self.text_field])
                return inp.assign(**{DOC_VEC: list(self.encode(inp[self.text_field]))})
            return inp.assign(**{DOC_VEC: []})
        vectors: list[np.ndarray | None] = [None] * len(inp)
        docnos, stored, _ = index.payload()
        places = docnos.inv[inp["docno"].to_numpy(dtype=object)]
        held = places >= 0
        if held.any() and stored.shape[1] != self.bi_encoder_model.dimension:
            raise ValueError(
                f"{index} holds vectors of {stored.shape[1]} dimensions and the model's have"
                f" {self.bi_encoder_model.dimension}: doc_index must be an index of the document encoder."
            )
        found = stored[places[held]]
        if self.bi_encoder_model.sim_fn == SimFn.cos:  # it may have been written by another program
            found = unit_rows(found)
        for row, vector in zip(np.flatnonzero(held), found, strict=True):
            vectors[row] = vector
        if not held.all():
            if self.text_field not in inp.columns:
                absent = inp["docno"].to_numpy()[~held]
                raise ValueError(
                    f"{self.bi_encoder_model.doc_index} holds no vector of docno {absent[0]!r} ({len(absent)} such),"
                    f" and the frame has no column {self.text_field!r} to encode: add a text_loader() before."
                )
            rest = inp.loc[inp.index[~held]] if inp.index.is_unique else inp[~held]
            check_text(rest, [self.text_field])
            for row, vector in zip(np.flatnonzero(~held), self.encode(rest[self.text_field]), strict=True):
                vectors[row] = vector
        return inp.assign(**{DOC_VEC: vectors})


class Scorer(pyterrier_dr.BiScorer):
    """R → R: the score is the product of query and document vector; ``rank`` follows, rows keep their order."""

    schematic = {"label": "BiEncoder scorer"}

    def __init__(self, bi_encoder_model: Encoder, verbose=None, batch_size=None, text_field=None, sim_fn=None):
        self.bi_encoder_model = bi_encoder_model
        self.verbose = bi_encoder_model.verbose if verbose is None else verbose
        self.batch_size = batch_size or bi_encoder_model.batch_size
        self.text_field = text_field or bi_encoder_model.text_field
        self._sim_fn = None if sim_fn is None else SimFn(sim_fn)

    @property
    def sim_fn(self) -> SimFn:
        """The similarity; the model's own where none was given, asked only when there is something to score."""
        return self._sim_fn or self.bi_encoder_model.sim_fn

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Replace ``score`` and ``rank``; every other column and the index stay."""
        model = self.bi_encoder_model
        with validate.any(inp, context=self) as v:
            for query in ("query", QUERY_VEC):
                for document in (self.text_field, DOC_VEC):
                    v.result_frame([query, document])
            if model.doc_index is not None:
                v.result_frame(["query"])
                v.result_frame([QUERY_VEC])
        return self.scored(inp)

    def scored(self, inp: pd.DataFrame) -> pd.DataFrame:
        """The same of a frame that is checked."""
        if len(inp) == 0:
            return rerank(inp, np.empty(0))
        sides: dict[str, Any] = {QUERY_VEC: self._queries, DOC_VEC: self._documents}
        q, d = (
            np.stack(list((inp if column in inp.columns else encoder().encoded(inp))[column]))
            for column, encoder in sides.items()
        )
        if q.shape[1] != d.shape[1]:
            raise ValueError(f"query_vec has {q.shape[1]} dimensions and doc_vec {d.shape[1]}: they are of two models.")
        if self.sim_fn == SimFn.cos:  # vectors in the frame may come from elsewhere
            q, d = unit_rows(q), unit_rows(d)
        return rerank(inp, np.einsum("nd,nd->n", q, d).astype(float))

    def _queries(self) -> QueryEncoder:
        return self.bi_encoder_model.query_encoder(verbose=self.verbose, batch_size=self.batch_size)

    def _documents(self) -> DocEncoder:
        encoder = self.bi_encoder_model.doc_encoder(verbose=self.verbose, batch_size=self.batch_size)
        encoder.text_field = self.text_field
        return encoder

    def __repr__(self) -> str:
        return f"{self.bi_encoder_model!r}.text_scorer()"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Scorer)
            and self.bi_encoder_model == other.bi_encoder_model
            and (self.text_field, self._sim_fn) == (other.text_field, other._sim_fn)
        )

    def __hash__(self) -> int:
        return hash((Scorer, self.bi_encoder_model, self.text_field, self._sim_fn))
