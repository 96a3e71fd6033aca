"""How the demo's student is made: its shape, its training text, its labels, its loss."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt

from ..corpora.loading import Collection
from ..frames import TEACHER_SCORE
from ..losses import EmbeddingMatch, HiddenStateMatch, KLDivergence, Loss

#: Documents of each training query, the teacher's best, and the sharpness of its scores over them.
CANDIDATES = 50
TEMPERATURE = 0.05


def student(teacher: Any, layers: int | list[int], index: Any) -> Any:
    """Some layers of the teacher for queries, the teacher itself for documents."""
    from ..students.bi_encoder import BiEncoder

    return BiEncoder(BiEncoder.truncated(teacher, layers), doc_encoder=teacher, freeze_docs=True, doc_index=index)


def spans(collection: Collection, queries: int, seed: int) -> pd.DataFrame:
    """At most ``queries`` different spans, spread over the documents; equal ones count once, so some are missing."""
    from ..generation.queries import explode_queries
    from ..generation.spans import Mixture, Phrasings, SpanQueries

    each = math.ceil(queries / len(collection.documents))
    generator = SpanQueries(each, lengths=Mixture(), phrasings=Phrasings(), seed=seed)
    spans = (generator >> explode_queries())(collection.documents)
    spans = spans.drop_duplicates("query", ignore_index=True)[["qid", "query"]]
    return spans.sample(n=min(queries, len(spans)), random_state=seed).reset_index(drop=True)


def states(teacher: Any, layers: int | list[int]) -> list[int]:
    """The teacher's layers whose states the student's layers learn: what the next one kept would read, and the last."""
    from ..engine.checkpoints import kept_layers

    total = list(teacher.query_modules())[0].model.config.num_hidden_layers
    return [*kept_layers(total, layers)[1:], total]


def loss(teacher: Any, layers: int | list[int]) -> Loss:
    """Vectors, states and scores, each with weight 1."""
    pairs = range(1, len(states(teacher, layers)) + 1)
    return EmbeddingMatch() + HiddenStateMatch(layers=tuple(pairs)) + KLDivergence(temperature=TEMPERATURE)


def labelled(spans: pd.DataFrame, teacher: Any, layers: int | list[int], verbose: bool = False) -> pd.DataFrame:
    """Spans with the teacher's vectors and states."""
    labeller = pt.inspect.transformer_apply_attributes(teacher, verbose=verbose)
    return labeller.query_encoder(states=states(teacher, layers))(spans)


def candidates(queries: pd.DataFrame, index: Any) -> pd.DataFrame:
    """Each query's best documents by the teacher, whose score is the label."""
    retrieved = index.np_retriever(num_results=CANDIDATES)(queries)
    return retrieved.rename(columns={"score": TEACHER_SCORE}).drop(columns="rank")


def training_queries(
    collection: Collection, teacher: Any, layers: int | list[int], index: Any, queries: int, seed: int, kept: Path
) -> pd.DataFrame:
    """Labelled spans, their labels from ``kept`` where an interrupted run left them."""
    texts = spans(collection, queries, seed)
    store = kept / "labels.npz"
    if store.exists():
        with np.load(store) as stored:
            cells = np.split(stored["states"], np.cumsum(stored["tokens"])[:-1])
            kept_labels = texts.assign(query_vec=list(stored["vectors"]), query_states=pd.Series(cells, dtype=object))
    else:
        kept_labels = labelled(texts, teacher, layers, verbose=True)
        kept.mkdir(parents=True, exist_ok=True)
        with open(store.with_suffix(".part"), "wb") as part:
            np.savez(
                part,
                vectors=np.stack(list(kept_labels["query_vec"])),
                states=np.concatenate(list(kept_labels["query_states"])),
                tokens=[len(cell) for cell in kept_labels["query_states"]],
            )
        store.with_suffix(".part").rename(store)
    return candidates(kept_labels, index)
