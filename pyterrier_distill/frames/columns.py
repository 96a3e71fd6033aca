"""The label columns: their names, their meaning, their kind. The one place that knows what a name says.

A column belongs to a known one if its name is that name, or goes on from it: ``teacher_score_minilm`` holds what
``teacher_score`` holds. Names that go on with a letter, such as ``labels``, do so only from ``teacher_...``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import kinds

TEACHER_SCORE = "teacher_score"
TEACHER_LOGITS = "teacher_logits"
TEACHER_RANK = "teacher_rank"
TEACHER_PREFS = "teacher_prefs"
QUERY_VEC = "query_vec"
QUERY_STATES = "query_states"
DOC_VEC = "doc_vec"
#: Not labels: the token vectors, float32[tokens, dim], by which late-interaction models rank.
QUERY_EMBS = "query_embs"
DOC_EMBS = "doc_embs"
LABEL = "label"
#: No label either: the place of each document in the first stage's ranking, from 0, which teachers leave alone.
FIRST_STAGE_RANK = "first_stage_rank"


@dataclass(frozen=True)
class LabelColumn:
    """What a label column holds.

    Attributes:
        name: the column.
        cell: what one cell holds, with unit and shape.
        source: who writes it, phrased as advice.
        kind: what cells of its kind are and become.
    """

    name: str
    cell: str
    source: str
    kind: kinds.Kind = kinds.NUMBER

    @property
    def per_query(self) -> bool:
        """True where all rows of a query carry the same value."""
        return self.kind.per_query


LABEL_COLUMNS: dict[str, LabelColumn] = {
    column.name: column
    for column in (
        LabelColumn(
            TEACHER_SCORE, "float; its scale is stated by the teacher", "put a PointwiseTeacher before the Distiller"
        ),
        LabelColumn(
            TEACHER_LOGITS,
            "float32[2], raw logits of [false, true]",
            "put a true/false PointwiseTeacher before the Distiller",
            kinds.LOGITS,
        ),
        LabelColumn(
            TEACHER_RANK,
            "int, best = 0",
            "put a ListwiseLLMTeacher, a RunTeacher or, for its scores, a PointwiseTeacher before the Distiller",
            kinds.RANK,
        ),
        LabelColumn(
            TEACHER_PREFS,
            "dict: other docno -> P(this > other) in [0, 1]",
            "put a PairwiseTeacher before the Distiller",
            kinds.PREFERENCES,
        ),
        LabelColumn(QUERY_VEC, "float32[dim]", "put teacher.query_encoder() before the Distiller", kinds.QUERY_VECTOR),
        LabelColumn(
            QUERY_STATES,
            "float16[tokens, layers, dim]",
            "put teacher.query_encoder(states=[...]) before the Distiller",
            kinds.States(),
        ),
        LabelColumn(
            DOC_VEC,
            "float32[dim]",
            "put teacher.doc_encoder() or index.vec_loader() before the Distiller",
            kinds.VECTOR,
        ),
        LabelColumn(
            LABEL,
            "int, 0 = not relevant",
            "pass qrels to fit(res, qrels), or a frame with that column",
            kinds.JUDGEMENT,
        ),
    )
}


def known(column: Any) -> LabelColumn | None:
    """The label column that ``column`` is by its name; None if it is none."""
    found = [one for name, one in LABEL_COLUMNS.items() if belongs(column, name)]
    return max(found, key=lambda one: len(one.name), default=None)


def belongs(column: Any, name: str) -> bool:
    """Whether a column is the known one of that name, by name."""
    if not isinstance(column, str) or not column.startswith(name):
        return False
    rest = column[len(name) :]
    return not rest or name.startswith("teacher_") or not rest[0].isalpha()


def kind_of(column: str) -> kinds.Kind:
    """The kind of labels in ``column``, by its name; numbers where the name says nothing."""
    found = known(column)
    if found is None:
        return kinds.RANK if column in ("rank", FIRST_STAGE_RANK) else kinds.NUMBER
    return found.kind


#: Advice on columns that are no labels.
_PLAIN = {
    "text": "put a text loader before, such as ptd.JoinedText(dataset), or name one: fit(..., text=dataset)",
    "query": "give the topics: fit(..., topics=dataset), or a frame with qid and query",
    "qid": "frames of queries and rankings have one, as PyTerrier's topics and retrievers write it",
    "docno": "put the first stage before, such as ptd.bm25(path, dataset)",
}


def label_source(column: str) -> str:
    """Who writes ``column``, phrased as advice."""
    if column == FIRST_STAGE_RANK:
        return "put it right behind the first stage: candidates >> ptd.first_stage_rank() >> teacher"
    found = known(column)
    return found.source if found is not None else _PLAIN.get(column, "put the transformer that writes it before")


def ascending(column: str, values: Any) -> Any:
    """Numbers of ``column`` so that higher = better: ranks are turned round."""
    return 0.0 - values if kind_of(column).lower_is_better else values
